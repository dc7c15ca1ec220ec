"""Texts of the data for pages: bounded, personal data and keys masked, nothing hidden.

Knows texts; knows nothing of rows. The template ``text.html`` draws the pieces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import groupby
from typing import NamedTuple

from finetune_gateway.text import pii

# Characters read beyond those shown, so that no cut hides a key from its pattern.
MARGIN = 10_000

Span = tuple[int, int, str]  # from, to, what is shown instead


class Piece(NamedTuple):
    """A part of a text that is drawn in one way; ``here`` is the place a finding is about."""

    text: str
    kind: str = ""  # masked, odd (characters that do not print), cut
    here: bool = False


# In JSON as written a line break before a number is a letter; two spaces take as much room.
_ESCAPES = re.compile(r"\\[nrtbf]")
_KEY_BLOCK = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END \1-----|\Z)", re.DOTALL
)
# What does not print. Joiners in scripts and emoji stay between characters beyond ASCII.
_ODD = re.compile(
    r"(?:(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff])+"
)


def excerpt(text: str, limit: int, at: int | None = None) -> list[Piece]:
    """Return the beginning of a text; with ``at``, the part around that place, which is marked."""
    start = 0 if at is None else max(0, at - limit // 3)
    stop = min(len(text), start + limit)
    pieces = [_omission(start)] if start else []
    pieces += _pieces(text, start, stop, at)
    return [*pieces, _omission(len(text) - stop)] if stop < len(text) else pieces


def short_text(text: str, limit: int = 400) -> list[Piece]:
    """Return a short text, such as a message, cut at ``limit`` without a word on it."""
    return [*_plain(masked(text[: limit + MARGIN])[:limit])]


def masked(text: str) -> str:
    """Return a short text with personal data and keys masked."""
    parts, done = [], 0
    for start, end, mask in sensitive_spans(text):
        parts += [text[done:start], mask]
        done = end
    return "".join([*parts, text[done:]])


def sensitive_spans(text: str) -> list[Span]:
    """Return where personal data and keys are, in order, without overlaps."""
    spans = [(*m.span(), f"-----BEGIN {m[1]}----- (a key)") for m in _KEY_BLOCK.finditer(text)]
    spaced = _ESCAPES.sub("  ", text)
    for variant in {text, spaced}:
        for _, value in pii.find_pii(variant):
            mask = pii.masked(value)
            spans += [(at, at + len(value), mask) for at in _occurrences(variant, value)]
    return list(_without_overlaps(sorted(spans, key=lambda span: (span[0], -span[1]))))


def _occurrences(text: str, value: str) -> Iterator[int]:
    at = text.find(value)
    while at >= 0:
        yield at
        at = text.find(value, at + len(value))


def _without_overlaps(spans: list[Span]) -> Iterator[Span]:
    done = 0
    for start, end, mask in spans:
        if end > done:
            yield max(start, done), end, mask
            done = end


def _pieces(text: str, start: int, stop: int, at: int | None) -> Iterator[Piece]:
    first = max(0, start - MARGIN)
    done = start
    for begin, end, mask in sensitive_spans(text[first : stop + MARGIN]):
        begin, end = begin + first, end + first
        if end <= start or begin >= stop:
            continue
        yield from _marked(text, done, begin, at)
        yield Piece(mask, "masked", here=at is not None and begin <= at < end)
        done = end
    yield from _marked(text, done, stop, at)


def _marked(text: str, start: int, stop: int, at: int | None) -> Iterator[Piece]:
    if at is None or not start <= at < stop:
        yield from _plain(text[start:stop])
        return
    yield from _plain(text[start:at])
    yield from (piece._replace(here=True) for piece in _plain(text[at]))
    yield from _plain(text[at + 1 : stop])


def _plain(text: str) -> Iterator[Piece]:
    """Split a text at runs of characters that do not print; those are named."""
    done = 0
    for match in _ODD.finditer(text):
        yield from _printable(text[done : match.start()])
        yield Piece(
            "".join(_name(character, [*run]) for character, run in groupby(match[0])), "odd"
        )
        done = match.end()
    yield from _printable(text[done:])


def _name(character: str, run: list[str]) -> str:
    """Return ``<U+200B x2>``."""
    times = f" x{len(run)}" if len(run) > 1 else ""
    return f"<U+{ord(character):04X}{times}>"


def _printable(text: str) -> Iterator[Piece]:
    """Yield a text unless it is empty; a combining mark at its beginning gets a circle."""
    if text:
        alone = unicodedata.category(text[0]).startswith("M")
        yield Piece(f"\u25cc{text}" if alone else text)


def _omission(count: int) -> Piece:
    more = "1 character" if count == 1 else f"{count:,} characters"
    return Piece(f"[... {more} ...]", "cut")
