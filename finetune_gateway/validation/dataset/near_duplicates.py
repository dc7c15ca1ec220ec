"""Near-duplicates: rows with a few words changed, added or left out.

Rows that differ in numbers are found by their texts without digits (``row_index``). For all others,
candidates come from MinHash (package ``rensa``, extra ``[dedup]``) over shingles of one to three
words, cut into bands. Each pair is then verified by the number of words in which the two rows
differ, and by which words differ: two questions about the same long article are not duplicates.
Memory: about 200 bytes a row; texts are read again from the files.

The system prompt is not compared: rows share it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from heapq import nsmallest
from importlib.util import find_spec
from itertools import chain, compress, count, islice, pairwise
from operator import not_
from pathlib import Path
from typing import Any, TypeVar

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import MissingDependency
from finetune_gateway.validation import parallel
from finetune_gateway.validation.dataset.row_index import BANDS, Index, RowReader, index_with_copies
from finetune_gateway.validation.dataset.row_index import MAX_ROWS as MAX_ROWS
from finetune_gateway.validation.dataset.row_text import FACT as FACT
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    RowWords,
    are_other_questions,
    changes_of,
    compare,
    conversation_words,
    difference_of,
)
from finetune_gateway.validation.dataset.row_text import max_difference as max_difference
from finetune_gateway.validation.file_bytes import OnProgress

Result = TypeVar("Result")

MANY_ROWS = 5_000  # which several processes compare
_NEIGHBOURS = 4  # candidates per row and band, taken from a window of so many rows:
_WINDOW = 32
_CROWD = 256  # in a band with more equal rows, the window is as small as the candidates
_TRIES = 20  # failed comparisons per row: rows of one template are all candidates of each other


@dataclass(frozen=True, slots=True)
class Pair:
    """Two near-duplicates: the line and the file number of each row.

    ``same``: they differ only in case and white space.
    """

    line: int
    earlier: int
    file: int = 0
    earlier_file: int = 0
    same: bool = False


def available() -> bool:
    """Return True if near-duplicates can be found: the package rensa is installed."""
    return find_spec("rensa") is not None


def pairs(
    datasets: Sequence[Dataset],
    *,
    across: bool = False,
    index: Index | None = None,
    on_progress: OnProgress | None = None,
) -> list[Pair]:
    """Return each row that nearly repeats an earlier one, with one such earlier row, by line.

    ``across``: only pairs of rows in different files. Rows that differ only in case, white space
    and punctuation are pairs too. ``index``: of these data, if it was made. Many rows are compared
    by several processes; their number changes nothing. ``on_progress`` is called with the steps
    done and all of them. Raises MissingDependency without the package rensa.
    """
    found = iter_pairs(datasets, across=across, index=index, on_progress=on_progress)
    return sorted(found, key=lambda pair: (pair.file, pair.line))


def iter_pairs(
    datasets: Sequence[Dataset],
    *,
    across: bool = False,
    index: Index | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[Pair]:
    """Yield what ``pairs`` returns, in any order."""
    if not available():
        raise MissingDependency("Finding near-duplicates", "dedup")
    if index is None:
        alone = len(datasets) == 1 and not across
        index = index_with_copies(datasets[0]) if alone else Index(datasets)
    found = _indexed_pairs(index, [dataset.path for dataset in datasets], across, on_progress)
    if across:
        yield from found
        return
    copies = index.copies
    others = (
        Pair(line, index.lines[original])
        for line, original in zip(copies.lines, copies.originals, strict=True)
    )
    yield from _with_repeated(index, chain(found, others))


def _with_repeated(index: Index, found: Iterator[Pair]) -> Iterator[Pair]:
    """Yield the pairs; a row that is the same as an earlier one, apart from case and white space,
    with that one."""
    hashes, lines = (
        (getattr(index, name), getattr(index.copies, name)) for name in ("hashes", "lines")
    )
    repeated = {one for one, other in pairwise(sorted(chain(*hashes))) if one == other}
    rows = ((line, own) for own, line in zip(chain(*hashes), chain(*lines), strict=True))
    earlier: dict[int, int] = {}
    first: dict[int, int] = {}
    for line, own in sorted(row for row in rows if row[1] in repeated):
        if own in first:
            earlier[line] = first[own]
        else:
            first[own] = line
    for pair in found:
        if pair.line in earlier:
            yield replace(pair, earlier=earlier.pop(pair.line), same=True)
        else:
            yield replace(pair, same=False) if pair.same else pair
    for line, other in earlier.items():
        yield Pair(line, other, same=True)


def _indexed_pairs(
    index: Index, paths: Sequence[Path], across: bool, on_progress: OnProgress | None
) -> Iterator[Pair]:
    search = partial(_search, index, paths, across)
    here = partial(search, on_progress=on_progress)
    several = len(index) >= MANY_ROWS
    with closing(in_shares(search, range(len(index)), here, several=several)) as found:
        for some in found:
            yield from some


def in_shares(
    work: Callable[[Any], Result],
    items: Sequence[Any],
    here: Callable[[Any], Result],
    *,
    several: bool,
) -> Generator[Result]:
    """Yield the results of ``work`` for an equal share of the items each, in order: by ``several``
    processes, of which this one does the first share with ``here``, or by this one alone."""
    if not several:
        yield here(items)
        return
    workers = min(parallel.count_workers(), len(items))
    bounds = [len(items) * worker // workers for worker in range(workers + 1)]
    shares = [items[start:end] for start, end in pairwise(bounds)]
    with closing(parallel.each(work, shares, here)) as results:
        yield from results


def _search(
    index: Index,
    paths: Sequence[Path],
    across: bool,
    part: range,
    on_progress: OnProgress | None = None,
) -> list[Pair]:
    """Return the pairs of some rows, each with an earlier one."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths]
        return list(_Search(index, RowReader(files, index), across).pairs(part, on_progress))


def links(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Yield pairs of lines that connect all rows that nearly repeat each other, and so belong on
    one side of a split. Raises MissingDependency without rensa.
    """
    if not available():
        raise MissingDependency("Finding near-duplicates", "dedup")
    index = Index([dataset])
    with dataset.path.open("rb") as file:
        yield from _Search(index, RowReader([file], index)).links()


def nearly_same(one: RowText, two: RowText) -> bool:
    """Return True if two rows differ in a few words, and not so that they are two questions. Needs
    no package."""
    first, second = RowWords.of(one), RowWords.of(two)
    limit = max_difference(max(len(conversation_words(row)) for row in (one, two)))
    changes, _ = changes_of(first, second)
    return difference_of(changes) <= limit and not are_other_questions(first, second, changes)


class _Search:
    """Finds the pairs of an index: candidates are rows that are equal in a band."""

    def __init__(self, index: Index, reader: RowReader, across: bool = False) -> None:
        self.index, self.reader, self.across = index, reader, across
        self.tries = bytearray(len(index))
        self.reach = index.limits[:]  # words in which a row may differ from this one or its copies
        for original in index.copies.originals:
            self.reach[original] = 2 * index.limits[original]

    def pairs(self, part: range, on_progress: OnProgress | None) -> Iterator[Pair]:
        """Yield each indexed row of a part that has an earlier near-duplicate, with the nearest of
        those found first."""
        first, end = part.start, part.stop
        done = bytearray(b"\1" * first + b"\0" * (end - first) + b"\1" * (len(self.index) - end))
        for band in range(BANDS):
            if on_progress:
                on_progress(band, BANDS)
            for late, others in self._undone(band, done):
                pair = self._nearest(late, others)
                if pair is not None:
                    done[late] = 1
                    yield pair

    def links(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of lines that connect all near-duplicates."""
        heads = array("I", range(len(self.index)))

        def head(row: int) -> int:
            while heads[row] != row:
                heads[row] = row = heads[heads[row]]
            return row

        for band in range(BANDS):
            for early, late in self._candidates(band):
                one, two = head(early), head(late)
                if one != two and self._compare(early, late) is not None:
                    heads[max(one, two)] = min(one, two)
                    yield self.index.lines[early], self.index.lines[late]

    def _undone(self, band: int, done: bytearray) -> Iterator[tuple[int, list[int]]]:
        """Yield each row without a near-duplicate so far, and a few earlier ones that are equal in
        a band and most like it."""
        files = self.index.files
        for rows, window in self._crowds(band, done):
            for place, row in enumerate(rows):
                if done[row]:
                    continue
                others: list[int] = []
                for other in _around(rows, place, window):
                    if other > row or (self.across and files[row] == files[other]):
                        continue
                    if self._likely(row, other):
                        others.append(other)
                        if len(others) == _NEIGHBOURS:
                            break
                if others:
                    yield row, others

    def _nearest(self, late: int, others: list[int]) -> Pair | None:
        """Return the row with that of ``others`` that differs least; None if none is a
        near-duplicate."""
        hashes = self.index.hashes
        best: tuple[int, Pair] | None = None
        for early in sorted(others, key=lambda other: hashes[other] != hashes[late]):
            found = self._compare(early, late)
            if found is not None and (best is None or found[0] < best[0]):
                best = found
                if found[0] <= 1:
                    break
        return best[1] if best else None

    def _compare(self, early: int, late: int) -> tuple[int, Pair] | None:
        """Return the number of words in which a row differs from another, or from a copy of that,
        and the pair; None for other rows, and once the row has failed too many comparisons."""
        if self.tries[late] == _TRIES:
            return None
        found = self.reader.compare(early, late)
        if found.near:
            return found.difference, self._pair(early, late)
        self.tries[late] += 1
        return self._compare_copies(early, late, found.difference)

    def _compare_copies(self, early: int, late: int, difference: int) -> tuple[int, Pair] | None:
        """Compare a row with the copies of another from which it differs a little too much."""
        index, copies = self.index, self.index.copies
        limit = max(index.limits[early], index.limits[late])
        if difference > 2 * limit or self.reach[early] == index.limits[early]:
            return None
        line, parity = index.lines[late], index.parities[late]
        earlier = (one for one in self._copies[early] if copies.lines[one] < line)
        alike = nsmallest(
            _NEIGHBOURS,
            islice(earlier, _CROWD),
            key=lambda one: (copies.parities[one] ^ parity).bit_count(),
        )
        for one in alike:
            found = compare(self.reader.copy(one), self.reader.indexed(late), limit)
            if found.near:
                same = copies.hashes[one] == index.hashes[late]
                return found.difference, Pair(line, copies.lines[one], same=same)
        return None

    @cached_property
    def _copies(self) -> dict[int, list[int]]:
        """The copies of each row that has some."""
        found: dict[int, list[int]] = {}
        for number, original in enumerate(self.index.copies.originals):
            found.setdefault(original, []).append(number)
        return found

    def _pair(self, early: int, late: int) -> Pair:
        index = self.index
        same = index.hashes[early] == index.hashes[late]
        lines, files = index.lines, index.files
        return Pair(lines[late], lines[early], files[late], files[early], same)

    def _crowds(self, band: int, done: bytearray | None = None) -> Iterator[tuple[list[int], int]]:
        """Yield rows that are equal in a band, some of them not done, and how far apart two of
        them may be. Sorting by the next bands too puts similar rows side by side."""
        one, two, three = (self.index.bands[(band + step) % BANDS] for step in range(3))
        for rows in _equal(one, done):
            if len(rows) > 2:
                rows.sort(key=lambda row: (two[row] << 32) | three[row])
            yield rows, _WINDOW if len(rows) <= _CROWD else _NEIGHBOURS

    def _candidates(self, band: int) -> Iterator[tuple[int, int]]:
        """Yield pairs of rows that are equal in a band: each row with a few of those most like
        it."""
        for rows, window in self._crowds(band):
            for place, row in enumerate(rows):
                near = islice(rows, place + 1, place + 1 + window)
                likely = (other for other in near if self._likely(row, other))
                for other in islice(likely, _NEIGHBOURS):
                    yield (row, other) if row < other else (other, row)

    def _likely(self, early: int, late: int) -> bool:
        """Return False if two rows cannot be a pair: each word that differs flips at most one
        bit of the parity."""
        index = self.index
        limit = max(self.reach[early], index.limits[late])
        if abs(index.lengths[early] - index.lengths[late]) > limit + 3:
            return False
        return (index.parities[early] ^ index.parities[late]).bit_count() <= 2 * limit + 3


def _equal(values: array[int], done: bytearray | None = None) -> Iterator[list[int]]:
    """Yield the indices of each value that comes more than once, of those with one that is not
    done."""
    more = {value for value, times in Counter(values).items() if times > 1}
    if done is not None and any(done):
        left = range(len(values))
        more &= {values[row] for row in compress(left, map(not_, done))}
    groups: dict[int, list[int]] = {}
    for row in compress(count(), map(more.__contains__, values)):
        groups.setdefault(values[row], []).append(row)
    yield from groups.values()


def _around(rows: list[int], place: int, window: int) -> Iterator[int]:
    """Yield the rows beside a place, the nearest first."""
    for step in range(1, window + 1):
        if place >= step:
            yield rows[place - step]
        if place + step < len(rows):
            yield rows[place + step]
