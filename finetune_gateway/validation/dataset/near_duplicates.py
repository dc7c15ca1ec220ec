"""Near-duplicates: rows with a few words changed, added or left out.

Candidates come from MinHash (package ``rensa``, extra ``[dedup]``) over shingles of one to three
words, cut into bands. Each pair is then verified by the number of words in which the two rows
differ, and by which words differ: two questions about the same long article are not duplicates.
Memory: about 200 bytes a row; texts are read again from the files.

The system prompt is not compared: rows share it.
"""

from __future__ import annotations

import sys
import zlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import compress, count, islice
from operator import ne, not_
from typing import Any, BinaryIO

from finetune_gateway.data.dataset import MAX_LINE, Dataset
from finetune_gateway.errors import MissingDependency
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    content_hash,
    extract_row_text,
    iter_row_texts,
    parse_leniently,
    words,
)

MAX_ROWS = 1_000_000  # rows compared; takes 200 MB
PERMUTATIONS = 128
# Probability that two rows share a band: 99.6 % if they have half of their shingles in common,
# 94 % at 0.4, and 0.5 % for unrelated rows (0.05).
BANDS, DEPTH = 42, 3
FACT = 6  # distinct words; a shorter answer is a name, a number, a class or a call
LONG = 240  # rows of this many words have shingles of three words only
_NEIGHBOURS = 4  # candidates per row and band, taken from a window of so many rows:
_WINDOW = 32
_CROWD = 256  # in a band with more equal rows, the window is as small as the candidates
_TRIES = 20  # failed comparisons per row: rows of one template are all candidates of each other
_BATCH = 1 << 20  # characters of the rows whose signatures are computed together
_WORDS = 20_000  # words read of a row
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


def pairs(datasets: Sequence[Dataset], *, across: bool = False) -> list[Pair]:
    """Return each row that nearly repeats an earlier one, with one such earlier row, by line.

    ``across``: only pairs of rows in different files. Rows that differ only in case, white space
    and punctuation are pairs too. Raises MissingDependency without the package rensa.
    """
    if not available():
        raise MissingDependency("Finding near-duplicates", "dedup")
    index = _Index(datasets)
    with ExitStack() as stack:
        files = [stack.enter_context(dataset.path.open("rb")) for dataset in datasets]
        unsorted = index.pairs(_RowReader(files, index), across)
        return sorted(unsorted, key=lambda pair: (pair.file, pair.line))


def links(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Yield pairs of lines that connect all rows that nearly repeat each other, and so belong on
    one side of a split. Raises MissingDependency without rensa.
    """
    if not available():
        raise MissingDependency("Finding near-duplicates", "dedup")
    index = _Index([dataset])
    with dataset.path.open("rb") as file:
        yield from index.links(_RowReader([file], index))


def nearly_same(one: RowText, two: RowText) -> bool:
    """Return True if two rows differ in a few words, and not so that they are two questions. Needs
    no package."""
    first, second = _Words.of(one), _Words.of(two)
    limit = max_difference(max(len(first.words), len(second.words)))
    changes = _changes(first.words, second.words)
    return _difference(changes) <= limit and not _is_other_question(first, second, changes)


class _Index:
    """File, line and offset of each row, its length, the parity of its words, and its bands."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
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
            for row in iter_row_texts(dataset)
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

    def pairs(self, reader: _RowReader, across: bool) -> Iterator[Pair]:
        """Yield each row that has an earlier near-duplicate, with the nearest of those found
        first."""
        done = bytearray(len(self))
        for band in range(BANDS):
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


@dataclass(frozen=True, slots=True)
class _Words:
    """The words of a row, and the texts they are of."""

    words: list[str]
    row: RowText | None = None

    @property
    def size(self) -> int:
        return 2 * len(self.words)  # with the texts

    @classmethod
    def of(cls, row: RowText) -> _Words:
        return cls(conversation_words(row), row)

    def chunks(self) -> list[str]:
        """Return what stands between two spaces."""
        return self.row.conversation[: _WORDS * 8].casefold().split(" ") if self.row else []

    def answer(self) -> frozenset[str]:
        """Return the words of the answer."""
        return frozenset(words(self.row.answer[: _WORDS * 8])) if self.row else frozenset()


Changes = tuple[Counter[str], Counter[str]]  # words that one has more often, and the other


def _changes(one: list[str], two: list[str]) -> Changes:
    """Return the words in which two rows differ. What is the same at both ends is left out first:
    of near-duplicates that is nearly all, and comparing it in C takes a fiftieth."""
    shorter = min(len(one), len(two))
    start = min(_first_difference(one, two), shorter)
    one, two = one[start:], two[start:]
    end = min(_first_difference(reversed(one), reversed(two)), shorter - start)
    first, second = Counter(one[: len(one) - end]), Counter(two[: len(two) - end])
    return first - second, second - first


def _difference(changes: Changes) -> int:
    return max(changes[0].total(), changes[1].total())


def _is_other_question(one: _Words, two: _Words, changes: Changes) -> bool:
    """Return True if the words that differ make two questions: both the prompt and a short answer
    differ, or one word replaces another throughout (a name in the question and the answer). Rows
    with other images are two, too."""
    if one.row is None or two.row is None:
        return False
    if one.row.media != two.row.media:
        return True
    removed, added = changes
    if max(removed.values(), default=0) > 1 and max(added.values(), default=0) > 1:
        return True
    if one.row.answer == two.row.answer or one.row.prompt == two.row.prompt:
        return False
    first, second = one.answer(), two.answer()
    if not (0 < len(first) < FACT and 0 < len(second) < FACT) or first == second:
        return False
    return content_hash(one.row.prompt) != content_hash(two.row.prompt)


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

    def __init__(self, files: Sequence[BinaryIO], index: _Index) -> None:
        self.files, self.index = files, index
        self.cache: OrderedDict[int, _Words] = OrderedDict()
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
        changes, limit = _changes(one.words, two.words), self.index.limit(early, late)
        difference = _difference(changes)
        if difference > limit:
            difference = _difference(_changes(one.chunks(), two.chunks()))
        if difference > limit or _is_other_question(one, two, changes):
            self.tries[late] += 1
            return None
        return difference

    def _words(self, row: int) -> _Words:
        if row in self.cache:
            self.cache.move_to_end(row)
            return self.cache[row]
        file = self.files[self.index.files[row]]
        file.seek(self.index.offsets[row])
        data = parse_leniently(file.readline(MAX_LINE))
        text = extract_row_text(data) if data else None
        own = _Words.of(text) if text else _Words([])
        self.cache[row] = own
        self.size += own.size
        while self.size > _CACHED and len(self.cache) > 2:
            self.size -= self.cache.popitem(last=False)[1].size
        return own


def conversation_words(row: RowText) -> list[str]:
    """Return the words of a row without its system prompt, 20,000 at most."""
    return words(row.conversation[: _WORDS * 8])[:_WORDS]


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


def _first_difference(one: Iterable[str], two: Iterable[str]) -> int:
    """Return the place of the first word that differs; a large number if there is none."""
    return next(compress(count(), map(ne, one, two)), sys.maxsize)


def _shingles(own_words: list[str]) -> list[str]:
    """Return what a row is compared by: its groups of three words, and in a short row words and
    pairs too, since one changed word would leave little in common.

    The longer the row, the fewer of these are taken, in steps: rows on both sides of a step must
    still have enough in common.
    """
    shingles: list[str] = []
    if len(own_words) < LONG:
        every = 0 if len(own_words) < LONG // 4 else 64 if len(own_words) < LONG // 2 else 192
        taken = [not _hash(word) & every for word in own_words]
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
