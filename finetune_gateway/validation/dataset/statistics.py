"""Statistics over the rows of a dataset: roles, system prompts, answers, lengths.

Each class takes rows with ``add``, those of the part that follows with ``extend``, and returns
``figures`` for the report and ``defects``. Memory is bounded: 12 bytes a row for each value, 8 for
its length.
"""

from __future__ import annotations

import heapq
import math
import zlib
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from functools import cached_property
from statistics import median
from typing import Any

from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.row_text import RowText, content_hash
from finetune_gateway.validation.rows.chat import ROLES

Json = dict[str, Any]
CountedDefect = tuple[Defect, int | None, int]  # a defect, its line, the number of rows

SHOWN = 10  # lines named in one finding
MIN_ROWS = 20  # with fewer rows, shares mean nothing
BOILERPLATE = 0.05  # share of the rows; and at least 10 rows
CLASS_WORDS = 4  # an answer of more words is not a class label
MAX_CLASSES = 50
FAR = 6.0  # robust standard deviations, on the logarithm of the length
REPETITIVE = 0.02  # compressed size over plain size, at or below which a text is repetitive
_LEAVE = 100  # characters of a last turn, with its role
_NOT_LONG = 1000  # characters: some 250 tokens, which are no export error and fit any batch
_LONG = 2000  # characters; shorter answers are not tested for repetition
_BEGINNING = 1000  # bytes

OWN_PROMPTS = 0.9  # share of different system prompts from which each row has one of its own


class HeavyHitters:
    """The most common of many values, by Misra and Gries.

    With 1,000 slots a count is too low by at most a thousandth of all values, and exact while
    there are fewer distinct values than slots.
    """

    def __init__(self, slots: int = 1000) -> None:
        self.slots, self.total, self.exact = slots, 0, True
        self.until_full = 0  # values, up to as many different ones as are counted
        self.counts: dict[int, int] = {}
        self.first_lines: dict[int, int] = {}

    def add(self, value: int, line: int) -> None:
        self.total += 1
        if value in self.counts:
            self.counts[value] += 1
        elif len(self.counts) < self.slots:
            self.counts[value] = 1
            self.first_lines[value] = line
        else:
            self._decrement_all()
        self.until_full += self.exact

    def _decrement_all(self) -> None:
        self.exact = False
        self.counts = {value: count - 1 for value, count in self.counts.items() if count > 1}
        self.first_lines = {value: self.first_lines[value] for value in self.counts}

    def most_common(self) -> tuple[int, int]:
        """Return the count and the first line of the most common value."""
        value = max(self.counts, key=self.counts.__getitem__)
        return self.counts[value], self.first_lines[value]

    def __len__(self) -> int:
        return len(self.counts)


class HashedValues:
    """A value and a line of each row that has one: 12 bytes a row."""

    def __init__(self) -> None:
        self.values, self.lines = array("Q"), array("I")

    def __len__(self) -> int:
        return len(self.lines)

    def add(self, value: int, line: int) -> None:
        self.values.append(value)
        self.lines.append(line)

    def extend(self, later: HashedValues) -> None:
        """Add those of the part that follows."""
        self.values += later.values
        self.lines += later.lines

    def count(self) -> HeavyHitters:
        """Return the most common ones."""
        counts = HeavyHitters()
        for value, line in zip(self.values, self.lines, strict=True):
            counts.add(value, line)
        return counts


class RoleStats:
    """Turns by role, last turns, tool calls with their results, and lost characters.

    Of a preference pair, only the turns of the prompt are counted.
    """

    def __init__(self) -> None:
        self.roles: Counter[str] = Counter()
        self.last_roles: Counter[str] = Counter()
        self.single_turn = self.calls = self.answered_calls = self.replacement_chars = 0

    def add(self, row: RowText) -> None:
        for text in (row.system or "", row.prompt, row.answer):
            if not text.isascii():
                self.replacement_chars += text.count("\ufffd")
        if not row.roles:
            return
        # A row may hold any text as a role, and any number of them.
        roles = [role if role in ROLES else "other" for role in row.roles]
        earlier = roles if row.kind == "preference" else roles[:-1]
        self.roles.update(roles)
        self.last_roles[roles[-1]] += 1
        self.single_turn += "assistant" not in earlier
        self.calls += row.calls
        self.answered_calls += row.answered_calls

    def extend(self, later: RoleStats) -> None:
        """Add the rows of the part that follows."""
        self.roles.update(later.roles)
        self.last_roles.update(later.last_roles)
        self.single_turn += later.single_turn
        self.calls += later.calls
        self.answered_calls += later.answered_calls
        self.replacement_chars += later.replacement_chars

    def figures(self) -> Json:
        """Return the counts. ``single_turn``: rows with no answer before the one to learn.
        ``unanswered``: calls without a result, for example at the end of a row."""
        calls = {"calls": self.calls, "unanswered": self.calls - self.answered_calls}
        return {
            "turns": dict(self.roles),
            "last_turns": dict(self.last_roles),
            "single_turn": self.single_turn,
            "tool_calls": {**calls, "results": self.roles["tool"] + self.roles["function"]},
            "replacement_characters": self.replacement_chars,
        }


class SystemPromptStats:
    """How many system prompts there are, and how common the most common one is."""

    def __init__(self) -> None:
        self.hashed = HashedValues()
        self.without = 0
        self.first_without = 0

    def add(self, row: RowText) -> None:
        if row.kind == "text":
            return
        if row.system is None:
            self.without += 1
            self.first_without = self.first_without or row.line
        else:
            self.hashed.add(content_hash(row.system), row.line)

    def extend(self, later: SystemPromptStats) -> None:
        """Add the rows of the part that follows."""
        self.hashed.extend(later.hashed)
        self.without += later.without
        self.first_without = self.first_without or later.first_without

    @cached_property
    def prompts(self) -> HeavyHitters:
        return self.hashed.count()

    def figures(self) -> Json:
        if not self.prompts.total:
            return {"system_prompts": {"distinct": 0, "without": self.without}}
        share = self.prompts.most_common()[0] / self.prompts.total
        distinct = len(self.prompts) if self.prompts.exact else None
        return {
            "system_prompts": {
                "distinct": distinct,  # None: more than 1,000
                "commonest_share": round(share, 4),
                "without": self.without,
            }
        }

    def defects(self) -> Iterator[CountedDefect]:
        rows = self.prompts.total + self.without
        if rows < MIN_ROWS or not self.prompts.total:
            return
        if 0.01 < self.without / rows < 0.99:
            detail = f"{self.without:,} of {rows:,} rows have no system prompt, the others have one"
            yield Defect("system_prompt_mix", detail=detail), self.first_without, 1
        distinct = len(self.prompts) if self.prompts.exact else self.prompts.slots
        until_full = self.prompts.until_full
        if distinct >= OWN_PROMPTS * until_full and self.prompts.total >= MIN_ROWS:
            detail = f"of {until_full:,} rows, {distinct:,} have a system prompt of their own"
            yield Defect("system_prompt_each", detail=detail), None, 1
            return
        top = self.prompts.most_common()[0]
        others = len(self.prompts) - 1
        if self.prompts.exact and 0 < others <= 5 and top / self.prompts.total >= 0.9:
            detail = (
                f"{self.prompts.total - top:,} of {self.prompts.total:,} rows have a different "
                "system prompt from the rest"
            )
            yield Defect("system_prompt_mix", detail=detail), None, 1


class AnswerStats:
    """Whether answers are class labels, and whether one answer is repeated in many rows."""

    def __init__(self) -> None:
        self.hashed = HashedValues(), HashedValues()  # long answers, short ones
        self.leaves = 0  # rows that end with thanks or a good-bye

    def add(self, row: RowText) -> None:
        if row.kind in ("text", "preference") or not row.answer.strip():
            return
        if _takes_leave(row):
            self.leaves += 1
            return
        short = len(row.answer.split(None, CLASS_WORDS + 1)) <= CLASS_WORDS
        self.hashed[short].add(content_hash(row.answer), row.line)

    def extend(self, later: AnswerStats) -> None:
        """Add the rows of the part that follows."""
        for own, more in zip(self.hashed, later.hashed, strict=True):
            own.extend(more)
        self.leaves += later.leaves

    @cached_property
    def long(self) -> HeavyHitters:
        return self.hashed[0].count()

    @cached_property
    def short(self) -> HeavyHitters:
        return self.hashed[1].count()

    @property
    def rows(self) -> int:
        return self.long.total + self.short.total + self.leaves

    def classes(self) -> dict[int, int]:
        """Return the rows by answer if nearly all answers are a few short ones, else nothing."""
        counts = self.short.counts
        few = self.short.exact and 2 <= len(counts) <= min(MAX_CLASSES, self.short.total / 5)
        mostly = self.short.total >= max(MIN_ROWS, 0.9 * self.rows)
        return counts if few and mostly else {}

    def figures(self) -> Json:
        classes = sorted(self.classes().values(), reverse=True)
        return {"classes": classes or None}

    def defects(self) -> Iterator[CountedDefect]:
        yield from self._boilerplate()
        classes = self.classes()
        if not classes:
            return
        most, least = max(classes.values()), min(classes.values())
        if most >= 10 * least or most >= 0.8 * self.rows:
            rarest = min(classes, key=classes.__getitem__)
            detail = (
                f"{len(classes)} short answers look like classes: the most common is in "
                f"{most / self.rows:.0%} of the rows, the rarest in {least:,} rows"
            )
            yield Defect("class_balance", detail=detail), self.short.first_lines[rarest], 1

    def _boilerplate(self) -> Iterator[CountedDefect]:
        if self.rows < MIN_ROWS or not self.long.total:
            return
        count, line = self.long.most_common()
        if count >= max(10, BOILERPLATE * self.rows):
            detail = f"{count:,} of {self.rows:,} rows have the same answer"
            yield Defect("boilerplate_answer", detail=detail), line, 1


def _takes_leave(row: RowText) -> bool:
    """Return True if a conversation ends with thanks or a good-bye: a short turn after an answer
    that asks nothing, and is well answered by the same words in all rows."""
    if row.roles.count("assistant") < 2:
        return False
    last = row.prompt.rsplit("\n", 1)[-1]
    return len(last) <= _LEAVE and not any(mark in last for mark in "?\uff1f\u061f")


class LengthStats:
    """Rows far longer than the others, and answers that repeat themselves."""

    def __init__(self) -> None:
        self.sizes, self.lines = array("I"), array("I")
        self.repetitive_lines: list[int] = []
        self.repetitive_rows = 0

    def add(self, row: RowText) -> None:
        size = len(row.prompt) + len(row.answer) + bool(row.prompt)  # and a line feed
        self.sizes.append(min(size, 0xFFFFFFFF))
        self.lines.append(row.line)
        if len(row.answer) >= _LONG and _is_repetitive(row.answer):
            self.repetitive_rows += 1
            self.repetitive_lines.append(row.line)
            del self.repetitive_lines[10:]

    def extend(self, later: LengthStats) -> None:
        """Add the rows of the part that follows."""
        self.sizes += later.sizes
        self.lines += later.lines
        self.repetitive_rows += later.repetitive_rows
        self.repetitive_lines += later.repetitive_lines
        del self.repetitive_lines[10:]

    def figures(self) -> Json:
        if not self.sizes:
            return {"characters": None}
        ordered = sorted(self.sizes)
        shares = {"median": 0.5, "p95": 0.95, "p99": 0.99}
        quantiles = {name: ordered[int(at * (len(ordered) - 1))] for name, at in shares.items()}
        return {"characters": {"min": ordered[0], **quantiles, "max": ordered[-1]}}

    def defects(self) -> Iterator[CountedDefect]:
        for line in self.repetitive_lines:
            yield Defect("repetitive_text"), line, 1
        if self.repetitive_rows > len(self.repetitive_lines):
            more = self.repetitive_rows - len(self.repetitive_lines)
            yield Defect("repetitive_text"), None, more
        yield from self._outliers()

    def _outliers(self) -> Iterator[CountedDefect]:
        written = [size for size in self.sizes if size]  # a row of images alone has no length
        if len(written) < MIN_ROWS:
            return
        logs = [math.log(size + 1) for size in written]
        middle = median(logs)
        # 1.4826 makes the median deviation comparable to a standard deviation; it is 0 if all
        # rows have one length, so a minimum of 0.2 is used.
        spread = max(1.4826 * median(abs(value - middle) for value in logs), 0.2)
        outliers = [
            (line, size)
            for line, size in zip(self.lines, self.sizes, strict=True)
            if size >= _NOT_LONG and math.log(size + 1) - middle > FAR * spread
        ]
        typical = int(math.exp(middle))
        for line, size in outliers[:10]:
            detail = f"a row of {size:,} characters; half of the rows have {typical:,} or fewer"
            yield Defect("length_outlier", detail=detail), line, 1
        if len(outliers) > 10:
            yield Defect("length_outlier"), None, len(outliers) - 10


def _is_repetitive(text: str) -> bool:
    """Return True if a text is a fiftieth of its size after compression.

    What its beginning takes, less 100 bytes of a table of codes, the whole takes at least: in
    nearly all texts that is too much, and the rest is not compressed.
    """
    raw = text[:100_000].encode("utf-8", "surrogatepass")
    most = REPETITIVE * len(raw)
    if len(zlib.compress(raw[:_BEGINNING], 1)) - 100 > most:
        return False
    return len(zlib.compress(raw, 1)) < most


def numbered(code: str, detail: str, lines: Collection[int]) -> Iterator[CountedDefect]:
    """Yield one defect for each of the first lines, and one that counts the others."""
    first = heapq.nsmallest(SHOWN, lines)
    for line in first:
        yield Defect(code, detail=detail), line, 1
    if len(lines) > len(first):
        yield Defect(code, detail=detail), None, len(lines) - len(first)


def rows_have(count: int) -> str:
    return "1 row has" if count == 1 else f"{count:,} rows have"
