"""What was fetched from hosts and is kept in the home folder, before they delete it.

``fetched/files/<sha256>.jsonl`` holds each content once, whichever jobs it is of. In
``fetched/<host>/<job>/`` it has a name that people can read (``train.jsonl``, a hard link), and
``manifest.json`` says of each piece whether it was saved, is gone or was refused, and why. Content
is whole before a manifest names it, so that a kill at any moment leaves nothing half; after a power
cut what is not as long as the manifest says counts as not saved.

Knows no host: ``migration.fetching`` asks.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, ValidationError

from finetune_gateway.errors import StoreError
from finetune_gateway.events import JobStatus
from finetune_gateway.model import Model
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings

CONTENTS = "files"  # the folder in ``fetched`` that holds each content once
MANIFEST = "manifest.json"
_NAME = re.compile(r"[0-9a-f]{64}\.[a-z]+")  # of a content
LONGEST_NAME = 128  # characters of an id that is the name of a folder

Kind = Literal[
    "job", "training", "validation", "result", "events", "checkpoints", "metrics", "stored"
]
# ``gone``: a key that sees another file of the same job lacks this one. ``not_visible``: no key
# that was used sees it, because it is gone or belongs to another project. ``failed``: not now.
State = Literal["saved", "gone", "not_visible", "refused", "failed"]
Why = Literal["", "scope", "key", "free_account", "purpose", "not_there", "other"]


def _plain(name: str) -> str:
    """Return the name of a file that lies in the folder where it is looked for."""
    if "/" in name or "\\" in name or "\0" in name or name.startswith("."):
        raise ValueError("is no name of a file here")
    return name


Plain = Annotated[str, AfterValidator(_plain)]


class Piece(Model):
    """One thing of a job that was asked for.

    ``id``: of a file, at the host. ``name``: in the folder of the job. ``content``: in the folder
    of all contents. ``final``: it will not change at the host. ``asked``: fingerprints of the
    accounts that do not see it. ``key``: the variable of the key that gave it.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    kind: Kind
    state: State
    id: str | None = None
    name: Plain = ""
    content: Plain = ""
    sha256: str | None = None
    bytes: int | None = None
    rows: int | None = None
    remote_name: str | None = None
    final: bool = False
    why: Why = ""
    reason: str = ""
    note: str = ""
    key: str | None = None
    asked: tuple[str, ...] = ()
    at: float = 0.0


class Manifest(Model):
    """What is kept of one job of a host. ``keys``: variables of the keys that see the job."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    version: Literal[1] = 1
    host: str
    base_url: str | None = None
    profile: str = "custom"
    job_id: str
    model: str | None = None
    base_model: str | None = None
    status: str = "unknown"
    checkpoints: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    pieces: tuple[Piece, ...] = ()
    updated_at: float = 0.0

    @property
    def ended(self) -> bool:
        """True if the host does not change the job any more."""
        return JobStatus.parse(self.status).final

    @property
    def names(self) -> tuple[str, ...]:
        """Return what it is found by: the ids of the job, its model and its checkpoints."""
        return tuple(filter(None, (self.model, self.job_id, *self.checkpoints)))

    def piece(self, kind: Kind, file_id: str | None = None) -> Piece | None:
        """Return a piece; of several the one with this id at the host."""
        found = (one for one in self.pieces if one.kind == kind)
        return next((one for one in found if file_id in (None, one.id)), None)

    def with_piece(self, piece: Piece) -> Manifest:
        """Return the manifest with this piece in the place of an earlier one."""
        same = [(one.kind, one.id) == (piece.kind, piece.id) for one in self.pieces]
        pieces = [piece if is_it else one for is_it, one in zip(same, self.pieces, strict=True)]
        kept = tuple(pieces if any(same) else [*pieces, piece])
        return self.model_copy(update={"pieces": kept, "updated_at": piece.at})


# -- where it lies -----------------------------------------------------------------------------


def folder(settings: Settings, host: str, job_id: str) -> Path:
    """Return the folder of a job, whether it is there or not."""
    return settings.fetched / _folder_name(host) / _folder_name(job_id)


def _folder_name(name: str) -> str:
    """Return a name that no other folder here has, and that a disk takes."""
    if len(name) > LONGEST_NAME or "/" in name or name.startswith("."):
        return hashlib.sha256(name.encode()).hexdigest()
    return f"{name}." if name == CONTENTS else name


def path_of(settings: Settings, manifest: Manifest, piece: Piece) -> Path | None:
    """Return where a piece that was saved lies, by the name that people read; None if it is not
    there."""
    if piece.state != "saved":
        return None
    named = folder(settings, manifest.host, manifest.job_id) / piece.name
    kept = settings.fetched / CONTENTS / piece.content
    return next((path for path in (named, kept) if _is_whole(path, piece)), None)


def find_piece(settings: Settings, manifest: Manifest, kind: Kind) -> Path | None:
    """Return where a piece of this kind lies; None if none was saved, or it is not there."""
    piece = manifest.piece(kind)
    return path_of(settings, manifest, piece) if piece else None


def _is_whole(path: Path, piece: Piece) -> bool:
    try:
        size = path.stat().st_size
        return path.is_file() and not path.is_symlink() and size == piece.bytes
    except OSError:
        return False


# -- reading -----------------------------------------------------------------------------------


def manifests(settings: Settings) -> Iterator[Manifest]:
    """Yield what is kept, job by job. One that cannot be read is left out."""
    for path in _paths(settings):
        if found := read(path):
            yield found


def _paths(settings: Settings) -> list[Path]:
    return sorted(settings.fetched.glob(f"*/*/{MANIFEST}"))


def read(path: Path) -> Manifest | None:
    """Return a manifest; None if there is none, or if a power cut has damaged it."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def find(settings: Settings, name: str) -> list[Manifest]:
    """Return what is kept of a model, one of its checkpoints, or a job of a host."""
    return [one for one in manifests(settings) if name in one.names]


def model_of(settings: Settings, name: str) -> str:
    """Return the fetched model that is meant by the id of its job, or by the last part of its own;
    the name as it is where none is, or several are."""
    if name.startswith("ft:"):
        return name
    meant = {
        one.model
        for one in manifests(settings)
        if one.model and (name == one.job_id or one.model.endswith(f":{name}"))
    }
    return meant.pop() if len(meant) == 1 else name


def of_job(settings: Settings, host: str, job_id: str) -> Manifest | None:
    """Return what is kept of one job of a host."""
    return read(folder(settings, host, job_id) / MANIFEST)


# -- writing -----------------------------------------------------------------------------------


@contextmanager
def writing(settings: Settings) -> Iterator[None]:
    """Hold the lock of those who write here. Raises StoreError while another process does."""
    settings.create()
    with files.storing("What is fetched cannot be kept", settings.fetched):
        files.folder(settings.fetched / CONTENTS)
    with files.try_locking(lock(settings)) as ours:
        if not ours:
            raise StoreError(
                "Another process fetches into this home folder.", hint="Wait until it has ended."
            )
        yield


def lock(settings: Settings) -> Path:
    """Return the file that is locked while somebody fetches."""
    return settings.locks / "fetched"


def save(settings: Settings, manifest: Manifest, *, fsync: bool = False) -> None:
    """Write a manifest. Raises StoreError. ``fsync``: a power cut keeps it too."""
    place = folder(settings, manifest.host, manifest.job_id)
    with files.storing("What was fetched cannot be written down", place):
        files.folder(place)
        text = manifest.model_dump_json(indent=1, exclude_none=True) + "\n"
        files.write_atomic(place / MANIFEST, text, fsync=fsync, private=True)


def settle(settings: Settings, manifest: Manifest, contents: Iterable[str]) -> None:
    """Put a manifest and these contents on the disk, so that a power cut keeps them. Raises
    StoreError."""
    kept = settings.fetched / CONTENTS
    with files.storing("What was fetched cannot be put on the disk", kept):
        for content in contents:
            files.sync(kept / content)
        files.sync(kept)
    save(settings, manifest, fsync=True)


def keep(
    settings: Settings, chunks: Iterable[bytes], ending: Callable[[], str]
) -> tuple[str, str, int]:
    """Write chunks to a file by its content; return its name, its sha256 and its bytes. ``settle``
    puts it on the disk.

    ``ending``: gives the end of its name (``.jsonl``) once all chunks have come. Raises StoreError,
    and what the chunks raise: then nothing is left.
    """
    contents = settings.fetched / CONTENTS
    with files.storing("What is fetched cannot be kept", contents):
        path, digest = files.write_by_content(
            contents,
            chunks,
            lambda sha256: f"{sha256}{ending()}",
            fsync=False,
            replace=False,
        )
        return path.name, digest, path.stat().st_size


def name_content(settings: Settings, manifest: Manifest, content: str, name: str) -> str:
    """Give a content a name in the folder of a job; return it, or nothing on a disk without
    links."""
    place = folder(settings, manifest.host, manifest.job_id)
    with files.storing("What was fetched cannot be named", place):
        files.folder(place)
    return name if _link(settings.fetched / CONTENTS / content, place / name) else ""


# -- removing ----------------------------------------------------------------------------------


def doomed(settings: Settings, going: Collection[Manifest]) -> list[Path]:
    """Return the folders and contents that nobody needs without these manifests. Raises StoreError
    while another one cannot be read: it may name the same contents, which would stay unsaid."""
    places = [folder(settings, one.host, one.job_id) for one in going]
    for path in _paths(settings) if going else ():
        if path.parent not in places and read(path) is None:
            raise StoreError(
                f"{path} cannot be read, so it is not known which files its fine-tune shares with "
                "what is to be removed. Nothing was removed.",
                hint="Fetch it again (ftg migrate fetch), or delete its folder; then run the same "
                "command again.",
            )
    return [*places, *_unneeded(settings, {place / MANIFEST for place in places})]


def _unneeded(settings: Settings, without: Collection[Path] = ()) -> list[Path]:
    """Return the contents that no manifest names but those ``without``. Nothing while one cannot
    be read, which may name them."""
    needed: set[str] = set()
    for path in _paths(settings):
        if path in without:
            continue
        found = read(path)
        if found is None:
            return []
        needed.update(piece.content for piece in found.pieces)
    contents = (settings.fetched / CONTENTS).glob("[0-9a-f]*")
    # What has another name is not ours.
    return [path for path in contents if _NAME.fullmatch(path.name) and path.name not in needed]


def leftovers(settings: Settings) -> list[Path]:
    """Return what killed processes have left; nothing while one fetches."""
    if not settings.fetched.is_dir() or files.is_locked(lock(settings)):
        return []
    return [*_temporaries(settings), *_unneeded(settings)]


def _temporaries(settings: Settings) -> list[Path]:
    return [*settings.fetched.rglob(".*.tmp.*")]


def tidy(settings: Settings) -> None:
    """Remove what killed processes have left. For who holds the lock."""
    with files.storing("What was left cannot be removed", settings.fetched):
        for path in (*_temporaries(settings), *_unneeded(settings)):
            path.unlink(missing_ok=True)
        drop_empty_folders(settings)


def drop_empty_folders(settings: Settings) -> None:
    """Remove the folders of hosts and jobs in which nothing is left."""
    contents = settings.fetched / CONTENTS
    for path in (*settings.fetched.glob("*/*"), *settings.fetched.glob("*")):
        if path.is_dir() and path != contents and not any(path.iterdir()):
            path.rmdir()


def _link(source: Path, name: Path) -> bool:
    """Give a file a second name, in place of what has it now; False on a disk without links."""
    fresh = name.with_name(f".{name.name[:40]}.tmp.{os.urandom(6).hex()}")
    try:
        if name.exists() and name.samefile(source):  # such a rename would leave both names
            return True
        os.link(source, fresh)
        os.replace(fresh, name)
    except OSError:
        fresh.unlink(missing_ok=True)
        return False
    return True
