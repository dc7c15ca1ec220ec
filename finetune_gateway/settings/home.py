"""Where the gateway keeps its things, in one documented order.

Home folder: the ``home`` argument, then ``FTG_HOME``, then the platform's data folder
(``~/.local/share/finetune-gateway`` on Linux). Keys are never stored: they are read from the
environment variable a backend names.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from finetune_gateway.errors import StoreError


@dataclass(frozen=True)
class Settings:
    """The home folder and what lies in it."""

    home: Path

    @classmethod
    def load(cls, home: str | os.PathLike[str] | None = None) -> Settings:
        chosen = home or os.environ.get("FTG_HOME")
        default = platformdirs.user_data_path("finetune-gateway", appauthor=False)
        return cls(Path(chosen).expanduser().absolute() if chosen else default)

    def create(self) -> Settings:
        """Make the folders. Raises StoreError when that is not possible."""
        try:
            for folder in (self.home, self.files, self.runs, self.models, self.locks):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise StoreError(
                f"The home folder {self.home} cannot be made: {exc.strerror or exc}.",
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
        """Models the gateway builds itself."""
        return self.home / "models"

    @property
    def locks(self) -> Path:
        return self.home / "locks"

    @property
    def config(self) -> Path:
        """Limits and other settings; see ``config.py``."""
        return self.home / "config.toml"

    @property
    def prices(self) -> Path:
        """The user's own price rows, which go before the package's."""
        return self.home / "prices.toml"
