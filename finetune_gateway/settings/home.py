"""The home folder: where the gateway keeps jobs, files and settings.

It is the ``home`` argument, else ``FTG_HOME``, else the platform's data folder
(``~/.local/share/finetune-gateway`` on Linux). Keys are never stored: a backend reads them from the
environment.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from finetune_gateway.errors import StoreError


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

    @property
    def database(self) -> Path:
        return self.home / "gateway.sqlite3"

    @property
    def files(self) -> Path:
        """Copies of datasets, named by their content."""
        return self.home / "files"

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
