"""Puts together an answer that comes in pieces: text, refusal, reasoning, calls, usage, and why it
ended."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.backends.openai import wire
from finetune_gateway.text.cleaning import whole

WORDS = frozenset({"role", "content"})  # of a piece that has nothing but text
HEAD = ("id", "created", "model", "system_fingerprint", "service_tier")  # of an answer


@dataclass
class Gathered:
    """What a stream has said so far. ``texts``: added by the caller, who may hold pieces back."""

    finished: bool = False
    finish_reason: str | None = None
    texts: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, wire.Json] = field(default_factory=dict)  # by their index
    function: wire.Json = field(default_factory=dict)  # a call of the older form
    usage: wire.Json = field(default_factory=dict)
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    head: wire.Json = field(default_factory=dict)

    def choices(self, chunk: object) -> Iterator[wire.Json]:
        """Yield the pieces of the first choice in a chunk, and keep what the chunk has beside."""
        body = wire.object_of(chunk)
        usage = body.get("usage")
        if usage or not self.head:  # every chunk has the same; the last one may have more
            self.usage = wire.object_of(usage) or self.usage
            self.head |= {name: body[name] for name in HEAD if body.get(name) is not None}
        for choice in wire.list_of(body.get("choices")):
            if isinstance(choice, dict) and not choice.get("index"):
                yield choice

    def add(self, choice: wire.Json) -> str:
        """Add a piece, and return its text, which is added by the caller."""
        if reason := choice.get("finish_reason"):
            self.finished = True
            self.finish_reason = wire.text_of(reason) or self.finish_reason
        for name, chances in wire.object_of(choice.get("logprobs")).items():
            self.logprobs.setdefault(name, []).extend(wire.list_of(chances))
        delta = wire.object_of(choice.get("delta"))
        if not delta.keys() <= WORDS:
            self._add_more(delta)
        return content_of(delta)

    def _add_more(self, delta: wire.Json) -> None:
        """Add what a piece has beside text: few have it."""
        if thought := reasoning_of(delta):
            self.reasoning.append(thought)
        refusal = delta.get("refusal")
        if isinstance(refusal, str) and refusal:
            self.refusals.append(refusal)
        for piece in map(wire.object_of, wire.list_of(delta.get("tool_calls"))):
            self._add_call(piece)
        _join(self.function, wire.object_of(delta.get("function_call")))

    @property
    def begun(self) -> bool:
        """True once it has said anything: a word, a refusal, a thought or a call."""
        more = self.refusals or self.reasoning or self.calls or self.function
        return bool(more) or any(self.texts)

    def _add_call(self, piece: wire.Json) -> None:
        index = whole(piece.get("index"))
        key = max(self.calls, default=0) if index is None else index
        call = self.calls.setdefault(key, {"id": "", "type": "function", "function": {}})
        call["id"] = wire.text_of(piece.get("id")) or call["id"]
        _join(call["function"], wire.object_of(piece.get("function")))

    @property
    def tool_calls(self) -> list[wire.Json]:
        """The calls, in their order."""
        return [call for _, call in sorted(self.calls.items())]

    def body(self) -> wire.Json:
        """Return the whole answer as a host gives it that does not stream."""
        message: wire.Json = {"role": "assistant", "content": "".join(self.texts) or None}
        if not (self.calls or self.function or self.refusals):
            message["content"] = "".join(self.texts)
        if self.refusals:
            message["refusal"] = "".join(self.refusals)
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["tool_calls"] = self.tool_calls
        if self.function:
            message["function_call"] = self.function
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        choice["logprobs"] = self.logprobs or None
        whole_body = {**self.head, "object": "chat.completion", "choices": [choice]}
        return {**whole_body, "usage": self.usage} if self.usage else whole_body


def _join(call: wire.Json, piece: wire.Json) -> None:
    """Add a piece of a call's name and arguments to what came before."""
    for name in ("name", "arguments"):
        part = piece.get(name)
        if isinstance(part, str):
            call[name] = call.get(name, "") + part


def reasoning_of(message: wire.Json) -> str:
    """Return the reasoning of a message or of a piece of one: DeepSeek and vLLM call it
    ``reasoning_content``, OpenRouter ``reasoning``."""
    found = (message.get(key) for key in ("reasoning_content", "reasoning"))
    return next((text for text in found if isinstance(text, str) and text), "")


def content_of(message: wire.Json) -> str:
    """Return the text of a message or of a piece of one; some hosts send a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = (wire.object_of(part).get("text") for part in wire.list_of(content))
    return "".join(part for part in parts if isinstance(part, str))
