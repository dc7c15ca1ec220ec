"""What each hosted service can do, and until when: dated data, read from ``profiles.toml``.

Knows facts of services; calls none. A refusal is given only where the facts are certain; what
is merely unknown is a warning.

A source names the day on which something stops ("2027-01-06: nobody can create jobs") and no hour.
The cautious reading holds in all sentences and refusals: on that day it has stopped, the day before
is the last, and days are counted to the day of the source. A job refused a day early can go
elsewhere; one that was counted on and is refused by the host cannot.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from datetime import date, timedelta
from functools import cache
from importlib import resources
from typing import Any

from pydantic import ConfigDict, Field

from finetune_gateway.errors import NotFoundError
from finetune_gateway.model import Model
from finetune_gateway.spec import Method
from finetune_gateway.tokens.encodings import base_model

STALE_DAYS = 90
DAY = timedelta(days=1)


class Only(Model):
    """Who alone may create jobs, from a day on."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    who: str
    since: date


class LifeCycle(Model):
    """Until when a model can be trained and answers on one service, and for whom; who says so,
    and when. None: no date is known."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    new_jobs_until: date | None = None  # the last day
    new_jobs_at_least_until: date | None = None  # no last day is announced; none before this one
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

    def closed_on(self, today: date) -> date | None:
        """Since which day nobody can create a job; None while somebody can."""
        ends = [self.new_jobs_until + DAY] if self.new_jobs_until else []
        ends += [self.retires_on] if self.retires_on else []
        first = min(ends, default=None)
        return first if first and first <= today else None

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


class ModelRow(Model):
    """One base model on one service. ``aliases`` are names the service documents for it."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    model: str
    aliases: tuple[str, ...] = ()
    methods: frozenset[Method]
    no_new_jobs_from: date | None = None  # from this day nobody can create a job
    may_close_from: date | None = None  # no such day is announced, and none before this one
    base_retires_on: date | None = None  # where it is another day than retires_on
    retires_on: date | None = None  # from this day fine-tunes of it do not answer
    only: tuple[Only, ...] = ()
    max_context: int | None = None  # tokens per example; None: the profile's
    note: str = ""
    as_of: date
    source: str

    def trainable(self, today: date) -> bool:
        """Whether a job on it may still be created on this day."""
        ends = [day for day in (self.no_new_jobs_from, self.retires_on) if day]
        return not ends or today < min(ends)


class Profile(Model):
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
    no_new_jobs_from: date | None = None  # from this day nobody can create a job
    only: tuple[Only, ...] = ()
    as_of: date
    source: str
    notes: tuple[str, ...] = ()
    models: tuple[ModelRow, ...] = ()

    @property
    def no_new_jobs_after(self) -> date | None:
        """The last day on which a job can be created."""
        return self.no_new_jobs_from and self.no_new_jobs_from - DAY

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
        """The models on which a job of this method may be created on this day."""
        if self._closed(today):
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
        if self.no_new_jobs_from is None or today < self.no_new_jobs_from:
            return None
        return f"{self.title} takes no new fine-tuning jobs since {self.no_new_jobs_from}."

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
        return f"{row.model} can no longer be trained since {row.no_new_jobs_from}."

    def warnings(self, model: str, today: date) -> list[str]:
        """Dates that are coming up for this model, who may use it, and what is not known. What
        has ended is not spoken of as if it went on: see ``refusal``."""
        row, life = self.model(model), self.life_cycle(model)
        said = [row.note if row else self._unknown(model)]
        if not life.closed_on(today):
            said += _new_jobs(life, today)
        if row and not (life.retires_on and life.retires_on <= today):
            said += _retiring(row.model, life, today)
        if row and life.known and life.as_of != self.as_of and life.stale(today):
            said.append(f"The dates of {row.model} are of {life.as_of}; check {life.source}")
        if (today - self.as_of).days > STALE_DAYS:
            said.append(f"What is known of {self.title} is of {self.as_of}; check {self.source}")
        return [warning for warning in said if warning]

    def unknown_model_reason(self, model: str) -> str:
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
    text = (
        resources.files("finetune_gateway.estimation").joinpath("profiles.toml").read_text("utf-8")
    )
    return {name: _profile(name, table) for name, table in tomllib.loads(text).items()}


def _profile(name: str, table: dict[str, Any]) -> Profile:
    told = {name: table[name] for name in ("source", "as_of")}
    rows = [told | row for row in table.pop("models", [])]
    return Profile(name=name, models=tuple(ModelRow(**row) for row in rows), **table)


def _new_jobs(life: LifeCycle, today: date) -> Iterator[str]:
    """Until when jobs can be created, and by whom, while they can."""
    last, sure = life.new_jobs_until, life.new_jobs_at_least_until
    if last:
        end = last + DAY
        yield f"New jobs are possible until {last}; none from {end} on ({in_days(end, today)})."
    elif sure:
        end = sure + DAY
        word = f"end on any day from {end} on" if end > today else f"have ended since {end}"
        yield f"New jobs may {word}; no last day is known."
    if life.only:
        yield f"Only {life.only_for(today)} can create jobs."


def _retiring(model: str, life: LifeCycle, today: date) -> Iterator[str]:
    """When the base goes, and its fine-tunes, while these answer."""
    if life.base_retires_on and life.base_retires_on != life.retires_on:
        word = "retired" if life.base_retires_on <= today else "retires"
        yield f"The base {model} itself {word} on {life.base_retires_on}."
    if life.retires_on:
        when = f"{life.retires_on} ({in_days(life.retires_on, today)})"
        yield f"A fine-tune of {model} stops answering on {when}."


def in_days(day: date, today: date) -> str:
    """``in 46 days``, for a day that has not passed."""
    days = (day - today).days
    return "today" if days == 0 else f"in {days} day{'' if days == 1 else 's'}"
