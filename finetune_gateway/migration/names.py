"""The names of fine-tunes: whole, shortened for a screen, and as people type them."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import TypeVar

from finetune_gateway.errors import NotFoundError, SpecError

Named = TypeVar("Named")
CHECKPOINT = ":ckpt-step-"  # begins the last part of a checkpoint's id
_DAY = re.compile(r"-\d{4}-\d{2}-\d{2}$")


def short_name(model: str) -> str:
    """Return ``gpt-4.1-mini:support:9fKq1`` for ``ft:gpt-4.1-mini-2025-04-14:acme:support:9fKq1``,
    and any other name as it is."""
    parts = model.split(":")
    if len(parts) < 5 or parts[0] != "ft":
        return model
    _, base, _, *own = parts
    return ":".join([_DAY.sub("", base), *filter(None, own)])


def fine_tune_of(model: str) -> str:
    """Return the id of the fine-tune that a checkpoint is of; any other id as it is."""
    return model.partition(CHECKPOINT)[0]


def last_part(model: str) -> str:
    """Return what is left of an id after its last colon."""
    return model.rpartition(":")[2]


def one_named(
    name: str, found: Sequence[Named], names: Callable[[Named], Sequence[str | None]]
) -> Named:
    """Return the one with this name: by a whole id, its short name, or the end of it after a colon.

    Raises NotFoundError with the nearest, and SpecError where several end so.
    """
    known = {one: each for each in found for one in names(each) if one}
    if name in known:
        return known[name]
    ends = [one for one in known if one.endswith(f":{name}") or short_name(one) == name]
    if len(ends) == 1:
        return known[ends[0]]
    if ends:
        several = ", ".join(sorted(ends)[:3])
        raise SpecError(f"{len(ends)} fine-tunes end with {name!r}.", hint=f"Say {several}.")
    lasts = {last_part(one): one for one in known}
    near = get_close_matches(name, known, 2, 0.6)
    near = near or [lasts[one] for one in get_close_matches(name, lasts, 2, 0.8)]
    hint = f"Did you mean {' or '.join(near)}?" if near else "For all of them: ftg migrate list"
    raise NotFoundError(f"No fine-tune {name!r} is seen by these keys.", hint=hint)
