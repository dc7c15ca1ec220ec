"""Models that a run has saved during training: which are whole, and how one answers.

A checkpoint has the weights, tokenizer and template of its run. What else a model needs to answer
as it was trained is in the run: its base, its switches, the tokens that end an answer. Imports no
torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from finetune_gateway.backends.local.run import BASE_FILE, RUN_FILE, RunFile
from finetune_gateway.errors import GatewayError, NotFoundError, SpecError
from finetune_gateway.estimation.weights import read_header, read_json
from finetune_gateway.events import Checkpoint, Result
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.settings import files
from finetune_gateway.spec import TrainingSpec

GENERATION_CONFIG = "generation_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
LOSSES = {"loss": "train_loss", "eval_loss": "valid_loss"}  # the trainer's names, and ours
LAST_FILE = "progress.json"  # ours and written last: with it a checkpoint is complete
BASE_OF_OTHERS = "base-of-others"  # an empty file in one that is the base of another job
MAX_STATE = 1 << 30  # bytes of a trainer's log
OPTIMIZER = "optimizer.pt"
STATE_FILES = (LAST_FILE, "trainer_state.json", OPTIMIZER, "scheduler.pt", "rng_state.pth")


def is_whole(folder: Path) -> bool:
    """Return True unless a kill while saving has left half of a checkpoint."""
    has_state = all((folder / name).exists() for name in STATE_FILES)
    return has_state and any(folder.glob("*.safetensors"))


def is_sound(folder: Path) -> bool:
    """Return True if a whole checkpoint is as it was saved: a power cut may have left files empty,
    full of zeros or cut, and a disk or memory may have changed a bit, which torch would load.

    Archives of torch have a check value of each part; of other files hashes are kept. Reads all.
    """
    try:
        progress, state = (read_json(folder / name, MAX_STATE) for name in STATE_FILES[:2])
        weights = [read_header(path) for path in folder.glob("*.safetensors")]
        same = _as_saved(folder, progress)
    except (ValueError, OSError, SpecError):  # no JSON, no header
        return False
    steps = isinstance(state, dict) and isinstance(state.get("global_step"), int)
    return same and steps and all(weights) and all(map(_is_archive, _archives(folder)))


def hashes_of(folder: Path) -> dict[str, str]:
    """Return the sha256 of the files of a checkpoint, by name, but of the last one, in which they
    are kept, of one that is completed later, and of the optimizer's state, which is as large as two
    models and has check values of its own."""
    skipped = (LAST_FILE, GENERATION_CONFIG, OPTIMIZER)
    names = (path for path in folder.iterdir() if path.is_file() and path.name not in skipped)
    return {path.name: files.sha256_of(path) for path in sorted(names)}


def _as_saved(folder: Path, progress: Any) -> bool:
    """Return True if the files have the hashes that were kept; an earlier version kept none."""
    if not isinstance(progress, dict) or "trained_tokens" not in progress:
        return False
    kept = progress.get("files", {})
    return isinstance(kept, dict) and all(
        files.sha256_of(folder / name) == digest for name, digest in kept.items()
    )


def _is_archive(path: Path) -> bool:
    """Return True for a zip archive all parts of which have their check values."""
    try:
        with ZipFile(path) as archive:
            return archive.testzip() is None
    except (BadZipFile, OSError, EOFError, ValueError, NotImplementedError):
        return False


def _archives(folder: Path) -> list[Path]:
    """Return the files of a checkpoint that torch has written: they are zip archives."""
    return [folder / name for name in STATE_FILES if not name.endswith(".json")]


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


def remove(points: Sequence[Checkpoint]) -> None:
    """Delete checkpoints. First none of them is whole any more: a kill leaves nothing that looks
    so."""
    for point in points:
        (Path(point.model) / LAST_FILE).unlink()
    for point in points:
        shutil.rmtree(point.model)


def copy_model(checkpoint: Path, target: Path) -> None:
    """Copy the model of a checkpoint, without the state of its training: the very files that a
    trainer would save at that step."""
    others = {*STATE_FILES, BASE_OF_OTHERS, "scaler.pt", "training_args.bin"}
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
    one that is gone, GatewayError if the run does not say any more what its base was."""
    if not is_whole(folder):
        raise NotFoundError(
            f"There is no whole checkpoint in {folder}.",
            hint="A run keeps its last two, and the best on its held-out rows. 'ftg prune' deletes "
            "them.",
        )
    try:
        file = RunFile.model_validate_json((run / RUN_FILE).read_bytes())
        base: dict[str, Any] = json.loads((run / BASE_FILE).read_bytes())
    except (OSError, ValueError):
        raise GatewayError(
            f"{run / RUN_FILE} or {BASE_FILE} beside it cannot be read: they say what the base of "
            "this checkpoint is.",
            hint="Put a copy back, or train again.",
        ) from None
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
    if (folder / GENERATION_CONFIG).exists() or not (model / MANIFEST).exists():
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
