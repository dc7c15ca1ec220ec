"""Ask one model many prompts, some at once: the loop of recordings and of comparisons.

All loops of a process share the bound of a host, and its pauses: a host that asks to wait is asked
nothing until then, by nobody, and is asked as many at once afterwards. Nothing is dropped: a
request ends with its answer, or with an error that the log gets.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import urlsplit

from finetune_gateway.backends.openai import retries
from finetune_gateway.backends.openai.async_chat import ENDLESS, Answer, Session
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.backends.openai.wire import CODES
from finetune_gateway.errors import AuthenticationError, BackendError
from finetune_gateway.settings.network import is_loopback

AT_ONCE = 16
MAX_TOKENS = 1024  # of an answer, unless the user says otherwise
ASKED = "messages", "tools", "functions"  # of a request; the rest of it are parameters
# A cold model may say for minutes that it is not there: it is asked twice more before it is dead.
COLD_SECONDS = (15.0, 45.0)

BUSY = 5  # attempts of one request that are turned away, after which the user hears of it
# Questions that a host may leave without an answer in a row, before all the others are left.
SILENT = 8
SHORT = 1.0  # seconds of a pause by headers that nobody has to hear of

Json = dict[str, Any]
OnWait = Callable[[float, str], object]  # called with the seconds of a pause, and why


@dataclass(frozen=True)
class Question:
    """One request: messages, tools and parameters, without the model."""

    id: str
    body: Json


class Log(Protocol):
    """What hears of each request before it is sent, and of each end."""

    async def sending(self, question: Question, attempt: int) -> bool:
        """Write down that a request is sent; False: it must not be, and nothing after it."""
        ...

    async def answered(self, question: Question, attempt: int, answer: Answer) -> None:
        """Write down an answer."""
        ...

    async def failed(
        self, question: Question, attempt: int, error: BackendError, *, again: bool
    ) -> None:
        """Write down that an attempt failed; ``again``: it will be asked once more."""
        ...


class HostBound:
    """How many requests are on their way to a host from this process, and until when it rests."""

    def __init__(self) -> None:
        self.resting_until = 0.0
        self._lock = threading.Lock()
        self._on_the_way = 0
        self._waiting: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def place(self, most: int) -> AsyncIterator[None]:
        """Wait until fewer than ``most`` are on their way and the host does not rest."""
        while True:
            await self._enter(most)
            rest = self.resting_until - time.monotonic()
            if rest <= 0:
                break
            self._leave()
            await asyncio.sleep(rest)
        try:
            yield
        finally:
            self._leave()

    def rest(self, seconds: float) -> bool:
        """Let the host rest from now; return False if it rests as long already."""
        until = time.monotonic() + seconds
        with self._lock:
            longer = until > self.resting_until + 0.05
            self.resting_until = max(until, self.resting_until)
        return longer

    async def _enter(self, most: int) -> None:
        while True:
            loop = asyncio.get_running_loop()
            with self._lock:
                if self._on_the_way < most:
                    self._on_the_way += 1
                    return
                future = loop.create_future()
                self._waiting.append((loop, future))
            try:
                await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled():  # the place was meant for it
                    self._wake()
                raise

    def _leave(self) -> None:
        with self._lock:
            self._on_the_way -= 1
        self._wake()

    def _wake(self) -> None:
        """Wake the first that waits in a loop that still runs."""
        while True:
            with self._lock:
                if not self._waiting:
                    return
                loop, future = self._waiting.popleft()
            if not future.cancelled() and not loop.is_closed():
                loop.call_soon_threadsafe(_finish, future)
                return


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_bounds: dict[tuple[str, str | None], HostBound] = {}
_bounds_lock = threading.Lock()


def bound_of(host: str, account: str | None) -> HostBound:
    """Return the bound of a host and an account of it in this process."""
    with _bounds_lock:
        return _bounds.setdefault((host, account), HostBound())


async def ask_many(
    session: Session,
    questions: Iterable[Question],
    log: Log,
    *,
    at_once: int = AT_ONCE,
    patience: float = 3600.0,
    on_wait: OnWait | None = None,
) -> BackendError | None:
    """Ask all questions, ``at_once`` at a time; return what ended that early: a key or a parameter
    that is refused, a model that is not there, a host that answers nobody. None if all were asked,
    or if ``log`` ended it.

    ``patience``: seconds for which one request waits at most when the host asks to.
    """
    run = _Run(session, iter(questions), log, at_once, patience, on_wait or (lambda *_: None))
    workers = [asyncio.create_task(run.work()) for _ in range(at_once)]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return run.ended_by


@dataclass
class _Run:
    """One call of ``ask_many``."""

    session: Session
    questions: Iterator[Question]
    log: Log
    at_once: int
    patience: float
    on_wait: OnWait
    ended_by: BackendError | None = None
    stopped: bool = False
    silent: int = 0  # questions in a row that were given up because of the host
    cold: int = 0  # how often the model was not there, each pause counted once
    warm_at: float = 0.0  # from when it is asked again
    bound: HostBound = field(init=False)

    def __post_init__(self) -> None:
        self.bound = bound_of(self.session.backend.host, self.session.backend.account())

    async def work(self) -> None:
        """Ask question after question, until there is none or the run has ended."""
        while not self.stopped and (question := next(self.questions, None)) is not None:
            await self._ask(question)

    async def _ask(self, question: Question) -> None:
        attempt, waited = 0, 0.0
        while not self.stopped:
            attempt += 1
            async with self.bound.place(self.at_once):
                began = time.monotonic()
                if self.stopped or not await self.log.sending(question, attempt):
                    self.stopped = True
                    return
                try:
                    answer = await self.session.ask(question.body)
                except BackendError as exc:
                    error = exc
                else:
                    self.silent = 0
                    await self.log.answered(question, attempt, answer)
                    self._pause(answer)
                    return
            wait = self._wait_after(error, question, attempt, waited, began)
            await self.log.failed(question, attempt, error, again=wait is not None)
            if wait is None:
                return
            waited += wait
            await asyncio.sleep(wait)

    def _pause(self, answer: Answer) -> None:
        """Let the host rest if its headers ask for it; one that asks for more than our patience is
        asked all the same, and refuses what it will."""
        pause = answer.pause
        if 0 < pause <= self.patience and self.bound.rest(pause) and pause >= SHORT:
            self.on_wait(pause, "its headers say that nothing is left of a limit")

    def _wait_after(
        self, error: BackendError, question: Question, attempt: int, waited: float, began: float
    ) -> float | None:
        """Return the seconds until the question is asked again; None if it is given up. Ends the
        run for what all other questions would meet too."""
        if error.status_code == 404:
            return self._cold(error, began)
        if is_for_all(error, question):
            return self._end(error)
        if not error.retryable:
            return None
        if error.turned_away:
            wait = error.retry_after or retries.backoff(attempt)
            if waited + wait > self.patience:
                return self._end(error)
            self._rest(error.retry_after or 0.0, "it asks to")
            if attempt == BUSY:
                self.on_wait(wait, f"it has turned a request away {attempt} times")
            return wait
        if attempt < retries.ATTEMPTS and error.code != ENDLESS:
            return retries.backoff(attempt)
        self.silent += 1
        never_sent = error.status_code is None and not error.maybe_applied
        most = max(SILENT, self.at_once)
        return self._end(error) if never_sent or self.silent >= most else None

    def _cold(self, error: BackendError, began: float) -> float | None:
        """Let a model that is not there rest, twice; then end the run."""
        if began < self.warm_at:  # sent before the pause: no news
            return 0.0
        if self.cold == len(COLD_SECONDS) or _is_own_server(self.session.backend):
            return self._end(error)
        seconds = COLD_SECONDS[self.cold]
        self.cold += 1
        self.warm_at = time.monotonic() + seconds
        self._rest(seconds, "the model is not there; a cold one may say so for minutes")
        return 0.0

    def _rest(self, seconds: float, why: str) -> None:
        if seconds > 0 and self.bound.rest(seconds):
            self.on_wait(seconds, why)

    def _end(self, error: BackendError) -> float | None:
        """End the run; return None, for no other attempt."""
        self.ended_by, self.stopped = self.ended_by or error, True
        return None


def _is_own_server(backend: OpenAIBackend) -> bool:
    """Return True for a host without a profile on this machine: a model that it does not have now
    is not a cold one."""
    address = urlsplit(backend.base_url).hostname or ""
    return backend.profile_name == "custom" and is_loopback(address)


def is_for_all(error: BackendError, question: Question) -> bool:
    """Return True for an error that is none of this question alone: the model, the key, the
    account, a parameter."""
    parameters = question.body.keys() - set(ASKED)
    return (
        error.status_code == 404
        or isinstance(error, AuthenticationError)
        or error.code in CODES
        or (error.param or "").partition(".")[0].partition("[")[0] in parameters
    )
