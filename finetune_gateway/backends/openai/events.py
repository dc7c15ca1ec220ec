"""Reads a stream of events (``text/event-stream``) from its bytes, however these are cut.

https://html.spec.whatwg.org/multipage/server-sent-events.html: lines end with LF, CR or both, an
empty line ends an event, and only its ``data`` counts here.
"""

from __future__ import annotations

from collections.abc import Iterator

DONE = b"[DONE]"  # the data of the last event, by OpenAI's contract


class EventReader:
    """Takes a stream apart. ``done``: its last event has come."""

    def __init__(self) -> None:
        self.done = False
        self._buffer = bytearray()
        self._data: list[bytes] = []

    def events(self, piece: bytes) -> Iterator[bytes]:
        """Yield the data of each event that ends in this piece, but of the last one."""
        known = max(0, len(self._buffer) - 1)
        self._buffer += piece
        # A CR at the end may be the half of a line end.
        last = len(self._buffer) - self._buffer.endswith(b"\r")
        end = max(self._buffer.rfind(mark, known, last) for mark in (b"\n", b"\r"))
        lines = bytes(self._buffer[: end + 1]).splitlines()
        del self._buffer[: end + 1]
        for line in lines:
            yield from self._line(line)

    def rest(self) -> Iterator[bytes]:
        """Yield the data of an event that the end of the stream has ended."""
        for line in (bytes(self._buffer).strip(b"\r\n"), b""):
            yield from self._line(line)

    def _line(self, line: bytes) -> Iterator[bytes]:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
        if line or not self._data:
            return
        data, self._data = b"\n".join(self._data), []
        self.done = self.done or data.startswith(DONE)
        if not self.done:
            yield data
