"""Rows in memory: an iterable of dicts, a dict of columns, a frame, a table, a dataset. Each is
read as lines of JSON, one row at a time, and no library is imported for it.
"""

from __future__ import annotations

import datetime
import decimal
import inspect
import math
from collections.abc import Generator, Iterable, Iterator, Mapping
from types import GeneratorType
from typing import Any, TypeGuard

from finetune_gateway.data.reading import Reading
from finetune_gateway.data.row_access import dumped
from finetune_gateway.errors import DataError, shown
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]
Placed = Iterator[tuple[int, str]]  # line in the user's file, or 0 for the next; the row as JSON
Generated = Generator[tuple[int, str], None, None]

# Names that a mapping gives to parts of a dataset, rather than to columns.
_SPLITS = frozenset(
    {"train", "training", "test", "testing", "valid", "validation", "val", "dev", "eval"}
)
_SPEAKERS = frozenset({"role", "from"})  # keys of a message
_SHOWN = 12  # names in a message


def container_of_object(source: Any) -> str:
    """Return the container of an object in memory, by its attributes."""
    if isinstance(source, Mapping):
        return "columns"
    if hasattr(source, "iter_rows") and hasattr(source, "columns"):
        return "polars"
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        return "pandas"
    if hasattr(source, "to_batches") and hasattr(source, "column_names"):
        return "arrow"
    return "datasets" if hasattr(source, "features") else "rows"


def object_rows(source: Any, container: str, reading: Reading) -> Generated:
    """Yield the rows of an object in memory as JSON.

    An iterator is read once: one that was used up before is named, and a generator that cannot be
    read to its end is closed, so that nothing takes its other rows for all. Raises DataError for
    that, and for what is no dataset.
    """
    rows: Iterable[Json]
    if container == "columns":
        return unplaced(dump_rows(with_lists(_of_columns(source), reading), "mapping"))
    if container == "polars":
        rows = map(without_missing, source.iter_rows(named=True))
        return unplaced(dump_rows(with_lists(rows, reading), "frame"))
    if container == "pandas":
        require_unique(list(source.columns), "frame")
        rows = map(without_missing, source.to_dict(orient="records"))
        return unplaced(dump_rows(with_lists(rows, reading), "frame"))
    if container == "arrow":
        require_unique(list(source.column_names), "table")
        batches = source.to_batches(max_chunksize=256)
        rows = (without_nulls(row) for batch in batches for row in batch.to_pylist())
        return unplaced(dump_rows(with_lists(rows, reading), "table"))
    if container == "datasets":
        found = with_lists((without_nulls(row) for row in source), reading)
        return unplaced(dump_rows(found, "dataset"))
    _require_rows(source)
    if isinstance(source, Iterator):
        return _iterator_rows(source)
    return unplaced(dump_rows(source, "rows"))


def unplaced(rows: Iterable[str]) -> Generated:
    """Yield rows of which only the order is known."""
    return ((0, row) for row in rows)


def _require_rows(source: Any) -> None:
    if hasattr(source, "__aiter__"):
        raise DataError(
            "An asynchronous iterator is not read.",
            hint="Collect its rows: [row async for row in rows].",
        )
    if hasattr(source, "collect") and hasattr(source, "lazy"):
        raise DataError("A lazy frame has no rows yet.", hint="Pass frame.collect().")
    if not hasattr(source, "__iter__"):
        raise DataError(
            f"{shown(source)} is not a dataset.",
            hint="Pass a path, an open file, bytes, rows or a Dataset.",
        )


# -- iterators ---------------------------------------------------------------------------------


_AGAIN = "It can be read once: make it anew for each call, or pass a list, or Dataset.open(rows)."


def _iterator_rows(source: Iterator[Any]) -> Generated:
    rows = _once(source)
    try:
        yield from unplaced(dump_rows(rows, "rows"))
    finally:  # not left to the garbage collector: an error that is kept would keep it open
        rows.close()


def _once(rows: Iterator[Any]) -> Generator[Any, None, None]:
    """Yield what an iterator gives from where it stands."""
    state = inspect.getgeneratorstate(rows) if isinstance(rows, GeneratorType) else ""
    if state == inspect.GEN_CLOSED:
        raise DataError("The generator is used up: it was read before.", hint=_AGAIN)
    if state == inspect.GEN_RUNNING:
        raise DataError("The generator is being read by another thread.", hint=_AGAIN)
    is_empty = True
    try:
        for row in rows:
            is_empty = False
            yield row
    finally:
        if isinstance(rows, GeneratorType):
            rows.close()
    if is_empty and state != inspect.GEN_CREATED:
        raise DataError("The iterator gives no rows: it may have been read before.", hint=_AGAIN)


# -- mappings ----------------------------------------------------------------------------------


def is_row(source: object) -> TypeGuard[Json]:
    """Return True for a mapping that is a single row: a cell is no list, or a list of messages."""
    return isinstance(source, Mapping) and any(map(_is_cell, source.values()))


def _is_cell(value: Any) -> bool:
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__len__"):
        return True
    first = next(iter(value), None)
    return isinstance(first, Mapping) and bool(_SPEAKERS & first.keys())


def _of_columns(columns: Mapping[Any, Any]) -> Iterator[Json]:
    """Yield the rows of a mapping of columns, without the cells that are missing."""
    names = list(columns)
    _require_no_splits(columns, names)
    if is_row(columns):
        raise DataError(
            "A dict of this form is a single row, not a dataset.",
            hint="Pass a list of rows: [row]; or a dict of columns, each a list with a cell a row.",
        )
    if not all(isinstance(name, str) for name in names):
        odd = next(name for name in names if not isinstance(name, str))
        raise DataError(f"The name of a column is a text, not {shown(odd)}.", hint="Rename it.")
    lengths = {name: len(columns[name]) for name in names}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{quoted(name)} {n:,}" for name, n in [*lengths.items()][:_SHOWN])
        raise DataError(
            f"The columns have different numbers of cells: {listed}.",
            hint="Each column has a cell for every row; None where a row has none.",
        )
    for cells in zip(*columns.values(), strict=True):
        yield without_missing(dict(zip(names, cells, strict=True)))


def _require_no_splits(columns: Mapping[Any, Any], names: list[Any]) -> None:
    """Raise DataError for parts of a dataset, by their names: a ``DatasetDict``, or one by hand."""
    parts = [str(name) for name in names if _is_part(name, columns[name])]
    if not names:
        raise DataError("The mapping is empty: it has no columns.", hint="Pass a list of rows.")
    if len(parts) < len(names):
        return
    train = next((one for one in parts if one.startswith("train")), parts[0])
    other = next((one for one in parts if one != train), None)
    held_out = f", and validation=data[{other!r}]" if other else ""
    raise DataError(
        f"This is a dataset in parts: {', '.join(map(quoted, parts[:_SHOWN]))}.",
        hint=f"Pass one of them: data[{train!r}]{held_out}.",
    )


def _is_part(name: Any, value: Any) -> bool:
    if hasattr(value, "features") or hasattr(value, "columns"):  # a dataset, a frame
        return True
    return str(name).lower() in _SPLITS and not isinstance(value, str | bytes)


# -- rows --------------------------------------------------------------------------------------


def without_nulls(value: Any) -> Any:
    """Return a value without the null and NaN keys of its objects, most of which are padding by
    Arrow and pandas."""
    if isinstance(value, dict):
        kept = ((key, inner) for key, inner in value.items() if not _is_missing(inner))
        return {key: without_nulls(inner) for key, inner in kept}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def without_missing(row: Json) -> Json:
    """Return a row without the cells of its table that are missing."""
    return {key: value for key, value in row.items() if not _is_missing(value)}


def with_lists(rows: Iterable[Json], reading: Reading) -> Iterator[Json]:
    """Yield rows with the lists of messages that are written as texts."""
    # Imported here: most data are files of JSON lines, which have no cells.
    from finetune_gateway.data.cells import MESSAGES, cell_value

    for number, row in enumerate(rows, 1):
        for key in MESSAGES & row.keys():
            if isinstance(row[key], str):
                row[key], is_python = cell_value(key, row[key])
                if is_python:
                    reading.note("cell_python", number, path=key)
        yield row


def require_unique(names: list[Any], name: str) -> None:
    """Raise DataError for two columns of one name: one would be lost."""
    twice = next((one for at, one in enumerate(names) if one in names[:at]), None)
    if twice is not None:
        raise DataError(
            f"{name} cannot be read: two columns are named {quoted(twice)}.",
            hint="Rename one of them, or remove it.",
        )


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def dump_rows(rows: Iterable[Any], name: str) -> Iterator[str]:
    """Yield rows as JSON. Raises DataError for what is no dict, or has no JSON."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(
                f"{name}: row {number} is a {type(row).__name__}, not a dict.",
                hint="Pass rows such as {'messages': [...]}, or a path.",
            )
        try:
            yield dumped(row, default=_plain)
        except (TypeError, ValueError, RecursionError) as exc:
            raise DataError(
                f"{name}: row {number} cannot be written as JSON: {exc}.",
                hint="Rows may hold dicts, lists, strings, numbers, booleans and None.",
            ) from None


def _plain(value: Any) -> Any:
    """Return arrays and numbers of NumPy as lists and numbers, dates and decimals as texts. Raises
    TypeError for others."""
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal | datetime.timedelta):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")
