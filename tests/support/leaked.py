"""Rows that are different from one another, and copies of them that a comparison must recognise."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

Row = dict[str, Any]

SYSTEM = "You answer for a small shop."
# Of which questions and answers are put together.
WHO = ("My neighbour", "A colleague of mine", "Our school", "The club", "My aunt", "A customer")
DID = ("ordered", "returned", "paid for", "lost", "wants to exchange", "has repaired", "sold")
WHAT = (
    *("a red bicycle", "two oak chairs", "the winter coat", "a box of green tea", "an old camera"),
    *("the garden lamp", "a pair of boots", "the blue carpet", "a kitchen clock", "a steel kettle"),
)
WHEN = ("on Monday", "last spring", "before the holiday", "at noon", "in the autumn sale", "twice")
ASK = (
    *("Who pays the postage then?", "Does the guarantee still hold?", "Where is the bill now?"),
    *("Can it be sent to another town?", "How long does the money take?", "Is there a discount?"),
    *("May it be collected by somebody else?", "Which form must be filled in?"),
)
ANSWER = ("Please look at page", "That takes as many days as", "Ask at counter", "It costs")


def different_rows(count: int, seed: int = 0, system: str | None = SYSTEM) -> list[Row]:
    """So many questions of three sentences, each with an answer of its own."""
    rng = random.Random(seed)
    rows: dict[str, Row] = {}
    while len(rows) < count:
        parts, more = ([rng.choice(one) for one in (WHO, DID, WHAT, WHEN)] for _ in range(2))
        number = rng.randrange(10**6)
        asked = f"{' '.join(parts)} (receipt {number}). {' '.join(more)}. {rng.choice(ASK)}"
        said = f"{rng.choice(ANSWER)} {number % 97} for {parts[2]}, {parts[3]}."
        own = [{"role": "system", "content": system}] if system else []
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
        rows[asked] = {"messages": [*own, *turns]}
    return list(rows.values())


def _question(row: Row) -> Row:
    return next(one for one in reversed(row["messages"]) if one["role"] == "user")


def swap_words(row: Row, rng: random.Random) -> None:
    """Two of its words are others now."""
    said = _question(row)["content"].split(" ")
    for place in rng.sample(range(len(said)), 2):
        said[place] = rng.choice(("yesterday", "quickly", "parcel", "green"))
    _question(row)["content"] = " ".join(said)


def reorder(row: Row, rng: random.Random) -> None:
    """The end of its question comes first."""
    said = _question(row)["content"].split(" ")
    at = rng.randrange(2, len(said) - 1)
    _question(row)["content"] = " ".join([*said[at:], *said[:at]])


def cut(row: Row, rng: random.Random) -> None:
    """70 % of its question are left."""
    text = _question(row)["content"]
    _question(row)["content"] = text[: len(text) * 7 // 10]


def change_system(row: Row, rng: random.Random) -> None:
    """It has another system prompt."""
    rest = [one for one in row["messages"] if one["role"] != "system"]
    row["messages"] = [{"role": "system", "content": "You are a pirate."}, *rest]


CHANGES: tuple[Callable[[Row, random.Random], None], ...] = (
    swap_words, reorder, cut, change_system,
)  # fmt: skip


def leaked(rows: list[Row], seed: int) -> tuple[list[Row], list[Row]]:
    """Twelve of these rows as they are, and two changed in each way."""
    rng = random.Random(seed)
    chosen = copy.deepcopy(rng.sample(rows, 12 + 2 * len(CHANGES)))
    exact, changed = chosen[:12], chosen[12:]
    for number, row in enumerate(changed):
        CHANGES[number // 2](row, rng)
    return exact, changed
