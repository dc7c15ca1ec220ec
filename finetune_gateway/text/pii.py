"""Find and mask personal data and secrets in a text.

Names of people and postal addresses are not found: that takes a language model. Matches are always
shown masked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

from finetune_gateway.errors import SpecError
from finetune_gateway.settings import config
from finetune_gateway.text import pii_email, pii_forms, pii_numbers, pii_phones
from finetune_gateway.text.pii_detector import Detector, masked
from finetune_gateway.text.pii_numbers import IBAN_HINT, NUMBERS
from finetune_gateway.text.pii_phones import Regions
from finetune_gateway.text.pii_secrets import SECRETS
from finetune_gateway.text.regex import LazyPattern, searcher

__all__ = ["Detector", "Regions", "detectors", "find_pii", "masked", "number_hints"]

_RUN = LazyPattern(r"[0-9](?:[ .()/-]{0,3}[0-9]){8}")
_SHORT_RUN = LazyPattern(r"[0-9](?:[ .()/-]{0,3}[0-9]){6}")  # of a region
_NEAR = 80  # characters; matches with the words beside them are shorter


@cache
def _masked_regions(home: str | None, variable: str | None) -> Regions:
    """Return the regions whose numbers are masked: read once, since every text is masked."""
    try:
        return config.pii_regions()
    except SpecError:  # validate reports it
        return ()


@cache
def detectors(regions: Regions = ()) -> tuple[Detector, ...]:
    """Return all detectors; national telephone numbers are those of these regions."""
    phones = pii_phones.phones(regions)
    return (*pii_email.DETECTORS, *pii_numbers.DETECTORS, phones, *SECRETS)


@cache
def number_hints(regions: Regions = ()) -> tuple[str, ...]:
    """Return patterns of which one matches every text in which a detector of numbers finds
    something."""
    own = (pii_phones.REGION_HINT,) if regions else ()
    return (*pii_numbers.HINTS, *pii_phones.HINTS, *own)


# One of these matches wherever one of ``number_hints`` does. A pattern that begins with a digit is
# found in a sixth of the time in texts that have few of them (measured).
DIGITS_HINT = r"[0-9](?:[ .()/-]{0,4}[0-9]){6}"
IBAN_BEGIN = pii_numbers.IBAN_BEGIN


def _windows(text: str, run: LazyPattern) -> list[str]:
    """Return the parts of a text in which a detector of numbers can match: long runs of digits
    with the text around them, close ones joined. Saves time: the patterns read 4 to 30 MB/s."""
    if searcher(IBAN_HINT)(text):  # has letters between the digits
        return [text]
    windows: list[tuple[int, int]] = []
    for match in run.finditer(text):
        start, end = max(0, match.start() - _NEAR), match.end() + _NEAR
        if windows and start <= windows[-1][1]:
            start = windows.pop()[0]
        windows.append((start, end))
    return [text[start:end] for start, end in windows]


def matches(detector: Detector, text: str, regions: Regions = ()) -> Iterator[str]:
    """Yield what a detector finds in a text."""
    run = _SHORT_RUN if regions else _RUN
    for window in _windows(text, run) if detector.hints == NUMBERS else [text]:
        yield from detector.find(window)


def find_pii(text: str, regions: Regions | None = None) -> Iterator[tuple[str, str]]:
    """Yield (name, match) for all personal data and keys in a text, unmasked, in no order; a match
    is a part of the text as it is written. National telephone numbers are those of the user's
    regions, unless ``regions`` are given."""
    if regions is None:
        environ = os.environ
        regions = _masked_regions(environ.get("FTG_HOME"), environ.get("FTG_PII_REGIONS"))
    yield from _found(text, regions)
    plain = pii_forms.read_as(text)
    inner = [
        (name, run)
        for run, decoded in pii_forms.decoded(plain)
        for name, _ in _found(decoded, regions)
    ]
    if plain == text:
        yield from inner
    else:
        yield from _as_written(text, plain, {*inner, *_found(plain, regions)})


def _found(text: str, regions: Regions) -> Iterator[tuple[str, str]]:
    raw = text.encode("utf-8", "replace")  # the search cannot read half of a surrogate pair
    for detector in detectors(regions):
        if _may_match(detector.hints, text, raw, regions):
            yield from ((detector.name, match) for match in matches(detector, text, regions))


def _may_match(hints: tuple[str, ...], text: str, raw: bytes, regions: Regions) -> bool:
    """Return True if a text has a hint. The patterns of most detectors need not be compiled then:
    all of them take 40 ms."""
    if hints == NUMBERS:
        return searcher(*number_hints(regions))(raw)
    if hints == pii_email.SPELT:
        return searcher(*pii_email.HINTS)(raw)
    return any(hint in text for hint in hints)


def _as_written(text: str, plain: str, found: set[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield what was found in a text as it is read, each time as it is written."""
    places = pii_forms.places_of(text)
    for name, match in found:
        at = plain.find(match)
        while at >= 0:
            yield name, text[places[at][0] : places[at + len(match) - 1][1]]
            at = plain.find(match, at + len(match))
