"""Why a line is not JSON: common mistakes of people and tools, by where the parser stopped."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable
from typing import Literal

from finetune_gateway.data.around_rows import (
    is_conflict_mark,
    is_fence,
    row_within,
    script_before,
)
from finetune_gateway.data.content import is_table
from finetune_gateway.findings import Defect
from finetune_gateway.text.quoting import hidden, quoted

_SMART = "“”„‟«»‹›‘’‚‛＂"
_WORD = re.compile(r"(?:None|True|False|undefined|nan|inf|-?Infinity|NULL|Null|nil|TRUE|FALSE)\b")
_CUT = re.compile(r"(?:\\|\\?u)[0-9a-fA-F]{0,3}|t(?:r|ru)?|f(?:a|al|als)?|n(?:u|ul)?")
_KEY = re.compile(r"[A-Za-z_$][\w$]*\s*:")
_SPEAKER = re.compile(
    r"\*{0,2}(?:[QA]|Question|Answer|User|Human|Assistant|Frage|Antwort)\s?\d*[:.]\*{0,2} \S"
)
_YAML = re.compile(r"---|- |[\w-]+:(\s|$)")
Unfinished = Literal["", "string", "value"]

_TABLE = (
    "Let --fix read the table: ftg validate old.jsonl --fix new.jsonl. Or name it .csv: then it is "
    "read as it is."
)
_NO_NULS = "Remove them; --fix does: ftg validate old.jsonl --fix new.jsonl"
_UNLISTED = "Remove it; --fix does: ftg validate old.jsonl --fix new.jsonl"
_MAX_COUNTED = 100_000  # values counted on one line
_NEAR = 300  # characters on each side that are searched for personal data


def syntax_defect(text: str, pos: int, message: str) -> tuple[Defect, Unfinished]:
    """Return the defect at ``pos``, and what may continue in the next line.

    ``message``: of ``json.JSONDecodeError``.
    """
    around = row_within(text)
    if "\0" in text:
        column = text.index("\0") + 1
        fix = _NO_NULS if around or not text.strip("\0 \t\r") else ""
        kind = "around" * bool(fix)
        detail = f"{text.count(chr(0))} NUL bytes, column {column}"
        return Defect("nul_byte", detail=detail, fix=fix, kind=kind), ""
    if around:
        detail = f"the line has a row and {around[0]} around it: {quoted(text)}"
        return Defect("not_json", detail=detail, fix=_UNLISTED, kind="around"), ""
    if message == "Extra data":
        return _extra(text, pos), ""
    if message.startswith("Unterminated string"):
        detail = f"the string that starts in column {pos + 1} is not closed"
        return Defect("json_truncated", detail=detail), "string"
    if pos >= len(text.rstrip(" \t\r\n")):
        detail = f"the line ends in column {pos}, unfinished"
        return Defect("json_truncated", detail=detail), "value"
    if _CUT.fullmatch(text.rstrip(" \t\r\n"), pos):
        return Defect("json_truncated", detail="the line ends in the middle of a word"), ""
    return _at(text, pos, message), ""


def _at(text: str, pos: int, message: str) -> Defect:
    for check in _CHECKS:
        if defect := check(text, pos):
            return defect
    if message.startswith("Invalid control character"):
        return _control(text, pos)
    if message.startswith("Invalid \\"):
        return _syntax(text, pos, "an unknown backslash escape", "Double the backslash.")
    return _syntax(text, pos, _explain(text, pos, message))


def _smart(text: str, pos: int) -> Defect | None:
    if text[pos] not in _SMART:
        return None
    char = f"{text[pos]} ({_unicode_name(text[pos])})"
    detail = f"column {pos + 1} has {char} instead of a straight quote"
    return Defect("json_smart_quotes", detail=detail)


def _single(text: str, pos: int) -> Defect | None:
    if text[pos] != "'":
        return None
    return Defect("json_single_quotes", detail=f"a single quote in column {pos + 1}")


def _word(text: str, pos: int) -> Defect | None:
    match = _WORD.match(text, pos)
    if not match or not text.lstrip().startswith(("{", "[")):
        return None
    detail = f"{match.group()} in column {pos + 1} is not JSON"
    return Defect("json_python_literal", detail=detail)


def _comment(text: str, pos: int) -> Defect | None:
    # If a value is missing, the parser stops before the spaces in front of the comment.
    rest = text[pos : pos + 200].lstrip()
    if not rest.startswith(("//", "/*", "#")):
        return None
    return Defect("json_comment", detail=f"a comment in column {pos + 1}: {quoted(rest)}")


def _bom(text: str, pos: int) -> Defect | None:
    if text[pos] != "\ufeff":
        return None
    return Defect("bom_inside", detail=f"a byte order mark in column {pos + 1}")


def _foreign(text: str, pos: int) -> Defect | None:
    """Return a defect if the very first character is wrong: this is another format."""
    return None if text[:pos].strip() else _not_json(text)


def _comma(text: str, pos: int) -> Defect | None:
    before = text[:pos].rstrip()[-1:]
    if text[pos] in "}]" and before == ",":
        return _syntax(text, pos, f"a comma before {text[pos]}", "Remove the comma.")
    if text[pos] == "," and text[pos + 1 :].lstrip()[:1] in ("}", "]"):
        return _syntax(text, pos, "a comma before the closing bracket", "Remove the comma.")
    return None


def _bare_key(text: str, pos: int) -> Defect | None:
    if text[:pos].rstrip()[-1:] in "{," and _KEY.match(text, pos):
        return _syntax(text, pos, "a key without quotes", 'Put keys into double quotes: "key".')
    return None


_CHECKS: tuple[Callable[[str, int], Defect | None], ...] = (
    _bom, _smart, _single, _comment, _word, _foreign, _comma, _bare_key,
)  # fmt: skip


def _explain(text: str, pos: int, message: str) -> str:
    char = text[pos]
    if "delimiter" in message and text[:pos].rstrip()[-1:] == '"':
        return f"{message}; perhaps a quote in the text before it is not escaped"
    if not char.isascii() or not char.isprintable():
        return f"{message}, found U+{ord(char):04X} ({_unicode_name(char)})"
    return message


def _control(text: str, pos: int) -> Defect:
    names = {"\t": "tab", "\r": "carriage return", "\n": "line break"}
    name = names.get(text[pos], f"character U+{ord(text[pos]):04X}")
    return Defect("json_control_char", detail=f"a raw {name} inside a string, column {pos + 1}")


def _extra(text: str, pos: int) -> Defect:
    if "\r" in text[max(0, pos - 4) : pos]:
        return Defect(
            "line_terminator", detail=f"CR line endings: {_count_values(text)} rows in one line"
        )
    if defect := _bom(text, pos) or _comment(text, pos):
        return defect
    if not text.lstrip().startswith(("{", "[")):
        return _not_json(text)
    if text[pos] in "{[":
        return Defect("json_extra_data", detail=f"{_count_values(text)} JSON values on one line")
    if text[pos] == "," and text[pos + 1 :].lstrip()[:1] in ("{", "["):
        return Defect("json_extra_data", detail="objects with commas between them on one line")
    if text.startswith("\\n", pos):
        return Defect("json_extra_data", detail=r"a backslash and an n instead of a line break")
    if not text[pos:].strip(", \t\r\n"):
        return _syntax(text, pos, "a comma after the row", _UNLISTED)
    if not text[pos:].strip("], \t\r\n"):
        return _syntax(text, pos, "the end of an array after the row", _UNLISTED)
    return _syntax(text, pos, "text after the object", "Remove it.")


def _count_values(text: str) -> int:
    """Return the number of JSON values on the line."""
    decoder, pos, count = json.JSONDecoder(), 0, 0
    while pos < len(text) and count < _MAX_COUNTED:
        try:
            _, pos = decoder.raw_decode(text, pos)
        except ValueError:
            break
        count += 1
        while pos < len(text) and text[pos] in " \t\r\n":
            pos += 1
    return count


def _not_json(text: str) -> Defect:
    looks_like = _looks_like(text.strip(" \t\r\n"))
    fix = _TABLE if "looks like" in looks_like and is_table(text) else _WAYS_OUT.get(looks_like, "")
    kind = looks_like if looks_like in _APART else ""
    return Defect("not_json", detail=f"the line {looks_like}: {quoted(text)}", fix=fix, kind=kind)


_POINTER, _FENCE, _SCRIPT, _END, _CONFLICT, _PAGE, _SEQUENCE = (
    "is from a pointer of Git LFS, in place of the file",
    "is a mark of Markdown",
    "begins as a program in JavaScript",
    "is the end of an array",
    "is a mark of a merge conflict in Git",
    "begins a web page (HTML), perhaps one that asks to sign in",
    "begins with a record separator (U+001E), as application/json-seq has it",
)
_SAID = "is a question or an answer as text"
_WAYS_OUT = {
    _SAID: 'Write each question with its answer as a row, {"prompt": ..., "completion": ...}, or '
    "as a line of a CSV file with the columns prompt and completion.",
    _CONFLICT: "Choose one side of each conflict in an editor, and remove the marks.",
    _PAGE: "Download the file itself again, signed in where its page asks for it.",
    _SCRIPT: _UNLISTED,
    _END: _UNLISTED,
    _POINTER: "Fetch the file itself: git lfs pull",
    _FENCE: "Remove it, and what is said outside of the block; --fix does: ftg validate old.jsonl "
    "--fix new.jsonl",
    _SEQUENCE: _UNLISTED,
}
_APART = (_FENCE, _CONFLICT)  # listed apart from other lines that are not JSON


_BEGINS: tuple[tuple[Callable[[str], object], str], ...] = (
    (lambda text: text.startswith(("version https://git-lfs.", "oid sha256:")), _POINTER),
    (lambda text: is_fence(text.encode("utf-8", "replace")), _FENCE),
    (is_conflict_mark, _CONFLICT),
    (script_before, _SCRIPT),
    (lambda text: not text.strip("]; \t"), _END),
    (lambda text: text.startswith("\x1e"), _SEQUENCE),
    (lambda text: text[:14].lower().startswith(("<!doctype html", "<html")), _PAGE),
    (lambda text: text.startswith("<"), "looks like XML or HTML"),
)


def _looks_like(text: str) -> str:
    for matches, what in _BEGINS:
        if matches(text):
            return what
    if _SPEAKER.match(text):
        return _SAID
    if _YAML.match(text):
        return "looks like YAML"
    for mark, name in ((",", "CSV"), ("\t", "a table (TSV)"), (";", "CSV with semicolons")):
        # A table has no space after most of its marks, a sentence does.
        if text.count(mark) > 2 * text.count(mark + " "):
            return f"looks like {name}"
    return "is plain text"


def _syntax(text: str, pos: int, error: str, fix: str = "") -> Defect:
    around = text[max(0, pos - _NEAR) : pos + _NEAR]
    # A part of personal data would not be recognized, so the whole context is searched.
    near = f", near {quoted(text[max(0, pos - 20) : pos + 20])}" if hidden(around) == around else ""
    return Defect(
        "json_syntax", detail=f"not valid JSON in column {pos + 1}: {error}{near}", fix=fix
    )


def _unicode_name(char: str) -> str:
    return unicodedata.name(char, "unnamed character").lower()
