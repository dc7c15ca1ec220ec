"""A fine-tune is trained again at another place, compared with what it was, and judged: go or
no-go.

Each step is one that can be taken alone, and is not taken twice: the same job is found again, and
kept answers are not asked again. So the same command goes on after whatever has stopped it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.data.dataset import Source
from finetune_gateway.errors import (
    BackendError,
    BudgetError,
    NotFoundError,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.evaluation import answers, comparing, measures, resolving, statistics
from finetune_gateway.evaluation import recording as recordings
from finetune_gateway.evaluation.answers.planning import total
from finetune_gateway.evaluation.assessing import CHECKS, FIGURES
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.evaluation.limits import Limit
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.recording import Recording
from finetune_gateway.evaluation.results import ComparedRow, Measure
from finetune_gateway.evaluation.thresholds import Threshold, decide, require_known
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Plan
from finetune_gateway.jobs.recordings import PREFIX
from finetune_gateway.jobs.store import Store
from finetune_gateway.migration import moving, sides
from finetune_gateway.migration.destinations import Destination, destination
from finetune_gateway.migration.moving import Source as FineTuneSource
from finetune_gateway.migration.outcome import Migration
from finetune_gateway.migration.sides import Sides
from finetune_gateway.settings import config
from finetune_gateway.text.cleaning import visible

LIVE = "live"
PROBE_TOKENS = 32

Submit = Callable[..., Job]


@dataclass(frozen=True)
class Wanted:
    """What is to be done; the arguments of ``Gateway.migrate``."""

    model: str
    to: str
    thresholds: tuple[Threshold, ...]
    against: str | None = None
    data: Source | None = None
    to_options: Mapping[str, Any] = field(default_factory=dict)
    backends: tuple[OpenAIBackend, ...] = ()
    checks: Any = None
    code: tuple[str | Path, ...] = ()
    max_tokens: int | None = None
    max_cost_usd: Decimal | None = None
    monthly_usd: Decimal | None = None
    allowed: Mapping[str, bool] = field(default_factory=dict)  # allow_pii, allow_longer, ...
    dry_run: bool = False  # ``confirm`` is called whatever is there, and ends it
    command: str = ""


@dataclass(frozen=True)
class Followed:
    """How the caller follows it. ``wait``: returns when a job has ended."""

    confirm: Callable[[MigrationPlan], bool] | None = None
    wait: Callable[[Job], object] = Job.wait
    on_progress: Callable[[int, int, str], object] | None = None
    on_wait: Callable[[float, str], object] | None = None


@dataclass(frozen=True)
class MigrationPlan:
    """What is known before anything is sent. ``training``: None if that job is there already.
    ``asking_usd``: what the answers of hosts cost; None: a price is not known."""

    model: str
    destination: Destination
    against: str
    sides: Sides
    training: Plan | None
    asking_usd: Range[Decimal] | None
    thresholds: tuple[Threshold, ...]
    limit: Decimal | None

    @property
    def cost_usd(self) -> Range[Decimal] | None:
        """What both parts cost together; None if a price is not known."""
        return total([_cost_of(self.training), self.asking_usd])


def run(wanted: Wanted, store: Store, submit: Submit, followed: Followed) -> Migration:
    """Train, compare, decide; see ``Gateway.migrate``."""
    if not wanted.thresholds:
        raise SpecError(
            "There is no threshold, so nothing says go or no-go.",
            hint="Like --max-drop normalized_match=0.05, or --min normalized_match=0.8",
        )
    statistics.require()  # before anything is trained
    move = _Move.of(wanted, store)
    require_known(wanted.thresholds, [*_measures(move.sides.asked, wanted)])
    job = move.trained(submit, followed)
    followed.wait(job)
    _require_answering(job.result(), job)
    comparison = move.compared(job, followed)
    new, old, *_ = comparison.data.models
    return Migration(
        model=move.name,
        destination=move.destination.title,
        job_id=job.id,
        against=move.old_title,
        trained_rows=move.sides.all_rows - move.sides.left_out,
        left_out=move.sides.left_out,
        comparison=comparison,
        decision=decide(comparison.data, new.key, old.key, wanted.thresholds),
    )


@dataclass
class _Move:
    """One fine-tune on its way. ``old``: the recording, or None for the live model."""

    wanted: Wanted
    store: Store
    source: FineTuneSource
    destination: Destination
    old: Recording | None
    sides: Sides
    limit: Decimal | None
    asked: bool = False  # the price was confirmed

    @classmethod
    def of(cls, wanted: Wanted, store: Store) -> _Move:
        """Return the move. Raises SpecError, NotFoundError, UnsupportedError; sends nothing."""
        source = _source(wanted.model, store)
        place = destination(wanted.to, source.one, wanted.to_options, store.settings)
        old = _old(wanted.against, source, store)
        limit = config.current_value(store.settings, "budget.job_usd", wanted.max_cost_usd).usd
        return cls(wanted, store, source, place, old, _sides(wanted, source, old, store), limit)

    @property
    def name(self) -> str:
        return self.source.one.name

    @property
    def old_title(self) -> str:
        return self.old.title if self.old else f"{self.name}, as it answers now"

    @property
    def old_name(self) -> str:
        return self.old.title if self.old else self.name

    @property
    def hosts(self) -> tuple[OpenAIBackend, ...]:
        """The host of the fine-tune, with each of its keys."""
        return self.wanted.backends or tuple(self.source.hosts)

    # -- train ---------------------------------------------------------------------------------

    def trained(self, submit: Submit, followed: Followed) -> Job:
        """Return the job of the new model: the one that is there, or one that is started now."""
        asking = self._asking_usd()

        def confirm(training: Plan | None) -> bool:
            self.asked = True
            plan = MigrationPlan(
                self.name, self.destination, self.old_title, self.sides, training, asking,
                self.wanted.thresholds, self.limit,
            )  # fmt: skip
            if followed.confirm is not None and not followed.confirm(plan):
                return False
            if self.old is None:
                self._require_live()
            return True

        held_out = self.source.validation
        job = submit(
            self.sides.train,
            model=self.destination.model,
            backend=self.destination.backend,
            confirm=confirm,
            max_cost_usd=self._left(asking),
            # The rows that are compared are out of it already.
            **({"validation": held_out} if held_out else {"validation_split": 0}),
            **self.destination.training,
            **self.wanted.allowed,
            again=self.wanted.dry_run,
        )
        if self.old is None and not self.asked and not confirm(None):
            raise BudgetError("Nothing was sent: the price was not confirmed.", hint="Pass --yes.")
        return job

    def _left(self, taken: Range[Decimal] | None) -> Decimal | None:
        """Return what is left of the limit for the other part. Raises BudgetError for nothing."""
        if self.limit is None:
            return None
        if taken is None:  # no price is known, which ``_asking_usd`` refuses for a limit
            return self.limit
        if taken.high > self.limit:
            raise BudgetError(
                f"Asking the models can cost {taken.high:.2f} USD, above the limit of "
                f"{self.limit:.2f}.",
                hint="Raise --max-cost.",
            )
        return self.limit - taken.high

    def _asking_usd(self) -> Range[Decimal] | None:
        """Return what asking the live model costs, and a hosted new one at the price of its base;
        None if a price is not known. Raises BudgetError without one if there is a limit."""
        names = [self.name] if self.old is None else []
        models = resolving.resolve(names, self.store, backends=self.hosts) if names else []
        models += [new] if (new := self._new_at_host()) else []
        allowed = self._request(())
        how = answers.AskHow(
            name="migrate",
            parameters=allowed.parameters,
            words=self.sides.words,
            allow_pii=allowed.allow_pii,
            allow_secrets=allowed.allow_secrets,
            limit=Limit(self.limit),
        )
        plan = answers.plan(self.store, models, {one.key: self.sides.asked for one in models}, how)
        plan.require_priced()
        return plan.cost

    def _new_at_host(self) -> EvaluatedModel | None:
        """Return the model that is to be, for its price; None for one of this machine."""
        host, base = self.destination.backend, self.destination.model
        if not isinstance(host, OpenAIBackend):
            return None
        handle = _handle(host, base, base)
        return EvaluatedModel(
            "new", "new", "the new model", "hosted", "tuned", base, base,
            host=host.host, handle=handle, backend=host,
        )  # fmt: skip

    def _require_live(self) -> None:
        """Raise NotFoundError for a live model that does not answer any more."""
        host = self.hosts[0]
        try:
            _handle(host, self.name, self.source.one.base_model or self.name).chat(
                "Hello.", max_tokens=PROBE_TOKENS
            )
        except BackendError as exc:
            if exc.status_code != 404:
                raise
            raise NotFoundError(
                f"{visible(self.name)} does not answer any more: {exc.message}",
                hint="Without a recording of it there is nothing to compare with; --data and "
                "ftg compare judge the new model alone.",
            ) from None

    # -- compare -------------------------------------------------------------------------------

    def compared(self, job: Job, followed: Followed) -> Comparison:
        """Return the comparison of the new model with the old one, on the rows that the new one has
        not seen."""
        spent = job.actual.cost_usd if job.actual else None
        left = None if self.limit is None else max(self.limit - (spent or Decimal(0)), Decimal(0))
        how = comparing.How(on_progress=followed.on_progress, on_wait=followed.on_wait)
        return comparing.compare(self.store, self._request((job, self.old_name), left), how)

    def _request(
        self, models: Sequence[Job | str], limit: Decimal | None = None
    ) -> comparing.Request:
        allowed = self.wanted.allowed
        return comparing.Request(
            models=tuple(models),
            data=self.sides.data,
            checks=self.wanted.checks,
            code=self.wanted.code,
            max_tokens=self.wanted.max_tokens,
            max_cost_usd=limit,
            monthly_usd=self.wanted.monthly_usd,
            backends=self.hosts,
            allow_pii=allowed.get("allow_pii", False),
            allow_secrets=allowed.get("allow_secrets", False),
            # The old model may have seen the rows: then it has the advantage.
            seen_by=(self.old_name,),
            command=self.wanted.command,
        )


def _handle(host: OpenAIBackend, model: str, base: str) -> ModelHandle:
    handle = ModelHandle(
        kind="hosted",
        model=model,
        base_model=base,
        backend=host.name,
        backend_options=host.options(),
        base_url=host.base_url,
        api_key_env=host.api_key_env,
    )
    handle.attach(host)
    return handle


def _source(model: str, store: Store) -> FineTuneSource:
    found = moving.fetched_source(model, store.settings)
    if found is None or not found.is_fetched:
        for job in store.select("id = ? AND backend != 'openai'", (model,)):
            raise UnsupportedError(
                f"{job.id} was trained at {job.display_name}; fine-tunes are moved from hosts of "
                "OpenAI's contract.",
                hint=f"Train its rows elsewhere: ftg submit DATA, then: ftg compare {job.id} JOB",
                backend=job.backend,
                option="migrate",
            )
        name = visible(found.one.name if found else model)
        raise NotFoundError(
            f"The training file of {name} is not here.",
            hint=f"Save it first, while its host has it: ftg migrate fetch {name}",
        )
    return found


def _old(against: str | None, source: FineTuneSource, store: Store) -> Recording | None:
    """Return the recording to compare with: the one that was named, else the newest of the model;
    None for the live one. Raises NotFoundError."""
    names = {source.one.model, source.one.job_id}
    if against == LIVE or against in names:
        return None
    if against is not None:
        if not against.startswith(PREFIX):
            raise SpecError(
                f"--against {visible(against)} is no recording of the model.",
                hint="Give recorded:NAME, or 'live' for the model as it answers now.",
            )
        return Recording.at(store.settings, against)
    found = [
        one
        for name in recordings.names(store.settings)
        if (one := Recording.find(store.settings, name)) and one.about.model == source.one.model
    ]
    # Those of earlier versions have no number.
    return max(found, key=lambda one: (one.about.number, one.about.created_at), default=None)


def _sides(wanted: Wanted, source: FineTuneSource, old: Recording | None, store: Store) -> Sides:
    one, training = source.one, source.train
    assert training is not None  # for the type checker: it was fetched
    if old is not None:
        if wanted.data is not None:
            raise SpecError(
                f"{old.title} answers its own rows alone.",
                hint="Leave --data out, or compare with the model as it answers now: "
                "--against live",
            )
        return sides.of_recording(old, training, store)
    if wanted.data is not None:
        return sides.of_rows(wanted.data, training, store)
    host = (wanted.backends or tuple(source.hosts))[0]
    return sides.of_model(one.name, one.base_model or one.name, host, training, store)


def _measures(asked: Sequence[Prompt], wanted: Wanted) -> Iterator[Measure]:
    """Yield what will be measured on these rows."""
    rows = [ComparedRow(prompt=one, cluster=one.id) for one in asked]
    yield from (scorer.measure for scorer in measures.choose(rows).scorers)
    yield from (figure.measure for figure in FIGURES)
    if wanted.checks is not None:
        guide = wanted.checks
        if not isinstance(guide, Guide):
            guide = Guide.load(guide, code=wanted.code)
        yield CHECKS
        yield from (check.measure for check in guide.checks)


def _require_answering(handle: ModelHandle, job: Job) -> None:
    """Raise SpecError for a model that has to be deployed before it answers."""
    if handle.deploy and not handle.ready:
        raise SpecError(
            f"{job.id} has ended well; its model has to be deployed before it answers.",
            hint=f"Deploy it, then type this command again: ftg deploy {job.id}",
        )


def _cost_of(plan: Plan | None) -> Range[Decimal] | None:
    """Return what a training costs: nothing where it is there already, or on this machine."""
    nothing = total([])
    if plan is None or not plan.estimate.data_leaves_machine:
        return (plan and plan.estimate.cost_usd) or nothing
    return plan.estimate.cost_usd
