"""Calls and reasoning of a hosted answer, whole, in pieces and on the screen of ``ftg chat``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg, at_terminal
from support.provider import Provider

from finetune_gateway import ModelHandle, OpenAIBackend
from finetune_gateway.chat import ChatReply

CHAT = "POST /chat/completions"
KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
CALLS: list[dict[str, Any]] = [
    {"id": f"c{n}", "type": "function", "function": {"name": name, "arguments": '{"id": "A-1"}'}}
    for n, name in enumerate(("find", "refund"))
]
MESSAGE = {"content": "Let me look.", "reasoning_content": "They ask.", "tool_calls": CALLS}
USAGE = {"prompt_tokens": 7, "completion_tokens": 9}


def body(message: dict[str, Any] = MESSAGE, reason: str = "tool_calls") -> dict[str, Any]:
    return {"choices": [{"finish_reason": reason, "message": message}], "usage": USAGE}


def stream(*deltas: dict[str, Any]) -> bytes:
    """Return these pieces as a host sends them, the usage last."""
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": delta}]} for delta in deltas]
    chunks.append({"choices": [{"delta": {}, "finish_reason": "tool_calls"}]})
    chunks.append({"choices": [], "usage": USAGE})
    return "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks).encode()


def pieces() -> bytes:
    """Return MESSAGE in pieces, its calls cut in their middle."""
    first, second = CALLS
    half = {"index": 0, "function": {"arguments": '"A-1"}'}}
    function = {"name": "find", "arguments": '{"id": '}
    return stream(
        {"reasoning_content": "They "},
        {"reasoning_content": "ask."},
        {"content": "Let me "},
        {"content": "look."},
        {"tool_calls": [{**first, "index": 0, "function": function}]},
        {"tool_calls": [half]},
        {"tool_calls": [{**second, "index": 1}]},
    )


@pytest.fixture
def handle(monkeypatch: pytest.MonkeyPatch) -> ModelHandle:
    """A handle without a host; each test attaches one."""
    monkeypatch.setenv("MY_KEY", KEY)
    return ModelHandle(kind="hosted", model="m", base_model="m", backend="openai")


def attached(handle: ModelHandle, provider: Provider) -> ModelHandle:
    handle.attach(OpenAIBackend(base_url=provider.url, api_key_env="MY_KEY", profile="custom"))
    return handle


def test_a_stream_ends_with_the_whole_answer(home: Path, handle: ModelHandle) -> None:
    """Its text comes in pieces, calls and reasoning stand in ``reply``, as ``chat`` has them."""
    with Provider(api_key=KEY) as provider:
        attached(handle, provider)
        provider.fault(CHAT, "body", body=body())
        whole = handle.chat("Hi")
        provider.fault(CHAT, "body", body=pieces())
        answer = handle.stream("Hi")
        assert [*answer] == ["Let me ", "look."] and isinstance(answer.reply, ChatReply)
    assert (whole.text, whole.reasoning, whole.tool_calls) == ("Let me look.", "They ask.", CALLS)
    assert answer.reply == whole.model_copy(update={"seconds": 0.0})


def test_a_key_that_a_host_echoes_is_in_no_part_of_a_stream(
    home: Path, handle: ModelHandle
) -> None:
    call = {"index": 0, "id": KEY, "function": {"name": KEY, "arguments": f'{{"a": "{KEY}"}}'}}
    echo = stream({"reasoning": KEY, "content": f"x {KEY}"}, {"tool_calls": [call, None, "x"]})
    with Provider(api_key=KEY) as provider:
        provider.fault(CHAT, "body", body=echo)
        answer = attached(handle, provider).stream("Hi")
        assert KEY not in "".join(answer)
    assert answer.reply is not None and KEY not in answer.reply.model_dump_json()


def test_ftg_chat_shows_calls_and_reasoning(
    home: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls on stdout after the text, reasoning on stderr, both in --json."""
    monkeypatch.setenv("MY_KEY", KEY)
    with Provider(api_key=KEY) as provider:
        words = ("--base-url", provider.url, "--api-key-env", "MY_KEY")
        provider.fault(CHAT, "body", "body", "body", body=body())
        shown = ftg("chat", "m", "Hi", *words)
        quiet = ftg("chat", "m", "Hi", "--quiet", *words)
        data = json.loads(ftg("chat", "m", "Hi", "--json", *words).stdout)
    lines = ["Let me look.", 'find({"id": "A-1"})', 'refund({"id": "A-1"})']
    assert shown.stdout.splitlines() == lines and "Reasoning: They ask." in shown.stderr
    assert quiet.stdout == shown.stdout and quiet.stderr == ""
    assert (data["tool_calls"], data["reasoning"]) == (CALLS, "They ask.")


def test_in_a_conversation_the_next_lines_are_what_the_calls_return(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line for each call, in order; the reasoning is shown when asked for."""
    monkeypatch.setenv("MY_KEY", KEY)
    with Provider(api_key=KEY) as provider:
        provider.fault(CHAT, "body", body=pieces())
        provider.fault(CHAT, "body", body=stream({"content": "It is there."}))
        talk = tmp_path / "talk.jsonl"
        keys = f"Where?\n/reasoning\nin Utrecht\ndone\n/reasoning\n/save {talk}\n"
        words = ("chat", "m", "--base-url", provider.url, "--api-key-env", "MY_KEY")
        done = at_terminal(monkeypatch, keys, *words)
    said = " ".join(done.stderr.split())
    assert "Let me look." in done.stdout and 'find({"id": "A-1"})' in done.stdout
    for text in (
        "Reasoning: 2 words; /reasoning shows it",
        "They ask.",
        "What does find return?",
        "What does refund return?",
        "The last answer has no reasoning.",
    ):
        assert text in said, done.stderr
    messages = json.loads(talk.read_text())["messages"]
    assert [one["role"] for one in messages] == ["user", "assistant", "tool", "tool", "assistant"]
    assert messages[1]["tool_calls"] == CALLS
    assert [(one["tool_call_id"], one["content"]) for one in messages[2:4]] == [
        ("c0", "in Utrecht"), ("c1", "done"),
    ]  # fmt: skip
