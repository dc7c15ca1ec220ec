"""Chat with one model from an event loop, for many prompts at once.

Sends each request once: who asks decides what is asked again, and counts what it may have cost. An
answer is read and cleaned as the synchronous client does, and kept whole: tool calls, usage,
log-probabilities, the fingerprint of the system.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx2
import openai

from finetune_gateway.backends.openai import bounds, clients, pacing, wire
from finetune_gateway.text.redaction import redact

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.backend import OpenAIBackend

PATH = "chat/completions"  # below the address of the host
TOKENS = 2048  # of an answer that is waited for as long as any other
ENDLESS = "endless"  # the code of an error for an answer that was cut off


@dataclass(frozen=True)
class Answer:
    """A whole answer. ``body``: the JSON of the host, cleaned, with at least one choice.
    ``seconds``: from the request to its end. ``pause``: for how long the host says that nothing is
    left of a limit."""

    body: wire.Json
    seconds: float
    pause: float = 0.0

    @property
    def choice(self) -> wire.Json:
        """The first choice."""
        return wire.object_of(wire.list_of(self.body.get("choices"))[0])


@dataclass(frozen=True)
class Session:
    """One model at one host, for one event loop."""

    backend: OpenAIBackend
    model: str
    client: bounds.AsyncClient
    call: wire.Call

    async def ask(self, body: Mapping[str, object]) -> Answer:
        """Return the answer to one request. ``body``: messages, tools and parameters. Raises
        BackendError; ``maybe_applied`` says if it may have been answered, and billed."""
        began = time.perf_counter()
        sent = json.dumps({"model": self.model, **body}, ensure_ascii=False).encode()
        try:
            # Without the SDK, which takes longer for a request than all of this.
            raw = await self.client.post(PATH, content=sent)
            if not raw.is_success:
                raise _status_error(raw)
        except wire.FAILURES as exc:
            error = wire.translate(exc, self.call)
            if isinstance(exc, openai.APIStatusError):
                error.param = wire.text_of(redact(str(exc.param or ""), self.call.key))
            elif isinstance(exc, bounds.Endless):
                error.code = ENDLESS
            # Not chained: the exception holds the request, with the key in its headers.
            raise error from None
        seconds = time.perf_counter() - began
        return Answer(read_chat(raw, self.call), seconds, pacing.pause_of(raw.headers))


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
    if not choices or not isinstance(choices[0], dict):
        error = wire.undecodable(call, wire.error_of(body) or "")
        error.maybe_applied = True
        raise error
    return body


@asynccontextmanager
async def session(
    backend: OpenAIBackend, model: str, connections: int, max_tokens: int = 0
) -> AsyncIterator[Session]:
    """Connect to a model; the connections are closed at the end. ``max_tokens``: of an answer,
    which comes as a whole: a long one may take longer than the backend's time-out.

    Raises AuthenticationError if there is no key for the host, BackendError for a proxy or a
    certificate that cannot be used.
    """
    seconds = backend.request_timeout * max(1.0, max_tokens / TOKENS)
    with backend.calling(f"chat with {model!r}", doubtful=True) as (sdk, call):
        try:
            client = clients.asynchronous(sdk, connections, seconds)
        except wire.NOT_CONNECTABLE as exc:
            raise wire.not_connectable(exc, call) from None
    async with client:
        yield Session(backend, model, client, call)
