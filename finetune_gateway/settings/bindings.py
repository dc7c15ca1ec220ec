"""Where the key in an environment variable may be sent: what the user has said of it.

A job or a handle names a variable and an address, and may come from somebody else. If that were
enough, it could send any variable anywhere (as in CVE-2024-6587). So a pair counts only if the
user's settings name it (``keys.VARIABLE``), or the user gave both together in a call: such pairs
are kept in a file of the home folder, not in the job.

A plug-in sends its key wherever its options say: of these all together count, as the user gave
them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune_gateway.errors import StoreError
from finetune_gateway.settings import config
from finetune_gateway.settings.files import locking, open_private, write_atomic
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
        words = [line.split(" ") for line in _lines(self._settings.key_hosts)]
        return [(pair[0], pair[1]) for pair in words if len(pair) == 2]

    def keep(self, variable: str, url: str) -> None:
        """Keep a pair that the user has given. Raises StoreError."""
        if (variable, origin(url)) not in self.kept():
            with self._alone():
                _add(self._settings.key_hosts, f"{variable} {origin(url)}")

    def forget(self, variable: str) -> bool:
        """Forget all pairs of a variable; False if there were none."""
        if all(name != variable for name, _ in self.kept()):
            return False
        with self._alone():
            left = [pair for pair in self.kept() if pair[0] != variable]
            lines = "".join(f"{name} {place}\n" for name, place in left)
            write_atomic(self._settings.key_hosts, lines)
        return True

    # -- plug-ins ----------------------------------------------------------------------------

    def allow_options(self, backend: str, options: Mapping[str, Any]) -> bool:
        """Return True if the user has built this plug-in with these options."""
        return _line(backend, options) in _lines(self._settings.backend_options)

    def kept_options(self) -> list[tuple[str, str]]:
        """Return the names of plug-ins with the options, as JSON, that they were built with in
        calls. Raises StoreError."""
        words = [line.partition(" ") for line in _lines(self._settings.backend_options)]
        return [(name, options) for name, _, options in words if options]

    def keep_options(self, backend: str, options: Mapping[str, Any]) -> None:
        """Keep the options that the user has built a plug-in with. Raises StoreError."""
        if options and not self.allow_options(backend, options):
            with self._alone():
                _add(self._settings.backend_options, _line(backend, options))

    def forget_options(self, backend: str) -> bool:
        """Forget all options of a plug-in; False if there were none."""
        if all(name != backend for name, _ in self.kept_options()):
            return False
        with self._alone():
            left = [pair for pair in self.kept_options() if pair[0] != backend]
            lines = "".join(f"{name} {options}\n" for name, options in left)
            write_atomic(self._settings.backend_options, lines, private=True)
        return True

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process at a time change the files: a line that is added while another process
        replaces the file would be lost."""
        with locking(self._settings.create().locks / "bindings"):
            yield


def _line(backend: str, options: Mapping[str, Any]) -> str:
    return f"{backend} {json.dumps(dict(options), sort_keys=True)}"


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; none if it is not there. Raises StoreError."""
    try:
        return path.read_text("utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, UnicodeDecodeError) as exc:
        raise StoreError(f"{path} cannot be read: {exc}.") from None


def _add(path: Path, line: str) -> None:
    """Add a line to a file. Raises StoreError."""
    try:
        with os.fdopen(
            open_private(path, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8"
        ) as file:
            file.write(f"{line}\n")
    except OSError as exc:
        raise StoreError(f"{path} cannot be written: {exc.strerror or exc}.") from None
