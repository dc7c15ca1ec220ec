"""What a chat with a model gives: a whole answer, or one in pieces."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

from pydantic import Field

from finetune_gateway.errors import AuthenticationError, GatewayError, SpecError, shown
from finetune_gateway.model import Given

# One of many: ``messages``, and ``tools`` if it has some, as in a row of data without its answer.
Conversation = Mapping[str, Any]


class Usage(Given):
    """Tokens of one answer, as the backend counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatReply(Given):
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


@runtime_checkable
class ChatModel(Protocol):
    """A model that answers. ``messages`` is OpenAI's list of role and content.

    ``stream`` yields the text alone; a generator may return the whole ChatReply at its end.
    """

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply: ...

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]: ...


@runtime_checkable
class ChatsMany(Protocol):
    """A ChatModel that answers many conversations at once, each as ``chat`` would.

    One that gets no answer has the error why not in its place: the others are answered. What is
    wrong with all of them is raised. ``sampling``: as for ``chat``, but without ``tools``.
    """

    def chat_many(
        self, conversations: Sequence[Conversation], **sampling: Any
    ) -> list[ChatReply | GatewayError]: ...


@runtime_checkable
class Completes(Protocol):
    """A ChatModel that goes on with texts too, as a base model does, without a chat template."""

    def complete(self, text: str, **sampling: Any) -> ChatReply: ...

    def stream_completion(self, text: str, **sampling: Any) -> Iterator[str]: ...


@runtime_checkable
class TellsLosses(Protocol):
    """A ChatModel that tells how unlikely it finds given answers."""

    def reference_losses(self, rows: Sequence[Mapping[str, Any]]) -> list[float | GatewayError]:
        """Return for each row, ``{"messages", "reference", "tools"}``, the mean negative
        log-likelihood of its reference, in nats per trained token, or the error why there is
        none."""
        ...


@runtime_checkable
class Merges(Protocol):
    """An adapter on this machine that can be merged into its base."""

    def merge(
        self,
        folder: Path,
        others: Sequence[tuple[Any, float]],
        weight: float,
        dtype: str | None,
        document: Callable[[Path], object],
        report: Callable[[str], None],
    ) -> dict[str, Any]:
        """Write the merged model to a folder, whole or not at all, and return its manifest.

        ``others``: models of the same kind that are added, and how much of each. ``document``:
        called with the folder before it is at its place."""
        ...


@runtime_checkable
class GivesScores(Protocol):
    """A reward model: it scores answers."""

    def scores(self, conversations: Sequence[Conversation]) -> list[float | GatewayError]:
        """Return the score of the last answer of each conversation, or the error why there is
        none."""
        ...


def chat_many(
    model: ChatModel, conversations: Sequence[Conversation], **sampling: Any
) -> list[ChatReply | GatewayError]:
    """Return the answer to each conversation, or the error why there is none; at once, where the
    model can. An error of the key is raised: it is no matter of one row."""
    if isinstance(model, ChatsMany):
        return model.chat_many(conversations, **sampling)
    replies: list[ChatReply | GatewayError] = []
    for conversation in conversations:
        messages, tools = parts_of(conversation)
        given = {**sampling, "tools": tools} if tools else sampling
        began = time.perf_counter()
        try:
            reply = model.chat(messages, **given)
        except AuthenticationError:
            raise
        except GatewayError as exc:
            replies.append(exc)
            continue
        replies.append(reply.model_copy(update={"seconds": time.perf_counter() - began}))
    return replies


def parts_of(conversation: Conversation) -> tuple[list[dict[str, Any]], list[Any] | None]:
    """Return the messages and the tools of one of many. Raises SpecError for anything else."""
    like = 'Give each as {"messages": [...], "tools": [...]}.'
    if not isinstance(conversation, Mapping):
        raise SpecError(f"{shown(conversation)} is no conversation.", hint=like)
    unknown = sorted(map(str, conversation.keys() - {"messages", "tools"}))
    messages, tools = conversation.get("messages"), conversation.get("tools") or None
    if unknown or not isinstance(messages, list):
        wrong = f"has {', '.join(unknown)}" if unknown else "has no list of messages"
        raise SpecError(f"A conversation {wrong}.", hint=like)
    if tools is not None and not _are_objects(tools):
        raise SpecError(f"tools is a list of tools, not {shown(tools)}.", hint=like)
    return messages, tools


def check_messages(messages: Any) -> None:
    """Raise SpecError for what is no list of messages, with the message and the field."""
    if not isinstance(messages, list):
        raise SpecError(
            f"A conversation is a text or a list of messages, not {shown(messages)}.", hint=_LIKE
        )
    for number, message in enumerate(messages):
        if wrong := _wrong_with(message):
            raise SpecError(f"messages[{number}]{wrong}.", hint=_LIKE)


def require_sampling(sampling: Mapping[str, Any]) -> None:
    """Raise SpecError for an option of a chat that no JSON has."""
    for name, value in sampling.items():
        require_json(value, name)


def require_json(value: Any, name: str) -> None:
    """Raise SpecError for what is no JSON: NaN, infinity, bytes, an object. Nothing else can be
    sent to a host."""
    try:
        json.dumps(value, allow_nan=False, default=_object)
    except (TypeError, ValueError, RecursionError):
        raise SpecError(
            f"{name} cannot be {shown(value)}: it is sent as JSON.",
            hint="JSON has no NaN, no infinity, no bytes and no other objects of Python.",
        ) from None


def _object(value: Any) -> dict[Any, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def require_encodable(text: str, name: str) -> None:
    """Raise SpecError for a text with half of a surrogate pair, which no tokenizer and no host
    reads."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise SpecError(
            f"{name} holds half of a character, {ascii(text[exc.start])}, so it is no text.",
            hint="It was cut within a character, or read with another encoding: read it again.",
        ) from None


_LIKE = 'Like [{"role": "user", "content": "Where is my parcel?"}].'


def _wrong_with(message: Any) -> str:
    """Return what a message cannot have, in words; empty for one that can be sent."""
    if not isinstance(message, Mapping):
        return f" is no message: {shown(message)}"
    content, calls = message.get("content"), message.get("tool_calls")
    if not isinstance(message.get("role"), str):
        return f".role is {shown(message.get('role'))}, no name of a role"
    if not (content is None or isinstance(content, str) or _are_objects(content)):
        return f".content is {shown(content)}: neither a text nor a list of parts"
    if calls is not None and not _are_objects(calls):
        return f".tool_calls is no list of calls: {shown(calls)}"
    require_json(message, "A message")
    require_encodable(json.dumps(message, ensure_ascii=False, default=_object), "A message")
    return ""


def _are_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, Mapping) for one in value)
