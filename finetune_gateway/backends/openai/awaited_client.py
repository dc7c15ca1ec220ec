"""A handle as a client of OpenAI's SDK, awaited."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Protocol, Self

import httpx2
import openai

from finetune_gateway.backends.openai.handle_client import (
    ADDRESS,
    EVENTS,
    Json,
    Model,
    Question,
    error_of,
    event,
    read,
    refusal,
)
from finetune_gateway.chat import ChatReply


class Stream(Protocol):
    """An answer in pieces, awaited."""

    @property
    def reply(self) -> ChatReply | None: ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> str: ...

    async def aclose(self) -> None: ...


class Handle(Protocol):
    """A handle that is awaited."""

    @property
    def blocking(self) -> Model: ...

    async def chat(self, messages: list[Json], **sampling: Any) -> ChatReply: ...

    def stream(self, messages: list[Json], **sampling: Any) -> Stream: ...


def client(handle: Handle) -> openai.AsyncOpenAI:
    """Return a client whose ``chat.completions.create`` this handle answers."""
    http = httpx2.AsyncClient(transport=_Transport(handle))
    return openai.AsyncOpenAI(api_key="none", base_url=ADDRESS, http_client=http, max_retries=0)


class _Transport(httpx2.AsyncBaseTransport):
    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            path, body = request.url.path, await request.aread()
            asked = read(self._handle.blocking, request.method, path, body)
            if isinstance(asked, dict):
                return httpx2.Response(200, json=asked)
            if not asked.streamed:
                reply = await self._handle.chat(asked.messages, **asked.sampling)
                return httpx2.Response(200, json=asked.completion(reply))
            return await self._stream(asked)
        except Exception as exc:  # the SDK would call it a connection error
            return refusal(exc)

    async def _stream(self, asked: Question) -> httpx2.Response:
        stream = self._handle.stream(asked.messages, **asked.sampling)
        first = await anext(stream, None)  # what is wrong is said now, with a status
        return httpx2.Response(200, headers=EVENTS, stream=_Events(asked, first, stream))


class _Events(httpx2.AsyncByteStream):
    """The answer in pieces, as server-sent events."""

    def __init__(self, asked: Question, first: str | None, stream: Stream) -> None:
        self._stream = stream
        self._events = self._written(asked, first)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._events

    async def _written(self, asked: Question, first: str | None) -> AsyncGenerator[bytes]:
        yield asked.begin()
        if first is not None:
            yield asked.piece(first)
        try:
            async for piece in self._stream:
                yield asked.piece(piece)
        except Exception as exc:  # the status is sent
            yield event({"error": error_of(exc)})
            return
        assert self._stream.reply is not None  # for the type checker: the pieces have ended
        for one in asked.end(self._stream.reply):
            yield one

    async def aclose(self) -> None:
        await self._stream.aclose()
        await self._events.aclose()
