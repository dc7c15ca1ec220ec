"""What a row is compared by: MinHash signatures (package ``rensa``) of its groups of words, cut
into bands, and the parity of its words."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from functools import reduce
from itertools import compress
from operator import xor
from typing import Any

PERMUTATIONS = 128
# Probability that two rows share a band: 99.6 % if they have half of their shingles in common,
# 94 % at 0.4, and 0.5 % for unrelated rows (0.05).
BANDS, DEPTH = 42, 3
LONG = 240  # rows of this many words have shingles of three words only
_HASHED = 1 << 15  # words whose hashes are kept


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
