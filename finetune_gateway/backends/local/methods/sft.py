"""Supervised fine-tuning, from top to bottom: load, format, configure, train, save.

We tokenise the rows and mark their labels (``ChatTemplate.encode``). TRL's SFTTrainer would ignore
``weight: 0``, encode string tool arguments twice, and silently drop rows without a label.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel

from finetune_gateway.backends.local import finishing, models
from finetune_gateway.backends.local.configuration import train_in_float32, training_arguments
from finetune_gateway.backends.local.encoding import encode_rows
from finetune_gateway.backends.local.loading import free_memory, load_base, max_length_for
from finetune_gateway.backends.local.precision import bf16_reason, usable_gpu_memory
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.saving import manifest_of
from finetune_gateway.backends.local.start import begin, restore
from finetune_gateway.backends.local.step_plan import engine_of, plan_steps
from finetune_gateway.estimation.batch_plan import batch_rows
from finetune_gateway.events import Result

# TRL, peft_integration.md: LoRA needs 10x the rate of full. QLoRA: the paper's, for up to 13B.
LEARNING_RATE = {"lora": 2e-4, "qlora": 2e-4, "full": 2e-5}


def train(run: Run) -> tuple[Result, int | None]:
    """Train one run; return the result and the number of trained tokens."""
    # A worker may have died after it saved the model, before it stored the status.
    if manifest_of(run.model) is None:
        train_and_save(run)
        free_memory()  # result_of loads the model again
    return finishing.result_of(run)


def train_and_save(run: Run) -> None:
    """Train the base model and save an adapter, or for full fine-tuning the whole model."""
    spec = run.spec
    kind = spec.training_type or "lora"

    # -- load: the base model, its chat template and tokenizer; the adapter on it
    base = load_base(run)
    model = begin(run, base.model)

    # -- format: rows -> input_ids (n,) and labels (n,), -100 for tokens that are not trained
    run.phase("reading the data")
    max_length = max_length_for(run, base.model)
    train_rows = encode_rows(run, run.train, base.template, max_length)
    held_out = run.validation
    valid_rows = encode_rows(run, held_out, base.template, max_length) if held_out else None
    rows = pack(train_rows.rows, max_length) if spec.packing else train_rows.rows

    # -- configure: names as in Hugging Face's libraries
    plan = plan_steps(
        spec,
        len(rows),
        rows=len(train_rows.rows) + train_rows.dropped,
        held_out=len(valid_rows.rows) + valid_rows.dropped if valid_rows else 0,
        engine=engine_of(spec),
        micro_batch=batch_rows(spec),
    )
    warnings: list[str] = []  # told with the result
    if torch.cuda.is_available() and kind == "full":
        longest = max_length if spec.packing else max(map(len, train_rows.rows["input_ids"]))
        config = models.config_of(base.folder)
        warnings += fit_weights(run, model, config, plan.micro_batch, longest)
    arguments = training_arguments(
        run, plan, learning_rate=LEARNING_RATE[kind], held_out=valid_rows is not None
    )
    progress = finishing.progress_of(run, base)
    # Imported here: TRL takes eight seconds, and only its own engine needs it.
    from finetune_gateway.backends.local import trl_trainers

    trainer = trl_trainers.sft_trainer(
        spec,
        model,
        base.tokenizer,
        arguments,
        rows,
        valid_rows.rows if valid_rows else None,
        progress,
    )
    if base.quantization:
        train_in_float32(model)
        restore(run, model)

    # -- train: from the newest complete checkpoint, if an earlier worker has left one
    finishing.train_to_the_end(run, trainer)

    # -- save: the adapter (or the whole model) with its tokenizer and template
    finishing.save(run, trainer, base, warnings)


def pack(rows: Any, max_length: int) -> Any:
    """Return packs of rows, of at most ``max_length`` tokens: best fit, the longest first."""
    from trl import pack_dataset  # imported here: TRL takes eight seconds

    return pack_dataset(rows, max_length)


def fit_weights(
    run: Run, model: PreTrainedModel, config: dict[str, Any], rows: int, length: int
) -> list[str]:
    """Hold the weights of full fine-tuning in bf16 if the GPU has no memory for fp32; return the
    warning about it, or an empty list. They were read in fp32: it is less than half of a step's."""
    reason = ""
    if model.dtype == torch.float32 and torch.cuda.is_bf16_supported():
        reason = bf16_reason(run.spec, config, rows, length, usable_gpu_memory())
    if not reason:
        return []
    model.to(torch.bfloat16)  # type: ignore[arg-type]  # a decorator hides self
    run.event(reason, level="warn")
    return [reason]
