"""Report the progress of training, and stop it early.

A callback for any Hugging Face trainer: it reports metrics and checkpoints, and stops on cancel or
on a metric that is not finite.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from finetune_gateway.backends.local.run import Run, write_json
from finetune_gateway.errors import GatewayError

# The trainer's names, and ours (those of OpenAI's metrics events).
NAMES = {
    "loss": "train_loss",
    "mean_token_accuracy": "train_mean_token_accuracy",
    "eval_loss": "valid_loss",
    "eval_mean_token_accuracy": "valid_mean_token_accuracy",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
}


class NotFinite(GatewayError):
    """A loss or a gradient is NaN or infinite: to continue would write a broken model."""


class Progress(TrainerCallback):
    """Turns the logs of a trainer into events of the run."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.trained_tokens = 0  # tokens whose loss was used, counted by the trainer

    def resume(self, checkpoint: Path) -> None:
        """Continue the count from this checkpoint."""
        saved = json.loads((checkpoint / "progress.json").read_text("utf-8"))
        self.trained_tokens = saved["trained_tokens"]

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.run.phase("training")
        self.run.event(
            f"Training starts: step {state.global_step} of {state.max_steps}.",
            data={"step": state.global_step, "total_steps": state.max_steps},
        )

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        figures = {ours: logs[name] for name, ours in NAMES.items() if logs and name in logs}
        if not {"train_loss", "valid_loss"} & figures.keys():
            return  # the summary at the end has nothing new
        self._require_finite(figures, state.global_step)
        figures |= {"step": state.global_step, "total_steps": state.max_steps}
        if "train_loss" in figures:
            figures["trained_tokens"] = self.trained_tokens
        shown = " ".join(
            f"{name}={figures[name]:.4f}"
            for name in ("train_loss", "valid_loss")
            if name in figures
        )
        self.run.event(
            f"Step {state.global_step}/{state.max_steps}: {shown}", type="metrics", data=figures
        )

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.run.stop.is_set():
            control.should_save = True  # the last checkpoint stays usable
            control.should_training_stop = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        name = f"checkpoint-{state.global_step}"
        path = self.run.checkpoints / name
        (path / "training_args.bin").unlink(missing_ok=True)  # a pickle that is never read
        write_json(path / "progress.json", {"trained_tokens": self.trained_tokens})
        self.run.event(
            f"Saved {name}.",
            type="checkpoint",
            data={"step": state.global_step, "path": f"checkpoints/{name}"},
        )

    def _require_finite(self, figures: dict[str, float], step: int) -> None:
        for name, value in figures.items():
            if not math.isfinite(value):
                raise NotFinite(
                    f"{name} is {value} at step {step}: training has diverged.",
                    hint="Use a smaller learning_rate, and check the rows: ftg validate FILE",
                )
