"""Continued pretraining, from top to bottom: load, format, configure, train, save.

A model learns to go on with texts. They follow one another, each with the token that ends it, and
are cut into pieces of ``max_length`` tokens: nothing is padded, and all is trained but the first
token of a piece. A text may go on in the next piece. The base needs no chat template.
"""

from __future__ import annotations

from typing import Any

from transformers import TrainingArguments

from finetune_gateway.backends.local import engine as engines
from finetune_gateway.backends.local import finishing
from finetune_gateway.backends.local.configuration import training_arguments
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.loading import load_base, max_length_for
from finetune_gateway.backends.local.methods.sft import FastSFTTrainer
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.start import begin, restore

# LLaMA-Factory, examples/train_lora/qwen3_lora_pretrain.yaml: 1e-4. All weights: a tenth of that,
# TRL's rule (peft_integration.md).
LEARNING_RATE = {"lora": 1e-4, "qlora": 1e-4, "full": 1e-5}


def train_and_save(run: Run) -> None:
    """Train the base model and save an adapter, or for full fine-tuning the whole model."""
    spec = run.spec
    kind = spec.training_type or "lora"

    # -- load: the base model and its tokenizer; the adapter on it
    base = load_base(run)
    model = begin(run, base.model)

    # -- format: texts -> pieces of input_ids (n,) and labels (n,), the first of which is -100
    run.phase("reading the data")
    max_length = max_length_for(run, base.model)
    train_rows = encode_rows(run, run.train, base.source, max_length)
    held_out = run.validation
    valid_rows = encode_rows(run, held_out, base.source, max_length) if held_out else None

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
        # Imported here: TRL takes eight seconds, and only its own engine needs it.
        from finetune_gateway.backends.local import trl_trainers

        trainer = trl_trainers.sft_trainer(
            spec, model, base.tokenizer, arguments, train_rows.rows, valid, progress
        )
        if base.quantization:
            restore(run, model)  # TRL has rounded it to bf16
    else:
        trainer = FastSFTTrainer(  # to it a piece is a row like any other
            engine.scorer,
            "nll",
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

    # -- save: the adapter (or the whole model) with its tokenizer
    finishing.save(run, trainer, base, engine.warnings)
