"""What plug-ins make, and is called many times: models that answer, counters of tokens.

Their calls pass the seam as those of the backend itself: what they raise and return is checked, and
one that hangs is cut off, a stream between two pieces.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from finetune_gateway.backend.answer_texts import changed
from finetune_gateway.backend.rebuilt import Wrong, rebuilt
from finetune_gateway.backend.seam import (
    CALL_SECONDS,
    TooSlow,
    begin,
    cut_off,
    guarding,
    is_plugin,
    limit_of,
    readable,
    refused,
    settle,
)
from finetune_gateway.chat import (
    ChatModel,
    ChatReply,
    ChatsMany,
    Completes,
    GivesScores,
    TellsLosses,
    require_sampling,
)
from finetune_gateway.errors import GatewayError, shown
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.text.cleaning import encodable
from finetune_gateway.tokens.counter import TokenCounter
from finetune_gateway.tokens.masks.preview import Preview, PreviewRenderer

Counted = TypeVar("Counted")
Sampling = dict[str, Any]


# -- models ------------------------------------------------------------------------------


def guarded_model(model: Any, backend: Any) -> Any:
    """Return the model of a plug-in, whose answers pass the seam too: it can do what that can."""
    parts = tuple(part for can, part in _GUARDS.items() if isinstance(model, can))
    if not parts:
        return model
    return type("_GuardedModel", (*parts, _GuardedModel), {})(model, backend)


class _GuardedModel:
    """A model whose answers are checked; it has what the model has beside."""

    def __init__(self, model: Any, backend: Any) -> None:
        self._model = model
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_model"], name)

    def _ask(self, name: str, args: Sequence[Any], sampling: Sampling, answers: int = 1) -> Any:
        """Return what the model says; ``answers``: how many that are, each has its time."""
        require_sampling(sampling)
        ask = partial(getattr(self._model, name), *args, **sampling)
        with guarding(self._backend, name):
            return cut_off(self._backend, name, answers * self._seconds, partial(begin, ask))

    @property
    def _seconds(self) -> float:
        """The time of one answer, or of one piece."""
        return limit_of(self._backend, "chat") or CALL_SECONDS

    def _reply(self, name: str, *args: Any, **sampling: Any) -> ChatReply:
        return self._whole(name, self._ask(name, args, sampling))

    def _whole(self, name: str, reply: Any) -> ChatReply:
        """Return a reply of a plug-in as one of ours."""
        try:
            found: ChatReply = changed(rebuilt(ChatReply, reply), encodable)
        except Wrong as exc:
            raise refused(self._backend, name, f"{exc}") from None
        return found

    def _each(
        self,
        name: str,
        asked: Sequence[Any],
        hint: Any,
        **sampling: Any,
    ) -> list[Any]:
        """Return for each an answer, or the error why there is none; for what is neither, too."""
        found = self._ask(name, [asked], sampling, max(1, len(asked)))
        with guarding(self._backend, name):
            answers = list(found) if issubclass(type(found), list | tuple) else []
        if len(answers) != len(asked):
            wrong = f"must return a list of {len(asked)}, not {shown(found)}"
            raise refused(self._backend, name, wrong)
        return [self._one(name, hint, one, at) for at, one in enumerate(answers)]

    def _one(self, name: str, hint: Any, answer: Any, at: int) -> Any:
        if isinstance(answer, GatewayError):
            return readable(self._backend, name, answer)
        try:
            return changed(rebuilt(hint, answer, f"[{at}]"), encodable)
        except Wrong as exc:
            return refused(self._backend, name, f"{exc}")

    def _pieces(self, name: str, *args: Any, **sampling: Any) -> Generator[str, None, Any]:
        """Yield the pieces; return the whole reply, where they do."""
        with guarding(self._backend, name):
            pieces = iter(self._ask(name, args, sampling))
        return self._checked(name, pieces)

    def _checked(self, name: str, pieces: Iterator[Any]) -> Generator[str, None, Any]:
        turns, half = _Turns(), ""
        ask = partial(cut_off, self._backend, name, self._seconds, what="piece")
        waiting = True  # and still so where a piece hangs, or Ctrl-C ends the wait for it
        try:
            while True:
                waiting = True
                with guarding(self._backend, name):
                    found = ask(partial(turns.begin, partial(_next, pieces)))
                waiting = False
                if isinstance(found, _End):
                    yield from [encodable(half)] if half else []
                    told = issubclass(type(found.value), ChatReply)
                    return self._whole(name, found.value) if told else None
                if not issubclass(type(found), str):
                    raise refused(self._backend, name, f"must yield texts, not {shown(found)}")
                whole, half = _halved(half + str.__str__(found))
                if whole or not half:
                    yield encodable(whole)
        finally:
            closed = turns.begin(pieces.close) if isinstance(pieces, Generator) else None
            if closed and not waiting:
                with guarding(self._backend, name):
                    ask(lambda: closed)
            turns.end()


@dataclass
class _End:
    """The end of an answer in pieces, and what its generator has returned."""

    value: Any


def _next(pieces: Iterator[Any]) -> Any:
    """Return the next piece, or an end: no future can hold a StopIteration."""
    try:
        return next(pieces)
    except StopIteration as end:
        return _End(end.value)


def _halved(text: str) -> tuple[str, str]:
    """Return a piece, and the half of a character at its end: the next begins with the rest."""
    cut = len(text) - 1 if "\ud800" <= text[-1:] <= "\udbff" else len(text)
    return text[:cut], text[cut:]


class _Turns:
    """A thread that makes one call after another: a generator goes on where it began."""

    def __init__(self) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        begin(self._work)

    def _work(self) -> None:
        while call := self._calls.get():
            call()

    def begin(self, run: Callable[[], Any]) -> Future[Any]:
        """Make this call next."""
        made: Future[Any] = Future()
        self._calls.put(partial(settle, made, run))
        return made

    def end(self) -> None:
        """Make no more."""
        self._calls.put(None)


class _Chats(_GuardedModel):
    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        return self._reply("chat", messages, **sampling)

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        return self._pieces("stream", messages, **sampling)


class _Many(_GuardedModel):
    def chat_many(self, conversations: Sequence[Any], **sampling: Any) -> list[Any]:
        return self._each("chat_many", conversations, ChatReply, **sampling)


class _Completions(_GuardedModel):
    def complete(self, text: str, **sampling: Any) -> ChatReply:
        return self._reply("complete", text, **sampling)

    def stream_completion(self, text: str, **sampling: Any) -> Iterator[str]:
        return self._pieces("stream_completion", text, **sampling)


class _Losses(_GuardedModel):
    def reference_losses(self, rows: Sequence[Any]) -> list[Any]:
        return self._each("reference_losses", rows, float)


class _Scores(_GuardedModel):
    def scores(self, conversations: Sequence[Any]) -> list[Any]:
        return self._each("scores", conversations, float)


_GUARDS: dict[Any, type[_GuardedModel]] = {
    ChatModel: _Chats,
    ChatsMany: _Many,
    Completes: _Completions,
    TellsLosses: _Losses,
    GivesScores: _Scores,
}


# -- counters ----------------------------------------------------------------------------


class _Watched:
    """A counter that says when it is called. To all that asks it is what it counts with."""

    def __init__(self, counter: TokenCounter, beat: Callable[[], None]) -> None:
        self._counter = counter
        self._beat = beat

    @property  # type: ignore[misc]  # by which isinstance tells what it is
    def __class__(self) -> type:
        return type(self._counter)

    def __getattr__(self, name: str) -> Any:
        self.__dict__["_beat"]()
        return getattr(self.__dict__["_counter"], name)

    def __reduce__(self) -> Any:
        return _itself, (self._counter,)


def _itself(counter: TokenCounter) -> TokenCounter:
    return counter


def watched(
    backend: Any,
    counter: TokenCounter,
    count: Callable[[TokenCounter, Callable[[], None]], Counted],
) -> Counted:
    """Return what ``count`` does with the counter of a plug-in, and a function that it calls as it
    gets on. Raises BackendError when neither is called for as long as a call may take."""
    last = time.monotonic()

    def beat() -> None:
        nonlocal last
        last = time.monotonic()

    seconds = limit_of(backend, "counter") or CALL_SECONDS
    with guarding(backend, "counter"):
        call = begin(partial(count, cast(TokenCounter, _Watched(counter, beat)), beat))
        while not wait([call], max(0.0, last + seconds - time.monotonic())).done:
            if time.monotonic() >= last + seconds:
                raise TooSlow(f"no answer within {seconds:.3g} s")
        return call.result()


class _GuardedRenderer:
    """The renderer of a plug-in: what it raises is an error of ours, what it gives a Preview."""

    def __init__(self, renderer: PreviewRenderer, backend: Any) -> None:
        self._renderer = renderer
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        with guarding(self._backend, "preview_renderer"):
            return getattr(self._renderer, name)

    def preview(self, row: dict[str, Any], line: int = 1) -> Preview:
        with guarding(self._backend, "preview_renderer"):
            found: object = self._renderer.preview(row, line)
        if not issubclass(type(found), Preview):
            raise refused(self._backend, "preview_renderer", f"rendered {shown(found)}, no Preview")
        try:
            preview: Preview = rebuilt(Preview, found)
        except Wrong as exc:
            raise refused(self._backend, "preview_renderer", f"{exc}") from None
        return preview


def renderer_of(backend: Any, spec: TrainingSpec) -> PreviewRenderer | None:
    """Return what shows which tokens a backend trains; None for the usual rule."""
    renderer: PreviewRenderer | None = backend.preview_renderer(spec)
    if renderer is None or not is_plugin(type(backend)):
        return renderer
    return cast(PreviewRenderer, _GuardedRenderer(renderer, backend))
