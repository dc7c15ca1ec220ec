"""Chat with a model behind OpenAI's contract."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol

import openai

from finetune_gateway.backend import ChatReply, Usage
from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.gathering import Gathered, content_of, reasoning_of
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.chat import require_sampling
from finetune_gateway.errors import BackendError, SpecError, raise_alone
from finetune_gateway.text.cleaning import clean, encodable, visible, whole
from finetune_gateway.text.redaction import Stream, without, without_in

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
        gathered, half = Gathered(), ""
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
                    piece = half + gathered.add(choice)
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
        return _whole(gathered, key)

    @property
    def _what(self) -> str:
        return f"chat with {self.model!r}"


def _passed(sampling: dict[str, Any]) -> dict[str, Any]:
    taken = [name for name in OURS if name in sampling]
    if taken:
        raise SpecError(f"{taken[0]!r} is not a sampling option.", hint="The handle sets it.")
    require_sampling(sampling)
    return {name: value for name, value in sampling.items() if value is not None}


def _choices(chunks: Iterable[object], call: wire.Call, gathered: Gathered) -> Iterator[wire.Json]:
    """Yield the pieces of the answer as they come. Raises BackendError if a chunk is no JSON."""
    try:
        for chunk in chunks:
            yield from gathered.choices(chunk)
    except (ValueError, RecursionError):
        raise_alone(wire.undecodable(call))


def _whole(gathered: Gathered, key: str | None) -> ChatReply:
    """Return the whole answer, without this key."""
    return ChatReply(
        text="".join(gathered.texts),
        finish_reason=gathered.finish_reason,
        tool_calls=[without_in(clean(call), key) for call in gathered.tool_calls],
        reasoning=without(encodable("".join(gathered.reasoning)), key) or None,
        usage=_usage(gathered.usage),
    )


def _reply(choice: wire.Json, usage: wire.Json) -> ChatReply:
    message = wire.object_of(choice.get("message"))
    calls = wire.list_of(message.get("tool_calls"))
    return ChatReply(
        text=content_of(message),
        finish_reason=wire.text_of(choice.get("finish_reason")),
        tool_calls=[call for call in calls if isinstance(call, dict)],
        reasoning=reasoning_of(message) or None,
        usage=_usage(usage),
    )


def _usage(usage: wire.Json) -> Usage:
    return Usage(
        prompt_tokens=whole(usage.get("prompt_tokens")) or 0,
        completion_tokens=whole(usage.get("completion_tokens")) or 0,
    )
