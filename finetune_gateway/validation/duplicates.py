"""Rows that repeat an earlier one, exactly or apart from case, spaces and the order of keys.

Keeps 20 bytes a row: checksums that ignore case, spaces and order. The few rows with equal
checksums are read again and compared.
"""

from __future__ import annotations

import json
import unicodedata
from array import array
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple
from zlib import adler32, crc32

from finetune_gateway.text.regex import searcher

_SLOTS = 256
# Bytes that folding may remove, and the letters of the escapes that it reads as a space.
_DROPPED = b"\\ntrNTR \t\r\v\f\x1c\x1d\x1e\x1f"
# Non-ASCII characters that fold to ASCII ones; all others have weight 0.
_FOLDING = "[\u00df\u0130\u0149\u017f\u01f0\u1e96-\u1e9a\u1e9e\u212a\ufb00-\ufb06]"


# Characters that are in NFC in any order and fold to no ASCII one: most texts have no others.
SETTLED = (
    r"\x00-\x7f\u00a0-\u00de\u00e0-\u012f\u0131-\u0148\u014a-\u017e\u0180-\u01ef\u01f1-\u02ff"
    r"\u0400-\u0482\u048a-\u052f\u05d0-\u05ea\u0621-\u063a\u0641-\u064a\u2010-\u2027\u2030-\u205e"
    r"\u20a0-\u20bf\u2190-\u2328\u232b-\u27bf\u3001-\u3029\u3041-\u3096\u309b-\u30ff\u3400-\u4dbf"
    r"\u4e00-\u9fff\uac00-\ud7a3\uff01-\uff5e\U0001f300-\U0001faff"
)

_folds_to_ascii, _is_settled = searcher(_FOLDING), searcher(rf"\A[{SETTLED}]*\z")


def _weights(name: str) -> bytes:
    """Return a weight for each byte, equal for both cases, 0 for bytes that folding may drop.

    The weights are pseudo-random: with consecutive weights for digits, rows that differ only in
    digits would collide.
    """
    random = b"".join(blake2b(f"{name} {part}".encode()).digest() for part in range(4))
    return bytes(
        0 if byte > 127 or byte in _DROPPED else max(1, random[ord(chr(byte).lower())])
        for byte in range(256)
    )


_FIRST, _SECOND = _weights("one"), _weights("other")


class Duplicate(NamedTuple):
    """A row that repeats an earlier one; ``exact``: byte for byte, outer spaces aside."""

    exact: bool
    line: int
    earlier: int


class DuplicateFinder:
    """Finds repeated rows of a file, or of a part of it.

    ``near``: also rows that differ only in case, spaces and the order of keys, which takes five
    times as long.
    """

    def __init__(self, near: bool = True) -> None:
        self.near = near
        # One array per last byte of the checksums: checksums with a CRC; lines; offsets.
        self._keys = [array("Q") for _ in range(_SLOTS)]
        self._lines = [array("I") for _ in range(_SLOTS)]
        self._offsets = [array("Q") for _ in range(_SLOTS)]

    def add(self, raws: Sequence[bytes], line: int, offset: int) -> int:
        """Add consecutive rows: their bytes without line feeds, line and offset of the first.
        Return the offset of the next row."""
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

    def _iter_slot(self, slot: int, read: Callable[[int], bytes]) -> Iterator[Duplicate]:
        keys, lines = self._keys[slot], self._lines[slot]
        sums = [key >> 32 for key in keys]
        if len(set(sums)) == len(sums):
            return
        groups: dict[int, list[int]] = {}
        for index, own in enumerate(sums):
            groups.setdefault(own, []).append(index)
        for group in groups.values():
            if len(group) > 1:
                yield from self._iter_group([(keys[i], lines[i], i) for i in group], slot, read)

    def _iter_group(
        self, rows: list[tuple[int, int, int]], slot: int, read: Callable[[int], bytes]
    ) -> Iterator[Duplicate]:
        all_exact = len({key for key, _, _ in rows}) == 1
        exact_lines: dict[int, int] = {}  # first line by key
        folded_lines: dict[bytes, int] = {}  # first line by the hash of the folded row
        for key, line, index in rows:
            if key in exact_lines:
                yield Duplicate(True, line, exact_lines[key])
                continue
            exact_lines[key] = line
            if all_exact or not self.near:
                continue
            digest = _folded_digest(read(self._offsets[slot][index]))
            if digest in folded_lines:
                yield Duplicate(False, line, folded_lines[digest])
            folded_lines.setdefault(digest, line)


def _sums(raw: bytes) -> int:
    """Return a 32-bit checksum that rows with equal folded text share, in any order of its pieces:
    two sums of weighted bytes."""
    if not raw.isascii() and not _is_settled(raw):
        text = raw.decode("utf-8", "replace")
        if _folds_to_ascii(text) or not unicodedata.is_normalized("NFC", text):
            raw = folded(text).encode()  # its ASCII characters differ from those of the row
    low = adler32(raw.translate(_SECOND)) & 0xFFFF
    return (adler32(raw.translate(_FIRST)) & 0xFFFF) << 16 | low


def _folded_digest(raw: bytes) -> bytes:
    text = folded_row(raw.decode("utf-8", "replace"))
    return blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


_LONG = 1 << 20  # characters; splitting a longer row into words would take 30 bytes for each


def folded(text: str) -> str:
    """Return the text of a row with case and spaces folded, so that near copies are equal."""
    if len(text) > _LONG:
        return text
    plain = text.replace("\\n", " ").replace("\\t", " ").replace("\\r", " ")
    plain = plain if plain.isascii() else unicodedata.normalize("NFC", plain)
    spaced = " ".join(plain.casefold().split())
    return spaced.replace('" ', '"').replace(' "', '"')  # also at the ends of strings


def folded_row(text: str) -> str:
    """Return the folded text of a row after sorting its keys and removing spaces between tokens.
    A text that is not an object is only folded."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError):
        row = None
    return folded(json.dumps(_ordered(row), ensure_ascii=False) if isinstance(row, dict) else text)


def _ordered(value: Any) -> Any:
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (folded(key), key))
        return {key: _ordered(value[key]) for key in keys}
    return [_ordered(one) for one in value] if isinstance(value, list) else value
