"""Near-duplicates: rows with a few words changed, added or left out.

Candidates come from MinHash (package ``rensa``, extra ``[dedup]``) over shingles of one to three
words, cut into bands. Each pair is then verified by the number of words in which the two rows
differ, and by which words differ: two questions about the same long article are not duplicates.
Memory: about 200 bytes a row; texts are read again from the files.

The system prompt is not compared: rows share it.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from itertools import compress, count, islice
from operator import not_
from pathlib import Path
from typing import Any, BinaryIO

from finetune_gateway.data.dataset import MAX_LINE, Dataset
from finetune_gateway.errors import MissingDependency
from finetune_gateway.validation import parallel
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    content_hash,
    extract_row_text,
    iter_row_texts,
    parse_leniently,
)
from finetune_gateway.validation.dataset.row_words import FACT as FACT
from finetune_gateway.validation.dataset.row_words import (
    RowWords,
    are_other_questions,
    changes_of,
    conversation_words,
    difference_of,
)
from finetune_gateway.validation.file_bytes import Lines, OnProgress, Range

MANY_ROWS = 5_000  # which several processes compare
MAX_WORKERS = 4
MAX_ROWS = 1_000_000  # rows compared; takes 200 MB
PERMUTATIONS = 128
# Probability that two rows share a band: 99.6 % if they have half of their shingles in common,
# 94 % at 0.4, and 0.5 % for unrelated rows (0.05).
BANDS, DEPTH = 42, 3
LONG = 240  # rows of this many words have shingles of three words only
_NEIGHBOURS = 4  # candidates per row and band, taken from a window of so many rows:
_WINDOW = 32
_CROWD = 256  # in a band with more equal rows, the window is as small as the candidates
_TRIES = 20  # failed comparisons per row: rows of one template are all candidates of each other
_BATCH = 1 << 20  # characters of the rows whose signatures are computed together
_CACHED = 200_000  # words kept in memory while pairs are verified
_HASHED = 1 << 15  # words whose hashes are kept


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


def max_difference(count: int) -> int:
    """Return the number of words in which near-duplicates of ``count`` words may differ.

    In a short row each word counts: "the capital of France? Paris" and "of Spain? Madrid" are
    two questions. From 15 words on, three may differ; in long rows 1 %.
    """
    if count < 15:
        return 0 if count < 6 else 1 if count < 10 else 2
    return max(3, count // 100)


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
    if not available():
        raise MissingDependency("Finding near-duplicates", "dedup")
    index = index or Index(datasets)
    paths = [dataset.path for dataset in datasets]
    workers = min(parallel.count_processors(), MAX_WORKERS) if len(index) >= MANY_ROWS else 1
    bounds = [len(index) * part // workers for part in range(workers + 1)]
    parts = list(zip(bounds, bounds[1:], strict=False))
    compare = partial(_compare, index, paths, across)
    found: list[Pair] = []
    with closing(
        parallel.each(compare, parts, partial(compare, on_progress=on_progress))
    ) as results:
        for some in results:
            found += some
    return sorted(found, key=lambda pair: (pair.file, pair.line))


def _compare(
    index: Index,
    paths: Sequence[Path],
    across: bool,
    part: tuple[int, int],
    on_progress: OnProgress | None = None,
) -> list[Pair]:
    """Return the pairs of some rows, each with an earlier one."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("rb")) for path in paths]
        return list(index.pairs(_RowReader(files, index), across, part, on_progress))


def links(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Yield pairs of lines that connect all rows that nearly repeat each other, and so belong on
    one side of a split. Raises MissingDependency without rensa.
    """
    if not available():
        raise MissingDependency("Finding near-duplicates", "dedup")
    index = Index([dataset])
    with dataset.path.open("rb") as file:
        yield from index.links(_RowReader([file], index))


def nearly_same(one: RowText, two: RowText) -> bool:
    """Return True if two rows differ in a few words, and not so that they are two questions. Needs
    no package."""
    first, second = RowWords.of(one), RowWords.of(two)
    limit = max_difference(max(len(conversation_words(row)) for row in (one, two)))
    changes, _ = changes_of(first, second)
    return difference_of(changes) <= limit and not are_other_questions(first, second, changes)


class Index:
    """File, line and offset of each row, its length, the parity of its words, and its bands."""

    def __init__(self, datasets: Sequence[Dataset], part: Range | None = None) -> None:
        """Read the rows; ``part``: those of a part of the one file."""
        self.files = bytearray()
        self.lines = array("I")
        self.offsets = array("Q")
        self.hashes = array("Q")
        self.lengths = array("I")
        self.limits = array("I")  # words in which a row of this length may differ
        self.parities = array("Q")
        self.bands = [array("I") for _ in range(BANDS)]
        rows = (
            (number, row) for number, dataset in enumerate(datasets)
            for row in _rows_of(dataset, part)
        )  # fmt: skip
        batch: list[tuple[int, RowText]] = []
        size = 0
        for number, row in islice(rows, MAX_ROWS):
            batch.append((number, row))
            size += len(row.prompt) + len(row.answer)
            if size > _BATCH:
                self._add(batch)
                batch, size = [], 0
        self._add(batch)

    def __len__(self) -> int:
        return len(self.lines)

    def extend(self, later: Index) -> None:
        """Add the rows of the part that follows, as far as rows are compared."""
        left = MAX_ROWS - len(self)
        self.files += later.files[:left]
        for name in ("lines", "offsets", "hashes", "lengths", "limits", "parities"):
            getattr(self, name).extend(getattr(later, name)[:left])
        for band, more in zip(self.bands, later.bands, strict=True):
            band.extend(more[:left])

    def _add(self, batch: list[tuple[int, RowText]]) -> None:
        sets: list[list[str]] = []
        for number, row in batch:
            own_words = conversation_words(row)
            self.files.append(number)
            self.lines.append(row.line)
            self.offsets.append(row.offset)
            self.hashes.append(content_hash(row.conversation, row.media))
            self.lengths.append(len(own_words))
            self.limits.append(max_difference(len(own_words)))
            self.parities.append(_parity(own_words))
            sets.append(_shingles(own_words))
        for signature in _signatures(sets):
            for number, band in enumerate(self.bands):
                part = signature[number * DEPTH : (number + 1) * DEPTH]
                band.append(hash(tuple(part)) & 0xFFFFFFFF)

    def pairs(
        self,
        reader: _RowReader,
        across: bool,
        part: tuple[int, int],
        on_progress: OnProgress | None = None,
    ) -> Iterator[Pair]:
        """Yield each row of a part that has an earlier near-duplicate, with the nearest of those
        found first."""
        first, end = part
        done = bytearray(b"\1" * first + b"\0" * (end - first) + b"\1" * (len(self) - end))
        for band in range(BANDS):
            if on_progress:
                on_progress(band, BANDS)
            for late, others in self._undone(band, done, across):
                early = self._nearest(late, others, reader)
                if early is not None:
                    done[late] = 1
                    yield self._pair(early, late)

    def _undone(self, band: int, done: bytearray, across: bool) -> Iterator[tuple[int, list[int]]]:
        """Yield each row without a near-duplicate so far, and a few earlier ones that are equal in
        a band and most like it."""
        files = self.files
        for rows, window in self._crowds(band, done):
            for place, row in enumerate(rows):
                if done[row]:
                    continue
                others: list[int] = []
                for other in _around(rows, place, window):
                    if other > row or (across and files[row] == files[other]):
                        continue
                    if self._likely(row, other):
                        others.append(other)
                        if len(others) == _NEIGHBOURS:
                            break
                if others:
                    yield row, others

    def _nearest(self, late: int, others: list[int], reader: _RowReader) -> int | None:
        """Return the row of ``others`` that differs least; None if none is a near-duplicate."""
        same = self.hashes[late]
        best: tuple[int, int] | None = None
        for early in sorted(others, key=lambda other: self.hashes[other] != same):
            difference = reader.difference(early, late)
            if difference is not None and (best is None or difference < best[0]):
                best = difference, early
                if difference <= 1:
                    break
        return best[1] if best else None

    def links(self, reader: _RowReader) -> Iterator[tuple[int, int]]:
        """Yield pairs of lines that connect all near-duplicates."""
        heads = array("I", range(len(self)))

        def head(row: int) -> int:
            while heads[row] != row:
                heads[row] = row = heads[heads[row]]
            return row

        for band in range(BANDS):
            for early, late in self._candidates(band):
                one, two = head(early), head(late)
                if one != two and reader.difference(early, late) is not None:
                    heads[max(one, two)] = min(one, two)
                    yield self.lines[early], self.lines[late]

    def limit(self, early: int, late: int) -> int:
        return max(self.limits[early], self.limits[late])

    def _pair(self, early: int, late: int) -> Pair:
        lines, files = self.lines, self.files
        same = self.hashes[early] == self.hashes[late]
        return Pair(lines[late], lines[early], files[late], files[early], same)

    def _crowds(self, band: int, done: bytearray | None = None) -> Iterator[tuple[list[int], int]]:
        """Yield rows that are equal in a band, some of them not done, and how far apart two of
        them may be. Sorting by the next bands too puts similar rows side by side."""
        one, two, three = (self.bands[(band + step) % BANDS] for step in range(3))
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
        limit = max(self.limits[early], self.limits[late])
        if abs(self.lengths[early] - self.lengths[late]) > limit + 3:
            return False
        return (self.parities[early] ^ self.parities[late]).bit_count() <= 2 * limit + 3


def _rows_of(dataset: Dataset, part: Range | None) -> Iterator[RowText]:
    if part is None:
        yield from iter_row_texts(dataset, counted=False)
        return
    with dataset.path.open("rb") as file:
        yield from iter_row_texts(dataset, Lines(file.fileno(), part), counted=False)


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


class _RowReader:
    """Reads rows again and caches the words of the last ones."""

    def __init__(self, files: Sequence[BinaryIO], index: Index) -> None:
        self.files, self.index = files, index
        self.cache: OrderedDict[int, RowWords] = OrderedDict()
        self.size = 0
        self.tries = bytearray(len(index))

    def difference(self, early: int, late: int) -> int | None:
        """Return the number of words in which two near-duplicates differ; None for other rows.

        Words are split at their boundaries; if too many differ, at spaces. Also None once the later
        row has failed too many comparisons.
        """
        if self.tries[late] == _TRIES:
            return None
        one, two = self._words(early), self._words(late)
        (changes, chunks), limit = changes_of(one, two), self.index.limit(early, late)
        difference = difference_of(changes)
        if difference > limit:
            difference = chunks
        if difference > limit or are_other_questions(one, two, changes):
            self.tries[late] += 1
            return None
        return difference

    def _words(self, row: int) -> RowWords:
        if row in self.cache:
            self.cache.move_to_end(row)
            return self.cache[row]
        file = self.files[self.index.files[row]]
        file.seek(self.index.offsets[row])
        data = parse_leniently(file.readline(MAX_LINE))
        text = extract_row_text(data, counted=False) if data else None
        own = RowWords.of(text) if text else RowWords([])
        self.cache[row] = own
        self.size += own.size
        while self.size > _CACHED and len(self.cache) > 2:
            self.size -= self.cache.popitem(last=False)[1].size
        return own


class _Hashes(dict[str, int]):
    """Hashes of words, the same in each process: a split must not vary between runs."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _HASHED:
            self.clear()
        made = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return made


_hash = _Hashes().__getitem__
_BITS = [1 << bit for bit in range(64)]


def _parity(own_words: Iterable[str]) -> int:
    bits = 0
    for value in map(_hash, own_words):
        bits ^= _BITS[value & 63]
    return bits


def _shingles(own_words: list[str]) -> list[str]:
    """Return what a row is compared by: its groups of three words, and in a short row words and
    pairs too, since one changed word would leave little in common.

    The longer the row, the fewer of these are taken, in steps: rows on both sides of a step must
    still have enough in common.
    """
    shingles: list[str] = []
    if len(own_words) < LONG // 4:
        shingles += own_words
        shingles += map(" ".join, zip(own_words, own_words[1:], strict=False))
    elif len(own_words) < LONG:
        every = 64 if len(own_words) < LONG // 2 else 192
        taken = [not value & every for value in map(_hash, own_words)]
        shingles += compress(own_words, taken)
        pairs = zip(own_words, own_words[1:], strict=False)
        shingles += map(" ".join, compress(pairs, taken))
    if len(own_words) >= LONG // 8:
        shingles += map(" ".join, zip(own_words, own_words[1:], own_words[2:], strict=False))
    return shingles or [""]


def _signatures(sets: list[list[str]]) -> list[list[int]]:
    from rensa import RMinHash  # here: an extra

    digests: Any = RMinHash.digests_from_token_sets(sets, PERMUTATIONS, 1)
    return list(digests)
