"""Learning from answers that are each called good or bad (KTO), from top to bottom: load, format,
configure, train, save.

Ethayarajh et al. 2024, https://arxiv.org/abs/2402.01306, eq. 7. With
r = log p(y|x) - log p_ref(y|x) a good answer loses 1 - sigmoid(beta * (r - kl)), a bad one
1 - sigmoid(beta * (kl - r)), each times its weight. The KL term is estimated, without a gradient,
by the mean of r over prompts with the answer of another row of the batch, and is at least 0. In
apo_zero_unpaired it is 0 (after D'Oosterlinck et al. 2024, https://arxiv.org/abs/2408.06266,
eq. 7).

Rows are shuffled once and keep their order, so that the mismatched answers, and what the reference
says of them, are the same in every epoch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import TrainingArguments

from finetune_gateway.backends.local import engine as engines
from finetune_gateway.backends.local import finishing
from finetune_gateway.backends.local.configuration import training_arguments, without_dropout
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.loading import load_base, max_length_for
from finetune_gateway.backends.local.reference import score_reference
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.backends.local.start import begin, restore
from finetune_gateway.backends.local.trainer import FastTrainer, Losses, MicroBatch, Row
from finetune_gateway.errors import DataError
from finetune_gateway.methods import loss_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import IGNORED

# TRL's KTOConfig for all weights; LoRA needs 10x the rate of full (TRL, peft_integration.md).
LEARNING_RATE = {"lora": 1e-5, "qlora": 1e-5, "full": 1e-6}
BETA = 0.1  # the paper's
# Good answers against bad ones, counted by their weights (the paper, eq. 8).
BALANCE = (1.0, 4 / 3)


def train_and_save(run: Run) -> None:
    """Train the base model and save an adapter, or for full fine-tuning the whole model."""
    spec = run.spec
    kind = spec.training_type or "lora"

    # -- load: the base model, its chat template and tokenizer; the adapter on it
    base = load_base(run)
    without_dropout(base.model)
    model = begin(run, base.model)

    # -- format: rows -> input_ids (n,), labels (n,), label, and the same of a mismatched answer
    run.phase("reading the data")
    max_length = max_length_for(run, base.model)
    train_rows = encode_rows(run, run.train, base.template, max_length)
    held_out = run.validation
    valid_rows = encode_rows(run, held_out, base.template, max_length) if held_out else None
    report_balance(run, train_rows.rows["label"])
    if valid_rows:
        report_held_out(run, valid_rows.rows["label"])

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
    arguments["train_sampling_strategy"] = "sequential"
    taken = plan.steps * plan.batch  # max_steps may end before all
    rows = train_rows.rows.shuffled(arguments["data_seed"], taken)
    valid = valid_rows.rows if valid_rows else None
    if has_kl(spec):
        # TRL rotates the answers within what passes through the model at once.
        together = plan.micro_batch if plan.engine == "trl" else plan.batch
        rows = with_mismatched(rows, together, max_length)
        if valid is not None:
            together = plan.micro_batch if plan.engine == "trl" else len(valid)
            valid = with_mismatched(valid, together, max_length)
    neutral = neutral_loss(spec, train_rows.rows["label"])
    progress = finishing.progress_of(run, base, neutral=neutral)
    trainer: Any
    if plan.engine == "trl":
        # Imported here: TRL takes eight seconds, and only its own engine needs it.
        from finetune_gateway.backends.local import trl_trainers

        options = {"beta": spec.beta or BETA, "loss_type": loss_of(spec)}
        trainer = trl_trainers.kto_trainer(
            spec, model, base.tokenizer, arguments, options, rows, valid, progress
        )
        if base.quantization:
            restore(run, model)  # TRL has rounded it to bf16
    else:
        trainer = FastKTOTrainer(
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
        sides = {"reference": ("input_ids", "labels")}
        if has_kl(spec):
            sides["mismatched_reference"] = ("mismatched_ids", "mismatched_labels")
        score_reference(trainer, engine.scorer, sides)

    # -- train: from the newest complete checkpoint, if an earlier worker has left one
    finishing.train_to_the_end(run, trainer)

    # -- save: the adapter (or the whole model) with its tokenizer and template
    finishing.save(run, trainer, base, engine.warnings)


def has_kl(spec: TrainingSpec) -> bool:
    """Return True if the loss has a KL term, for which answers are mismatched."""
    return loss_of(spec) == "kto"


def with_mismatched(rows: RowTable, together: int, max_length: int) -> RowTable:
    """Return the rows with ``mismatched_ids`` and ``mismatched_labels``: the prompt of each with
    the answer of the one before, in groups of ``together``; the first gets the last one's.

    A row that is alone at the end gets the answer of the last group. Raises DataError for one row.
    """
    if len(rows) < 2:
        raise DataError(
            "KTO compares the answer of a row with those of others, and there is one row.",
            hint="Give more rows, or set loss_type to apo_zero_unpaired.",
        )
    sequences = list(zip(rows["input_ids"], rows["labels"], rows["prompt_length"], strict=True))
    columns: dict[str, list[list[int]]] = {"mismatched_ids": [], "mismatched_labels": []}
    for at, (ids, _, prompt) in enumerate(sequences):
        ends = min(at - at % together + together, len(rows))
        first = at % together == 0 and ends - at > 1
        other_ids, other_labels, behind = sequences[ends - 1 if first else at - 1]
        labels = [IGNORED] * prompt + other_labels[behind:]
        columns["mismatched_ids"].append((ids[:prompt] + other_ids[behind:])[:max_length])
        columns["mismatched_labels"].append(labels[:max_length])
    for name, column in columns.items():
        rows = rows.add_column(name, column)
    return rows


class FastKTOTrainer(FastTrainer):
    """Our engine: a row is a unit, and the KL term is that of the whole batch, whatever passes
    through the model at once."""

    def __init__(self, spec: TrainingSpec, scorer: Scorer, **given: Any) -> None:
        super().__init__(**given)
        self.scorer = scorer
        self.has_kl = has_kl(spec)
        self.beta = spec.beta or BETA
        self.weights = (spec.undesirable_weight, spec.desirable_weight)  # by label
        self.kl = 0.0  # of the batch at hand

    def begin_step(self, batch: Sequence[MicroBatch]) -> None:
        self.kl = self.estimate([one.rows for one in batch])

    def evaluate(self, eval_dataset: Any = None, *rest: Any, **named: Any) -> dict[str, float]:
        rows: Any = self.eval_dataset if eval_dataset is None else eval_dataset
        size = self.args.per_device_eval_batch_size
        numbers = [range(at, min(at + size, len(rows))) for at in range(0, len(rows), size)]
        self.kl = self.estimate([[rows[n] for n in some] for some in numbers])
        return super().evaluate(eval_dataset, *rest, **named)

    @torch.no_grad()
    def estimate(self, batch: Sequence[Sequence[Row]]) -> float:
        """Return the KL term: the mean of r over mismatched answers, at least 0."""
        if not self.has_kl:
            return 0.0
        model: Any = self.model
        training = model.training
        model.eval()  # without dropout
        ratios: list[torch.Tensor] = []
        for rows in batch:
            sequences = [(row["mismatched_ids"], row["mismatched_labels"]) for row in rows]
            with self.compute_loss_context_manager():
                scored = self.scorer.log_probs(model, sequences)
            before = [row["mismatched_reference"] for row in rows]
            ratios += [one.sum() - was for one, was in zip(scored, before, strict=True)]
        model.train(training)
        return float(torch.stack(ratios).mean().clamp(min=0)) if ratios else 0.0

    def losses(self, model: Any, rows: Sequence[Row]) -> Losses:
        scored = self.scorer.log_probs(model, [(row["input_ids"], row["labels"]) for row in rows])
        good = torch.tensor([row["label"] for row in rows], device=scored[0].device)
        weights = torch.tensor([self.weights[row["label"]] for row in rows], device=good.device)
        before = torch.tensor([row["reference"] for row in rows], device=good.device)
        ratios = torch.stack([one.sum() for one in scored]) - before
        signs = good * 2.0 - 1.0  # 1 for a good answer, -1 for a bad one
        losses = weights * (1 - torch.sigmoid(self.beta * signs * (ratios - self.kl)))
        rewards = self.beta * ratios.detach()
        return Losses(
            total=losses.sum(),
            units=len(rows),
            trained_tokens=sum(map(len, scored)),
            figures={
                "kl": self.kl * len(rows),
                "rewards/chosen": float(rewards[good].sum()),
                "rewards/rejected": float(rewards[~good].sum()),
            },
            counts={"rewards/chosen": int(good.sum()), "rewards/rejected": int((~good).sum())},
        )


def neutral_loss(spec: TrainingSpec, labels: Sequence[bool]) -> float:
    """Return what a model loses that is its reference: half the mean weight."""
    good, bad = sum(labels), len(labels) - sum(labels)
    return (spec.desirable_weight * good + spec.undesirable_weight * bad) / len(labels) / 2


def report_held_out(run: Run, labels: Sequence[bool]) -> None:
    """Say that the held-out rows have one label alone. Of answers that are all good r is near the
    KL term, so that their loss stays near half their weight whatever is learned."""
    if all(labels) or not any(labels):
        run.event(
            f"All {len(labels)} held-out answers are called {'good' if labels[0] else 'bad'}: "
            "their loss says little. Hold out rows of both labels: --validation-file FILE.",
            level="warn",
        )


def report_balance(run: Run, labels: Sequence[bool]) -> None:
    """Say which weight would balance good and bad answers, if they are far from the paper's 1:1 to
    4:3."""
    good, bad = sum(labels), len(labels) - sum(labels)
    data = {"desirable": good, "undesirable": bad}
    if not good or not bad:
        run.event(
            f"All {len(labels)} answers are called {'good' if good else 'bad'}: KTO learns from "
            "the contrast of both.",
            level="warn",
            data=data,
        )
        return
    share = run.spec.desirable_weight * good / (run.spec.undesirable_weight * bad)
    low, high = BALANCE
    if low * 0.99 <= share <= high * 1.01:
        return
    name = "desirable_weight" if share < low else "undesirable_weight"
    given: float = getattr(run.spec, name)
    bounds = (low / share, high / share) if share < low else (share / high, share / low)
    run.event(
        f"{good} answers are good and {bad} bad; by their weights that is {share:.2f} : 1. The "
        f"authors of KTO advise 1 : 1 to 4 : 3: set {name} between {given * bounds[0]:.2f} and "
        f"{given * bounds[1]:.2f}.",
        level="warn",
        data=data,
    )
