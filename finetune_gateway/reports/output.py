"""Printing and formatting shared by all text reports: results on stdout, messages on stderr."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
import textwrap
import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from finetune_gateway.text.cleaning import visible

STYLES = {
    "error": "31",
    "warning": "33",
    "note": "2",
    "ok": "32",
    "bold": "1",
    "dim": "2",
    "trained": "4;32",  # underlined too, to be readable without colours
    "trained too": "4;92",  # every other token, to show where one ends
    "cut": "9;2",
}
# What a line of its own begins with that is to be pasted into a shell.
COMMANDS = (
    "ftg ", "grep ", "sed ", "jq ", "python -c ", "mysql ", "psql ", "sqlite3 ", "pandoc ",
    "(printf ",
)  # fmt: skip
# A command in a sentence: after a colon, up to its end. And a list of names.
_WORD = r"""(?:[^\s'".;,)]|[.;,)](?![.;,)]*(?:\s|$))|'[^'\n]*'|"[^"\n]*")+"""
_COMMAND = re.compile(
    rf"(?:(?<=: )|^(?=.* --))(?:ftg|pip|export|az|jq|hf)(?: (?!\(){_WORD})+", re.MULTILINE
)
_ITEM = r"[^\s,;:]+(?: [^\s,;:]+){0,2}"
_LIST = re.compile(rf"(?<=: )(?:{_ITEM}, ){{4,}}{_ITEM}")
_BLANK = "\ue000"  # stands for a blank at which no line ends
_DURATIONS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


# -- printing ------------------------------------------------------------------------------


def print_result(text: str = "") -> None:
    """Print a part of the result on stdout; on a terminal wrapped at words."""
    print(fold(escape_controls(text), terminal_width()) if sys.stdout.isatty() else text)


def print_message(text: str, *, quiet: bool = False) -> None:
    """Print progress or a hint on stderr, unless ``quiet``; on a terminal wrapped at words."""
    if not quiet:
        text = escape_controls(text)
        _write_stderr(fold(text, terminal_width()) if sys.stderr.isatty() else text)


def _write_stderr(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:  # nobody reads it, or its disk is full: the result and the exit code count more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def print_warning(text: str, *, quiet: bool = False) -> None:
    """Print a warning on stderr, unless ``quiet``."""
    print_message(f"{apply_style('warning:', 'warning', sys.stderr)} {text}", quiet=quiet)


def print_json(document: Any) -> None:
    """Print the whole result as one indented JSON document."""
    print(json.dumps(replace_non_finite(document), indent=2, default=str))


def print_json_line(document: Any) -> None:
    """Print one JSON document of a stream."""
    print(json.dumps(replace_non_finite(document), default=str), flush=True)


def print_error(
    kind: str, message: str, hint: str, code: int, *, json_wanted: bool = False, **more: Any
) -> None:
    """Print an error and a hint on stderr, or as one line of JSON on stdout."""
    if json_wanted:
        error = {"type": kind, "message": message, "hint": hint, "code": code}
        print_json_line({"error": error, **more})
        return
    print_message(f"{apply_style('error:', 'error', sys.stderr)} {visible(message)}")
    if hint:
        print_message(f"{apply_style('hint:', 'dim', sys.stderr)}  {visible(hint)}")


def replace_non_finite(value: Any) -> Any:
    """Return the value with None for NaN and infinity, which JSON cannot hold."""
    if isinstance(value, dict):
        return {key: replace_non_finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [replace_non_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def escape_controls(text: str) -> str:
    """Return the text with ``\\u`` escapes for what steers the terminal or hides text, except our
    own colours: a log line or a file's name must do neither."""
    own = "|".join(re.escape(f"\x1b[{code}m") for code in [*STYLES.values(), "0"])
    parts = re.split(f"({own})", text.replace("\r\n", "\n"))
    return "".join(part if number % 2 else visible(part) for number, part in enumerate(parts))


# -- layout --------------------------------------------------------------------------------


def apply_style(text: str, style: str, stream: TextIO | None = None) -> str:
    """Return the text in colour, or as it is without a terminal or with NO_COLOR."""
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def terminal_width() -> int:
    """Return the columns of the terminal: at least 40, and 80 without one."""
    columns = shutil.get_terminal_size((0, 0)).columns or _stderr_columns()
    return max(40, columns or 80)


def _stderr_columns() -> int:
    """Return the columns of stderr, for a result that goes into a pipe; 0 without a terminal."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError):
        return 0


def display_width(text: str) -> int:
    """Return the columns that a text takes: two for a wide character, none for our colours."""
    text = re.sub("\x1b\\[[0-9;]*m", "", text)
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(one) in "WF" for one in text)
    return len(text) + wide - sum(unicodedata.combining(one) > 0 for one in text)


def fold(text: str, width: int) -> str:
    """Return the text with lines that are too long wrapped at words, under their first word; after
    ``error:`` and the like, under the second. A command in a line of its own, to be copied, is not
    wrapped."""
    return "\n".join(_fold_line(line, width) for line in text.split("\n"))


def _fold_line(line: str, width: int) -> str:
    if display_width(line) <= width or line.lstrip(" ").startswith(COMMANDS) and line[:2] == "  ":
        return line
    lead, *words = re.findall(r"\s+|\S+\s*", _kept_whole(line))
    labelled = re.fullmatch(r"(?:\x1b\[[0-9;]*m)?(?:error|hint|warning|note):.*", lead.rstrip())
    indent = " " * (display_width(lead) if labelled or lead.isspace() else 0)
    lines = [lead]
    for word in words:
        if display_width(lines[-1] + word.rstrip()) > width and lines[-1].strip():
            lines.append(indent)
        lines[-1] += word
    return "\n".join(one.rstrip().replace(_BLANK, " ") for one in lines)


def _kept_whole(text: str) -> str:
    """Return the text with its commands, and the names in a list, each as one word: a command is
    there to be copied."""
    text = _COMMAND.sub(lambda found: found[0].replace(" ", _BLANK), text)
    return _LIST.sub(lambda found: re.sub("(?<!,) ", _BLANK, found[0]), text)


def terminal_height() -> int:
    """Return the lines of the terminal: at least 20, and 24 without one."""
    return max(20, shutil.get_terminal_size((80, 24)).lines)


def wrap_text(text: str, indent: str = "", first: str | None = None) -> str:
    """Return the text wrapped at the terminal's width; a command in it stays on one line.

    ``indent`` starts every line; ``first``, if given, starts the first line instead.
    """
    width, start = terminal_width(), indent if first is None else first
    text = _kept_whole(text)
    if start.strip() and len(start) + len(text.split(" ")[0]) > width and _BLANK in text:
        return f"{start.rstrip()}\n{wrap_text(text.replace(_BLANK, ' '), indent or '  ')}"
    filled = textwrap.fill(
        text,
        width,
        initial_indent=start,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )
    return filled.replace(_BLANK, " ")


def elide(text: str, width: int) -> str:
    """Return the text without its middle where it is longer: ``gpt-4.1-m…2025-04-14``."""
    if len(text) <= width:
        return text
    tail = (width - 1) // 2
    return f"{text[: width - 1 - tail]}…{text[len(text) - tail :]}"


def format_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """Return rows in aligned columns; those whose heads are in ``right`` align right. On a terminal
    that is too narrow for them, return each row as lines of a head and a value."""
    listed = [*rows]
    table = align_table(head, listed, right)
    if max(map(len, table.splitlines())) > terminal_width() and sys.stdout.isatty():
        return "\n\n".join(_stacked(head, row) for row in listed)
    return table


def align_table(head: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """Return rows in aligned columns, as ``format_table`` does, however wide they are."""
    lines = [[*head], *([*row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    sides = [">" if name in right.split() else "<" for name in head]
    return "\n".join(
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def _stacked(head: Sequence[str], row: Sequence[str]) -> str:
    indent = max(map(len, head)) + 2
    pairs = zip(head, row, strict=True)
    return "\n".join(
        wrap_text(cell or "-", " " * indent, f"{name:{indent}}") for name, cell in pairs
    )


# -- figures -------------------------------------------------------------------------------


def format_count(count: int, word: str) -> str:
    """Return ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units: ``8 min 41 s``."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, length in _DURATIONS:
        if left >= length or (unit == "s" and not parts):
            parts.append(f"{left // length} {unit}")
            left %= length
        elif parts:
            break
    return " ".join(parts[:2])


def format_age(moment: float) -> str:
    """Return how long ago a time was, in one unit: ``5 min ago``."""
    return f"{' '.join(format_duration(time.time() - moment).split()[:2])} ago"


def format_timestamp(moment: float) -> str:
    """Return the local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def format_bytes(count: float) -> str:
    """Return a number of bytes in the largest unit that fits: ``1.5 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1000:  # 0.98 of the next one, rather than four digits
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def params_text(params: Mapping[str, Any]) -> str:
    """Return a backend's own settings: ``warmup_steps=10, optimizer="adam"``."""
    pairs = (f"{name}={json.dumps(value)}" for name, value in params.items())
    return visible(", ".join(pairs))
