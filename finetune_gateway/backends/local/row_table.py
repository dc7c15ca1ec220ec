"""Rows of token ids as a trainer takes them, in an Arrow table: 4 bytes a token.

``datasets`` has the same, and imports pandas: 75 MB and 0.4 s of a core. It is imported where TRL
trains, alone. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa


class RowTable:
    """The rows of a table: by their number each a dict of its columns, by name a column."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @property
    def column_names(self) -> list[str]:
        names: list[str] = self.table.column_names
        return names

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, which: int | slice | str) -> Any:
        """Return one row, the columns of some, or a column."""
        if isinstance(which, str):
            return self.table.column(which).to_pylist()
        if isinstance(which, slice):
            start, stop, _ = which.indices(len(self))
            return self.table.slice(start, max(0, stop - start)).to_pydict()
        if not 0 <= which < len(self):
            raise IndexError(f"There is no row {which}.")
        [row] = self.table.slice(which, 1).to_pylist()
        return row

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for batch in self.table.to_batches() for row in batch.to_pylist())

    def longest(self, name: str) -> int:
        """Return the length of the longest list in a column."""
        chunks = self.table.column(name).chunks
        return max((max(one.value_lengths().to_pylist()) for one in chunks if len(one)), default=0)

    def add_column(self, name: str, values: Sequence[Any]) -> RowTable:
        """Return the rows with one column more."""
        return RowTable(self.table.append_column(name, pa.array(values)))

    def shuffled(self, seed: int, count: int) -> RowTable:
        """Return ``count`` rows by lot, those and in the order of ``datasets``."""
        order = np.random.default_rng(seed).permutation(len(self))[:count]
        return RowTable(self.table.take(pa.array(order)))

    def for_trl(self) -> Any:
        """Return the rows as TRL takes them."""
        from datasets import Dataset
        from datasets.table import InMemoryTable

        return Dataset(InMemoryTable(self.table))
