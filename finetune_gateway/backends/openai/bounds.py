"""How much of an answer is read, and for how long: a host may send for ever.

A time-out of httpx2 is for one read of the socket: it ends none that brings a byte now and then,
and no body without an end. These bounds are for a whole answer, its head and its body.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import httpx2

from finetune_gateway.text.quoting import duration

# Bytes of a body, unpacked. A page of 100 jobs has about 0.1 MB, 10,000 jobs of a host that ignores
# ``limit`` 10 MB, 32,000 words with the 20 ``top_logprobs`` of each 40 MB. No file is downloaded.
LONGEST_BODY = 64_000_000
# A whole answer may take so many times as long as one read: five minutes, by default.
READS = 5
# Seconds for the pieces of a streamed answer, which come as long as a model writes.
STREAM_SECONDS = 3600.0

PACKED = b"content-encoding"


class Endless(httpx2.ReadError):
    """An answer that was cut off; the text says after what. Not read again within a call."""


class Client(httpx2.Client):
    """A client that reads no answer for ever. Raises Endless for one that goes on."""

    def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        clock = _Clock(READS * request.extensions["timeout"]["read"])
        _clock.set(clock)
        request.extensions["trace"] = _watch
        answer = super().send(request, stream=True, **options)
        if stream:
            clock.seconds = STREAM_SECONDS
        unpacked = httpx2.Response(
            answer.status_code,
            headers=[pair for pair in answer.headers.raw if pair[0].lower() != PACKED],
            request=request,
            stream=_Body(answer, clock),
            extensions=answer.extensions,
        )
        if not stream:
            unpacked.read()
        return unpacked


class _Clock:
    """How long an answer may take, from its first read: until then the request is sent."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began: float | None = None

    def check(self) -> None:
        now = time.monotonic()
        self._began = self._began or now
        if now - self._began > self.seconds:
            raise Endless(duration(self.seconds))


_clock: ContextVar[_Clock] = ContextVar("clock")  # of the answer that is being read


def _watch(event: str, info: dict[str, Any]) -> None:
    """Check the clock before each read of a new connection: an extension of httpx2."""
    if event.endswith(("connect_tcp.complete", "start_tls.complete")):
        connection = info["return_value"]
        connection.read = partial(_read, connection.read)


def _read(read: Callable[..., bytes], size: int, timeout: float | None = None) -> bytes:
    _clock.get().check()
    return read(size, timeout)


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
            if size > LONGEST_BODY:
                raise Endless(f"{LONGEST_BODY // 10**6} MB")
            yield piece
            _clock.set(self._clock)  # another answer may have been read in between

    def close(self) -> None:
        self._answer.close()
