"""Workbooks of Excel and LibreOffice as records of one sheet, by the numbers that it shows.

Imports its reader when a workbook is opened.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.data.column_names import MAIN, normalized
from finetune_gateway.data.reading import Reading
from finetune_gateway.data.tables import Record, table_rows
from finetune_gateway.errors import DataError, MissingDependency
from finetune_gateway.text.quoting import quoted

if TYPE_CHECKING:
    from python_calamine import CalamineSheet

_SHOWN = 8  # names of sheets in a message
_HINT = (
    "Save the sheet as a workbook of its own, or as CSV UTF-8; in Python pass "
    "pandas.read_excel(FILE, sheet_name=NAME)."
)


def workbook_rows(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """Yield row number and JSON of each row of the sheet that holds rows. Raises MissingDependency
    without the extra, DataError if it cannot be read or several sheets hold rows."""
    try:
        from python_calamine import CalamineError, SheetTypeEnum, load_workbook
    except ImportError:
        raise MissingDependency("Reading a workbook (.xlsx)", "excel") from None
    try:
        # Opened here: the reader would go by the name of the file.
        with path.open("rb") as file, load_workbook(file) as book:
            kinds = {one.name: one.typ for one in book.sheets_metadata}
            names = [name for name, kind in kinds.items() if kind == SheetTypeEnum.WorkSheet]
            sheet = _sheet(path, list(map(book.get_sheet_by_name, names)), reading)
            if sheet is not None:
                reading.place = sheet.name
                yield from table_rows(_records(sheet), reading, str(path))
    except (CalamineError, OSError, ValueError, RuntimeError) as exc:
        if isinstance(exc, DataError):
            raise
        raise DataError(
            f"{path} is a workbook, but cannot be read: {str(exc).rstrip('.')}.",
            hint="Open it in Excel or LibreOffice and save it again, or save it as CSV UTF-8.",
        ) from None


def _sheet(path: Path, sheets: list[CalamineSheet], reading: Reading) -> CalamineSheet | None:
    """Return the sheet with rows: the only one with cells, or the only one with known columns."""
    filled = [sheet for sheet in sheets if sheet.end is not None]
    known = [sheet for sheet in filled if _has_known_column(sheet)]
    chosen = filled if len(filled) == 1 else known
    if len(chosen) == 1:
        others = [quoted(one.name) for one in filled if one.name != chosen[0].name]
        if others:
            detail = f"rows are those of the sheet {quoted(chosen[0].name)}; not read: "
            reading.note("sheet_chosen", detail=detail + ", ".join(others[:_SHOWN]))
        return chosen[0]
    if not filled:
        return None
    names = ", ".join(quoted(one.name) for one in (known or filled)[:_SHOWN])
    raise DataError(f"{path} holds several sheets: {names}. Which one is meant?", hint=_HINT)


def _has_known_column(sheet: CalamineSheet) -> bool:
    header = next(_records(sheet), None)
    return header is not None and not MAIN.isdisjoint(map(normalized, header.cells))


def _records(sheet: CalamineSheet) -> Iterator[Record]:
    """Yield the rows that have a cell, each with its number in the sheet."""
    for number, cells in enumerate(sheet.iter_rows(), 1):
        texts = [_text(cell) for cell in cells]
        if any(texts):
            yield Record(number, texts, "\t".join(texts))


def _text(value: Any) -> str:
    """Return a cell as Excel shows a plain one: 42 for 42.0, an ISO date."""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat(" ") if isinstance(value, datetime.datetime) else value.isoformat()
    return value if isinstance(value, str) else str(value)
