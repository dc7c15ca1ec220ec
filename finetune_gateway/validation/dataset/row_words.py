"""The words of two rows, and whether those that differ make two questions of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from finetune_gateway.validation.dataset.row_text import RowText, content_hash, words

FACT = 6  # distinct words; a shorter answer is a name, a number, a class or a call
_WORDS = 20_000  # words read of a row
_FEW = 8  # words of which two lists are compared one by one


def max_difference(count: int) -> int:
    """Return the number of words in which near-duplicates of ``count`` words may differ.

    In a short row each word counts: "the capital of France? Paris" and "of Spain? Madrid" are
    two questions. From 15 words on, three may differ; in long rows 1 %.
    """
    if count < 15:
        return 0 if count < 6 else 1 if count < 10 else 2
    return max(3, count // 100)


@dataclass(frozen=True, slots=True)
class RowWords:
    """A row as it is compared: its text in one case, and its texts as they are."""

    text: str
    row: RowText | None = None

    @property
    def size(self) -> int:
        """Characters in memory: the text, and those of the row."""
        return 2 * len(self.text)

    @classmethod
    def of(cls, row: RowText) -> RowWords:
        return cls(row.conversation[: _WORDS * 8].casefold(), row)

    def answer(self) -> frozenset[str]:
        """Return the words of the answer."""
        return frozenset(words(self.row.answer[: _WORDS * 8])) if self.row else frozenset()


Changes = tuple[list[str], list[str]]  # what one has more often, and the other


@dataclass(frozen=True, slots=True)
class Comparison:
    """In how many words two rows differ, in which, and whether they are near-duplicates."""

    difference: int
    changes: Changes
    near: bool


def compare(one: RowWords, two: RowWords, limit: int) -> Comparison:
    """Compare two rows, which may differ in ``limit`` words.

    Words are split at their boundaries; if too many differ, at spaces.
    """
    changes, chunks = changes_of(one, two)
    difference = difference_of(changes)
    if difference > limit:
        difference = min(difference, chunks)
    near = difference <= limit and not are_other_questions(one, two, changes)
    return Comparison(difference, changes, near)


def changes_of(one: RowWords, two: RowWords) -> tuple[Changes, int]:
    """Return the words in which two rows differ, and the number of chunks (what stands between two
    spaces) that do. No word goes beyond a chunk: the words of equal ones are not looked at."""
    first, second = middles_of(one.text, two.text)
    chunks = _changes(first.split(" "), second.split(" "))
    removed, added = (words(" ".join(part)) for part in chunks)
    return _changes(removed, added), difference_of(chunks)


def _changes(one: list[str], two: list[str]) -> Changes:
    """Return in what two lists differ, in any order."""
    if min(len(one), len(two)) > _FEW:
        first, second = Counter(one), Counter(two)
        return [*(first - second).elements()], [*(second - first).elements()]
    removed, added = [*one], list[str]()  # in a third of the time of counters
    for value in two:
        if value in removed:
            removed.remove(value)
        else:
            added.append(value)
    return removed, added


def middles_of(one: str, two: str) -> tuple[str, str]:
    """Return two texts without the chunks that are the same at both ends: of near-duplicates that
    is nearly all."""
    start = one.rfind(" ", 0, _shared_start(one, two)) + 1
    one, two = one[start:], two[start:]
    shared = _shared_end(one, two)
    space = one.find(" ", len(one) - shared)
    end = len(one) - space if space >= 0 and shared else 0
    return one[: len(one) - end], two[: len(two) - end]


def _shared_start(one: str, two: str) -> int:
    """Return the number of characters that two texts begin with alike. Halving compares slices in
    C; a loop over the characters takes a hundred times as long."""
    same, end = 0, min(len(one), len(two))
    while same < end:
        middle = (same + end + 1) // 2
        if one[same:middle] == two[same:middle]:
            same = middle
        else:
            end = middle - 1
    return same


def _shared_end(one: str, two: str) -> int:
    """Return the number of characters that two texts end with alike."""
    same, end = 0, min(len(one), len(two))
    while same < end:
        middle = (same + end + 1) // 2
        first = one[len(one) - middle : len(one) - same]
        if first == two[len(two) - middle : len(two) - same]:
            same = middle
        else:
            end = middle - 1
    return same


def difference_of(changes: Changes) -> int:
    return max(map(len, changes))


def are_other_questions(one: RowWords, two: RowWords, changes: Changes) -> bool:
    """Return True if the words that differ make two questions: both the prompt and a short answer
    differ, or one word replaces another throughout (a name in the question and the answer). Rows
    with other images are two, too."""
    if one.row is None or two.row is None:
        return False
    if one.row.media != two.row.media:
        return True
    if all(len(set(part)) < len(part) for part in changes):
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
