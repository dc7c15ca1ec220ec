"""Plan the steps of a run from the number of its rows: batches, epochs, when to log, evaluate and
save. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from finetune_gateway.estimation.batch_plan import batch_of, largest_divisor
from finetune_gateway.estimation.estimate import auto_epochs, auto_eval_steps
from finetune_gateway.spec import TrainingSpec

LOGGED_POINTS = 500  # loss points per job, at most
SEED = 42
SAVES = 10  # checkpoints per job; the last two and the best are kept


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run. A step has ``micro_batch * accumulation`` rows or packs: a batch."""

    engine: str  # fast | trl
    micro_batch: int  # rows per forward pass
    accumulation: int  # forward passes per step
    epochs: int
    steps: int  # of the whole run
    log_every: int
    eval_every: int
    save_every: int

    @property
    def batch(self) -> int:
        return self.micro_batch * self.accumulation


def seed_of(spec: TrainingSpec) -> int:
    return SEED if spec.seed is None else spec.seed


def plan_steps(
    spec: TrainingSpec, units: int, *, rows: int, held_out: int = 0, engine: str, micro_batch: int
) -> StepPlan:
    """Return the steps of a run on ``units`` rows or packs an epoch.

    ``rows``: of the data, those that have nothing to train included; the epochs go by them.
    ``held_out``: rows that are evaluated. ``micro_batch``: rows per forward pass; the batch, which
    the spec says, is accumulated from them, and the last one may be smaller.
    """
    batch = batch_of(spec)
    micro_batch = largest_divisor(batch, micro_batch)
    epochs = auto_epochs(rows) if spec.n_epochs == "auto" else spec.n_epochs
    a_epoch = ceil(units / batch)
    steps = spec.max_steps or epochs * a_epoch
    every = max(1, steps // SAVES)
    seen = steps / max(1, a_epoch) * rows  # of all epochs
    log_every = max(1, steps // LOGGED_POINTS)
    eval_every = auto_eval_steps(every, steps, seen, held_out)
    return StepPlan(
        engine=engine,
        micro_batch=micro_batch,
        accumulation=batch // micro_batch,
        epochs=epochs,
        steps=steps,
        log_every=log_every if spec.logging_steps == "auto" else spec.logging_steps,
        eval_every=eval_every if spec.eval_steps == "auto" else spec.eval_steps,
        save_every=every if spec.save_steps == "auto" else spec.save_steps,
    )
