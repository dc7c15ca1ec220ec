"""No argument of the public face raises an error that is not ours: what is wrong is in words."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import finetune_gateway as ftg
from finetune_gateway import (
    FakeBackend,
    Gateway,
    LocalBackend,
    ModelHandle,
    NotFoundError,
    SpecError,
)
from finetune_gateway.jobs.job import Job

NAN, SIGNAL = float("nan"), Decimal("sNaN")


@pytest.fixture
def job(home: Path, train_file: Path) -> Job:
    """A job that has ended, with eight events."""
    return Gateway(home).submit(train_file, model="m", backend="fake").wait(30)


# By the argument: what is called with a value, and values that are none.
OF_A_JOB: dict[str, tuple[Callable[[Job, Any], object], list[Any]]] = {
    "events(after)": (lambda job, odd: job.events(odd), [-1, NAN, "x", None, True, 1.5]),
    "watch(after)": (lambda job, odd: [*job.watch(after=odd)], [-1, NAN, "x", None]),
    "watch(on_poll)": (lambda job, odd: [*job.watch(on_poll=odd)], ["x", 1]),
    "result(step)": (lambda job, odd: job.result(step=odd), [SIGNAL, "x", b"x", [], 1.5]),
    "wait(timeout)": (lambda job, odd: job.wait(odd), [-(10**400), SIGNAL, NAN, 1j]),
    "chat_many": (lambda job, odd: job.handle().chat_many(odd), [None, "x", 1]),
    "chat(temperature)": (
        lambda job, odd: job.handle().chat("Hi", temperature=odd),
        [NAN, b"", object()],
    ),
    "stream(stop)": (lambda job, odd: [*job.handle().stream("Hi", stop=odd)], [[NAN], {1: b""}]),
    "chat(messages)": (
        lambda job, odd: job.handle().chat([{"role": "user", "content": "Hi", "x": odd}]),
        [NAN, b"", object()],
    ),
    "save(path)": (lambda job, odd: job.handle().save(odd), [None, "\0", "\ud800", 1]),
}


def not_refused(
    table: dict[str, tuple[Callable[..., object], list[Any]]], *given: Any
) -> list[str]:
    """The arguments that a value passes which is none, or that raise another error."""
    passed = []
    for argument, (call, values) in table.items():
        for place, odd in enumerate(values):
            try:
                call(*given, odd)
                passed.append(f"{argument} takes number {place}")
            except SpecError:
                continue
            except Exception as exc:
                passed.append(f"{argument} raises {exc!r} for number {place}")
    return passed


def test_of_a_job(job: Job) -> None:
    """And of its model."""
    assert not_refused(OF_A_JOB, job) == []


def test_a_number_beyond_all_events_is_one(job: Job) -> None:
    """As it is with one that no 64 bits hold: there is nothing after it."""
    assert job.events() and not job.events(10**30) and not [*job.watch(after=10**30)]
    assert len(Gateway(job.store.settings.home).jobs(limit=10**400)) == 1
    assert job.wait(10**400).status.final


OF_A_GATEWAY: dict[str, tuple[Callable[[Gateway, Path, Any], object], list[Any]]] = {
    "jobs(limit)": (lambda own, data, odd: own.jobs(limit=odd), [-1, "x", 1.5, True, SIGNAL]),
    "jobs(backend)": (lambda own, data, odd: own.jobs(backend=odd), [10**30, b"x", object()]),
    "jobs(status)": (lambda own, data, odd: own.jobs(status=odd), [SIGNAL, 1, []]),
    "job": (lambda own, data, odd: own.job(odd), [None, 10**30, b"x"]),
    "refresh": (lambda own, data, odd: own.refresh(odd), ["x", 1, [None]]),
    "wait": (lambda own, data, odd: own.wait(odd, 0.1), [None, "x", ["x"]]),
    "wait(on_change)": (lambda own, data, odd: own.wait([], on_change=odd), ["x", 1]),
    "remove": (lambda own, data, odd: own.remove(odd), [None, "x", [1]]),
    "removable": (lambda own, data, odd: own.removable(odd), [None, "x", [1]]),
    "prune(confirm)": (lambda own, data, odd: own.prune(confirm=odd), ["x", 1]),
    "deploy": (lambda own, data, odd: own.deploy(odd), [None, 1]),
    "end_deployment": (lambda own, data, odd: own.end_deployment(odd), [None, 1]),
    "costs(since)": (lambda own, data, odd: own.costs(since=odd), ["2026-01-01", 1]),
    "use(backends)": (lambda own, data, odd: own.use(backends=odd), ["x", True]),
    "options(pairs)": (lambda own, data, odd: own.options(data, odd), [None, "ab", [("m",)]]),
    "validate(method)": (lambda own, data, odd: own.validate(data, method=odd), [SIGNAL, 1, []]),
    "validate(on_progress)": (lambda own, data, odd: own.validate(data, on_progress=odd), [1, "x"]),
    "submit(again)": (
        lambda own, data, odd: own.submit(data, model="m", backend="fake", again=odd),
        [SIGNAL, "no", []],
    ),
    "plan(validation_split)": (
        lambda own, data, odd: own.plan(data, model="m", backend="fake", validation_split=odd),
        [SIGNAL, "x", 1j],
    ),
    "a home": (lambda own, data, odd: Gateway(odd), [True, "\0", "\ud800", 1]),
    "a handle": (lambda own, data, odd: ModelHandle.load(odd), [None, "\0", "\ud800", 1]),
    "a script": (lambda own, data, odd: FakeBackend(script=odd), [True, "x", [1], [{"status": 1}]]),
    "a GPU": (lambda own, data, odd: LocalBackend(gpu=odd), [True, 1]),
}


def test_of_a_gateway(home: Path, train_file: Path) -> None:
    """And of what is built beside it."""
    assert not_refused(OF_A_GATEWAY, Gateway(home), train_file) == []


def test_an_object_that_cannot_be_shown_is_named_by_its_type(home: Path) -> None:
    """Whatever its text raises."""

    class Unspeakable:
        def __repr__(self) -> str:
            raise ZeroDivisionError

    odd: Any = Unspeakable()
    with pytest.raises(SpecError, match="an object of Unspeakable"):
        ftg.Gateway(home, timeout=odd)
    with pytest.raises(SpecError, match="an object of Unspeakable"):
        ftg.Gateway(home).costs(since=odd)


def test_the_path_of_a_template_that_no_file_has(home: Path, train_file: Path) -> None:
    """Is one of a file that is not there."""
    with pytest.raises(NotFoundError, match="cannot be read: embedded null byte"):
        Gateway(home).submit(train_file, model="m", backend="fake", chat_template="\0")
