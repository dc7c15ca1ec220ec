"""How a text looks: a style is seen by it, whatever the text is about."""

from __future__ import annotations

import re
from collections.abc import Iterator

PATTERNS = {
    "have emoji": re.compile("[\U0001f300-\U0001faff\u2600-\u27bf]"),
    "are lists": re.compile(
        r"^\s*(?:[-*•]|\d+[.)])\s+\S[^\n]*\n\s*(?:[-*•]|\d+[.)])\s", re.MULTILINE
    ),
    "have headings or bold words": re.compile(r"^#{1,4} \S|\*\*\S", re.MULTILINE),
    "have code": re.compile(r"```"),
    "end with a question": re.compile(r"\?\W*\Z"),
    "end with an exclamation": re.compile(r"!\W*\Z"),
}


def of(text: str) -> Iterator[str]:
    """Yield each thing that is to be seen of a text, as a verb with its object."""
    text = text.strip()
    for name, pattern in PATTERNS.items():
        if pattern.search(text):
            yield name
    if text.count("\n") in (1, 2, 3, 4):
        yield f"have {len(text.splitlines())} lines"
    if len(text) > 20 and text.islower():
        yield "are in small letters"
    if len(text) > 20 and text.isupper():
        yield "are in capitals"
