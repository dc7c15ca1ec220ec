"""Where the key in an environment variable may be sent: what the user has said of it.

A job or a handle names a variable and an address, and may come from somebody else. If that were
enough, it could send any variable anywhere (as in CVE-2024-6587). So a pair counts only if the
user's settings name it (``keys.VARIABLE``), or the user gave both together in a call: such pairs
are kept in a file of the home folder, not in the job.
"""

from __future__ import annotations

import os
from contextlib import suppress

from finetune_gateway.errors import StoreError
from finetune_gateway.settings import config
from finetune_gateway.settings.files import open_private, write_atomic
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.network import matches, origin

Pair = tuple[str, str]  # a variable, and the origin of an address


class Bindings:
    """The pairs of variable and address in one home folder."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def allow(self, variable: str, url: str) -> bool:
        """Return True if the key in this variable may be sent to this address."""
        hosts = config.current_value(self._settings, config.KEYS_TABLE + variable).listed
        return any(matches(host, url) for host in hosts) or (variable, origin(url)) in self.kept()

    def allow_http(self, url: str) -> bool:
        """Return True if this address may be asked although nothing on the way is encrypted."""
        hosts = config.current_value(self._settings, "hosts.allow_http").listed
        known = {kept for _, kept in self.kept()}
        return any(matches(host, url) for host in hosts) or origin(url) in known

    def kept(self) -> list[Pair]:
        """Return the pairs that were given in calls. Raises StoreError."""
        text = ""
        try:
            with suppress(FileNotFoundError):
                text = self._settings.key_hosts.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            raise StoreError(f"{self._settings.key_hosts} cannot be read: {exc}.") from None
        words = [line.split(" ") for line in text.splitlines()]
        return [(pair[0], pair[1]) for pair in words if len(pair) == 2]

    def keep(self, variable: str, url: str) -> None:
        """Keep a pair that the user has given. Raises StoreError."""
        if (variable, origin(url)) in self.kept():
            return
        path = self._settings.create().key_hosts
        try:
            # Appended: of two processes, both lines are there.
            opened = open_private(path, os.O_WRONLY | os.O_APPEND)
            with os.fdopen(opened, "a", encoding="utf-8") as file:
                file.write(f"{variable} {origin(url)}\n")
        except OSError as exc:
            raise StoreError(f"{path} cannot be written: {exc.strerror or exc}.") from None

    def forget(self, variable: str) -> bool:
        """Forget all pairs of a variable; False if there were none."""
        kept = self.kept()
        left = [pair for pair in kept if pair[0] != variable]
        if left != kept:
            lines = "".join(f"{name} {place}\n" for name, place in left)
            write_atomic(self._settings.key_hosts, lines)
        return left != kept
