"""No argument of the public face raises an error that is not ours: what is wrong is in words."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from decimal import Decimal
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

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


# -- all arguments, by their signatures ----------------------------------------------------


class Unspeakable:
    """An object that nobody can show, compare or hash."""

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        raise ZeroDivisionError

    def __eq__(self, other: object) -> bool:
        raise ZeroDivisionError


# What is given for an argument; each call has its own.
ODD: dict[str, Callable[[], Any]] = {
    "unspeakable": Unspeakable,
    "list": lambda: [Unspeakable()],
    "none": lambda: None,
    "true": lambda: True,
    "negative": lambda: -1.5,
    "nan": lambda: NAN,
    "huge": lambda: 10**400,
    "bytes": lambda: b"x",
    "null byte": lambda: "\0",
    "half of a character": lambda: "\ud800",
    "nones": lambda: [None],
    "mapping": lambda: {1: Unspeakable()},
    "names": lambda: {"x": Unspeakable()},
    "function": lambda: lambda: None,
    "set": lambda: {3},
    "pair": lambda: (1, 2),
    "iterator": lambda: iter([None]),
}
FEW = ("list", "function")
SLOW = (
    "gateway.advise",
    "gateway.compare",
    "job.report",
    "job.to_html",
)  # they do much, then say it
# Called by rooms of ours, which give what they were given after a look at it.
OTHER_ROOMS = {"model_to_train", "settle_latest", "result_by", "wait_until"}
OTHER_ROOMS |= {"copied", "rewritten", "parse", "by_content", "at"}


@pytest.fixture
def given(home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Usual values by the name of a parameter: what has to be given."""
    monkeypatch.chdir(home.parent)  # some write a file where they are
    own, data = Gateway(home), train_file
    done = own.submit(data, model="m", backend="fake").wait(30)
    common = {"data": data, "model": "m", "home": home, "script": None, "name": done.id}
    common |= {"jobs": [done], "job": done, "models": [done.result()], "pairs": [("m", "fake")]}
    common |= {"to": "openai", "backend": "fake", "plan": own.plan(data, model="m", backend="fake")}
    common |= {"out": home / "out.jsonl", "folder": home / "parts", "ratio": 0.5, "source": data}
    common |= {"messages": "Hi", "conversations": ["Hi"], "path": home / "a file", "text": "Hi"}
    return common | {"document": {}, "created": None, "prompts": ["Hi"], "timeout": 1}


def public_calls(given: dict[str, Any]) -> dict[str, Callable[..., object]]:
    """The methods of what a user holds, and what is built, by their names."""
    job = given["job"]
    held = {"gateway": Gateway(given["home"]), "job": job, "handle": job.handle()}
    held |= {"dataset": ftg.Dataset.open(given["data"])}
    calls: dict[str, Callable[..., object]] = {
        f"{of}.{name}": getattr(one, name)
        for of, one in held.items()
        for name in dir(type(one))
        if not name.startswith(("_", "model_"))
        and callable(getattr(type(one), name))
        and not hasattr(BaseModel, name)
        and name not in {"close", "push", *OTHER_ROOMS}
    }
    calls |= {cls.__name__: cls for cls in (Gateway, FakeBackend, LocalBackend)}
    for cls in (ftg.Option, ftg.Preview, ftg.Sequence):
        calls |= {
            f"{cls.__name__}.{name}": getattr(cls, name) for name in vars(cls) if "from" in name
        }
    return calls | {"TrainingSpec.build": ftg.TrainingSpec.build}


def raw_errors(
    given: dict[str, Any], odd: dict[str, Callable[[], Any]], without: tuple[str, ...] = ()
) -> list[str]:
    """The calls that raise an error that is not ours, with one odd value each."""
    found = []
    calls = public_calls(given)
    for call, function in ((name, calls[name]) for name in calls if name not in without):
        parameters = inspect.signature(function).parameters.values()
        needed = {one.name for one in parameters if one.default is one.empty}
        needed |= {"backend"} & {one.name for one in parameters}
        needed -= {one.name for one in parameters if one.kind is one.VAR_KEYWORD}
        for one, (word, make) in product(parameters, odd.items()):
            values = {name: given.get(name, "x") for name in sorted(needed)} | {one.name: make()}
            try:
                answer = function(**values)
                if inspect.isgenerator(answer):
                    list(answer)
            except ftg.GatewayError as exc:
                assert exc.message
            except Exception as exc:
                found.append(f"{call}({one.name}) raises {type(exc).__name__} for {word}")
    return found


def test_no_argument_of_the_public_face_raises_an_error_that_is_not_ours(
    given: dict[str, Any],
) -> None:
    """Whatever is given for it: a list of objects that cannot be shown, a function that takes
    nothing."""
    few = {word: ODD[word] for word in FEW}
    assert raw_errors(given, few, without=SLOW) == []


@pytest.mark.chaos
def test_whatever_is_given_for_an_argument(given: dict[str, Any]) -> None:
    """All odd values for all arguments."""
    assert raw_errors(given, ODD) == []
