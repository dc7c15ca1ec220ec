"""Rows that are nearly the same: a few words changed, added or left out.

Candidates come from MinHash (package ``rensa``, extra ``[dedup]``) over pieces of two or three
words, cut into bands; each pair is then made sure of by counting the words in which the two rows
differ. What is kept is about 160 bytes a row; texts are read again from the files.

The system prompt is left out of the comparison: rows share it.
"""

from __future__ import annotations

import zlib
from array import array
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from typing import Any, BinaryIO

from finetune_gateway.dataset import MAX_LINE, Dataset
from finetune_gateway.errors import MissingDependency
from finetune_gateway.quality.gist import Gist, gist_of, gists, key, parsed, words

MAX_ROWS = 1_000_000  # compared; 160 MB
PERMUTATIONS = 128
# 32 bands of 4: two rows that share a half of their pieces meet in a band with 87 %, those that
# share 0.7 with 99.98 %, unrelated ones (0.05) with 0.02 %.
BANDS, DEPTH = 32, 4
LONG = 40  # words from which pieces are three words long; else words and pairs of words
_NEIGHBOURS = 4  # rows of one band that a row is compared with
_BATCH = 512  # rows whose signatures are computed at a time
_WORDS = 20_000  # words of a row that are looked at
_KEPT = 2048  # rows kept as words while pairs are made sure of


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
    return 3 if count < 30 else max(4, count // 100)


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
        rows = islice(every, MAX_ROWS)
        while batch := list(islice(rows, _BATCH)):
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
        """One earlier partner for each row that has one."""
        done: set[int] = set()
        for band in range(BANDS):
            for early, late in self._candidates(band):
                if late in done or (across and self.files[early] == self.files[late]):
                    continue
                if self._likely(early, late) and reader.alike(early, late):
                    done.add(late)
                    yield self._pair(early, late)

    def _pair(self, early: int, late: int) -> Pair:
        lines, files = self.lines, self.files
        same = self.keys[early] == self.keys[late]
        return Pair(lines[late], lines[early], files[late], files[early], same)

    def _candidates(self, band: int) -> Iterator[tuple[int, int]]:
        """Rows equal in a band, each with the next few of those most like it: sorted by the
        bands that follow as well, near rows come to stand side by side."""
        one, two, three = (self.bands[(band + step) % BANDS] for step in range(3))
        order = sorted(
            range(len(self)), key=lambda row: (one[row] << 64) | (two[row] << 32) | three[row]
        )
        for place, row in enumerate(order):
            for other in order[place + 1 : place + 1 + _NEIGHBOURS]:
                if one[other] != one[row]:
                    break
                yield (row, other) if row < other else (other, row)

    def _likely(self, early: int, late: int) -> bool:
        """Cheap and never wrong about a pair: each word that differs turns one bit at most."""
        limit = allowed(max(self.lengths[early], self.lengths[late]))
        if abs(self.lengths[early] - self.lengths[late]) > limit:
            return False
        return (self.parities[early] ^ self.parities[late]).bit_count() <= 2 * limit


class _Reader:
    """Reads rows again, and keeps the words of the last ones."""

    def __init__(self, files: Sequence[BinaryIO], index: _Index) -> None:
        self.files, self.index = files, index
        self.kept: OrderedDict[int, Counter[str]] = OrderedDict()

    def alike(self, early: int, late: int) -> bool:
        """Whether two rows differ in no more words than their length allows."""
        one, two = self._words(early), self._words(late)
        limit = allowed(max(self.index.lengths[early], self.index.lengths[late]))
        return max((one - two).total(), (two - one).total()) <= limit

    def _words(self, row: int) -> Counter[str]:
        if row in self.kept:
            self.kept.move_to_end(row)
            return self.kept[row]
        file = self.files[self.index.files[row]]
        file.seek(self.index.offsets[row])
        data = parsed(file.readline(MAX_LINE))
        gist = gist_of(data) if data else None
        counted = Counter(said_words(gist) if gist else ())
        self.kept[row] = counted
        if len(self.kept) > _KEPT:
            self.kept.popitem(last=False)
        return counted


def said_words(gist: Gist) -> list[str]:
    """The words of a row without its system prompt, so many of them at most."""
    return words(gist.said[: _WORDS * 8])[:_WORDS]


def _parity(said: Iterable[str]) -> int:
    bits = 0
    for word in said:
        bits ^= 1 << (zlib.crc32(word.encode("utf-8", "surrogatepass")) & 63)
    return bits


def _pieces(said: list[str]) -> list[str]:
    """What a row is compared by: of a long one three words each, of a short one words and
    pairs, or a single changed word would leave little in common."""
    if len(said) < LONG + 3:
        short = [*said, *map(" ".join, zip(said, said[1:], strict=False))]
        if len(said) <= LONG - 3:
            return short or [""]
    else:
        short = []
    return [*short, *map(" ".join, zip(said, said[1:], said[2:], strict=False))]


def _signatures(sets: list[list[str]]) -> list[list[int]]:
    from rensa import RMinHash  # here: an extra, and not needed for anything else

    found: Any = RMinHash.digests_from_token_sets(sets, PERMUTATIONS, 1)
    return list(found)
