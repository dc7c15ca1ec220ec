"""Measures how fast this machine trains, in a process of its own, and stores it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from pydantic import ValidationError

from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.spawning import worker_environment
from finetune_gateway.backends.local.versions import STACK
from finetune_gateway.errors import BackendError, MissingDependency
from finetune_gateway.estimation import calibration
from finetune_gateway.estimation.calibration import Calibration
from finetune_gateway.settings import interpreter
from finetune_gateway.settings.files import unlock
from finetune_gateway.settings.home import Settings


@contextmanager
def training_slot(settings: Settings) -> Iterator[None]:
    """Hold this machine's training slot, so that no job runs meanwhile.

    Raises MissingDependency without torch, BackendError while a job is running.
    """
    missing = [name for name in STACK if find_spec(name) is None]
    if missing:
        raise MissingDependency(f"Calibration (missing: {', '.join(missing)})", "local")
    slot = Queue(settings.create()).try_slot()
    if slot is None:
        raise BackendError(
            "A job is training on this machine; nothing can be measured meanwhile.",
            hint="Wait for it: ftg list --status running",
            backend="local",
        )
    try:
        yield
    finally:
        unlock(slot[1])


def measure(settings: Settings) -> Calibration:
    """Train small models, and store how long it took. Raises BackendError if it failed."""
    name = "finetune_gateway.backends.local.calibrate"
    command = interpreter.module(name, str(settings.home))
    # On the CPU: GPUs are estimated by their datasheets.
    env = {**worker_environment(), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    try:
        measured = Calibration.model_validate_json(done.stdout.strip().rpartition("\n")[2])
    except ValidationError:
        last = done.stderr.strip().rpartition("\n")[2] or "no output"
        raise BackendError(
            f"Measuring failed (exit code {done.returncode}): {last[:300]}",
            hint="To find out why: ftg doctor",
            backend="local",
        ) from None
    calibration.write(settings.home, measured)
    return measured
