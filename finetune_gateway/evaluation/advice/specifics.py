"""Facts in an answer that stand nowhere in what was asked: prices, dates, numbers of things, names.

A model that is trained on them learns to say such things, not to look them up. Figures that follow
from the question, as in arithmetic, are no such facts, and neither is what the result of a tool or
the system prompt says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_gateway.validation.dataset.row_text import words

MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)[a-z]*\.?"
CODES = "USD|EUR|GBP|CHF|JPY|CNY|INR|SEK|NOK|DKK|PLN|CZK|CAD|AUD"
CURRENCY = rf"(?:€|£|¥|{CODES}|dollars?|euros?|pounds?|cents?|zł|kr)(?!\w)"
# What changes, or is known to one house alone, by its look. A year alone is mostly history.
CHANGING = {
    "links or addresses": re.compile(r"https?://\S+|\bwww\.\S+|\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b"),
    "dates": re.compile(
        r"\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}[./]\d{1,2}[./]\d{2,4}\b"
        rf"|\b{MONTH}\s\d{{1,2}}(?:st|nd|rd|th)?\b|\b\d{{1,2}}(?:st|nd|rd|th|\.)?\s{MONTH}(?!\w)"
        rf"|\b{MONTH}\s\d{{4}}\b"
        r"|\b\d{1,2}\.?\s(?:de\s)?[^\W\d]{3,}\s(?:de\s)?\d{4}\b"  # in any language
    ),
    "prices": re.compile(
        rf"(?:[$€£¥₹]|\b(?:{CODES})\b)\s?\d[\d.,]*|\b\d[\d.,]*\s?{CURRENCY}", re.IGNORECASE
    ),
    "rates": re.compile(r"\b\d+(?:[.,]\d+)?\s?(?:%|percent\b)"),
    "times": re.compile(
        r"\b\d{1,2}:\d{2}\b|\b\d{1,2}\s?[ap]\.?m\b|\b\d{1,2}\s?(?:h|Uhr)\b", re.IGNORECASE
    ),
    "temperatures": re.compile(r"\b\d+\s?°\s?[CF]?\b"),
    "versions": re.compile(r"\bv\d+(?:\.\d+)*\b|\b\d+\.\d+\.\d+\b"),
    "numbers of things": re.compile(r"\b(?=[A-Z0-9-]*[A-Z])[A-Z]+-?\d{3,}[A-Z0-9-]*\b|#\d{3,}"),
    "telephone numbers": re.compile(r"\+\d[\d ()/-]{7,}\d|\b\d{3}[ -]\d{3}[ -]\d{4}\b"),
}
SOME_FACT = re.compile(r"\d|@|://|www")  # without any of these there is none
COMPUTED = frozenset({"dates", "prices", "rates", "times"})  # that may follow from other figures
ARITHMETIC = re.compile(r"\d\s*[-+*/×÷=]\s*[$€£]?\d|<<")
FIGURE = re.compile(r"\d+(?:[.,:]\d+)*")
LIST_MARK = re.compile(r"^\s*(?:\d+[.)]|[-*•])\s+", re.MULTILINE)
NAME = re.compile(r"(?<=[a-z,;:] )[A-ZÀ-Þ][a-zà-ÿ]{2,}")
CODE = re.compile(r"\b(?=\w*\d)(?=\w*[A-Z])\w{2,}\b")  # B7, 3F
# English words with which people ask for what changes.
ASKS = re.compile(
    r"\b(current(?:ly)?|today|tonight|tomorrow|right now|at the moment|latest|newest|up to date"
    r"|this (?:week|month|year|quarter|season)|next (?:week|month|release|train|flight|bus|meeting)"
    r"|in stock|available|availability|opening hours|(?:are|is) .{1,30}\bopen|prices?|costs?"
    r"|how much|fees?|(?:interest|exchange|tax) rate|status|balance|schedule|deadline|on call"
    r"|(?:who|which) (?:is|are|runs|leads|heads|manages|owns|looks after)"
    r"|(?:phone|extension|room|contract|order|ticket) number)\b",
    re.IGNORECASE,
)
OWN = re.compile(r"\b(our|ours|we|we're|we've)\b", re.IGNORECASE)
LONG = 100  # words of an answer for each fact that is needed to call it one of facts
LABEL = 2  # words: the figures of a longer answer are no part of a label
SHORT = 40  # words of an answer that is a fact in a sentence


def changing_facts(answer: str, context: str) -> list[tuple[str, str]]:
    """Return the facts in an answer that its context does not have, each with its kind."""
    computed = _computes(answer) or len(FIGURE.findall(context)) > 1
    found = [
        (kind, fact)
        for kind, fact in iter_facts(answer)
        if not (computed and kind in COMPUTED) and not _stands_in(fact, context)
    ]
    return found if len(found) * LONG >= len(words(answer)) else []


def iter_facts(answer: str) -> Iterator[tuple[str, str]]:
    """Yield each fact of an answer that may change, with its kind."""
    if not SOME_FACT.search(answer):
        return
    for kind, pattern in CHANGING.items():
        for match in pattern.finditer(answer):
            yield kind, match.group()
        answer = pattern.sub(" ", answer)  # the figures of a date are no version


def other_facts(answer: str, context: str) -> list[str]:
    """Return the names, codes and figures of a short answer that its context does not have:
    everybody may know them."""
    plain = LIST_MARK.sub("", answer)
    if len(words(answer)) > SHORT or _computes(answer):
        return []
    known = context.casefold()
    computed = len(FIGURE.findall(context)) > 1
    found = [*NAME.findall(plain), *CODE.findall(plain)]
    found += [] if computed else FIGURE.findall(plain)
    return [one for one in found if one.casefold() not in known]


def asks_for_what_changes(question: str, answer: str) -> bool:
    """Return True if a question, in English, asks for what changes, or somebody is asked for things
    of his own house."""
    return bool(ASKS.search(question) or OWN.search(f"{question} {answer}"))


def without_facts(answer: str) -> str:
    """Return an answer with its facts left out: two of these are equal if only the facts differ.
    The figure of a label, such as P1, is none."""
    label = len(words(answer)) <= LABEL
    if not SOME_FACT.search(answer):
        return " ".join(words(answer))
    for pattern in CHANGING.values():
        answer = pattern.sub(" ", answer)
    return " ".join(words(answer if label else FIGURE.sub(" ", answer)))


def _computes(answer: str) -> bool:
    """Return True for an answer with a calculation; 2026-05-11 and +49 30 123-456 are none."""
    if not ARITHMETIC.search(answer):
        return False
    for kind in ("dates", "telephone numbers", "numbers of things"):
        answer = CHANGING[kind].sub(" ", answer)
    return bool(ARITHMETIC.search(answer))


def _stands_in(fact: str, context: str) -> bool:
    if fact.casefold() in context.casefold():
        return True
    figures = FIGURE.findall(fact)
    return bool(figures) and all(figure in context for figure in figures)
