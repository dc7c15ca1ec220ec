"""Where a training goes on: at the newest checkpoint that is as it was saved, with the threads that
it was made with, and with other versions only where that is allowed. Imports torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from finetune_gateway.backends.local import checkpoints, versions
from finetune_gateway.backends.local.run import Run
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import calibration

FLAG = "--allow-changed-versions"


def newest_checkpoint(run: Run) -> Path | None:
    """Return the newest checkpoint that is as it was saved, and say which are not."""
    found, aside = checkpoints.newest(run.checkpoints)
    for one in aside:
        tell_set_aside(run, one)
    if aside and found is None:
        run.event("No checkpoint is left: training begins anew.", level="warn")
    return found


def tell_set_aside(run: Run, one: checkpoints.SetAside) -> None:
    run.event(one.text, level="warn", data={"checkpoint": one.name, "kept": one.kept})


# -- versions, device, threads -------------------------------------------------------------


def environment() -> dict[str, str]:
    """Return what this process trains with: versions, the device, and on a CPU the threads."""
    if torch.cuda.is_available():
        return {**versions.installed(), versions.DEVICE: torch.cuda.get_device_name()}
    return {
        **versions.installed(),
        versions.DEVICE: f"cpu {torch.backends.cpu.get_cpu_capability()}",
        versions.THREADS: str(torch.get_num_threads()),
    }


def keep_threads(run: Run) -> None:
    """Compute with as many threads as the checkpoints were made with, whatever OMP_NUM_THREADS is
    by now, unless other versions are allowed: a worker gets the environment of whoever looked at
    the jobs. A job begins with one where this machine was measured, and more were not faster each
    time."""
    chosen = "OMP_NUM_THREADS" in os.environ
    points = checkpoints.whole(run.checkpoints)
    kept = _environment_of(Path(points[-1].model)).get(versions.THREADS, "") if points else ""
    measured = calibration.read(run.settings.home)
    changed = chosen and versions.are_allowed(run.folder, run.queue.get(run.id).resumes)
    if kept.isdecimal() and int(kept) > 0 and not changed:
        torch.set_num_threads(int(kept))
    elif chosen:
        return
    elif measured and measured.machine == calibration.machine() and measured.threads_used == 1:
        torch.set_num_threads(1)


def tell_changed(run: Run) -> None:
    """Say which versions are others than those of the submit."""
    if differs := versions.changed(run.file.versions, versions.installed()):
        run.event(
            f"Since the submit, versions have changed: {versions.in_words(differs)}.",
            level="warn",
            data={"changed_versions": {name: [*pair] for name, pair in differs.items()}},
        )


def require_equal(run: Run, checkpoint: Path) -> str:
    """Return what has changed since this checkpoint was saved, in words, where that is allowed;
    empty if nothing decisive has. Raises GatewayError where it is not: the rest of the training
    would not be what it would have been."""
    then, now = _environment_of(checkpoint), environment()
    differs = versions.changed(then, now)
    found = versions.decisive(differs, run.spec)
    if not found:
        return ""
    words = versions.in_words({one.name: differs[one.name] for one in found})
    if not versions.are_allowed(run.folder, run.queue.get(run.id).resumes):
        why = "; ".join(f"{one.name}: {one.why}" for one in found)
        raise GatewayError(
            f"{checkpoint.name} was saved with others: {words}. What follows would not be equal, "
            f"bit for bit, to a training without a break ({why}).",
            hint=f"Put them back and run: ftg resume {run.id}. To go on all the same: "
            f"ftg resume {run.id} {FLAG}",
        )
    text = f"From step {checkpoints.step_of(checkpoint)} on it was trained with others: {words}."
    data: dict[str, Any] = {name: [*pair] for name, pair in differs.items()}
    run.event(text, level="warn", data={"changed_versions": data})
    return text


def _environment_of(checkpoint: Path) -> dict[str, str]:
    found = checkpoints.about(checkpoint).get("environment")
    return found if isinstance(found, dict) else {}
