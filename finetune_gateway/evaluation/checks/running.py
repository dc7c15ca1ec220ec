"""``evaluation.check``: which model, which rows, what it costs; then ask, and see what the answers
show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import BudgetError, SpecError, shown
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.evaluation import answers as asking
from finetune_gateway.evaluation import default_rows, leaks, resolving
from finetune_gateway.evaluation.answers import AskHow, AskPlan, Limit
from finetune_gateway.evaluation.answers.planning import total
from finetune_gateway.evaluation.asking import OnWait
from finetune_gateway.evaluation.checks.check import Case
from finetune_gateway.evaluation.checks.guide import Guide
from finetune_gateway.evaluation.checks.outcome import CheckReport, results
from finetune_gateway.evaluation.checks.rounds import Outcome, Rounds
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, drawn, fingerprint, read_prompts
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow
from finetune_gateway.jobs.budget import ZERO
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]

MAX_TOKENS = 1024
SAY = "..."  # stands for an answer that nobody knows yet, where it is priced


@dataclass(frozen=True)
class Request:
    """What is to be checked; the arguments of ``evaluation.check``."""

    model: Any
    guide: Guide
    data: Source | None = None
    rows: int | None = None
    seed: int = 0
    max_tokens: int | None = None
    max_cost_usd: Decimal | float | str | None = None
    key_envs: Mapping[str, str] = field(default_factory=dict)
    backends: Sequence[Any] = ()
    allow_http: bool = False
    allow_pii: bool = False
    allow_secrets: bool = False

    def require(self) -> None:
        """Raise SpecError for numbers that cannot be, MissingDependency for what is not here."""
        bounds = {"rows": (1, 10**9), "max_tokens": (1, 10**6), "seed": (0, 2**31 - 1)}
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None and not (type(value) is int and least <= value <= most):
                raise SpecError(
                    f"{name} cannot be {shown(value)}.",
                    hint=f"Give a whole number from {least} to {most:,}.",
                )
        self.guide.require()


@dataclass(frozen=True)
class How:
    """How the caller follows it."""

    at_once: int = 16
    confirm: Callable[[CheckPlan], bool] | None = None
    on_progress: Callable[[int, int, str], object] | None = None
    on_wait: OnWait | None = None


@dataclass(frozen=True)
class CheckPlan:
    """What is known before anything is sent. ``first``: the questions that are known; ``later``:
    those that depend on answers, about as many and as long as these."""

    model: EvaluatedModel
    guide: Guide
    words: str
    rows: int
    first: AskPlan
    later: AskPlan
    limit: Decimal | None
    notes: tuple[str, ...] = ()

    @property
    def cost(self) -> Range[Decimal] | None:
        """What all of it costs; None if the price is not known."""
        return total([self.first.cost, self.later.cost])

    @property
    def left(self) -> int:
        """Requests that are to be sent."""
        return sum([*self.first.left.values(), *self.later.left.values()])


def check(store: Store, request: Request, how: How) -> CheckReport:
    """Check a model; see ``evaluation.check``."""
    request.require()
    began = time.time()
    (model,) = resolving.resolve(
        [request.model],
        store,
        backends=request.backends,
        key_envs=request.key_envs,
        allow_http=request.allow_http,
    )
    found = _rows(request, model, store)
    rows, words = found.rows, found.words
    asked = _how(request, how, model, rows, words)
    run = _Run(store, model, request.guide.cases(rows), asked)
    if not run.cases:
        raise found.none or SpecError(
            "There is nothing to ask: no check has prompts, and no rows are named.",
            hint="Name rows (--data FILE), or give the guide prompts.",
        )
    notes = _notes(rows, model)
    plan = run.plan(request, words, len(rows), notes)
    if how.confirm is not None and not how.confirm(plan):
        raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")
    outcomes = run.ask()
    return CheckReport(
        run=asked.name,
        guide=str(request.guide.path),
        model=model.title,
        host=model.host,
        data=words,
        rows=len(rows),
        created_at=began,
        seconds=time.time() - began,
        results=results(request.guide, outcomes),
        asked=run.sent,
        asked_again=run.again,
        kept=run.kept,
        spent_usd=run.spent if model.kind == "hosted" and plan.cost is not None else None,
        stopped=run.stopped,
        notes=[*plan.notes],
    )


def _how(
    request: Request, how: How, model: EvaluatedModel, rows: Sequence[ComparedRow], words: str
) -> AskHow:
    asked = fingerprint([model.fingerprint, request.guide.fingerprint, [row.id for row in rows]])
    limit = request.max_cost_usd
    return AskHow(
        name=f"check:chk-{asked[:8]}",
        parameters={"temperature": 0, "max_tokens": request.max_tokens or MAX_TOKENS},
        words=words,
        limit=Limit(None if limit is None else parse_usd(limit, "max_cost_usd")),
        at_once=how.at_once,
        allow_pii=request.allow_pii,
        allow_secrets=request.allow_secrets,
        on_progress=how.on_progress,
        on_wait=how.on_wait,
    )


@dataclass(frozen=True)
class _Rows:
    """The rows that checks without prompts of their own ask, where they are from, and why there
    are none."""

    rows: list[ComparedRow]
    words: str
    none: SpecError | None = None


def _rows(request: Request, model: EvaluatedModel, store: Store) -> _Rows:
    """Return the rows that are named, else the guide's prompts, else those that the training of the
    model has held out, where a check wants any."""
    guide = request.guide
    if request.data is not None:
        dataset = Dataset.open(request.data, spool=store.settings.spool)
        prompts, words = read_prompts(dataset), visible(dataset.name)
    elif guide.prompts or not guide.wants_rows:
        prompts, words = [*guide.prompts], f"the prompts of {guide.path.name}"
    else:
        try:
            found = default_rows.default_rows([model], store)
        except SpecError as exc:
            return _Rows([], "no rows", exc)
        prompts, words = found.prompts, found.words
    chosen = drawn(prompts, request.rows, request.seed)
    clusters = leaks.clusters(chosen)
    return _Rows([ComparedRow(prompt=one, cluster=clusters[one.id]) for one in chosen], words)


def _notes(rows: Sequence[ComparedRow], model: EvaluatedModel) -> list[str]:
    """Return what a person should know of the rows: those that the model has seen."""
    seen = sum(bool(row.leaks) for row in leaks.mark(rows, [model]))
    if not seen:
        return []
    return [
        f"{model.title} was trained on {seen:,} of these {len(rows):,} rows: that it passes them "
        "says little of others."
    ]


@dataclass
class _Run:
    """The conversations with the model, round after round."""

    store: Store
    model: EvaluatedModel
    cases: list[Case]
    how: AskHow
    sent: int = 0
    again: int = 0
    kept: int = 0
    spent: Decimal = ZERO
    stopped: str = ""

    def plan(self, request: Request, words: str, rows: int, notes: Sequence[str]) -> CheckPlan:
        """Return the plan: questions that depend on answers are priced with short ones."""
        rounds = Rounds(self.cases)
        first, later = rounds.pending(), list[Prompt]()
        pending = first
        while pending:
            rounds.take({one.id: _like_data(one) for one in pending})
            pending = rounds.pending()
            later += pending
        limit = self.how.limit.usd
        now, then = self._plan(first), self._plan(later)
        said = (*now.notes, *notes)
        return CheckPlan(self.model, request.guide, words, rows, now, then, limit, said)

    def _plan(self, prompts: Sequence[Prompt]) -> AskPlan:
        return asking.plan(self.store, [self.model], {self.model.key: prompts}, self.how)

    def ask(self) -> list[Outcome]:
        """Ask it all, and return what each case has shown. Raises the error that ended it, if
        nothing was answered."""
        rounds = Rounds(self.cases)
        while (pending := rounds.pending()) and not self.stopped:
            asked = asking.ask(self._plan(pending))
            if asked.ended and not self.sent and all(one.error for one in asked.answers.values()):
                raise next(iter(asked.ended.values()))
            self.sent += asked.asked
            self.again += asked.again
            self.kept += asked.kept
            self.spent += asked.spent_usd
            self.stopped = asked.stopped
            rounds.take({row: answer for (_, row, _), answer in asked.answers.items()})
        return rounds.outcomes()


def _like_data(prompt: Prompt) -> ComparedAnswer:
    """Return an answer like that of the data, for prices."""
    message = prompt.references[0] if prompt.references else {"content": SAY}
    return ComparedAnswer(model="", row=prompt.id, message=message)
