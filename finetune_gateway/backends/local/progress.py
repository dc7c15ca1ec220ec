"""Report the progress of training, and stop it early.

A callback for any Hugging Face trainer: it reports metrics and checkpoints, and stops on cancel, on
a metric that is not finite, and when the loss diverges.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from finetune_gateway.backends.local.divergence import Diverged, LossHistory, NotFinite
from finetune_gateway.backends.local.run import Run, write_json

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
# What methods report beside the loss, by TRL's names.
BESIDE = (
    *("kl", "accuracy", "margin", "mean_reward"),
    *(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")),
    *("logps/chosen", "logps/rejected", "nll_loss", "log_odds_ratio", "log_odds_chosen"),
)
NAMES |= {name: f"train_{name}" for name in BESIDE}
NAMES |= {f"eval_{name}": f"valid_{name}" for name in BESIDE}


class Progress(TrainerCallback):
    """Turns the logs of a trainer into events of the run."""

    def __init__(
        self,
        run: Run,
        vocabulary: int,
        complete: Callable[[Path], object] = lambda folder: None,
        *,
        neutral: float | None = None,
    ) -> None:
        """``complete``: adds to a checkpoint what a model needs to answer. ``neutral``: what a
        model without a preference loses, in methods that learn one."""
        self.run = run
        self.complete = complete
        self.trained_tokens = 0  # tokens whose loss was used, counted by the trainer
        self.losses = LossHistory(vocabulary, neutral=neutral)
        self.divergence = ""  # where and how the loss diverged, in a run that goes on all the same
        self._step_loss = 0.0

    def add_batch(self, tokens: int, loss: float) -> None:
        """Add a batch of the step that is being made: its trained tokens, its part of the loss."""
        self.trained_tokens += tokens
        self._step_loss += loss

    def resume(self, checkpoint: Path) -> None:
        """Continue the count and the losses from this checkpoint."""
        saved = json.loads((checkpoint / "progress.json").read_text("utf-8"))
        self.trained_tokens = saved["trained_tokens"]
        self.divergence = saved.get("divergence", "")
        if "losses" in saved:  # not in one that an older version has written
            self.losses = self.losses.load(saved["losses"])

    def warnings(self) -> list[str]:
        """Return what to say with the result about the loss of the whole training."""
        return [text for text in (self.divergence, self.losses.warning()) if text]

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
        self._require_finite(figures, args, state.global_step)
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
        loss, self._step_loss = self._step_loss, 0.0
        self._require_finite({"train_loss": loss}, args, state.global_step)
        self._look_for_divergence(loss, args, state.global_step)
        if self.run.stop.is_set():
            control.should_save = True  # the last checkpoint stays usable
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        ended = self.losses.warning()
        if ended and not self.run.stop.is_set():
            self.run.event(ended, level="warn")

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        name = f"checkpoint-{state.global_step}"
        path = self.run.checkpoints / name
        (path / "training_args.bin").unlink(missing_ok=True)  # a pickle that is never read
        self.complete(path)
        progress = {
            "trained_tokens": self.trained_tokens,
            "losses": self.losses.dump(),
            "divergence": self.divergence,
        }
        write_json(path / "progress.json", progress)
        self.run.event(
            f"Saved {name}.",
            type="checkpoint",
            data={"step": state.global_step, "path": f"checkpoints/{name}"},
        )

    def _look_for_divergence(self, loss: float, args: TrainingArguments, step: int) -> None:
        """Raise Diverged if this step shows that training has diverged; warn once if the job was
        asked to go on."""
        reason = self.losses.add(loss)
        if not reason or self.divergence:
            return
        text = f"Training has diverged at step {step}: {reason}."
        if self.run.spec.stop_on_divergence:
            raise Diverged(
                text,
                hint=f"{smaller_rate(args.learning_rate)} To train on all the same: "
                "--set stop_on_divergence=false.",
            )
        self.divergence = text
        self.run.event(text, level="warn", data={"step": step})

    def _require_finite(
        self, figures: dict[str, float], args: TrainingArguments, step: int
    ) -> None:
        for name, value in figures.items():
            if not math.isfinite(value):
                raise NotFinite(
                    f"{name} is {value} at step {step}: training has diverged.",
                    hint=smaller_rate(args.learning_rate),
                )


def smaller_rate(rate: float) -> str:
    """Return what helps a job that has diverged at this learning rate."""
    return (
        f"Submit it again with a smaller learning_rate, such as --set learning_rate={rate / 10:g} "
        f"(it was {rate:g}), and check the rows: ftg validate FILE."
    )
