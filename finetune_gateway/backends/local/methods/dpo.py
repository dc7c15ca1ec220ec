"""Direct preference optimisation, from top to bottom: load, format, configure, train, save.

A model learns to prefer one answer to another, measured against itself as it was: the reference.
The losses have TRL's names; each says which paper it is from, and what it makes of a pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from transformers import TrainingArguments

from finetune_gateway.backends.local import engine as engines
from finetune_gateway.backends.local import finishing, pairs
from finetune_gateway.backends.local.configuration import training_arguments, without_dropout
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.loading import load_base, max_length_for
from finetune_gateway.backends.local.reference import score_reference
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.backends.local.start import begin, restore
from finetune_gateway.backends.local.trainer import FastTrainer, Losses, Row
from finetune_gateway.estimation.batch_plan import needs_whole_batch
from finetune_gateway.methods import loss_of
from finetune_gateway.spec import TrainingSpec

# TRL, peft_integration.md: 5e-7 for all weights, ten times that for LoRA.
LEARNING_RATE = {"lora": 5e-6, "qlora": 5e-6, "full": 5e-7}
BETA = 0.1  # Rafailov et al. 2023
EXO_SMOOTHING = 1e-3  # Ji et al. 2024; exo_pair takes the logarithm of it
DISCOPOP_TAU = 0.05  # Lu et al. 2024


# -- the losses ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pairs:
    """What the model and its reference say of some pairs: log-probabilities (n,), in nats."""

    chosen: Tensor
    rejected: Tensor
    ref_chosen: Tensor
    ref_rejected: Tensor
    chosen_tokens: Tensor
    rejected_tokens: Tensor
    beta: float
    smoothing: float

    @property
    def up(self) -> Tensor:
        """How much likelier the chosen answer has become."""
        return self.chosen - self.ref_chosen

    @property
    def down(self) -> Tensor:
        """How much likelier the rejected answer has become."""
        return self.rejected - self.ref_rejected

    @property
    def margin(self) -> Tensor:
        return self.up - self.down

    @property
    def margin_per_token(self) -> Tensor:
        return self.up / self.chosen_tokens - self.down / self.rejected_tokens


def sigmoid(pair: Pairs) -> Tensor:
    """Let the chosen answer win, after Bradley and Terry: Rafailov et al. 2023 (2305.18290)."""
    return -logsigmoid(pair.beta * pair.margin)


def hinge(pair: Pairs) -> Tensor:
    """Ask for a margin of 1/beta and no more: SLiC, Zhao et al. 2023 (2305.10425), on rewards."""
    return torch.relu(1 - pair.beta * pair.margin)


def ipo(pair: Pairs) -> Tensor:
    """Ask for a margin of exactly 1/(2 beta) per token: Azar et al. 2023 (2310.12036), eq. 17."""
    return (pair.margin_per_token - 1 / (2 * pair.beta)) ** 2


def exo_pair(pair: Pairs) -> Tensor:
    """Match a preference of 1 - smoothing by reverse KL: Ji et al. 2024 (2402.00856), eq. 16."""
    z, epsilon = pair.beta * pair.margin, torch.tensor(pair.smoothing)
    wins = z.sigmoid() * (logsigmoid(z) - torch.log1p(-epsilon))
    return wins + (-z).sigmoid() * (logsigmoid(-z) - epsilon.log())


def nca_pair(pair: Pairs) -> Tensor:
    """Contrast with noise, so that good answers stay likely: Chen et al. 2024 (2402.05369)."""
    good, bad = pair.beta * pair.up, pair.beta * pair.down
    return -logsigmoid(good) - 0.5 * logsigmoid(-good) - 0.5 * logsigmoid(-bad)


def robust(pair: Pairs) -> Tensor:
    """Stay unbiased if a share of the pairs is flipped: Chowdhury et al. 2024 (2403.00409)."""
    z, flipped = pair.beta * pair.margin, pair.smoothing
    return (-(1 - flipped) * logsigmoid(z) + flipped * logsigmoid(-z)) / (1 - 2 * flipped)


def bco_pair(pair: Pairs) -> Tensor:
    """Tell good answers from bad ones: Jung et al. 2024 (2404.04656), without its shift."""
    return -logsigmoid(pair.beta * pair.up) - logsigmoid(-pair.beta * pair.down)


def sppo_hard(pair: Pairs) -> Tensor:
    """Move both by a set distance: Wu et al. 2024 (2405.00675), eq. 4.7, probabilities 1 and 0."""
    return (pair.up - 0.5 / pair.beta) ** 2 + (pair.down + 0.5 / pair.beta) ** 2


def aot(pair: Pairs) -> Tensor:
    """Raise a batch's margins, in order, above the reference's: Melnyk et al. 2024 (2406.05882)."""
    now = (pair.chosen - pair.rejected).sort().values
    return _smoothed(pair, now - (pair.ref_chosen - pair.ref_rejected).sort().values)


def aot_unpaired(pair: Pairs) -> Tensor:
    """Raise good answers' rewards, in order, above those of bad ones: the same paper."""
    return _smoothed(pair, pair.up.sort().values - pair.down.sort().values)


def _smoothed(pair: Pairs, delta: Tensor) -> Tensor:
    z = pair.beta * delta
    return -(1 - pair.smoothing) * logsigmoid(z) - pair.smoothing * logsigmoid(-z)


def apo_zero(pair: Pairs) -> Tensor:
    """Move good answers up and bad ones down: D'Oosterlinck et al. 2024 (2408.06266), eq. 7."""
    return 1 - (pair.beta * pair.up).sigmoid() + (pair.beta * pair.down).sigmoid()


def apo_down(pair: Pairs) -> Tensor:
    """Move both down, bad ones more, for a model above its good answers: the same, eq. 8."""
    return (pair.beta * pair.up).sigmoid() + 1 - (pair.beta * pair.margin).sigmoid()


def discopop(pair: Pairs) -> Tensor:
    """Mix the logistic and the exponential loss: Lu et al. 2024 (2406.08414), eq. 5."""
    z = pair.beta * pair.margin
    share = (z / DISCOPOP_TAU).sigmoid()
    return -(1 - share) * logsigmoid(z) + share * (-z).exp()


def sft(pair: Pairs) -> Tensor:
    """Learn the chosen answer alone, per token; the reference counts in the figures only."""
    return -pair.chosen / pair.chosen_tokens


def sigmoid_norm(pair: Pairs) -> Tensor:
    """Take sigmoid per token, so that length is no reward: after SimPO (2405.14734)."""
    return -logsigmoid(pair.beta * pair.margin_per_token)


LOSSES: dict[str, Callable[[Pairs], Tensor]] = {
    loss.__name__: loss
    for loss in (
        *(sigmoid, hinge, ipo, exo_pair, nca_pair, robust, bco_pair, sppo_hard),
        *(aot, aot_unpaired, apo_zero, apo_down, discopop, sft, sigmoid_norm),
    )
}


class FastDPOTrainer(FastTrainer):
    """Our engine on pairs that know what the reference says of them: a pair is a unit."""

    def __init__(self, spec: TrainingSpec, scorer: Scorer, **given: Any) -> None:
        super().__init__(**given)
        self.scorer = scorer
        self.loss = LOSSES[loss_of(spec)]
        self.beta, self.smoothing = spec.beta or BETA, smoothing_of(spec)

    def losses(self, model: Any, rows: Sequence[Row]) -> Losses:
        chosen, rejected = pairs.log_probs(self.scorer, model, rows)
        device = chosen[0].device
        before = [
            torch.tensor([row[name] for row in rows], device=device)
            for name in pairs.REFERENCE_COLUMNS
        ]
        found = Pairs(
            chosen=pairs.sums(chosen),
            rejected=pairs.sums(rejected),
            ref_chosen=before[0],
            ref_rejected=before[1],
            chosen_tokens=pairs.counts(chosen),
            rejected_tokens=pairs.counts(rejected),
            beta=self.beta,
            smoothing=self.smoothing,
        )
        rewards = (self.beta * found.up, self.beta * found.down)
        figures = pairs.figures((found.chosen, found.rejected), rewards)
        tokens = sum(map(len, (*chosen, *rejected)))
        return Losses(self.loss(found).sum(), len(rows), tokens, figures)


def smoothing_of(spec: TrainingSpec) -> float:
    """Return the share of pairs that may be the wrong way round."""
    usual = EXO_SMOOTHING if loss_of(spec) == "exo_pair" else 0.0
    return spec.label_smoothing or usual


def neutral_loss(spec: TrainingSpec) -> float | None:
    """Return what a pair loses while the model is its own reference; None for ``sft``, which goes
    by tokens."""
    if loss_of(spec) == "sft":
        return None
    zero, one = torch.zeros(1), torch.ones(1)
    pair = Pairs(zero, zero, zero, zero, one, one, spec.beta or BETA, smoothing_of(spec))
    return float(LOSSES[loss_of(spec)](pair))


# -- training ------------------------------------------------------------------------------


def train_and_save(run: Run) -> None:
    """Train the base model and save an adapter, or for full fine-tuning the whole model."""
    spec = run.spec
    kind = spec.training_type or "lora"

    # -- load: the base model, its chat template and tokenizer; the adapter on it
    base = load_base(run)
    without_dropout(base.model)
    model = begin(run, base.model)

    # -- format: rows -> ids (n,) and labels (n,) of both answers; -100 where nothing is compared
    run.phase("reading the data")
    max_length = max_length_for(run, base.model)
    train_rows = encode_rows(run, run.train, base.template, max_length)
    held_out = run.validation
    valid_rows = encode_rows(run, held_out, base.template, max_length) if held_out else None

    # -- configure: names as in Hugging Face's libraries
    together = needs_whole_batch(spec)
    engine = engines.choose(run, base, model, train_rows.rows)
    plan = engine.plan(spec, train_rows, valid_rows)
    if together:
        run.event(
            f"The loss {loss_of(spec)} sorts the pairs of a batch: all {plan.batch} go through the "
            "model at once."
        )
    arguments = training_arguments(
        run,
        plan,
        learning_rate=LEARNING_RATE[kind],
        held_out=valid_rows is not None,
        bf16=engine.bf16,
    )
    rows = pairs.trained_rows(train_rows.rows, plan, arguments["data_seed"])
    valid = valid_rows.rows if valid_rows else None
    progress = finishing.progress_of(run, base, neutral=neutral_loss(spec))
    trainer: Any
    if engine.name == "trl":
        # Imported here: TRL takes eight seconds, and only its own engine needs it.
        from finetune_gateway.backends.local import trl_trainers

        options = {
            "beta": spec.beta or BETA,
            "loss_type": loss_of(spec),
            "label_smoothing": smoothing_of(spec),
        }
        trainer = trl_trainers.dpo_trainer(
            model, base.tokenizer, arguments, options, rows, valid, progress
        )
        if base.quantization:
            restore(run, model)  # TRL has rounded it to bf16
    else:
        trainer = FastDPOTrainer(
            spec,
            engine.scorer,
            model=model,
            args=TrainingArguments(**arguments),
            train_dataset=rows,
            eval_dataset=valid,
            processing_class=base.tokenizer,
            callbacks=[progress],
        )
        trainer.progress = progress
        score_reference(trainer, engine.scorer, pairs.REFERENCE_COLUMNS)  # the model as it is now

    # -- train: from the newest complete checkpoint, if an earlier worker has left one
    finishing.train_to_the_end(run, trainer)

    # -- save: the adapter (or the whole model) with its tokenizer and template
    finishing.save(run, trainer, base, engine.warnings)
