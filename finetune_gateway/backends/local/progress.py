"""Report the progress of training, and stop it early.

A callback for any Hugging Face trainer: it reports metrics and checkpoints, and stops on cancel, on
a metric that is not finite, when the loss diverges, and when that on held-out rows falls no more.
What it decides by evaluations follows from the trainer's own log, which each checkpoint has: a run
that is continued decides the same.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from math import ceil
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from finetune_gateway.backends.local import checkpoints, resuming
from finetune_gateway.backends.local.divergence import Diverged, LossHistory, NotFinite
from finetune_gateway.backends.local.event_log import LOSSES
from finetune_gateway.backends.local.run import Run
from finetune_gateway.jobs import overfitting
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.jobs.overfitting import Loss, Overfitting, figure
from finetune_gateway.settings import files
from finetune_gateway.spec import TrainingSpec

# The trainer's names, and ours (those of OpenAI's metrics events).
NAMES = {
    "loss": "train_loss",
    "mean_token_accuracy": "train_mean_token_accuracy",
    "eval_loss": "valid_loss",
    "eval_mean_token_accuracy": "valid_mean_token_accuracy",
    "learning_rate": "learning_rate",
    "grad_norm": "grad_norm",
    "epoch": "epoch",
    "trained_tokens_per_second": "trained_tokens_per_second",
    "memory_bytes": "memory_bytes",
    "seconds_left": "seconds_left",
}
# What methods report beside the loss, by TRL's names.
BESIDE = (
    *("kl", "accuracy", "margin", "mean_reward"),
    *(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")),
    *("logps/chosen", "logps/rejected", "nll_loss", "log_odds_ratio", "log_odds_chosen"),
)
NAMES |= {name: f"train_{name}" for name in BESIDE}
NAMES |= {f"eval_{name}": f"valid_{name}" for name in BESIDE}
PATIENCE = 3  # evaluations without a better loss, by default
KEPT = 2  # checkpoints at least, one of which may be damaged; and the best on held-out rows


def patience_of(spec: TrainingSpec, *, held_out: bool) -> int:
    """Return after how many evaluations without a better loss training ends; 0 for never."""
    if spec.early_stopping_patience != "auto":
        return spec.early_stopping_patience
    return PATIENCE if keeps_best(spec, held_out=held_out) else 0


def keeps_best(spec: TrainingSpec, *, held_out: bool) -> bool:
    """Return True if the best checkpoint is the result."""
    return held_out and spec.load_best_model_at_end is not False


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
        held_out = run.validation is not None
        self.keeps_best = keeps_best(run.spec, held_out=held_out)
        self.last_kept = max(KEPT, checkpoints.last_kept(run.settings))
        self.patience = patience_of(run.spec, held_out=held_out)
        self.trained_tokens = 0  # tokens whose loss was used, counted by the trainer
        self.losses = LossHistory(vocabulary, neutral=neutral)
        self.changed: list[str] = []  # versions with which it was gone on with
        self.divergence = ""  # where and how the loss diverged, in a run that goes on all the same
        # Of the step that is being made; tensors are read once a step: to read one waits for a GPU.
        self._step_loss: float | torch.Tensor = 0.0
        self._step_tokens: int | torch.Tensor = 0
        self._pace = Pace()

    def add_batch(self, tokens: int | torch.Tensor, loss: float | torch.Tensor) -> None:
        """Add a batch of the step that is being made: its trained tokens, its part of the loss."""
        self.run.pulse.advance()
        self._step_tokens = self._step_tokens + tokens
        self._step_loss = self._step_loss + loss

    def resume(self, checkpoint: Path) -> TrainerState:
        """Continue the count and the losses from this checkpoint; return the trainer's state
        there."""
        saved = json.loads((checkpoint / checkpoints.PROGRESS).read_text("utf-8"))
        self.trained_tokens = saved["trained_tokens"]
        self.divergence = saved.get("divergence", "")
        self.changed = saved.get("changed", [])
        if "losses" in saved:  # not in one that an older version has written
            self.losses = self.losses.load(saved["losses"])
        return TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))

    def figures(self, state: TrainerState) -> dict[str, float]:
        """Return speed, memory and time left, to be logged beside the loss."""
        return self._pace.figures(self.trained_tokens, state.max_steps - state.global_step)

    def is_over(self, state: TrainerState) -> bool:
        """Return True if a checkpoint is of the last step of its training."""
        steps = self.run.spec.max_steps or state.max_steps
        return self.stops(state) or state.global_step >= steps

    def stops(self, state: TrainerState) -> bool:
        """Return True if the last evaluations of a training were no better than one before."""
        return 0 < self.patience <= overfitting.since_best(losses_of(state, "eval_loss"))

    def result_step(self, state: TrainerState) -> int:
        """Return the step of the checkpoint that is the result of a training that has ended."""
        there = {one.step for one in checkpoints.whole(self.run.checkpoints)}
        valid = [one for one in losses_of(state, "eval_loss") if one[0] in there]
        return overfitting.best(valid)[0] if self.keeps_best and valid else state.global_step

    def warnings(self, state: TrainerState) -> list[str]:
        """Return what to say with the result about the losses of the whole training."""
        found = overfitting_of(state)
        lost = self._lost_best_text(state)
        turned = f"{self._overfitting_text(found)} {self._result_text(state)}" if found else ""
        ended = self.losses.warning()
        if ended and not found and self.result_step(state) < state.global_step:
            ended = f"{ended} {self._result_text(state)}"  # of another step
        return [text for text in (self.divergence, ended, turned, lost, *self.changed) if text]

    # -- what the trainer calls

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.run.phase("training")
        self._pace.begin(self.trained_tokens)
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        self.run.event(
            f"Training starts: step {state.global_step} of {state.max_steps}, effective batch size "
            f"{batch}, learning rate {args.learning_rate:g}.",
            data={
                "step": state.global_step,
                "total_steps": state.max_steps,
                "effective_batch_size": batch,
                "learning_rate": args.learning_rate,
            },
        )
        evaluations = ceil(state.max_steps / max(1, state.eval_steps)) if self.patience else 0
        if self.run.spec.early_stopping_patience != "auto" and 0 < evaluations <= self.patience:
            self.run.event(
                f"early_stopping_patience={self.patience} cannot end this run early: it evaluates "
                f"{evaluations} times. A smaller eval_steps evaluates more often.",
                level="warn",
            )

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self._pace.step_begins()
        self.run.pulse.step_begins()

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.run.pulse.advance()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **_: Any,
    ) -> None:
        figures = figures_of(logs or {})
        if not figures:
            return  # the summary at the end has nothing new
        self._require_finite(figures, args, state.global_step)
        self.run.seconds_left = figures.get("seconds_left", self.run.seconds_left)
        if "train_loss" in figures:
            figures["trained_tokens"] = self.trained_tokens
        self._tell_figures(figures, state.global_step, state)

    def _tell_figures(
        self, figures: dict[str, float], step: int, state: TrainerState, note: str = ""
    ) -> None:
        shown = " ".join(f"{name}={figures[name]:.4f}" for name in LOSSES if name in figures)
        data = {**figures, "step": step, "total_steps": state.max_steps}
        text = f"Step {step}/{state.max_steps}: {shown}{note}"
        self.run.event(text, type="metrics", data=data)

    def tell_lost(self, state: TrainerState) -> None:
        """Tell again the losses of earlier attempts that are neither in the log of the run nor in
        the store: a power cut may take what was written last, and the checkpoint has them."""
        told = self.run.losses_told()
        for entry in state.log_history:
            figures, step = figures_of(entry), int(entry["step"])
            if any((step, name) not in told for name in LOSSES if name in figures):
                self._tell_figures(figures, step, state, " (again, from the checkpoint)")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.run.require_folder()
        loss, self._step_loss = float(self._step_loss), 0.0
        self.trained_tokens += int(self._step_tokens)
        self._step_tokens = 0
        self._pace.step_ends()
        self.run.pulse.step_ends(state.global_step)
        self._require_finite({"train_loss": loss}, args, state.global_step)
        self._look_for_divergence(loss, args, state.global_step)
        if self.run.stop.is_set():
            control.should_save = True  # the last checkpoint stays usable
            control.should_training_stop = True

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save the best model so far, end a training that gets no better, name overfitting."""
        valid = losses_of(state, "eval_loss")
        if self.run.stop.is_set():  # not after another step
            control.should_save = True
            control.should_training_stop = True
        if self.keeps_best and overfitting.best(valid)[0] == state.global_step:
            control.should_save = True
        found = overfitting_of(state)
        if found and not overfitting_of(state, but=1):  # once
            self.run.event(self._overfitting_text(found), level="warn", data={"step": found.step})
        if self.stops(state) and state.global_step < state.max_steps:
            control.should_save = True
            control.should_training_stop = True
            step, loss = overfitting.best(valid)
            self.run.event(
                f"Training ends early, at step {state.global_step:,} of {state.max_steps:,}: "
                f"{self.patience} evaluations were no better than the one at step {step:,} "
                f"({figure(loss)}).",
                data={"step": state.global_step, "best_step": step},
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        if self.run.stop.is_set():
            return
        if ended := self.losses.warning():
            self.run.event(ended, level="warn")
        if losses_of(state, "eval_loss"):
            step = self.result_step(state)
            self.run.event(self._result_text(state), data={"step": step})

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
            "changed": self.changed,
            "files": MANIFEST,  # where they are: one without is damaged, not of an earlier version
        }
        text = json.dumps(progress, indent=2)
        files.write_atomic(path / checkpoints.PROGRESS, text, private=True, fsync=False)
        checkpoints.finish(path, {"environment": resuming.environment()})
        self.run.saved(state.global_step)
        self.run.event(
            f"Saved {name}.",
            type="checkpoint",
            data={"step": state.global_step, "path": f"checkpoints/{name}"},
        )
        self._remove_others(state)

    def _remove_others(self, state: TrainerState) -> None:
        """Delete checkpoints but the last ones, the best, and those that other jobs have as their
        base: now that the new one is whole, no kill leaves a run without what it has."""
        there = checkpoints.whole(self.run.checkpoints)
        steps = [one.step for one in there]
        known = [one for one in losses_of(state, "eval_loss") if one[0] in steps]
        kept = {*steps[-self.last_kept :], *([overfitting.best(known)[0]] if known else [])}
        others = [one for one in there if one.step not in kept and not checkpoints.is_kept(one)]
        if others:
            # Before those that a power cut would leave are gone. It is older than the newest, so
            # most of it is on the disk already.
            checkpoints.sync(Path(there[-2].model))
        checkpoints.remove(others)

    def _overfitting_text(self, found: Overfitting) -> str:
        return (
            f"The model overfits from step {found.step:,} on: its loss on the held-out rows was "
            f"{figure(found.loss)} there and {figure(found.last_loss)} at step "
            f"{found.last_step:,}, while that on the training rows went on to fall."
        )

    def _result_text(self, state: TrainerState) -> str:
        text = overfitting.result_step_text(metrics_at(state, self.result_step(state)))
        return f"Result: {text}." if text else ""

    def _lost_best_text(self, state: TrainerState) -> str:
        """Return that the result is not of the best step, whose checkpoint was damaged."""
        valid = losses_of(state, "eval_loss")
        if not (self.keeps_best and valid):
            return ""
        best, found = overfitting.best(valid), self.result_step(state)
        if best[0] == found:
            return ""
        return (
            f"The best model, that of step {best[0]:,} ({figure(best[1])} on the held-out rows), "
            f"is not there any more as it was saved. The result is that of step {found:,}, the "
            "best that is."
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


# -- the trainer's log -----------------------------------------------------------------------


def figures_of(logs: Mapping[str, float]) -> dict[str, float]:
    """Return what a trainer has logged, by our names; nothing of what has no loss of a step."""
    figures = {ours: logs[name] for name, ours in NAMES.items() if name in logs}
    return figures if figures.keys() & set(LOSSES) else {}


def losses_of(state: TrainerState, name: str) -> list[Loss]:
    """Return the losses of this name that a trainer has logged, by step."""
    return [(int(entry["step"]), entry[name]) for entry in state.log_history if name in entry]


def overfitting_of(state: TrainerState, but: int = 0) -> Overfitting | None:
    """Return the overfitting that the losses show; ``but``: without the last evaluations."""
    valid = losses_of(state, "eval_loss")
    return overfitting.find_overfitting(losses_of(state, "loss"), valid[: len(valid) - but])


def metrics_at(state: TrainerState, step: int) -> dict[str, float]:
    """Return the losses of the model of a step and, where it is not the last, those at the end."""
    train, valid = losses_of(state, "loss"), losses_of(state, "eval_loss")
    metrics: dict[str, float] = {"step": step}
    for name, losses in (("train_loss", train), ("valid_loss", valid)):
        if upto := [loss for at, loss in losses if at <= step]:
            metrics[name] = upto[-1]
        if step < state.global_step and losses:
            metrics[f"last_{name}"] = losses[-1][1]
    if step < state.global_step:
        metrics["last_step"] = state.global_step
    return metrics


# -- speed -----------------------------------------------------------------------------------


class Pace:
    """How fast a training is: what its steps take, without evaluations and saving, and the rest of
    the run with them. It reads clocks alone, and memory when it is asked."""

    def __init__(self) -> None:
        self._began = self._step_began = time.monotonic()
        self._seconds = 0.0  # of steps since the last figures
        self._tokens = 0  # up to then
        self._steps = 0  # of this attempt
        self._process = psutil.Process()

    def begin(self, tokens: int) -> None:
        """Begin an attempt, of a run that has trained so many tokens."""
        self._began, self._tokens = time.monotonic(), tokens

    def step_begins(self) -> None:
        self._step_began = time.monotonic()

    def step_ends(self) -> None:
        self._seconds += time.monotonic() - self._step_began
        self._steps += 1

    def figures(self, tokens: int, steps_left: int) -> dict[str, float]:
        """Return trained tokens per second since the last figures, bytes of memory (of the process;
        with a GPU the most that torch had there), and the seconds left."""
        on_gpu = torch.cuda.is_available()
        memory = torch.cuda.max_memory_allocated() if on_gpu else self._process.memory_info().rss
        found: dict[str, float] = {"memory_bytes": memory}
        if self._seconds > 0:
            found["trained_tokens_per_second"] = round((tokens - self._tokens) / self._seconds, 1)
        if self._steps:
            each = (time.monotonic() - self._began) / self._steps
            found["seconds_left"] = round(each * steps_left, 2)
        self._seconds, self._tokens = 0.0, tokens
        return found
