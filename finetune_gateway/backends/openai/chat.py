"""Chat with a model behind OpenAI's contract."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import openai

from finetune_gateway.backend import ChatReply, Usage
from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import BackendError, SpecError
from finetune_gateway.text.cleaning import encodable, visible, whole
from finetune_gateway.text.redaction import Stream, without

OURS = ("model", "messages", "stream")  # set by the handle, never by ``sampling``


class Host(Protocol):
    """The part of an OpenAIBackend that is used here."""

    @property
    def name(self) -> str: ...

    @property
    def chat_patience(self) -> float: ...

    def calling(self, what: str) -> AbstractContextManager[tuple[openai.OpenAI, wire.Call]]: ...


class OpenAIChat:
    """One hosted model. ``sampling`` is passed on unchanged, tools included."""

    def __init__(self, backend: Host, model: str) -> None:
        self.backend = backend
        self.model = model

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        """Return one whole answer. Raises BackendError; 404 while a new model is starting."""
        with self.backend.calling(self._what) as (client, call):
            answer = retried(
                client.chat.completions.with_raw_response.create,
                model=self.model,
                messages=messages,
                extra_body=_passed(sampling),
                longest=self.backend.chat_patience,
            )
            body = wire.read(answer, call)
            choices = wire.list_of(body.get("choices"))
            if not choices or not isinstance(choices[0], dict):
                raise wire.undecodable(call, wire.error_of(body) or "")
            return _reply(choices[0], wire.object_of(body.get("usage")))

    def stream(
        self, messages: list[dict[str, Any]], **sampling: Any
    ) -> Generator[str, None, ChatReply]:
        """Yield the text of one answer in pieces, and return the whole. Raises BackendError if it
        breaks off."""
        gathered, half = _Gathered(), ""
        with self.backend.calling(self._what) as (client, call):
            stream = Stream(call.key)
            sent: Any = messages  # the SDK has a class per role; the wire has these dicts
            answer = retried(
                lambda: client.chat.completions.with_raw_response.create(
                    model=self.model, messages=sent, stream=True, extra_body=_passed(sampling)
                ),
                longest=self.backend.chat_patience,
            )
            with answer.parse(to=openai.Stream[object]) as chunks:
                for choice in _choices(chunks, call, gathered):
                    gathered.add(choice)
                    piece = half + _content(wire.object_of(choice.get("delta")))
                    # A character beyond the first 65,536 may come in two halves.
                    half = piece[-1:] if "\ud800" <= piece[-1:] <= "\udbff" else ""
                    if ready := stream.ready(encodable(piece.removesuffix(half))):
                        gathered.texts.append(ready)
                        yield ready
            if rest := stream.rest() + encodable(half):
                gathered.texts.append(rest)
                yield rest
            key = call.key
        if not gathered.finished:
            raise BackendError(
                f"The answer of {visible(self.model)!r} broke off.",
                hint="Ask again.",
                backend=self.backend.name,
                retryable=True,
            )
        return gathered.reply(key)

    @property
    def _what(self) -> str:
        return f"chat with {self.model!r}"


def _passed(sampling: dict[str, Any]) -> dict[str, Any]:
    taken = [name for name in OURS if name in sampling]
    if taken:
        raise SpecError(f"{taken[0]!r} is not a sampling option.", hint="The handle sets it.")
    return {name: value for name, value in sampling.items() if value is not None}


def _choices(chunks: Iterable[object], call: wire.Call, gathered: _Gathered) -> Iterator[wire.Json]:
    """Yield the choices of a stream, as they come, and keep its usage. Raises BackendError if a
    chunk is no JSON."""
    try:
        for chunk in chunks:
            body = wire.object_of(chunk)
            gathered.usage = wire.object_of(body.get("usage")) or gathered.usage
            for choice in wire.list_of(body.get("choices")):
                yield wire.object_of(choice)
    except (ValueError, RecursionError):
        raise wire.undecodable(call) from None


@dataclass
class _Gathered:
    """What a stream has said so far beside its text."""

    finished: bool = False
    finish_reason: str | None = None
    texts: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, wire.Json] = field(default_factory=dict)  # by their index
    usage: wire.Json = field(default_factory=dict)

    def add(self, choice: wire.Json) -> None:
        """Add a piece."""
        delta = wire.object_of(choice.get("delta"))
        self.finished = self.finished or bool(choice.get("finish_reason"))
        self.finish_reason = wire.text_of(choice.get("finish_reason")) or self.finish_reason
        self.reasoning.append(_reasoning(delta))
        for piece in map(wire.object_of, wire.list_of(delta.get("tool_calls"))):
            self._add_call(piece)

    def _add_call(self, piece: wire.Json) -> None:
        index = whole(piece.get("index"))
        key = max(self.calls, default=0) if index is None else index
        call = self.calls.setdefault(key, {"id": "", "type": "function", "function": {}})
        call["id"] = wire.text_of(piece.get("id")) or call["id"]
        said = wire.object_of(piece.get("function"))
        for name in ("name", "arguments"):
            part = said.get(name)
            if isinstance(part, str):
                call["function"][name] = call["function"].get(name, "") + part

    def reply(self, key: str | None) -> ChatReply:
        """Return the whole answer, without this key."""
        calls = [_clean(call, key) for _, call in sorted(self.calls.items())]
        return ChatReply(
            text="".join(self.texts),
            finish_reason=self.finish_reason,
            tool_calls=calls,
            reasoning=without(encodable("".join(self.reasoning)), key) or None,
            usage=_usage(self.usage),
        )


def _clean(value: Any, key: str | None) -> Any:
    """Return JSON whose texts can be written anywhere and are without this key."""
    if isinstance(value, dict):
        return {name: _clean(item, key) for name, item in value.items()}
    return without(encodable(value), key) if isinstance(value, str) else value


def _reply(choice: wire.Json, usage: wire.Json) -> ChatReply:
    message = wire.object_of(choice.get("message"))
    calls = wire.list_of(message.get("tool_calls"))
    return ChatReply(
        text=_content(message),
        finish_reason=wire.text_of(choice.get("finish_reason")),
        tool_calls=[call for call in calls if isinstance(call, dict)],
        reasoning=_reasoning(message) or None,
        usage=_usage(usage),
    )


def _usage(usage: wire.Json) -> Usage:
    return Usage(
        prompt_tokens=whole(usage.get("prompt_tokens")) or 0,
        completion_tokens=whole(usage.get("completion_tokens")) or 0,
    )


def _reasoning(message: wire.Json) -> str:
    """Return the reasoning of a message or of a piece of one: DeepSeek and vLLM call it
    ``reasoning_content``, OpenRouter ``reasoning``."""
    found = (message.get(key) for key in ("reasoning_content", "reasoning"))
    return next((text for text in found if isinstance(text, str) and text), "")


def _content(message: wire.Json) -> str:
    """Return the text of a message or of a piece of one; some hosts send a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = (wire.object_of(part).get("text") for part in wire.list_of(content))
    return "".join(part for part in parts if isinstance(part, str))
