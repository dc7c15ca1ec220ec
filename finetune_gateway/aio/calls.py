"""Calls that block, made in threads: the base of all that is awaited.

What is awaited here is the blocking object and its methods, called in a thread of a pool. A task
that is cancelled stops waiting for its call; a call that has begun goes on to its end, so a job
that is being sent is sent once and stored whole.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for_futures
from contextlib import suppress
from contextvars import copy_context
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from finetune_gateway.settings.client_options import closed
from finetune_gateway.settings.deadlines import THREAD

# A loop that needs the interpreter waits up to 5 ms (sys.getswitchinterval) for each thread that
# is using it: 8 checks of data at once cost it at most 40 ms.
JOB_THREADS = 8
MODEL_THREADS = 32  # these wait for hosts; apart, so that a slow model holds up no submit
CHECK_SECONDS = 1.0  # between two looks at whether the loop of a callback is still there

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
B = TypeVar("B", covariant=True)


class Calls:
    """The threads of one Gateway. ``after`` is called in them after each call."""

    def __init__(self, after: Callable[[], object] = lambda: None) -> None:
        self.after = after
        self.jobs = ThreadPoolExecutor(JOB_THREADS, THREAD)
        self.models = ThreadPoolExecutor(MODEL_THREADS, THREAD)
        self._closed = False

    async def run(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Call a function of the home in a thread, and return what it returns. Raises what it
        raises, and SpecError once the Gateway is closed."""
        return cast(R, await self._run(self.jobs, function, *args, **given))

    async def ask(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Do the same for one that asks a model, in a thread beside those of ``run``."""
        return cast(R, await self._run(self.models, function, *args, **given))

    async def _run(self, pool: ThreadPoolExecutor, function: Any, *args: Any, **given: Any) -> Any:
        if self._closed:
            raise closed()
        loop = asyncio.get_running_loop()
        given = {name: _for_thread(name, one, loop) for name, one in given.items()}
        call = partial(function, *map(blocking, args), **given)
        return await loop.run_in_executor(pool, copy_context().run, self._call, call)

    def _call(self, function: Callable[[], T]) -> T:
        try:
            return function()
        finally:
            self.after()

    def begin(self, function: Callable[[], object]) -> None:
        """Call a function beside those that ask models, and let nobody wait for it."""
        with suppress(RuntimeError):  # closed
            self.models.submit(self._call, function)

    async def close(self) -> None:
        """Refuse further calls, and return once those of jobs have ended."""
        self._closed = True
        self.models.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self.jobs.shutdown, wait=True)


def _for_thread(name: str, value: Any, loop: asyncio.AbstractEventLoop) -> Any:
    """Return an argument for a call in a thread: a callback may be a coroutine function, which runs
    in the loop."""
    if not callable(value) or not (name in ("confirm", "wait") or name.startswith("on_")):
        return blocking(value)

    def call(*args: Any) -> Any:
        returned = value(*args)
        return _awaited_in(loop, returned) if inspect.isawaitable(returned) else returned

    return call


def _awaited_in(loop: asyncio.AbstractEventLoop, value: Awaitable[T]) -> T:
    """Return what a coroutine of a callback returns, from a thread beside its loop. Raises
    CancelledError when the loop ends first."""

    async def result() -> T:
        return await value

    future: Future[T] = asyncio.run_coroutine_threadsafe(result(), loop)
    while not future.done() and not loop.is_closed():
        wait_for_futures([future], CHECK_SECONDS)
    future.cancel()
    return future.result()


class Face(Generic[B]):
    """The awaited face of an object whose calls block."""

    def __init__(self, blocking: B, calls: Calls) -> None:
        self._blocking = blocking
        self._calls = calls

    @property
    def blocking(self) -> B:
        """The same with calls that block: not for the thread of a loop."""
        return self._blocking

    def __repr__(self) -> str:
        return f"aio.{self._blocking!r}"


def blocking(value: Any) -> Any:
    """Return an argument as the blocking calls take it, those in a list too."""
    if isinstance(value, Face):
        return value.blocking
    if isinstance(value, list | tuple) and any(isinstance(one, Face) for one in value):
        return [blocking(one) for one in value]
    return value


@overload
def awaited(
    method: Callable[Concatenate[Any, P], R], *, model: bool = False
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]: ...


@overload
def awaited(
    method: Callable[Concatenate[Any, P], R],
    face: Callable[[Any, R], T],
    *,
    model: bool = False,
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]: ...


def awaited(
    method: Callable[..., Any],
    face: Callable[[Any, Any], Any] = lambda one, result: result,
    *,
    model: bool = False,
) -> Any:
    """Return a method of a Face that awaits this one of its blocking object: same arguments, same
    help.

    Arguments:
        method: Of the blocking class.
        face: Called with the Face and what the method has returned; gives what is returned.
        model: It asks models, which may take long.
    """

    @wraps(method)
    async def call(self: Face[Any], /, *args: Any, **given: Any) -> Any:
        run = self._calls.ask if model else self._calls.run
        return face(self, await run(cast(Any, method), self.blocking, *args, **given))

    return call
