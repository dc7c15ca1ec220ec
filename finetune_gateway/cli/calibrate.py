"""``ftg doctor --calibrate``: measure once how fast this machine trains, and keep it."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

from pydantic import ValidationError

from finetune_gateway.backends.local.backend import STACK
from finetune_gateway.backends.local.queue import Queue, worker_environment
from finetune_gateway.errors import BackendError, MissingDependency
from finetune_gateway.estimation import calibration
from finetune_gateway.estimation.calibration import WORK, Calibration
from finetune_gateway.reports.output import print_message, wrap_text
from finetune_gateway.settings.home import Settings


def calibrate(settings: Settings, *, quiet: bool = False) -> Calibration:
    """Train small models for some seconds and write down what it took.

    Takes the slot of this machine, so that no job runs beside it. Raises MissingDependency
    without torch, BackendError when a job is running or measuring failed.
    """
    missing = [name for name in STACK if find_spec(name) is None]
    if missing:
        raise MissingDependency(f"Calibration (missing: {', '.join(missing)})", "local")
    slot = Queue(settings.create()).try_slot()
    if slot is None:
        raise BackendError(
            "A job is training on this machine; beside it nothing can be measured.",
            hint="Wait for it: ftg list --status running",
            backend="local",
        )
    try:
        print_message("Training small models to measure this machine; about a minute.", quiet=quiet)
        found = _measured(settings)
    finally:
        os.close(slot[1])
    calibration.write(settings.home, found)
    return found


def _measured(settings: Settings) -> Calibration:
    command = [sys.executable, "-m", "finetune_gateway.backends.local.calibrate"]
    # On the CPU: GPUs are reckoned by their datasheets.
    env = {**worker_environment(), "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*command, str(settings.home)], capture_output=True, text=True, env=env, check=False
    )
    try:
        return Calibration.model_validate_json(done.stdout.strip().rpartition("\n")[2])
    except ValidationError:
        last = done.stderr.strip().rpartition("\n")[2] or "it said nothing"
        raise BackendError(
            f"Measuring failed (exit {done.returncode}): {last[:300]}",
            hint="See what is wrong: ftg doctor",
            backend="local",
        ) from None


def document(found: Calibration) -> dict[str, Any]:
    """As JSON: the figures, and what each rate is a rate of."""
    return {**found.model_dump(mode="json"), "work": list(WORK)}


def screen(found: Calibration) -> str:
    """As text."""
    worst = max(abs(error) for error in found.errors)
    speed = f"{1 / found.rates[1] / 1e9:.0f} GFLOP/s" if found.rates[1] else "not told apart"
    rows = [
        ("measured on", f"{found.measured_on}, torch {found.torch}"),
        ("machine", found.machine),
        ("matrices", f"{speed} on one core, float32"),
        ("threads", _threads(found)),
        ("4 bits", _quantising(found)),
        ("busy", f"load {found.load_average:.1f}; a CPU second took {found.stretch:.2f} s"),
        ("start and end", f"{found.start_cpu:.1f} CPU seconds of a job, whatever it trains"),
        ("fit", f"{len(found.errors)} shapes, off by at most {worst:.0%}"),
    ]
    return "\n".join(wrap_text(f"{name:<15}{text}", " " * 15, "") for name, text in rows)


def _quantising(found: Calibration) -> str:
    if found.quantise_cpu is None:
        return "not measured, as bitsandbytes is not installed; only QLoRA needs it"
    return f"{found.quantise_cpu * 1e9:.0f} CPU seconds to turn a billion weights into them (QLoRA)"


def _threads(found: Calibration) -> str:
    if found.threads == 1:
        return "1"
    faster = f"{found.speedup:.2f} times as fast as one"
    return f"{found.threads} for models above 20 million parameters, {faster}"
