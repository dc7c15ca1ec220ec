"""Near-duplicates planted among rows: one to three words of a text replaced, added, left out."""

from __future__ import annotations

import copy
import random
from typing import Any

Row = dict[str, Any]

SHORTEST = 15  # words of a row that is copied: in a shorter one a word makes another question
WORDS = ("parcel", "invoice", "chair", "lamp", "refund", "ticket", "bicycle", "camera", "order")
# Where a row says something, in any format; the worse answer of a pair is not compared.
TEXTS = frozenset(
    {"content", "value", "text", "prompt", "completion", "instruction", "input", "output", "chosen"}
)
LEFT_OUT = frozenset({"rejected", "non_preferred_output", "tools", "tool_calls"})


def planted(rows: list[Row], count: int, *, seed: int) -> list[tuple[int, Row]]:
    """The rows and changed copies of ``count`` of them, shuffled, each with its row's number."""
    rng = random.Random(seed)
    mixed = [*enumerate(rows)]
    fit = [number for number, row in enumerate(rows) if _words(row) >= SHORTEST]
    for number in rng.sample(fit, min(count, len(fit))):
        row = copy.deepcopy(rows[number])
        _change(row, rng)
        mixed.append((number, row))
    rng.shuffle(mixed)
    return mixed


def _words(row: Row) -> int:
    return sum(len(holder[key].split()) for holder, key in texts(row))


def _change(row: Row, rng: random.Random) -> None:
    """In one text, a longer one more often."""
    found = texts(row)
    holder, key = rng.choices(found, [len(holder[key]) for holder, key in found])[0]
    holder[key] = changed(holder[key], rng)


def texts(value: Any) -> list[tuple[Row, str]]:
    """Where the texts of a row stand, without the system prompt."""
    if isinstance(value, list):
        return [place for inner in value for place in texts(inner)]
    if not isinstance(value, dict) or value.get("role") in ("system", "developer"):
        return []
    if value.get("from") in ("system", "function_call", "observation"):
        return []
    own = [(value, key) for key in value.keys() & TEXTS if isinstance(value[key], str)]
    deeper = [
        inner
        for key, inner in value.items()
        if key not in LEFT_OUT and isinstance(inner, dict | list)
    ]
    return sorted(own, key=lambda place: place[1]) + texts(deeper)


def changed(text: str, rng: random.Random) -> str:
    """One to three of the words that spaces part."""
    said = text.split(" ")
    for _ in range(rng.randint(1, 3)):
        place = rng.randrange(len(said)) if said else 0
        match rng.randrange(3):
            case 0 if said:
                said[place] = f"{rng.choice(WORDS)}{rng.randrange(99)}"
            case 1:
                said.insert(place, f"{rng.choice(WORDS)}{rng.randrange(99)}")
            case _:
                del said[place : place + 1]
    return " ".join(said)
