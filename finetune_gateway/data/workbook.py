"""Workbooks of Excel and LibreOffice as records of one sheet, by the numbers that it shows.

Imports its reader when a workbook is opened.
"""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import astuple
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.data.column_names import MAIN, normalized
from finetune_gateway.data.reading import Observation, Reading
from finetune_gateway.data.tables import Record, table_rows
from finetune_gateway.errors import DataError, MissingDependency
from finetune_gateway.settings import interpreter
from finetune_gateway.settings.process_limits import limit_memory
from finetune_gateway.text.quoting import quoted

if TYPE_CHECKING:
    from python_calamine import CalamineSheet, CalamineWorkbook

MEMORY = 4 << 30  # bytes of address space
_SHOWN = 8  # names of sheets in a message
_HINT = (
    "Save the sheet as a workbook of its own, or as CSV UTF-8; in Python pass "
    "pandas.read_excel(FILE, sheet_name=NAME)."
)


def workbook_rows(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """Yield row number and JSON of each row of the sheet that holds rows. Raises MissingDependency
    without the extra, DataError if it cannot be read or several sheets hold rows.

    The reader runs in a process of its own: it makes place for every cell up to the last one, so
    that a file of 2 kB with a cell in the last row and column takes 400 GB, and ends the process
    that it runs in.
    """
    if not find_spec("python_calamine"):
        raise MissingDependency("Reading a workbook (.xlsx)", "excel")
    process = subprocess.Popen(
        interpreter.call(__name__, serve.__name__),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdin and process.stdout  # for the type checker: they are pipes
    try:
        process.stdin.write(json.dumps(str(path)).encode() + b"\n")
        process.stdin.close()
        for line in process.stdout:
            message = json.loads(line)
            if isinstance(message, list):
                yield message[0], message[1]
            elif "error" in message:
                raise DataError(message["error"], hint=message["hint"])
            else:
                reading.place = message["place"]
                for one in message["observations"]:
                    reading.observations[one[0], one[1]] = Observation(*one)
                return
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    raise DataError(
        f"{path} is a workbook, but cannot be read: it takes more than "
        f"{MEMORY >> 30} GB of memory, or its reader fails.",
        hint="A cell far below or beside the others may do it: copy the rows to a new sheet, or "
        "save it as CSV UTF-8.",
    )


def serve() -> None:
    """Read the workbook whose path is on stdin; write its rows, and how they were read or what is
    wrong, to stdout, a line each."""
    path = Path(json.loads(sys.stdin.readline()))
    limit_memory(MEMORY)
    reading = Reading("excel", numbering="row")
    try:
        for row in _rows(path, reading):
            _tell(row)
    except DataError as exc:
        _tell({"error": exc.message, "hint": exc.hint})
    else:
        found = [astuple(one) for one in reading.observations.values()]
        _tell({"place": reading.place, "observations": found})


def _tell(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")


def _rows(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    from python_calamine import CalamineError, SheetTypeEnum, load_workbook

    try:
        # Opened here: the reader would go by the name of the file.
        with path.open("rb") as file, load_workbook(file) as book:
            kinds = {one.name: one.typ for one in book.sheets_metadata}
            names = [name for name, kind in kinds.items() if kind == SheetTypeEnum.WorkSheet]
            sheet = _sheet(path, [_opened(path, book, name) for name in names], reading)
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


def _opened(path: Path, book: CalamineWorkbook, name: str) -> CalamineSheet:
    from python_calamine import CalamineError

    try:
        return book.get_sheet_by_name(name)
    except CalamineError as exc:
        why = "it is listed, but its cells are not in the file" if str(exc) == name else str(exc)
        raise DataError(
            f"The sheet {quoted(name)} of {path} cannot be read: {why.rstrip('.')}.",
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
