"""How the provider answers over the socket, and what can go wrong with it: ``Fault``."""

from __future__ import annotations

import json
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

from support.provider_memory import JSON, Refused

if TYPE_CHECKING:
    from support.provider_server import Host


@dataclass
class Fault:
    """What happens to one request instead of a plain answer.

    ``refuse`` 503, not applied; ``status`` any status, not applied; ``busy`` 429 that asks to wait
    ``seconds``, not applied; ``slow`` waits (until ``wake`` of the host), applies,
    answers; ``late`` applies, waits, answers; ``reset_before``/``reset_after`` drop the
    connection (RST); ``error_after`` applies, then 500;
    ``refused_after`` applies, then any status with ``headers``; ``html`` 502 page, not applied;
    ``html_ok`` applies, then a page with 200; ``truncated`` applies, then half a JSON;
    ``cut`` applies and drops the connection in the midst of the body: after the first piece of a
    stream, after half of anything else;
    ``redirect`` 307 to ``location``; ``body`` answers 200 with ``body``, as JSON or as these bytes,
    and applies nothing (``raw``: with any status);
    ``overlay`` applies, and lays ``body`` over the answer;
    ``endless`` applies, then a body of spaces, 160 MB if nobody stops it; ``trickle`` the same a
    byte at a time, for ``seconds``; ``hints`` applies, then says 102 again and again, as long.
    """

    kind: str
    seconds: float = 1.0
    status: int = 503
    code: str | None = None
    message: str = "The server is overloaded."
    headers: dict[str, str] = field(default_factory=dict)
    location: str = ""
    body: Any = None


FOR_EVER = {  # the head, what comes again and again, and the seconds in between
    "endless": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" " * 2**20, 0.0),
    "trickle": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" ", 0.02),
    "hints": (b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.02),
}
MOST_SENT = 160_000_000  # bytes of such an answer
NOT_APPLIED = {"refuse", "status", "busy", "reset_before", "html", "redirect", "body", "raw"}


class Answering(BaseHTTPRequestHandler):
    """A connection's answers, whole and broken."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    provider: Host
    more: dict[str, str]  # headers of this answer

    def fail_before(self, fault: Fault) -> None:
        if fault.kind == "reset_before":
            return self.reset()
        if fault.kind == "busy":
            fault.status, fault.code = 429, fault.code or "rate_limit_exceeded"
            milliseconds = {"retry-after-ms": f"{fault.seconds * 1000:.0f}"}
            fault.headers = fault.headers or milliseconds
        if fault.kind == "html":
            page = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
            return self.send_bytes(502, "text/html", page)
        if fault.kind == "redirect":
            return self.send_json(307, {}, {"Location": fault.location})
        if fault.kind == "body":
            raw = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
            return self.send_bytes(200, "application/json", raw, fault.headers)
        if fault.kind == "raw":
            return self.send_bytes(fault.status, "application/json", fault.body, fault.headers)
        refusal = Refused(fault.status, fault.message, code=fault.code)
        self.send_json(fault.status, refusal.body, fault.headers)

    def fail_after(self, fault: Fault, status: int, body: Any) -> None:
        if fault.kind == "reset_after":
            return self.reset()
        if fault.kind in FOR_EVER:
            return self.send_for_ever(fault)
        if fault.kind == "late":
            time.sleep(fault.seconds)
        if fault.kind == "overlay":
            body = {**body, **fault.body}
        if fault.kind == "error_after":
            status, body = 500, Refused(500, "The server had an error.", code="server_error").body
        if fault.kind == "refused_after":
            refusal = Refused(fault.status, fault.message, code=fault.code)
            return self.send_json(fault.status, refusal.body, fault.headers)
        if fault.kind == "html_ok":
            return self.send_bytes(200, "text/html", b"<html>Welcome to the portal</html>")
        if fault.kind == "cut":
            return self.send_cut(status, body)
        if fault.kind == "truncated":
            half = body if isinstance(body, bytes) else json.dumps(body).encode()
            return self.send_bytes(status, "application/json", half[: len(half) // 2])
        self.send(status, body)

    def send_cut(self, status: int, body: Any) -> None:
        """Promise the whole, send a part, and drop the connection."""
        if isinstance(body, Iterator):
            self.send_stream(iter([next(body)]), end=b"")
        else:
            whole = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole[: len(whole) // 2])
            self.wfile.flush()
        self.reset()

    def send_for_ever(self, fault: Fault) -> None:
        """Send until nobody reads any more."""
        head, piece, pause = FOR_EVER[fault.kind]
        self.close_connection = True
        self.wfile.write(head)
        sent, end = 0, time.monotonic() + fault.seconds
        while sent < MOST_SENT and time.monotonic() < end:
            self.wfile.write(piece)
            sent += len(piece)
            self.provider.sent += len(piece)
            time.sleep(pause)

    def is_given_up(self) -> bool:
        """Return whether the client has hung up before this request was read."""
        try:
            readable = select.select([self.connection], [], [], 0)[0]
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def reset(self) -> None:
        """Close with RST, as a crashed peer or a firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()

    def send(self, status: int, body: Any) -> None:
        if isinstance(body, bytes):
            self.send_bytes(status, "application/octet-stream", body, self.more)
        elif isinstance(body, Iterator):
            self.send_stream(body)
        else:
            self.send_json(status, body, self.more)

    def send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, "application/json", json.dumps(body).encode(), headers)

    def send_bytes(
        self, status: int, kind: str, raw: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("x-request-id", f"req_{len(self.provider.requests)}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def send_stream(self, chunks: Iterator[JSON], end: bytes = b"data: [DONE]\n\n") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        for name, value in self.more.items():
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True
        for chunk in chunks:
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(end)

    def log_message(self, format: str, *args: Any) -> None: ...
