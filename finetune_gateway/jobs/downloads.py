"""A model that its host gives as files, brought onto this machine: whole, or not at all.

Files are written to a hidden folder beside the one that is asked for, each is checked by its size
and its hash, and then the folder is renamed. After a kill the same call goes on: what is whole is
not asked for again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Protocol

from finetune_gateway.backend import Artifact, BackendError, HandleData
from finetune_gateway.errors import SpecError, StoreError, UnsupportedError, shown
from finetune_gateway.estimation import weights
from finetune_gateway.jobs import archives
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.sizes import bytes_of
from finetune_gateway.text.cleaning import encodable, visible

FILE_NAME = "finetune_gateway.json"  # of a handle in the folder of its model
MANIFEST = "manifest.json"  # sha256 of every file of a local model; written last
LOCK = ".lock"
_JOB = re.compile(r"ftg-[a-z0-9]{1,40}")  # an id of ours
NEEDED = {"adapter": "adapter_config.json", "merged": "config.json"}  # beside the weights
WEIGHTS = {"adapter": ("adapter_model.safetensors",), "merged": (weights.SINGLE, weights.INDEX)}
LONGEST_NAME = 240  # bytes; that of the hidden folder has 6 more, and a disk takes 255
# What else of a handle is true of the files too, wherever they are.
KEPT = (
    *("base_revision", "base_sha256", "base_quantization", "template_hash", "chat_template_kwargs"),
    *("system_prompt", "job_id", "step", "continued_from", "dataset_sha256", "metrics", "warnings"),
    "created_at",
)

# Beside the files of the model in its folder.
OURS = (FILE_NAME, MANIFEST, LOCK)

Report = Callable[[str], object]


class Source(Protocol):
    """Where the files of a model come from: a backend, or the Hub."""

    @property
    def name(self) -> str: ...

    @property
    def display_name(self) -> str: ...

    def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None: ...


def folder_of(handle: HandleData, settings: Settings) -> Path:
    """Return where a model lies that was brought here without a place being named: by its job, if
    that is one of ours; a handle may come from somebody else."""
    job_id = handle.job_id or ""
    digest = hashlib.sha256(encodable(f"{job_id}{handle.model}").encode()).hexdigest()
    name = job_id if _JOB.fullmatch(job_id) else digest[:16]
    return settings.models / (name if handle.step is None else f"{name}@{handle.step}")


def of_job(settings: Settings, job_id: str) -> list[Path]:
    """Return what was brought into the home folder of a job, and what a kill has left of it."""
    folder = settings.models
    names = (job_id, f"{job_id}@*", f".{job_id}.part", f".{job_id}@*.part")
    return [path for name in names for path in folder.glob(name)]


def download(
    handle: HandleData,
    backend: Source,
    place: str | os.PathLike[str],
    *,
    base: str | None = None,
    private: bool = False,
    report: Report = lambda text: None,
) -> Path:
    """Write the files of a model to a folder, with the handle of what lies there, and return its
    whole path. A folder that holds this very model is not written again.

    ``base``: its base on this machine, where that has another name than the backend has said.
    ``private``: for this user alone. ``report`` is called with what is being done. Raises SpecError
    for a folder that holds something else, UnsupportedError for a model that its host gives no
    files of, BackendError for a file that is not what its host says, and StoreError.
    """
    wanted = _wanted(handle, backend)
    folder = place_of(place)
    with files.storing("The model cannot be saved", folder.parent):
        if not _holds(folder, wanted):
            if not is_taken(folder):
                _fill(handle, backend, folder, wanted, base, private, report)
            elif not _holds(folder, wanted):  # nor has another process written it meanwhile
                _require_free(folder)
        if base is not None and _written(folder).base_model != base:
            document = _document(handle, folder, wanted[0].kind, base)
            files.write_atomic(folder / FILE_NAME, document)
    return folder


def saved_files(folder: Path) -> list[Path]:
    """Return the files of a model that was brought here."""
    return sorted(one for one in folder.iterdir() if one.name not in OURS)


def place_of(place: str | os.PathLike[str]) -> Path:
    """Return the whole path of a folder that the user names. Raises SpecError for what is none."""
    try:
        path = Path(os.path.abspath(Path(place).expanduser()))
        name = os.fsencode(path.name)
    except (TypeError, ValueError, RuntimeError):  # no text, no characters of names, no such user
        name = b""
    if not 0 < len(name) <= LONGEST_NAME or "\0" in str(path) or place == "":
        raise SpecError(
            f"{shown(place)} can be no new folder: nothing was written.",
            hint="Name a folder that is not there yet: --to FOLDER",
        )
    return path


def _wanted(handle: HandleData, backend: Source) -> list[Artifact]:
    """Return the files to get: the adapter, else the merged model."""
    name = visible(handle.job_id or handle.model)
    for kind in ("adapter", "merged"):
        if wanted := [one for one in handle.artifacts if one.kind == kind]:
            if not any(archives.is_archive(one.name) for one in wanted):  # else once it is here
                _require_model([one.name for one in wanted], kind, backend)
            return wanted
    raise UnsupportedError(
        f"{backend.display_name} gives no files of {name}.",
        hint=f"Ask it as it is: ftg chat {name}",
        backend=backend.name,
        option="download",
    )


def _require_model(names: Sequence[str], kind: str, backend: Source) -> None:
    """Raise UnsupportedError for files that are no model here."""
    has_weights = any(one in names for one in WEIGHTS[kind])
    if not has_weights or NEEDED[kind] not in names or {FILE_NAME, MANIFEST} & {*names}:
        raise UnsupportedError(
            f"{backend.display_name} gives {_listed(names)}, and a model here is {NEEDED[kind]} "
            f"and weights as safetensors, in {' or '.join(WEIGHTS[kind])}.",
            hint="Get the files at the host, and convert them where you trust them.",
            backend=backend.name,
            option="download",
        )


def _listed(names: Sequence[str], most: int = 10) -> str:
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(sorted(names)[:most]) + more


def _written(folder: Path) -> HandleData:
    """Return the handle in a folder. Raises OSError, and ValueError for what is none."""
    return HandleData.model_validate_json((folder / FILE_NAME).read_bytes())


def _holds(folder: Path, wanted: Sequence[Artifact]) -> bool:
    """Return True for a folder that holds these files, whole, as they were written here."""
    try:
        written = json.loads((folder / MANIFEST).read_bytes())
        made, digests = written["artifacts"], written["files"]
        if made != {one.name: one.sha256 or made[one.name] for one in wanted}:
            return False
        now = {name: files.sha256_of(folder / name) for name in digests}
        return now == digests and _written(folder).kind == wanted[0].kind
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def is_taken(folder: Path) -> bool:
    """Return True for a place where something is."""
    return folder.is_symlink() or folder.is_file() or (folder.is_dir() and any(folder.iterdir()))


def _require_free(folder: Path) -> None:
    """Raise SpecError for a place where something of the user's is."""
    if is_taken(folder):
        raise SpecError(
            f"{visible(str(folder))} is there, and not this model, whole: nothing was written.",
            hint="Name a folder that is not there yet: --to FOLDER",
        )


def _fill(
    handle: HandleData,
    backend: Source,
    folder: Path,
    wanted: Sequence[Artifact],
    base: str | None,
    private: bool,
    report: Report,
) -> None:
    part = folder.with_name(f".{folder.name}.part")
    with _lock(part, private):
        if folder.is_dir() and any(folder.iterdir()):  # another process has had the lock
            _clear(part)
            shutil.rmtree(part, ignore_errors=True)
            if not _holds(folder, wanted):
                _require_free(folder)
            return
        _clear(part, [one.name for one in wanted])
        _require_room(part, wanted)
        for number, one in enumerate(wanted, 1):
            report(f"downloading {visible(folder.name)}: {number} of {len(wanted)} files")
            if not _is_whole(part / one.name, one):
                backend.download(one, handle, part)
                _take(part / one.name)
                _require_whole(part / one.name, one, backend)
        made = {one.name: files.sha256_of(part / one.name) for one in wanted}
        names = _unpacked(part, wanted, backend)
        _require_readable(part, names, wanted[0].kind, backend)
        _finish(handle, folder, part, names, wanted[0].kind, base, made)
        if private:
            files.narrow(part)
        os.rename(part, folder)
        files.sync(folder.parent)
    (folder / LOCK).unlink(missing_ok=True)


def _lock(part: Path, private: bool) -> ExitStack:
    """Return the lock of a hidden folder, which is made: of the one that has this name now, for
    another process may have renamed that which we waited for."""
    while True:
        _require_ours(part)
        with suppress(FileExistsError):  # it was there, and is renamed in this moment
            (files.folder if private else _folder)(part)
        with ExitStack() as stack, suppress(FileNotFoundError):
            lock = stack.enter_context(files.locking(part / LOCK))
            if os.path.samestat(os.fstat(lock), os.stat(part / LOCK)):
                return stack.pop_all()


def _require_ours(part: Path) -> None:
    """Raise SpecError for a hidden folder that is not of a download of this user."""
    with suppress(FileNotFoundError):  # there is none, or another process has renamed it
        about = part.lstat()
        others = not stat.S_ISDIR(about.st_mode) or about.st_uid != os.getuid()
        others = others or (part / LOCK).is_symlink()
        there = set() if others else {*os.listdir(part)}
        if not others and (not there or LOCK in there or {*os.listdir(part)} != there):
            return
        raise SpecError(
            f"{visible(str(part))} is there, and not of a download: nothing was written.",
            hint="Name another folder: --to FOLDER",
        )


def _clear(part: Path, kept: Collection[str] = ()) -> None:
    """Remove what is no plain file of these names: through a link, a file elsewhere would be
    written."""
    for path in part.iterdir():
        about = path.lstat()
        plain = stat.S_ISREG(about.st_mode) and about.st_nlink == 1
        if path.name != LOCK and not (plain and path.name in kept):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _take(path: Path) -> None:
    """Put a copy in the place of a file that has another name too, which is not ours."""
    if path.is_file() and not path.is_symlink() and path.lstat().st_nlink > 1:
        copy = path.with_name(f".{path.name[:40]}.copy")
        shutil.copyfile(path, copy)
        os.replace(copy, path)


def _require_readable(part: Path, names: Sequence[str], kind: str, backend: Source) -> None:
    """Raise BackendError for files that no loader can read: a page in HTML, half of the weights."""
    try:
        if not isinstance(weights.read_json(part / NEEDED[kind], weights.MAX_CONFIG), dict):
            raise SpecError(f"{NEEDED[kind]} is no JSON object.")
        for name in names:
            if name.endswith(".safetensors") and not weights.read_header(part / name):
                raise SpecError(f"{name} holds no weights.")
        if kind == "merged":
            weights.read_weights(part)
    except (SpecError, ValueError) as exc:
        why = exc.message if isinstance(exc, SpecError) else f"{NEEDED[kind]} is no JSON."
        raise BackendError(
            f"What {backend.display_name} gives is no model: {visible(why)}",
            hint="Ask the host: its files are as it says. Nothing is at the place that you named.",
            backend=backend.name,
        ) from None


def _unpacked(part: Path, wanted: Sequence[Artifact], backend: Source) -> list[str]:
    """Return the files of the model: those of archives are written beside them. Raises BackendError
    for what can be none, and UnsupportedError for files that are no model here."""
    names = [one.name for one in wanted if not archives.is_archive(one.name)]
    for one in wanted:
        if archives.is_archive(one.name):
            try:
                found = archives.unpack(part / one.name, part, shutil.disk_usage(part).free)
            except SpecError as exc:
                raise BackendError(
                    f"{visible(one.name)} of {backend.display_name} is not unpacked: {exc}.",
                    hint="Get the files at the host.",
                    backend=backend.name,
                ) from None
            names += found
            _require_model(names, one.kind, backend)
    return names


def _folder(path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)


def _require_room(part: Path, wanted: Sequence[Artifact]) -> None:
    missing = sum(one.bytes for one in wanted) - bytes_of([part])
    free = shutil.disk_usage(part).free
    if missing > free:
        raise StoreError(
            f"The files have {missing:,} bytes more, and {part.parent} has room for {free:,}.",
            hint="Free some space there, or name a folder on another disk: --to FOLDER",
        )


def _is_whole(path: Path, wanted: Artifact) -> bool:
    """Return True for a file that is what its host says. Without a hash its size alone does not
    show that: it is asked for again."""
    return wanted.sha256 is not None and not _difference(path, wanted)


def _require_whole(path: Path, wanted: Artifact, backend: Source) -> None:
    if wrong := _difference(path, wanted):
        _remove(path)
        raise BackendError(
            f"{visible(wanted.name)} of {backend.display_name} is not what the host says: {wrong}.",
            hint="Run it again: what is whole is kept. If it stays so, ask the host.",
            backend=backend.name,
        )


def _difference(path: Path, wanted: Artifact) -> str:
    """Return how a file differs from what its host says; empty if it does not."""
    if path.is_symlink() or not path.is_file():
        return "no such file was written"
    if (size := path.stat().st_size) != wanted.bytes:
        return f"{size:,} bytes, not {wanted.bytes:,}"
    if wanted.sha256 is not None and (digest := files.sha256_of(path)) != wanted.sha256:
        return f"its sha256 is {digest[:12]}..., not {wanted.sha256[:12]}..."
    return ""


def _finish(
    handle: HandleData,
    folder: Path,
    part: Path,
    names: Sequence[str],
    kind: str,
    base: str | None,
    made: dict[str, str],
) -> None:
    """Write the handle and, last, the manifest; what else the backend has left there goes."""
    for path in part.iterdir():
        if path.name not in (*names, LOCK):
            _remove(path)
    files.write_atomic(part / FILE_NAME, _document(handle, folder, kind, base))
    for name in names:
        files.sync(part / name)
    hashes = {name: files.sha256_of(part / name) for name in names}
    manifest = json.dumps({"files": hashes, "artifacts": made}, indent=2)
    files.write_atomic(part / MANIFEST, f"{manifest}\n")
    files.sync(part)


def _document(handle: HandleData, folder: Path, kind: str, base: str | None) -> str:
    """Return the handle of what lies in a folder."""
    about = {
        "kind": kind,
        "model": str(folder),
        "base_model": base or handle.hub_base or handle.base_model,
        "backend": "local",
        **{name: getattr(handle, name) for name in KEPT},
    }
    if base is not None:  # of another name: what is known of the host's says nothing of it
        about |= {"base_revision": None, "base_sha256": None}
    try:
        return f"{HandleData.model_validate(about).model_dump_json(indent=2)}\n"
    except ValueError as exc:
        raise SpecError(f"The handle cannot be written: {visible(str(exc))}.") from None
