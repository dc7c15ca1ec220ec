"""Rows that repeat an earlier one, as they stand or but for case, spaces and the order of keys.

Keeps 20 bytes a row. The sums that are kept of each row are the same for two rows that are equal
but for these; the few rows with equal sums are read again to be sure.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple
from unicodedata import is_normalized
from zlib import adler32, crc32

from finetune_gateway.text.regex import searcher
from finetune_gateway.validation.detectors import folded, folded_row

_SLOTS = 256
# What folding may remove, and half of the escapes that it reads as a space.
_DROPPED = b"\\ntrNTR \t\r\v\f\x1c\x1d\x1e\x1f"
# Characters beyond ASCII that fold to ASCII ones; the others add nothing to the sums.
_FOLDING = "[\u00df\u0130\u0149\u017f\u01f0\u1e96-\u1e9a\u1e9e\u212a\ufb00-\ufb06]"


_folds_to_ascii = searcher(_FOLDING)


def _weights(name: str) -> bytes:
    """A weight for each byte, the same for both cases; 0 for what may be dropped. They look
    random: rows that differ in their digits alone would meet if digits had weights in a line."""
    random = b"".join(blake2b(f"{name} {part}".encode()).digest() for part in range(4))
    return bytes(
        0 if byte > 127 or byte in _DROPPED else max(1, random[ord(chr(byte).lower())])
        for byte in range(256)
    )


_ONE, _OTHER = _weights("one"), _weights("other")


class Repeat(NamedTuple):
    """A row that repeats an earlier one; ``exact``: as it stands."""

    exact: bool
    line: int
    earlier: int


class Repeats:
    """The rows of one file, or of a part of it. ``near``: also those that are equal but for
    case, spaces and the order of keys, which takes five times as long."""

    def __init__(self, near: bool = True) -> None:
        self.near = near
        # By the last byte of the sums: the sums and a checksum; the lines; the offsets.
        self._keys = [array("Q") for _ in range(_SLOTS)]
        self._lines = [array("I") for _ in range(_SLOTS)]
        self._offsets = [array("Q") for _ in range(_SLOTS)]

    def add(self, raws: Sequence[bytes], line: int, offset: int) -> int:
        """Remember rows that follow one another: their bytes without line feeds, the line of the
        first, and where its bytes begin. Returns where the next row begins."""
        near, keys, lines, offsets = self.near, self._keys, self._lines, self._offsets
        for number, raw in enumerate(raws, line):
            bare = raw.strip()
            sums = _sums(raw) if near else adler32(bare)
            slot = sums & 255
            keys[slot].append(sums << 32 | crc32(bare))
            lines[slot].append(number)
            offsets[slot].append(offset)
            offset += len(raw) + 1
        return offset

    def extend(self, later: Repeats) -> None:
        """Add the rows of the part that follows."""
        for own, other in (
            (self._keys, later._keys),
            (self._lines, later._lines),
            (self._offsets, later._offsets),
        ):
            for mine, more in zip(own, other, strict=True):
                mine.extend(more)

    def found(self, read: Callable[[int], bytes]) -> Iterator[Repeat]:
        """Every row that repeats an earlier one, in no order; ``read`` gives the row that begins
        at an offset."""
        for slot in range(_SLOTS):
            yield from self._slot(slot, read)

    def _slot(self, slot: int, read: Callable[[int], bytes]) -> Iterator[Repeat]:
        keys, lines = self._keys[slot], self._lines[slot]
        sums = [key >> 32 for key in keys]
        if len(set(sums)) == len(sums):
            return
        groups: dict[int, list[int]] = {}
        for index, own in enumerate(sums):
            groups.setdefault(own, []).append(index)
        for group in groups.values():
            if len(group) > 1:
                yield from self._group([(keys[i], lines[i], i) for i in group], slot, read)

    def _group(
        self, rows: list[tuple[int, int, int]], slot: int, read: Callable[[int], bytes]
    ) -> Iterator[Repeat]:
        alike = len({key for key, _, _ in rows}) == 1
        seen: dict[int, int] = {}  # by the row as it stands
        first: dict[bytes, int] = {}  # by the folded row
        for key, line, index in rows:
            if key in seen:
                yield Repeat(True, line, seen[key])
                continue
            seen[key] = line
            if alike or not self.near:
                continue
            fold = _digest(read(self._offsets[slot][index]))
            if fold in first:
                yield Repeat(False, line, first[fold])
            first.setdefault(fold, line)


def _sums(raw: bytes) -> int:
    """32 bits that are equal for rows with equal folded text, in whatever order its pieces stand:
    two sums of weighted bytes."""
    if not raw.isascii():
        text = raw.decode("utf-8", "replace")
        if _folds_to_ascii(text) or not is_normalized("NFC", text):
            raw = folded(text).encode()  # its ASCII characters are others than those of the row
    low = adler32(raw.translate(_OTHER)) & 0xFFFF
    return (adler32(raw.translate(_ONE)) & 0xFFFF) << 16 | low


def _digest(raw: bytes) -> bytes:
    fold = folded_row(raw.decode("utf-8", "replace"))
    return blake2b(fold.encode("utf-8", "replace"), digest_size=16).digest()
