"""An answer that is streamed from an event loop: whole, timed, and an error if it breaks off."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.hosted import connect
from support.provider import Fault, Provider
from support.recordings import CHAT, TOOL

from finetune_gateway.backends.openai import async_chat
from finetune_gateway.backends.openai.async_chat import Answer
from finetune_gateway.backends.openai.events import EventReader
from finetune_gateway.errors import BackendError

Json = dict[str, Any]
STREAM = {"Content-Type": "text/event-stream"}
MODEL = "gpt-4.1-mini-2025-04-14"
BODY: Json = {"messages": [{"role": "user", "content": "Where is my parcel?"}]}


def ask(
    provider: Provider, *bodies: Json, timeout: float = 5.0, streamed: bool = True
) -> list[Any]:
    """The answers to these, one after the other, or the error of one."""

    async def run() -> list[Any]:
        backend = connect(provider, request_timeout=timeout)
        found: list[Any] = []
        async with async_chat.session(backend, MODEL, 2, streamed=streamed) as session:
            for body in bodies:
                try:
                    found.append(await session.ask(body))
                except BackendError as exc:
                    found.append(exc)
        return found

    return asyncio.run(run())


def chunk(delta: Json | None, reason: str | None = None, **more: Any) -> Json:
    """A piece of an answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return {"id": "chatcmpl-1", "model": MODEL, "choices": [choice], **more}


def said(provider: Provider, chunks: list[Json]) -> Any:
    """What is made of these pieces."""
    provider.world.stream = lambda body: iter(chunks)  # type: ignore[method-assign]
    return ask(provider, BODY)[0]


def test_a_streamed_answer_is_that_which_comes_whole() -> None:
    """Text, calls, usage, why it ended, fingerprint; and the time to its first piece is known."""
    bodies = [BODY, {**BODY, "tools": [TOOL]}]
    with Provider(latency=(0.02, 0.03)) as provider:
        streamed, whole = ask(provider, *bodies), ask(provider, *bodies, streamed=False)
    for one, other in zip(streamed, whole, strict=True):
        left = {name: value for name, value in one.choice["message"].items() if value is not None}
        right = other.choice["message"]
        assert left == {name: value for name, value in right.items() if value is not None}
        for name in ("usage", "system_fingerprint", "model"):
            assert one.body[name] == other.body[name]
        assert one.choice["finish_reason"] == other.choice["finish_reason"]
        assert one.first_seconds is not None and 0.02 <= one.first_seconds <= one.seconds
        assert other.first_seconds is None


@pytest.mark.parametrize("keys", [("stream_options",), ("stream_options", "stream"), ()])
def test_a_host_that_streams_less_is_asked_so(keys: tuple[str, ...]) -> None:
    """It refuses a key once in a session, not for each request; or answers whole all the same."""
    with Provider(refused_keys=keys, streams=bool(keys)) as provider:
        first, second = ask(provider, BODY, BODY)
        posts = provider.posts["/chat/completions"]
    assert isinstance(first, Answer) and isinstance(second, Answer)
    assert posts == 2 + len(keys)
    assert (first.first_seconds is not None) is (keys == ("stream_options",))
    assert first.choice["message"]["content"].endswith("parcel?")


def test_a_host_that_refuses_a_stream_in_odd_words_is_asked_for_the_whole() -> None:
    """A row that it refuses in any case costs the others nothing."""
    with Provider(refused_words=("bomb",)) as provider:
        refused, streamed = ask(provider, {"messages": [{"role": "user", "content": "bomb"}]}, BODY)
        assert isinstance(refused, BackendError) and streamed.first_seconds is not None
        odd = Fault("status", status=400, message="We like no options of that kind.")
        provider.fault("POST /chat/completions", odd)
        first, second = ask(provider, BODY, BODY)
    assert first.first_seconds is None and second.first_seconds is None


def test_all_that_comes_in_pieces_is_put_together() -> None:
    """Reasoning apart from the text, a refusal, calls by their index whatever their order, halves
    of a character, a usage that comes last; and other choices than the first are none of it."""
    first = {"id": "a", "type": "function", "function": {"name": "one", "arguments": "{}"}}
    second = {"id": "b", "type": "function", "function": {"name": "two", "arguments": "{"}}
    rest = {"index": 1, "function": {"arguments": "}"}}
    chunks = [
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning_content": "I thi"}),
        chunk({"reasoning": "nk"}),
        chunk({"content": "so \ud83d"}),
        chunk({"content": "\ude00"}),
        {"choices": [{"index": 1, "delta": {"content": "no"}}]},
        chunk({"refusal": "I can"}),
        chunk({"refusal": "not", "tool_calls": [{"index": 1, **second}]}),
        chunk({"tool_calls": [{"index": 0, **first}, rest]}),
        chunk(None, "tool_calls"),
        {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 9}},
    ]
    with Provider() as provider:
        answer = said(provider, chunks)
    assert answer.choice["finish_reason"] == "tool_calls"
    assert answer.choice["message"] == {
        "role": "assistant",
        "content": "so 😀",
        "refusal": "I cannot",
        "reasoning_content": "I think",
        "tool_calls": [first, {**second, "function": {"name": "two", "arguments": "{}"}}],
    }
    assert answer.body["usage"]["completion_tokens"] == 9


BROKEN: dict[str, list[Json]] = {
    "without an end": [chunk({"content": "half"})],
    "nothing": [],
    "an error": [chunk({"content": "half"}), {"error": {"message": "no more capacity"}}],
}


@pytest.mark.parametrize("what", [*BROKEN, "cut", "half", "endless", "trickle"])
def test_one_that_breaks_off_may_have_been_billed(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be asked again, and its error says that it may have cost something."""
    monkeypatch.setattr("finetune_gateway.backends.openai.bounds.LONGEST_CHAT", 2_000_000)
    with Provider() as provider:
        if what in BROKEN:
            error = said(provider, BROKEN[what])
        else:
            half = Fault("raw", status=200, body=b'data: {"choi\n\n', headers=STREAM)
            provider.fault(CHAT, half if what == "half" else Fault(what, seconds=20))
            [error] = ask(provider, BODY, timeout=0.06)
    assert isinstance(error, BackendError), error
    assert error.maybe_applied and error.retryable, error


def test_an_answer_that_has_ended_is_kept_although_the_line_breaks() -> None:
    """What would have come after its last word is the usage alone."""
    with Provider() as provider:
        provider.fault(CHAT, "cut")
        answer = said(provider, [chunk({"content": "all of it"}, "stop"), chunk({})])
    assert answer.choice["message"]["content"] == "all of it" and "usage" not in answer.body


def test_the_key_is_taken_out_of_all_pieces_together() -> None:
    """A host echoes it in two pieces, in a call, and in an error."""
    with Provider() as provider:
        key = provider.api_key
        function = {"name": "f", "arguments": json.dumps({"k": key})}
        call = {"tool_calls": [{"index": 0, "id": "a", "function": function}]}
        deltas: list[Json] = [{"content": key[:9]}, {"content": key[9:]}, call]
        answer = said(provider, [*(chunk(one) for one in deltas), chunk({}, "stop")])
        error = said(provider, [{"error": {"message": f"bad {key}"}}])
    assert key not in json.dumps(answer.body) and "[key]" in answer.choice["message"]["content"]
    assert key not in str(error) and "bad" in str(error)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_read_however_they_are_cut(end: bytes) -> None:
    """At any byte; comments, other fields and the space after the colon are none of them."""
    lines = [b": hello", b"event: x", b"data: {1}", b"", b"data:{2", b"data: }", b"id: 4", b""]
    lines += [b"data: \xe2\x82\xac", b"", b"data: [DONE]", b"", b"data: no", b"", b""]
    stream = end.join(lines)
    for at in range(len(stream) + 1):
        reader = EventReader()
        found = [*reader.events(stream[:at]), *reader.events(stream[at:]), *reader.rest()]
        assert found == [b"{1}", b"{2\n}", b"\xe2\x82\xac"] and reader.done, at
    short = EventReader()
    assert [*short.events(b"data: {3}"), *short.rest()] == [b"{3}"] and not short.done
