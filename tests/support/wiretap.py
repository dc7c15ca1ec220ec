"""A listener for what must not be sent: it keeps each byte and answers nothing of use."""

from __future__ import annotations

import socket
import threading
from typing import Self


class Wiretap:
    """A listener that keeps each byte it is sent and answers nothing of use."""

    def __init__(self) -> None:
        self.heard = b""
        self.connections = 0
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.address}/v1"

    def _listen(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with peer:
                peer.settimeout(0.2)
                self._read(peer)

    def _read(self, peer: socket.socket) -> None:
        try:
            while piece := peer.recv(65536):
                self.heard += piece
                if b"\r\n\r\n" in self.heard:
                    peer.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 2\r\n\r\n{}")
        except OSError:
            return

    def __enter__(self) -> Self:
        threading.Thread(target=self._listen, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
