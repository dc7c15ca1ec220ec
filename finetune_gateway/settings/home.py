"""The home folder: where the gateway keeps jobs, files and settings.

It is the ``home`` argument, else ``FTG_HOME``, else the platform's data folder
(``~/.local/share/finetune-gateway`` on Linux). Keys are never stored: a backend reads them from the
environment, and of a key the store has a salted fingerprint.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from finetune_gateway.errors import StoreError

SALT, SALT_BYTES = "key.salt", 32
HERE = "$FTG_HOME/"  # begins a path in the store that is below the home folder, wherever that is
FOLDERS = ("files", "runs", "models")


@dataclass(frozen=True)
class Settings:
    """The home folder and the paths in it."""

    home: Path

    @classmethod
    def load(cls, home: str | os.PathLike[str] | None = None) -> Settings:
        """Return the settings of a home folder; by default the user's own."""
        chosen = home or os.environ.get("FTG_HOME")
        default = platformdirs.user_data_path("finetune-gateway", appauthor=False)
        return cls(Path(chosen).expanduser().absolute() if chosen else default)

    def create(self) -> Settings:
        """Create the folders and return self. Raises StoreError if that is not possible."""
        try:
            for folder in (self.home, self.files, self.runs, self.models, self.locks):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(
                f"The home folder {self.home} cannot be created: {exc.strerror or exc}.",
                hint="Set FTG_HOME to a folder on a local disk that you may write to.",
            ) from None
        return self

    def fingerprint(self, host: str, key: str, *scope: str) -> str:
        """Return what a key is recognised by at a host: HMAC-SHA256 with the salt of this home. The
        key cannot be found out from it. ``scope``: whom it is used for, if it has several."""
        said = json.dumps([host, key, *scope]).encode()
        try:
            return hmac.new(self._salt(), said, hashlib.sha256).hexdigest()
        except OSError as exc:
            raise StoreError(
                f"{self.home / SALT} cannot be used: {exc.strerror or exc}.",
                hint="Check that you may read it and write there, or set another FTG_HOME.",
            ) from None

    def _salt(self) -> bytes:
        path = self.home / SALT
        if not path.exists():
            # Linked into place, whole: of two processes, both use the salt of the first.
            fresh = self.home / f".{SALT}.{os.urandom(6).hex()}"
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as f:
                f.write(os.urandom(SALT_BYTES))
                f.flush()
                os.fsync(f.fileno())
            with suppress(FileExistsError):
                os.link(fresh, path)
            fresh.unlink()
        return path.read_bytes()

    def stored_path(self, path: str) -> str:
        """Return a path as the store keeps it: below the home folder, by its place there."""
        inside = f"{self.home}/"
        return HERE + path.removeprefix(inside) if path.startswith(inside) else path

    def real_path(self, stored: str) -> str:
        """Return the path that the store keeps as ``stored``. Older stores have whole paths: of a
        home that has moved, the file is looked for in the same place below it."""
        if stored.startswith(HERE):
            return str(self.home / stored.removeprefix(HERE))
        if not os.path.isabs(stored) or os.path.exists(stored):
            return stored
        parts = Path(stored).parts
        places = [at for at, part in enumerate(parts) if part in FOLDERS]
        paths = (self.home.joinpath(*parts[at:]) for at in places)
        return next((str(path) for path in paths if path.exists()), stored)

    @property
    def database(self) -> Path:
        return self.home / "gateway.sqlite3"

    @property
    def files(self) -> Path:
        """Copies of datasets, named by their content."""
        return self.home / "files"

    @property
    def spool(self) -> Path:
        """Rows that were not JSON lines, written as such to be read."""
        return self.home / "spool"

    @property
    def runs(self) -> Path:
        """One folder per local job."""
        return self.home / "runs"

    @property
    def models(self) -> Path:
        """Models that the gateway builds itself."""
        return self.home / "models"

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    @property
    def hosts(self) -> Path:
        """Hosts that were seen to keep our tags: an empty file for each."""
        return self.home / "hosts"

    @property
    def config(self) -> Path:
        """The user's settings; see ``config.py``."""
        return self.home / "config.toml"

    @property
    def prices(self) -> Path:
        """The user's price rows, which come before the package's."""
        return self.home / "prices.toml"
