"""What each hosted service can do, and until when: dated data, read from ``profiles.toml``.

Knows facts of services; calls none. A refusal is given only where the facts are certain; what
is merely unknown is a warning.
"""

from __future__ import annotations

import tomllib
from datetime import date
from functools import cache
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from finetune_gateway.errors import NotFoundError
from finetune_gateway.spec import Method
from finetune_gateway.tokens import base_model

STALE_DAYS = 90


class Only(BaseModel):
    """Who alone may create jobs, from a day on."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    who: str
    since: date


class LifeCycle(BaseModel):
    """Until when a model can be trained and answers on one service, and for whom; who says so,
    and when. None: no date is known."""

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
        """Whether there is any date."""
        dates = (self.new_jobs_until, self.new_jobs_at_least_until, self.retires_on)
        return any((*dates, self.base_retires_on, self.only))

    def only_for(self, today: date) -> str:
        """``organisations that have fine-tuned before (since 2026-05-07)``; empty: for all."""
        told = (
            f"{rule.who} ({'since' if rule.since <= today else 'from'} {rule.since})"
            for rule in self.only
        )
        return ", and only ".join(told)

    def stale(self, today: date) -> bool:
        """Whether it was looked up too long ago to be relied on."""
        return (today - self.as_of).days > STALE_DAYS


class ModelRow(BaseModel):
    """One base model on one service. ``aliases`` are names the service documents for it."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    model: str
    aliases: tuple[str, ...] = ()
    methods: frozenset[Method]
    trainable_until: date | None = None  # the last day on which a job may be created
    trainable_at_least_until: date | None = None  # the last day is not announced, nor before this
    base_retires_on: date | None = None  # where it is another day than retires_on
    retires_on: date | None = None  # from this day fine-tunes of it do not answer
    only: tuple[Only, ...] = ()
    max_context: int | None = None  # tokens per example; None: the profile's
    note: str = ""
    as_of: date
    source: str

    def trainable(self, today: date) -> bool:
        """Whether a job on it may still be created on this day."""
        if self.retires_on and today >= self.retires_on:
            return False
        return self.trainable_until is None or today <= self.trainable_until


class Profile(BaseModel):
    """One service that speaks OpenAI's fine-tuning contract."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    name: str
    title: str
    base_url: str | None = None
    base_url_hint: str = ""  # its form, where every customer has an own address
    api_key_env: str
    min_rows: int = 1
    max_rows: int | None = None
    max_file_bytes: int | None = None
    max_context: int | None = None
    methods: frozenset[Method]
    options: frozenset[str]  # fields of TrainingSpec it honours beside the neutral ones
    learning_rate_key: str | None = None  # the wire's name for an absolute rate
    suffix_max_length: int = 64
    suffix_forbidden: str = ""  # characters a suffix may not hold
    file_bom: bool = False  # files start with a UTF-8 byte order mark
    create_extra: dict[str, Any] = Field(default_factory=dict)  # sent with each create call
    no_new_jobs_after: date | None = None
    only: tuple[Only, ...] = ()
    as_of: date
    source: str
    notes: tuple[str, ...] = ()
    models: tuple[ModelRow, ...] = ()

    def model(self, name: str) -> ModelRow | None:
        """The row of a base, of one of its documented aliases, or of a fine-tune of it."""
        base = base_model(name)
        return next((row for row in self.models if base in (row.model, *row.aliases)), None)

    def context(self, model: str) -> int | None:
        """Tokens per example for this model, or None when not known."""
        row = self.model(model)
        return (row.max_context if row else None) or self.max_context

    def life_cycle(self, model: str) -> LifeCycle:
        """What is known of the dates of this model here."""
        row = self.model(model)
        if row is None:
            return LifeCycle(
                new_jobs_until=self.no_new_jobs_after,
                only=self.only,
                as_of=self.as_of,
                source=self.source,
            )
        last = [day for day in (self.no_new_jobs_after, row.trainable_until) if day]
        return LifeCycle(
            new_jobs_until=min(last, default=None),
            new_jobs_at_least_until=row.trainable_at_least_until,
            base_retires_on=row.base_retires_on or row.retires_on,
            retires_on=row.retires_on,
            only=(*self.only, *row.only),
            as_of=row.as_of,
            source=row.source,
        )

    def trainable(self, method: str, today: date) -> list[str]:
        """The models on which a job of this method may be created on this day."""
        if self.no_new_jobs_after and today > self.no_new_jobs_after:
            return []
        rows = (row for row in self.models if method in row.methods and row.trainable(today))
        return [row.model for row in rows]

    def refusal(self, model: str, method: str, today: date) -> str | None:
        """Why this job certainly cannot be created here on this day, or None."""
        gone = self._gone(model, today)
        reason = self._closed(today) or self._method(model, method) or gone
        if reason is None:
            return None
        told = self.life_cycle(model) if reason == gone else self
        others = self.trainable(method, today)
        instead = f" Still open here: {', '.join(others)}." if others else ""
        return f"{reason}{instead} (as of {told.as_of}, {told.source})"

    def _closed(self, today: date) -> str | None:
        if self.no_new_jobs_after is None or today <= self.no_new_jobs_after:
            return None
        return f"{self.title} takes no new fine-tuning jobs since {self.no_new_jobs_after}."

    def _method(self, model: str, method: str) -> str | None:
        row = self.model(model)
        offered = row.methods if row else self.methods
        if method in offered:
            return None
        what = row.model if row else self.title
        return f"{what} cannot be trained with {method!r}; it does: {', '.join(sorted(offered))}."

    def _gone(self, model: str, today: date) -> str | None:
        row = self.model(model)
        if row is None or row.trainable(today):
            return None
        if row.retires_on and today >= row.retires_on:
            return f"{row.model} was shut down on {row.retires_on}."
        return f"{row.model} can no longer be trained since {row.trainable_until}."

    def warnings(self, model: str, today: date) -> list[str]:
        """Dates that are coming up for this model, who may use it, and what is not known."""
        row, life = self.model(model), self.life_cycle(model)
        said = [row.note if row else self._unknown(model)]
        closing, earliest = life.new_jobs_until, life.new_jobs_at_least_until
        if closing and today <= closing:
            said.append(f"New jobs are possible until {closing} ({_in_days(closing, today)}).")
        elif earliest and not closing:
            said.append(f"New jobs may end on any day from {earliest} on; no last day is known.")
        if life.only:
            said.append(f"Only {life.only_for(today)} can create jobs.")
        if row and life.base_retires_on != life.retires_on:
            gone = life.base_retires_on and life.base_retires_on <= today
            word = "retired" if gone else "retires"
            said.append(f"The base {row.model} itself {word} on {life.base_retires_on}.")
        if row and life.retires_on and today < life.retires_on:
            when = f"{life.retires_on} ({_in_days(life.retires_on, today)})"
            said.append(f"A fine-tune of {row.model} stops answering on {when}.")
        if row and life.known and life.as_of != self.as_of and life.stale(today):
            said.append(f"The dates of {row.model} are of {life.as_of}; check {life.source}")
        if (today - self.as_of).days > STALE_DAYS:
            said.append(f"What is known of {self.title} is of {self.as_of}; check {self.source}")
        return [warning for warning in said if warning]

    def stranger(self, model: str) -> str:
        """Why this is certainly no model of this service; empty when it may be one: a list may
        have grown, but a folder or an ``owner/name`` of a hub is none of its names."""
        foreign = "/" in model and self.models and self.model(model) is None
        count = len(self.models)
        return f"{model!r} is none of the {count} models of {self.title}." if foreign else ""

    def _unknown(self, model: str) -> str:
        if not self.models:
            host = "this host" if self.name == "custom" else self.title
            return f"Whether {host} can train {model!r} is not known here."
        known = ", ".join(row.model for row in self.models)
        return f"{model!r} is not among the models known for {self.title} ({known})."


def hosts_of(model: str) -> list[str]:
    """The titles of the services that list this model by name."""
    return [host.title for host in _read().values() if host.model(model)]


def profile_names() -> list[str]:
    """Every profile there is."""
    return sorted(_read())


def load_profile(name: str) -> Profile:
    """A profile by name. Raises NotFoundError, which names those there are."""
    known = _read()
    if name not in known:
        raise NotFoundError(
            f"There is no profile {name!r}; known: {', '.join(sorted(known))}.",
            hint="Use 'custom' with a base_url for another host.",
        )
    return known[name]


@cache
def _read() -> dict[str, Profile]:
    text = resources.files("finetune_gateway").joinpath("profiles.toml").read_text("utf-8")
    return {name: _profile(name, table) for name, table in tomllib.loads(text).items()}


def _profile(name: str, table: dict[str, Any]) -> Profile:
    told = {name: table[name] for name in ("source", "as_of")}
    rows = [told | row for row in table.pop("models", [])]
    return Profile(name=name, models=tuple(ModelRow(**row) for row in rows), **table)


def _in_days(day: date, today: date) -> str:
    days = (day - today).days
    return "today" if days == 0 else f"in {days} day{'' if days == 1 else 's'}"
