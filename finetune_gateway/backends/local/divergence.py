"""Tell from the loss of each step when training has diverged. Knows nothing of trainers or torch.

The measure is guessing: the loss of a model that finds every token of its vocabulary equally
likely, ln(vocabulary), 11.9 for 151,936 tokens. A single loss says little: the rows of a batch
differ, and a spike may pass. So the rule is (docs/local.md):

1. two steps in a row lost more than twice what guessing loses, and more than twice the first step;
2. or each of 20 steps in a row lost a quarter of guessing more than the best so far, which is the
   first step or the lowest mean of 20 steps.

The first ends the jobs that explode, the second those that collapse: a ruined model soon learns
how often each token occurs, and then loses less than guessing.

A loss on preferences has another measure too: what a model loses that prefers neither answer. Some
begin there far above guessing (sppo_hard at 50), so the larger of both counts.

Others have rules of this shape: llm-foundry's KillLossSpike counts 5 steps in a row above twice the
mean of the last 100, or half of these above a loss of 10; Lightning's EarlyStopping has a
``divergence_threshold``, its learning rate finder stops at 4 times the best loss. Their ratios to
the best loss would end a good job here: fine-tuning reaches 0.01, of which 0.04 is four times.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any, Self

from finetune_gateway.errors import GatewayError

WINDOW = 20  # steps
EXPLODED = 2  # steps in a row
FACTOR = 2.0  # times guessing, and times the first loss
SHARE = 0.25  # of guessing, above the best
NOTHING_LEARNED = 1.1  # times the loss without a preference; a short run stays at 1
FEW = 5  # steps whose mean is the loss at the end


class Diverged(GatewayError):
    """The loss has risen so far that the model is ruined. Resumed, the job would take the same
    steps to the same end."""


class NotFinite(Diverged):
    """A loss, a gradient or a weight is NaN or infinite: to continue would write a broken model."""


@dataclass
class LossHistory:
    """The losses of a run as far as the rule needs them."""

    vocabulary: int  # tokens
    first: float | None = None
    best: float = math.inf
    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    neutral: float | None = None  # of a loss on preferences: for a model that has none

    @property
    def guessing(self) -> float:
        """The loss of a model that knows nothing, in nats a token or of a preference."""
        return max(math.log(self.vocabulary), self.neutral or 0.0)

    @property
    def margin(self) -> float:
        return SHARE * self.guessing

    def add(self, loss: float) -> str:
        """Add the loss of a step; return why training has diverged, or an empty string."""
        if self.first is None:
            self.first = self.best = loss
        self.recent.append(loss)
        reason = self._exploded() or self._collapsed()
        if len(self.recent) == WINDOW:
            self.best = min(self.best, fmean(self.recent))
        return reason

    def _exploded(self) -> str:
        assert self.first is not None  # for the type checker
        limit = FACTOR * max(self.guessing, self.first)
        last = [*self.recent][-EXPLODED:]
        if len(last) < EXPLODED or min(last) <= limit:
            return ""
        losses = " and ".join(f"{loss:.4g}" for loss in last)
        return (
            f"the last steps lost {losses}; the first lost {self.first:.4g}, and guessing would "
            f"lose {self.guessing:.4g}"
        )

    def _collapsed(self) -> str:
        if len(self.recent) < WINDOW or min(self.recent) <= self.best + self.margin:
            return ""
        return (
            f"the last {WINDOW} steps lost {fmean(self.recent):.4g}, each at least "
            f"{self.margin:.2g} more than the best before ({self.best:.4g})"
        )

    def warning(self) -> str:
        """Return what is wrong with the loss at the end of training, or an empty string."""
        if not self.recent:
            return ""
        last = fmean([*self.recent][-FEW:])
        if self.neutral is not None and last > NOTHING_LEARNED * self.neutral:
            return (
                f"The training loss ended at {last:.4g}. A model that prefers neither answer loses "
                f"{self.neutral:.4g}: it is no better than that on these rows."
            )
        if self.neutral is None and last > self.guessing:
            return (
                f"The training loss ended at {last:.4g}. Guessing among {self.vocabulary:,} tokens "
                f"loses {self.guessing:.4g}: the model is no better than that on these rows."
            )
        if last > self.best + self.margin:
            return (
                f"The training loss ended at {last:.4g}, after {self.best:.4g} at its best: the "
                "model has become worse."
            )
        return ""

    # -- in a checkpoint: a run that is continued goes by the same losses ----------------

    def dump(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return {"first": self.first, "best": self.best, "recent": [*self.recent]}

    def load(self, saved: dict[str, Any]) -> Self:
        """Return the history that ``dump`` wrote, by the measure of this one."""
        recent = deque(saved["recent"], maxlen=WINDOW)
        return replace(self, first=saved["first"], best=saved["best"], recent=recent)
