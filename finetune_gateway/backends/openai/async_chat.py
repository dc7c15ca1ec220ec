"""Chat with one model from an event loop, for many prompts at once.

Sends each request once: who asks decides what is asked again, and counts what it may have cost. An
answer is read and cleaned as the synchronous client does, and kept whole: tool calls, usage,
log-probabilities, the fingerprint of the system. It comes whole, or streamed: then it is known when
its first piece came.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import httpx2
import openai
import pydantic_core

from finetune_gateway.backends.openai import bounds, clients, pacing, wire
from finetune_gateway.backends.openai.events import EventReader
from finetune_gateway.backends.openai.gathering import Gathered
from finetune_gateway.errors import BackendError, raise_alone
from finetune_gateway.text.cleaning import visible
from finetune_gateway.text.redaction import redact

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.backend import OpenAIBackend

PATH = "chat/completions"  # below the address of the host
TOKENS = 2048  # of an answer that is waited for as long as any other
ENDLESS = "endless"  # the code of an error for an answer that was cut off
# What asks for an answer in pieces, with the usage in the last of them.
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
UNTAKEN = (400, 422)  # statuses of a request that the host does not take as it is
DRAIN_SECONDS = 0.5


@dataclass(frozen=True)
class Answer:
    """A whole answer. ``body``: the JSON of the host, cleaned, with at least one choice.
    ``seconds``: from the request to its end. ``pause``: for how long the host says that nothing is
    left of a limit. ``first_seconds``: from the request to the first piece of a streamed answer."""

    body: wire.Json
    seconds: float
    pause: float = 0.0
    first_seconds: float | None = None

    @property
    def choice(self) -> wire.Json:
        """The first choice."""
        return wire.object_of(wire.list_of(self.body.get("choices"))[0])


@dataclass
class Session:
    """One model at one host, for one event loop. ``unstreamed``: the keys of a streamed request
    that the host has refused, which are not sent to it again. ``proven``: it has taken one."""

    backend: OpenAIBackend
    model: str
    client: bounds.AsyncClient
    call: wire.Call
    streamed: bool = False
    unstreamed: set[str] = field(default_factory=set)
    proven: bool = False

    async def ask(self, body: Mapping[str, object]) -> Answer:
        """Return the answer to one request. ``body``: messages, tools and parameters. Raises
        BackendError; ``maybe_applied`` says if it may have been answered, and billed."""
        doubted = False  # it was refused in words of which nobody knows what they mean
        while True:
            way = {} if doubted else self._way()
            try:
                answer = await self._ask({**body, **way})
            except openai.APIStatusError as exc:
                if refused := _refused(exc, way):
                    self.unstreamed.add(refused)
                    continue
                if way and not self.proven and exc.status_code in UNTAKEN:
                    doubted = True
                    continue
                error = wire.translate(exc, self.call)
                error.param = wire.text_of(redact(str(exc.param or ""), self.call.key))
            except wire.FAILURES as exc:
                error = wire.translate(exc, self.call)
                if isinstance(exc, bounds.Endless):
                    error.code = ENDLESS
            else:
                self.unstreamed |= {"stream"} if doubted else set()
                self.proven = self.proven or bool(way)
                return answer
            # Not chained: the exception holds the request, with the key in its headers.
            raise_alone(error)

    def _way(self) -> dict[str, object]:
        """Return what a request is sent with to be answered in pieces."""
        way = {name: value for name, value in STREAMED.items() if name not in self.unstreamed}
        return way if self.streamed and "stream" in way else {}

    async def _ask(self, body: Mapping[str, object]) -> Answer:
        began = time.perf_counter()
        sent = json.dumps({"model": self.model, **body}, ensure_ascii=False).encode()
        # Without the SDK, which takes longer for a request than all of this.
        async with self.client.posting(sent) as raw:
            pause = pacing.pause_of(raw.headers)
            if raw.is_success and _is_stream(raw):
                return await self._gather(raw, began, pause)
            whole = await bounds.read_whole(raw)
        if not whole.is_success:
            raise _status_error(whole)
        seconds = time.perf_counter() - began
        return Answer(read_chat(whole, self.call), seconds, pause)

    async def _gather(self, raw: httpx2.Response, began: float, pause: float) -> Answer:
        """Return a streamed answer, once it has ended. Raises BackendError if it breaks off before
        that: what the host says after the last word alone is missed by nobody."""
        gathered, first, read = Gathered(), None, EventReader()
        pieces = bounds.pieces(raw)
        try:
            async for piece in pieces:
                for data in read.events(piece):
                    self._add(data, gathered)
                if first is None and gathered.begun:
                    first = time.perf_counter() - began
                if read.done:
                    break
            if not read.done:
                for data in read.rest():
                    self._add(data, gathered)
        except httpx2.HTTPError:
            if not gathered.finished:
                raise
        seconds = time.perf_counter() - began
        if not gathered.finished:
            raise self._broken_off()
        await _drain(pieces)
        body = gathered.body()
        text = json.dumps(body, ensure_ascii=False).encode("utf-8", "replace")
        return Answer(wire.safe(body, text, self.call), seconds, pause, first)

    def _add(self, data: bytes, gathered: Gathered) -> None:
        try:
            chunk = pydantic_core.from_json(data)  # a fifth of the time of json
        except ValueError:
            chunk = wire.parsed(data, self.call)
        if isinstance(chunk, dict) and chunk.get("error"):
            said = wire.error_of(chunk) or "no reason"
            raise openai.APIError(said, self._request, body=chunk["error"])
        for choice in gathered.choices(chunk):
            gathered.texts.append(gathered.add(choice))

    @property
    def _request(self) -> httpx2.Request:
        return httpx2.Request("POST", self.client.url)

    def _broken_off(self) -> BackendError:
        return BackendError(
            f"The answer of {visible(self.model)!r} broke off.",
            hint="Ask again.",
            backend=self.backend.name,
            retryable=True,
            maybe_applied=True,
        )


def _is_stream(raw: httpx2.Response) -> bool:
    """Return True for an answer in pieces: a host may give a whole one all the same."""
    return "event-stream" in raw.headers.get("content-type", "")


def _refused(exc: openai.APIStatusError, way: Mapping[str, object]) -> str:
    """Return the key of a streamed request that a host refuses, the last of those that it names;
    empty if it refuses something else."""
    if exc.status_code not in UNTAKEN:
        return ""
    said = f"{exc.param or ''} {exc.message}"
    return next((name for name in reversed([*way]) if re.search(rf"\b{name}\b", said)), "")


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read to the end what comes after the last word, so that the connection can be used again; one
    that does not end soon is not."""
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for _ in pieces:
                pass


def _status_error(raw: httpx2.Response) -> openai.APIStatusError:
    """Return the SDK's error for a status that is none of success, as the SDK makes it."""
    try:
        said = json.loads(raw.content)
    except (ValueError, RecursionError):
        said = raw.text.strip()
    body = said.get("error", said) if isinstance(said, dict) else said
    return openai.APIStatusError(str(said or raw.status_code), response=raw, body=body)


def read_chat(raw: wire.Answer, call: wire.Call) -> wire.Json:
    """Return the body of a chat's answer. Raises BackendError if it has no choice in it."""
    body = wire.read(raw, call)
    choices = wire.list_of(body.get("choices"))
    if not choices or not _says_something(choices[0]):
        error = wire.undecodable(call, wire.error_of(body) or "")
        error.maybe_applied = True
        raise error
    return body


def _says_something(choice: object) -> bool:
    """Return True for a choice with a message, or whose message a filter has held back."""
    said = wire.object_of(choice)
    return isinstance(said.get("message"), dict) or said.get("finish_reason") == "content_filter"


@asynccontextmanager
async def session(
    backend: OpenAIBackend,
    model: str,
    connections: int,
    max_tokens: int = 0,
    *,
    streamed: bool = False,
) -> AsyncIterator[Session]:
    """Connect to a model; the connections are closed at the end. ``max_tokens``: of an answer,
    of which a long one may take longer than the backend's time-out.
    ``streamed``: ask for it in pieces.

    Raises AuthenticationError if there is no key for the host, BackendError for a proxy or a
    certificate that cannot be used.
    """
    seconds = backend.request_timeout * max(1.0, max_tokens / TOKENS)
    with backend.calling(f"chat with {model!r}", doubtful=True) as (sdk, call):
        try:
            client = clients.asynchronous(sdk, PATH, connections, seconds, backend.client_options)
        except wire.NOT_CONNECTABLE as exc:
            raise_alone(wire.not_connectable(exc, call))
    async with client:
        yield Session(backend, model, client, call, streamed)
