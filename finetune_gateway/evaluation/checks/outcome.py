"""What a guide has found of a model, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict, Field

from finetune_gateway.evaluation.answer_forms import text_of
from finetune_gateway.evaluation.checks.check import Check
from finetune_gateway.evaluation.checks.guide import Guide, Skipped
from finetune_gateway.evaluation.checks.rounds import Outcome
from finetune_gateway.evaluation.results import UNDECIDED, ComparedAnswer
from finetune_gateway.model import Model

Json = dict[str, Any]
Status = Literal["passed", "failed", "not judged", "skipped"]

EXAMPLES = 5  # of a check
WORST_FIRST: tuple[Status, ...] = ("failed", "not judged", "skipped", "passed")
NO_ROWS = "there are no rows to ask: name them (--data FILE), or give the check prompts"


class CheckExample(Model):
    """One answer that failed, or was not judged, with what was asked and said after it."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    asked: str
    answer: str
    reason: str
    line: int | None = None  # of the data
    turns: list[Json] = Field(default_factory=list)


class CheckResult(Model):
    """One check. ``undecided``: answers that show neither; ``missing``: those that were not judged
    because something went wrong, which count against it. ``note``: why it is not judged."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    kind: str
    title: str
    status: Status
    passed: int = 0
    failed: int = 0
    undecided: int = 0
    missing: int = 0
    min_pass: float = 1.0
    note: str = ""
    examples: tuple[CheckExample, ...] = ()

    @property
    def counted(self) -> int:
        """Answers that decide: those that show neither are left out."""
        return self.passed + self.failed + self.missing


class CheckReport(Model):
    """All checks of a guide on one model. ``run``: what its answers are kept under."""

    model_config = ConfigDict(defer_build=True, protected_namespaces=())

    version: int = 1
    run: str
    guide: str
    model: str
    host: str | None = None
    judge: str | None = None
    data: str
    rows: int
    created_at: float
    seconds: float
    results: list[CheckResult]
    asked: int = 0
    asked_again: int = 0
    kept: int = 0
    spent_usd: Decimal | None = None  # in all of its runs
    unanswered: int = 0  # requests without an answer: the host may have charged them
    at_most_usd: Decimal = Decimal(0)  # of spent_usd: that of these, the most that they can cost
    stopped: str = ""
    notes: list[str] = Field(default_factory=list)

    @property
    def ok(self) -> bool:
        """True if at least one check passed, and each of the others did too or was skipped."""
        found = {one.status for one in self.results}
        return "passed" in found and found <= {"passed", "skipped"} and not self.stopped

    @property
    def worst_first(self) -> list[CheckResult]:
        """The checks, those that failed at the top."""
        return sorted(self.results, key=lambda one: WORST_FIRST.index(one.status))

    def of(self, name: str) -> CheckResult:
        """Return the result of one check. Raises KeyError."""
        found = {one.name: one for one in self.results}
        return found[name]


def results(
    guide: Guide, outcomes: Sequence[Outcome], not_asked: Mapping[str, str] | None = None
) -> list[CheckResult]:
    """Return the result of each check of a guide, in its order. ``not_asked``: the reason why
    nobody answered, by the names of those checks."""
    by_check: dict[str, list[Outcome]] = {check.name: [] for check in guide.checks}
    for outcome in outcomes:
        by_check[outcome.case.check.name].append(outcome)
    why = not_asked or {}
    return [_result(check, by_check[check.name], why.get(check.name, "")) for check in guide.checks]


def _result(check: Check, outcomes: Sequence[Outcome], not_asked: str) -> CheckResult:
    failed = [one for one in outcomes if one.score.value == 0]
    unjudged = [one for one in outcomes if one.score.value is None]
    undecided = [one for one in unjudged if one.score.reason.startswith(UNDECIDED)]
    missing = [one for one in unjudged if one not in undecided]
    about = check.about
    counted = CheckResult(
        name=check.name,
        kind=about.kind,
        title=about.title,
        status="passed",
        passed=len(outcomes) - len(failed) - len(unjudged),
        failed=len(failed),
        undecided=len(undecided),
        missing=len(missing),
        min_pass=about.min_pass,
        examples=tuple(_examples([*failed, *missing, *undecided])),
    )
    status, note = _status(check, counted, unjudged, not_asked)
    shown = counted.examples if status in ("failed", "not judged") else ()
    return counted.model_copy(update={"status": status, "note": note, "examples": shown})


def _status(
    check: Check, counted: CheckResult, unjudged: Sequence[Outcome], not_asked: str
) -> tuple[Status, str]:
    """Return what became of a check, and why if that is neither passed nor failed."""
    if isinstance(check, Skipped):
        return "skipped", check.why
    judged = counted.passed + counted.failed
    if not judged and not unjudged:
        return ("not judged", not_asked) if not_asked else ("skipped", NO_ROWS)
    if not judged:
        return "not judged", unjudged[0].score.reason
    enough = about_at_least(counted.passed, counted.min_pass * counted.counted)
    if enough:
        return "passed", ""
    if about_at_least(counted.passed, counted.min_pass * judged):
        return "not judged", f"{counted.missing:,} answers are missing"
    return "failed", ""


def about_at_least(count: int, wanted: float) -> bool:
    """Return True for enough; 0.1 of 10 is 1, whatever the rounding."""
    return count >= wanted - 1e-9


def _examples(outcomes: Iterable[Outcome]) -> list[CheckExample]:
    return [_example(one) for _, one in zip(range(EXAMPLES), outcomes, strict=False)]


def _example(outcome: Outcome) -> CheckExample:
    messages = outcome.case.opening.messages
    asked = next((text_of(one) for one in reversed(messages) if one.get("role") == "user"), "")
    lines = outcome.row.prompt.lines
    at = outcome.case.check.decided_by(outcome.case, outcome.answers)
    return CheckExample(
        asked=asked,
        answer=said(outcome.answers[at]),
        reason=outcome.score.reason,
        line=lines[0] if lines and not outcome.row.check else None,
        turns=_until(outcome.turns, at),
    )


def _until(turns: Sequence[Json], answer: int) -> list[Json]:
    """Return what was said after the opening, before the n-th answer and with it."""
    ends = [at for at, turn in enumerate(turns) if turn.get("role") == "assistant"]
    return [*turns[: ends[answer] + 1]] if answer < len(ends) else [*turns]


def said(answer: ComparedAnswer) -> str:
    """Return what an answer says: its text and calls, or why there is none."""
    if answer.error:
        return answer.error
    calls = [one.get("function") or {} for one in answer.tool_calls]
    written = [f"{one.get('name')}({one.get('arguments')})" for one in calls]
    return "\n".join([*([answer.text] if answer.text else []), *written])
