"""A server on a loopback socket whose answers may fail: the provider's, and Azure's."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Collection
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from support.provider_faults import Fault

POLL = 0.005  # seconds until a server sees that it has to stop: hundreds are started


class Host:
    """One server as a context manager, with the faults that its next requests meet."""

    def __init__(
        self,
        handler: type[BaseHTTPRequestHandler],
        port: int = 0,
        chaos: dict[str, float] | None = None,
        chaos_on: Collection[str] = ("*",),  # endpoints, or "*" for all
        seed: int = 0,
        fault_seconds: float = 1.0,
    ) -> None:
        self.faults: dict[str, list[Fault]] = {}
        self.chaos = chaos or {}
        self.chaos_on = chaos_on
        self.random = random.Random(seed)
        self.fault_seconds = fault_seconds
        self.requests: list[Any] = []
        self.sleeping = 0  # requests that meet the fault ``slow`` now
        self._awake = threading.Event()
        self.sent = 0  # bytes of answers without an end
        self.lock = threading.Lock()
        bound = type("BoundHandler", (handler,), {"provider": self})
        self.server = Server(("127.0.0.1", port), bound)

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def fault(self, endpoint: str, *kinds: str | Fault, **settings: Any) -> None:
        """Let the next requests of ``"METHOD /path"`` (ids as ``*``) meet these faults, in order.
        The kind ``ok`` lets one request pass."""
        queue = self.faults.setdefault(endpoint, [])
        queue.extend(k if isinstance(k, Fault) else Fault(k, **settings) for k in kinds)

    def sleep(self, seconds: float) -> None:
        """Let a request meet the fault ``slow``."""
        with self.lock:
            self.sleeping += 1
            awake = self._awake
        awake.wait(seconds)
        with self.lock:
            self.sleeping -= 1

    def wake(self) -> None:
        """Let the requests that sleep now go on."""
        with self.lock:
            awake, self._awake = self._awake, threading.Event()
        awake.set()

    def next_fault(self, endpoint: str) -> Fault | None:
        with self.lock:
            queue = self.faults.get(endpoint)
            if queue:
                return queue.pop(0)
            if not self.chaos or not {endpoint, "*"} & {*self.chaos_on}:
                return None
            drawn, total = self.random.random(), 0.0
            for kind, share in self.chaos.items():
                total += share
                if drawn < total:
                    return Fault(kind, seconds=self.fault_seconds)
        return None

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(POLL,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.open_sockets: dict[int, Any] = {}
        self.accepted = 0  # connections, from the start

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets[id(request)] = request
        self.accepted += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.open_sockets.pop(id(request), None)

    def server_close(self) -> None:
        """Be gone for those who have a connection already, too."""
        super().server_close()
        for request in list(self.open_sockets.values()):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about; anything else is printed."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)
