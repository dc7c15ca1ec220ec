"""Calls that block, made in threads: the base of all that is awaited.

What is awaited here is the blocking object and its methods, called in a thread of a pool. A task
that is cancelled stops waiting for its call; a call that has begun goes on to its end, so a job
that is being sent is sent once and stored whole.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import wait as wait_for_futures
from functools import partial, wraps
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

from finetune_gateway import registry
from finetune_gateway.aio.threads import Threads
from finetune_gateway.backend import Backend
from finetune_gateway.backend.seam import is_plugin, name_of

# A loop that needs the interpreter waits up to 5 ms (sys.getswitchinterval) for each thread that
# is using it, as checks of data do: so there are few. What reads the home, and what asks models,
# goes beside them: a host that hangs holds up neither. Nor do calls of a plug-in, which has as many
# threads of its own: hosts of ours have time-outs, and it may hang for minutes.
HOST_THREADS = 4
HOME_THREADS = 2
MODEL_THREADS = 32
CHECK_SECONDS = 1.0  # between two looks at whether the loop of a callback is still there

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
B = TypeVar("B", covariant=True)


class Calls:
    """The threads of one Gateway."""

    def __init__(self) -> None:
        self.hosts = Threads(HOST_THREADS, kept=True)  # one may be buying a job
        self.plugins: dict[str, Threads] = {}  # the same, by the name of the backend
        self.home = Threads(HOME_THREADS)
        self.models = Threads(MODEL_THREADS)
        self.closing = threading.Event()

    async def run(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Call a function that may ask hosts in a thread, and return what it returns. Raises what
        it raises, and SpecError once the Gateway is closed."""
        threads = self._threads_for(getattr(function, "__self__", None), *args, **given)
        return cast(R, await self._run(threads, function, *args, **given))

    def _threads_for(self, *of: Any, backend: Any = None, **_: Any) -> Threads:
        """Return the threads for a call that is about a job, or that names its backend."""
        jobs = (getattr(one, "job", one) for one in of[:2])
        records = (getattr(job, "record", None) for job in jobs)
        stored = next((one.backend for one in records if one is not None), None)
        name = _plugin_name(stored if backend is None else backend)
        if name is None:
            return self.hosts
        return self.plugins.setdefault(name, Threads(HOST_THREADS, kept=True))

    async def read(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Do the same for one that only reads the home."""
        return cast(R, await self._run(self.home, function, *args, **given))

    async def ask(self, function: Callable[P, R], *args: P.args, **given: P.kwargs) -> R:
        """Do the same for one that asks a model."""
        return cast(R, await self._run(self.models, function, *args, **given))

    async def _run(self, threads: Threads, function: Any, *args: Any, **given: Any) -> Any:
        loop = asyncio.get_running_loop()
        given = {name: _for_thread(name, one, loop, self.closing) for name, one in given.items()}
        return await asyncio.wrap_future(
            threads.begin(partial(function, *map(blocking, args), **given))
        )

    async def close(self) -> None:
        """Refuse further calls, and return once those of hosts have ended."""
        self.closing.set()
        self.models.end()
        self.home.end()
        hosts = [self.hosts, *self.plugins.values()]
        running = [asyncio.wrap_future(future) for threads in hosts for future in threads.end()]
        await asyncio.gather(*running, return_exceptions=True)


def _plugin_name(backend: Any) -> str | None:
    """Return the name of a backend that is not in this package."""
    if isinstance(backend, str):
        return None if backend in registry.BUILTIN or backend in registry.HOSTS else backend
    known = isinstance(backend, Backend) and is_plugin(type(backend))
    return name_of(backend) if known else None


def _for_thread(
    name: str, value: Any, loop: asyncio.AbstractEventLoop, closing: threading.Event
) -> Any:
    """Return an argument for a call in a thread: a callback may be a coroutine function, which runs
    in the loop."""
    if not callable(value) or not (name in ("confirm", "report", "wait") or name.startswith("on_")):
        return blocking(value)

    @wraps(value)  # so that it is known what it can be called with
    def call(*args: Any) -> Any:
        returned = value(*args)
        return _awaited_in(loop, returned, closing) if inspect.isawaitable(returned) else returned

    return call


def _awaited_in(
    loop: asyncio.AbstractEventLoop, value: Awaitable[T], closing: threading.Event
) -> T:
    """Return what a coroutine of a callback returns, from a thread beside its loop. Raises
    CancelledError when the loop, or the process, ends first, or stands still while the Gateway is
    closed."""

    async def result() -> T:
        return await value

    future: Future[T] = asyncio.run_coroutine_threadsafe(result(), loop)

    def goes_on() -> bool:
        stopped = closing.is_set() and not loop.is_running()
        return not (loop.is_closed() or stopped) and threading.main_thread().is_alive()

    while not future.done() and goes_on():
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


Run = Callable[..., Coroutine[Any, Any, Any]]


@overload
def awaited(
    method: Callable[Concatenate[Any, P], R], *, by: Run = Calls.run
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, R]]: ...


@overload
def awaited(
    method: Callable[Concatenate[Any, P], R],
    face: Callable[[Any, R], T],
    *,
    by: Run = Calls.run,
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]: ...


def awaited(
    method: Callable[..., Any],
    face: Callable[[Any, Any], Any] = lambda one, result: result,
    *,
    by: Run = Calls.run,
) -> Any:
    """Return a method of a Face that awaits this one of its blocking object: same arguments, same
    help.

    Arguments:
        method: Of the blocking class.
        face: Called with the Face and what the method has returned; gives what is returned.
        by: In which threads it is called.
    """

    @wraps(method)
    async def call(self: Face[Any], /, *args: Any, **given: Any) -> Any:
        return face(self, await by(self._calls, cast(Any, method), self.blocking, *args, **given))

    return call
