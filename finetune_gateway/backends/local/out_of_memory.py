"""Recognise an error that says that memory ran out; train on with fewer rows at once, or say what
helps. What shows it of a worker that died: see ``deaths``.

How many rows pass through the model at once is in ``micro_batch.json``: it is halved, and the steps
stay the same, as a batch is accumulated from more parts. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

from finetune_gateway.backends.local.deaths import is_out_of_memory
from finetune_gateway.estimation.batch_plan import batch_of, largest_divisor, needs_whole_batch
from finetune_gateway.methods import METHODS
from finetune_gateway.settings import sealed
from finetune_gateway.spec import TrainingSpec

MICRO_BATCH = "micro_batch.json"
TRAINING, REFERENCE = "training", "scoring the rows by the reference"
IN_BATCHES = (TRAINING, REFERENCE)  # phases whose memory grows with the micro-batch


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
        sealed.write(folder / MICRO_BATCH, {"rows": rows})
    return rows


def kept(folder: Path) -> int | None:
    """Return how many rows an earlier attempt has kept; None without, and where that was damaged:
    memory may run out again, and the steps stay the same."""
    try:
        rows = sealed.read(folder / MICRO_BATCH, "").get("rows")
    except OSError:
        return None
    return rows if isinstance(rows, int) and rows > 0 else None


def halve(folder: Path, spec: TrainingSpec, phase: str) -> int | None:
    """Keep half as many rows at once for the next attempt of a run that had no memory in this
    ``phase``, and return how many. None where that does not help, or cannot be done."""
    rows = kept(folder)
    if rows is None or rows < 2 or phase not in IN_BATCHES:
        return None
    half = largest_divisor(batch_of(spec), rows // 2)
    sealed.write(folder / MICRO_BATCH, {"rows": half})
    return half


def again_in_words(rows: int, spec: TrainingSpec) -> str:
    """Return what the next attempt does."""
    at_once = "one row passes" if rows == 1 else f"{rows} rows pass"
    return (
        f"From here on {at_once} through the model at once; a step has the same {batch_of(spec)}."
    )


# -- workers that died ---------------------------------------------------------------------


def advice_for_dead(folder: Path, phase: str, slot: str | None) -> str:
    """Return what helps a run whose last attempt died for lack of memory in this ``phase``."""
    try:
        spec = TrainingSpec.model_validate(sealed.read(folder / "run.json", "")["spec"])
    except (OSError, ValueError, KeyError):  # damaged: the next attempt says so
        return ""
    return advice(spec, phase, on_gpu=slot not in (None, "cpu"))
