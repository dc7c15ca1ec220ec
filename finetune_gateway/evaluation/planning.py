"""From what a user asks for to the work of a recording: rows, parameters, price, what may be sent.

Sends nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import BudgetError, SpecError, UnsupportedError, shown
from finetune_gateway.estimation import profiles
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.evaluation import gate, held_out
from finetune_gateway.evaluation.asking import MAX_TOKENS
from finetune_gateway.evaluation.bounds import require_whole
from finetune_gateway.evaluation.costing import Costing
from finetune_gateway.evaluation.prompts import Prompt, drawn, fingerprint_of_all, read_prompts
from finetune_gateway.evaluation.recording import About, Recording, default_name, newest, plain
from finetune_gateway.evaluation.subjects import Subject
from finetune_gateway.evaluation.work import Work, spent_already
from finetune_gateway.jobs.requests import State
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import clock, config
from finetune_gateway.text.cleaning import visible

Json = dict[str, Any]

HOST = "host"  # a temperature: the host's own
# OpenAI's contract (openai 3.54.0, chat/completion_create_params.py).
MOST_TOP_LOGPROBS = 20
TERMS = (
    "Recording to compare is one thing; whether a model may be trained on recorded answers is a "
    "matter of the provider's terms, and yours to decide."
)


@dataclass(frozen=True)
class Request:
    """What the user asks for; None is not given: the recording's own, or the default."""

    name: str | None = None
    samples: int | None = None
    rows: int | None = None
    seed: int | None = None
    temperature: float | str | None = None
    max_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    store: bool | None = None
    batch: bool = False
    max_cost_usd: Decimal | None = None
    monthly_usd: Decimal | None = None
    allow_pii: bool = False
    allow_secrets: bool = False

    def check(self) -> None:
        """Raise SpecError for a number that no host takes."""
        bounds = {"samples": (1, 100), "rows": (1, 10**9), "max_tokens": (1, 10**6)}
        bounds["top_logprobs"] = (0, MOST_TOP_LOGPROBS)
        require_whole(self, bounds, optional=True)
        warmth = self.temperature
        if warmth not in (None, HOST) and not _is_temperature(warmth):
            raise SpecError(
                f"temperature cannot be {shown(warmth)}.",
                hint="Give a number from 0 to 2, or 'host' for the host's own.",
            )


def _is_temperature(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 2


@dataclass(frozen=True)
class RecordPlan:
    """All that is known of a recording before anything is sent.

    ``existing``: it is there already, and goes on. ``left``: requests that are to be sent,
    ``again`` of them for the second time. ``notes``: what a person should know before a yes.
    """

    work: Work
    existing: bool
    state: State
    left: int
    cost: Range[Decimal] | None
    tokens: Range[int]
    allowed: dict[str, int]
    notes: tuple[str, ...]

    @property
    def again(self) -> int:
        """Requests that were in flight when an earlier process died."""
        return len(self.state.in_flight)

    def beyond_limit(self) -> str:
        """Return why the limit lets nothing of the rest be asked; empty if it does."""
        try:
            self.work.require_within(self.cost)
        except BudgetError as exc:
            return exc.message.rstrip(".")
        return ""


def plan(subject: Subject, data: Source | None, asked: Request, store: Store) -> RecordPlan:
    """Return the plan of a recording. Raises SpecError, DataError (PrivateDataError), NotFoundError
    for data; UnsupportedError for a batch that the host does not take."""
    asked.check()
    if asked.batch:
        require_batch(subject)
    now = time.time()
    name = plain(asked.name) if asked.name else default_name(subject.model, now)
    existing = Recording.find(store.settings, name)
    prompts, words, sha256 = _prompts(subject, data, asked, existing, store)
    about = _about(subject, asked, existing, prompts, name, now)
    about = about.model_copy(
        update={"data": words, "data_sha256": sha256, "number": 1 + newest(store.settings)}
    )
    if existing is not None:
        _require_same(existing, about)
    recording = existing or Recording(store.settings.recordings / name, about)
    allowed = gate.require_allowed(
        prompts, words, subject.backend.host, store.settings,
        pii=asked.allow_pii, secrets=asked.allow_secrets,
    )  # fmt: skip
    work = Work(
        recording,
        subject,
        prompts,
        _costing(subject, about, store, batch=asked.batch),
        config.current_value(store.settings, "budget.job_usd", asked.max_cost_usd).usd,
        config.current_value(store.settings, "budget.monthly_usd", asked.monthly_usd).usd,
        asked.batch,
        spent_already(store, recording),
    )
    if work.limit is not None or work.cap is not None:
        gate.require_counted(prompts)
    state = recording.state() if existing else State()
    left = work.questions(state)
    cost = work.cost(left)
    return RecordPlan(
        work,
        existing is not None,
        state,
        len(left),
        cost,
        _tokens(work, [prompt for _, prompt in left]),
        allowed,
        tuple(_notes(work, existing is None)),
    )


def require_batch(subject: Subject) -> None:
    """Raise UnsupportedError if the host is documented to batch no fine-tunes."""
    profile = subject.backend.profile
    if profile.no_batch:
        raise UnsupportedError(
            f"{profile.title} takes no fine-tunes in a batch ({profile.no_batch}).",
            hint="Leave --batch out: each row is then asked at once, at the full price.",
            backend=subject.backend.name,
            option="batch",
        )


def _prompts(
    subject: Subject, data: Source | None, asked: Request, existing: Recording | None, store: Store
) -> tuple[list[Prompt], str, str | None]:
    """Return the prompts, where they are from in words, and the sha256 of the file."""
    if data is None and existing is not None:
        if asked.rows is not None and asked.rows != existing.about.rows:
            raise _differs(existing, [f"rows {existing.about.rows:,}, not {asked.rows:,}"])
        return existing.prompts(), existing.about.data, existing.about.data_sha256
    if data is None:
        source = held_out.proposal(subject, store)
        dataset, words = source.dataset, source.words
    else:
        dataset = Dataset.open(data, spool=store.settings.spool)
        words = visible(dataset.name)
    prompts = drawn(read_prompts(dataset), asked.rows, asked.seed or 0)
    return prompts, words, dataset.sha256 or dataset.fingerprint


def _about(
    subject: Subject,
    asked: Request,
    existing: Recording | None,
    prompts: Sequence[Prompt],
    name: str,
    now: float,
) -> About:
    backend, old = subject.backend, existing.about if existing else None
    samples = asked.samples or (old.samples if old else 1)
    life = backend.profile.life_cycle(subject.base_model)
    return About(
        name=name,
        created_at=now,
        date=datetime.fromtimestamp(now, UTC).date().isoformat(),
        model=subject.model,
        base_model=subject.base_model,
        backend=backend.profile_name,
        host=backend.host,
        base_url=backend.base_url,
        job_id=subject.job_id,
        parameters=_parameters(asked, samples, old.parameters if old else None),
        samples=samples,
        rows=len(prompts),
        rows_sha256=fingerprint_of_all(prompts),
        retires_on=life.retires_on.isoformat() if life.retires_on else None,
    )


def _parameters(asked: Request, samples: int, old: Json | None) -> Json:
    """Return what is sent with each request: what was given, else what the recording has, else the
    default: one greedy answer with log-probabilities."""
    default: Json = {"temperature": 0 if samples == 1 else None, "max_tokens": MAX_TOKENS}
    default |= {"logprobs": True}
    chosen = {**(default if old is None else old)}
    given: Json = {
        "temperature": asked.temperature,
        "max_tokens": asked.max_tokens,
        "logprobs": asked.logprobs,
        "top_logprobs": asked.top_logprobs,
        "seed": asked.seed,
        "store": asked.store,
    }
    chosen |= {key: value for key, value in given.items() if value is not None}
    if chosen.get("temperature") == HOST:
        chosen["temperature"] = None
    if chosen.get("top_logprobs") is not None and asked.logprobs is None and old is None:
        chosen["logprobs"] = True
    empty = (None, False)  # of logprobs and store; 0 is a value
    return {key: value for key, value in chosen.items() if not any(value is one for one in empty)}


def _require_same(existing: Recording, about: About) -> None:
    """Raise SpecError if a recording with this name is of something else."""
    old = existing.about
    fields = ("model", "base_url", "samples", "rows")
    different = [
        f"{name} {shown(getattr(old, name))}, not {shown(getattr(about, name))}"
        for name in fields
        if getattr(old, name) != getattr(about, name)
    ]
    if not different and old.rows_sha256 != about.rows_sha256:
        different = ["other rows"]
    for key in sorted(old.parameters.keys() | about.parameters.keys()):
        one, other = old.parameters.get(key), about.parameters.get(key)
        if one != other:
            different.append(f"{key} {json.dumps(one)}, not {json.dumps(other)}")
    if different:
        raise _differs(existing, different)


def _differs(existing: Recording, different: list[str]) -> SpecError:
    return SpecError(
        f"{existing.title} exists and has {'; '.join(different)}.",
        hint="Give another --name, or leave out what differs to go on with it.",
    )


def _costing(subject: Subject, about: About, store: Store, *, batch: bool) -> Costing:
    most = int(about.parameters["max_tokens"])
    profile, extra = subject.backend.profile, store.settings.prices
    return Costing.of(profile, subject.model, subject.base_model, most, extra, batch=batch)


def _tokens(work: Work, prompts: Sequence[Prompt]) -> Range[int]:
    """Return the tokens that are read, of these prompts."""
    counts = [work.costing.tokens(prompt) for prompt in prompts]
    return Range[int](
        low=sum(one.low for one in counts),
        expected=sum(one.expected for one in counts),
        high=sum(one.high for one in counts),
    )


def _notes(work: Work, new: bool) -> Iterator[str]:
    """Yield what a person should know before a yes."""
    subject, today = work.subject, clock.today()
    life = subject.backend.profile.life_cycle(subject.base_model)
    if life.retires_on and life.retires_on > today:
        yield (
            f"A fine-tune of {subject.base_model} stops answering on {life.retires_on} "
            f"({profiles.in_days(life.retires_on, today)}): later nothing can be recorded."
        )
        if work.batch and life.retires_on - today <= timedelta(days=2):
            yield "A batch may take 24 hours: what it has not answered on that day is lost."
    elif life.retires_on:
        yield (
            f"By its dates {subject.base_model} was shut down on {life.retires_on} (as of "
            f"{life.as_of}, {life.source}). It is asked all the same."
        )
    if types := gate.uncounted(work.prompts):
        yield f"The price is without parts of type {types}: what they cost cannot be told."
    roles = {one.get("role") for prompt in work.prompts for one in prompt.messages}
    if subject.system_prompt and not {"system", "developer"} & roles:
        yield (
            "No row has a system prompt, but the rows that the model was trained on have one: "
            "without it, it may answer otherwise than in production."
        )
    if new:
        yield TERMS
