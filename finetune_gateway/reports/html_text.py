"""Texts of the data as HTML: escaped, bounded, personal data and keys masked, nothing hidden.

Knows texts; knows nothing of rows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from html import escape
from itertools import groupby

from finetune_gateway.text import pii

# Characters looked at beyond those shown: the longest key that is known is cut by no border.
MARGIN = 10_000

Span = tuple[int, int, str]  # from, to, what is shown instead

# In JSON as written a line break before a number is a letter; two spaces take as much room.
_ESCAPES = re.compile(r"\\[nrtbf]")
_KEY_BLOCK = re.compile(
    r"-----BEGIN ([A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?)-----.*?(?:-----END \1-----|\Z)", re.DOTALL
)
# What does not print. The joiners of scripts and emoji stay between characters beyond ASCII.
_ODD = re.compile(
    r"(?:(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"
    "|[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0d\ufeff\uffa0\ufff0-\ufffb"
    "\U000e0000-\U000e0fff])+"
)


def shown(text: str, limit: int, at: int | None = None) -> str:
    """The beginning of a text as HTML; with ``at``, the part around that place, which is
    marked."""
    start = 0 if at is None else max(0, at - limit // 3)
    stop = min(len(text), start + limit)
    parts = [_left_out(start)] if start else []
    parts += _pieces(text, start, stop, at)
    if stop < len(text):
        parts.append(_left_out(len(text) - stop))
    return "".join(parts)


def masked(text: str) -> str:
    """A short text with personal data and keys masked; no HTML yet."""
    parts, done = [], 0
    for start, end, instead in spans(text):
        parts += [text[done:start], instead]
        done = end
    return "".join([*parts, text[done:]])


def line(text: str, limit: int = 400) -> str:
    """A short text, as of a message, as HTML."""
    return _plain(masked(text[: limit + MARGIN])[:limit])


def spans(text: str) -> list[Span]:
    """Where personal data and keys are, in order, none in another."""
    found = [(*m.span(), f"-----BEGIN {m[1]}----- (a key)") for m in _KEY_BLOCK.finditer(text)]
    spaced = _ESCAPES.sub("  ", text)
    for one in {text, spaced}:
        for _, piece in pii.found(one):
            found += [(at, at + len(piece), pii.masked(piece)) for at in _places(one, piece)]
    return list(_apart(sorted(found, key=lambda span: (span[0], -span[1]))))


def _places(text: str, piece: str) -> Iterator[int]:
    at = text.find(piece)
    while at >= 0:
        yield at
        at = text.find(piece, at + len(piece))


def _apart(found: list[Span]) -> Iterator[Span]:
    end = 0
    for span in found:
        if span[1] > end:
            yield max(span[0], end), span[1], span[2]
            end = span[1]


def _pieces(text: str, start: int, stop: int, at: int | None) -> Iterator[str]:
    first = max(0, start - MARGIN)
    window = text[first : stop + MARGIN]
    done = start
    for begin, end, instead in spans(window):
        begin, end = begin + first, end + first
        if end <= start or begin >= stop:
            continue
        yield _marked(text, done, begin, at)
        pointed = at is not None and begin <= at < end
        kind = "masked here" if pointed else "masked"
        yield f'<span class="{kind}" title="masked">{escape(instead)}</span>'
        done = end
    yield _marked(text, done, stop, at)


def _marked(text: str, start: int, stop: int, at: int | None) -> str:
    if at is None or not start <= at < stop:
        return _plain(text[start:stop])
    before, char, after = text[start:at], text[at], text[at + 1 : stop]
    return f'{_plain(before)}<mark class="here">{_plain(char)}</mark>{_plain(after)}'


def _plain(text: str) -> str:
    return "".join(_escaped(text))


def _escaped(text: str) -> Iterator[str]:
    done = 0
    for match in _ODD.finditer(text):
        yield _text(text[done : match.start()])
        yield f'<span class="odd">{"".join(map(_named, _runs(match[0])))}</span>'
        done = match.end()
    yield _text(text[done:])


def _runs(text: str) -> Iterator[str]:
    """The same characters together."""
    yield from ("".join(run) for _, run in groupby(text))


def _named(run: str) -> str:
    times = f" x{len(run)}" if len(run) > 1 else ""
    return f"&lt;U+{ord(run[0]):04X}{times}&gt;"


def _text(text: str) -> str:
    """Escaped; a combining mark at the beginning stands on a circle."""
    alone = text and unicodedata.category(text[0]).startswith("M")
    return escape(f"\u25cc{text}" if alone else text, quote=False)


def _left_out(count: int) -> str:
    more = "1 character" if count == 1 else f"{count:,} characters"
    return f'<span class="cut">[... {more} ...]</span>'
