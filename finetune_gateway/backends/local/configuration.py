"""Configure training in the words of Hugging Face's libraries: the trainer's arguments, the
adapter. Imports torch."""

from __future__ import annotations

from math import ceil
from typing import Any

import torch
from peft import LoraConfig, TaskType
from peft.utils.constants import EMBEDDING_LAYER_NAMES
from transformers import PreTrainedModel
from transformers.utils.import_utils import is_liger_kernel_available

from finetune_gateway.backends.local.loading import not_for_text
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.step_plan import StepPlan, seed_of
from finetune_gateway.backends.local.trackers import PROJECT
from finetune_gateway.spec import TrainingSpec


def training_arguments(
    run: Run, plan: StepPlan, *, learning_rate: float, held_out: bool, bf16: bool
) -> dict[str, Any]:
    """Return the arguments of ``TrainingArguments``, which the configs of TRL's trainers take too.

    ``learning_rate``: the method's own, for a spec without one. ``held_out``: some rows are
    evaluated.
    """
    spec, on_gpu = run.spec, torch.cuda.is_available()
    seed = seed_of(spec)
    # Saves memory for a third more time; a CPU has memory.
    checkpointing = on_gpu if spec.gradient_checkpointing == "auto" else spec.gradient_checkpointing
    return {
        "output_dir": str(run.checkpoints),
        "num_train_epochs": plan.epochs,
        "max_steps": spec.max_steps or -1,
        "per_device_train_batch_size": plan.micro_batch,
        "per_device_eval_batch_size": plan.micro_batch,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": spec.learning_rate or learning_rate,
        "lr_scheduler_type": spec.lr_scheduler_type,
        "warmup_steps": ceil(spec.warmup_ratio * plan.steps),
        "weight_decay": spec.weight_decay,
        "optim": spec.optim,
        "max_grad_norm": spec.max_grad_norm,
        "use_cpu": not on_gpu,
        "bf16": bf16,
        "activation_checkpointing": checkpointing,
        "logging_steps": plan.log_every,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # it would log 0.0 for NaN
        "eval_strategy": "steps" if held_out else "no",
        "eval_steps": plan.eval_every,
        "save_strategy": "steps",
        "save_steps": plan.save_every,
        "save_total_limit": None,  # ``Progress`` deletes those that are not needed any more
        "seed": seed,
        "data_seed": seed,
        "report_to": spec.report_to,
        "run_name": run.id,
        "project": PROJECT,
        "disable_tqdm": True,
        "dataloader_pin_memory": on_gpu,
        **(fused_kernels() if on_gpu and plan.engine == "fast" else {}),
    }


def fused_kernels() -> dict[str, Any]:
    """Return the arguments that fuse norms, rotations and gates on a GPU, where Liger's kernels are
    installed. Not its head: ours keeps no logits either, and knows labels."""
    if not is_liger_kernel_available():
        return {}
    head = {"cross_entropy": False, "fused_linear_cross_entropy": False}
    return {"use_liger_kernel": True, "liger_kernel_config": head}


def lora_config(spec: TrainingSpec, model: PreTrainedModel) -> LoraConfig | None:
    """Return the adapter that a spec wants on this model; None for full fine-tuning. The head of a
    reward model is new, and trained whole."""
    if spec.training_type == "full":
        return None
    scores = spec.method == "reward"
    targets = spec.target_modules
    # A head that shares the embedding's weight goes on sharing it. PEFT warns where there is none.
    saved = {name.rpartition(".")[2] for name in spec.modules_to_save}
    tied = bool(getattr(model.config.get_text_config(), "tie_word_embeddings", False))
    return LoraConfig(
        r=spec.lora_r,
        lora_alpha=spec.lora_alpha,
        lora_dropout=spec.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        exclude_modules=not_for_text(model),
        use_dora=spec.use_dora,
        use_rslora=spec.use_rslora,
        modules_to_save=[*spec.modules_to_save, *(["score"] if scores else [])] or None,
        ensure_weight_tying=tied and not scores and not saved.isdisjoint(EMBEDDING_LAYER_NAMES),
        task_type=TaskType.SEQ_CLS if scores else TaskType.CAUSAL_LM,
    )


def without_dropout(model: torch.nn.Module) -> None:
    """Switch the dropout of a base off, as TRL does in preference training: the reference has
    none, so it would be a difference that nobody prefers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0  # type: ignore[assignment]  # a plain number


def train_in_float32(model: torch.nn.Module) -> None:
    """Hold what is trained in fp32. On a quantised base TRL casts the adapters to bf16, but a
    checkpoint is read back in fp32: a run that is continued would differ. In fp32 both are bit for
    bit the same."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
