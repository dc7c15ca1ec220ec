"""ORPO, from top to bottom: load, format, configure, train, save.

Hong et al. 2024, https://arxiv.org/abs/2403.07691: supervised fine-tuning on the chosen answer, and
a term that makes it likelier than the rejected one. No reference, so one training does both.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.backends.local.start import begin, restore
from finetune_gateway.backends.local.trainer import FastTrainer, Losses, Row
from finetune_gateway.spec import TrainingSpec

# TRL, examples/scripts/orpo.py.
LEARNING_RATE = {"lora": 8e-5, "qlora": 8e-5, "full": 8e-6}
BETA = 0.1  # lambda of the paper


def odds_ratio(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return log odds(chosen) - log odds(rejected), (n,), with odds(p) = p / (1 - p), eq. 4.

    ``chosen`` and ``rejected``: mean log-probability of a token of each answer.
    """
    return (chosen - log1mexp(chosen)) - (rejected - log1mexp(rejected))


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 - exp(x)) of x < 0, exact near 0 and far from it (Maechler 2012, log1mexp)."""
    near = x > -0.6931472  # -ln 2
    # Each branch gets numbers that it can take, or the gradient of the other one would be NaN.
    small, large = torch.where(near, x, -0.5), torch.where(near, -1.0, x)
    return torch.where(near, torch.log(-torch.expm1(small)), torch.log1p(-torch.exp(large)))


class FastORPOTrainer(FastTrainer):
    """Our engine: a pair is a unit."""

    def __init__(self, spec: TrainingSpec, scorer: Scorer, **given: Any) -> None:
        super().__init__(**given)
        self.scorer = scorer
        self.beta = spec.beta or BETA

    def losses(self, model: Any, rows: Sequence[Row]) -> Losses:
        chosen, rejected = pairs.log_probs(self.scorer, model, rows)
        means = [pairs.sums(side) / pairs.counts(side) for side in (chosen, rejected)]
        ratio = odds_ratio(*means)
        losses = -means[0] - self.beta * logsigmoid(ratio)  # eq. 6
        figures = pairs.figures(means, [self.beta * mean for mean in means])
        figures |= {
            "nll_loss": -means[0].detach().sum(),
            "log_odds_ratio": logsigmoid(ratio.detach()).sum(),
            "log_odds_chosen": ratio.detach().sum(),
        }
        tokens = sum(map(len, (*chosen, *rejected)))
        return Losses(losses.sum(), len(rows), tokens, figures)


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
    engine = engines.choose(run, base, model, train_rows.rows)
    plan = engine.plan(spec, train_rows, valid_rows)
    arguments = training_arguments(
        run,
        plan,
        learning_rate=LEARNING_RATE[kind],
        held_out=valid_rows is not None,
        bf16=engine.bf16,
    )
    valid = valid_rows.rows if valid_rows else None
    progress = finishing.progress_of(run, base)
    trainer: Any
    if engine.name == "trl":
        run.event(
            "TRL's trainer of ORPO is experimental: its next version may train otherwise, or be "
            "gone. Its loss also counts the prompt of the chosen answer.",
            level="warn",
        )
        # Imported here: TRL takes eight seconds, and only its own engine needs it.
        from finetune_gateway.backends.local import trl_orpo

        trainer = trl_orpo.orpo_trainer(
            *(model, base.tokenizer, arguments, spec.beta or BETA),
            *(train_rows.rows, valid, progress),
        )
        if base.quantization:
            restore(run, model)  # TRL has rounded it to bf16
    else:
        trainer = FastORPOTrainer(
            spec,
            engine.scorer,
            model=model,
            args=TrainingArguments(**arguments),
            train_dataset=train_rows.rows,
            eval_dataset=valid,
            processing_class=base.tokenizer,
            callbacks=[progress],
        )
        trainer.progress = progress

    # -- train: from the newest complete checkpoint, if an earlier worker has left one
    finishing.train_to_the_end(run, trainer)

    # -- save: the adapter (or the whole model) with its tokenizer and template
    finishing.save(run, trainer, base, engine.warnings)
