"""``evaluation.check``: which model, which rows, what it costs; then ask, and see what the answers
show."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any

from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import SpecError
from finetune_gateway.evaluation import default_rows, judging, leaks, resolving
from finetune_gateway.evaluation.answers import AskHow, limit_of
from finetune_gateway.evaluation.asking import MAX_TOKENS, OnWait
from finetune_gateway.evaluation.bounds import require_whole
from finetune_gateway.evaluation.checks.guide import Guide, Skipped
from finetune_gateway.evaluation.checks.outcome import CheckReport, results
from finetune_gateway.evaluation.checks.rounds import Outcome, openings
from finetune_gateway.evaluation.examples import with_examples
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import drawn, fingerprint, read_prompts
from finetune_gateway.evaluation.questions import Found, QuestionPlan, Questions
from finetune_gateway.evaluation.results import ComparedRow
from finetune_gateway.jobs.charges import CHECK
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """What is to be checked; the arguments of ``evaluation.check``."""

    model: Any
    guide: Guide
    data: Source | None = None
    judge: Any = None
    rows: int | None = None
    seed: int = 0
    max_tokens: int | None = None
    max_cost_usd: Decimal | float | str | None = None
    monthly_usd: Decimal | None = None
    key_envs: Mapping[str, str] = field(default_factory=dict)
    backends: Sequence[Any] = ()
    allow_http: bool = False
    allow_pii: bool = False
    allow_secrets: bool = False

    def require(self) -> None:
        """Raise SpecError for numbers that cannot be, MissingDependency for what is not here."""
        bounds = {"rows": (1, 10**9), "max_tokens": (1, 10**6), "seed": (0, 2**31 - 1)}
        require_whole(self, bounds, optional=True)
        self.guide.require()
        if self.judge is not None and not self.guide.rubrics:
            raise SpecError(
                "A judge decides rubrics, and the guide has none.", hint="Leave --judge out."
            )


@dataclass(frozen=True)
class How:
    """How the caller follows it."""

    at_once: int = 16
    confirm: Callable[[CheckPlan], bool] | None = None
    on_progress: Callable[[int, int, str], object] | None = None
    on_wait: OnWait | None = None


@dataclass(frozen=True)
class CheckPlan(QuestionPlan):
    """What is known before anything is sent. ``words``: where the rows are from."""

    model: EvaluatedModel
    guide: Guide
    words: str
    rows: int


def check(store: Store, request: Request, how: How) -> CheckReport:
    """Check a model; see ``evaluation.check``."""
    request.require()
    began = time.time()
    model, judge = _models(request, store)
    guide = request.guide if judge else request.guide.without_judge()
    guide = guide.with_system(_trained_with(model))
    found = _rows(request, guide, model, store)
    asks = openings(guide.cases(found.rows))
    if not asks:
        raise found.none or _nothing_to_ask(guide)
    (model,) = with_examples([model], asks, seed=request.seed)
    asked = _how(request, how, model, found, store)
    questions = Questions(store, [model], judge, guide, found.rows, asked, request.seed)
    known, rows = questions.plan(_notes(found.rows, model)), len(found.rows)
    plan = CheckPlan(**vars(known), model=model, guide=guide, words=found.words, rows=rows)
    plan.require_agreed("the check", how.confirm)
    said = questions.ask()
    outcomes = _judged(said.outcomes.get(model.key, []), said, model)
    costs = model.kind == "hosted" or judge is not None
    return CheckReport(
        run=asked.name,
        guide=str(request.guide.path),
        model=model.title,
        host=model.host,
        judge=judge.title if judge else None,
        data=found.words,
        rows=len(found.rows),
        created_at=began,
        seconds=time.time() - began,
        results=results(guide, outcomes, _not_asked(guide, found.rows, said, model)),
        asked=said.asked,
        asked_again=said.again,
        kept=said.kept,
        spent_usd=said.spent.usd if costs and plan.cost is not None else None,
        unanswered=said.spent.unanswered,
        at_most_usd=said.spent.at_most_usd,
        stopped=said.stopped,
        notes=[*plan.notes],
    )


def _not_asked(
    guide: Guide, rows: Sequence[ComparedRow], said: Found, model: EvaluatedModel
) -> dict[str, str]:
    """Return for each check that had something to ask, by its name, why nothing of it was asked:
    where it was, its outcomes count alone."""
    ended = said.ended.get(model.key)
    errors = (one.error for one in said.answers.values() if one.error)
    why = said.stopped or (ended.message if ended else next(errors, "")) or "it was not asked"
    return {case.check.name: f"no answer: {why}" for case in guide.cases(rows)}


def _trained_with(model: EvaluatedModel) -> str:
    """Return the system prompt of a tuned model's training, if its rows shared one."""
    if model.variant != "tuned":
        return ""
    known = model.job.system_prompt if model.job else None
    return known or (model.handle.system_prompt if model.handle else None) or ""


def _nothing_to_ask(guide: Guide) -> SpecError:
    """Return the error for a guide that asks nothing here, with the reason of a check."""
    skipped = [one for one in guide.checks if isinstance(one, Skipped)]
    why = f" {skipped[0].name}: {skipped[0].why}." if skipped else ""
    return SpecError(
        f"There is nothing to ask: no check of {guide.path.name} runs here.{why}",
        hint="Give the guide prompts, or name rows: --data FILE",
    )


def _models(request: Request, store: Store) -> tuple[EvaluatedModel, EvaluatedModel | None]:
    """Return the model, and the judge of rubrics."""
    (model,), judge = resolving.resolve_with_judge(
        [request.model],
        request.judge,
        store,
        backends=request.backends,
        key_envs=request.key_envs,
        allow_http=request.allow_http,
    )
    return model, judge


def _judged(outcomes: Sequence[Outcome], said: Found, model: EvaluatedModel) -> list[Outcome]:
    """Return the outcomes, those of rubrics with what the judge says."""
    scores = judging.rubric_scores(said.judgements)
    return [
        replace(one, score=scores.get((model.key, one.row.id), {}).get(measure, one.score))
        for one in outcomes
        for measure in [one.case.check.measure.name]
    ]


def _how(request: Request, how: How, model: EvaluatedModel, found: _Rows, store: Store) -> AskHow:
    rows = [row.id for row in found.rows]
    asked = fingerprint([model.fingerprint, request.guide.fingerprint, rows])
    name, limit = f"{CHECK}chk-{asked[:8]}", request.max_cost_usd
    return AskHow(
        name=name,
        parameters={"temperature": 0, "max_tokens": request.max_tokens or MAX_TOKENS},
        words=found.words,
        limit=limit_of(store, name, None if limit is None else parse_usd(limit, "max_cost_usd")),
        monthly_usd=request.monthly_usd,
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


def _rows(request: Request, guide: Guide, model: EvaluatedModel, store: Store) -> _Rows:
    """Return the rows that are named, else the guide's prompts, else those that the training of the
    model has held out, where a check wants any."""
    if not guide.wants_rows and request.data is not None:
        raise SpecError(
            "No check of the guide asks rows: each that runs has prompts of its own.",
            hint="Leave --data out.",
        )
    if not guide.wants_rows:
        return _Rows([], "the prompts of its checks")
    if request.data is not None:
        dataset = Dataset.open(request.data, spool=store.settings.spool)
        prompts, words = read_prompts(dataset), visible(dataset.name)
    elif guide.prompts:
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
        f"{model.title} was trained on {seen:,} of these {len(rows):,} rows, or nearly so: that it "
        "passes them says little of others."
    ]
