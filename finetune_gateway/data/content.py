"""What a file holds, by its first bytes: the container of its rows and their encoding.

The name decides only between texts that can be read both ways: a line of prose is a row of a
``.txt`` file, and a table without known columns one of a ``.csv`` file, or of a ``.txt`` file in
UTF-16 with as many tabs in each line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_gateway.data.column_names import is_known, normalized
from finetune_gateway.data.json_files import layout_of
from finetune_gateway.text.regex import LazyPattern

if TYPE_CHECKING:
    from finetune_gateway.data.other_files import OtherFile

HEAD = 1 << 16  # bytes read
JSON_LINES = frozenset({".jsonl", ".ndjson", ".jsonlines", ".jl", ".json-lines"})
TABLES = frozenset({".csv", ".tsv", ".tab", ".psv"})
DELIMITERS = "\t;,|"  # of equals, the one rarer in names comes first
_MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"), (b"\x00\x00\xfe\xff", "utf-32"), (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)  # fmt: skip
# Protocols 2 to 5 of Python's pickle; then 0 and 1, which look like a text, of lists and dicts, and
# of the classes that are often at the top.
PICKLES = (
    b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"(lp0\n", b"(lp1\n", b"(dp0\n", b"(dp1\n",
    b"]q\0", b"}q\0", b"ccopy_reg\n", b"c__builtin__\n", b"cnumpy.core.", b"cnumpy._core.",
    b"cpandas.core.",
)  # fmt: skip
_NO_TEXT = (b"{\\rtf", b"%PDF-", *PICKLES)  # though some are made of letters
_NULS = {(False, True): "utf-16-le", (True, False): "utf-16-be"}  # of a character of ASCII
_OBJECT = LazyPattern(r"""\s*\{\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*:""")
_ARRAY = LazyPattern(r"""\s*\[\s*(?:\{\s*["'}]|\[\s*[\[{"])""")
_TEXTS_OF_JSON = LazyPattern(r'\s*"\{\s*\\"[^"\\]+\\"\s*:')  # rows that were encoded twice
_MARKUP = LazyPattern(r"\s*<(?:!doctype|html|\?xml|table)", re.IGNORECASE)
_LOOKED_AT, _FEWEST = 200, 5  # lines of a text that may be rows: looked at, and needed
_ROW = LazyPattern(r"""\s*\[?\s*\{\s*"(?:[^"\\]|\\.)*"\s*:""")
_JSON_LINE = LazyPattern(r"""\s*[{}\[\]"']""")
_QUOTED = LazyPattern('"[^"]*"')
_SEPARATOR = LazyPattern(r'("?)sep=(\\t|.)\1\r?\n?\Z', re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Content:
    """What a file holds: ``container``, a name in ``containers.NAMES``, or "" if nothing is
    recognised, and the ``encoding`` of its text. ``other``: what it is that holds no rows."""

    container: str
    encoding: str = "utf-8-sig"
    other: OtherFile | None = None


def content_of(path: Path, name: Path | None = None) -> Content:
    """Return what a file holds. ``name``: the user's, if it is a copy."""
    suffix = (name or path).suffix.lower()
    with path.open("rb") as file:
        head = file.read(HEAD)
    if head.startswith(b"PAR1"):
        return Content("parquet")
    if is_workbook(head) or (suffix == ".xls" and head.startswith(b"\xd0\xcf\x11\xe0")):
        return Content("excel")
    encoding = _encoding(head)
    text = None if head.startswith(_NO_TEXT) else _text(head, encoding)
    if text is None:
        return Content("", encoding)
    container = _of_text(path, suffix, text, encoding)
    by_name = container in ("", "text") or (container == "csv" and not is_table(text))
    is_object = container == "json-object"
    other = _other(text, is_object, whole=len(head) < HEAD) if by_name or is_object else None
    return Content("" if other else container, encoding, other)


def _other(text: str, is_object: bool, *, whole: bool) -> OtherFile | None:
    from finetune_gateway.data.other_files import notebook, other_file  # most files hold rows

    return notebook(text) if is_object else other_file(text, whole=whole)


def named(path: Path) -> str:
    """Return what a name promises; "" for a name that promises nothing."""
    suffix = path.suffix.lower()
    if suffix in JSON_LINES:
        return "jsonl"
    if suffix in TABLES:
        return "csv"
    names = {".json": "json", ".txt": "text", ".parquet": "parquet"}
    return names.get(suffix, "excel" if suffix in (".xlsx", ".xlsm", ".xls", ".ods") else "")


# -- bytes -------------------------------------------------------------------------------------


def is_workbook(head: bytes) -> bool:
    """Return True for the first bytes of a workbook: a zip file with the parts of one."""
    if not head.startswith(b"PK\x03\x04"):
        return False
    parts = (b"[Content_Types].xml", b"xl/", b"opendocument.spreadsheet")
    return any(part in head[:4096] for part in parts)


def _encoding(head: bytes) -> str:
    for mark, name in _MARKS:
        if head.startswith(mark):
            return name
    wide = _NULS.get((head[:1] == b"\0", head[1:2] == b"\0"), "")
    return wide if wide and _is_utf16(head, wide) else "utf-8-sig"


def _is_utf16(head: bytes, encoding: str) -> bool:
    """Return True for UTF-16 without a mark. Texts may hold NULs too: UTF-16 begins with two
    letters or signs of ASCII, has two bytes for each character, and whole line ends."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        return False
    start = text[:2]
    if not (len(start) == 2 and start.isascii() and start.isprintable()) or "\0" in text:
        return False
    whole = len(head) % 2 == 0 or len(head) == HEAD
    return whole and ("\n" in text or b"\n" not in head)


def _text(head: bytes, encoding: str) -> str | None:
    """Return the head as text; None if it is none. Bytes of Windows-1252 are letters of a kind."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(head)
    except UnicodeDecodeError:
        odd = sum(1 for byte in head if byte < 32 and byte not in b"\t\n\r\f\b\x1b")
        if encoding != "utf-8-sig" or odd * 20 > len(head):
            return None
        return head.decode("utf-8", "replace")


# -- text --------------------------------------------------------------------------------------


def _of_text(path: Path, suffix: str, text: str, encoding: str) -> str:
    if _ARRAY.match(text) or (suffix == ".json" and text.lstrip().startswith("[")):
        return "" if _is_python(text) else "json-array"
    if _OBJECT.match(text) and (suffix != ".txt" or _is_mostly_json(text)):
        if text.lstrip("{ \t\r\n").startswith("'"):
            return ""  # as Python prints it
        return "jsonl" if _is_lines(path, text, encoding) else "json-object"
    if _MARKUP.match(text):
        return "text" if suffix == ".txt" else ""
    if suffix == ".txt" and (_TEXTS_OF_JSON.match(text) or _holds_rows(text)):
        return "jsonl"
    excel = suffix == ".txt" and encoding.startswith("utf-16")  # what its "Unicode text" is
    if suffix in TABLES or is_table(text) or (excel and _has_columns(text)):
        return "csv"
    if suffix == ".txt" and _is_tabbed(text):
        return "csv"
    return "text" if suffix == ".txt" else ""


def _is_mostly_json(text: str) -> bool:
    """Return True if most of the first lines are of JSON, so that this is no prose about it."""
    lines = [line for line in text.split("\n", 20)[:20] if line.strip()]
    return 2 * sum(map(bool, map(_JSON_LINE.match, lines))) > len(lines)


def _holds_rows(text: str) -> bool:
    """Return True if most lines are objects, and others stand before, between or after them."""
    lines = [line for line in text.splitlines()[:_LOOKED_AT] if line.strip()]
    rows = sum(1 for line in lines if _ROW.match(line) and line.rstrip(" ,]").endswith("}"))
    return rows >= _FEWEST and 5 * rows >= 4 * len(lines)


def _is_python(text: str) -> bool:
    """Return True for an array as Python prints it."""
    return re.match(r"\s*\[\s*\{\s*'", text) is not None


def _is_lines(path: Path, text: str, encoding: str) -> bool:
    """Return True if the first object is a row: others follow it, or it holds no rows itself."""
    start = len(text) - len(text.lstrip())
    try:
        end = json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError):  # also an object larger than the head
        end = len(text)
    return bool(text[end:].strip()) or layout_of(path, encoding) is None


# -- tables ------------------------------------------------------------------------------------


def separator_line(line: str) -> str:
    """Return the delimiter that Excel's first line ``sep=;`` names, or ""."""
    match = _SEPARATOR.match(line.strip("\ufeff").rstrip("\r\n"))
    return match[2].replace("\\t", "\t") if match else ""


def delimiter_of(header: str) -> str:
    """Return the most common delimiter of a header."""
    plain = _QUOTED.sub("", header)
    delimiter = max(DELIMITERS, key=plain.count)
    return delimiter if delimiter in plain else ","


def is_table(text: str) -> bool:
    """Return True for lines with the cells of a header in which a column is known."""
    lines = iter(text.splitlines(keepends=True))
    first = next((line for line in lines if line.strip()), "")
    if mark := separator_line(first):
        return mark in DELIMITERS
    delimiter = delimiter_of(first)
    try:
        header = next(csv.reader([first], delimiter=delimiter, strict=True), [])
    except csv.Error:
        return False
    names = [normalized(name) for name in header]
    if len(names) < 2:
        return names == ["messages"] and next(_cells(lines, delimiter), "")[:1] in ("[", "{")
    return (
        len(set(names)) == len(names)
        and any(map(is_known, names))
        and all(len(name) <= 40 for name in names)
    )


def _has_columns(text: str) -> bool:
    """Return True for two or more lines with the same number of tabs, at least one."""
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t", strict=True)
    try:
        widths = [len(cells) for cells in rows if any(map(str.strip, cells))]
    except csv.Error:
        return False
    whole = widths if text.endswith(("\n", "\r")) or len(widths) <= 2 else widths[:-1]
    return len(whole) > 1 and whole[0] > 1 and len({*whole}) == 1


def _is_tabbed(text: str) -> bool:
    """Return True for lines with the same number of tabs, and most with a word in each cell: no
    code, which begins with tabs, and no text with a tab here and there."""
    lines = [line for line in text.splitlines()[:_LOOKED_AT] if line.strip()]
    lines = lines if text.endswith(("\n", "\r")) else lines[:-1]
    widths = {line.count("\t") for line in lines}
    if len(lines) < _FEWEST or len(widths) > 1 or 0 in widths:
        return False
    filled = sum(1 for line in lines if all(map(str.strip, line.split("\t"))))
    return 5 * filled >= 4 * len(lines)


def _cells(lines: Iterator[str], delimiter: str) -> Iterator[str]:
    reader = csv.reader(lines, delimiter=delimiter)
    return (cells[0].lstrip() for cells in reader if cells)
