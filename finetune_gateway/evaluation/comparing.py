"""Compare models on the same rows, top to bottom: which models, which rows, what may be sent and
what that costs; then ask, ask on where a check does, let the judge judge, score and conclude.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import SpecError, shown
from finetune_gateway.evaluation import answers as asking
from finetune_gateway.evaluation import (
    concluding,
    costs,
    default_rows,
    leaks,
    resolving,
    statistics,
)
from finetune_gateway.evaluation.answerers import BackendOf
from finetune_gateway.evaluation.asking import MAX_TOKENS
from finetune_gateway.evaluation.bounds import require_whole
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparison import PREFIX, Comparison
from finetune_gateway.evaluation.examples import with_examples
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import drawn, fingerprint, read_prompts
from finetune_gateway.evaluation.questions import QuestionPlan, Questions
from finetune_gateway.evaluation.results import ComparedRow, DataFacts
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.arguments import as_path
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]
MOST_MODELS = 20
OF_ITS_DATA = "They have the form of the training rows, and the figures hold for such rows."


@dataclass(frozen=True)
class Request:
    """What is to be compared; the arguments of ``Gateway.compare``. ``seen_by``: names of models
    whose rows count though they were trained on them: an advantage of theirs, which is said.
    ``own``: returns the backend of a job with the keys of its Gateway."""

    models: tuple[Any, ...]
    data: Source | None = None
    checks: str | Path | Guide | None = None
    code: tuple[str | Path, ...] = ()
    judge: Any = None
    by: str | None = None
    rows: int | None = None
    seed: int = 0
    samples: int = 1
    temperature: float | str | None = None
    max_tokens: int | None = None
    max_cost_usd: Decimal | float | str | None = None
    monthly_usd: Decimal | None = None
    monthly_requests: int | None = None
    examples: Source | None = None
    backends: tuple[OpenAIBackend, ...] = ()
    key_envs: Mapping[str, str] = field(default_factory=dict)
    own: BackendOf | None = None
    allow_http: bool = False
    allow_pii: bool = False
    allow_secrets: bool = False
    seen_by: tuple[str, ...] = ()
    command: str = ""

    def check(self) -> None:
        """Raise SpecError for what cannot be."""
        if not 1 <= len(self.models) <= MOST_MODELS:
            raise SpecError(
                f"{len(self.models)} models cannot be compared.",
                hint=f"Name 1 to {MOST_MODELS} models.",
            )
        bounds = {"rows": (1, 10**9), "max_tokens": (1, 10**6), "seed": (0, 2**31 - 1)}
        bounds["monthly_requests"] = (1, 10**12)
        require_whole(self, bounds, optional=True)
        require_whole(self, {"seed": bounds["seed"]})
        warmth = self.temperature
        number = isinstance(warmth, int | float) and not isinstance(warmth, bool)
        known = warmth is None or (isinstance(warmth, str) and warmth == "host")
        if not known and not (number and 0 <= warmth <= 2):  # type: ignore[operator]
            raise SpecError(
                f"temperature cannot be {shown(warmth)}.",
                hint="Give a number from 0 to 2, or 'host' for the host's own.",
            )

    @property
    def parameters(self) -> Json:
        """What is sent with each request: greedy, unless there are several samples."""
        warmth = self.temperature
        if warmth is None:
            warmth = 0 if self.samples == 1 else "host"
        given: Json = {} if warmth == "host" else {"temperature": warmth}
        given["max_tokens"] = self.max_tokens or MAX_TOKENS
        return given | ({"seed": self.seed} if self.samples > 1 else {})


@dataclass(frozen=True)
class How:
    """How the caller follows it."""

    at_once: int = 16
    confirm: Callable[[ComparePlan], bool] | None = None
    on_progress: Callable[[int, int, str], object] | None = None
    on_wait: Callable[[float, str], object] | None = None


@dataclass(frozen=True)
class ComparePlan(QuestionPlan):
    """All that is known before anything is sent."""

    id: str
    models: list[EvaluatedModel]
    data: DataFacts


def compare(store: Store, request: Request, how: How) -> Comparison:
    """Compare models; see ``Gateway.compare``."""
    request.check()
    statistics.require()  # before anything is asked
    guide = _guide(request)
    compared, judge = _models(request, store)
    rows, data = _rows(request, compared, store)
    asked_rows = [row.prompt for row in rows if not row.leaks]
    compared = with_examples(compared, asked_rows, seed=request.seed)
    name = _id(compared, judge, rows, guide, request)
    limit = request.max_cost_usd
    asked = asking.AskHow(
        name=f"compare:{name}",
        parameters=request.parameters,
        samples=request.samples,
        words=data.words,
        limit=asking.limit_of(
            store,
            f"compare:{name}",
            None if limit is None else parse_usd(limit, "max_cost_usd"),
        ),
        monthly_usd=request.monthly_usd,
        at_once=how.at_once,
        allow_pii=request.allow_pii,
        allow_secrets=request.allow_secrets,
        on_progress=how.on_progress,
        on_wait=how.on_wait,
    )
    questions = Questions(store, compared, judge, guide, rows, asked, request.seed, True)
    concluding.require_measure(request.by, questions)
    known = questions.plan((*data.warnings, *_undecided(rows, guide, judge)))
    plan = ComparePlan(**vars(known), id=name, models=compared, data=data)
    plan.require_agreed("the comparison", how.confirm)
    prices = [price for _, one in plan.rounds for rows in one.prices.values() for price in rows]
    about = concluding.begun(
        name, data, request.command, tuple(dict.fromkeys(map(costs.price_text, prices)))
    )
    return concluding.conclude(
        questions,
        questions.ask(),
        about,
        by=request.by,
        requests=request.monthly_requests,
        unpriced={key for _, one in plan.rounds for key in one.unpriced},
    )


def _guide(request: Request) -> Guide | None:
    checks = request.checks
    if checks is None or isinstance(checks, Guide):
        guide = checks
    else:
        guide = Guide.load(as_path(checks, "checks"), code=request.code)
    if guide is None:
        return None
    guide.require()
    return guide.without_judge() if request.judge is None else guide


def _models(request: Request, store: Store) -> tuple[list[EvaluatedModel], EvaluatedModel | None]:
    """Return the compared models, and the judge."""
    return resolving.resolve_with_judge(
        request.models,
        request.judge,
        store,
        backends=request.backends,
        key_envs=request.key_envs,
        allow_http=request.allow_http,
        own=request.own,
        examples=None if request.examples is None else _open(request.examples, store),
    )


def _open(data: Source, store: Store) -> Dataset:
    return Dataset.open(data, spool=store.settings.spool)


def _rows(
    request: Request, compared: Sequence[EvaluatedModel], store: Store
) -> tuple[list[ComparedRow], DataFacts]:
    """Return the rows that are asked, and what is known of them."""
    source = _source(request, compared, store)
    prompts = drawn(source.prompts, request.rows, request.seed)
    clusters = leaks.clusters(prompts)
    rows = [ComparedRow(prompt=one, cluster=clusters[one.id]) for one in prompts]
    judged = [one for one in compared if one.name not in request.seen_by]
    advantage = _advantages(rows, [one for one in compared if one not in judged])
    rows = leaks.mark(rows, judged)
    left_out = Counter(_kind(row) for row in rows if row.leaks)
    dataset = source.dataset
    alike = leaks.same_generator(rows, compared)
    of_a_training = request.data is None and dataset is not None  # its data: that is no surprise
    facts = DataFacts(
        words=source.words,
        sha256=None if dataset is None else dataset.sha256 or dataset.fingerprint,
        rows_in_file=len(source.prompts),
        rows=len(rows),
        clusters=len({row.cluster for row in rows}),
        left_out=dict(left_out),
        seed=request.seed,
        warnings=(*advantage, *(() if of_a_training else alike)),
        note=OF_ITS_DATA if alike and of_a_training else "",
    )
    if left_out.total() == len(rows):
        raise SpecError(
            f"A compared model was trained on all {len(rows):,} rows of {source.words}.",
            hint="Name held-out rows: --data FILE",
        )
    return rows, facts


def _undecided(
    rows: Sequence[ComparedRow], guide: Guide | None, judge: EvaluatedModel | None
) -> Iterator[str]:
    """Yield that nothing is going to tell which model is the best, before it is paid for."""
    if guide is None and judge is None and all(row.reference is None for row in rows):
        yield (
            "No row has an answer, so that nothing says which model is right: lengths, times and "
            "costs alone are compared. --checks or --judge would tell, or rows with answers."
        )


def _advantages(rows: Sequence[ComparedRow], models: Sequence[EvaluatedModel]) -> list[str]:
    """Return for each of these models how many of the rows it was trained on."""
    counts = {
        model.name: sum(bool(row.leaks) for row in leaks.mark(rows, [model])) for model in models
    }
    return [
        f"{name} was trained on {count:,} of these {len(rows):,} rows, which is an advantage."
        for name, count in counts.items()
        if count
    ]


def _source(
    request: Request, compared: Sequence[EvaluatedModel], store: Store
) -> default_rows.DefaultRows:
    if request.data is None:
        return default_rows.default_rows(compared, store)
    dataset = _open(request.data, store)
    return default_rows.DefaultRows(read_prompts(dataset), visible(dataset.name), dataset)


def _kind(row: ComparedRow) -> str:
    return "exact" if any(leak.kind == "exact" for leak in row.leaks) else "near"


def _asked_how(one: EvaluatedModel) -> list[Any]:
    """Return which model it is, and what is put before each row."""
    examples = [line for line, _ in one.examples]
    name = one.name if one.kind == "object" else ""
    return [one.fingerprint, one.variant, name, one.system_prompt, one.drops, examples]


def _id(
    compared: Sequence[EvaluatedModel],
    judge: EvaluatedModel | None,
    rows: Sequence[ComparedRow],
    guide: Guide | None,
    request: Request,
) -> str:
    """Return the name of a comparison: the same models, rows, checks and parameters have the same,
    so that the same command again goes on with it."""
    said = [
        [_asked_how(one) for one in compared],
        judge.fingerprint if judge else None,
        [[row.id, row.prompt.references] for row in rows],
        guide.fingerprint if guide else None,
        [request.parameters, request.samples, request.seed, request.by],
    ]
    return f"{PREFIX}{fingerprint(said)[:8]}"
