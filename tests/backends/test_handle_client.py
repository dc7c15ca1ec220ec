"""A handle as a client of OpenAI's SDK: what it is asked, its handle answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import openai
import pytest
from support.hosted import MODEL
from support.provider import Provider

import finetune_gateway as gateway
from finetune_gateway import ModelHandle, OpenAIBackend, UnsupportedError, aio
from finetune_gateway.backends.fake import FakeBackend, FakeChat
from finetune_gateway.chat import ChatReply, Usage

KEY = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
SECRET = "sk-proj-" + "a1B2c3D4" * 6
HELLO: Any = [{"role": "user", "content": "Hello"}]
CALL = {"type": "function", "function": {"name": "find", "arguments": '{"id": "A-1"}'}}


@pytest.fixture
def local(tiny_folder: Path) -> ModelHandle:
    """A model of this machine."""
    folder = str(tiny_folder)
    return ModelHandle(kind="merged", model=folder, base_model=folder, backend="local")


def test_a_local_model_answers_the_client_as_it_answers_chat(local: ModelHandle) -> None:
    """Whole and in pieces, with the options of the SDK that say the same."""
    client: Any = local.client()
    sampling: Any = {"max_tokens": 12, "stop": ["e"], "seed": 3}
    said = local.chat(HELLO, **sampling, temperature=1.0)
    given: Any = {"model": local.model, "messages": HELLO, "temperature": 1.0, **sampling}
    whole = client.chat.completions.create(**given, n=1, tool_choice="auto", logprobs=False)
    assert isinstance(whole, openai.types.chat.ChatCompletion)
    [choice] = whole.choices
    assert (choice.message.content or "", choice.finish_reason) == (said.text, said.finish_reason)
    assert whole.usage is not None and whole.usage.completion_tokens == said.usage.completion_tokens
    assert [model.id for model in client.models.list()] == [local.model]
    named = {**given, "max_completion_tokens": given["max_tokens"], "max_tokens": None}
    assert client.chat.completions.create(**named).choices[0].message.content == (said.text or None)

    chunks = [*client.chat.completions.create(**given, stream=True)]
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == said.text
    assert chunks[-1].choices[0].finish_reason == said.finish_reason
    counted = {"stream": True, "stream_options": {"include_usage": True}}
    *_, last = client.chat.completions.create(**given, **counted)
    assert not last.choices and last.usage == whole.usage


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"n": 2}, openai.BadRequestError, "cannot honour n=2"),
        ({"logprobs": True}, openai.BadRequestError, "cannot honour logprobs"),
        ({"response_format": {"type": "json_object"}}, openai.BadRequestError, "response_format"),
        ({"tool_choice": "required"}, openai.BadRequestError, "does not take tool_choice"),
        ({"temperature": 9}, openai.BadRequestError, "temperature is a number from 0 to 2"),
        ({"model": "gpt-4o"}, openai.NotFoundError, "asks one model"),
        ({"messages": [3]}, openai.BadRequestError, "messages.0. is no message"),
        ({"seed": "x"}, openai.BadRequestError, "seed"),
        ({"messages": "Hello"}, openai.BadRequestError, "messages is a list"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_honoured_is_refused_by_its_name(
    local: ModelHandle, given: dict[str, Any], error: Any, words: str, stream: bool
) -> None:
    """With the errors of the SDK, before the first piece."""
    asked: Any = {"model": local.model, "messages": HELLO, "stream": stream, **given}
    with pytest.raises(error, match=words):
        local.client().chat.completions.create(**asked)
    with pytest.raises(openai.NotFoundError, match="has no POST /v1/embeddings"):
        local.client().embeddings.create(model=local.model, input="x")


def test_an_answer_that_is_not_read_to_its_end_is_not_written(local: ModelHandle) -> None:
    with local.client().chat.completions.create(
        model=local.model, messages=HELLO, stream=True, max_tokens=200
    ) as stream:
        next(stream)
    assert local.chat(HELLO, max_tokens=3).usage.completion_tokens


class Calling(FakeBackend):
    """Its model thinks, and calls a tool."""

    def open(self, handle: Any) -> FakeChat:
        return _CallingChat("m", None)


class _CallingChat(FakeChat):
    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        used = Usage(prompt_tokens=7, completion_tokens=9)
        return ChatReply(
            text="Let me look.", finish_reason="tool_calls", tool_calls=[{**CALL, "id": "c1"}],
            reasoning="They ask.", usage=used,
        )  # fmt: skip

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Any:
        yield "Let me "
        yield "look."
        return self.chat(messages)


def test_calls_and_reasoning_come_as_the_sdk_has_them() -> None:
    """Of a plug-in, whole and in pieces."""
    handle = ModelHandle(kind="hosted", model="m", base_model="m", backend="fake")
    handle.attach(Calling())
    client = handle.client()
    message = client.chat.completions.create(model="m", messages=HELLO).choices[0].message
    assert message.content == "Let me look." and message.tool_calls is not None
    assert message.to_dict()["reasoning_content"] == "They ask."
    assert [call.to_dict() for call in message.tool_calls] == [{**CALL, "id": "c1"}]
    chunks = [*client.chat.completions.create(model="m", messages=HELLO, stream=True)]
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "Let me look."
    [calls] = [one.choices[0].delta.tool_calls for one in chunks if one.choices[0].delta.tool_calls]
    assert [call.to_dict() for call in calls] == [{**CALL, "id": "c1", "index": 0}]


class _BreakingChat(FakeChat):
    """Breaks as a GPU does whose memory is full: with no error of ours."""

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        raise RuntimeError(f"CUDA out of memory, {SECRET}")

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Any:
        if messages[-1]["content"] == "later":
            yield "Let me "
        self.chat(messages)


class Breaking(FakeBackend):
    def open(self, handle: Any) -> FakeChat:
        return _BreakingChat("m", None)


def test_what_breaks_is_said_and_is_no_connection_error() -> None:
    """Whole, at the first piece and after it; without a key that stands in it."""
    handle = ModelHandle(kind="hosted", model="m", base_model="m", backend="fake")
    handle.attach(Breaking())
    client = handle.client()
    later: Any = [{"role": "user", "content": "later"}]
    asked: list[tuple[Any, bool]] = [(HELLO, False), (HELLO, True), (later, True)]
    for messages, streamed in asked:
        with pytest.raises(openai.APIError, match="RuntimeError: CUDA out of memory") as broken:
            answer: Any = client.chat.completions.create(
                model="m", messages=messages, stream=streamed
            )
            list(answer)
        assert not isinstance(broken.value, openai.APIConnectionError)
        assert SECRET not in str(broken.value)
        assert isinstance(broken.value, openai.InternalServerError) is (messages is HELLO)
    with pytest.raises(openai.BadRequestError, match="stream_options is for streams"):
        client.chat.completions.create(
            model="m", messages=HELLO, stream_options={"include_usage": True}
        )


def test_a_reward_model_is_no_client() -> None:
    handle = ModelHandle(kind="reward", model="m", base_model="m", backend="local")
    with pytest.raises(UnsupportedError, match="is a reward model"):
        handle.client()


def test_a_hosted_model_is_asked_as_by_chat(
    train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its key, its system prompt and its options; a refused key is the SDK's own error, and no
    key is in it."""
    with Provider() as provider:
        monkeypatch.setenv("MY_KEY", provider.api_key)
        hosted = OpenAIBackend(
            base_url=provider.url, api_key_env="MY_KEY", profile="custom", poll_seconds=0.01
        )
        handle = gateway.submit(train_file, model=MODEL, backend=hosted).result()
        client = handle.client()
        asked: Any = {"model": handle.model, "messages": HELLO, "logit_bias": {"5": 1}}
        answer = client.chat.completions.create(**asked)
        assert answer.choices[0].message.content == handle.chat(HELLO).text
        pieces = client.chat.completions.create(**asked, stream=True)
        assert "".join(one.choices[0].delta.content or "" for one in pieces) == (
            answer.choices[0].message.content
        )
        monkeypatch.setenv("MY_KEY", KEY)
        with pytest.raises(openai.AuthenticationError) as failed:
            handle.client().chat.completions.create(**asked)
        assert KEY not in f"{failed.value!r} {failed.value.body}"


def test_the_awaited_client_says_the_same(local: ModelHandle, tmp_path: Path) -> None:
    """Whole, in pieces, and refused; many requests at once."""

    async def ask() -> None:
        handle = await aio.ModelHandle.load(local.save(tmp_path / "model.json"))
        create: Any = handle.client().chat.completions.create
        asked: Any = {"model": handle.model, "messages": HELLO, "max_tokens": 6}
        answers = await asyncio.gather(*(create(**asked) for _ in range(4)))
        said = local.chat(HELLO, max_tokens=6).text
        assert {one.choices[0].message.content or "" for one in answers} == {said}
        chunks = [one async for one in await create(**asked, stream=True)]
        assert "".join(one.choices[0].delta.content or "" for one in chunks) == said
        with pytest.raises(openai.BadRequestError, match="cannot honour n"):
            await create(**asked, n=2, stream=True)
        async with await create(**asked, stream=True) as stream:
            await anext(aiter(stream))

    asyncio.run(ask())
