"""Token counts as data: of one row, of all rows, and their distribution.

``counter`` fills them by one rule or another.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from pydantic import ConfigDict, Field

from finetune_gateway.data.row_access import Json
from finetune_gateway.model import Given
from finetune_gateway.tokens.encodings import APPROXIMATE

SUMS = ("total", "trained", "billed", "billed_low", "billed_high")


class RoleCount(NamedTuple):
    """The messages of one role, and the tokens of their content."""

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
    longest: int = 0  # billed tokens of its longest sequence; a DPO row has two
    sequences: int = 1
    images: int = 0
    roles: Mapping[str, RoleCount] = field(default_factory=dict)

    def truncated(self, max_context: int | None) -> RowTokens:
        """Return the row as it is billed: at most ``max_context`` tokens per sequence."""
        if max_context is None:
            return self
        most = max_context * self.sequences
        if max(self.billed, self.billed_low, self.billed_high) <= most:
            return self  # most rows
        return replace(
            self,
            billed=min(self.billed, most),
            billed_low=min(self.billed_low, most),
            billed_high=min(self.billed_high, most),
        )


class TokenStats(Given):
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
    truncated_rows: int = 0  # longer than the model's context; the provider cuts them at the end
    truncated_tokens: int = 0
    truncated_trained: int = 0  # of them, those that would be trained; local models alone
    split_rows: int = 0  # rows trained as a sequence for each turn; ``rows`` counts sequences
    pairs: int = 0  # rows trained as two sequences, counted so by local models alone
    images: int = 0
    roles: dict[str, RoleCount] = Field(default_factory=dict)
    histogram: list[tuple[int, int, int]] = Field(default_factory=list)  # from, to, rows
    # Length -> rows of that length; and -> those of them in which nothing is trained. Not output.
    lengths: dict[int, int] = Field(default_factory=dict, exclude=True, repr=False)
    untrained_lengths: dict[int, int] = Field(default_factory=dict, exclude=True, repr=False)

    @property
    def approximate(self) -> bool:
        """True if the encoding is unknown and bytes were counted instead."""
        return self.encoding == APPROXIMATE

    @property
    def cut_share(self) -> float:
        """Return the share of the tokens to train that is cut off."""
        return self.truncated_trained / max(1, self.truncated_trained + self.trained)

    def without_lengths(self) -> TokenStats:
        """Return a copy without the rows of each length, as it is stored."""
        return self.model_copy(update={"lengths": {}, "untrained_lengths": {}})

    def summary(self) -> Json:
        """Return the ``tokens`` part of a validation report."""
        names = ("encoding", "exact", "total", "trained", "min", "median", "p95", "max")
        roles = {role: count._asdict() for role, count in self.roles.items()}
        return {name: getattr(self, name) for name in names} | {
            "roles": roles,
            "histogram": [list(row) for row in self.histogram],
        }


class Histogram:
    """Whole numbers with their counts; memory grows with distinct values, not with rows."""

    def __init__(self) -> None:
        self.counts: Counter[int] = Counter()
        self.size = 0

    def add(self, value: int, times: int = 1) -> None:
        self.counts[value] += times
        self.size += times

    def extend(self, other: Histogram) -> None:
        self.counts.update(other.counts)
        self.size += other.size

    def bins(self) -> list[tuple[int, int, int]]:
        """Return (from, to, count) with both ends included: at most 30 bins of equal ratio, as
        narrow as that allows, for lengths spread over several powers of ten."""
        values = sorted(self.counts)
        if not values:
            return []
        for steps in (64, 32, 16, 8, 4, 2, 1):  # to a doubling
            edges = _edges(values[0], values[-1], steps)
            if len(edges) <= 31:
                break
        counts = [0] * (len(edges) - 1)
        for value in values:
            counts[bisect_right(edges, value) - 1] += self.counts[value]
        return [
            (start, end - 1, count)
            for (start, end), count in zip(pairwise(edges), counts, strict=True)
        ]

    def quantile(self, q: float) -> int:
        """Return the q-th quantile, interpolated as numpy does by default and rounded; 0 if
        empty."""
        if not self.size:
            return 0
        index = q * (self.size - 1)
        below, above = self._at(int(index)), self._at(min(int(index) + 1, self.size - 1))
        return round(below + (above - below) * (index - int(index)))

    def _at(self, index: int) -> int:
        passed = 0
        for value in sorted(self.counts):
            passed += self.counts[value]
            if passed > index:
                return value
        raise IndexError(index)


def _edges(low: int, high: int, steps: int) -> list[int]:
    """Return whole numbers from ``low`` to above ``high``, in ``steps`` steps per doubling."""
    edges = [low]
    while edges[-1] <= high:
        edges.append(max(edges[-1] + 1, ceil(max(low, 1) * 2 ** (len(edges) / steps))))
    return edges


@dataclass(slots=True)
class TokenTotals:
    """The sums of a whole file, or of the part of it that one process counts."""

    lengths: Histogram = field(default_factory=Histogram)
    untrained_lengths: Histogram = field(default_factory=Histogram)  # rows with nothing to train
    roles: dict[str, RoleCount] = field(default_factory=dict)
    exact: bool = True
    truncated: bool = False  # a row is billed only as far as the context
    sums: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SUMS, 0))
    truncated_rows: int = 0
    truncated_tokens: int = 0
    truncated_trained: int = 0
    split_rows: int = 0
    pairs: int = 0
    images: int = 0

    def add_role(self, role: str, messages: int, tokens: int) -> None:
        before = self.roles.get(role, RoleCount(0, 0))
        self.roles[role] = RoleCount(before.messages + messages, before.tokens + tokens)

    def extend(self, other: TokenTotals) -> None:
        """Add the sums of another part."""
        self.lengths.extend(other.lengths)
        self.untrained_lengths.extend(other.untrained_lengths)
        for role, count in other.roles.items():
            self.add_role(role, *count)
        self.exact = self.exact and other.exact
        self.truncated = self.truncated or other.truncated
        for name, value in other.sums.items():
            self.sums[name] += value
        self.truncated_rows += other.truncated_rows
        self.truncated_tokens += other.truncated_tokens
        self.truncated_trained += other.truncated_trained
        self.split_rows += other.split_rows
        self.pairs += other.pairs
        self.images += other.images


def cut_words(tokens: TokenStats, limit: int) -> str:
    """Return ``3 of 40 rows are longer than 2,048 tokens: 4.0% of the tokens to train are cut
    off``; of rows of several sequences each of these is one."""
    unit = "sequences" if tokens.split_rows or tokens.pairs else "rows"
    rows = f"{tokens.truncated_rows:,} of {tokens.rows:,} {unit}"
    share = f"{tokens.cut_share:.1%} of the tokens to train are cut off"
    return f"{rows} are longer than {limit:,} tokens: {share}"
