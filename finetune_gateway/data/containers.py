"""Containers of rows other than JSON lines: a JSON array, CSV, Parquet, a ``datasets`` folder, a
data frame, rows in memory. Each is read as lines of JSON, one row at a time.

Rows of Arrow lose keys whose value is null: Arrow pads every object with the keys of all others,
and padding cannot be distinguished from data.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from finetune_gateway.data.row_access import loads_strict
from finetune_gateway.errors import DataError, MissingDependency, shown
from finetune_gateway.settings import files

Json = dict[str, Any]

CHUNK = 1 << 20  # characters read at a time
MAX_ROW = 64 << 20  # characters or bytes of one row
_BLANK = re.compile(r"[ \t\r\n]*")
_BREAK = re.compile(r"\r?\n[ \t]*|\r")
# Columns that always hold JSON, and columns that may hold JSON or a text that looks like it: an
# answer to be learned is often JSON itself.
_LISTS = frozenset({
    "messages", "tools", "functions", "conversations", "history", "preferred_output",
    "non_preferred_output",
})  # fmt: skip
_EITHER = frozenset({"prompt", "completion", "chosen", "rejected", "input"})
_QUOTED = re.compile('"[^"]*"')
_TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}

NAMES = {
    "jsonl": "JSON lines",
    "json-array": "a JSON array",
    "csv": "CSV",
    "text": "plain text, a row a line",
    "parquet": "Parquet",
    "datasets-folder": "a folder of the datasets library",
    "datasets": "a datasets.Dataset",
    "pandas": "a pandas frame",
    "rows": "rows in memory",
}


def lines(path: Path, container: str) -> Iterator[str]:
    """Yield the rows of a file or folder as JSON, each on one line.

    Raises DataError if it cannot be read, MissingDependency for Parquet and folders without
    pyarrow.
    """
    if container == "json-array":
        return array_lines(path)
    if container == "csv":
        return _dump_rows(_csv(path), path.name)
    if container == "text":
        return _dump_rows(_text(path), path.name)
    if container == "parquet":
        return _dump_rows(_parquet([path]), path.name)
    return _dump_rows(_folder(path), path.name)


def container_of_object(source: Any) -> str:
    """Return the container of an object in memory, by its attributes: no library is imported."""
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        return "pandas"
    return "datasets" if hasattr(source, "features") else "rows"


def object_lines(source: Any, container: str) -> Iterator[str]:
    """Yield the rows of a frame, a ``datasets.Dataset`` or an iterable of dicts as JSON lines.

    Raises DataError for anything else.
    """
    if isinstance(source, dict):
        raise DataError(
            "A single dict is not a dataset.",
            hint="Pass a list of rows, or one split of a DatasetDict: data['train'].",
        )
    if not hasattr(source, "__iter__"):
        hint = "Pass a path, rows or a Dataset."
        raise DataError(f"{shown(source)} is not a dataset.", hint=hint)
    if container == "pandas":
        frame = source.to_dict(orient="records")
        return _dump_rows(
            ({k: v for k, v in row.items() if not _is_missing(v)} for row in frame), "frame"
        )
    if container == "datasets":
        return _dump_rows((_without_nulls(row) for row in source), "dataset")
    return _dump_rows(source, "rows")


def spooled(rows: Iterable[str], folder: Path, stem: str) -> tuple[Path, str]:
    """Write lines to ``folder/<stem>-<hash>.jsonl`` atomically; return the path and the SHA-256.
    Raises StoreError if they cannot be written, DataError if there is no next row."""
    with files.storing("The rows cannot be written", folder):
        # Not synced: it is written again for whoever needs it.
        return files.write_by_content(
            files.folder(folder),
            _encoded(rows, stem),
            lambda digest: f"{stem}-{digest[:16]}.jsonl",
            fsync=False,
        )


def _encoded(rows: Iterable[str], stem: str) -> Iterator[bytes]:
    try:
        for row in rows:
            yield row.encode() + b"\n"
    except OSError as exc:  # of a file, or of a connection behind an iterable
        raise DataError(f"{stem} cannot be read to its end: {exc}.", hint="Try again.") from exc


# -- a JSON array ------------------------------------------------------------------------------


def array_lines(path: Path) -> Iterator[str]:
    """Yield the elements of a JSON array unchanged, each on one line; memory does not grow with
    the file. Raises DataError if the array is malformed."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield from _ArrayReader(path, file).elements()
        except UnicodeDecodeError:
            raise _unreadable(path, _not_utf8(path)) from None


class _ArrayReader:
    """A JSON array, read a window at a time."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self.path, self.file = path, file
        self.window, self.at = "", 0
        self.line, self.count = 1, 0
        self.decoder = json.JSONDecoder()

    def elements(self) -> Iterator[str]:
        self._expect("[")
        if self._peek() == "]":
            self.at += 1
        else:
            yield self._element()
            while self._expect(",]") == ",":
                yield self._element()
        if self._peek():
            raise self._malformed("there is more after the array")

    def _peek(self) -> str:
        """Return the next character that is not blank; "" at the end."""
        while True:
            blank = _BLANK.match(self.window, self.at)
            self.at = blank.end() if blank else self.at
            if self.at < len(self.window) or not self._more(CHUNK):
                return self.window[self.at : self.at + 1]

    def _expect(self, allowed: str) -> str:
        char = self._peek()
        if not char or char not in allowed:
            actual = repr(char) if char else "the end of the file"
            raise self._malformed(f"expected {' or '.join(allowed)}, not {actual}")
        self.at += 1
        return char

    def _element(self) -> str:
        self._peek()
        self.count += 1
        size = CHUNK
        while True:
            end = self._decode()
            if isinstance(end, int):
                text = self.window[self.at : end]
                self.at = end
                return _BREAK.sub(" ", text)
            if not self._may_continue(end) or not self._more(size):
                raise self._malformed(str(end))
            size *= 2  # decoding starts again from the start of the value: double, to stay linear

    def _decode(self) -> int | ValueError:
        """Return the end of the value at this place, or the error."""
        try:
            end = self.decoder.raw_decode(self.window, self.at)[1]
        except RecursionError:
            raise self._malformed("it is nested too deep") from None
        except ValueError as exc:
            return exc
        # A number may continue in the next window.
        if end == len(self.window) and self.window[end - 1] not in '}]"':
            end -= self.at  # reading on moves the window to this place
            return self._decode() if self._more(CHUNK) else end
        return end

    def _may_continue(self, error: ValueError) -> bool:
        """Return True if more text could complete the value."""
        if len(self.window) - self.at > MAX_ROW:
            return False
        if not isinstance(error, json.JSONDecodeError):
            return "digits" not in str(error)
        if error.msg.startswith("Unterminated"):
            return True
        return error.pos > len(self.window) - 64

    def _more(self, size: int) -> bool:
        text = self.file.read(size)
        self.line += self.window.count("\n", 0, self.at)
        self.window, self.at = self.window[self.at :] + text, 0
        return bool(text)

    def _malformed(self, reason: str) -> DataError:
        line = self.line + self.window.count("\n", 0, self.at)
        row = f"row {self.count}, which begins in line {line}" if self.count else "the array"
        return _unreadable(self.path, f"{row}: {reason}")


# -- CSV, plain text ---------------------------------------------------------------------------


def _csv(path: Path) -> Iterator[Json]:
    limit = csv.field_size_limit(MAX_ROW)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            delimiter = _guess_delimiter(file.readline(CHUNK))
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            names = next(reader, [])
            for cells in reader:
                if any(cells):
                    yield _record(names, cells)
    except UnicodeDecodeError:
        raise _unreadable(path, _not_utf8(path)) from None
    except csv.Error as exc:
        raise _unreadable(path, f"line {reader.line_num}: {exc}") from None
    finally:
        csv.field_size_limit(limit)


def _record(names: list[str], cells: list[str]) -> Json:
    """Return the cells that are not empty, by column name. Raises csv.Error."""
    row: Json = {}
    for index, text in enumerate(cells):
        if text and index >= len(names):
            raise csv.Error("it has more cells than the header")
        if text and names[index] in row:
            raise csv.Error(f"two columns are named {names[index]!r:.60}")
        if text:
            row[names[index]] = _cell(names[index], text)
    return row


def _guess_delimiter(header: str) -> str:
    """Return the most common delimiter of the header; of equals, the one rarer in names."""
    plain = _QUOTED.sub("", header)
    delimiter = max("\t;,", key=plain.count)
    return delimiter if delimiter in plain else ","


def _cell(key: str, text: str) -> Any:
    if key == "label":
        return _TRUTH.get(text.strip().lower(), text)
    if key in _LISTS | _EITHER and text.lstrip()[:1] in ("[", "{"):
        try:
            value = loads_strict(text)
        except (ValueError, RecursionError):
            return text  # a text that begins with a bracket
        return value if key in _LISTS or _holds_messages(value) else text
    return text


def _holds_messages(value: Any) -> bool:
    """Return True if the JSON of a cell is messages, turns, or the input of a pair."""
    if isinstance(value, dict) and "messages" in value:
        return True
    turns = value if isinstance(value, list) else [value]
    return bool(turns) and all(
        isinstance(turn, dict)
        and ({"role", "content"} <= turn.keys() or {"from", "value"} <= turn.keys())
        for turn in turns
    )


def _text(path: Path) -> Iterator[Json]:
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            for line in file:
                if text := line.rstrip("\r\n"):
                    yield {"text": text}
    except UnicodeDecodeError:
        raise _unreadable(path, _not_utf8(path)) from None


# -- Arrow -------------------------------------------------------------------------------------


def _parquet(paths: list[Path]) -> Iterator[Json]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingDependency("Reading Parquet", "local") from None
    for path in paths:
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=256):
                    yield from map(_without_nulls, batch.to_pylist())
        except (ArrowException, OSError) as exc:
            raise _unreadable(path, str(exc).partition("\n")[0]) from None


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
                    yield from map(_without_nulls, batch.to_pylist())
    except (ArrowException, OSError, ValueError, KeyError, TypeError) as exc:
        raise _unreadable(path, str(exc).partition("\n")[0]) from None


# -- rows --------------------------------------------------------------------------------------


def _without_nulls(value: Any) -> Any:
    """Return a value without the null keys of its objects, most of which are padding by Arrow."""
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _dump_rows(rows: Iterable[Any], name: str) -> Iterator[str]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise DataError(
                f"{name}: row {number} is a {type(row).__name__}, not a dict.",
                hint="Pass rows such as {'messages': [...]}, or a path.",
            )
        try:
            yield dumped(row, default=_from_numpy)
        except (TypeError, ValueError, RecursionError) as exc:
            raise DataError(
                f"{name}: row {number} cannot be written as JSON: {exc}.",
                hint="Rows may hold dicts, lists, strings, numbers, booleans and None.",
            ) from None


def dumped(row: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Return a row as JSON on one line; half of a surrogate pair, which UTF-8 cannot hold, as an
    escape."""
    text = json.dumps(row, ensure_ascii=False, separators=(",", ":"), default=default)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row, separators=(",", ":"), default=default)
    return text


def _from_numpy(value: Any) -> Any:
    """Return arrays and numbers of NumPy as lists and numbers. Raises TypeError for others."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is not JSON")


def _not_utf8(path: Path) -> str:
    """Return the place of the first byte that is not UTF-8."""
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            try:
                raw.decode()
            except UnicodeDecodeError as exc:
                byte = raw[exc.start]
                return f"line {number}, byte {exc.start}: 0x{byte:02X} is not UTF-8"
    return "it is not UTF-8"


def _unreadable(path: Path, reason: str) -> DataError:
    return DataError(f"{path} cannot be read: {reason}.", hint="Fix it, or write it as JSONL.")
