"""How much of an answer is read, and for how long: a host may send for ever, or read nothing.

A time-out of httpx2 is for one read or write of the socket: it ends none that moves a byte now and
then, and no body without an end. These bounds are for a whole request and its whole answer, and
``within`` for all that one question takes.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, Protocol, Self

import httpx2

from finetune_gateway.settings.deadlines import end_of_reads
from finetune_gateway.text import logs
from finetune_gateway.text.quoting import duration

# Bytes of a body, unpacked. A page of 100 jobs has about 0.1 MB; 8,000 jobs of a host that ignores
# ``limit`` have 8 MB. They are few, because what is read takes up to 60 times as much memory.
LONGEST_BODY = 8_000_000
LONGEST_LIST = 32_000_000  # all pages of one
LONGEST_CHAT = 64_000_000  # 32,000 words with the 20 ``top_logprobs`` of each have 40 MB
CHAT = "/chat/completions"
# A file that is downloaded goes to the disk piece by piece. OpenAI takes 8 GB in parts, by the
# docstring of uploads.create in openai 3.54.0.
LONGEST_FILE = 8_000_000_000
CONTENT = "/content"
# A whole answer may take so many times as long as one read: five minutes, by default.
READS = 5
# Seconds for the pieces of a streamed answer, which come as long as a model writes.
STREAM_SECONDS = 3600.0
WRITTEN = 16_384  # bytes at a time, so that the clock is looked at while a request is sent

PACKED = b"content-encoding"
HEADERS = {"Accept-Encoding": "gzip, deflate", "Connection": "keep-alive"}  # of every request
# Whatever a host's header says: JSON is in UTF-8, and Python has encodings that raise errors of
# their own (undefined, hex).
ENCODING = "utf-8"


class Endless(httpx2.ReadError):
    """An answer that was cut off; the text says after what. Not read again within a call."""


class Pacer(Protocol):
    """Says when a request may be sent: see ``pacing``."""

    def wait(self) -> None: ...

    def look(self, status: int, headers: Mapping[str, str]) -> None: ...


_pacer: ContextVar[Pacer | None] = ContextVar("pacer", default=None)


@contextmanager
def paced(pacer: Pacer) -> Iterator[None]:
    """Send all requests of this block when the pacer says so, and show it their answers."""
    token = _pacer.set(pacer)
    try:
        yield
    finally:
        _pacer.reset(token)


class Client(httpx2.Client):
    """A client that sends no request and reads no answer for ever. Raises Endless for an answer
    that goes on, WriteTimeout for a request that is not taken."""

    def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        pacer = _pacer.get()
        if pacer:
            pacer.wait()
        _request_id.set(None)
        with logs.request(request.method, str(request.url), _key_of(request)) as exchange:
            answer = self._send(request, exchange, stream=stream, **options)
            if pacer:
                pacer.look(answer.status_code, answer.headers)
            return answer

    def _send(
        self, request: httpx2.Request, exchange: logs.Exchange, *, stream: bool, **options: Any
    ) -> httpx2.Response:
        longest = _longest(request.url.path)
        clock = _Clock(READS * request.extensions["timeout"]["read"], longest, _bounds.get())
        if request.method == "GET" or request.url.path.endswith(CHAT):
            clock.end = end_of_reads()  # nothing else is cut off: it may have taken effect
        _clock.set(clock)
        request.extensions["trace"] = _watch
        clock.check()
        request.extensions["timeout"] = clock.shortened(request.extensions["timeout"])
        answer = super().send(request, stream=True, **options)
        exchange.answered(answer.status_code, answer.headers)
        _request_id.set(exchange.request_id)
        if answer.is_error:
            clock.longest = LONGEST_BODY
        elif stream:
            clock.seconds = STREAM_SECONDS
        unpacked = httpx2.Response(
            answer.status_code,
            headers=[pair for pair in answer.headers.raw if pair[0].lower() != PACKED],
            request=request,
            stream=_Body(answer, clock),
            extensions=answer.extensions,
        )
        unpacked.encoding = ENCODING
        if not stream:
            unpacked.read()
        return unpacked


_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def last_request_id() -> str | None:
    """Return the host's id of the last request of this thread or task; None if it gave none."""
    return _request_id.get()


def _key_of(request: httpx2.Request) -> str | None:
    """Return the key that a request is sent with."""
    bearer = request.headers.get("authorization", "").rpartition(" ")[2]
    return bearer or request.headers.get("api-key")


def _longest(path: str) -> int:
    """Return how many bytes an answer to this path may have."""
    if path.endswith(CONTENT):
        return LONGEST_FILE
    return LONGEST_CHAT if path.endswith(CHAT) else LONGEST_BODY


class AsyncClient:
    """Posts chats to a host from one event loop: a whole request and its whole answer take no more
    than their time, and the answer no more than its bytes. Raises Endless.

    ``url``: to which they are posted. ``lanes``: one for each connection. A pool of all of them
    asks each, at each request and at each end, whether it is still usable, which takes as long as
    the request itself.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout: httpx2.Timeout,
        lanes: Sequence[httpx2.AsyncBaseTransport],
    ) -> None:
        self.url = httpx2.URL(url)
        self.timeout = timeout
        self._headers = httpx2.Headers({**HEADERS, **headers})
        self._lanes = lanes
        self._free = [*lanes]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for lane in self._lanes:
            await lane.aclose()

    @asynccontextmanager
    async def posting(self, content: bytes) -> AsyncIterator[httpx2.Response]:
        """Post a request, and yield its answer, whose body is read by ``pieces`` in the block. No
        more may be on their way than there are lanes."""
        request = httpx2.Request(
            "POST",
            self.url,
            headers=self._headers,
            content=content,
            extensions={"timeout": self.timeout.as_dict()},
        )
        seconds = READS * (self.timeout.read or STREAM_SECONDS)
        lane = self._free.pop()  # the one that was used last: its connection is alive
        _request_id.set(None)
        line = logs.request("POST", str(self.url), _key_of(request))
        try:
            with line as exchange:
                async with asyncio.timeout(seconds):
                    answer = await lane.handle_async_request(request)
                    answer.request = request
                    exchange.answered(answer.status_code, answer.headers)
                    _request_id.set(exchange.request_id)
                    try:
                        yield answer
                    finally:
                        await answer.aclose()
        except TimeoutError:
            raise Endless(duration(seconds)) from None
        finally:
            self._free.append(lane)


async def read_whole(answer: httpx2.Response) -> httpx2.Response:
    """Return an answer with its whole body, unpacked. Raises Endless if it is too long."""
    body = b"".join([piece async for piece in pieces(answer)])
    unpacked = httpx2.Response(
        answer.status_code,
        headers=[pair for pair in answer.headers.raw if pair[0].lower() != PACKED],
        request=answer.request,
        content=body,
        extensions=answer.extensions,
    )
    unpacked.encoding = ENCODING
    return unpacked


async def pieces(answer: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the body of an answer as it comes, unpacked. Raises Endless if it is too long."""
    size = 0
    async for piece in answer.aiter_bytes():
        size += len(piece)
        if size > LONGEST_CHAT:
            raise Endless(f"{LONGEST_CHAT // 10**6} MB")
        yield piece


class _Bounds:
    """What all requests of one question may take together."""

    def __init__(self, seconds: float, size: int) -> None:
        self.seconds = seconds
        self.end = time.monotonic() + seconds
        self.longest = self.left = size


_bounds: ContextVar[_Bounds | None] = ContextVar("bounds", default=None)


@contextmanager
def within(seconds: float = float("inf"), size: int = LONGEST_LIST) -> Iterator[None]:
    """Let all requests in this block take no more seconds, and their answers no more bytes."""
    token = _bounds.set(_Bounds(seconds, size))
    try:
        yield
    finally:
        _bounds.reset(token)


class _Clock:
    """How long a request may take to be sent, and its answer from its first read; how long the
    answer may be."""

    def __init__(self, seconds: float, longest: int, bounds: _Bounds | None) -> None:
        self.seconds = seconds
        self.longest = longest
        self._bounds = bounds
        self.end = math.inf  # after which nobody waits for the answer
        self._sent_by = time.monotonic() + seconds
        self._began: float | None = None

    def check(self) -> None:
        """Raise Endless if the time of the question is over, or the answer's own."""
        now = time.monotonic()
        if now > self.end:
            raise Endless("the time that was left to wait")
        if self._bounds and now > self._bounds.end:
            raise Endless(duration(self._bounds.seconds))
        if self._began is not None and now - self._began > self.seconds:
            raise Endless(duration(self.seconds))

    def shortened(self, seconds: Mapping[str, float]) -> dict[str, float]:
        """Return the time-outs of a request, none of them beyond the time that is left."""
        left = max(0.001, self.end - time.monotonic())
        return {name: min(longest, left) for name, longest in seconds.items()}

    def check_answer(self) -> None:
        self._began = self._began or time.monotonic()
        self.check()

    def check_sending(self) -> None:
        end = min(self._sent_by, self._bounds.end) if self._bounds else self._sent_by
        if time.monotonic() > end:
            raise httpx2.WriteTimeout("the request was not taken in time")

    def count(self, size: int, piece: int) -> None:
        """Raise Endless for a body, or for all of the question, that has become too long."""
        if size > self.longest:
            raise Endless(f"{self.longest // 10**6} MB")
        if self._bounds is None:
            return
        self._bounds.left -= piece
        if self._bounds.left < 0:
            raise Endless(f"{self._bounds.longest // 10**6} MB in all")


_clock: ContextVar[_Clock] = ContextVar("clock")  # of the answer that is being read


def _watch(event: str, info: dict[str, Any]) -> None:
    """Check the clock before each read and write of a new connection: an extension of httpx2."""
    if event.endswith(("connect_tcp.complete", "start_tls.complete")):
        connection = info["return_value"]
        connection.read = partial(_read, connection.read)
        connection.write = partial(_write, connection.write)


def _read(read: Callable[..., bytes], size: int, timeout: float | None = None) -> bytes:
    _clock.get().check_answer()
    return read(size, timeout)


def _write(write: Callable[..., None], raw: bytes, timeout: float | None = None) -> None:
    for start in range(0, len(raw), WRITTEN):
        _clock.get().check_sending()
        write(raw[start : start + WRITTEN], timeout)


class _Body(httpx2.SyncByteStream):
    """The body of an answer, unpacked: a few bytes can be packed gigabytes."""

    def __init__(self, answer: httpx2.Response, clock: _Clock) -> None:
        self._answer = answer
        self._clock = clock

    def __iter__(self) -> Iterator[bytes]:
        size = 0
        _clock.set(self._clock)
        for piece in self._answer.iter_bytes():
            size += len(piece)
            self._clock.count(size, len(piece))
            yield piece
            _clock.set(self._clock)  # another answer may have been read in between

    def close(self) -> None:
        self._answer.close()
