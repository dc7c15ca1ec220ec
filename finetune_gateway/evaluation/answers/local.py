"""Asks the models of this machine: one in memory at a time, most rows in batches, and first some
one by one, to learn how long an answer takes and how soon it begins. And those of plug-ins: some
requests at once where they are at a host, else one by one."""

from __future__ import annotations

import gc
import json
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from itertools import groupby, islice
from typing import Any, Protocol

from finetune_gateway.backend.seam import begin
from finetune_gateway.chat import ChatReply
from finetune_gateway.errors import AuthenticationError, GatewayError
from finetune_gateway.evaluation.answers.planning import Target
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.text.redaction import redact

Json = dict[str, Any]
TIMED = 8  # rows that are asked one by one
BATCH = 8
# Of a request, what the templates of this machine have no place for: it is for hosts alone.
HOSTS_ALONE = ("parallel_tool_calls",)


class Log(Protocol):
    """What hears of each request before it is sent, and of each end: ``Lines``, or ``Unkept``."""

    def sent(self, key: str, attempt: int, usd: Decimal | None) -> None: ...

    def answered(self, key: str, attempt: int, usd: Decimal | None, answer: Json) -> None: ...

    def failed(self, key: str, attempt: int, usd: Decimal | None, error: GatewayError) -> None: ...

    def sync(self) -> None: ...


@dataclass
class Unkept:
    """The answers of a model whose content cannot be told: for this call alone."""

    answers: dict[str, Json] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)

    def sent(self, key: str, attempt: int, usd: Decimal | None) -> None:
        """Do nothing: no other process goes on with it."""

    def answered(self, key: str, attempt: int, usd: Decimal | None, answer: Json) -> None:
        """Keep an answer."""
        self.answers[key] = {"id": key, "usd": None, **answer}

    def failed(self, key: str, attempt: int, usd: Decimal | None, error: GatewayError) -> None:
        """Keep an error."""
        self.errors[key] = error.message

    def sync(self) -> None:
        """Do nothing: nothing is on a disk."""


_last: list[weakref.ref[ModelHandle]] = []  # the one that is in memory


@dataclass
class Here:
    """Asks one model of this machine, of a plug-in, or an object of the user's. ``on_end``: called
    with the model of each request that has ended. ``at_once``: requests on their way to a host."""

    target: Target
    log: Log
    on_end: Callable[[EvaluatedModel], object]
    at_once: int
    asked: int = 0

    def ask(self, timed: Mapping[str, int]) -> None:
        """Ask what is left. ``timed``: rows that were timed by an earlier call, by the name of the
        model. Raises GatewayError for a model that cannot be used at all."""
        left = self.target.left
        handle = self.target.model.handle
        if self.target.model.at_plugin:
            self._together(left, min(self.at_once, self.target.model.chats_at_once or self.at_once))
            return
        if self.target.model.kind != "local" or handle is None:
            for key in left:
                self._one(key, self._chat)
            return
        load(handle)
        if first := self._to_time(timed):
            _warm_up(handle)
        for key in first:
            self._one(key, self._stream)
        others = [key for key in left if key not in {*first}]
        rest = sorted(others, key=lambda key: (self._options(key), self._length(key)))
        for _, keys in groupby(rest, self._options):
            every = [*keys]
            for at in range(0, len(every), BATCH):
                self._batch(handle, every[at : at + BATCH])

    def _to_time(self, timed: Mapping[str, int]) -> list[str]:
        """Return the requests that are asked one by one: the first ones of each name, since a base
        with examples reads longer prompts than without."""
        names = [model.key for model in self.target.models]
        first = [self.target.left_of(name)[: max(0, TIMED - timed.get(name, 0))] for name in names]
        return [key for keys in first for key in keys]

    def _length(self, key: str) -> int:
        return len(json.dumps(self.target.prompts[key].asked))

    def _options(self, key: str) -> str:
        """Return what all rows of a batch must have in common: samples have seeds of their own."""
        return json.dumps(self._parts(key)[1], sort_keys=True)

    def _one(self, key: str, ask: Callable[[str], Json]) -> None:
        """Ask one row; what the model cannot answer is an error of that row."""
        self._sent([key])
        self._end(key, self._tried(key, ask))
        self.log.sync()

    def _together(self, keys: Sequence[str], most: int) -> None:
        """Ask a host ``most`` rows at a time, each in a thread; this one alone writes the lines.
        What ends the model is raised once those on their way have ended."""
        left, on_the_way = iter(keys), dict[Future[Json | GatewayError], str]()
        refused: AuthenticationError | None = None
        while True:
            for key in islice(left, 0 if refused else most - len(on_the_way)):
                self._sent([key])
                on_the_way[begin(partial(self._tried, key, self._chat))] = key
            if not on_the_way:
                break
            for done in wait(on_the_way, return_when=FIRST_COMPLETED).done:
                key = on_the_way.pop(done)
                try:
                    self._end(key, done.result())
                except AuthenticationError as exc:
                    refused = exc
            self.log.sync()
        if refused is not None:
            raise refused

    def _tried(self, key: str, ask: Callable[[str], Json]) -> Json | GatewayError:
        try:
            return ask(key)
        except AuthenticationError:  # no matter of one row
            raise
        except Exception as exc:
            return as_error(exc)

    def _chat(self, key: str) -> Json:
        model = self.target.model
        body, began = self._body(key), time.perf_counter()
        if model.handle is not None:
            reply: object = model.handle.chat(body.pop("messages"), system="", **body)
        else:
            reply = model.answers_to.chat(body.pop("messages"), **body)
        return answer_fields(reply, time.perf_counter() - began)

    def _stream(self, key: str) -> Json:
        """Ask one row, and take the time to the first piece of its text and to its end."""
        body, first = self._body(key), None
        handle = self.target.model.handle
        assert handle is not None  # for the type checker
        began = time.perf_counter()
        stream = handle.stream(body.pop("messages"), system="", **body)
        for piece in stream:
            if piece and first is None:
                first = round(time.perf_counter() - began, 4)
        answer = answer_fields(stream.reply, time.perf_counter() - began)
        return {**answer, "first_seconds": first}

    def _batch(self, handle: ModelHandle, keys: Sequence[str]) -> None:
        """Ask some rows at once."""
        self._sent(keys)
        rows = [self._parts(key)[0] for key in keys]
        replies: Sequence[object]
        try:
            replies = handle.chat_many(rows, system="", **self._parts(keys[0])[1])
        except GatewayError as exc:  # of all of them, such as an option
            replies = [exc] * len(keys)
        except Exception:  # such as too little memory for so many
            replies = [self._tried(key, self._chat) for key in keys]
        for key, reply in zip(keys, replies, strict=True):
            done = isinstance(reply, GatewayError | dict)
            self._end(key, reply if done else answer_fields(reply, None))
        self.log.sync()

    def _parts(self, key: str) -> tuple[Json, Json]:
        """Return the conversation of a request, and its options."""
        body = self._body(key)
        return {name: body.pop(name) for name in ("messages", "tools") if name in body}, body

    def _body(self, key: str) -> Json:
        body = self.target.questions[key].body
        return {name: value for name, value in body.items() if name not in HOSTS_ALONE}

    def _sent(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.log.sent(key, 1, None)
        self.log.sync()
        self.asked += len(keys)

    def _end(self, key: str, end: object) -> None:
        if isinstance(end, GatewayError):
            self.log.failed(key, 1, None, end)
        elif isinstance(end, dict):
            self.log.answered(key, 1, None, end)
        self.on_end(self.target.model)


def as_error(exc: Exception) -> GatewayError:
    """Return why a model did not answer, as ours: whatever it raises is no error of the run."""
    if isinstance(exc, GatewayError):
        return exc
    return GatewayError(redact(f"{type(exc).__name__}: {exc}"))


def load(handle: ModelHandle) -> None:
    """Let go of the model that was asked before, then get ready."""
    for other in (known() for known in _last):
        if other is not None and other is not handle:
            other.release()
            gc.collect()
    _last[:] = [weakref.ref(handle)]
    handle.connect()


def _warm_up(handle: ModelHandle) -> None:
    """Read the weights, and answer once: neither belongs to the seconds of a row."""
    with suppress(GatewayError):  # the rows will show it
        handle.chat("Hello", system="", max_tokens=1)


def answer_fields(reply: object, seconds: float | None) -> Json:
    """Return what is kept of an answer of this machine, in the form of a host's. Raises
    GatewayError for what is no answer."""
    if isinstance(reply, str):
        reply = ChatReply(text=reply)
    if not isinstance(reply, ChatReply):
        raise GatewayError(
            f"It answers with {type(reply).__name__}, not with a ChatReply or a text."
        )
    message: Json = {"role": "assistant", "content": reply.text or None}
    if not reply.tool_calls:
        message["content"] = reply.text
    else:
        message["tool_calls"] = reply.tool_calls
    if reply.reasoning:
        message["reasoning_content"] = reply.reasoning
    usage = {name: count for name, count in reply.usage.model_dump().items() if count}
    return {
        "message": message,
        "finish_reason": reply.finish_reason,
        "usage": usage,
        "note": reply.note,
        "seconds": None if seconds is None else round(seconds, 4),
    }
