"""Rows with the same prompt and different answers."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise

from finetune_gateway.validation.dataset.numbered_lines import numbered, rows_have
from finetune_gateway.validation.dataset.row_text import (
    RowText,
    content_hash,
    plain_text,
    text_hash,
)
from finetune_gateway.validation.dataset.statistics import CountedDefect

Lines = tuple[int, int]  # of a row, and of the row it is like

LABEL, SHORT_ANSWER = 40, 150  # bytes: some 6 and 25 words
NAMED = 3  # pairs of lines named in one finding


class Contradictions:
    """Rows with the same prompt and different answers; in KTO rows, one answer labelled both
    good and bad. Several good answers may be meant where both are long, and where both are
    sentences that answer another prompt too: sets of several questions and several answers.

    Keeps 21 bytes a row. Pairs and plain texts are skipped: many pairs share a prompt.
    """

    def __init__(self) -> None:
        self.prompts, self.answers, self.lines = array("Q"), array("Q"), array("I")
        self.sizes = bytearray()  # 0: a label, 1: a sentence, 2: longer
        self.differing = "answer"

    def add(self, row: RowText) -> None:
        if row.kind in ("preference", "text") or not row.prompt.strip():
            return
        answer = row.answer
        # Rows share the first two.
        asked = plain_text(row.prompt)
        if row.media:
            asked = f"{asked} {plain_text(row.media)}"
        prompt = f"{_plain(row.system or '')}\0{_plain(row.tools)}\0{asked}"
        if row.label is not None:
            prompt, answer = f"{prompt}\0{plain_text(answer)}", str(row.label)
            self.differing = "label"
        self.prompts.append(text_hash(prompt))
        self.answers.append(content_hash(answer))
        self.lines.append(row.line)
        size = len(answer.encode("utf-8", "replace"))
        self.sizes.append((size > LABEL) + (size > SHORT_ANSWER))

    def extend(self, later: Contradictions) -> None:
        """Add the rows of the part that follows."""
        self.prompts += later.prompts
        self.answers += later.answers
        self.lines += later.lines
        self.sizes += later.sizes
        if later.differing == "label":
            self.differing = "label"

    def defects(self) -> Iterator[CountedDefect]:
        """Yield the first lines, each with the earlier one it contradicts; then the rest."""
        pairs: tuple[list[Lines], list[Lines]] = [], []
        sentences: dict[frozenset[int], list[Lines]] = {}
        for early, late in self._same_prompts():
            answers = frozenset((self.answers[early], self.answers[late]))
            if len(answers) == 1:
                continue
            size, lines = (
                min(self.sizes[early], self.sizes[late]),
                (self.lines[late], self.lines[early]),
            )
            if size == 1:
                sentences.setdefault(answers, []).append(lines)
            else:
                pairs[size == 2].append(lines)
        for found in sentences.values():
            pairs[len(found) > 1].extend(found)
        for code, found in zip(("contradictions", "several_answers"), pairs, strict=True):
            if found:
                what = f"the prompt of an earlier row and another {self.differing}"
                verb = "contradicts" if code == "contradictions" else "answers otherwise than"
                named = heapq.nsmallest(NAMED, found)
                listed = ", ".join(f"line {one} {verb} line {other}" for one, other in named)
                detail = f"{rows_have(len(found))} {what}; {listed}"
                yield from numbered(code, detail, [line for line, _ in found])

    def _same_prompts(self) -> Iterator[Lines]:
        """Yield the places of each row and the one before that has the same prompt."""
        rows = sorted(range(len(self.prompts)), key=self.prompts.__getitem__)
        for early, late in pairwise(rows):
            if self.prompts[early] == self.prompts[late]:
                yield early, late


@lru_cache(maxsize=16)
def _plain(text: str) -> str:
    return plain_text(text)
