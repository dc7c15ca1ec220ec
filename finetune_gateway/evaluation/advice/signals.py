"""What the rows of a data set have in common, counted in one pass.

Kinds of rows, the shape of the answers, what answers share, facts that the prompts do not have,
and prompts that are answered in more than one way. Counts and line numbers alone: no text is kept.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from finetune_gateway.data.canonical import readable
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.evaluation.advice import looks, specifics
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    content_hash,
    extract_row_text,
    message_text,
    parse_leniently,
    words,
)

Json = dict[str, Any]

SYSTEM_WORDS = 8  # "You are a helpful assistant." asks for nothing of its own
LABEL_WORDS = 4  # an answer of more words is no label
MAX_LABELS = 50
LABEL_ROWS = 5  # rows a label has at least, on average
SHORT = 12  # words: shorter answers to one prompt that differ contradict each other
SAMPLE = 20_000  # rows that are looked at; of more, only kinds and equal rows are counted
LONGEST = 8_000  # characters of a text that are read
SHOWN = 5  # lines named
SCORES = frozenset(
    ("score", "scores", "rating", "reward", "rank", "grade", "stars", "thumbs", "votes", "feedback")
)
YES_NO = re.compile(r"^(yes|no)\b", re.IGNORECASE)
# A text that holds a question and its answer.
DIALOGUE = re.compile(
    r"^\W*(?:A|Answer|Assistant|Response|Output|Completion|SQL|Bot)\s*:",
    re.MULTILINE | re.IGNORECASE,
)
CONFIDENTIAL = re.compile(
    r"\b(?:confidential|internal use only|for internal use|not for distribution|under NDA"
    r"|trade secret|attorney.client|medical records?|patient records?)\b",
    re.IGNORECASE,
)
SPECIAL = re.compile(r"<\|[^|]{1,40}\|>")
EVERYWHERE = 0.1  # share of the answers in which a fact of one of them may stand
# Words that are in many answers whatever they are about.
COMMON = frozenset(
    word
    for line in (
        "a about after all also an and any are as at be because been but by can do does for from",
        "get has have how i if in into is it its just like make may more most my need no not of on",
        "one or other our out so some such than that the their them then there these they this to",
        "up use used using was we what when which while who will with would you your",
    )
    for word in line.split()
)


@dataclass
class Places:
    """How many rows, and the first lines of them."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        self.count += 1
        if len(self.lines) < SHOWN:
            self.lines.append(line)


@dataclass
class Answered:
    """The answers to one prompt: their hashes, and their hashes without facts."""

    rows: int = 0
    line: int = 0
    whole: set[int] = field(default_factory=set)
    without_facts: set[int] = field(default_factory=set)
    all_short: bool = True
    yes_no: set[str] = field(default_factory=set)

    @property
    def differ(self) -> bool:
        return len(self.whole) > 1

    @property
    def only_facts_differ(self) -> bool:
        return self.differ and len(self.without_facts) == 1

    @property
    def contradict(self) -> bool:
        return (
            self.differ and not self.only_facts_differ and (self.all_short or len(self.yes_no) > 1)
        )


@dataclass
class HeldFacts:
    """The facts in the answers of a sample of the rows, by their hashes. One that stands in many
    answers, like the name of the house, is part of how they are written and does not count."""

    rows: list[tuple[int, bool, list[tuple[str, int]]]] = field(default_factory=list)
    values: Counter[int] = field(default_factory=Counter)

    def add(self, line: int, changing: bool, found: list[tuple[str, str]]) -> None:
        hashed = [(kind, content_hash(value)) for kind, value in found]
        self.rows.append((line, changing, hashed))
        self.values.update({value for _, value in hashed})

    def counted(self, *, changing: bool) -> tuple[Places, Counter[str]]:
        """Return the rows with such facts, and the kinds by rows."""
        places, kinds = Places(), Counter[str]()
        most = max(EVERYWHERE * len(self.rows), 2)
        for line, changes, found in self.rows:
            own = {kind for kind, value in found if self.values[value] <= most}
            if own and changes is changing:
                places.add(line)
                kinds.update(own)
        return places, kinds


@dataclass
class Signals:
    """What was counted of the rows with an answer that could be read; all but ``rows``, ``kinds``,
    ``good`` and ``hashes`` of the first 20,000 alone: ``sampled``."""

    rows: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    without_answer: int = 0
    confidential: Places = field(default_factory=Places)
    good: int = 0  # of answers with a label
    orders: set[tuple[int, int, int]] = field(default_factory=set)  # of pairs
    reversed: Places = field(default_factory=Places)  # pairs that turn an earlier one round
    scored: Places = field(default_factory=Places)
    held: HeldFacts = field(default_factory=HeldFacts)
    dialogues: int = 0  # plain texts with a question and its answer
    answers: set[int] = field(default_factory=set)
    shapes: Counter[str] = field(default_factory=Counter)
    json_keys: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    systems: Counter[int] = field(default_factory=Counter)  # that say more than "helpful"
    calling: int = 0  # rows with calls of tools
    copied: int = 0  # answers that are a piece of their prompt
    looks: Counter[str] = field(default_factory=Counter)  # of answers
    asked_looks: Counter[str] = field(default_factory=Counter)  # of prompts
    openings: Counter[str] = field(default_factory=Counter)
    closings: Counter[str] = field(default_factory=Counter)
    lengths: array[int] = field(default_factory=lambda: array("I"))
    said: Counter[str] = field(default_factory=Counter)  # words, by rows whose answer has them
    asked: Counter[str] = field(default_factory=Counter)  # words, by rows whose prompt has them
    sampled: int = 0
    hashes: set[int] = field(default_factory=set)
    prompts: dict[int, Answered] = field(default_factory=dict)

    @property
    def distinct(self) -> int:
        """Rows that are not equal to an earlier one except for case and spaces."""
        return len(self.hashes)

    @property
    def kind(self) -> str:
        """The kind of most rows; ``mixed`` if there are rows to imitate and pairs as well."""
        if self.kinds["preference"] and self.imitated:
            return "mixed"
        return max(self.kinds, key=self.kinds.__getitem__) if self.kinds else "unknown"

    @property
    def imitated(self) -> int:
        """Rows that show one good answer."""
        return self.kinds["chat"] + self.kinds["prompt_completion"]

    def share(self, count: int) -> float:
        """Return a count as a share of the rows that were looked at."""
        return count / self.sampled if self.sampled else 0.0

    # -- facts that the prompts do not have ----------------------------------------------------

    @cached_property
    def facts(self) -> tuple[Places, Counter[str]]:
        """Rows of the sample whose answers hold facts that change, and the kinds of these."""
        return self.held.counted(changing=True)

    @cached_property
    def other_facts(self) -> Places:
        """Rows of the sample whose answers hold names or figures that everybody may know."""
        return self.held.counted(changing=False)[0]

    # -- prompts that are answered in more than one way --------------------------------------

    def contradicting(self) -> Places:
        """Return rows whose prompt has short answers that differ in more than a fact; of pairs,
        those that turn another one round."""
        if self.reversed.count:
            return Places(2 * self.reversed.count, self.reversed.lines)
        return _rows_of(one for one in self.prompts.values() if one.contradict)

    def facts_differ(self) -> Places:
        """Return rows whose prompt is answered with other facts in another row."""
        return _rows_of(one for one in self.prompts.values() if one.only_facts_differ)

    def several_answers(self) -> Places:
        """Return rows whose prompt has several long answers, which need not contradict."""
        several = (one for one in self.prompts.values() if one.differ)
        return _rows_of(one for one in several if not (one.only_facts_differ or one.contradict))

    # -- what answers have in common -----------------------------------------------------------

    def classes(self) -> dict[int, int]:
        """Return the rows by label, if nearly all answers are one of a few."""
        few = 2 <= len(self.labels) <= min(MAX_LABELS, self.shapes["label"] / LABEL_ROWS)
        return dict(self.labels) if few and self.share(self.shapes["label"]) >= 0.9 else {}

    def length_quantile(self, at: float) -> int:
        """Return the words that this share of the answers does not pass."""
        ordered = sorted(self.lengths)
        return ordered[int(at * (len(ordered) - 1))] if ordered else 0

    def marker(self) -> tuple[str, float] | None:
        """Return the word that is in most answers and in few prompts, and the share of answers."""
        best, most = "", 0.0
        for word, rows in self.said.items():
            share, before = rows / self.sampled, self.asked[word] / self.sampled
            if share > most and before < share / 2 and word not in COMMON:
                best, most = word, share
        return (best, most) if best else None


def read(dataset: Dataset) -> Signals:
    """Return what the rows of a data set have in common. Rows that cannot be read are left out."""
    signals = Signals()
    for line in dataset.lines():
        row = None if line.cut else parse_leniently(line.raw)
        if row is None:
            continue
        text = extract_row_text(row, line.number)
        if text is None or _has_no_answer(text):
            signals.without_answer += _is_prompt(row, text)
            continue
        _count(signals, text)
        if text.kind == "preference":
            _count_pair(signals, row, text)
        if any(_is_score(row.get(key)) for key in SCORES & row.keys()):
            signals.scored.add(line.number)
    return signals


def _has_no_answer(text: RowText) -> bool:
    if text.kind in ("text", "preference"):
        return not text.answer.strip()
    return not text.answer.strip() or text.roles[-1:] != ("assistant",)


def _is_prompt(row: Json, text: RowText | None) -> bool:
    return text is not None or isinstance(row.get("prompt") or row.get("messages"), str | list)


def _is_score(value: Any) -> bool:
    return isinstance(value, int | float) or value in ("up", "down", "good", "bad")


def _count(signals: Signals, row: RowText) -> None:
    signals.rows += 1
    signals.kinds[row.kind] += 1
    signals.good += row.label is True
    signals.hashes.add(content_hash(row.system or "", row.conversation))
    if signals.sampled >= SAMPLE:
        return
    signals.sampled += 1
    if CONFIDENTIAL.search(f"{row.system or ''} {row.prompt} {row.answer}"):
        signals.confidential.add(row.line)
    if row.kind == "text":
        signals.dialogues += bool(DIALOGUE.search(row.answer))
        return
    answer_words = words(row.answer[:LONGEST])
    _count_shape(signals, row, answer_words)
    _count_looks(signals, row, answer_words)
    signals.held.add(row.line, *_held_facts(row))
    if row.kind != "preference" and row.label is None:
        _count_answer(signals, row, answer_words)


def _count_looks(signals: Signals, row: RowText, answer_words: list[str]) -> None:
    """Count what answers may have in common."""
    if row.system and len(row.system.split()) >= SYSTEM_WORDS:
        signals.systems[content_hash(row.system)] += 1
    signals.calling += bool(row.calls)
    signals.copied += _is_copied(row)
    signals.looks.update(looks.of(row.answer[:LONGEST]))
    signals.asked_looks.update(looks.of(row.prompt[:LONGEST]))
    signals.lengths.append(len(answer_words))
    signals.answers.add(content_hash(row.answer))
    signals.said.update(set(answer_words))
    signals.asked.update(set(words(row.prompt[:LONGEST])))
    signals.openings[" ".join(answer_words[:2])] += 1
    signals.closings[" ".join(answer_words[-2:])] += 1


def _count_pair(signals: Signals, row: Json, text: RowText) -> None:
    """Count a pair that another one turns round: the better answer there is the worse one here."""
    pair = readable(row) or {}
    asked = content_hash(text.system or "", text.prompt)
    better, worse = (
        content_hash("\n".join(map(message_text, as_list(pair.get(side)))))
        for side in ("preferred_output", "non_preferred_output")
    )
    if (asked, worse, better) in signals.orders:
        signals.reversed.add(text.line)
    signals.orders.add((asked, better, worse))


def _count_shape(signals: Signals, row: RowText, answer_words: list[str]) -> None:
    shape = _shape(row, answer_words)
    signals.shapes[shape] += 1
    if shape == "label":
        signals.labels[content_hash(row.answer)] += 1
    if shape == "json":
        signals.json_keys[_keys(row.answer)] += 1


def _is_copied(row: RowText) -> bool:
    answer = SPECIAL.sub("", row.answer).strip(" .\n").casefold()
    return len(answer) > 1 and answer in row.prompt.casefold()


def _shape(row: RowText, answer_words: list[str]) -> str:
    """Return what an answer is: json, call, label or text."""
    plain = row.answer.strip().removeprefix("```json").strip("`\n ")
    if plain[:1] in "{[" and _loaded(plain) is not None:
        return "json"
    if row.tools and row.calls and row.roles[-1:] == ("assistant",) and _ends_with_call(row):
        return "call"
    return "label" if len(answer_words) <= LABEL_WORDS else "text"


def _ends_with_call(row: RowText) -> bool:
    """Return True if the answer is a call: it has no result."""
    return row.calls > row.answered_calls


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _keys(text: str) -> str:
    """Return the keys of a JSON answer, in order, as what its format is recognised by."""
    value = _loaded(text.strip().removeprefix("```json").strip("`\n "))
    first = as_list(value)[:1] or [value]
    return ", ".join(sorted(as_dict(first[0]))) or type(value).__name__


def _held_facts(row: RowText) -> tuple[bool, list[tuple[str, str]]]:
    """Return the facts of an answer that its prompt does not have, and whether they may change."""
    if _is_call(row):
        return False, []
    context = f"{row.system or ''}\n{row.prompt}\n{row.tools}"
    answer = row.answer[:LONGEST]
    if found := specifics.changing_facts(answer, context):
        return True, found
    other = [("names or figures", one) for one in specifics.other_facts(answer, context)]
    return specifics.asks_for_what_changes(_question(row), row.answer), other


def _is_call(row: RowText) -> bool:
    return bool(row.tools) and _ends_with_call(row)


def _question(row: RowText) -> str:
    """Return the end of the prompt, which is the question after a text or earlier turns."""
    return row.prompt[-400:]


def _count_answer(signals: Signals, row: RowText, answer_words: list[str]) -> None:
    """Keep what tells whether a prompt is answered in more than one way."""
    prompt = content_hash(row.system or "", row.tools, " ".join(words(row.prompt)))
    one = signals.prompts.setdefault(prompt, Answered(line=row.line))
    one.rows += 1
    one.whole.add(content_hash(" ".join(answer_words)))
    one.without_facts.add(content_hash(specifics.without_facts(row.answer[:LONGEST])))
    one.all_short = one.all_short and len(answer_words) <= SHORT
    if match := YES_NO.match(row.answer.strip()):
        one.yes_no.add(match.group().casefold())


def _rows_of(prompts: Iterable[Answered]) -> Places:
    found = [*prompts]
    lines = sorted(one.line for one in found)
    return Places(sum(one.rows for one in found), lines[:SHOWN])
