"""What each hosted service can do, and until when, from the dated facts in ``profiles.toml``.

A job is refused only if the facts are certain; what is merely unknown is a warning.

A source names the day on which something stops ("2027-01-06: nobody can create jobs") but no hour.
All texts and refusals read it cautiously: on that day it has stopped, and the day before is the
last. A job refused a day early can go elsewhere; one that the host refuses cannot.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import date, timedelta
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import Any

from pydantic import ConfigDict, Field

from finetune_gateway.errors import NotFoundError, SpecError, shown
from finetune_gateway.estimation.host_facts import DeploymentKind, ImageTuning, Training
from finetune_gateway.model import Given, Model
from finetune_gateway.spec import Method
from finetune_gateway.tokens.encodings import base_model

STALE_DAYS = 90
DAY = timedelta(days=1)


class Only(Given):
    """The only ones who may create jobs from a day on."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    who: str
    since: date


class LifeCycle(Given):
    """Until when a model can be trained and answers on one service, and for whom, with source and
    date. None: no date is known."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    new_jobs_until: date | None = None  # the last day
    new_jobs_at_least_until: date | None = None  # no last day is announced; not before this one
    base_retires_on: date | None = None
    retires_on: date | None = None  # from this day its fine-tunes do not answer
    only: tuple[Only, ...] = ()
    as_of: date
    source: str

    @property
    def known(self) -> bool:
        """True if any date is known."""
        dates = (self.new_jobs_until, self.new_jobs_at_least_until, self.retires_on)
        return any((*dates, self.base_retires_on, self.only))

    def closed_on(self, today: date) -> date | None:
        """Return the day since which nobody can create a job; None while somebody can."""
        ends = [self.new_jobs_until + DAY] if self.new_jobs_until else []
        ends += [self.retires_on] if self.retires_on else []
        first = min(ends, default=None)
        return first if first and first <= today else None

    def only_for(self, today: date) -> str:
        """Return ``organisations that have fine-tuned before (since 2026-05-07)``; empty if all
        may."""
        rules = (
            f"{rule.who} ({'since' if rule.since <= today else 'from'} {rule.since})"
            for rule in self.only
        )
        return ", and only ".join(rules)

    def stale(self, today: date) -> bool:
        """Return True if it was looked up more than 90 days ago."""
        return (today - self.as_of).days > STALE_DAYS


class ModelRow(Model):
    """One base model on one service. ``aliases`` are names the service documents for it."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    model: str
    aliases: tuple[str, ...] = ()
    methods: frozenset[Method]  # none: not known
    trainings: tuple[str, ...] = ()  # the ways in which it can be trained; empty: all of the host
    standard_regions: str = ""  # where training stays in the region of the resource
    no_new_jobs_from: date | None = None  # from this day nobody can create a job
    may_close_from: date | None = None  # no such day is announced; not before this one
    base_retires_on: date | None = None  # if it is another day than retires_on
    retires_on: date | None = None  # from this day fine-tunes of it do not answer
    only: tuple[Only, ...] = ()
    max_context: int | None = None  # tokens per example; None: the profile's
    note: str = ""
    as_of: date
    source: str

    @property
    def notes(self) -> list[str]:
        """Return what is to be known of it beside its dates."""
        unknown = f"Which methods {self.model} can be trained with is not verified."
        return [*([self.note] if self.note else []), *([] if self.methods else [unknown])]

    def trainable(self, today: date) -> bool:
        """Return True if a job on it can still be created on this day."""
        ends = [day for day in (self.no_new_jobs_from, self.retires_on) if day]
        return not ends or today < min(ends)


class Profile(Model):
    """One service that speaks OpenAI's fine-tuning contract."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    name: str
    title: str
    rules: str = "common"  # the family of data rules (validation/rules.toml) that judges its rows
    base_url: str | None = None
    base_url_hint: str = ""  # its form, if every customer has an address of their own
    api_key_env: str
    key_hosts: tuple[str, ...] = ()  # where that key belongs; * is one part of a name
    min_rows: int = 1
    max_rows: int | None = None
    max_file_bytes: int | None = None
    max_context: int | None = None
    methods: frozenset[Method]
    options: frozenset[str]  # fields of TrainingSpec it supports besides the neutral ones
    hyperparameters: dict[str, str] = Field(default_factory=dict)  # ours that it has -> its name
    hyperparameters_alone: bool = False  # sent beside the model, not inside a method
    training_types: dict[str, dict[str, Any]] = Field(default_factory=dict)  # -> hyperparameters
    usual_training_type: str = ""  # what it does when it is not asked
    suffix_max_length: int = 64
    suffix_forbidden: str = ""  # characters not allowed in a suffix
    takes_metadata: bool = True  # False if its create is documented without metadata
    takes_tags: str = ""  # the source that says that a create may have a list of tags
    keeps_metadata: str = ""  # the source that says that jobs keep the metadata they came with
    deletes_files: str = ""  # the source that says that uploads can be deleted
    deletes_models: str = ""  # and fine-tuned models
    uploads_expire: str = ""  # the source that says that uploads may come with ``expires_after``
    validation_free: str = ""  # the source that says that validation tokens are not billed
    no_batch: str = ""  # the source that says that its batches take no fine-tunes
    deploy_command: str = ""  # makes a tuned model answer, where it does not by itself
    deploy_source: str = ""  # the source that says so
    deployments: dict[str, DeploymentKind] = Field(default_factory=dict)
    file_bom: bool = False  # files start with a UTF-8 byte order mark
    trainings: dict[str, Training] = Field(default_factory=dict)  # by name; the first is usual
    earlier_training: str = ""  # as jobs were sent before it was a choice
    images: ImageTuning | None = None  # None: not known
    no_new_jobs_from: date | None = None  # from this day nobody can create a job
    only: tuple[Only, ...] = ()
    as_of: date
    source: str
    notes: tuple[str, ...] = ()
    models: tuple[ModelRow, ...] = ()

    @property
    def no_new_jobs_after(self) -> date | None:
        """Return the last day on which a job can be created."""
        return self.no_new_jobs_from and self.no_new_jobs_from - DAY

    @property
    def usual_training(self) -> str | None:
        """Return the name of the way of training that a job gets without a choice; None where the
        host asks for none."""
        return next(iter(self.trainings), None)

    def checked_training(self, name: str | None) -> str | None:
        """Return the name of this way of training, or of the usual one. Raises SpecError for one
        that the host does not have."""
        if name is None or name in self.trainings:
            return name or self.usual_training
        if not self.trainings:
            raise SpecError(
                f"azure_training is a choice of Azure; {self.title} has none.",
                hint="Leave azure_training (--azure-training) out, or choose that host: --backend "
                "azure.",
            )
        raise SpecError(
            f"azure_training cannot be {shown(name)}.",
            hint=f"Choose one of: {', '.join(self.trainings)}.",
        )

    def training_refusal(self, model: str, training: str | None) -> str | None:
        """Return why this model certainly cannot be trained in this way, or None."""
        row = self.model(model)
        if row is None or training is None or training in (row.trainings or self.trainings):
            return None
        return (
            f"{row.model} cannot be trained as {training!r} at {self.title}; it can as: "
            f"{', '.join(row.trainings)} (as of {self.as_of}, {self.source})"
        )

    def training_warnings(self, model: str, training: str | None) -> list[str]:
        """Return what is to be known before this model is trained in this way."""
        row, note = self.model(model), self.trainings[training].note if training else ""
        warnings = [note] if note else []
        if row and row.standard_regions and training == self.usual_training:
            *others, last = (name for name in self.trainings if name != training)
            warnings.append(
                f"{training!r} training of {row.model} exists in {row.standard_regions} alone; "
                f"elsewhere choose {', '.join(others)} or {last}."
            )
        return warnings

    def model(self, name: str) -> ModelRow | None:
        """Return the row of a base, by its name, a documented alias or the name of a fine-tune."""
        base = base_model(name)
        return next((row for row in self.models if base in (row.model, *row.aliases)), None)

    def rules_of(self, model: str | None) -> str | dict[str, str]:
        """Return the rules that judge rows for this model, as ``Capabilities.rules`` declares them:
        the family, and what an image is for a model that the host does not tune on images."""
        row = self.model(model) if model else None
        if row is None or self.images is None or row.model in self.images.models:
            return self.rules
        return {"extends": self.rules, "image_model": self.images.others}

    def context(self, model: str) -> int | None:
        """Return the tokens per example for this model, or None if not known."""
        row = self.model(model)
        return (row.max_context if row else None) or self.max_context

    def life_cycle(self, model: str) -> LifeCycle:
        """Return the known dates of this model here."""
        row = self.model(model)
        if row is None:
            return LifeCycle(
                new_jobs_until=self.no_new_jobs_after,
                only=self.only,
                as_of=self.as_of,
                source=self.source,
            )
        ends = [day for day in (self.no_new_jobs_from, row.no_new_jobs_from) if day]
        return LifeCycle(
            new_jobs_until=min(ends) - DAY if ends else None,
            new_jobs_at_least_until=row.may_close_from and row.may_close_from - DAY,
            base_retires_on=row.base_retires_on or row.retires_on,
            retires_on=row.retires_on,
            only=(*self.only, *row.only),
            as_of=row.as_of,
            source=row.source,
        )

    def trainable(self, method: str, today: date) -> list[str]:
        """Return the models on which a job of this method can be created on this day."""
        if self._closed(today):
            return []
        rows = (row for row in self.models if method in row.methods and row.trainable(today))
        return [row.model for row in rows]

    def refusal(self, model: str, method: str, today: date) -> str | None:
        """Return why this job certainly cannot be created here on this day, or None."""
        retired = self._retired(model, today)
        reason = self._closed(today) or self._wrong_method(model, method) or retired
        if reason is None:
            return None
        facts = self.life_cycle(model) if reason == retired else self
        others = self.trainable(method, today)
        instead = f" Still open here: {', '.join(others)}." if others else ""
        return f"{reason}{instead} (as of {facts.as_of}, {facts.source})"

    def _closed(self, today: date) -> str | None:
        if self.no_new_jobs_from is None or today < self.no_new_jobs_from:
            return None
        return f"{self.title} has taken no new fine-tuning jobs since {self.no_new_jobs_from}."

    def _wrong_method(self, model: str, method: str) -> str | None:
        row = self.model(model)
        methods = (row.methods if row else frozenset()) or self.methods
        if method in methods:
            return None
        name = row.model if row else self.title
        return f"{name} does not support {method!r}; it supports: {', '.join(sorted(methods))}."

    def _retired(self, model: str, today: date) -> str | None:
        row = self.model(model)
        if row is None or row.trainable(today):
            return None
        if row.retires_on and today >= row.retires_on:
            return f"{row.model} was shut down on {row.retires_on}."
        return f"{row.model} has not been trainable since {row.no_new_jobs_from}."

    def warnings(self, model: str, today: date) -> list[str]:
        """Return the coming dates of this model, who may use it, and what is not known. What has
        ended is in ``refusal``."""
        row, life = self.model(model), self.life_cycle(model)
        warnings = [
            *(row.notes if row else [self._unknown(model, today)]),
            *_new_jobs(life, today),
            *_only(life, today),
            *_retiring(row, life, today),
            *self.age_warnings(model, today),
        ]
        return [warning for warning in warnings if warning]

    def date_warnings(self, model: str, today: date) -> list[str]:
        """Return those of the warnings that are coming dates of the model's life cycle."""
        row, life = self.model(model), self.life_cycle(model)
        at_least = life.new_jobs_at_least_until
        coming = at_least is None or at_least >= today
        return [*(_new_jobs(life, today) if coming else ()), *_retiring(row, life, today)]

    def age_warnings(self, model: str, today: date) -> list[str]:
        """Return those of the warnings that say how old the facts are."""
        row, life = self.model(model), self.life_cycle(model)
        warnings = []
        if row and life.known and life.as_of != self.as_of and life.stale(today):
            warnings.append(f"The dates of {row.model} are from {life.as_of}; check {life.source}")
        if (today - self.as_of).days > STALE_DAYS:
            warnings.append(f"The facts on {self.title} are from {self.as_of}; check {self.source}")
        return warnings

    def unknown_model_reason(self, model: str) -> str:
        """Return why this is certainly not a model of this service; empty if it may be one: the
        list may have grown, but never by a folder or an ``owner/name`` of a hub."""
        foreign = "/" in model and self.models and self.model(model) is None
        count = len(self.models)
        return f"{model!r} is none of the {count} models of {self.title}." if foreign else ""

    def _unknown(self, model: str, today: date) -> str:
        if not self.models:
            host = "this host" if self.name == "custom" else self.title
            return f"It is not known whether {host} can train {model!r}."
        unknown = f"{model!r} is not among the models known for {self.title}"
        names = [row.model for row in self.models if row.trainable(today)]
        near = [name for name in names if name.startswith(model)]
        near = near or get_close_matches(model, names, 2)
        if near:
            return f"{unknown}; did you mean {' or '.join(near)}?"
        return f"{unknown}; see: ftg models --backend {self.name}."


def hosts_of(model: str) -> list[str]:
    """Return the services that list this model, as ``Nebius (nebius)``: title and backend."""
    return [f"{host.title} ({host.name})" for host in _read().values() if host.model(model)]


def hosts_of_key(variable: str) -> list[str]:
    """Return the hosts to which the profiles bind the key in this variable."""
    return [
        host for one in _read().values() if one.api_key_env == variable for host in one.key_hosts
    ]


def profile_names() -> list[str]:
    """Return the names of all profiles."""
    return sorted(_read())


def load_profile(name: str) -> Profile:
    """Return a profile by name. Raises NotFoundError with the known names."""
    known = _read()
    if name not in known:
        raise NotFoundError(
            f"There is no profile {name!r}; known: {', '.join(sorted(known))}.",
            hint="Use 'custom' with a base_url for another host.",
        )
    return known[name]


@cache
def _read() -> dict[str, Profile]:
    text = (
        resources.files("finetune_gateway.estimation").joinpath("profiles.toml").read_text("utf-8")
    )
    return {name: _profile(name, table) for name, table in tomllib.loads(text).items()}


def _profile(name: str, table: dict[str, Any]) -> Profile:
    defaults = {name: table[name] for name in ("source", "as_of")}
    rows = [ModelRow(**(defaults | row)) for row in table.pop("models", [])]
    ways = table.pop("trainings", {})
    trainings = {way: Training(**(defaults | row)) for way, row in ways.items()}
    kinds = table.pop("deployments", {})
    deployments = {kind: DeploymentKind(**(defaults | row)) for kind, row in kinds.items()}
    return Profile(
        name=name, models=tuple(rows), trainings=trainings, deployments=deployments, **table
    )


def _new_jobs(life: LifeCycle, today: date) -> Iterator[str]:
    """Yield until when jobs can be created."""
    last, at_least = life.new_jobs_until, life.new_jobs_at_least_until
    if life.closed_on(today):
        return
    if last:
        end = last + DAY
        yield f"New jobs are possible until {last}; none from {end} on ({in_days(end, today)})."
    elif at_least:
        end = at_least + DAY
        when = f"end on any day from {end} on" if end > today else f"have ended since {end}"
        yield f"New jobs may {when}; no last day is known."


def _only(life: LifeCycle, today: date) -> Iterator[str]:
    """Yield who may create jobs, while somebody may."""
    if life.only and not life.closed_on(today):
        yield f"Only {life.only_for(today)} can create jobs."


def _retiring(row: ModelRow | None, life: LifeCycle, today: date) -> Iterator[str]:
    """Yield when the base and its fine-tunes are retired, if they are not yet."""
    if row is None or (life.retires_on and life.retires_on <= today):
        return
    if life.base_retires_on and life.base_retires_on != life.retires_on:
        verb = "was retired" if life.base_retires_on <= today else "will be retired"
        yield f"The base {row.model} itself {verb} on {life.base_retires_on}."
    if life.retires_on:
        when = f"{life.retires_on} ({in_days(life.retires_on, today)})"
        yield f"A fine-tune of {row.model} stops answering on {when}."


def in_days(day: date, today: date) -> str:
    """Return ``in 46 days``, for a day that has not passed."""
    days = (day - today).days
    return "today" if days == 0 else f"in {days} day{'' if days == 1 else 's'}"
