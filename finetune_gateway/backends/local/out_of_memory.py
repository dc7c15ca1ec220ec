"""Recognise that memory ran out, from an error or from a dead worker, and say what helps.

A worker that the kernel kills for lack of memory (SIGKILL) cannot say so. Each attempt notes in
``attempt.json`` how long its log is and how many processes the kernel has killed so; whoever finds
the worker dead compares. Imports no torch.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from finetune_gateway.estimation.batch_plan import batch_rows
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.spec import TrainingSpec

# Words of CUDA, of torch's allocator on CPUs, of numpy, of Linux and of C++.
WORDS = (
    "out of memory",
    "alloc_failed",
    "can't allocate memory",
    "unable to allocate",
    "cannot allocate memory",
    "bad_alloc",
    "memoryerror",
)
KERNEL = Path("/proc/vmstat")  # of the whole machine, also in a container
TAIL = 20_000  # bytes of a log that are looked through


def is_out_of_memory(text: str) -> bool:
    """Return True if an error or a line of a log says that memory ran out."""
    return any(word in text.lower() for word in WORDS)


def advice(spec: TrainingSpec, phase: str, *, on_gpu: bool) -> str:
    """Return what needs less memory, for a job that had none left in this ``phase``: what changes
    the result least comes first."""
    ways = [] if phase != "training" else [*_smaller_steps(spec, on_gpu)]
    if spec.training_type == "full":
        ways.append("training_type=lora")
    elif on_gpu and spec.training_type != "qlora":
        ways.append("training_type=qlora")
    ways.append("a smaller model")
    return f"It needs less with {', '.join(ways)}; ftg estimate --explain says how much."


def _smaller_steps(spec: TrainingSpec, on_gpu: bool) -> list[str]:
    ways = []
    rows, several = batch_rows(spec), spec.gradient_accumulation_steps
    if rows > 1:
        same = f"gradient_accumulation_steps={rows * several}"
        ways.append(f"batch_size=1 and {same} (the same steps)")
    checkpointing = spec.gradient_checkpointing
    if not (on_gpu if checkpointing == "auto" else checkpointing):
        ways.append("gradient_checkpointing=true (the same steps, slower)")
    return [*ways, "a smaller max_length"]


# -- workers that died ---------------------------------------------------------------------


def begin_attempt(folder: Path) -> None:
    """Note in a run's folder what ``reason_of_death`` compares with."""
    log = folder / "worker.log"
    noted = {"log_bytes": log.stat().st_size if log.exists() else 0, "kernel_kills": kernel_kills()}
    write_atomic(folder / "attempt.json", json.dumps(noted), private=True)


def reason_of_death(folder: Path, phase: str, slot: str | None) -> str:
    """Return why the last attempt of a run died, as far as its log or the kernel says that memory
    ran out, with what helps; an empty string if neither does."""
    try:
        noted = json.loads((folder / "attempt.json").read_text("utf-8"))
    except FileNotFoundError:  # of an older version, or it died before it had a slot
        return ""
    said = next(filter(is_out_of_memory, _log_since(folder, noted["log_bytes"])), "")
    before, now = noted["kernel_kills"], kernel_kills()
    if said:
        reason = f"Memory ran out: {said.strip()[:300]}."
    elif before is not None and now is not None and now > before:
        reason = "Memory ran out: since it began, the kernel has killed processes for that."
    else:
        return ""
    run = json.loads((folder / "run.json").read_text("utf-8"))
    spec = TrainingSpec.model_validate(run["spec"])
    return f"{reason} {advice(spec, phase, on_gpu=slot not in (None, 'cpu'))}"


def kernel_kills() -> int | None:
    """Return how many processes this machine's kernel has killed since it started because memory
    ran out; None where it does not say."""
    with suppress(OSError, ValueError):
        for line in KERNEL.read_text("ascii").splitlines():
            name, _, count = line.partition(" ")
            if name == "oom_kill":
                return int(count)
    return None


def _log_since(folder: Path, start: int) -> list[str]:
    """Return the last lines of a worker's log, of those after ``start`` bytes."""
    path = folder / "worker.log"
    if not path.exists():
        return []
    with path.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(start, end - TAIL))
        return file.read().decode("utf-8", "replace").splitlines()
