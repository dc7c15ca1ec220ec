"""Rows that are the same as an earlier one, or nearly: apart from case and white space.

Keeps 16 bytes a row: a checksum of its texts that ignores case, spaces and how the row is written.
The few rows with equal checksums are read again and compared by what is trained of them.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from itertools import islice
from typing import NamedTuple
from zlib import crc32

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_content import (
    both_digests,
    folded_text,
    is_example,
    outline,
    same_digest,
)
from finetune_gateway.text.regex import searcher
from finetune_gateway.validation.dataset.row_text import parse_leniently
from finetune_gateway.validation.file_bytes import read_line

Roles = tuple[str, ...]  # of the messages of a plain row

_SLOTS = 256
# Non-ASCII characters that fold to ASCII ones; all others are dropped.
_FOLDING = "[\u00df\u0130\u0149\u017f\u01f0\u1e96-\u1e9a\u1e9e\u212a\ufb00-\ufb06]"


# Characters that are in NFC in any order and fold to no ASCII one: most texts have no others.
SETTLED = (
    r"\x00-\x7f\u00a0-\u00de\u00e0-\u012f\u0131-\u0148\u014a-\u017e\u0180-\u01ef\u01f1-\u02ff"
    r"\u0400-\u0482\u048a-\u052f\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u2010-\u2027\u2030-\u205e"
    r"\u20a0-\u20bf\u2190-\u2328\u232b-\u27bf\u3001-\u3029\u3041-\u3096\u309b-\u30ff\u3400-\u4dbf"
    r"\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e\U0001f300-\U0001faff"
)

_folds_to_ascii, _is_settled = searcher(_FOLDING), searcher(rf"\A[{SETTLED}]*\z")

# One byte, the rarest, of each character that folds to an ASCII one, or makes one letter with it:
# a text without any of them has the ASCII characters of its folded text, case and spaces aside.
MAY_FOLD = b"\xaa\xc3\xc4\xc5\xc7\xcc\xcd\xe1\xef"
_IN_QUESTION = bytes(byte in MAY_FOLD for byte in range(256))
_LOWER = bytes(range(256)).lower()
_DROPPED = b" \t\n\r\v\f\x1c\x1d\x1e\x1f" + bytes(range(128, 256))


class Duplicate(NamedTuple):
    """A row that repeats an earlier one; ``exact``: it is the same, else nearly."""

    exact: bool
    line: int
    earlier: int


class DuplicateFinder:
    """Finds repeated rows of a file, or of a part of it.

    ``near``: also rows that differ only in case and white space.
    """

    def __init__(self, near: bool = True) -> None:
        self.near = near
        # One array per last byte of the checksums: the checksums; lines; offsets.
        self._keys = [array("I") for _ in range(_SLOTS)]
        self._lines = [array("I") for _ in range(_SLOTS)]
        self._offsets = [array("Q") for _ in range(_SLOTS)]

    def add(
        self, outlines: Iterable[list[str]], lines: Sequence[int], offsets: Sequence[int]
    ) -> None:
        """Add rows in the order of the file: the outline, line and offset of each."""
        self._add_sums(map(self._sum, outlines), lines, offsets)

    def add_plain(
        self,
        roles: Sequence[Roles],
        texts: Sequence[str],
        lines: Sequence[int],
        offsets: Sequence[int],
    ) -> None:
        """Do the same for plain rows: the roles of each, and the texts of all of them in order."""
        self._add_sums(self._plain_sums(roles, texts), lines, offsets)

    def _sum(self, outline: list[str], before: int = 0) -> int:
        """Return a 32-bit checksum that rows share which are the same; with ``near`` also those
        that nearly are. ``before``: that of what stands before."""
        raw = b"".join([text.encode("utf-8", "surrogatepass") for text in outline])
        return crc32(_letters(raw, outline) if self.near else raw, before)

    def _plain_sums(self, orders: Sequence[Roles], texts: Sequence[str]) -> Iterator[int]:
        """Yield that of each plain row."""
        before = {roles: self._sum([*roles]) for roles in set(orders)}
        written, place = map(str.encode, texts), 0
        for roles in orders:
            # One letter that is not ASCII makes a text of two or four bytes a character: the texts
            # are joined as bytes.
            raw, end = b"".join(islice(written, len(roles))), place + len(roles)
            yield crc32(_letters(raw, texts[place:end]) if self.near else raw, before[roles])
            place = end

    def _add_sums(self, sums: Iterable[int], lines: Sequence[int], offsets: Sequence[int]) -> None:
        keys, all_lines, all_offsets = self._keys, self._lines, self._offsets
        for checksum, line, offset in zip(sums, lines, offsets, strict=True):
            slot = checksum & 255
            keys[slot].append(checksum)
            all_lines[slot].append(line)
            all_offsets[slot].append(offset)

    def extend(self, later: DuplicateFinder) -> None:
        """Add the rows of the part that follows."""
        for own, other in (
            (self._keys, later._keys),
            (self._lines, later._lines),
            (self._offsets, later._offsets),
        ):
            for mine, more in zip(own, other, strict=True):
                mine.extend(more)

    def iter_duplicates(self, read: Callable[[int], bytes]) -> Iterator[Duplicate]:
        """Yield every row that repeats an earlier one, in no order; ``read`` returns the row at an
        offset."""
        for slot in range(_SLOTS):
            yield from self._iter_slot(slot, read)

    def first(
        self, read: Callable[[int], bytes], most: int
    ) -> Iterator[tuple[bool, int, list[tuple[int, int]]]]:
        """Yield exact and near duplicates: exact or not, how many rows, and the first of them,
        each with the earlier line it repeats."""
        counts = {True: 0, False: 0}
        kept: dict[bool, list[tuple[int, int]]] = {True: [], False: []}
        for duplicate in self.iter_duplicates(read):
            counts[duplicate.exact] += 1
            first = kept[duplicate.exact]
            first.append((duplicate.line, duplicate.earlier))
            if len(first) > 1000:  # they come in no order, so all must be sorted
                kept[duplicate.exact] = sorted(first)[:most]
        for exact in (True, False):
            if counts[exact]:
                yield exact, counts[exact], sorted(kept[exact])[:most]

    def _iter_slot(self, slot: int, read: Callable[[int], bytes]) -> Iterator[Duplicate]:
        keys, lines, offsets = self._keys[slot], self._lines[slot], self._offsets[slot]
        if len(set(keys)) == len(keys):
            return
        groups: dict[int, list[int]] = {}
        for index, own in enumerate(keys):
            groups.setdefault(own, []).append(index)
        for group in groups.values():
            if len(group) > 1:
                rows = ((lines[index], read(offsets[index])) for index in group)
                yield from _repeated(rows, self.near)


def _repeated(rows: Iterable[tuple[int, bytes]], near: bool) -> Iterator[Duplicate]:
    """Yield the rows that are the same as, or nearly, one before."""
    written: dict[bytes, int] = {}  # by the bytes: most repeated rows are not read
    same: dict[bytes, int] = {}
    nearly: dict[bytes, int] = {}
    for line, raw in rows:
        own = blake2b(raw.strip(), digest_size=16).digest()
        if own in written:
            yield Duplicate(True, line, written[own])
            continue
        found = _first_like(line, raw, same, nearly, near)
        written[own] = found.earlier if found.exact else line
        if found.earlier != line:
            yield found


def _first_like(
    line: int, raw: bytes, same: dict[bytes, int], nearly: dict[bytes, int], near: bool
) -> Duplicate:
    """Return the first row that a row is the same as, else that it nearly is; maybe itself."""
    row = parse_leniently(raw)
    if row is None:
        return Duplicate(True, line, line)
    own, folded_own = both_digests(row) if near else (same_digest(row), b"")
    earlier = same.setdefault(own, line)
    if not near or earlier != line:
        return Duplicate(True, line, earlier)
    return Duplicate(False, line, nearly.setdefault(folded_own, line))


def same_lines(dataset: Dataset) -> Iterator[Duplicate]:
    """Yield every example of a file that is the same as an earlier one, or nearly, in no order."""
    finder = DuplicateFinder()
    for line in dataset.lines():
        if not line.cut and (row := parse_leniently(line.raw)) and is_example(row):
            finder.add([outline(row)], [line.number], [line.offset])
    with dataset.path.open("rb") as file:
        yield from finder.iter_duplicates(lambda offset: read_line(file.fileno(), offset))


def _letters(raw: bytes, texts: Sequence[str]) -> bytes:
    """Return the ASCII characters of folded texts, spaces aside; ``raw``: the texts as bytes.

    Most texts that are not ASCII have the same when they are folded: to look for some bytes takes a
    tenth of the time."""
    if not raw.isascii() and 1 in raw.translate(_IN_QUESTION) and not _is_settled(raw):
        raw = b"".join([_folded(text).encode("utf-8", "surrogatepass") for text in texts])
    return raw.translate(_LOWER, _DROPPED)


def _folded(text: str) -> str:
    """Return a text folded if it has other ASCII characters then."""
    folds = _folds_to_ascii(text) or not unicodedata.is_normalized("NFC", text)
    return folded_text(text) if folds else text
