"""What every command prints: results on stdout, all other words on stderr."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, TextIO

STYLES = {
    "error": "31",
    "warning": "33",
    "note": "2",
    "ok": "32",
    "bold": "1",
    "dim": "2",
    "trained": "4;32",  # underlined too: it is read without colours
    "trained too": "4;92",  # every other token, so that one sees where they end
    "cut": "9;2",
}
_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def show(text: str = "") -> None:
    """A line of the result."""
    print(clean(text) if sys.stdout.isatty() else text)


def say(text: str, *, quiet: bool = False) -> None:
    """A line beside the result: progress, a hint."""
    if not quiet:
        print(clean(text), file=sys.stderr, flush=True)


def warn(text: str) -> None:
    say(f"{paint('warning:', 'warning', sys.stderr)} {text}")


def emit(document: Any) -> None:
    """One JSON document, indented when it is the whole result."""
    print(json.dumps(finite(document), indent=2, default=str))


def emit_line(document: Any) -> None:
    """One JSON document of a stream."""
    print(json.dumps(finite(document), default=str), flush=True)


def error(
    kind: str, message: str, hint: str, code: int, *, json_wanted: bool = False, **more: Any
) -> None:
    """Say what went wrong and what to do next: on stderr, or as one line of JSON on stdout, which
    may be the last of a stream."""
    if json_wanted:
        told = {"type": kind, "message": message, "hint": hint, "code": code}
        emit_line({"error": told, **more})
        return
    say(f"{paint('error:', 'error', sys.stderr)} {message}")
    if hint:
        say(f"{paint('hint:', 'dim', sys.stderr)}  {hint}")


def finite(value: Any) -> Any:
    """The same, with NaN and infinity as null: JSON has no word for them."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def clean(text: str) -> str:
    """Without the control characters of others: a log line or a model's answer must not steer
    the terminal. Our own colours pass."""
    own = {f"\x1b[{code}m": f"\0{i}\0" for i, code in enumerate([*STYLES.values(), "0"])}
    text = text.replace("\0", "")
    for code, mark in own.items():
        text = text.replace(code, mark)
    text = "".join(c for c in text if c in "\n\t\0" or (c >= " " and not "\x7f" <= c <= "\x9f"))
    for code, mark in own.items():
        text = text.replace(mark, code)
    return text


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Coloured on a terminal, unless NO_COLOR is set."""
    stream = stream or sys.stdout
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb" or not stream.isatty()
    return text if plain else f"\x1b[{STYLES[style]}m{text}\x1b[0m"


def width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return max(40, shutil.get_terminal_size((80, 24)).columns)


def wrapped(text: str, indent: str = "", first: str | None = None) -> str:
    """Text broken at the terminal's width, with an indent."""
    return textwrap.fill(
        text,
        width(),
        initial_indent=indent if first is None else first,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: str = "") -> str:
    """Rows in aligned columns; those whose heads are in ``right`` are aligned right."""
    lines = [[*head], *([*row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    sides = [">" if name in right.split() else "<" for name in head]
    return "\n".join(
        "  ".join(
            f"{cell:{side}{size}}" for cell, side, size in zip(line, sides, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def span(seconds: float) -> str:
    """A duration in its two largest units: ``8 min 41 s``."""
    left = max(0, round(seconds))
    parts: list[str] = []
    for unit, size in _UNITS:
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts[:2])


def ago(moment: float) -> str:
    """How long ago, in one unit."""
    return f"{' '.join(span(time.time() - moment).split()[:2])} ago"


def clock(moment: float) -> str:
    """Local date and time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def size(count: float) -> str:
    """Bytes in the largest unit of 1024 that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def usd(amount: Any) -> str:
    """Money: two decimals, or three digits of a small sum; never by way of a float."""
    value = Decimal(str(amount))
    digits = 2 if value >= 1 or not value else 2 - value.adjusted()
    shown = f"{value:,.{digits}f}"
    while digits > 2 and shown.endswith("0"):
        shown, digits = shown[:-1], digits - 1
    return f"${shown}"
