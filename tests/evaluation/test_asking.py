"""Many prompts at once: a bound for each host, retries, what ends a run, nothing dropped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from support.hosted import connect
from support.provider import Fault, Provider

from finetune_gateway.backends.openai import async_chat, pacing
from finetune_gateway.backends.openai.async_chat import Answer
from finetune_gateway.errors import AuthenticationError, BackendError
from finetune_gateway.evaluation import asking
from finetune_gateway.evaluation.asking import Question

CHAT = "POST /chat/completions"


class Log:
    """Keeps what it hears; ``most``: requests that are let through."""

    def __init__(self, most: int = 10**6) -> None:
        self.most = most
        self.sent: list[tuple[str, int]] = []
        self.answers: dict[str, Answer] = {}
        self.errors: list[tuple[str, BackendError, bool]] = []

    async def sending(self, question: Question, attempt: int) -> bool:
        if len(self.sent) == self.most:
            return False
        self.sent.append((question.id, attempt))
        return True

    async def answered(self, question: Question, attempt: int, answer: Answer) -> None:
        assert question.id not in self.answers
        self.answers[question.id] = answer

    async def failed(
        self, question: Question, attempt: int, error: BackendError, *, again: bool
    ) -> None:
        self.errors.append((question.id, error, again))


def questions(count: int, **parameters: Any) -> list[Question]:
    return [
        Question(str(n), {"messages": [{"role": "user", "content": f"n {n}"}], **parameters})
        for n in range(count)
    ]


def ask(
    provider: Provider,
    asked: list[Question],
    log: Log,
    model: str = "gpt-4.1-mini-2025-04-14",
    at_once: int = 4,
    backend: Any = None,
    **more: Any,
) -> BackendError | None:
    async def run() -> BackendError | None:
        host = backend or connect(provider)
        async with async_chat.session(host, model, at_once) as session:
            return await asking.ask_many(session, asked, log, at_once=at_once, **more)

    return asyncio.run(run())


def test_all_are_asked_with_as_many_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, whole answers; two loops of one process share the bound."""
    peak: list[int] = []
    with Provider(latency=(0.02, 0.03)) as provider:
        real = provider.world.wait
        lock, now = threading.Lock(), [0]

        def wait() -> None:
            with lock:
                now[0] += 1
                peak.append(now[0])
            real()
            with lock:
                now[0] -= 1

        monkeypatch.setattr(provider.world, "wait", wait)
        logs = Log(), Log()
        threads = [
            threading.Thread(target=ask, args=(provider, questions(12), log)) for log in logs
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(peak) == 4
    for log in logs:
        assert sorted(log.answers) == sorted(str(n) for n in range(12)) and not log.errors
        answer = log.answers["3"]
        assert answer.choice["message"]["content"].endswith("n 3")
        assert answer.seconds >= 0.02 and answer.body["system_fingerprint"] == "fp_test"


FAULTS: dict[str, tuple[Fault, bool]] = {  # and whether the request may have been billed
    "refused for now": (Fault("refuse"), True),  # a gateway may say 503 after it passed it on
    "busy": (Fault("busy", seconds=0.01), False),
    "reset after": (Fault("reset_after"), True),
    "cut": (Fault("cut"), True),
    "half a JSON": (Fault("truncated"), True),
    "500": (Fault("error_after"), True),
    "a page": (Fault("html"), True),
    "a portal": (Fault("html_ok"), True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_may_pass_is_asked_again(fault: str) -> None:
    """Answered in the end; the log hears of each attempt, and if it may have been billed."""
    kind, billed = FAULTS[fault]
    with Provider() as provider:
        provider.fault(CHAT, kind)
        log = Log()
        ended = ask(provider, questions(1), log)
    assert ended is None
    (one,) = log.errors
    assert one[1].maybe_applied is billed, one[1]
    assert log.answers.keys() == {"0"} and log.sent == [("0", 1), ("0", 2)]


def test_a_host_that_asks_to_wait_rests_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks it meanwhile, the user hears of it, and as many are asked at once afterwards."""
    waits: list[tuple[float, str]] = []
    with Provider() as provider:
        provider.fault(CHAT, "busy", seconds=0.3)
        log, began = Log(), time.monotonic()
        assert ask(provider, questions(8), log, on_wait=lambda *said: waits.append(said)) is None
        took = time.monotonic() - began
    assert len(log.answers) == 8 and took >= 0.3
    assert [round(seconds, 1) for seconds, _ in waits] == [0.3]


def test_headers_that_say_that_nothing_is_left_are_heeded() -> None:
    """So that no request is turned away at all."""
    with Provider(request_limit=4, window_seconds=0.4) as provider:
        log = Log()
        assert ask(provider, questions(8), log, at_once=1) is None
        assert len(log.answers) == 8 and provider.world.turned_away == 0


def test_a_wait_beyond_the_patience_ends_it() -> None:
    """With the host's error; what was not asked is not."""
    with Provider() as provider:
        provider.fault(CHAT, "busy", seconds=100)
        log = Log()
        ended = ask(provider, questions(6), log, at_once=1, patience=5.0)
    assert ended is not None and ended.retry_after == 100 and len(log.sent) == 1


ENDS: dict[str, tuple[Callable[[Provider], object], type[BackendError], dict[str, Any]]] = {
    "a key": (lambda p: p.keys.clear(), AuthenticationError, {}),
    "an account": (
        lambda p: p.fault(CHAT, *[Fault("status", status=429, code="insufficient_quota")] * 4),
        BackendError,
        {},
    ),
    "a parameter": (lambda p: None, BackendError, {"logprobs": True, "top_logprobs": 99}),
}


@pytest.mark.parametrize("what", ENDS)
def test_what_all_others_would_meet_ends_it(what: str) -> None:
    """After the requests that are on their way."""
    prepare, kind, parameters = ENDS[what]
    with Provider() as provider:
        prepare(provider)
        log = Log()
        ended = ask(provider, questions(40, **parameters), log)
    assert isinstance(ended, kind) and len(log.sent) <= 4, (ended, log.sent)


def test_one_that_is_refused_leaves_the_others() -> None:
    """400 for its words: an error of its own, not asked again."""
    with Provider(refused_words=("n 2",)) as provider:
        log = Log()
        assert ask(provider, questions(5), log) is None
    assert [(key, again) for key, _, again in log.errors] == [("2", False)]
    assert log.answers.keys() == {"0", "1", "3", "4"}


@pytest.mark.parametrize("warm_up", [3, 99])
def test_a_model_that_is_not_there_is_probed_twice(
    warm_up: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold one answers then; one that is not there after the second pause ends it."""
    monkeypatch.setattr(asking, "COLD_SECONDS", (0.05, 0.05))
    waits: list[float] = []
    with Provider(warm_up=warm_up) as provider:
        provider.world.add_fine_tunes(1)
        model = next(m["id"] for m in provider.world.list_models()["data"] if "ft:" in m["id"])
        log = Log()
        backend = connect(provider, profile="openai")
        ended = ask(
            provider, questions(4), log, model, at_once=2, backend=backend,
            on_wait=lambda s, _: waits.append(s),
        )  # fmt: skip
    if warm_up == 3:
        assert ended is None and len(log.answers) == 4
    else:
        assert ended is not None and ended.status_code == 404 and not log.answers
        assert len(waits) == 2 and len(log.sent) == 6


def test_a_server_on_this_machine_that_has_no_such_model_ends_it_at_once() -> None:
    """It is no cold one: nobody waits a minute for a name with a typo."""
    waits: list[float] = []
    with Provider() as provider:
        log = Log()
        ended = ask(provider, questions(9), log, "gpt-5-typo", at_once=1,
                    on_wait=lambda s, _: waits.append(s))  # fmt: skip
    assert ended is not None and ended.status_code == 404
    assert not waits and len(log.sent) == 1


def test_a_host_that_is_not_there_ends_it() -> None:
    """Not one error for each row."""
    with Provider() as provider:
        backend = connect(provider)
    log = Log()
    ended = ask(provider, questions(40), log, at_once=2, backend=backend)
    assert ended is not None and "Could not reach" in ended.message and len(log.sent) <= 6


def test_the_log_ends_it() -> None:
    """By a no, such as for a limit of money."""
    with Provider() as provider:
        log = Log(most=5)
        assert ask(provider, questions(40), log) is None
    assert len(log.sent) == 5 == len(log.answers)


@pytest.mark.parametrize("kind", ["endless", "trickle", "hints"])
def test_an_answer_without_an_end_is_cut_off(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its bytes, or by its time; and not asked again and again."""
    monkeypatch.setattr("finetune_gateway.backends.openai.bounds.LONGEST_CHAT", 2_000_000)
    with Provider() as provider:
        provider.fault(CHAT, Fault(kind, seconds=20))
        backend = connect(provider, request_timeout=0.06)
        log = Log()
        ask(provider, questions(1), log, backend=backend)
    assert len(log.sent) == 1 and "was cut off after" in log.errors[0][1].message, log.errors


def test_a_long_answer_may_take_longer() -> None:
    """It comes as a whole: the time-out grows with the tokens that it may have."""

    async def read_seconds(provider: Provider, max_tokens: int) -> float | None:
        async with async_chat.session(connect(provider), "m", 1, max_tokens) as session:
            return session.client.timeout.read

    with Provider() as provider:
        assert asyncio.run(read_seconds(provider, 1024)) == 5
        assert asyncio.run(read_seconds(provider, 16384)) == 40


def test_no_error_has_the_key() -> None:
    """A host echoes it in its refusal, and in an answer."""
    with Provider() as provider:
        provider.fault(CHAT, Fault("status", status=400, message=f"bad {provider.api_key}"))
        echo = {"choices": [{"message": {"content": f"it is {provider.api_key}"}}]}
        provider.fault(CHAT, Fault("body", body=echo))
        log = Log()
        ask(provider, questions(2), log, at_once=1)
        assert provider.api_key not in str(log.errors) + str(log.answers)
        assert "[key]" in log.answers["1"].choice["message"]["content"]


def test_pauses_in_headers_are_read() -> None:
    """Of whatever limit is used up; nonsense is none."""
    head = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1m0.5s"}
    assert pacing.pause_of(head) == 60.5
    tokens = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "120ms"}
    assert pacing.pause_of(tokens) == 0.12
    assert pacing.pause_of({**head, "x-ratelimit-remaining-requests": "3"}) == 0
    assert pacing.pause_of({**head, "x-ratelimit-reset-requests": "soon"}) == 0
