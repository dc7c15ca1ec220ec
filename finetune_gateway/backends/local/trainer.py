"""The trainers: what all of them report, and ours. Imports torch, not TRL.

``FastTrainer`` is a Trainer of transformers with another way to the loss. A batch is a list of rows
without padding. A method says what rows lose (``losses``) and in which unit (``units_of``: trained
tokens, pairs, rows); a step's loss is the sum over its rows divided by the units of all of them. So
the size of the micro-batch changes no loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer
from transformers.integrations.liger import apply_liger_kernel

from finetune_gateway.backends.local import checkpoints
from finetune_gateway.backends.local.precision import autocast
from finetune_gateway.backends.local.progress import Progress
from finetune_gateway.backends.local.row_table import RowTable

Row = Mapping[str, Any]  # the columns of one row: lists of token ids and labels


class WatchedTrainer(Trainer):
    """A Trainer that learns from its first step, and tells its progress what it has done."""

    progress: Progress

    def create_scheduler(
        self, num_training_steps: int, optimizer: Optimizer | None = None
    ) -> LRScheduler:
        """Return the schedule of transformers without its first rate, if that is 0.

        A warm-up of w steps of N begins there with 0/w: the first step learns nothing, in a job of
        one step no step does. Here step s (1 to N) has the rate of step s + 1 of N + 1: s/w, and
        where it falls linearly (N + 1 - s)/(N + 1 - w) from step w on.
        """
        warmup = self.args.get_warmup_steps(num_training_steps)
        if not warmup:
            return super().create_scheduler(num_training_steps, optimizer)
        scheduler = super().create_scheduler(num_training_steps + 1, optimizer)
        if isinstance(scheduler, LambdaLR):  # not reduce_lr_on_plateau: it has no warm-up
            factors = [one_step_on(factor) for factor in scheduler.lr_lambdas]
            self.lr_scheduler = scheduler = LambdaLR(scheduler.optimizer, factors)
        return scheduler

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Mark the folder first: what a kill leaves of it is no checkpoint."""
        run = self.progress.run
        checkpoints.begin(run.checkpoints / f"checkpoint-{self.state.global_step}")
        super()._save_checkpoint(model, trial)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log speed, memory and time left beside the loss."""
        if "loss" in logs:
            logs |= self.progress.figures(self.state)
        super().log(logs, start_time)


def one_step_on(factor: Callable[[int], float]) -> Callable[[int], float]:
    """Return the factor of a schedule, of the step after the one that is asked for."""
    return lambda done: factor(done + 1)


# -- ours ----------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """The rows of one forward pass. Not a list: accelerate would look through every id in it for
    tensors to move."""

    rows: Sequence[Row]


@dataclass(eq=False)
class Losses:
    """What some rows lose, summed over their units, and figures beside, summed likewise."""

    total: torch.Tensor  # () with a gradient in training
    units: int
    trained_tokens: int
    figures: Mapping[str, torch.Tensor | float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)  # of figures that not every unit has


class Figures:
    """Sums of figures, and their means. Tensors are read for the means: each time a GPU waits."""

    def __init__(self) -> None:
        self.sums: dict[str, torch.Tensor | float] = {}
        self.counts: dict[str, int] = {}

    def add(self, found: Losses) -> None:
        for name, value in found.figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            units = found.counts.get(name, found.units)
            self.counts[name] = self.counts.get(name, 0) + units

    def means(self) -> dict[str, float]:
        """Return each figure's mean over the units that have it; none for one that no unit has."""
        return {
            name: float(self.sums[name]) / count for name, count in self.counts.items() if count
        }


class FastTrainer(WatchedTrainer):
    """A trainer over rows without padding, whose loss does not depend on the micro-batch."""

    def __init__(self, *, train_dataset: RowTable, **given: Any) -> None:
        collate: Any = MicroBatch  # transformers wants a dict
        given["args"].remove_unused_columns = False  # a method's own are no arguments of the model
        rows: Any = train_dataset  # transformers wants a class of torch; it asks for no more
        super().__init__(train_dataset=rows, data_collator=collate, **given)
        self.loss_is_scaled_for_ga = True  # by the units of the whole batch
        self.step_units = 0  # of the step that is being made
        self._figures = Figures()  # of training since they were logged
        if self.args.use_liger_kernel:
            # Now: transformers does it when training begins, behind the scores of the reference,
            # which would be those of other kernels.
            apply_liger_kernel(self.model, self.args.liger_kernel_config)
        if self.args.gradient_checkpointing and isinstance(self.model, PeftModel):
            self.model.enable_input_require_grads()  # else none passes a frozen embedding

    def losses(self, model: Any, rows: Sequence[Row]) -> Losses:
        """Return what these rows lose; a method's own."""
        raise NotImplementedError

    def units_of(self, row: Row) -> int:
        """Return the units of a row, without the model; by default a row is one."""
        return 1

    def begin_step(self, batch: Sequence[MicroBatch]) -> None:
        """Get ready for the micro-batches of one step, for a method whose loss of a row depends on
        the others of its batch."""

    # -- what transformers calls

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], int]:
        batch = [one for _, one in zip(range(num_batches), epoch_iterator, strict=False)]
        if device.type == "cpu" and not isinstance(self.model, PeftModel):
            self._make_gradients()
        with self.compute_loss_context_manager():
            self.begin_step(batch)
        return batch, sum(self.units_of(row) for one in batch for row in one.rows)

    def _make_gradients(self) -> None:
        """Make the gradients of all weights before the activations of a step. Made in between, they
        would part the heap into pieces that a longer row does not fit into."""
        assert self.model is not None  # for the type checker
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def compute_loss_context_manager(self) -> Any:
        # Transformers leaves this to accelerate, which casts in the model's own forward pass alone.
        return autocast(self.args.device, enabled=self.args.bf16)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # a method makes its tensors, on the model's device

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # transformers' guess, by tokens that it does not find here

    def compute_loss(
        self,
        model: Any,
        inputs: Any,
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> torch.Tensor:
        self.step_units = num_items_in_batch or 0
        found = self.losses(model, inputs.rows)
        loss = found.total / max(1, num_items_in_batch or found.units)
        self.progress.add_batch(found.trained_tokens, loss.detach())
        self._figures.add(found)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the figures since the last log to that of a training step."""
        if "loss" in logs:
            logs |= self._figures.means()
            self._figures = Figures()
        super().log(logs, start_time)

    @torch.no_grad()
    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Return the mean loss per unit over all held-out rows, and the means of the figures."""
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        model: Any = self.model
        total, units, figures = 0.0, 0, Figures()
        model.eval()
        size = self.args.per_device_eval_batch_size
        for at in range(0, len(rows), size):
            chosen = [rows[number] for number in range(at, min(at + size, len(rows)))]
            self.progress.run.pulse.advance()
            with self.compute_loss_context_manager():
                found = self.losses(model, chosen)
            total, units = total + float(found.total), units + found.units
            figures.add(found)
        model.train()
        means = {f"{metric_key_prefix}_{name}": mean for name, mean in figures.means().items()}
        metrics = {f"{metric_key_prefix}_loss": total / units, **means}
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics
