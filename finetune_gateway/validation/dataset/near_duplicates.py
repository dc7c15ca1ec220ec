"""Rows that are nearly the same: a few words changed, added or left out.

Candidates come from MinHash (package ``rensa``, extra ``[dedup]``) over pieces of one to three
words, cut into bands; each pair is then made sure of by counting the words in which the two rows
differ, and by what differs: a long article that rows share makes no two questions about it the
same. What is kept is about 200 bytes a row; texts are read again from the files.

The system prompt is left out of the comparison: rows share it.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from itertools import compress, count, islice
from operator import eq
from typing import Any, BinaryIO

from finetune_gateway.data.dataset import MAX_LINE, Dataset
from finetune_gateway.errors import MissingDependency
from finetune_gateway.validation.dataset.row_text import Gist, gist_of, gists, key, parsed, words

MAX_ROWS = 1_000_000  # compared; 200 MB
PERMUTATIONS = 128
# Two rows that share a half of their pieces meet in a band with 99.6 %, those that share 0.4 with
# 94 %, unrelated ones (0.05) with 0.5 %.
BANDS, DEPTH = 42, 3
FACT = 6  # different words; an answer of fewer is a name, a number, a class or a call
LONG = 240  # words of a row from which pieces are three words long only
_NEIGHBOURS = 4  # rows of one band that a row is compared with, of so many that are looked at:
_WINDOW = 32
_CROWD = 256  # rows of one band, of which no more are looked at than compared
_TRIES = 20  # of a row; of rows made from one template each is likely to be near every other
_BATCH = 1 << 20  # characters of the rows whose signatures are computed at a time
_WORDS = 20_000  # words of a row that are looked at
_KEPT = 100_000  # words kept while pairs are made sure of


@dataclass(frozen=True, slots=True)
class Pair:
    """Two rows that are nearly the same: line and number of the file of each; ``same``: they
    are equal but for case and spaces."""

    line: int
    earlier: int
    file: int = 0
    earlier_file: int = 0
    same: bool = False


def available() -> bool:
    """Whether near-duplicates can be looked for."""
    return find_spec("rensa") is not None


def allowed(count: int) -> int:
    """In how many words two rows of this many may differ and still be nearly the same.

    Of a short row each word counts: "the capital of France? Paris" and "of Spain? Madrid" are
    two questions. From 15 words on three may differ, of long rows 1 %.
    """
    if count < 15:
        return 0 if count < 6 else 1 if count < 10 else 2
    return max(3, count // 100)


def pairs(datasets: Sequence[Dataset], *, across: bool = False) -> list[Pair]:
    """Each row that nearly repeats an earlier one, with one such earlier row, by line.

    ``across``: only pairs whose rows stand in different files. Equal rows (but for case,
    spaces and punctuation) are pairs too. Raises MissingDependency without the package rensa.
    """
    if not available():
        raise MissingDependency("Looking for near-duplicates", "dedup")
    index = _Index(datasets)
    with ExitStack() as stack:
        files = [stack.enter_context(dataset.path.open("rb")) for dataset in datasets]
        found = index.pairs(_Reader(files, index), across)
        return sorted(found, key=lambda pair: (pair.file, pair.line))


def links(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Lines of rows that belong on one side of a split, each with another one: as many pairs as
    connect all rows that nearly repeat each other. Raises MissingDependency without rensa.
    """
    if not available():
        raise MissingDependency("Looking for near-duplicates", "dedup")
    index = _Index([dataset])
    with dataset.path.open("rb") as file:
        yield from index.links(_Reader([file], index))


class _Index:
    """Where each row stands, its length, a parity of its words, and its bands."""

    def __init__(self, datasets: Sequence[Dataset]) -> None:
        self.files = bytearray()
        self.lines = array("I")
        self.offsets = array("Q")
        self.keys = array("Q")
        self.lengths = array("I")
        self.parities = array("Q")
        self.bands = [array("I") for _ in range(BANDS)]
        every = (
            (number, gist) for number, dataset in enumerate(datasets) for gist in gists(dataset)
        )
        batch: list[tuple[int, Gist]] = []
        size = 0
        for one in islice(every, MAX_ROWS):
            batch.append(one)
            size += len(one[1].prompt) + len(one[1].answer)
            if size > _BATCH:
                self._add(batch)
                batch, size = [], 0
        self._add(batch)

    def __len__(self) -> int:
        return len(self.lines)

    def _add(self, batch: list[tuple[int, Gist]]) -> None:
        sets: list[list[str]] = []
        for number, gist in batch:
            said = said_words(gist)
            self.files.append(number)
            self.lines.append(gist.line)
            self.offsets.append(gist.offset)
            self.keys.append(key(gist.said))
            self.lengths.append(len(said))
            self.parities.append(_parity(said))
            sets.append(_pieces(said))
        for signature in _signatures(sets):
            for number, band in enumerate(self.bands):
                part = signature[number * DEPTH : (number + 1) * DEPTH]
                band.append(hash(tuple(part)) & 0xFFFFFFFF)

    def pairs(self, reader: _Reader, across: bool) -> Iterator[Pair]:
        """The nearest earlier partner for each row that has one."""
        done: set[int] = set()
        for band in range(BANDS):
            best: dict[int, tuple[int, int]] = {}
            for early, late in self._candidates(band, across):
                apart = None if late in done else reader.apart(early, late)
                if apart is not None and (late not in best or apart < best[late][0]):
                    best[late] = apart, early
            for late, (_, early) in best.items():
                done.add(late)
                yield self._pair(early, late)

    def links(self, reader: _Reader) -> Iterator[tuple[int, int]]:
        """Pairs of lines that connect all rows that are nearly the same."""
        heads = array("I", range(len(self)))

        def head(row: int) -> int:
            while heads[row] != row:
                heads[row] = row = heads[heads[row]]
            return row

        for band in range(BANDS):
            for early, late in self._candidates(band):
                one, two = head(early), head(late)
                if one != two and reader.apart(early, late) is not None:
                    heads[max(one, two)] = min(one, two)
                    yield self.lines[early], self.lines[late]

    def limit(self, early: int, late: int) -> int:
        return allowed(max(self.lengths[early], self.lengths[late]))

    def _pair(self, early: int, late: int) -> Pair:
        lines, files = self.lines, self.files
        same = self.keys[early] == self.keys[late]
        return Pair(lines[late], lines[early], files[late], files[early], same)

    def _candidates(self, band: int, across: bool = False) -> Iterator[tuple[int, int]]:
        """Rows equal in a band, each with a few likely ones of those most like it: sorted by the
        bands that follow as well, near rows come to stand side by side."""
        one, two, three = (self.bands[(band + step) % BANDS] for step in range(3))
        files = self.files
        for rows in _equal(one):
            if len(rows) > 2:
                rows.sort(key=lambda row: (two[row] << 32) | three[row])
            window = _WINDOW if len(rows) <= _CROWD else _NEIGHBOURS
            for place, row in enumerate(rows):
                likely = (
                    other
                    for other in islice(rows, place + 1, place + 1 + window)
                    if not (across and files[row] == files[other]) and self._likely(row, other)
                )
                for other in islice(likely, _NEIGHBOURS):
                    yield (row, other) if row < other else (other, row)

    def _likely(self, early: int, late: int) -> bool:
        """Cheap and never wrong about a pair: each word that differs turns one bit at most."""
        limit = self.limit(early, late)
        if abs(self.lengths[early] - self.lengths[late]) > limit + 3:
            return False
        return (self.parities[early] ^ self.parities[late]).bit_count() <= 2 * limit + 3


@dataclass(frozen=True, slots=True)
class _Said:
    """The words of a row, those of its answer, and what names its prompt."""

    words: Counter[str]
    chunks: Counter[str]  # what stands between two spaces
    answer: frozenset[str]
    asked: int

    @property
    def size(self) -> int:
        return len(self.words) + len(self.chunks) + len(self.answer)

    @classmethod
    def of(cls, gist: Gist) -> _Said:
        answer = frozenset(words(gist.answer[: _WORDS * 8]))
        chunks = Counter(gist.said[: _WORDS * 8].casefold().split(" "))
        return cls(Counter(said_words(gist)), chunks, answer, key(gist.prompt))


def _differ(one: Counter[str], two: Counter[str]) -> int:
    return max((one - two).total(), (two - one).total())


def _another(one: _Said, two: _Said) -> bool:
    """Whether few words make another question of it: it is asked otherwise and a short answer is
    another, or one word stands for another throughout (a name in the question and the answer)."""
    brief = 0 < len(one.answer) < FACT and 0 < len(two.answer) < FACT
    if brief and one.asked != two.asked and one.answer != two.answer:
        return True
    gone, come = one.words - two.words, two.words - one.words
    return max(gone.values(), default=0) > 1 and max(come.values(), default=0) > 1


def _equal(values: array[int]) -> Iterator[list[int]]:
    """The places of values that come more than once, those of one value together."""
    order = sorted(range(len(values)), key=values.__getitem__)
    ordered = array("I", map(values.__getitem__, order))
    group: list[int] = []
    # As most values come once, all but the loop's body is done without Python code.
    for at in compress(count(), map(eq, ordered, islice(ordered, 1, None))):
        if group and group[-1] != order[at]:
            yield group
            group = []
        group += order[at + (group != []) : at + 2]
    if group:
        yield group


class _Reader:
    """Reads rows again, and keeps the words of the last ones."""

    def __init__(self, files: Sequence[BinaryIO], index: _Index) -> None:
        self.files, self.index = files, index
        self.kept: OrderedDict[int, _Said] = OrderedDict()
        self.size = 0
        self.tries = bytearray(len(index))

    def apart(self, early: int, late: int) -> int | None:
        """In how many words two rows differ, as ``words`` parts them or as spaces do; None when
        they are not nearly the same, or one was compared with so many others in vain."""
        if self.tries[late] == _TRIES:
            return None
        one, two = self._said(early), self._said(late)
        differ, limit = _differ(one.words, two.words), self.index.limit(early, late)
        if differ > limit:
            differ = _differ(one.chunks, two.chunks)
        if differ > limit or _another(one, two):
            self.tries[late] += 1
            return None
        return differ

    def _said(self, row: int) -> _Said:
        if row in self.kept:
            self.kept.move_to_end(row)
            return self.kept[row]
        file = self.files[self.index.files[row]]
        file.seek(self.index.offsets[row])
        data = parsed(file.readline(MAX_LINE))
        gist = gist_of(data) if data else None
        said = _Said.of(gist) if gist else _Said(Counter(), Counter(), frozenset(), 0)
        self.kept[row] = said
        self.size += said.size
        while self.size > _KEPT and len(self.kept) > 2:
            self.size -= self.kept.popitem(last=False)[1].size
        return said


def said_words(gist: Gist) -> list[str]:
    """The words of a row without its system prompt, so many of them at most."""
    return words(gist.said[: _WORDS * 8])[:_WORDS]


@lru_cache(maxsize=1 << 15)
def _hash(word: str) -> int:
    """The same in each process, unlike ``hash``: a split must not depend on it."""
    return zlib.crc32(word.encode("utf-8", "surrogatepass"))


def _parity(said: Iterable[str]) -> int:
    bits = 0
    for word in said:
        bits ^= 1 << (_hash(word) & 63)
    return bits


def _pieces(said: list[str]) -> list[str]:
    """What a row is compared by: three words each, and in a short row words and pairs, or a
    single changed word would leave little in common. The longer the row the fewer of these are
    taken, in steps: rows on both sides of a step must still meet."""
    pieces: list[str] = []
    if len(said) < LONG:
        every = 0 if len(said) < LONG // 4 else 64 if len(said) < LONG // 2 else 192
        taken = [not _hash(word) & every for word in said]
        pieces += compress(said, taken)
        pieces += map(" ".join, compress(zip(said, said[1:], strict=False), taken))
    if len(said) >= LONG // 8:
        pieces += map(" ".join, zip(said, said[1:], said[2:], strict=False))
    return pieces or [""]


def _signatures(sets: list[list[str]]) -> list[list[int]]:
    from rensa import RMinHash  # here: an extra, and not needed for anything else

    found: Any = RMinHash.digests_from_token_sets(sets, PERMUTATIONS, 1)
    return list(found)
