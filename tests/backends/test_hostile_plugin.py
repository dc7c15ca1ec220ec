"""A plug-in that breaks its contract in every way: nothing is bought twice, no share of the budget
stays reserved, and the error names the backend and the method."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from _pytest.mark import ParameterSet
from support.hostile import USD, Honest, Misbehaviour, breaking
from support.work import assert_linear

from finetune_gateway import BudgetError, Gateway, GatewayError, Job, ModelHandle
from finetune_gateway.backend import (
    BackendError,
    ChatReply,
    Event,
    HostedCounter,
    JobStatus,
    Range,
    Result,
    Snapshot,
    SpecError,
    TrainingSpec,
)
from finetune_gateway.jobs.plugins import check_restorable
from finetune_gateway.jobs.submission import MAX_TRIES

KEY = "acme-Jx83kfQpZ1mmR7"


class Unspeakable(Exception):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise ZeroDivisionError


def returns(value: Any) -> Misbehaviour:
    return lambda backend, honest: value


def raises(error: BaseException) -> Misbehaviour:
    def misbehave(backend: Any, honest: Any) -> Any:
        raise error

    return misbehave


def then(value: Any) -> Misbehaviour:
    """Do the work, and return something else."""

    def misbehave(backend: Any, honest: Any) -> Any:
        honest()
        return value

    return misbehave


def then_raises(error: BaseException) -> Misbehaviour:
    def misbehave(backend: Any, honest: Any) -> Any:
        honest()
        raise error

    return misbehave


def with_fields(**fields: Any) -> Misbehaviour:
    """The honest answer with these in it, unchecked."""

    def misbehave(backend: Any, honest: Any) -> Any:
        answer = honest()
        if hasattr(answer, "model_copy"):
            return answer.model_copy(update=fields)
        return replace(answer, **fields)

    return misbehave


def in_a_coroutine(backend: Any, honest: Any) -> Any:
    honest()
    return asyncio.sleep(0)


def other_each_time(backend: Any, honest: Any) -> Any:
    return {"seed": time.perf_counter_ns()}


def usd(low: Any, high: Any) -> Range[Decimal]:
    return Range[Decimal].model_construct(low=low, expected=high, high=high)


# The broken method, and what it does. None of them may buy twice.
STARTS: dict[str, Misbehaviour] = {
    "None": then(None),
    "None, and nothing was bought": returns(None),
    "empty": then(""),
    "blank": then(" \t"),
    "two lines": then("job-1\njob-2"),
    "endless": then("j" * 100_000),
    "a number": then(7),
    "bytes": then(b"job-1"),
    "True": then(True),
    "a list": then(["job-1"]),
    "a coroutine": in_a_coroutine,
    "RuntimeError": then_raises(RuntimeError("boom")),
    "KeyError before": raises(KeyError("id")),
    "TimeoutError": then_raises(TimeoutError("read")),
    "ConnectionError": then_raises(ConnectionResetError(104, "reset")),
    "RecursionError": then_raises(RecursionError("deep")),
    "MemoryError": then_raises(MemoryError()),
    "StopIteration": then_raises(StopIteration()),
    "KeyboardInterrupt": then_raises(KeyboardInterrupt()),
    "cannot be shown": then_raises(Unspeakable()),
    "one of ours": then_raises(SpecError("start() of backend 'hostile' does not like it.")),
}
OTHERS: dict[str, dict[str, Misbehaviour]] = {
    "capabilities": {
        "None": returns(None),
        "KeyError": raises(KeyError("methods")),
        "hosted is None": with_fields(hosted=None),
        "methods is a list": with_fields(methods=["sft"]),
        "settles never": with_fields(settle_seconds=float("inf")),
        "settles at NaN": with_fields(settle_seconds=float("nan")),
        "negative pause": with_fields(poll_seconds=(-1.0, 1.0)),
        "one pause": with_fields(poll_seconds=2.0),
        "takes_metadata is a text": with_fields(takes_metadata="no"),
        "rules is None": with_fields(rules=None),
        "forgets settle_seconds": with_fields(settle_seconds=0.0),
    },
    "options": {
        "None": returns(None),
        "a key": returns({"api_key_env": "ACME_API_KEY", "token": KEY}),
        "looks like a key": returns({"token": "sk-proj-4fJ2kLm9QwErTy7UiOp3AsDfGh5JkLz8"}),
        "a set": returns({"regions": {"eu"}}),
        "NaN": returns({"rate": float("nan")}),
        "10 MB": returns({"region": "e" * 10**7}),
        "others each time": other_each_time,
        "more than it takes": returns({"region": "eu"}),
        "RuntimeError": raises(RuntimeError("no options")),
    },
    "identity": {
        "a key": returns({"where": KEY, "api_key_env": "ACME_API_KEY"}),
        "7": returns(7),
        "others each time": other_each_time,
    },
    "place": {"others each time": other_each_time},
    "account": {"a number": returns(7)},
    "resolve": {"None": returns(None)},
    "check": {
        "ValueError": raises(ValueError("no")),
        "KeyboardInterrupt": raises(KeyboardInterrupt()),
    },
    "connect": {"OSError": raises(OSError("no route"))},
    "counter": {"None": returns(None), "ImportError": raises(ImportError("acme_tokens"))},
    "estimate": {
        "None": returns(None),
        "negative": with_fields(cost_usd=usd(Decimal(-5), Decimal(-5))),
        "NaN": with_fields(cost_usd=usd(Decimal("NaN"), Decimal("NaN"))),
        "endless": with_fields(seconds=Range(low=0.0, expected=1.0, high=float("inf"))),
        "a text": with_fields(cost_usd=usd("4", "4")),
        "stays here, as a text": with_fields(data_leaves_machine="no"),
        "a model that is a number": with_fields(model=7),
        "ZeroDivisionError": raises(ZeroDivisionError()),
    },
    "upload": {"a number": returns(7), "empty": returns(""), "KeyError": raises(KeyError("id"))},
    "poll": {
        "None": returns(None),
        "a dict": returns({"status": "succeeded"}),
        "KeyError": raises(KeyError("status")),
        "no status": with_fields(status=None),
        "events are None": with_fields(events=None),
        "events are dicts": with_fields(events=[{"id": "1"}]),
        "cursor is a number": with_fields(cursor=5),
        "result is a text": with_fields(result="tuned"),
        "a model without a name": with_fields(result=Result(kind="hosted", model=" ")),
    },
    "open": {"None": returns(None), "RuntimeError": raises(RuntimeError("no socket"))},
}  # fmt: skip
# The seam refuses these as it does others of their method: ``test_a_broken_start_is_a_doubt``.
MORE_STARTS = {"blank", "endless", "bytes", "True", "a list", "TimeoutError", "RecursionError"}
MORE_STARTS |= {"MemoryError", "StopIteration"}
TABLE = [
    *(("start", case, how) for case, how in STARTS.items()),
    *((method, case, how) for method, cases in OTHERS.items() for case, how in cases.items()),
]


def param(method: str, case: str, how: Misbehaviour) -> ParameterSet:
    marks = [pytest.mark.chaos] if method == "start" and case in MORE_STARTS else []
    return pytest.param(method, how, id=f"{method}: {case}", marks=marks)


@pytest.mark.parametrize("case", [case for case in STARTS if case != "one of ours"])
def test_a_broken_start_is_a_doubt(case: str) -> None:
    """Whatever it returns or raises: the job may have been bought."""
    backend = breaking({"start": STARTS[case]})
    with pytest.raises(BackendError, match=r"start\(\) of backend 'hostile' ") as caught:
        backend.start("ftg-1", TrainingSpec(model="m"), None, None)  # type: ignore[arg-type]
    assert caught.value.maybe_applied


def texts_of(gateway: Gateway, backend: Honest, data: Path) -> list[str]:
    """Everything that the user gets to read of a submit and a wait."""
    said: list[str] = []
    try:
        job = gateway.submit(data, model="m", backend=backend)
        said.append(job.phase)
        job.wait(timeout=0.02)
        job.result()
    except GatewayError as exc:
        said.append(str(exc))
    return said + [str(one.error) for one in gateway.jobs()] + [one.phase for one in gateway.jobs()]


@pytest.mark.parametrize(("method", "how"), [param(*one) for one in TABLE])
def test_a_broken_call_buys_once_and_keeps_no_share(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, method: str, how: Misbehaviour
) -> None:
    """The error names backend and method. Once the plug-in is repaired the job comes to its end, is
    there once, and a job that was not bought leaves its share of the month to the next, or goes on
    when a person has said so."""
    monkeypatch.setenv("ACME_API_KEY", KEY)
    gateway = Gateway(home, monthly_usd=USD)
    backend: Any = breaking({method: how})
    said = texts_of(gateway, backend, train_file)
    assert any("'hostile'" in one and f"{method}()" in one for one in said), said
    assert not [one for one in said if KEY in one]
    assert backend.market.starts <= MAX_TRIES and len(backend.market.bought) <= 1

    type(backend).repaired = True
    for job in gateway.jobs():
        ended(gateway._job(job.record, backend))
    if gateway.jobs() and not backend.market.bought:
        gateway.submit(train_file, model="m", backend=backend).wait(timeout=30)
    assert len(backend.market.bought) == bool(gateway.jobs())


def ended(job: Job) -> None:
    """Wait for the end of a job; say that it was not created, if a person is asked."""
    try:
        job.wait(timeout=30)
    except BackendError as exc:
        assert exc.code == "not_settled"
        job.settle(created=None).wait(timeout=30)
    assert job.status.final


MORE_LOST = {"a number", "empty", "TimeoutError"}
LOST: dict[str, Misbehaviour] = {
    "a number": returns(0),
    "False": returns(False),
    "empty": returns(""),
    "a coroutine": in_a_coroutine,
    "KeyError": raises(KeyError("jobs")),
    "TimeoutError": raises(TimeoutError("read")),
}


@pytest.mark.parametrize(
    "how",
    [
        pytest.param(how, id=case, marks=[pytest.mark.chaos] if case in MORE_LOST else [])
        for case, how in LOST.items()
    ],
)
def test_a_search_that_says_nonsense_says_nothing(
    home: Path, train_file: Path, how: Misbehaviour
) -> None:
    """The answer to the create is lost, and the search is broken: nothing is sent again."""
    gateway = Gateway(home, monthly_usd=USD)
    backend: Any = breaking({"start": then(None), "find": how})
    said = texts_of(gateway, backend, train_file)
    assert any("find() of backend 'hostile'" in one for one in said), said
    assert backend.market.starts == 1
    type(backend).repaired = True
    [job] = gateway.jobs()
    assert gateway._job(job.record, backend).wait(timeout=30).status is JobStatus.SUCCEEDED
    assert backend.market.starts == 1


def test_a_start_that_does_nothing_here_is_tried_ten_times(home: Path, train_file: Path) -> None:
    """It returns None for ever, nothing is found, and it would cost nothing: the job fails."""
    starts: list[float] = []

    def nothing(backend: Any, honest: Any) -> None:
        starts.append(time.monotonic())

    backend: Any = breaking({"start": nothing, "capabilities": with_fields(hosted=False)})
    job = Gateway(home).submit(train_file, model="m", backend=backend)
    assert job.wait(timeout=60).status is JobStatus.FAILED
    assert 2 <= len(starts) <= MAX_TRIES and "and it is not there" in str(job.error)


@pytest.mark.parametrize("look", ["wait", "submit", "cancel", "status", "another job"])
def test_a_start_without_an_answer_that_find_never_shows_is_repeated_once(
    home: Path, train_file: Path, look: str
) -> None:
    """It may have been bought both times: its share stays reserved, nothing is sent or ended by
    whatever call, and a person is asked. That person's word is enough for one more."""
    gateway = Gateway(home, monthly_usd=USD)
    lost = {"start": then_raises(TimeoutError("read")), "find": returns(None)}
    backend: Any = breaking(lost)
    job = gateway.submit(train_file, model="m", backend=backend)
    for _ in range(2):
        with pytest.raises(BackendError, match=f"Neither, one or both .* ftg settle {job.id}"):
            job.wait(timeout=30)
    with pytest.raises((BackendError, BudgetError)):
        if look == "wait":
            job.result(timeout=30)
        elif look == "cancel":
            job.cancel()
        elif look == "status":
            job.refresh()
        else:
            model = "m" if look == "submit" else "another"
            gateway.submit(train_file, model=model, backend=backend)
    assert backend.market.starts == 2 and job.record.step == "creating" and not job.status.final
    assert gateway.budget().reserved_usd == USD and "does not find it" in job.events()[0].message

    type(backend).repaired = True
    backend.market.bought.clear()
    assert job.settle(created=None).wait(timeout=30).status is JobStatus.SUCCEEDED
    assert backend.market.starts == 3


# -- answers that the seam corrects --------------------------------------------------------


def polled(home: Path, train_file: Path, **fields: Any) -> Any:
    """A job whose poll has these fields in its snapshot."""
    backend = breaking({"poll": with_fields(**fields)})
    return Gateway(home).submit(train_file, model="m", backend=backend)


def test_the_words_of_a_host_end_before_the_hint(home: Path, train_file: Path) -> None:
    """They have no full stop of their own."""
    gone = raises(BackendError("no such run", status_code=404))
    job = Gateway(home).submit(train_file, model="m", backend=breaking({"poll": gone}))
    with pytest.raises(BackendError, match="^no such run\\. If it is gone there for good"):
        job.refresh()


def test_figures_that_cannot_be_are_left_out(home: Path, train_file: Path) -> None:
    """NaN and negative figures, and data that no JSON has; the rest is stored."""
    data = {"step": 1, "loss": float("nan"), "at": object(), "all": [1, float("inf"), {7: 1}]}
    endless: dict[str, Any] = {}
    endless["again"] = endless
    events = [Event(id="1", data=data), Event(id="2", data=endless), Event(id="3", data={"n": 1})]
    job = polled(
        home, train_file, events=events, trained_tokens=-5, seconds=float("nan"),
        finished_at=float("inf"),
    )  # fmt: skip
    assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
    assert (job.record.trained_tokens, job.record.seconds) == (None, None)
    stored = job.events()
    assert stored[0].data == {"step": 1, "all": [1, {}]} and stored[2].data == {"n": 1}


class Unreadable(int):
    """A number of somebody else's, which raises whatever it is asked."""

    def broken(self, *_: Any) -> Any:
        raise ZeroDivisionError("no number")

    __float__ = __abs__ = __le__ = __ge__ = __lt__ = __gt__ = __repr__ = broken


# By the answer: the method, and what it is called with.
UNREADABLE: dict[str, tuple[str, tuple[Any, ...], Any]] = {
    "a status": ("poll", ("job-1", None), Snapshot.model_construct(status=Unreadable(1))),
    "an amount": ("quote", (None, None, None), Decimal("NaN")),
    "400 digits": ("quote", (None, None, None), 10**400),
    "a signalling NaN": ("quote", (None, None, None), Decimal("sNaN")),
    "an id": ("start", ("1", None, None, None), Unreadable(3)),
    "seconds": ("upload_lifetime", (), 10**400),
    "a path": ("kept_files", ("job-1",), [Path("/a\0b")]),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_an_answer_that_breaks_its_check_is_refused_in_words(case: str) -> None:
    """Not an error of the check: the words are on what the plug-in has returned."""
    method, args, value = UNREADABLE[case]
    with pytest.raises(BackendError, match=rf"{method}\(\) of backend 'hostile' (returned|must)"):
        getattr(breaking({method: returns(value)}), method)(*args)


def test_a_list_leaves_out_the_one_that_cannot_be_read() -> None:
    """What it says of the other jobs counts; a figure that is too large is left out of its own."""
    runs = Snapshot(status=JobStatus.RUNNING, raw_status="busy")
    huge = runs.model_copy(update={"place_in_line": 10**400})
    broken = runs.model_copy(update={"status": Unreadable(3)})
    backend = breaking({"statuses": returns({"a": runs, "b": huge, "c": broken})})
    assert backend.statuses(["a", "b", "c"]) == {"a": runs, "b": runs}


def test_a_word_that_is_no_status_is_unknown(home: Path, train_file: Path) -> None:
    """It is shown as it is, and the job goes on."""
    job = polled(home, train_file, status="warming_up", result=None)
    job.refresh()
    assert (job.status, job.record.raw_status) == (JobStatus.VALIDATING_FILES, "warming_up")


def test_very_many_events_come_in_parts(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll stores a bounded number of them, and none is lost: the job ends with the last part."""
    monkeypatch.setattr("finetune_gateway.backend.snapshots.MAX_EVENTS", 40)
    job = polled(home, train_file, events=[Event(id=str(n), message=f"{n}") for n in range(100)])
    job.refresh()
    assert (len(job.events()), job.status) == (40, JobStatus.RUNNING)
    assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
    assert [event.message for event in job.events()] == [str(n) for n in range(100)]


def test_each_event_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that gives all of them with each poll: of those that are stored no one is read again,
    so twice the events are twice the work, and no more."""
    monkeypatch.setattr("finetune_gateway.backend.snapshots.MAX_EVENTS", 20)

    def follow(count: int) -> None:
        events = [Event(id=str(n), message=f"{n}") for n in range(count)]
        backend, cursor, seen = breaking({"poll": with_fields(events=events)}), None, 0
        while seen < count:
            snapshot = backend.poll("job-1", cursor)
            seen, cursor = seen + len(snapshot.events), snapshot.cursor
        assert seen == count and snapshot.status is JobStatus.SUCCEEDED

    monkeypatch.setattr("finetune_gateway.backend.seam.limit_of", lambda *_: None)  # in this thread
    assert_linear(follow, 400)


def test_the_estimate_does_not_decide_what_leaves_the_machine(home: Path, tmp_path: Path) -> None:
    """A hosted backend says of private rows that they stay: they are refused all the same."""
    data = tmp_path / "private.jsonl"
    row = '{"messages": [{"role": "user", "content": "Mail ann.lee%d@gmail.com"},'
    row += ' {"role": "assistant", "content": "Done %d."}]}\n'
    data.write_text("".join(row % (n, n) for n in range(12)), encoding="utf-8")
    backend = breaking({"estimate": with_fields(data_leaves_machine=False)})
    with pytest.raises(GatewayError, match="personal data would go to hostile"):
        Gateway(home).submit(data, model="m", backend=backend)
    assert not backend.market.starts


# -- what its objects do ------------------------------------------------------------------


class BrokenChat:
    """A model whose answers are none."""

    def chat(self, messages: Any, **sampling: Any) -> Any:
        if messages[-1]["content"] == "Hello.":
            return ChatReply(text="Yes.")
        if messages[-1]["content"] == "None":
            return None
        raise KeyError("choices")

    def stream(self, messages: Any, **sampling: Any) -> Any:
        yield "Y"
        if messages[-1]["content"] == "None":
            yield None
        raise KeyError("delta")


class BrokenCounter(HostedCounter):
    def add(self, row: Any) -> Any:
        raise KeyError("messages")

    def add_plain(self, *args: Any, **kwargs: Any) -> Any:
        raise KeyError("messages")


def test_a_model_that_breaks_says_so_in_words(home: Path, train_file: Path) -> None:
    """A chat without a reply, a piece that is no text, exceptions of others."""
    backend = breaking({"open": returns(BrokenChat())})
    handle = Gateway(home).submit(train_file, model="m", backend=backend).result(timeout=30)
    asks: dict[str, Any] = {"chat": handle.chat, "stream": lambda text: [*handle.stream(text)]}
    for method, ask in asks.items():
        for question in ("None", "Where is it?"):
            with pytest.raises(BackendError, match=rf"{method}\(\) of backend 'hostile'"):
                ask(question)
    [error] = handle.chat_many([{"messages": [{"role": "user", "content": "Where?"}]}])
    assert isinstance(error, BackendError)


class Odd:
    """A model that can do everything, and answers nonsense."""

    answers: Any = ()

    def chat(self, messages: Any, **sampling: Any) -> ChatReply:
        return ChatReply(text="Yes.")

    def stream(self, messages: Any, **sampling: Any) -> Any:
        yield "Yes."

    def answer(self, *args: Any, **sampling: Any) -> Any:
        if isinstance(self.answers, Exception):
            raise self.answers
        return self.answers

    chat_many = complete = reference_losses = scores = answer

    def stream_completion(self, text: str, **sampling: Any) -> Any:
        yield self.answer()


TWO: dict[str, Any] = {
    "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]
}
ASKS: dict[str, Callable[[ModelHandle], Any]] = {
    "chat_many": lambda handle: handle.chat_many([TWO, TWO]),
    "complete": lambda handle: handle.complete("Once"),
    "stream_completion": lambda handle: [*handle.stream_completion("Once")],
    "reference_losses": lambda handle: handle.reference_losses([TWO, TWO]),
    "scores": lambda handle: handle.model_copy(update={"kind": "reward"}).score_many([TWO, TWO]),
}


@pytest.mark.parametrize("method", ASKS)
def test_whatever_else_a_model_can_do_is_checked_too(
    home: Path, train_file: Path, method: str
) -> None:
    """Answers of another type or number, exceptions of others; of one of many in its place."""
    model, ask = Odd(), ASKS[method]
    backend = breaking({"open": returns(model)})
    handle = Gateway(home).submit(train_file, model="m", backend=backend).result(timeout=30)
    for model.answers in (None, [1], KeyError("choices")):
        with pytest.raises(BackendError, match=rf"{method}\(\) of backend 'hostile'"):
            ask(handle)
    if method in ("chat_many", "reference_losses", "scores"):
        good = ChatReply(text="Yes.") if method == "chat_many" else 0.5
        for bad in (None, float("nan"), True, "0.5", 10**400):
            model.answers = [good, bad]
            first, second = ask(handle)
            assert first == good and isinstance(second, BackendError)


def test_a_stream_keeps_its_whole_reply(home: Path, train_file: Path) -> None:
    """What a generator returns at its end is the reply of the stream."""

    class Whole:
        def chat(self, messages: Any, **sampling: Any) -> ChatReply:
            return ChatReply(text="Yes.")

        def stream(self, messages: Any, **sampling: Any) -> Any:
            yield "Yes."
            return ChatReply(text="Yes.", reasoning="Why not.")

    backend = breaking({"open": returns(Whole())})
    handle = Gateway(home).submit(train_file, model="m", backend=backend).result(timeout=30)
    stream = handle.stream("Well?")
    assert [*stream] == ["Yes."] and stream.reply and stream.reply.reasoning == "Why not."


def test_a_counter_that_breaks_says_so_in_words(home: Path, train_file: Path) -> None:
    """Of a plug-in's own making."""
    backend = breaking({"counter": returns(BrokenCounter("m"))})
    with pytest.raises(BackendError, match=r"counter\(\) of backend 'hostile' broke: KeyError"):
        Gateway(home).estimate(train_file, model="m", backend=backend)


OPENAI_KEY = "sk-proj-" + "Ab3" * 16


class Sealed(Honest):
    """Its constructor can be called once, and repeats a key in its error then."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        Sealed.made += 1
        if Sealed.made > 1:
            raise RuntimeError(f"no session for {OPENAI_KEY}")


class Lucky(Honest):
    """Is of another place each time that it is built."""

    built = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.place_now = next(self.built)

    def identity(self) -> dict[str, Any]:
        return {"place": self.place_now}


def test_a_backend_goes_to_the_same_place_in_each_process(home: Path, train_file: Path) -> None:
    """Else an equal submit of another process was another job: nothing is stored, or bought."""
    backend = Lucky()
    with pytest.raises(BackendError, match=r"built again.*identity\(\) or place\(\)"):
        Gateway(home).submit(train_file, model="m", backend=backend)
    assert backend.market.starts == 0 and Gateway(home).jobs() == []


def test_a_constructor_that_repeats_a_key_has_it_shown_nowhere() -> None:
    """Not in the error that says that another process cannot build the backend."""
    with pytest.raises(BackendError, match="cannot be built again") as caught:
        check_restorable(Sealed())
    assert "RuntimeError" in str(caught.value) and OPENAI_KEY not in str(caught.value)
