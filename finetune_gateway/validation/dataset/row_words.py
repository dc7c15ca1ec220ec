"""The words of two rows, and whether those that differ make two questions of them."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import compress, count
from operator import ne

from finetune_gateway.validation.dataset.row_text import RowText, content_hash, words

FACT = 6  # distinct words; a shorter answer is a name, a number, a class or a call
_WORDS = 20_000  # words read of a row


@dataclass(frozen=True, slots=True)
class RowWords:
    """A row as it is compared: what stands between two spaces, and its texts."""

    chunks: list[str]
    row: RowText | None = None

    @property
    def size(self) -> int:
        return 2 * len(self.chunks)  # with the texts

    @classmethod
    def of(cls, row: RowText) -> RowWords:
        return cls(row.conversation[: _WORDS * 8].casefold().split(" "), row)

    def answer(self) -> frozenset[str]:
        """Return the words of the answer."""
        return frozenset(words(self.row.answer[: _WORDS * 8])) if self.row else frozenset()


Changes = tuple[Counter[str], Counter[str]]  # what one has more often, and the other


def changes_of(one: RowWords, two: RowWords) -> tuple[Changes, int]:
    """Return the words in which two rows differ, and the number of chunks that do. No word goes
    beyond a chunk: the words of equal ones are not looked at."""
    removed, added = _changes(one.chunks, two.chunks)
    first, second = (Counter(words(" ".join(part.elements()))) for part in (removed, added))
    return (first - second, second - first), difference_of((removed, added))


def _changes(one: list[str], two: list[str]) -> Changes:
    """Return in what two lists differ, in any order. What is the same at both ends is left out
    first: of near-duplicates that is nearly all, and comparing it in C takes a fiftieth."""
    shorter = min(len(one), len(two))
    start = min(_first_difference(one, two), shorter)
    one, two = one[start:], two[start:]
    end = min(_first_difference(reversed(one), reversed(two)), shorter - start)
    first, second = Counter(one[: len(one) - end]), Counter(two[: len(two) - end])
    return first - second, second - first


def difference_of(changes: Changes) -> int:
    return max(changes[0].total(), changes[1].total())


def are_other_questions(one: RowWords, two: RowWords, changes: Changes) -> bool:
    """Return True if the words that differ make two questions: both the prompt and a short answer
    differ, or one word replaces another throughout (a name in the question and the answer). Rows
    with other images are two, too."""
    if one.row is None or two.row is None:
        return False
    if one.row.media != two.row.media:
        return True
    removed, added = changes
    if max(removed.values(), default=0) > 1 and max(added.values(), default=0) > 1:
        return True
    if one.row.answer == two.row.answer or one.row.prompt == two.row.prompt:
        return False
    first, second = one.answer(), two.answer()
    if not (0 < len(first) < FACT and 0 < len(second) < FACT) or first == second:
        return False
    return content_hash(one.row.prompt) != content_hash(two.row.prompt)


def conversation_words(row: RowText) -> list[str]:
    """Return the words of a row without its system prompt, 20,000 at most."""
    return words(row.conversation[: _WORDS * 8])[:_WORDS]


def _first_difference(one: Iterable[str], two: Iterable[str]) -> int:
    """Return the place of the first word that differs; a large number if there is none."""
    return next(compress(count(), map(ne, one, two)), sys.maxsize)
