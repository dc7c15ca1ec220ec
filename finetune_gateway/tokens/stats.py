"""What was counted: the tokens of a row, of all rows, and how they are spread.

Knows sums; which rule they follow is said in ``tokens``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from finetune_gateway.data.row_access import Json
from finetune_gateway.tokens.encodings import APPROXIMATE

SUMS = ("total", "trained", "billed", "billed_low", "billed_high")


class Said(NamedTuple):
    """What one role has said: its messages, and the tokens of their content."""

    messages: int
    tokens: int


@dataclass(frozen=True, slots=True)
class RowTokens:
    """The tokens of one row. ``exact`` is False where a rule had to be guessed."""

    total: int
    trained: int
    messages: int
    exact: bool
    billed: int = 0
    billed_low: int = 0
    billed_high: int = 0
    longest: int = 0  # billed tokens of the longest sequence in it; a DPO row holds two
    sequences: int = 1
    roles: Mapping[str, Said] = field(default_factory=dict)

    def cut(self, max_context: int | None) -> RowTokens:
        """The same row, billed only as far as ``max_context`` tokens per sequence."""
        if max_context is None:
            return self
        cap = max_context * self.sequences
        return replace(
            self,
            billed=min(self.billed, cap),
            billed_low=min(self.billed_low, cap),
            billed_high=min(self.billed_high, cap),
        )


class TokenStats(BaseModel):
    """The tokens of a file. min, median, p95 and max are of ``total`` per row."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    encoding: str
    exact: bool
    rows: int = 0
    total: int = 0
    trained: int = 0
    billed: int = 0
    billed_low: int = 0
    billed_high: int = 0
    min: int = 0
    median: int = 0
    p95: int = 0
    max: int = 0
    truncated_rows: int = 0  # longer than the model's context; cut at the end by the provider
    truncated_tokens: int = 0
    roles: dict[str, Said] = Field(default_factory=dict)
    histogram: list[tuple[int, int, int]] = Field(default_factory=list)  # from, to, rows
    # Rows of each length, and those of them in which nothing is trained; not in any output.
    lengths: dict[int, int] = Field(default_factory=dict, exclude=True, repr=False)
    idle: dict[int, int] = Field(default_factory=dict, exclude=True, repr=False)

    @property
    def approximate(self) -> bool:
        """True when the encoding is unknown and bytes were counted instead."""
        return self.encoding == APPROXIMATE

    def without_lengths(self) -> TokenStats:
        """As it is kept: without the rows of each length."""
        return self.model_copy(update={"lengths": {}, "idle": {}})

    def summary(self) -> Json:
        """The ``tokens`` part of a validation report."""
        fields = ("encoding", "exact", "total", "trained", "min", "median", "p95", "max")
        roles = {role: said._asdict() for role, said in self.roles.items()}
        return {name: getattr(self, name) for name in fields} | {
            "roles": roles,
            "histogram": [list(found) for found in self.histogram],
        }


def _edges(low: int, high: int, steps: int) -> list[int]:
    """Whole numbers from ``low`` to above ``high``, in ``steps`` steps to a doubling."""
    edges = [low]
    while edges[-1] <= high:
        edges.append(max(edges[-1] + 1, ceil(max(low, 1) * 2 ** (len(edges) / steps))))
    return edges


class Histogram:
    """Whole numbers with their counts; memory grows with distinct values, not with rows."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.size = 0

    def add(self, value: int, times: int = 1) -> None:
        self.counts[value] += times
        self.size += times

    def bins(self) -> list[tuple[int, int, int]]:
        """(from, to, how many), both ends included: steps of equal ratio, for lengths spread over
        several powers of ten, as fine as at most 30 bins allow."""
        values = sorted(self.counts)
        if not values:
            return []
        for steps in (64, 32, 16, 8, 4, 2, 1):  # to a doubling
            edges = _edges(values[0], values[-1], steps)
            if len(edges) <= 31:
                break
        found = [[start, end - 1, 0] for start, end in pairwise(edges)]
        for value in values:
            found[bisect_right(edges, value) - 1][2] += self.counts[value]
        return [(start, end, count) for start, end, count in found]

    def quantile(self, q: float) -> int:
        """The q-th quantile between neighbours, as numpy's default, rounded; 0 when empty."""
        if not self.size:
            return 0
        place = q * (self.size - 1)
        below, above = self._at(int(place)), self._at(min(int(place) + 1, self.size - 1))
        return round(below + (above - below) * (place - int(place)))

    def _at(self, index: int) -> int:
        seen = 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen > index:
                return value
        raise IndexError(index)


@dataclass(slots=True)
class Tally:
    """What was counted so far, of a whole file or of a part of it."""

    lengths: Histogram = field(default_factory=Histogram)
    idle: Histogram = field(default_factory=Histogram)  # lengths of rows with nothing to train
    roles: dict[str, Said] = field(default_factory=dict)
    exact: bool = True
    capped: bool = False  # a row was billed only as far as the context
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    cut_rows: int = 0
    cut_tokens: int = 0

    def say(self, role: str, messages: int, tokens: int) -> None:
        """Add what one role has said."""
        before = self.roles.get(role, Said(0, 0))
        self.roles[role] = Said(before.messages + messages, before.tokens + tokens)

    def extend(self, other: Tally) -> None:
        """Add what was counted elsewhere."""
        for length, rows in other.lengths.counts.items():
            self.lengths.add(length, rows)
        for length, rows in other.idle.counts.items():
            self.idle.add(length, rows)
        for role, said in other.roles.items():
            self.say(role, *said)
        self.exact = self.exact and other.exact
        self.capped = self.capped or other.capped
        for name, value in other.sums.items():
            self.sums[name] += value
        self.cut_rows += other.cut_rows
        self.cut_tokens += other.cut_tokens
