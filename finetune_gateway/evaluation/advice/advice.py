"""The advice on a data set, as data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_gateway.evaluation.advice.rules import RULES, Rule
from finetune_gateway.jobs.planning import Option
from finetune_gateway.renderers import Shown

Json = dict[str, Any]
Approach = Literal["prompt", "retrieval", "fine-tune", "can't tell"]
Method = Literal["sft", "dpo", "sft+dpo", "sft+kto", "pretrain", "none"]
Where = Literal["local", "hosted", "either", "can't tell"]


@dataclass(frozen=True)
class Point:
    """The answer to one question. ``text``: in a sentence. ``evidence``: what was counted, with
    lines of the file. ``rules``: those that led to it, the first one decided."""

    answer: str
    text: str
    evidence: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        unknown = [code for code in self.rules if code not in RULES]
        assert not unknown, f"no such rule: {unknown}"  # a rule that no page explains

    @property
    def reasons(self) -> list[Rule]:
        """The rules as the table has them."""
        return [RULES[code] for code in self.rules]

    def document(self) -> Json:
        """Return plain JSON, with the source of each rule."""
        return {
            "answer": self.answer,
            "text": self.text,
            "evidence": [*self.evidence],
            "rules": [_rule(code) for code in self.rules],
        }


def _rule(code: str) -> Json:
    rule = RULES[code]
    sources = [{"title": one.title, "url": one.url, "read": one.read} for one in rule.sources]
    return {"code": code, "when": rule.when, "sources": sources, "note": rule.note}


@dataclass(frozen=True, repr=False)
class Advice(Shown):
    """What to do with a data set. Figures of ``options`` are estimates; no text of a row is in it.

    ``approach``: prompt, retrieval, fine-tune, or "can't tell". ``method``: by which training, if
    it comes to that. ``rows``: enough, or how many more. ``place``: local, hosted, either, or
    "can't tell". ``next_steps``: commands, or what else to do. ``comparison``: the one that was
    read. ``warnings``: what is to be looked at, whatever is done.
    """

    data: str
    kind: str
    rows_read: int
    distinct: int
    approach: Point
    method: Point
    rows: Point
    place: Point
    options: Sequence[Option] = ()
    next_steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    comparison: str | None = None

    @property
    def unreadable(self) -> bool:
        """True for a file of which too little can be read to say anything."""
        return "refused_rows" in self.approach.rules

    @property
    def points(self) -> dict[str, Point]:
        """The four answers by their names."""
        return {
            "approach": self.approach,
            "method": self.method,
            "rows": self.rows,
            "place": self.place,
        }

    def document(self) -> Json:
        """Return plain JSON."""
        return {
            "data": self.data,
            "kind": self.kind,
            "rows_read": self.rows_read,
            "distinct": self.distinct,
            **{name: point.document() for name, point in self.points.items()},
            "options": [option.document() for option in self.options],
            "next_steps": [*self.next_steps],
            "warnings": [*self.warnings],
            "comparison": self.comparison,
        }
