"""A small table of the rows that were seen."""

from __future__ import annotations

from array import array


class LineTable:
    """A hash table of 64-bit row hashes to lines, for a part of the rows.

    Takes 16 to 21 bytes a row, a dict of hashes over 100. The chance that two of 10 million rows
    collide is 1 in 10^8.
    """

    def __init__(self) -> None:
        self.keys, self.lines, self.count = array("Q", bytes(512)), array("I", bytes(256)), 0

    def add(self, key: int, line: int) -> int:
        """Add a row; return the earlier line of an equal row, or 0."""
        slot = self._slot(key)
        if self.keys[slot]:
            return self.lines[slot]
        self._set(slot, key, line)
        if 4 * self.count > 3 * len(self.keys):
            self._grow()
        return 0

    def _slot(self, key: int) -> int:
        """Return the slot of a key, or the free one it belongs in (linear probing)."""
        keys, slot = self.keys, key % len(self.keys)
        while keys[slot] not in (0, key):
            slot = slot + 1 if slot + 1 < len(keys) else 0
        return slot

    def _set(self, slot: int, key: int, line: int) -> None:
        self.keys[slot], self.lines[slot] = key, line
        self.count += 1

    def _grow(self) -> None:
        old, size = (self.keys, self.lines), len(self.keys) * 5 // 4
        self.keys, self.lines = array("Q", bytes(8 * size)), array("I", bytes(4 * size))
        self.count = 0
        for key, line in zip(*old, strict=True):
            if key:
                self._set(self._slot(key), key, line)
