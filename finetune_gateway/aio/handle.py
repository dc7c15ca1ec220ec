"""A model that answers, awaited."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Self

from finetune_gateway.aio.calls import Calls, Face, awaited
from finetune_gateway.chat import ChatReply, Conversation
from finetune_gateway.chat import ChatStream as BlockingStream
from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs.handle import ModelHandle as BlockingHandle


class ChatStream:
    """An answer in pieces, as they come: ``async for piece in stream``. ``reply`` is the whole
    answer once they have ended. Nothing is asked before the first piece is."""

    def __init__(self, begin: Callable[[], BlockingStream], calls: Calls) -> None:
        """``begin``: asks the model, called in a thread."""
        self._begin = begin
        self._calls = calls
        self._stream: BlockingStream | None = None
        self._ended = False
        self._in_use = threading.Lock()  # by a thread: one piece at a time

    @property
    def reply(self) -> ChatReply | None:
        return None if self._stream is None else self._stream.reply

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        try:
            piece = await self._calls.ask(self._next)
        except BaseException:  # cancelled, or there is no answer
            await self.aclose()
            raise
        if piece is None:
            raise StopAsyncIteration
        return piece

    async def aclose(self) -> None:
        """End the answer: nobody reads the rest, so it is not generated."""
        if not self._ended:
            self._ended = True
            self._calls.begin(self._close)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _next(self) -> str | None:
        with self._in_use:
            if self._ended:
                return None
            if self._stream is None:
                self._stream = self._begin()
            return next(self._stream, None)

    def _close(self) -> None:
        with self._in_use:  # once the piece that is being read is there
            if self._stream is not None:
                self._stream.close()


class ModelHandle(Face[BlockingHandle]):
    """A fine-tuned model: ``finetune_gateway.ModelHandle``, awaited. All else that is known of it
    is in ``blocking``.

    >>> (await model.chat("Where is my parcel?")).text
    >>> async for piece in model.stream("Where is my parcel?"):
    ...     print(piece, end="")
    """

    @property
    def model(self) -> str:
        """Its id at a host, or its folder."""
        return self.blocking.model

    @property
    def kind(self) -> str:
        return self.blocking.kind

    @property
    def backend(self) -> str:
        return self.blocking.backend

    @property
    def job_id(self) -> str | None:
        return self.blocking.job_id

    @property
    def ready(self) -> bool:
        """True once the model has answered a chat."""
        return self.blocking.ready

    @property
    def deploy(self) -> str | None:
        """The command that deploys it; None where it answers, or may."""
        return self.blocking.deploy

    async def chat(
        self, messages: str | list[dict[str, Any]], *, system: str | None = None, **sampling: Any
    ) -> ChatReply:
        """Return the answer to a prompt or a list of messages; arguments as of
        ``finetune_gateway.ModelHandle.chat``."""
        return await self._calls.ask(self.blocking.chat, messages, system=system, **sampling)

    def stream(
        self, messages: str | list[dict[str, Any]], *, system: str | None = None, **sampling: Any
    ) -> ChatStream:
        """Return the answer in pieces; arguments as for ``chat``. What is wrong is raised when the
        first piece is awaited."""
        begin = partial(self.blocking.stream, messages, system=system, **sampling)
        return ChatStream(begin, self._calls)

    async def complete(self, text: str, **sampling: Any) -> ChatReply:
        """Return what goes on with a text, without chat template and system prompt: of a model of
        this machine."""
        return await self._calls.ask(self.blocking.complete, text, **sampling)

    def stream_completion(self, text: str, **sampling: Any) -> ChatStream:
        """Return what goes on with a text in pieces; as ``complete``."""
        return ChatStream(partial(self.blocking.stream_completion, text, **sampling), self._calls)

    async def chat_many(
        self, conversations: Sequence[Conversation], *, system: str | None = None, **sampling: Any
    ) -> list[ChatReply | GatewayError]:
        """Return the answer to each conversation, or the error why there is none; arguments as of
        ``finetune_gateway.ModelHandle.chat_many``."""
        many = self.blocking.chat_many
        return await self._calls.ask(many, conversations, system=system, **sampling)

    reference_loss = awaited(BlockingHandle.reference_loss, model=True)
    reference_losses = awaited(BlockingHandle.reference_losses, model=True)
    score = awaited(BlockingHandle.score, model=True)
    score_many = awaited(BlockingHandle.score_many, model=True)
    connect = awaited(BlockingHandle.connect, model=True)
    release = awaited(BlockingHandle.release, model=True)
    save = awaited(BlockingHandle.save)

    def _other(self, handle: BlockingHandle) -> ModelHandle:
        return ModelHandle(handle, self._calls)

    download = awaited(BlockingHandle.download, _other, model=True)

    @classmethod
    async def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a handle from its file, or from the folder that holds it."""
        calls = Calls()
        return cls(await calls.run(BlockingHandle.load, path), calls)
