"""What a detector is: a pattern for one kind of data, verified by a check of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from finetune_gateway.text.regex import LazyPattern

Finder = Callable[[str], Iterator[str]]


def never(text: str) -> bool:
    """Return False."""
    return False


@dataclass(frozen=True, slots=True)
class Detector:
    """One kind of match: the rule it breaks, its name, how to find it and how to show it.

    ``hints``: texts without any of these have no match. ``reserved``: True for a match that stands
    for nobody, such as an address at example.com.
    """

    code: str
    name: str
    hints: tuple[str, ...]
    find: Finder
    mask: Callable[[str], str]
    reserved: Callable[[str], bool] = never


def masked(text: str) -> str:
    """Return the first and last character and the length: ``j...m (20 characters)``."""
    return f"{text[0]}...{text[-1]} ({len(text)} characters)"


def digits_of(text: str) -> str:
    """Return the ASCII digits of a text."""
    return "".join(char for char in text if char in "0123456789")


def _find(pattern: LazyPattern, verify: Callable[[str], bool], text: str) -> Iterator[str]:
    for match in pattern.finditer(text):
        group = match[match.lastindex or 0]
        if verify(group):
            yield group


def finder(pattern: str, verify: Callable[[str], bool] = bool) -> Finder:
    """Return a function that yields what the pattern (its last group, if any) matches and
    ``verify`` accepts."""
    return partial(_find, LazyPattern(pattern), verify)
