"""The home folder: where the gateway keeps jobs, files and settings.

It is the ``home`` argument, else ``FTG_HOME``, else the platform's data folder
(``~/.local/share/finetune-gateway`` on Linux). Keys are never stored: a backend reads them from the
environment, and of a key the store has a salted fingerprint.

All that is in it is for this user alone: folders 0700, files 0600.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import platformdirs

from finetune_gateway.errors import StoreError
from finetune_gateway.settings import files
from finetune_gateway.settings.arguments import as_path
from finetune_gateway.settings.client_options import AMBIENT, ClientOptions

SALT, SALT_BYTES = "key.salt", 32
HERE = "$FTG_HOME/"  # begins a path in the store that is below the home folder, wherever that is
FOLDERS = ("files", "runs", "models")
DATABASE = "gateway.sqlite3"
PLACE = "place.json"  # where the home lay when it was opened last; see ``jobs/copied_home.py``
NARROWED = ".private"  # an empty file: what earlier versions left wide has been closed
# All that we write in a home folder; beside the database lie its -wal, -shm and -create.
_FOLDERS = (
    *(*FOLDERS, "spool", "encoded", "locks", "hosts", "fetched", "recordings", "answers"),
    "comparisons",
)
_FILES = (
    *(SALT, PLACE, "key_hosts", "backend_options", "config.toml", "prices.toml"),
    "calibration.json",
)
OWN = frozenset((*_FOLDERS, *_FILES))


@dataclass(frozen=True)
class Settings:
    """The home folder and the paths in it; ``client``: with what its Gateway reaches hosts."""

    home: Path
    client: ClientOptions = field(default=AMBIENT, repr=False)

    def __reduce__(self) -> tuple[type[Settings], tuple[Path]]:
        """Another process gets the folder: keys stay in this one."""
        return Settings, (self.home,)

    def named(self, name: str) -> Settings:
        """Return these for a backend with a name of its own in the Gateway."""
        return replace(self, client=self.client.named(name))

    @classmethod
    def load(cls, home: str | os.PathLike[str] | None = None) -> Settings:
        """Return the settings of a home folder; by default the user's own. Closes it to others."""
        chosen = (as_path(home, "home") if home else None) or os.environ.get("FTG_HOME")
        default = platformdirs.user_data_path("finetune-gateway", appauthor=False)
        return cls(Path(chosen).expanduser().absolute() if chosen else default).mend()

    def create(self) -> Settings:
        """Create the folders and return self. Raises StoreError if that is not possible."""
        self.require_writable()
        try:
            for folder in (self.home, self.files, self.runs, self.models, self.locks):
                files.folder(folder)
        except OSError as exc:
            for what, way_out in self.misplaced():
                if not self.home.is_dir() or what.startswith(f"{os.fsdecode(exc.filename)} "):
                    raise StoreError(f"{what}.", hint=way_out) from None
            raise StoreError(
                f"The home folder {self.home} cannot be created: {exc.strerror or exc}.",
                hint="Set FTG_HOME to a folder on a local disk that you may write to.",
            ) from None
        return self.mend()

    def misplaced(self) -> Iterator[tuple[str, str]]:
        """Yield what lies in the place of this home, or of a folder or a file of it, and the way
        out."""
        for path in (self.home, *self.home.parents):
            if path.exists() and not path.is_dir():
                place = "the home folder" if path == self.home else "a folder"
                way_out = "Set FTG_HOME or --home to a folder that you may write to."
                yield f"{path} is a file, where {place} has to be", way_out
        for name in _FOLDERS:
            path = self.home / name
            if os.path.lexists(path) and not path.is_dir():
                there = "a link to nowhere" if path.is_symlink() else "a file"
                what = f"{path} is {there}, where a folder of this home has to be"
                yield what, "Move it away; the folder is made again."
        for name in (*_FILES, DATABASE, NARROWED):
            if (path := self.home / name).is_dir():
                what = f"{path} is a folder, where a file of this home has to be"
                yield what, _MADE_AGAIN.get(name, "Move it away, and put a copy of yours back.")

    # -- who may read and write it -----------------------------------------------------------

    @property
    def read_only(self) -> bool:
        """True for a home with jobs that can be read and not written: another user's, or on a disk
        that is mounted so."""
        written = (self.home, self.database)
        return self.database.exists() and not all(may_write(path) for path in written)

    def require_writable(self) -> None:
        """Raise StoreError if nothing can be written here."""
        if self.read_only:
            raise StoreError(
                f"The home folder {self.home} can be read, but not written.",
                hint="Set FTG_HOME or --home to a folder that you may write to.",
            )

    def mend(self) -> Settings:
        """Take a home that exists from the group and all others, and return self.

        Earlier versions went by the umask in places. The whole tree is walked once; then only the
        home and what lies directly in it are looked at, and all is walked again if one of these is
        wide. A folder that has things of others too keeps its own mode.
        """
        if not self.home.is_dir() or self.read_only:
            return self
        with suppress(OSError):
            self._narrow()
        return self

    def _narrow(self) -> None:
        with os.scandir(self.home) as listed:
            entries = [*listed]
        own = [entry for entry in entries if _is_own(entry.name)]
        mode = self.home.stat().st_mode
        if mode & files.OTHERS and len(own) == len(entries):
            self.home.chmod(stat.S_IMODE(mode) & ~files.OTHERS)  # first: it closes what is below
        mended = NARROWED in {entry.name for entry in own} and not any(map(_is_wide, own))
        if mended or not own:
            return
        begun = self.home / f"{NARROWED}.tmp"
        files.make_private(begun)
        files.narrow(begun)
        if begun.stat().st_mode & files.OTHERS:
            return  # a disk without modes, such as exFAT: a walk would change nothing
        for entry in own:
            files.narrow(entry.path)
        begun.replace(self.home / NARROWED)

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
            with os.fdopen(files.open_private(fresh, os.O_WRONLY | os.O_EXCL), "wb") as f:
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
        return self.home / DATABASE

    @property
    def files(self) -> Path:
        """Copies of datasets, named by their content."""
        return self.home / "files"

    @property
    def spool(self) -> Path:
        """Rows that were not JSON lines, written as such while they are read."""
        return self.home / "spool"

    @property
    def encoded(self) -> Path:
        """Rows as token ids, kept for the next job on the same data."""
        return self.home / "encoded"

    @property
    def runs(self) -> Path:
        """One folder per local job."""
        return self.home / "runs"

    @property
    def models(self) -> Path:
        """Models that the gateway builds itself."""
        return self.home / "models"

    @property
    def fetched(self) -> Path:
        """What hosts have kept of jobs, saved here; see ``jobs/fetched.py``."""
        return self.home / "fetched"

    @property
    def recordings(self) -> Path:
        """What models answered, kept before they are shut down; see ``evaluation``."""
        return self.home / "recordings"

    @property
    def answers(self) -> Path:
        """What models answered in comparisons and checks: a folder for each model."""
        return self.home / "answers"

    @property
    def comparisons(self) -> Path:
        return self.home / "comparisons"

    @property
    def locks(self) -> Path:
        """The folder of locks, made again if somebody has removed it from a home with jobs."""
        folder = self.home / "locks"
        if not folder.is_dir() and self.database.exists():
            with suppress(OSError):  # what is there, or that it may not be written, is said later
                files.folder(folder)
        return folder

    @property
    def hosts(self) -> Path:
        """Hosts that were seen to keep our tags: an empty file for each."""
        return self.home / "hosts"

    @property
    def key_hosts(self) -> Path:
        """Which key's variable may be sent where; see ``bindings.py``."""
        return self.home / "key_hosts"

    @property
    def backend_options(self) -> Path:
        """With which options the user has built plug-ins; see ``bindings.py``."""
        return self.home / "backend_options"

    @property
    def config(self) -> Path:
        """The user's settings; see ``config.py``."""
        return self.home / "config.toml"

    @property
    def prices(self) -> Path:
        """The user's price rows, which come before the package's."""
        return self.home / "prices.toml"


# Which files are made again by themselves, or by a command.
_MADE_AGAIN = {
    **dict.fromkeys((PLACE, NARROWED), "Move it away; the file is made again."),
    "calibration.json": "Move it away, and run: ftg doctor --calibrate",
}


def _is_own(name: str) -> bool:
    """Return True for what we write in a home folder, half-written files among it."""
    return name in OWN or name.startswith((DATABASE, f".{SALT}.", NARROWED)) or ".tmp." in name


def _is_wide(entry: os.DirEntry[str]) -> bool:
    """Return True for what others may use, though it is ours to close."""
    found = entry.stat(follow_symlinks=False)
    is_link = stat.S_ISLNK(found.st_mode)
    return bool(found.st_mode & files.OTHERS) and not is_link and found.st_uid == os.geteuid()


def may_write(path: Path) -> bool:
    """Return True if this process may write a file, or in a folder; as the kernel judges it, with
    the rights that the process has now."""
    effective = os.access in os.supports_effective_ids
    mode = os.W_OK | os.X_OK if path.is_dir() else os.W_OK
    return os.access(path, mode, effective_ids=effective)
