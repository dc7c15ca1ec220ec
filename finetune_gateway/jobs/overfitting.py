"""The best step of a job by its loss on held-out rows, and whether it overfits from there on.

One rule for the trainer, the screens, the pages and comparisons. Knows nothing of trainers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

Loss = tuple[int, float]  # a step, and the loss there

LATER = 2  # evaluations after the best, at least, of which each is worse by the margin
LEAST = 0.02  # of the best loss: a rise by less is the noise of training
SHARE = 0.1  # of what the loss had fallen: so is this, unless the rows are known by heart
BY_HEART = 0.5  # of the loss on held-out rows: the training loss is below
PARTS = 20  # more evaluations are judged by the means of so many parts


@dataclass(frozen=True)
class Overfitting:
    """Where the loss on held-out rows turned, and how far it has risen since."""

    step: int  # of the lowest loss
    loss: float
    last_step: int
    last_loss: float

    def __str__(self) -> str:
        return (
            f"overfitting from step {self.step:,} on: valid_loss {figure(self.loss)} there, "
            f"{figure(self.last_loss)} at step {self.last_step:,}"
        )


def best(valid: Sequence[Loss]) -> Loss:
    """Return the evaluation with the lowest loss, the first of equal ones."""
    return min(valid, key=lambda one: (one[1], one[0]))


def since_best(valid: Sequence[Loss]) -> int:
    """Return how many evaluations came after the best one."""
    return len(valid) - 1 - [*valid].index(best(valid)) if valid else 0


def find_overfitting(train: Sequence[Loss], valid: Sequence[Loss]) -> Overfitting | None:
    """Return the overfitting that the losses of a job show, by step; None if they show none.

    The loss on held-out rows has a lowest point; at least the last two evaluations are above it, by
    2 % of it and, as long as the training loss is not below half of it, by a tenth of what it had
    fallen until there; and the training loss has gone on to fall. A curve that levels out, or
    trembles there, is none.
    """
    if len(valid) <= LATER:
        return None
    judged = _means(valid) if len(valid) > PARTS else [*valid]
    step, lowest = best(judged)
    later = [loss for at, loss in judged if at > step]
    before = [loss for at, loss in train if at <= step][-LATER:]
    after = [loss for at, loss in train if at > step][-LATER:]
    by_heart = bool(after) and fmean(after) < BY_HEART * lowest
    fallen = max(loss for _, loss in (*train[:1], valid[0])) - lowest
    margin = max(LEAST * abs(lowest), 0 if by_heart else SHARE * fallen)
    if len(later) < LATER or min(later[-LATER:]) <= lowest + margin:
        return None
    if before and after and fmean(after) >= fmean(before):
        return None  # the training itself has become worse
    return Overfitting(*_turn(valid, step), *valid[-1])


def _turn(valid: Sequence[Loss], step: int) -> Loss:
    """Return the best evaluation, if it is near ``step``: of noisy ones it may not be."""
    steps = [at for at, _ in valid]
    found = best(valid)
    near = abs(steps.index(found[0]) - steps.index(step)) <= len(valid) // PARTS + 1
    return found if near else (step, dict(valid)[step])


def _means(valid: Sequence[Loss]) -> list[Loss]:
    """Return the mean loss of each twentieth, at the step of its lowest."""
    edges = [part * len(valid) // PARTS for part in range(PARTS + 1)]
    parts = [valid[start:end] for start, end in pairwise(edges)]
    return [(best(part)[0], fmean(loss for _, loss in part)) for part in parts]


def result_step_text(metrics: Mapping[str, Any]) -> str:
    """Return ``best at step 120 (validation loss 1.21), last step 300 (1.64)`` of the metrics of a
    result; empty for one whose training had no held-out rows."""
    step, loss = metrics.get("step"), metrics.get("valid_loss")
    if not isinstance(step, int) or not isinstance(loss, int | float):
        return ""
    last_step, last_loss = metrics.get("last_step"), metrics.get("last_valid_loss")
    if not isinstance(last_step, int) or not isinstance(last_loss, int | float):
        return f"step {step:,}, the last (validation loss {figure(loss)})"
    which = "best at step" if loss <= last_loss else "at step"
    return (
        f"{which} {step:,} (validation loss {figure(loss)}), last step {last_step:,} "
        f"({figure(last_loss)})"
    )


def figure(loss: float) -> str:
    """Return a loss with three digits."""
    return f"{loss:.3g}"
