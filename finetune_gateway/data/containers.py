"""Files of rows other than JSON lines: a JSON array, CSV, Parquet, a ``datasets`` folder. Each is
read as lines of JSON, one row at a time.

Rows of Arrow lose keys whose value is null: Arrow pads every object with the keys of all others,
and padding cannot be distinguished from data.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_gateway.data import content
from finetune_gateway.data.content import Content
from finetune_gateway.data.memory import (
    Placed,
    dump_rows,
    require_unique,
    unplaced,
    with_lists,
    without_nulls,
)
from finetune_gateway.data.reading import OTHER_FILE, Reading
from finetune_gateway.data.row_access import dumped, loads_strict
from finetune_gateway.errors import DataError, MissingDependency
from finetune_gateway.settings import files
from finetune_gateway.text.quoting import hidden, quoted

# Imported where they are needed: what reads one container. Most files are JSON lines.

Json = dict[str, Any]

CHUNK = 1 << 20  # bytes read at a time
MAX_PIECE = 64 << 20  # bytes of one line that are looked at

TABLES = ("csv", "excel")
NAMES = {
    "jsonl": "JSON lines",
    "json-array": "a JSON array",
    "json-object": "a JSON object",
    "csv": "CSV",
    "excel": "a workbook",
    "text": "plain text, a row a line",
    "parquet": "Parquet",
    "datasets-folder": "a folder of the datasets library",
    "datasets": "a datasets.Dataset",
    "pandas": "a pandas frame",
    "polars": "a polars frame",
    "arrow": "an Arrow table",
    "columns": "a dict of columns",
    "rows": "rows in memory",
}


def written(path: Path, held: Content, source: Path, folder: Path) -> tuple[Path, str, Reading]:
    """Write the rows of a file to ``folder`` as JSON lines; return that file, its SHA-256, and how
    the rows were read. ``source``: the user's file, of which ``path`` may be a copy."""
    by_line = True
    while True:
        reading = reading_of(source, held)
        reading.numbering = "line" if by_line else "row"
        try:
            rows = rows_of(path, held.container, held.encoding, reading)
            return *spooled(rows, folder, source.stem, by_line=by_line), reading
        except OutOfLine:
            by_line = False
        except DataError as exc:
            raise _of_source(exc, path, source) from exc.__cause__


def _of_source(exc: DataError, path: Path, source: Path) -> DataError:
    """Return an error that names the user's file, not our copy of it, which does not last."""
    message, hint = (
        text.replace(str(path), str(source)).replace(path.name, source.name)
        for text in (exc.message, exc.hint)
    )
    return DataError(message, hint=hint, report=exc.report)


def reading_of(path: Path, held: Content) -> Reading:
    """Return the reading of a file, with a note if its name promises something else."""
    reading = Reading(held.container or "jsonl")
    if held.other is not None:
        detail = f"the file is {held.other.name}, not rows to train on"
        reading.note(OTHER_FILE, detail=detail, fix=held.other.advice(path), blocks=True)
    promised = content.named(path)
    if held.container in ("", promised) or not promised:
        return reading
    if promised != "json" or not held.container.startswith("json"):
        name = NAMES[held.container]
        detail = f"the file is named {path.suffix}, but holds {name}; it was read as that"
        reading.note("container_name", detail=detail)
    return reading


def read_from(reading: Reading) -> str:
    """Return what rows were read from, and what their lines are, in words."""
    name = NAMES[reading.container]
    if reading.container == "excel":
        return f"the sheet {quoted(reading.place)} of {name}: lines are its rows"
    if reading.numbering == "line":
        return f"{name}: lines are those of the file"
    return f"{name}: lines are rows, in their order"


def rows_of(path: Path, container: str, encoding: str, reading: Reading) -> Placed:
    """Yield the rows of a file or folder as JSON, each on one line, with its line in the file; what
    they no longer show is noted in ``reading``.

    Raises DataError if it cannot be read, MissingDependency for Parquet and folders without
    pyarrow, and for a workbook without its reader.
    """
    if container in ("parquet", "datasets-folder"):
        reading.numbering = "row"
        rows = _parquet([path]) if container == "parquet" else _folder(path)
        return unplaced(dump_rows(with_lists(rows, reading), path.name))
    if container == "excel":
        from finetune_gateway.data.workbook import workbook_rows

        reading.numbering = "row"
        return workbook_rows(path, reading)
    _note_encoding(path, encoding, reading)
    return _text_rows(path, container, encoding, reading)


def _text_rows(path: Path, container: str, encoding: str, reading: Reading) -> Placed:
    from finetune_gateway.data import json_files

    if container == "csv":
        from finetune_gateway.data.csv_file import csv_rows

        return csv_rows(path, encoding, reading)
    if container == "json-array":
        return json_files.array_rows(path, encoding, reading)
    if container == "json-object":
        return _object_rows(path, encoding, reading)
    return _lines(path, encoding, is_json=container == "jsonl")


def _object_rows(path: Path, encoding: str, reading: Reading) -> Placed:
    from finetune_gateway.data import json_files

    layout = json_files.layout_of(path, encoding)
    if layout is None:  # it has changed since it was recognised
        raise _unreadable(path, "it holds no rows")
    reading.place = layout.place
    if layout.form not in ("rows", "index"):
        reading.numbering = "row"
    reading.note(layout.code, detail=layout.detail)
    rows = json_files.object_rows(path, encoding, layout, reading)
    return map(_without_number, rows) if layout.numbered else rows


def _without_number(placed: tuple[int, str]) -> tuple[int, str]:
    """Return a row without the number that pandas gave it."""
    line, text = placed
    row = loads_strict(text)
    if type(row.get("index")) is not int:
        return placed
    del row["index"]
    return line, dumped(row)


def _lines(path: Path, encoding: str, *, is_json: bool) -> Placed:
    from finetune_gateway.data import json_reader

    with json_reader.opened(path, encoding, newline="\n") as file:
        for number, line in enumerate(json_reader.lines_of(file), 1):
            if text := line.rstrip("\r\n"):
                yield number, text if is_json else dumped({"text": text})


class OutOfLine(Exception):
    """Two rows are on one line."""


def spooled(rows: Placed, folder: Path, stem: str, *, by_line: bool) -> tuple[Path, str]:
    """Write rows to ``folder/<stem>-<hash>.jsonl`` atomically, each to its line; return the path
    and the SHA-256.

    So a line in a finding is one of the user's file. ``by_line``: False to write them one after the
    other. Raises OutOfLine if they cannot be written by line, StoreError if they cannot be written
    at all, DataError if there is no next row.
    """
    with files.storing("The rows cannot be written", folder):
        # Not synced: it is written again for whoever needs it.
        return files.write_by_content(
            files.folder(folder),
            _encoded(rows, stem, by_line=by_line),
            lambda digest: f"{stem}-{digest[:16]}.jsonl",
            fsync=False,
        )


def _encoded(rows: Placed, stem: str, *, by_line: bool) -> Iterator[bytes]:
    last = 0
    try:
        for line, row in rows:
            if by_line and line:
                if line <= last:
                    raise OutOfLine
                if line > last + 1:
                    yield b"\n" * (line - last - 1)
                last = line
            yield row.encode() + b"\n"
    except OSError as exc:  # of a file, or of a connection behind an iterable
        raise DataError(f"{stem} cannot be read to its end: {exc}.", hint="Try again.") from exc


# -- text --------------------------------------------------------------------------------------


def _note_encoding(path: Path, encoding: str, reading: Reading) -> None:
    """Note what the text is written in. Raises DataError if it is no encoding we know."""
    if encoding != "utf-8-sig":
        name = encoding.upper().removesuffix("-LE").removesuffix("-BE")
        reading.note("encoding_converted", detail=f"the file is {name}; it was read as that")
        _require_decodable(path, encoding)
        return
    if _is_utf8(path):
        return
    from finetune_gateway.text.windows_1252 import read_windows_1252

    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_PIECE):
            number += 1
            try:
                raw.decode()
            except UnicodeDecodeError as exc:
                text = read_windows_1252(raw)
                place = f"byte {exc.start} is 0x{raw[exc.start]:02X}, which is not UTF-8"
                if text is None:
                    raise _foreign(path, f"line {number}: {place}, nor Windows-1252") from None
                around = _around(text, exc.start)
                reading.note(
                    "encoding_not_utf8",
                    number,
                    detail=f"{place}; in Windows-1252 it reads {around}",
                    fix="Save it as UTF-8 (in Excel: CSV UTF-8), or let --fix read it as "
                    "Windows-1252: ftg validate old.jsonl --fix new.jsonl",
                    blocks=True,
                )


def _around(text: str, at: int) -> str:
    whole = text[max(0, at - 300) : at + 300]
    near = text[max(0, at - 20) : at + 20].strip()
    return quoted(near if hidden(whole) == whole else text[at : at + 1])


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        try:
            while chunk := file.read(CHUNK):
                decoder.decode(chunk)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


def _require_decodable(path: Path, encoding: str) -> None:
    try:
        with path.open(encoding=encoding) as file:
            while file.read(CHUNK):
                pass
    except UnicodeError as exc:
        raise _foreign(path, f"it begins as {encoding}, but is not throughout: {exc}") from None


def _foreign(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} cannot be read: {reason}.",
        hint=f"Save it as UTF-8, for example: iconv -f ENCODING -t UTF-8 {path.name} > new",
    )


# -- Arrow -------------------------------------------------------------------------------------


def _parquet(paths: list[Path]) -> Iterator[Json]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingDependency("Reading Parquet", "local") from None
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                require_unique(file.schema_arrow.names, path.name)
                for batch in file.iter_batches(batch_size=256):
                    yield from map(_without_index, map(without_nulls, batch.to_pylist()))
        except DataError:
            raise
        except (ArrowException, ArithmeticError, OSError, ValueError) as exc:
            raise _unreadable(path, str(exc).partition("\n")[0]) from None


def _without_index(row: Json) -> Json:
    """Return a row without the number that pandas gave it."""
    row.pop("__index_level_0__", None)
    return row


def _folder(path: Path) -> Iterator[Json]:
    """Yield the rows of a folder by ``Dataset.save_to_disk``, or of a folder of Parquet files."""
    if not (path / "state.json").exists():
        yield from _parquet(sorted(path.glob("*.parquet")))
        return
    try:
        from pyarrow import ArrowException, ipc, memory_map
    except ImportError:
        raise MissingDependency("Reading a datasets folder", "local") from None
    try:
        names = json.loads((path / "state.json").read_bytes())["_data_files"]
        for name in names:
            with memory_map(str(path / Path(name["filename"]).name)) as source:
                for batch in ipc.open_stream(source):
                    require_unique(batch.schema.names, path.name)
                    yield from map(without_nulls, batch.to_pylist())
    except DataError:
        raise
    except (
        ArrowException,
        ArithmeticError,
        OSError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
    ) as exc:
        raise _unreadable(path, str(exc).partition("\n")[0]) from None


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read: {reason}.", hint="Fix it, or write it as JSONL.")
