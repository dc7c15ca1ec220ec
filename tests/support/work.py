"""How much work a call is, counted: the same on every machine, however busy it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from types import FrameType
from typing import Any


def calls(work: Callable[[], object]) -> int:
    """Return how many functions run while ``work`` does, those written in C included."""
    count = 0

    def note(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def assert_linear(work: Callable[[int], object], size: int) -> None:
    """Fail if twice the input is clearly more than twice the calls. ``work`` takes a size."""
    work(2)  # what is set up once, or cached, is not counted
    once, twice = (calls(partial(work, n)) for n in (size, 2 * size))
    assert twice <= 2.3 * once + 100, f"{once:,} calls for {size:,}, {twice:,} for twice that"
