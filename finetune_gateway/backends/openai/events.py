"""Reads a stream of events (``text/event-stream``) from its bytes, however these are cut.

https://html.spec.whatwg.org/multipage/server-sent-events.html: lines end with LF, CR or both, an
empty line ends an event, and only its ``data`` counts here.
"""

from __future__ import annotations

from collections.abc import Sequence

DONE = b"[DONE]"  # the data of the last event, by OpenAI's contract


class EventReader:
    """Takes a stream apart. ``done``: its last event has come."""

    def __init__(self) -> None:
        self.done = False
        self._buffer = bytearray()
        self._data: list[bytes] = []

    def events(self, piece: bytes) -> list[bytes]:
        """Return the data of each event that ends in this piece, but of the last one."""
        known = max(0, len(self._buffer) - 1)
        self._buffer += piece
        # A CR at the end may be the half of a line end.
        last = len(self._buffer) - self._buffer.endswith(b"\r")
        end = max(self._buffer.rfind(mark, known, last) for mark in (b"\n", b"\r"))
        lines = bytes(self._buffer[: end + 1]).splitlines()
        del self._buffer[: end + 1]
        return self._read(lines)

    def rest(self) -> list[bytes]:
        """Return the data of an event that the end of the stream has ended."""
        return self._read([bytes(self._buffer).strip(b"\r\n"), b""])

    def _read(self, lines: Sequence[bytes]) -> list[bytes]:
        events: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
            elif not line and self._data:
                data, self._data = b"\n".join(self._data), []
                self.done = self.done or data.startswith(DONE)
                if not self.done:
                    events.append(data)
        return events
