"""The conversations that checks have with one model, a round at a time.

>>> rounds = Rounds(guide.cases(rows), answers)  # answers: of the rows, if they were asked before
>>> while prompts := rounds.pending():
...     rounds.take(ask(prompts))  # by the id of the prompt
>>> outcomes = rounds.outcomes()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.data.row_access import as_dict
from finetune_gateway.evaluation.checks.check import Case
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow, Score

Json = dict[str, Any]

NOT_ENDED = "not asked to its end"
RESULT = "OK"  # what a tool returns in a conversation of a check


@dataclass(frozen=True)
class Outcome:
    """A case with one model's answers and what they show. ``answer``: the last one, as that of
    ``row``. ``turns``: what was said after the opening, as messages."""

    case: Case
    answers: tuple[ComparedAnswer, ...]
    score: Score
    turns: list[Json] = field(default_factory=list)

    @property
    def row(self) -> ComparedRow:
        """The row it is known by, for all models."""
        return self.case.row

    @property
    def answer(self) -> ComparedAnswer:
        """The answer that ended it."""
        return self.answers[-1].model_copy(update={"row": self.row.id})


class Rounds:
    """All conversations of one model. Openings that are the same are asked once."""

    def __init__(
        self, cases: Iterable[Case], answers: Mapping[str, ComparedAnswer] | None = None
    ) -> None:
        self._threads = [_Thread(case) for case in cases]
        self.take(answers or {})

    def pending(self) -> list[Prompt]:
        """Return what is to be asked next, each prompt once; empty when all is answered."""
        prompts = (one.next_prompt() for one in self._threads)
        return [*{one.id: one for one in prompts if one is not None}.values()]

    def take(self, answers: Mapping[str, ComparedAnswer]) -> None:
        """Note answers by the ids of their prompts. What was asked and is not among them stays
        unanswered: a run that was stopped."""
        for thread in self._threads:
            while (prompt := thread.next_prompt()) is not None and prompt.id in answers:
                thread.answers.append(answers[prompt.id])

    def outcomes(self) -> list[Outcome]:
        """Return what each case has shown so far; those without any answer are left out."""
        return [one.outcome() for one in self._threads if one.answers]


@dataclass
class _Thread:
    """One conversation on its way."""

    case: Case
    answers: list[ComparedAnswer] = field(default_factory=list)

    def next_prompt(self) -> Prompt | None:
        """Return what is asked next; None at the end, or where an answer is missing."""
        opening, script = self.case.opening, self.case.script
        if not self.answers:
            return opening
        if len(self.answers) > len(script) or self.answers[-1].error:
            return None
        messages = [*opening.messages, *self._messages_said(len(self.answers))]
        asked = {"messages": messages, **opening.beside}
        return opening.model_copy(update={"id": fingerprint(asked), "messages": messages})

    def _messages_said(self, turns: int) -> list[Json]:
        """Return the answers so far, each with what the user says to it."""
        said: list[Json] = []
        for answer, reply in zip(self.answers[:turns], self.case.script, strict=False):
            said += [*_as_turn(answer), {"role": "user", "content": reply}]
        return said

    def outcome(self) -> Outcome:
        ended = len(self.answers) > len(self.case.script) or bool(self.answers[-1].error)
        score = Score(reason=NOT_ENDED)
        if ended:
            score = self.case.check.judge(self.case, self.answers)
        last = [*_as_turn(self.answers[-1])][:1] if self.case.script else []
        turns = [*self._messages_said(len(self.answers) - 1), *last] if last else []
        return Outcome(self.case, tuple(self.answers), score, turns)


def _as_turn(answer: ComparedAnswer) -> list[Json]:
    """Return an answer as the messages of a conversation: a call needs a result to go on."""
    message: Json = {"role": "assistant", "content": answer.text}
    calls = answer.tool_calls
    if not calls:
        return [message]
    results = [
        {"role": "tool", "tool_call_id": str(as_dict(one).get("id") or ""), "content": RESULT}
        for one in calls
    ]
    return [{**message, "content": answer.text or None, "tool_calls": calls}, *results]


def openings(cases: Sequence[Case]) -> list[Prompt]:
    """Return what is asked first for some cases, each prompt once."""
    return [*{case.opening.id: case.opening for case in cases}.values()]
