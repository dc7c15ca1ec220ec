"""Models that a run has saved during training: which are as they were saved, and how one answers.

A checkpoint has the weights, tokenizer and template of its run. What else a model needs to answer
as it was trained is in the run: its base, its switches, the tokens that end an answer. Imports no
torch.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from finetune_gateway.backends.local import manifests
from finetune_gateway.backends.local.run_file import BASE_FILE, base_of, read_run_file
from finetune_gateway.errors import GatewayError, NotFoundError, SpecError, StoreError
from finetune_gateway.estimation.weights import read_header, read_json
from finetune_gateway.events import Checkpoint, Result
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.settings import config, files, sealed
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
LOSSES = {"loss": "train_loss", "eval_loss": "valid_loss"}  # the trainer's names, and ours
PROGRESS = "progress.json"  # ours, beside the trainer's own state
BASE_OF_OTHERS = "base-of-others"  # an empty file in one that is the base of another job
UNFINISHED = "unfinished"  # an empty file in one that is being saved, or deleted
BESIDE = (MANIFEST, BASE_OF_OTHERS, UNFINISHED)  # not of what was saved
DAMAGED = "damaged-"  # before the name of one that was set aside
MAX_STATE = 1 << 30  # bytes of a trainer's log
OPTIMIZER = "optimizer.pt"
STATE_FILES = (PROGRESS, "trainer_state.json", *manifests.TORCH_STATE)


class Damaged(GatewayError):
    """A checkpoint that a result was to be made of is not as it was saved; ``reason``: in what."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(
            f"{folder} was changed since it was saved, so it is no result: {reason}.",
            hint="Submit it again. Is the disk sound?",
        )
        self.folder, self.reason = folder, reason


@dataclass(frozen=True)
class SetAside:
    """A checkpoint that was not as it was saved; it is kept as ``kept``."""

    name: str
    reason: str
    kept: str

    @property
    def text(self) -> str:
        where = f"It was set aside, as {self.kept}." if self.kept != self.name else "It stays."
        return f"{self.name} is not as it was saved, and is not used: {self.reason}. {where}"


def begin(folder: Path) -> None:
    """Mark a checkpoint that is about to be saved, or deleted: what a kill leaves of it counts as
    none. Raises OSError."""
    files.folder(folder)
    files.make_private(folder / UNFINISHED)
    (folder / MANIFEST).unlink(missing_ok=True)


def finish(folder: Path, about: Mapping[str, Any]) -> None:
    """Write the manifest of a checkpoint, with the size and the hash of each of its files: now it
    counts. ``about``: what else it says. Raises OSError."""
    saved = manifests.describe(folder, without=BESIDE)
    # Not put on the disk: what a power cut has damaged is noticed, and ``sync`` comes in time.
    sealed.write(folder / MANIFEST, {**about, "files": saved}, fsync=False)
    (folder / UNFINISHED).unlink(missing_ok=True)


def is_whole(folder: Path) -> bool:
    """Return True unless a kill while saving has left half of a checkpoint. Reads nothing: see
    ``defect``."""
    has_state = all((folder / name).exists() for name in STATE_FILES)
    return has_state and any(folder.glob("*.safetensors")) and not _is_unfinished(folder)


def defect(folder: Path, *, optimizer: bool = True) -> str:
    """Return in what a checkpoint is not as it was saved, in words; empty if it is.

    ``optimizer``: False to leave its state unread: it is as large as two models, and none of it is
    in a result.
    """
    try:
        if (folder / MANIFEST).exists():
            return _difference(folder, optimizer)
        progress = read_json(folder / PROGRESS, MAX_STATE)
        if not isinstance(progress, dict) or progress.get("files") == MANIFEST:
            return f"{MANIFEST} is missing"
        sound = _is_sound(folder, progress)
    except (OSError, ValueError, SpecError) as exc:  # no JSON, no header
        return f"it cannot be read ({exc})"
    return "" if sound else "its files are not those that were saved"


def about(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a checkpoint says; nothing of one of an earlier version, or where
    it cannot be read."""
    try:
        return _manifest(folder)
    except (OSError, ValueError):
        return {}


def hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 of the files of a checkpoint as they were saved; none of an earlier
    version. Raises OSError, ValueError."""
    if (folder / MANIFEST).exists():
        return {name: one["sha256"] for name, one in _saved(folder).items()}
    progress = read_json(folder / PROGRESS, MAX_STATE)
    found = progress.get("files") if isinstance(progress, dict) else None
    return found if isinstance(found, dict) else {}


def newest(folder: Path) -> tuple[Path | None, list[SetAside]]:
    """Return the newest checkpoint that is as it was saved, and what was set aside to find it;
    remove what a kill has left half. For the holder of the run's lock alone. Raises OSError."""
    aside: list[SetAside] = []
    found = [path for path in folder.glob("checkpoint-*") if step_of(path).isdecimal()]
    for path in sorted(found, key=lambda path: int(step_of(path)), reverse=True):
        if path.is_dir() and _is_unfinished(path):
            shutil.rmtree(path)
        elif reason := defect(path):
            aside.append(set_aside(path, reason))
        else:
            return path, aside
    return None, aside


def set_aside(folder: Path, reason: str) -> SetAside:
    """Rename a checkpoint that is not as it was saved, so that nothing uses it. One that is the
    base of another job stays: that job looks at its weights itself. Raises OSError."""
    if (folder / BASE_OF_OTHERS).exists():
        return SetAside(folder.name, reason, folder.name)
    names = (f"{DAMAGED}{folder.name}{f'-{again}' if again else ''}" for again in count())
    kept = next(name for name in names if not folder.with_name(name).exists())
    folder.rename(folder.with_name(kept))
    return SetAside(folder.name, reason, kept)


def _is_unfinished(folder: Path) -> bool:
    """Return True for what a kill has left of a save, or of a deletion. An earlier version has
    written its progress last."""
    if (folder / MANIFEST).exists():
        return False
    return (folder / UNFINISHED).exists() or not (folder / PROGRESS).exists()


def _difference(folder: Path, optimizer: bool) -> str:
    saved = _saved(folder)
    if lacking := [name for name in STATE_FILES if name not in saved]:
        return f"its {MANIFEST} does not know {lacking[0]}"
    read = saved.keys() - (set() if optimizer else {OPTIMIZER})
    return manifests.difference(folder, saved, without=BESIDE, reading=read)


def _manifest(folder: Path) -> dict[str, Any]:
    """Return what the manifest of a checkpoint says. Raises OSError, ValueError for one that was
    changed."""
    try:
        found = read_json(folder / MANIFEST, MAX_STATE)
        return sealed.unsealed(found, folder / MANIFEST, "")
    except StoreError as exc:
        raise ValueError(exc.message) from None


def _saved(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the files in a manifest. Raises OSError, ValueError."""
    saved = _manifest(folder).get("files")
    if not isinstance(saved, dict) or not manifests.is_saved(saved):
        raise ValueError(f"{MANIFEST} has no list of files")
    return saved


# -- of earlier versions, which have written no manifest ---------------------------------------


def _is_sound(folder: Path, progress: dict[str, Any]) -> bool:
    """Return True if the files have the hashes that were kept, if any were, and those of torch,
    which are archives, the check values of their parts."""
    state = read_json(folder / STATE_FILES[1], MAX_STATE)
    steps = isinstance(state, dict) and isinstance(state.get("global_step"), int)
    kept = progress.get("files", {})
    same = isinstance(kept, dict) and all(
        files.sha256_of(folder / name) == digest for name, digest in kept.items()
    )
    weights = [read_header(path) for path in folder.glob("*.safetensors")]
    archives = [folder / name for name in STATE_FILES if not name.endswith(".json")]
    known = "trained_tokens" in progress and steps and same
    return known and all(weights) and all(map(_is_archive, archives))


def _is_archive(path: Path) -> bool:
    """Return True for a zip archive all parts of which have their check values."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        return False


# -- which are kept ----------------------------------------------------------------------------


def keep(folder: Path) -> None:
    """Keep a checkpoint for good: it is the base of another job. Raises OSError."""
    files.write_atomic(folder / BASE_OF_OTHERS, "", private=True)


def is_kept(point: Checkpoint) -> bool:
    """Return True for a checkpoint that is the base of another job."""
    return (Path(point.model) / BASE_OF_OTHERS).exists()


def whole(folder: Path) -> list[Checkpoint]:
    """Return the whole checkpoints of a run, by step; ``folder``: where they lie."""
    paths = [path for path in folder.glob("checkpoint-*") if step_of(path).isdecimal()]
    found = [
        Checkpoint(id=path.name, step=int(step_of(path)), model=str(path))
        for path in paths
        if is_whole(path)
    ]
    return sorted(found, key=lambda one: one.step)


def last_kept(settings: Settings) -> int:
    """Return how many of its last checkpoints a run keeps that has succeeded; all of them while the
    settings cannot be read."""
    try:
        return int(config.current_value(settings, "retention.checkpoints").amount or 0)
    except SpecError:  # commands say it; what is deleted now might be missed
        return sys.maxsize


def surplus(folder: Path, result: int, last: int) -> list[Checkpoint]:
    """Return the checkpoints that a run needs no more once it has its result: all but the one of
    the step of that, the ``last`` ones, and those that are the base of another job."""
    there = whole(folder)
    kept = {result, *(one.step for one in there[max(0, len(there) - last) :])}
    return [one for one in there if one.step not in kept and not is_kept(one)]


def sync(folder: Path) -> None:
    """Put a checkpoint on the disk. Raises OSError."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    for path in (*paths, folder, folder.parent):
        files.sync(path)


def remove(points: Sequence[Checkpoint]) -> None:
    """Delete checkpoints. First none of them is whole any more: a kill leaves nothing that looks
    so."""
    for point in points:
        begin(Path(point.model))
    for point in points:
        shutil.rmtree(point.model)


def copy_model(checkpoint: Path, target: Path) -> None:
    """Copy the model of a checkpoint, without the state of its training: the very files that a
    trainer would save at that step."""
    others = {*STATE_FILES, *BESIDE, "scaler.pt", "training_args.bin"}
    for path in checkpoint.rglob("*"):
        copy = target / path.relative_to(checkpoint)
        if path.is_dir():
            files.folder(copy)
        elif path.name not in others:
            files.copy_private(path, files.folder(copy.parent) / copy.name)


def step_of(path: Path) -> str:
    """Return the number in the name of a checkpoint."""
    return path.name.rpartition("-")[2]


def kind_of(spec: TrainingSpec) -> Literal["adapter", "merged", "reward"]:
    """Return what a run of this spec makes."""
    if spec.method == "reward":
        return "reward"
    return "merged" if spec.training_type == "full" else "adapter"


def result_of(run: Path, folder: Path) -> Result:
    """Return a checkpoint as a result of its run, whose folder is ``run``. Raises NotFoundError for
    one that is gone, GatewayError for one that is not as it was saved, and if the run does not say
    any more what its base was."""
    if not is_whole(folder):
        raise NotFoundError(
            f"There is no whole checkpoint in {folder}.",
            hint="A run keeps its last ones, and the best on its held-out rows (ftg config, "
            "retention.checkpoints). 'ftg prune' deletes them.",
        )
    if reason := defect(folder, optimizer=False):
        raise GatewayError(
            f"{folder} is not as it was saved: {reason}.",
            hint=f"Name another checkpoint of the job: ftg checkpoints {run.name}",
        )
    file, base = read_run_file(run), base_of(run)
    if not base:
        raise GatewayError(
            f"{run / BASE_FILE} is gone: it says what the base of this checkpoint is.",
            hint="Put a copy back, or train again.",
        )
    spec = file.spec
    _add_stops(folder, run / "model")
    template = folder / CHAT_TEMPLATE
    return Result(
        kind=kind_of(spec),
        model=str(folder),
        base_revision=base.get("revision"),
        base_sha256=base.get("sha256"),
        base_quantization="nf4" if spec.training_type == "qlora" else None,
        template_hash=files.sha256_of(template) if template.exists() else None,
        chat_template_kwargs=spec.chat_template_kwargs or {},
        continued_from=file.continued_from,
        metrics=_metrics(folder),
    )


def _add_stops(folder: Path, model: Path) -> None:
    """Copy what says which tokens end an answer into a checkpoint of an earlier version, which has
    saved none. The run has ended where there is a model: nothing deletes the folder meanwhile."""
    source = model / GENERATION_CONFIG
    there = any((folder / name).exists() for name in (GENERATION_CONFIG, MANIFEST))
    if there or not (model / MANIFEST).exists():
        return
    with files.storing(f"{folder} cannot be completed", folder):
        files.write_atomic(folder / GENERATION_CONFIG, source.read_text("utf-8"), private=True)


def _metrics(folder: Path) -> dict[str, Any]:
    """Return the last losses that the trainer has logged up to a checkpoint, under our names.
    Raises GatewayError if its log cannot be read."""
    log = folder / "trainer_state.json"
    try:
        state = read_json(log, MAX_STATE)
    except (OSError, ValueError) as exc:
        raise GatewayError(
            f"{log} cannot be read, so {folder.name} is not as it was saved: {exc}.",
            hint="Name another checkpoint of the job: ftg checkpoints JOB",
        ) from None
    history = state.get("log_history") if isinstance(state, dict) else None
    found: dict[str, Any] = {}
    for entry in history if isinstance(history, list) else ():
        found |= {ours: entry[name] for name, ours in LOSSES.items() if name in entry}
    return found
