"""A model that answers, awaited."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from finetune_gateway.aio.calls import CHECK_SECONDS, Calls, Face, awaited
from finetune_gateway.chat import ChatReply, Conversation
from finetune_gateway.chat import ChatStream as BlockingStream
from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs.handle import ModelHandle as BlockingHandle
from finetune_gateway.jobs.merges import say_nothing
from finetune_gateway.jobs.publishing import PullPlan
from finetune_gateway.model import exact_methods

if TYPE_CHECKING:
    from openai import AsyncOpenAI  # for the type checker alone

AHEAD = 1000  # pieces of an answer that are read before they are taken


class ChatStream:
    """An answer in pieces, as they come: ``async for piece in stream``. ``reply`` is the whole
    answer once they have ended. Nothing is asked before the first piece is."""

    def __init__(self, ask: Callable[[], BlockingStream], calls: Calls) -> None:
        """``ask``: asks the model, called in a thread."""
        self._answer = _Answer(ask)
        self._calls = calls
        self._reading: Future[None] | None = None

    @property
    def reply(self) -> ChatReply | None:
        return self._answer.reply

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        answer, reading = self._answer, self._reading
        if answer.left:
            raise StopAsyncIteration
        if reading is None:
            answer.read_for(asyncio.get_running_loop())
            reading = self._reading = self._calls.models.begin(answer.read)
            reading.add_done_callback(lambda _: answer.wake())
        try:
            while not (answer.pieces or reading.done()):
                await answer.news.wait()
                answer.news.clear()
        except BaseException:  # cancelled
            answer.leave()
            raise
        if (piece := answer.taken()) is not None:
            return piece
        reading.result()  # raises what has ended it
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the answer: nobody reads the rest, so it is not generated."""
        self._answer.leave()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._answer.leave()

    def __del__(self) -> None:
        self._answer.leave()


class _Answer:
    """What the thread that reads an answer shares with who takes its pieces."""

    def __init__(self, ask: Callable[[], BlockingStream]) -> None:
        self.ask = ask
        self.reply: ChatReply | None = None
        self.pieces: deque[str] = deque()
        self.left = False  # nobody takes the rest
        self.changed = threading.Condition()

    def read_for(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop, self.news = loop, asyncio.Event()

    def wake(self) -> None:
        with suppress(RuntimeError):  # the loop has ended
            self.loop.call_soon_threadsafe(self.news.set)

    def read(self) -> None:
        """Read the answer, not far ahead of who takes its pieces. In a thread."""
        stream = self.ask()
        try:
            for piece in stream:
                with self.changed:
                    while len(self.pieces) >= AHEAD and not self._is_left():
                        self.changed.wait(CHECK_SECONDS)
                    if self._is_left():
                        return
                    self.pieces.append(piece)
                    first = len(self.pieces) == 1
                if first:  # else who takes them has not come to an end
                    self.wake()
            self.reply = stream.reply
        finally:
            stream.close()

    def _is_left(self) -> bool:
        return self.left or self.loop.is_closed()

    def taken(self) -> str | None:
        """Return the next piece; None if there is none now."""
        with self.changed:
            self.changed.notify()
            return self.pieces.popleft() if self.pieces else None

    def leave(self) -> None:
        """Take no other piece."""
        with self.changed:
            self.left = True
            self.changed.notify()


def _is_ours(pair: tuple[Any, ...]) -> bool:
    return bool(pair) and isinstance(pair[0], ModelHandle)


@exact_methods
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

    reference_loss = awaited(BlockingHandle.reference_loss, by=Calls.ask)
    reference_losses = awaited(BlockingHandle.reference_losses, by=Calls.ask)
    score = awaited(BlockingHandle.score, by=Calls.ask)
    score_many = awaited(BlockingHandle.score_many, by=Calls.ask)
    connect = awaited(BlockingHandle.connect, by=Calls.ask)
    release = awaited(BlockingHandle.release, by=Calls.ask)
    save = awaited(BlockingHandle.save, by=Calls.read)
    card = awaited(BlockingHandle.card, by=Calls.read)
    push = awaited(BlockingHandle.push, by=Calls.ask)

    def _other(self, handle: BlockingHandle) -> ModelHandle:
        return ModelHandle(handle, self._calls)

    download = awaited(BlockingHandle.download, _other, by=Calls.ask)
    export = awaited(BlockingHandle.export, by=Calls.ask)

    async def merge(
        self,
        to: str | os.PathLike[str],
        *,
        weight: float = 1.0,
        others: Sequence[tuple[ModelHandle, float]] = (),
        dtype: str | None = None,
        report: Callable[[str], None] = say_nothing,
    ) -> ModelHandle:
        """Merge this adapter into its base; arguments as of
        ``finetune_gateway.ModelHandle.merge``."""
        parts: list[Any] = [
            (one[0].blocking, *one[1:]) if isinstance(one, tuple) and _is_ours(one) else one
            for one in others
        ]
        found = await self._calls.ask(
            self.blocking.merge, to, weight=weight, others=parts, dtype=dtype, report=report
        )
        return self._other(found)

    def client(self) -> AsyncOpenAI:
        """Return a client of OpenAI's SDK that this model answers, in this process; as
        ``finetune_gateway.ModelHandle.client``."""
        # Imported here: the SDK takes a while, and few need it.
        from finetune_gateway.backends.openai import awaited_client

        self.blocking.require_answers()
        return awaited_client.client(self)

    @classmethod
    async def pull(
        cls,
        repo: str,
        *,
        revision: str | None = None,
        base: str | None = None,
        to: str | os.PathLike[str] | None = None,
        confirm: Callable[[PullPlan], bool] | None = None,
        report: Callable[[str], object] = say_nothing,
    ) -> Self | None:
        """Bring a model from the Hugging Face Hub onto this machine; arguments as of
        ``finetune_gateway.ModelHandle.pull``."""
        calls = Calls()
        asked: dict[str, Any] = {"revision": revision, "base": base, "to": to, "confirm": confirm}
        found = await calls.ask(BlockingHandle.pull, repo, **asked, report=report)
        return None if found is None else cls(found, calls)

    @classmethod
    async def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a handle from its file, or from the folder that holds it."""
        calls = Calls()
        return cls(await calls.run(BlockingHandle.load, path), calls)
