"""Chat with a model behind OpenAI's contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from finetune_gateway.backend import ChatReply, Usage
from finetune_gateway.backends.openai import wire
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import BackendError, SpecError

if TYPE_CHECKING:
    from openai import OpenAI

OURS = ("model", "messages", "stream")  # set by the handle, never by ``sampling``


class Host(Protocol):
    """The part of an OpenAIBackend that is used here."""

    @property
    def name(self) -> str: ...

    def calling(self, what: str) -> AbstractContextManager[tuple[OpenAI, wire.Call]]: ...


class OpenAIChat:
    """One hosted model. ``sampling`` is passed on unchanged, tools included."""

    def __init__(self, backend: Host, model: str) -> None:
        self.backend = backend
        self.model = model

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        """Return one whole answer. Raises BackendError; 404 while a new model is starting."""
        with self.backend.calling(self._what) as (client, call):
            answer = retried(
                client.chat.completions.create,
                model=self.model,
                messages=messages,
                extra_body=_passed(sampling),
            )
            choices = (wire.plain(answer) or {}).get("choices")
            if not isinstance(choices, list) or not choices:
                raise wire.undecodable(call)
            return _reply(choices[0], (wire.plain(answer) or {}).get("usage"))

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        """Yield one answer in pieces. Raises BackendError if it breaks off."""
        finished = False
        with self.backend.calling(self._what) as (client, call):
            sent: Any = messages  # the SDK has a class per role; the wire has these dicts
            chunks = retried(
                lambda: client.chat.completions.create(
                    model=self.model, messages=sent, stream=True, extra_body=_passed(sampling)
                )
            )
            with chunks:
                for chunk in chunks:
                    for choice in (wire.plain(chunk) or {}).get("choices") or []:
                        finished = finished or bool(choice.get("finish_reason"))
                        piece = (choice.get("delta") or {}).get("content")
                        if piece:
                            yield str(piece)
        if not finished:
            raise BackendError(
                f"The answer of {self.model!r} broke off.",
                hint="Ask again.",
                backend=self.backend.name,
                retryable=True,
            )

    @property
    def _what(self) -> str:
        return f"chat with {self.model!r}"


def _passed(sampling: dict[str, Any]) -> dict[str, Any]:
    taken = [name for name in OURS if name in sampling]
    if taken:
        raise SpecError(f"{taken[0]!r} is not a sampling option.", hint="The handle sets it.")
    return {name: value for name, value in sampling.items() if value is not None}


def _reply(choice: dict[str, Any], usage: Any) -> ChatReply:
    message = choice.get("message") or {}
    counted = usage if isinstance(usage, dict) else {}
    return ChatReply(
        text=message.get("content") or "",
        finish_reason=choice.get("finish_reason"),
        tool_calls=message.get("tool_calls") or [],
        usage=Usage(
            prompt_tokens=counted.get("prompt_tokens") or 0,
            completion_tokens=counted.get("completion_tokens") or 0,
        ),
    )
