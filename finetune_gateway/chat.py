"""What a chat with a model gives: a whole answer, or one in pieces."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any, Protocol, Self

from pydantic import Field

from finetune_gateway.model import Model


class Usage(Model):
    """Tokens of one answer, as the backend counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatReply(Model):
    """One answer."""

    text: str  # without calls and reasoning
    finish_reason: str | None = None  # stop | length | tool_calls | content_filter
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)  # as in OpenAI's messages
    reasoning: str | None = None
    note: str | None = None  # what of the answer could not be read
    usage: Usage = Field(default_factory=Usage)
    seconds: float = 0.0  # from the request to the whole answer

    @property
    def calls_text(self) -> str:
        """Return the calls as people read them, one a line: ``find({"id": "A-1"})``."""
        functions = [call.get("function") or {} for call in self.tool_calls]
        return "\n".join(f"{one.get('name')}({one.get('arguments')})" for one in functions)

    @property
    def said(self) -> str:
        """Return what the model says: its text and its calls, else its reasoning."""
        parts = [part for part in (self.text, self.calls_text) if part]
        return "\n".join(parts) or self.reasoning or ""


class ChatStream:
    """An answer in pieces: iterating yields its text. ``reply`` is the whole answer, with its calls
    and reasoning, once the pieces have ended."""

    def __init__(self, pieces: Iterator[str]) -> None:
        """``pieces``: of the text. A generator may return the whole ChatReply; otherwise the text
        is all of it."""
        self._pieces = pieces
        self._received: list[str] = []
        self.reply: ChatReply | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        try:
            piece = next(self._pieces)
        except StopIteration as end:
            if self.reply is None:
                whole = end.value if isinstance(end.value, ChatReply) else None
                self.reply = whole or ChatReply(text="".join(self._received))
            raise
        self._received.append(piece)
        return piece

    def close(self) -> None:
        """End the answer: nobody reads the rest, so it is not generated."""
        if isinstance(self._pieces, Generator):
            self._pieces.close()


class ChatModel(Protocol):
    """A model that answers. ``messages`` is OpenAI's list of role and content.

    ``stream`` yields the text alone; a generator may return the whole ChatReply at its end.
    """

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply: ...

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]: ...
