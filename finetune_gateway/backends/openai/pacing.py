"""Asks a host no faster than it says: how many requests are left, and when there are more.

For many requests in a row, inside ``bounds.paced``. What a job needs is not held up.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping

from finetune_gateway.backends.openai.retries import asked_wait

# Of which a host says how many are left, and when there are more; the last is of those that name
# none.
LIMITS = ("-requests", "-tokens", "")
EPOCH = 1e9  # seconds; a larger number is no pause but a moment

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d{1,12}(?:\.\d{1,9})?)(ms|[smhd])")
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?")

OnWait = Callable[[float], None]  # called with seconds before a wait


class Pace:
    """When the next request may be sent to one host with one key. ``longest``: seconds that a host
    may let us wait at most; a request that would have to wait longer is sent, and refused."""

    def __init__(self, longest: float, on_wait: OnWait | None = None) -> None:
        self.answers = 0  # that came, refusals among them
        self._longest = longest
        self._on_wait = on_wait
        self._until = 0.0

    def look(self, status: int, headers: Mapping[str, str]) -> None:
        """Take note of an answer."""
        self.answers += 1
        pause = asked_wait(headers) if status in (429, 503) else None
        if pause is None:
            pause = pause_of(headers)
        if pause <= self._longest:
            self._until = max(self._until, time.monotonic() + pause)

    def wait(self) -> None:
        """Return when the next request may be sent."""
        pause = self._until - time.monotonic()
        if pause <= 0:
            return
        if self._on_wait is not None:
            self._on_wait(pause)
        time.sleep(pause)


def pause_of(headers: Mapping[str, str]) -> float:
    """Return the seconds until a limit of the host is open again, if its headers say that nothing
    is left of it: ``x-ratelimit-remaining-requests: 0``, ``x-ratelimit-reset-requests: 1m0.5s``."""
    pauses = (
        seconds(headers.get(f"x-ratelimit-reset{limit}"))
        for limit in LIMITS
        if (left := _number(headers.get(f"x-ratelimit-remaining{limit}"))) is not None and left < 1
    )
    return max(filter(None, pauses), default=0.0)


def _number(text: str | None) -> float | None:
    return float(text) if text and _NUMBER.fullmatch(text) else None


def seconds(text: str | None) -> float | None:
    """Return the seconds of ``6m0s``, ``120ms`` or ``1.5``, and until a moment in seconds since the
    epoch; None for anything else."""
    number = _number(text)
    if number is not None:
        return max(0.0, number - time.time()) if number > EPOCH else number
    if not text or _PART.sub("", text):
        return None
    return sum(float(value) * _UNITS[unit] for value, unit in _PART.findall(text))
