"""Where the rows of files are and what they are compared by, to find near-duplicates: MinHash
signatures (package ``rensa``) of their groups of words, cut into bands, and the parity of words.

Most near-duplicates in real data come from one template, or differ in a serial number: without
their digits their texts are equal. Such a row is found by one look-up, compared word by word with
the first one like it, and kept as a *copy* of that: 32 bytes, and no signature. All others are
indexed: 200 bytes a row.
"""

from __future__ import annotations

import zlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from itertools import chain, compress
from operator import xor
from typing import Any, BinaryIO

from finetune_gateway.data.dataset import MAX_LINE, Dataset
from finetune_gateway.validation.dataset.row_text import (
    Comparison,
    RowText,
    RowWords,
    compare,
    content_hash,
    conversation_words,
    difference_of,
    extract_row_text,
    iter_row_texts,
    max_difference,
    parse_leniently,
    plain_text,
    text_hash,
)
from finetune_gateway.validation.file_bytes import Lines, Range, cut

BLOCK_BYTES = 20 << 20  # of a part in which copies are looked for, at most
PARALLEL_BYTES = 4 << 20  # files that several processes read
MAX_ROWS = 1_000_000  # rows indexed; takes 200 MB
_BATCH = 1 << 20  # characters of the rows whose signatures are computed together
_CACHED = 8 << 20  # characters kept in memory while rows are compared
PERMUTATIONS = 128
# Probability that two rows share a band: 99.6 % if they have half of their shingles in common,
# 94 % at 0.4, and 0.5 % for unrelated rows (0.05).
BANDS, DEPTH = 42, 3
LONG = 240  # rows of this many words have shingles of three words only
_HASHED = 1 << 15  # words whose hashes are kept


class Copies:
    """Rows that differ from an indexed, earlier one of their part in few words, which are numbers:
    line, offset, hash and parity of each, and the place of the earlier one."""

    def __init__(self) -> None:
        self.lines, self.offsets = array("I"), array("Q")
        self.hashes, self.parities = array("Q"), array("Q")
        self.originals = array("I")

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, row: RowText, row_hash: int, original: int, parity: int) -> None:
        self.lines.append(row.line)
        self.offsets.append(row.offset)
        self.hashes.append(row_hash)
        self.parities.append(parity)
        self.originals.append(original)

    def extend(self, later: Copies, shift: int) -> None:
        """Add those of the part that follows; its indexed rows begin at the place ``shift``."""
        kept = [place for place, row in enumerate(later.originals) if row + shift < MAX_ROWS]
        for name in ("lines", "offsets", "hashes", "parities"):
            values = getattr(later, name)
            own = getattr(self, name)
            own.extend(values if len(kept) == len(values) else (values[place] for place in kept))
        self.originals.extend(later.originals[place] + shift for place in kept)


class Index:
    """File, line and offset of each row, its length, the parity of its words, and its bands; and
    the copies of rows."""

    def __init__(self, datasets: Sequence[Dataset] = ()) -> None:
        """Index all rows of some data: none becomes a copy."""
        self.files = bytearray()
        self.lines, self.offsets, self.hashes = array("I"), array("Q"), array("Q")
        self.lengths = array("I")
        self.limits = array("I")  # words in which a row of this length may differ
        self.parities = array("Q")
        self.bands = [array("I") for _ in range(BANDS)]
        self.copies = Copies()
        self._batch: list[list[str]] = []
        self._size = 0
        for number, dataset in enumerate(datasets):
            for row in iter_row_texts(dataset, counted=False):
                self.add(row, content_hash(row.conversation, row.media), number)
        self.finish()

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, row: RowText, row_hash: int, file: int = 0) -> None:
        """Add a row, unless there are as many as are compared."""
        if len(self) == MAX_ROWS:
            return
        own_words = conversation_words(row)
        self.files.append(file)
        self.lines.append(row.line)
        self.offsets.append(row.offset)
        self.hashes.append(row_hash)
        self.lengths.append(len(own_words))
        self.limits.append(max_difference(len(own_words)))
        self.parities.append(parity_of(own_words))
        self._batch.append(shingles_of(own_words))
        self._size += len(row.prompt) + len(row.answer)
        if self._size > _BATCH:
            self.finish()

    def finish(self) -> None:
        """Compute the bands of the last rows."""
        for bands in bands_of(self._batch) if self._batch else ():
            for band, value in zip(self.bands, bands, strict=True):
                band.append(value)
        self._batch, self._size = [], 0

    def extend(self, later: Index) -> None:
        """Add the rows of the part that follows, as far as rows are compared."""
        left = MAX_ROWS - len(self)
        self.copies.extend(later.copies, len(self))
        self.files += later.files[:left]
        for name in ("lines", "offsets", "hashes", "lengths", "limits", "parities"):
            getattr(self, name).extend(getattr(later, name)[:left])
        for band, more in zip(self.bands, later.bands, strict=True):
            band.extend(more[:left])


def blocks_of(file: int, dataset: Dataset) -> list[Range]:
    """Return the parts of a file in which copies are looked for: 1 to 20 MB each, a number that
    several processes can share. They depend on the size alone, and so does what is found."""
    count = -(-dataset.size // (4 * BLOCK_BYTES)) * 4 if dataset.size >= PARALLEL_BYTES else 1
    return [replace(part, gaps=dataset.is_spooled) for part in cut(file, dataset.size, count)]


def index_with_copies(dataset: Dataset) -> Index:
    """Return an index of all rows of a file."""
    index = Index()
    with dataset.path.open("rb") as file:
        for block in blocks_of(file.fileno(), dataset):
            copies = CopyFinder(index, file)
            for row in iter_row_texts(dataset, Lines(file.fileno(), block), counted=False):
                copies.add(row)
    index.finish()
    return index


class CopyFinder:
    """Adds the rows of one part of a file to an index, or to its copies."""

    def __init__(self, index: Index, file: BinaryIO) -> None:
        self.index, self.reader = index, RowReader([file], index)
        self._first: dict[int, int] = {}  # places of the first rows, by their texts without digits

    def add(self, row: RowText) -> None:
        texts = (plain_text(text) for text in (row.prompt, row.answer))
        plain = " ".join(text for text in texts if text)
        row_hash = text_hash(f"{plain}\0{plain_text(row.media)}")
        raw = f"{plain}\0{row.media}".encode("utf-8", "surrogatepass")
        place = self._first.setdefault(hash(raw.translate(None, b"0123456789")), len(self.index))
        if place >= len(self.index):
            self.reader.keep(row)
        elif self._is_copy(row, row_hash, place):
            return
        self.index.add(row, row_hash)

    def _is_copy(self, row: RowText, row_hash: int, place: int) -> bool:
        """Add the row to the copies of an indexed one, if it is nearly that."""
        index, limit = self.index, self.index.limits[place]
        found = compare(self.reader.indexed(place), RowWords.of(row), limit)
        near = found.near and difference_of(found.changes) <= limit
        if near:
            parity = index.parities[place] ^ parity_of(chain(*found.changes))
            index.copies.add(row, row_hash, place, parity)
        return near


class RowReader:
    """Reads rows again and caches the texts of the last ones."""

    def __init__(self, files: Sequence[BinaryIO], index: Index) -> None:
        self.files, self.index = files, index
        self._cache: OrderedDict[tuple[int, int], RowWords] = OrderedDict()
        self._size = 0

    def compare(self, early: int, late: int) -> Comparison:
        """Compare two indexed rows."""
        limit = max(self.index.limits[early], self.index.limits[late])
        return compare(self.indexed(early), self.indexed(late), limit)

    def indexed(self, place: int) -> RowWords:
        """Return an indexed row."""
        return self._words(self.index.files[place], self.index.offsets[place])

    def copy(self, number: int) -> RowWords:
        """Return a copy of one."""
        return self._words(0, self.index.copies.offsets[number])

    def keep(self, row: RowText) -> None:
        """Keep a row of the first file that was just read."""
        self._keep((0, row.offset), row)

    def _words(self, file_number: int, offset: int) -> RowWords:
        key = file_number, offset
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        file = self.files[file_number]
        file.seek(offset)
        data = parse_leniently(file.readline(MAX_LINE))
        text = extract_row_text(data, counted=False) if data else None
        return self._keep(key, text)

    def _keep(self, key: tuple[int, int], row: RowText | None) -> RowWords:
        own = self._cache[key] = RowWords.of(row) if row else RowWords("")
        self._size += own.size
        while self._size > _CACHED and len(self._cache) > 2:
            self._size -= self._cache.popitem(last=False)[1].size
        return own


# -- signatures --------------------------------------------------------------------------------


class _Hashes(dict[str, int]):
    """Hashes of words, the same in each process: a split must not vary between runs."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _HASHED:
            self.clear()
        made = self[word] = zlib.crc32(word.encode("utf-8", "surrogatepass"))
        return made


class _Flips(dict[str, int]):
    """The bit of 64 that a word flips."""

    def __missing__(self, word: str) -> int:
        if len(self) >= _HASHED:
            self.clear()
        made = self[word] = 1 << (_hash(word) & 63)
        return made


_hash, _flip = _Hashes().__getitem__, _Flips().__getitem__
_STARTS = range(0, BANDS * DEPTH, DEPTH)


def parity_of(own_words: Iterable[str]) -> int:
    """Return 64 bits, of which each word flips one."""
    return reduce(xor, map(_flip, own_words), 0)


def shingles_of(own_words: list[str]) -> list[str]:
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


def bands_of(sets: list[list[str]]) -> list[list[int]]:
    """Return the bands of each row, 32 bits each."""
    from rensa import RMinHash  # here: an extra

    digests: Any = RMinHash.digests_from_token_sets(sets, PERMUTATIONS, 1)
    return [
        [hash(tuple(one[start : start + DEPTH])) & 0xFFFFFFFF for start in _STARTS]
        for one in digests
    ]
