"""A handle as a client of OpenAI's SDK: requests of ``openai.OpenAI`` are answered by ``chat`` and
``stream`` of the handle, in this process. Nothing listens on a socket, and no key is needed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol
from uuid import uuid4

import httpx2
import openai

from finetune_gateway.chat import ChatReply, ChatStream
from finetune_gateway.errors import (
    AuthenticationError,
    BackendError,
    DataError,
    GatewayError,
    NotFoundError,
    SpecError,
    UnsupportedError,
    shown,
)
from finetune_gateway.text.redaction import redact

Json = dict[str, Any]

ADDRESS = "http://handle.invalid/v1"  # of no host: RFC 6761 keeps this name free
_CHAT, _MODELS = "/v1/chat/completions", "/v1/models"
# Values of OpenAI's parameters that say what holds without them.
_DEFAULTS: Json = {
    "n": 1,
    "logprobs": False,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "response_format": {"type": "text"},
    "tool_choice": "auto",
    "parallel_tool_calls": True,
    "store": False,
}
_LOST = ("n", "logprobs", "top_logprobs", "modalities", "audio")  # more than a ChatReply has


class Model(Protocol):
    """The part of a ModelHandle that is used here."""

    @property
    def model(self) -> str: ...

    @property
    def kind(self) -> str: ...

    @property
    def job_id(self) -> str | None: ...


class Handle(Model, Protocol):
    """A handle that answers at once."""

    def chat(self, messages: list[Json], **sampling: Any) -> ChatReply: ...

    def stream(self, messages: list[Json], **sampling: Any) -> ChatStream: ...


def client(handle: Handle) -> openai.OpenAI:
    """Return a client whose ``chat.completions.create`` this handle answers."""
    http = httpx2.Client(transport=_Transport(handle))
    # Nothing is asked again: a handle has retries of its own where a host answers.
    return openai.OpenAI(api_key="none", base_url=ADDRESS, http_client=http, max_retries=0)


class _Transport(httpx2.BaseTransport):
    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            asked = read(self._handle, request.method, request.url.path, request.read())
            if isinstance(asked, dict):
                return httpx2.Response(200, json=asked)
            if not asked.streamed:
                reply = self._handle.chat(asked.messages, **asked.sampling)
                return httpx2.Response(200, json=asked.completion(reply))
            return self._stream(asked)
        except Exception as exc:  # the SDK would call it a connection error
            return refusal(exc)

    def _stream(self, asked: Question) -> httpx2.Response:
        stream = self._handle.stream(asked.messages, **asked.sampling)
        first = next(stream, None)  # what is wrong is said now, with a status
        pieces = chain([] if first is None else [first], stream)
        return httpx2.Response(200, headers=EVENTS, stream=_Events(asked, pieces, stream))


EVENTS = {"content-type": "text/event-stream"}


class _Events(httpx2.SyncByteStream):
    """The answer in pieces, as server-sent events."""

    def __init__(self, asked: Question, pieces: Iterator[str], stream: ChatStream) -> None:
        self._stream = stream
        self._events = self._written(asked, pieces)

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def _written(self, asked: Question, pieces: Iterator[str]) -> Generator[bytes]:
        yield asked.begin()
        try:
            for piece in pieces:
                yield asked.piece(piece)
        except Exception as exc:  # the status is sent
            yield event({"error": error_of(exc)})
            return
        assert self._stream.reply is not None  # for the type checker: the pieces have ended
        yield from asked.end(self._stream.reply)

    def close(self) -> None:
        self._events.close()
        self._stream.close()


# -- requests --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """What a request asks a handle, and how the answer is written."""

    model: str
    messages: list[Json]
    sampling: Json
    streamed: bool
    with_usage: bool  # of a stream
    id: str
    created: int

    def completion(self, reply: ChatReply) -> Json:
        """Return a whole answer."""
        beside = _beside(reply)
        text = reply.text or (None if reply.tool_calls else "")
        message = {"role": "assistant", "content": text, **beside}
        choice = {"index": 0, "message": message, "finish_reason": reply.finish_reason or "stop"}
        about = self._about("chat.completion")
        return {**about, "choices": [choice], "usage": _usage(reply)}

    def begin(self) -> bytes:
        """Return the event before an answer in pieces."""
        return self._chunk({"role": "assistant", "content": ""})

    def piece(self, text: str) -> bytes:
        """Return the event of a piece."""
        return self._chunk({"content": text})

    def end(self, reply: ChatReply) -> Iterator[bytes]:
        """Yield the events after the last piece."""
        beside = _beside(reply)
        for index, call in enumerate(beside.get("tool_calls", ())):
            beside["tool_calls"][index] = {"index": index, **call}
        if beside:
            yield self._chunk(beside)
        yield self._chunk({}, reply.finish_reason or "stop")
        if self.with_usage:
            about = self._about("chat.completion.chunk")
            yield event({**about, "choices": [], "usage": _usage(reply)})
        yield b"data: [DONE]\n\n"

    def _chunk(self, delta: Json, finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish}
        return event({**self._about("chat.completion.chunk"), "choices": [choice]})

    def _about(self, kind: str) -> Json:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def read(handle: Model, method: str, path: str, body: bytes) -> Question | Json:
    """Return what a request asks of a handle, or the answer, where that needs no model. Raises
    NotFoundError for another path or model, SpecError for what cannot be honoured."""
    if (method, path) == ("GET", _MODELS):
        return {"object": "list", "data": [_model(handle)]}
    if (method, path) != ("POST", _CHAT):
        raise NotFoundError(
            f"This client has no {method} {path}.", hint="It has: client.chat.completions.create"
        )
    given = json.loads(body)
    model, messages = given.pop("model", None), given.pop("messages", None)
    if model not in (handle.model, handle.job_id):
        raise NotFoundError(
            f"This client asks one model, not {shown(model)}.", hint="Give model=handle.model."
        )
    if not isinstance(messages, list):
        raise SpecError(f"messages is a list, not {shown(messages)}.")
    streamed = bool(given.pop("stream", False))
    options = given.pop("stream_options", None) or {}
    if options and not streamed:
        raise SpecError("stream_options is for streams.", hint="Give stream=True, or leave it out.")
    return Question(
        model=handle.model,
        messages=messages,
        sampling=_sampling(given, here=handle.kind != "hosted"),
        streamed=streamed,
        with_usage=bool(options.get("include_usage")),
        id=f"chatcmpl-{uuid4().hex}",
        created=int(time.time()),
    )


def _model(handle: Model) -> Json:
    return {"id": handle.model, "object": "model", "created": 0, "owned_by": "finetune-gateway"}


def _sampling(given: Json, *, here: bool) -> Json:
    """Return the sampling options of ``chat``. ``here``: of a model on this machine, which refuses
    what it does not know; a host gets it all."""
    for name in _LOST:
        if given.get(name) not in (None, _DEFAULTS.get(name)):
            raise SpecError(
                f"This client cannot honour {name}={shown(given[name])}.", hint=f"Leave {name} out."
            )
    if not here:
        return given
    chosen = {
        name: value
        for name, value in given.items()
        if value is not None and value != _DEFAULTS.get(name, _NONE)
    }
    if "max_completion_tokens" in chosen:
        chosen["max_tokens"] = chosen.pop("max_completion_tokens")
    if chosen.get("tool_choice") == "none":
        del chosen["tool_choice"]
        chosen.pop("tools", None)
    return chosen


_NONE = object()


# -- answers ---------------------------------------------------------------------------------


def _beside(reply: ChatReply) -> Json:
    """Return what an answer has beside its text."""
    found: Json = {}
    if reply.tool_calls:
        found["tool_calls"] = [
            {"type": "function", "id": f"call_{uuid4().hex[:24]}", **call}
            for call in reply.tool_calls
        ]
    if reply.reasoning:
        found["reasoning_content"] = reply.reasoning
    return found


def _usage(reply: ChatReply) -> Json:
    usage = reply.usage.model_dump()
    return {**usage, "total_tokens": reply.usage.prompt_tokens + reply.usage.completion_tokens}


def event(data: Mapping[str, Any]) -> bytes:
    """Return a server-sent event."""
    return f"data: {json.dumps(data)}\n\n".encode()


def refusal(exc: Exception) -> httpx2.Response:
    """Return the response that the SDK raises as its own error."""
    return httpx2.Response(_status(exc), json={"error": error_of(exc)})


def error_of(exc: Exception) -> Json:
    """Return an error as OpenAI's API words it."""
    kind = "invalid_request_error" if _status(exc) < 500 else "server_error"
    code = exc.code if isinstance(exc, BackendError) else None
    said = str(exc) if isinstance(exc, GatewayError) else redact(f"{type(exc).__name__}: {exc}")
    return {"message": said, "type": kind, "param": None, "code": code}


def _status(exc: Exception) -> int:
    if isinstance(exc, BackendError) and exc.status_code is not None:
        return max(400, exc.status_code)
    statuses = {AuthenticationError: 401, NotFoundError: 404, BackendError: 502}
    statuses |= dict.fromkeys((SpecError, DataError, UnsupportedError), 400)
    return next((code for kind, code in statuses.items() if isinstance(exc, kind)), 500)
