"""A check: a question about answers, and what has to be asked for it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.evaluation.measures import unjudged
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.evaluation.results import (
    UNDECIDED,
    ComparedAnswer,
    ComparedRow,
    Measure,
    Score,
)

Json = dict[str, Any]
ScoreFunction = Callable[[ComparedRow, ComparedAnswer], Score]

PREFIX = "check:"  # of the names of their measures
CALLS = "it calls a tool instead"


@dataclass(frozen=True)
class About:
    """What all checks have. ``kind``: the key of the guide that it is written with. ``rows``: rows
    of the data that it asks on after, at most. ``prompts``: its own, in place of rows."""

    name: str
    kind: str
    title: str
    min_pass: float = 1.0
    prompts: tuple[Prompt, ...] = ()
    line: int = 0
    rows: int | None = None


@dataclass(frozen=True)
class Case:
    """One conversation that a check judges: an opening, and what the user says after each answer.

    ``row``: what it is known by, the same for all models. ``planted``: what must not be said.
    """

    check: Check
    row: ComparedRow
    opening: Prompt
    script: tuple[str, ...] = ()
    planted: Any = None


@dataclass(frozen=True)
class Check(ABC):
    """One check of a guide."""

    about: About

    @property
    def name(self) -> str:
        """Its name in the guide."""
        return self.about.name

    @property
    def measure(self) -> Measure:
        """What a comparison calls it."""
        return Measure(
            name=f"{PREFIX}{self.name}", title=self.name, share=True, about=self.about.title
        )

    def cases(self, rows: Sequence[ComparedRow]) -> Iterator[Case]:
        """Yield what is asked for it: its own prompts, else the rows of the data."""
        for row in self.openings(rows):
            yield Case(self, row, as_asked(row.prompt))

    def openings(self, rows: Sequence[ComparedRow]) -> list[ComparedRow]:
        """Return its own prompts as rows, else the rows of the data."""
        if self.about.prompts:
            return [own_row(self.name, one) for one in self.about.prompts]
        return [*rows]

    def judge(self, case: Case, answers: Sequence[ComparedAnswer]) -> Score:
        """Return what the answers of a whole case show; not judged if one is missing."""
        missing = next((score for one in answers if (score := unjudged(one))), None)
        return missing or self.judge_all(case, answers)

    def decided_by(self, case: Case, answers: Sequence[ComparedAnswer]) -> int:
        """Return which answer the score is about: the last one, unless an earlier one fails."""
        return len(answers) - 1

    @abstractmethod
    def judge_all(self, case: Case, answers: Sequence[ComparedAnswer]) -> Score:
        """Return what the answers show; each of them is there."""


@dataclass(frozen=True)
class Single(Check):
    """A check of single answers."""

    look: ScoreFunction = field(repr=False, kw_only=True)

    def judge_all(self, case: Case, answers: Sequence[ComparedAnswer]) -> Score:
        return self.look(case.row, answers[-1])


@dataclass(frozen=True)
class Rubric(Check):
    """A check that a judge decides: by itself it judges nothing."""

    rubric: str = field(kw_only=True)
    scale: tuple[int, int] = field(default=(1, 5), kw_only=True)

    def judge_all(self, case: Case, answers: Sequence[ComparedAnswer]) -> Score:
        return Score(reason="no judge was named")


def own_row(check: str, prompt: Prompt) -> ComparedRow:
    """Return a row of a check's own prompt."""
    own = prompt.model_copy(update={"id": fingerprint([prompt.id, check])})
    return ComparedRow(prompt=own, cluster=prompt.id, check=check)


def asked_on(check: str, opening: ComparedRow, prompt: Prompt, *parts: Any) -> ComparedRow:
    """Return the row of a conversation that a check begins with ``opening``, of whose cluster it
    is. ``prompt``: what is asked first; ``parts``: what tells it from others that begin so."""
    own = prompt.model_copy(update={"id": fingerprint([prompt.id, check, *parts])})
    return ComparedRow(prompt=own, cluster=opening.cluster, check=check, opening=opening.id)


def as_asked(prompt: Prompt) -> Prompt:
    """Return a prompt under the id of what is asked, so that it is asked once for all checks."""
    return prompt.model_copy(update={"id": fingerprint(prompt.asked)})


def passed(because: str = "") -> Score:
    """Return the score of an answer that is as it should be."""
    return Score(value=1, reason=because)


def failed(because: str) -> Score:
    """Return the score of an answer that is not."""
    return Score(value=0, reason=because)


def undecided(because: str) -> Score:
    """Return no score: the answer shows neither."""
    return Score(reason=f"{UNDECIDED}: {because}")
