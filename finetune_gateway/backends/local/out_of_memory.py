"""Recognise that memory ran out, from an error or from a dead worker; train on with fewer rows at
once, or say what helps.

A worker that the kernel kills for lack of memory (SIGKILL) cannot say so. Each attempt notes in
``attempt.json`` how long its log is and how many processes the kernel has killed so; whoever finds
the worker dead compares. How many rows pass through the model at once is in ``micro_batch.json``:
it is halved, and the steps stay the same, as a batch is accumulated from more parts. Imports no
torch.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from finetune_gateway.estimation.batch_plan import batch_of, largest_divisor, needs_whole_batch
from finetune_gateway.methods import METHODS
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
MICRO_BATCH = "micro_batch.json"
TRAINING, REFERENCE = "training", "scoring the rows by the reference"
IN_BATCHES = (TRAINING, REFERENCE)  # phases whose memory grows with the micro-batch


def is_out_of_memory(text: str) -> bool:
    """Return True if an error or a line of a log says that memory ran out."""
    return any(word in text.lower() for word in WORDS)


def in_words(exc: BaseException) -> str:
    return f"{type(exc).__name__}: {str(exc).strip() or 'no message'}"


def is_error_of_memory(exc: BaseException) -> bool:
    """Return True if this error says that memory ran out."""
    return isinstance(exc, MemoryError) or is_out_of_memory(in_words(exc))


def advice(spec: TrainingSpec, phase: str, *, on_gpu: bool) -> str:
    """Return what needs less memory, for a job that had none left in this ``phase`` with as few
    rows at once as its loss allows: what changes the result least comes first."""
    found = [] if phase not in IN_BATCHES else [*_smaller_steps(spec, on_gpu)]
    if spec.training_type == "full":
        found.append("training_type=lora")
    elif on_gpu and spec.training_type != "qlora":
        found.append("training_type=qlora")
    found.append("a smaller model")
    return f"It needs less with {', '.join(found)}; ftg estimate --explain says how much."


def _smaller_steps(spec: TrainingSpec, on_gpu: bool) -> list[str]:
    found = []
    if spec.engine == "trl" and "fast" in METHODS[spec.method].engines:
        found.append("engine=fast (the same steps)")
    if needs_whole_batch(spec):
        found.append("a smaller batch_size")
    checkpointing = spec.gradient_checkpointing
    if not (on_gpu if checkpointing == "auto" else checkpointing):
        found.append("gradient_checkpointing=true (the same steps, slower)")
    return [*found, "a smaller max_length"]


# -- fewer rows at once --------------------------------------------------------------------


def micro_batch(folder: Path, wanted: int) -> int:
    """Return how many rows of a run pass through the model at once: as many as wanted, or as an
    earlier attempt has kept; and keep it."""
    rows = kept(folder)
    if rows is None:
        rows = wanted
        write_atomic(folder / MICRO_BATCH, json.dumps({"rows": rows}), private=True)
    return rows


def kept(folder: Path) -> int | None:
    path = folder / MICRO_BATCH
    return int(json.loads(path.read_text("utf-8"))["rows"]) if path.exists() else None


def halve(folder: Path, spec: TrainingSpec, phase: str) -> int | None:
    """Keep half as many rows at once for the next attempt of a run that had no memory in this
    ``phase``, and return how many. None where that does not help, or cannot be done."""
    rows = kept(folder)
    if rows is None or rows < 2 or phase not in IN_BATCHES:
        return None
    half = largest_divisor(batch_of(spec), rows // 2)
    write_atomic(folder / MICRO_BATCH, json.dumps({"rows": half}), private=True)
    return half


def again_in_words(rows: int, spec: TrainingSpec) -> str:
    """Return what the next attempt does."""
    at_once = "one row passes" if rows == 1 else f"{rows} rows pass"
    return (
        f"From here on {at_once} through the model at once; a step has the same {batch_of(spec)}."
    )


# -- workers that died ---------------------------------------------------------------------


def begin_attempt(folder: Path) -> None:
    """Note in a run's folder what ``reason_of_death`` compares with."""
    log = folder / "worker.log"
    noted = {"log_bytes": log.stat().st_size if log.exists() else 0, "kernel_kills": kernel_kills()}
    write_atomic(folder / "attempt.json", json.dumps(noted), private=True)


def reason_of_death(folder: Path) -> str:
    """Return why the last attempt of a run died, as far as its log or the kernel says that memory
    ran out; an empty string if neither does."""
    try:
        noted = json.loads((folder / "attempt.json").read_text("utf-8"))
    except FileNotFoundError:  # of an older version, or it died before it had a slot
        return ""
    said = next(filter(is_out_of_memory, _log_since(folder, noted["log_bytes"])), "")
    before, now = noted["kernel_kills"], kernel_kills()
    if said:
        return f"Memory ran out: {said.strip()[:300]}."
    if before is not None and now is not None and now > before:
        return "Memory ran out: since it began, the kernel has killed processes for that."
    return ""


def advice_for_dead(folder: Path, phase: str, slot: str | None) -> str:
    """Return what helps a run whose last attempt died for lack of memory in this ``phase``."""
    run = json.loads((folder / "run.json").read_text("utf-8"))
    spec = TrainingSpec.model_validate(run["spec"])
    return advice(spec, phase, on_gpu=slot not in (None, "cpu"))


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
