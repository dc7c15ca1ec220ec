"""What fine-tunes have really cost, and when they were last used: only an admin key can ask.

Looks back a year at most. No source says that the host names fine-tunes there by their ids: where
it names none, nothing is concluded.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TypeVar

from finetune_gateway.backends.openai import organization
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.inventory import RequestCount
from finetune_gateway.errors import BackendError
from finetune_gateway.migration.inventory import Cost, FineTune, KeyView
from finetune_gateway.migration.key_lists import KeyLists
from finetune_gateway.migration.names import fine_tune_of

LONGEST = 366 * 86_400  # seconds
NAMES_NONE = "It names no fine-tune by its id."
_TUNED = re.compile(r"ft:[^\s,;]+")

T = TypeVar("T")


def with_spending(
    found: Sequence[FineTune], admin: OpenAIBackend, asked: RequestCount
) -> tuple[list[FineTune], KeyView]:
    """Return the fine-tunes with what was paid for them and their last use, as far as the host
    names them, and what it told the admin key."""
    key = KeyLists(admin)
    first = min((one.created_at for one in found if one.created_at), default=time.time())
    since = max(first, time.time() - LONGEST)
    paid = _paid(_answered(key, "costs", lambda: organization.costs(admin, asked, since)) or [])
    uses = _last_uses(
        _answered(key, "usage", lambda: organization.usage(admin, asked, since)) or []
    )
    for what, named in (("costs", paid), ("usage", uses)):
        if not named:
            key.refused.setdefault(what, NAMES_NONE)
    day = datetime.fromtimestamp(since, UTC).date()
    whole = "usage" not in key.cut
    told = key.view().model_copy(update={"admin": True})
    return [_with(one, paid, uses, day, whole) for one in found], told


def _answered(key: KeyLists, what: str, ask: Callable[[], tuple[list[T], bool]]) -> list[T] | None:
    try:
        found, whole = ask()
    except BackendError as exc:
        key.refuse(what, exc)
        return None
    if not whole:
        key.cut.add(what)
    return found


def _paid(bill: Sequence[organization.Spend]) -> dict[str, Decimal]:
    """Return what was paid for each fine-tune that the bill names, its checkpoints included."""
    paid: dict[str, Decimal] = {}
    for line in bill:
        names = {fine_tune_of(one) for one in _TUNED.findall(line.line_item)}
        if len(names) == 1:  # a line of two is nobody's
            [name] = names
            paid[name] = paid.get(name, Decimal(0)) + line.usd
    return paid


def _last_uses(uses: Sequence[organization.Use]) -> dict[str, date]:
    """Return the last day of each model that was asked, that of a checkpoint for its model."""
    last: dict[str, date] = {}
    for use in uses:
        day = datetime.fromtimestamp(use.at, UTC).date()
        if use.requests and use.model.startswith("ft:"):
            name = fine_tune_of(use.model)
            last[name] = max(day, last.get(name, day))
    return last


def _with(
    one: FineTune, paid: dict[str, Decimal], uses: dict[str, date], since: date, whole: bool
) -> FineTune:
    """Return it with its figures; not used since then only where the whole list names others."""
    update: dict[str, object] = {}
    if one.model in paid:
        source = f"lines of the bill that name it, since {since}"
        update["billed"] = Cost(usd=paid[one.model], estimated=False, source=source)
    if one.model in uses:
        update["last_used"] = uses[one.model]
    elif uses and whole and one.model:
        update["unused_since"] = since
    return one.model_copy(update=update)
