"""Messages to the dispatcher of a home: that there is something new, and in which environment a
job was submitted, keys included. That goes from memory to memory and is never on the disk.

A socket without a file (Linux) takes it. Its name is drawn by lot and stands in the lock file of
the dispatcher. Each side looks whether the other belongs to this user. Where there is no such
socket, or nobody listens, nothing is lost: the dispatcher looks by itself, and a worker gets the
environment of who has started the dispatcher.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

SECONDS = 1.0  # that one side waits for the other
MOST_BYTES = 8_000_000  # an environment may have 2 MB on Linux
CREDENTIALS = struct.Struct("3i")  # process, user and group: unix(7)
PREFIX = "finetune-gateway-"


class Listener:
    """The side of the dispatcher; ``lock``: its lock file, which gets the name of the socket."""

    def __init__(self, lock: int) -> None:
        self.socket: socket.socket | None = None
        if sys.platform != "linux":
            return
        name = PREFIX + secrets.token_hex(16)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(f"\0{name}")
        self.socket.listen(64)
        self.socket.setblocking(False)
        os.ftruncate(lock, 0)
        os.pwrite(lock, name.encode(), 0)

    def messages(self) -> Iterator[dict[str, Any]]:
        """Yield those that have come since the last call."""
        while self.socket is not None:
            try:
                connection, _ = self.socket.accept()
            except BlockingIOError:
                return
            with connection, suppress(OSError, ValueError):
                connection.settimeout(SECONDS)
                if _is_ours(connection):
                    yield _read(connection)


def tell(lock: Path, message: Mapping[str, Any]) -> bool:
    """Tell the dispatcher that has this lock; False if it did not hear it."""
    if sys.platform != "linux":
        return False
    try:
        name = lock.read_text("ascii")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(SECONDS)
            connection.connect(f"\0{name}" if name.startswith(PREFIX) else "")
            if not _is_ours(connection):
                return False
            connection.sendall(json.dumps(message).encode())
            connection.shutdown(socket.SHUT_WR)
            return connection.recv(1) == b"."
    except (OSError, ValueError):
        return False


def _read(connection: socket.socket) -> dict[str, Any]:
    """Return one message, which its sender ends; say that it is heard."""
    parts, size = [], 0
    while part := connection.recv(65_536):
        parts.append(part)
        size += len(part)
        if size > MOST_BYTES:
            raise ValueError("too long")
    message = json.loads(b"".join(parts))
    if not isinstance(message, dict):
        raise ValueError("no object")
    connection.sendall(b".")
    return message


def _is_ours(connection: socket.socket) -> bool:
    """Return True if the other side is a process of this user."""
    if sys.platform != "linux":
        return False
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
    return bool(CREDENTIALS.unpack(found)[1] == os.geteuid())
