"""Files that are neither rows nor a text to train on, though a text is what they look like:
subtitles, a table in Markdown, a list in YAML, a log around JSON, a dump of SQL, a page of HTML,
a notebook.

Each is recognised by its whole beginning, line for line, so that prose, poems and code about the
same are texts. Nothing of a file is run or loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.data.column_names import KNOWN, as_argument, normalized
from finetune_gateway.data.row_access import loads_strict

_LOOKED_AT = 200  # lines
_MOST = 0.8  # of the lines have to be what the file is taken for
_FEWEST = 3  # items, cues or lines
_PREFIX = 200  # characters before the JSON of a line of a log

_CUE = re.compile(r"(?:\d+:)?\d\d:\d\d[,.]\d{3} +--> +(?:\d+:)?\d\d:\d\d[,.]\d{3}")
_XML = re.compile(r"\s*<\?xml\s")
_DUMP = re.compile(
    r"-- (?:MySQL|MariaDB|phpMyAdmin SQL) dump|--\s+-- PostgreSQL database dump|"
    r"PRAGMA foreign_keys *= *OFF;\s*BEGIN TRANSACTION;",
    re.IGNORECASE,
)
_INSERT = re.compile(r"(?:INSERT|REPLACE) INTO\s+[^;]*?\bVALUES\s*\(", re.IGNORECASE)
_TABLE = re.compile(
    r"\b(?:CREATE TABLE(?: IF NOT EXISTS)?|INSERT INTO|COPY)\s+[`\"\[]?([\w.]+)", re.IGNORECASE
)
_RULER = re.compile(r"\s*\|?\s*:?-{3,}:?\s*(?:\|\s*:?-{3,}:?\s*)+\|?\s*")
_ITEM = re.compile(r"- +([\w-]+) *:(?: |$)")
_SECOND = re.compile(r"  +([\w-]+) *:(?: |$)")
_LOGGED = re.compile(
    r"\d\d:\d\d|\b(?:TRACE|DEBUG|INFO|NOTICE|WARN|WARNING|ERROR|stdout|stderr)\b|^data:|"
    r"^[\w.-]+ +\|",
    re.IGNORECASE,
)
_NOTEBOOK = re.compile(r'\s*\{\s*"(?:cells|metadata|nbformat|nbformat_minor)"\s*:')
_CELLS = re.compile(r'"cell_type"\s*:\s*"(?:code|markdown|raw)"')
NOTEBOOK = "a notebook (Jupyter)"
_SHORT = ("q", "a")  # names of columns that mean a question and its answer


@dataclass(frozen=True, slots=True)
class OtherFile:
    """``name``: what the file is. ``way``: how to get rows out of it; FILE is the file."""

    name: str
    way: str

    def advice(self, path: Path) -> str:
        """Return what to do with the file at ``path``, with commands for a shell."""
        return self.way.replace("FILE", as_argument(path)) if str(path).isprintable() else self.way


def other_file(text: str, *, whole: bool) -> OtherFile | None:
    """Return what a file is that begins with this text; None for rows, and for a text of its own.
    ``whole``: it is all of the file."""
    lines = text.splitlines()
    lines = (lines if whole else lines[:-1])[:_LOOKED_AT]
    filled = [line for line in lines if line.strip()]
    return next((found for look in _LOOKS if (found := look(text, filled))), None)


def notebook(text: str) -> OtherFile | None:
    """Return what a JSON object is that begins with this text, if it is a notebook of Jupyter.

    https://nbformat.readthedocs.io/en/latest/format_description.html
    """
    if not _CELLS.search(text) or not _NOTEBOOK.match(text):
        return None
    return OtherFile(
        NOTEBOOK,
        "If it makes rows, run it and write them to a file. To train on its cells as text: jq -c "
        "'.cells[]|{text:(.source|if type==\"array\" then add else . end)}|select(.text)' FILE > "
        "cells.jsonl",
    )


def _pointer(text: str, _: Sequence[str]) -> OtherFile | None:
    if not text.startswith("version https://git-lfs."):
        return None
    way = "Fetch the file itself: git lfs pull"
    return OtherFile("a pointer of Git LFS, in place of the file", way)


def _subtitles(text: str, lines: Sequence[str]) -> OtherFile | None:
    cues = sum(1 for line in lines if _CUE.match(line))
    numbered = len(lines) > 1 and lines[0].strip("\ufeff ").isdecimal() and _CUE.match(lines[1])
    kind = "WebVTT" if text.startswith("WEBVTT") and cues else "SRT" if numbered else ""
    if not kind:
        return None
    return OtherFile(
        f"subtitles ({kind})",
        "Take out what is spoken: grep -vE '^[[:space:]]*[0-9]*[[:space:]]*$|-->|^WEBVTT' FILE > "
        "spoken.txt",
    )


def _page(text: str, lines: Sequence[str]) -> OtherFile | None:
    start = lines[0].lstrip("\ufeff \t").lower() if lines else ""
    if _XML.match(text) and not any(map(_XML.match, lines[1:])):
        return OtherFile("XML", "Write what its elements hold as rows, one a line.")
    marks = ("<!doctype html", "<html")
    # Pages one a line are texts to train on.
    if not start.startswith(marks) or any(
        sum(1 for line in lines if line.lstrip().lower().startswith(mark)) > 1 for mark in marks
    ):
        return None
    return OtherFile(
        "a web page (HTML)",
        "If it should be a download, it may be a page to sign in or an error: fetch the file "
        "itself. To train on its words: pandoc -f html -t plain FILE -o words.txt",
    )


def _dump(text: str, lines: Sequence[str]) -> OtherFile | None:
    inserts = sum(len(line) for line in lines if _INSERT.match(line))
    if not _DUMP.match(text) and 2 * inserts <= sum(map(len, lines)):
        return None
    found = _TABLE.search(text)
    table = found[1] if found else "TABLE"
    query = f"'SELECT * FROM {table}'"
    if "PostgreSQL" in text[:200]:
        way = f"psql --csv -c {query} DATABASE > rows.csv"
    elif text[:6].upper() == "PRAGMA":
        way = f"sqlite3 -header -csv DATABASE {query} > rows.csv"
    else:
        way = f"mysql --batch -e {query} DATABASE > rows.tsv"
    return OtherFile("a dump of SQL", f"Export the table itself: {way}")


def _anki(text: str, _: Sequence[str]) -> OtherFile | None:
    """https://docs.ankiweb.net/importing/text-files.html#file-headers"""
    head = re.match(r"\ufeff?#separator:(\w+|.)\r?\n(?:#[\w ]+:.*\n)*(.*)", text)
    if head is None:
        return None
    mark = {"comma": ",", "semicolon": ";", "pipe": "|", "colon": ":", "space": " "}.get(
        head[1].lower(), "\t"
    )
    count = max(head[2].count(mark), 1) - 1
    names = ["front", "back", *(f"column_{number}" for number in range(3, 3 + count))]
    suffix = {",": "csv", ";": "csv", "|": "psv"}.get(mark, "tsv")
    header = ("\\t" if mark == "\t" else mark).join(names)
    return OtherFile(
        "an export of Anki",
        f"Make a table of it, best without HTML: (printf '{header}\\n'; grep -v '^#' FILE) > "
        f"cards.{suffix} && ftg validate cards.{suffix} --map front=prompt,back=completion",
    )


def _markdown(_: str, lines: Sequence[str]) -> OtherFile | None:
    ruler = next((at for at, line in enumerate(lines) if _RULER.fullmatch(line)), 0)
    rows = [line for line in lines[ruler + 1 :] if "|" in line] if ruler else []
    if len(rows) < _FEWEST or "|" not in lines[ruler - 1] or len(rows) + 2 < _MOST * len(lines):
        return None
    return OtherFile(
        "a table in Markdown",
        "Make a table of it: grep '|' FILE | grep -v '^[ |:-]*$' | sed 's/^ *| *//; s/ *| *$//; "
        "s/ *| */|/g' > rows.psv",
    )


def _yaml(_: str, lines: Sequence[str]) -> OtherFile | None:
    """Recognise rows in YAML: items with the same two keys, of which one is a column's name."""
    body = [line for line in lines if not line.startswith(("#", "---", "%YAML"))]
    if not body or not all(line.startswith(("- ", "  ")) for line in body):
        return None
    pairs = [
        (first[1], second[1])
        for line, after in zip(body, body[1:], strict=False)
        if (first := _ITEM.match(line)) and (second := _SECOND.match(after))
    ]
    items = sum(1 for line in body if line.startswith("- "))
    if len(pairs) < _FEWEST or len(set(pairs)) > 1 or len(pairs) < _MOST * items:
        return None
    if not any(normalized(name) in (*KNOWN, *_SHORT) for name in pairs[0]):
        return None
    return OtherFile(
        "a list in YAML",
        "Write its items as rows: python -c 'import json, sys, yaml; [print(json.dumps(row)) for "
        "row in yaml.safe_load(sys.stdin)]' < FILE > rows.jsonl",
    )


def _log(_: str, lines: Sequence[str]) -> OtherFile | None:
    if len(lines) < _FEWEST or sum(map(_is_logged, lines)) < _MOST * len(lines):
        return None
    way = "Cut off what stands before the rows: sed -n 's/^[^{]*{/{/p' FILE > rows.jsonl"
    return OtherFile("a log with JSON in its lines", way)


def _is_logged(line: str) -> bool:
    """Return True for an object behind a time, a level, or the name of who wrote it."""
    start = line.find("{", 0, _PREFIX)
    if start < 1 or not _LOGGED.search(line[:start]):
        return False
    try:
        return isinstance(loads_strict(line[start:]), dict)
    except (ValueError, RecursionError):
        return False


_LOOKS: tuple[Callable[[str, Sequence[str]], OtherFile | None], ...] = (
    _pointer, _subtitles, _page, _dump, _anki, _markdown, _yaml, _log,
)  # fmt: skip
