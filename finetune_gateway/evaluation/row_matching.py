"""Which training row a row nearly repeats: by its words, and how common they are in these data.

A training file is read twice and never kept: once to count, once to compare. Nothing but Python is
needed: of two sides, one is as small as what is compared.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heappush, heappushpop, nlargest
from math import log
from pathlib import Path
from typing import Any, Literal

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.evaluation.framing import SYSTEM
from finetune_gateway.evaluation.prompts import Prompt, prompt_of
from finetune_gateway.validation.dataset import near_duplicates
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    content_hash,
    message_text,
    parse_leniently,
    words,
)

Json = dict[str, Any]
Kind = Literal["exact", "near"]
Bag = Counter[str]

LONGEST = 160_000  # characters read of a row
RARE = 16  # words of a row by which training rows are looked up, the rarest
VISITS = 8_000_000  # to compared rows by such words, in all: beyond, common ones lead to none
CANDIDATE = 0.3  # of the weight of a row's rare words that a training row must share
SAME_WORDS, FEW_WORDS = 0.98, 6  # the same words in another order, and so many of them
FEW_DIFFER = 0.5  # of two prompts that may differ in a few words
ALIKE = 0.7  # of two prompts that have the same answer, which few others have
COMMON_ANSWERS = 0.02  # share of the training rows that have a common answer
BOTH_ALIKE = 0.75  # of prompts and of answers, if each
DIFFER = 0.15  # of the words of such a prompt, or two
STANDS_OUT = 0.3  # is so much more alike than what
OTHERS = 5  # rows that are so far down the order are unrelated
CUT, CUT_WORDS = 0.5, 5  # of a row that was cut off, as much and as many words are left
CONTAINED = 0.9  # of a row whose parts were cut off


@dataclass(frozen=True)
class Text:
    """The words of a row, its prompt without the system prompt; hashes of its texts, without case
    and white space."""

    line: int
    system: int
    prompt: int
    answers: frozenset[int]
    prompt_words: tuple[str, ...]
    answer_words: tuple[str, ...]
    earlier: frozenset[int] = frozenset()  # prompts of its earlier turns, which were trained too

    @cached_property
    def bag(self) -> Bag:
        """The words of its prompt."""
        return Counter(self.prompt_words)

    @cached_property
    def answer_bag(self) -> Bag:
        """The words of its answer."""
        return Counter(self.answer_words)

    @property
    def as_row(self) -> RowText:
        """The same for who compares whole rows."""
        texts = " ".join(self.prompt_words), " ".join(self.answer_words)
        return RowText(self.line, 0, "chat", None, *texts)


def text_of(prompt: Prompt) -> Text:
    """Return the words of what is asked, and of what the data answer."""
    system = [one for one in prompt.messages if one.get("role") in SYSTEM]
    turns = [one for one in prompt.messages if one.get("role") not in SYSTEM]
    said = [message_text(one) for one in turns]
    answers = [message_text(one) for one in prompt.references]
    ends = [at for at, one in enumerate(turns) if one.get("role") == "assistant" and at]
    return Text(
        line=prompt.lines[0] if prompt.lines else 0,
        system=content_hash(*map(message_text, system)),
        prompt=content_hash(*said),
        answers=frozenset(map(content_hash, answers)),
        prompt_words=_words(said),
        answer_words=_words(answers[:1]),
        earlier=frozenset(content_hash(*said[:at]) for at in ends),
    )


def _words(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(words("\n".join(texts)[:LONGEST]))


def training_texts(path: Path) -> Iterator[Text]:
    """Yield the words of each training row; of plain text, as a prompt. A line that cannot be read
    is left out: nothing was trained on it."""
    for line in Dataset(path).lines():
        row = None if line.cut else parse_leniently(line.raw)
        if row is None:
            continue
        if isinstance(row.get("text"), str):
            text = str(row["text"])
            nothing = frozenset[int]()
            yield Text(line.number, 0, content_hash(text), nothing, _words([text]), ())
        elif prompt := prompt_of(row, line.number):
            yield text_of(prompt)


@dataclass
class Match:
    """What was found of one row. ``lines``: all training rows that it repeats or nearly does."""

    kind: Kind | None = None
    line: int = 0
    lines: set[int] = field(default_factory=set)

    def add(self, kind: Kind, line: int) -> None:
        """Add a training row; an exact one comes before near ones."""
        self.lines.add(line)
        if self.kind is None or (kind == "exact" and self.kind == "near"):
            self.kind, self.line = kind, line


def matches(prompts: Sequence[Prompt], path: Path) -> dict[str, Match]:
    """Return for each prompt that repeats a row of a training file, or nearly does, which one."""
    index = _Index([text_of(one) for one in prompts], path)
    for text in training_texts(path):
        index.compare(text)
    found = zip(prompts, index.found(), strict=True)
    return {prompt.id: match for prompt, match in found if match.kind}


@dataclass
class _Row:
    """One compared row: its words with their weights, and the nearest training rows so far."""

    text: Text
    weight: float
    rare: dict[str, float]
    rare_weight: float  # also of words that no training row has
    match: Match = field(default_factory=Match)
    nearest: list[float] = field(default_factory=list)  # how alike: a heap of the first ones
    doubts: list[tuple[float, int]] = field(default_factory=list)  # alike, and the line


class _Index:
    """The compared rows by their rare words."""

    def __init__(self, texts: Sequence[Text], path: Path) -> None:
        self.counts, self.answers, self.rows_trained = _counts(texts, path)
        self.weights: dict[str, float] = {}
        self.rows = [self._row(text) for text in texts]
        self.prompts: dict[int, list[_Row]] = defaultdict(list)
        self.by_word: dict[str, list[tuple[int, float]]] = defaultdict(list)
        for number, row in enumerate(self.rows):
            self.prompts[row.text.prompt].append(row)
            for word, weight in row.rare.items():
                self.by_word[word].append((number, weight))
        self._drop_common()

    def _drop_common(self) -> None:
        """Drop the words that would take too long: those that are in the most training rows."""
        visits = 0
        for word in sorted(self.by_word, key=lambda word: (self.counts[word], word)):
            visits += self.counts[word] * len(self.by_word[word])
            if visits > VISITS:
                del self.by_word[word]

    def _row(self, text: Text) -> _Row:
        weights = ((self.weight(word), word) for word in text.bag)
        rare = nlargest(RARE, weights)
        leading = {word: weight for weight, word in rare if self.counts[word]}
        return _Row(text, self.total(text.bag), leading, sum(weight for weight, _ in rare))

    def weight(self, word: str) -> float:
        """Return how much a word says: nothing if it is in each training row."""
        known = self.weights.get(word)
        if known is None:
            known = log((self.rows_trained + 1) / (self.counts.get(word, 0) + 0.5))
            self.weights[word] = known
        return known

    def total(self, bag: Mapping[str, int]) -> float:
        """Return how much these words say."""
        return sum(self.weight(word) * times for word, times in bag.items())

    def compare(self, text: Text) -> None:
        """Hold a training row against all compared rows."""
        for row in self.prompts.get(text.prompt, ()):
            row.match.add(_kind(row.text, text), text.line)
        for key in text.earlier & self.prompts.keys():
            for row in self.prompts[key]:
                row.match.add("near", text.line)
        shared: dict[int, float] = defaultdict(float)
        for word in text.bag:
            for number, weight in self.by_word.get(word, ()):
                shared[number] += weight
        own: float | None = None
        for number, weight in shared.items():
            row = self.rows[number]
            if weight >= CANDIDATE * row.rare_weight and row.text.prompt != text.prompt:
                own = self.total(text.bag) if own is None else own
                self._look(row, text, own)

    def _look(self, row: _Row, text: Text, own: float) -> None:
        """Compare a row with a training row that shares its rare words."""
        common = self.total(row.text.bag & text.bag)
        alike = 2 * common / ((row.weight + own) or 1.0)
        if len(row.nearest) < OTHERS:
            heappush(row.nearest, alike)
        else:
            heappushpop(row.nearest, alike)
        if self._is_near(row.text, text, alike) or _is_cut(row.text, text):
            row.match.add("near", text.line)
        elif (doubt := self._doubt(row, text, alike, common)) is not None:
            row.doubts.append((doubt, text.line))

    def _is_near(self, one: Text, two: Text, alike: float) -> bool:
        if alike >= SAME_WORDS and len(one.prompt_words) >= FEW_WORDS:
            return True
        if alike >= ALIKE and one.answers & two.answers and not self._is_common(two):
            return True
        return alike >= FEW_DIFFER and _few_differ(one, two)

    def _is_common(self, text: Text) -> bool:
        """Return True for an answer that says nothing of its row, such as yes, or a class."""
        if len(set(text.answer_words)) >= near_duplicates.FACT:
            return False
        most = max(1.0, COMMON_ANSWERS * self.rows_trained)
        return any(self.answers[answer] > most for answer in text.answers)

    def _doubt(self, row: _Row, text: Text, alike: float, common: float) -> float | None:
        """Return how alike two rows are that are near if others are much less so; else None.

        Either prompt and answer both are, word by word, or what is asked is part of the other.
        """
        if alike < CUT:
            return None
        asked_alone = not row.text.answer_words
        answers = 1.0 if asked_alone else self._alike(row.text.answer_bag, text.answer_bag)
        few = max(2.0, DIFFER * len(text.prompt_words))
        differ = (row.text.bag - text.bag).total(), (text.bag - row.text.bag).total()
        if max(differ) <= few and alike >= BOTH_ALIKE and answers >= BOTH_ALIKE:
            return alike
        inside = common / (row.weight or 1.0)
        long_enough = len(row.text.prompt_words) >= max(CUT_WORDS, CUT * len(text.prompt_words))
        return alike if inside >= CONTAINED and long_enough else None

    def _alike(self, one: Bag, two: Bag) -> float:
        both = self.total(one) + self.total(two)
        return 2 * self.total(one & two) / both if both else 1.0

    def found(self) -> list[Match]:
        """Return what was found of each row."""
        for row in self.rows:
            full = len(row.nearest) == OTHERS
            others = row.nearest[0] if full else 0.0  # the rest shares no rare words
            for alike, line in row.doubts:
                if alike - others >= STANDS_OUT:
                    row.match.add("near", line)
        return [row.match for row in self.rows]


def _few_differ(one: Text, two: Text) -> bool:
    """Return True if two rows differ in so few words that they are near-duplicates."""
    longest = max(len(text.prompt_words) + len(text.answer_words) for text in (one, two))
    most = 2 * near_duplicates.max_difference(longest) + 3  # the exact count takes longer
    if abs(len(one.prompt_words) - len(two.prompt_words)) > most:
        return False
    if (one.bag - two.bag).total() > most:
        return False
    return near_duplicates.nearly_same(one.as_row, two.as_row)


def _counts(texts: Sequence[Text], path: Path) -> tuple[Counter[str], Counter[int], int]:
    """Return in how many training rows each word is, how many have each answer of a compared row,
    and how many there are."""
    wanted = {answer for text in texts for answer in text.answers}
    counts, answers, rows = Counter[str](), Counter[int](), 0
    for text in training_texts(path):
        counts.update({*text.prompt_words, *text.answer_words})
        answers.update(text.answers & wanted)
        rows += 1
    return counts, answers, rows


def _kind(row: Text, trained: Text) -> Kind:
    """Return how a row repeats a training row with the same prompt: exactly, unless the system
    prompt or the answer is another one. A row without an answer can only be asked as it was."""
    same = not row.answers or bool(row.answers & trained.answers)
    return "exact" if same and row.system == trained.system else "near"


def _is_cut(row: Text, trained: Text) -> bool:
    """Return True if a row is a piece of a training row in one go; its first and last word may be
    cut too."""
    piece = row.prompt_words[1:-1]
    if len(piece) < max(CUT_WORDS, CUT * len(trained.prompt_words)):
        return False
    return f" {' '.join(piece)} " in f" {' '.join(trained.prompt_words)} "
