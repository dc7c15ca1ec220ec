"""One side of ``peers``: another trainer, in an environment of its own, trains on given token ids.

Takes one JSON object on the command line and prints one on stdout, as ``_train_side.py`` does. CPU
seconds are those of training: without imports, loading and reading the rows. ``encode`` runs in
our environment and writes the rows, so that every side trains on the same ids, labels and order.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

SEED = 7  # of ours too, in _train_side.py


def encode(asked: dict[str, Any]) -> dict[str, Any]:
    """Write ids, and labels on what the assistant says, in the order in which a trainer with this
    seed takes them in its first epoch: the others take them as they stand."""
    import torch
    from _train_side import encoded
    from transformers import AutoTokenizer

    lines = Path(asked["train"]).read_text("utf-8").splitlines()
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    rows = encoded([json.loads(line) for line in lines], tokenizer)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SEED)).tolist()
    with Path(asked["output"]).open("w", encoding="utf-8") as file:
        for row in (rows[number] for number in order):
            file.write(json.dumps(row | {"attention_mask": [1] * len(row["labels"])}) + "\n")
    return {"rows": len(rows), "tokens": sum(len(row["labels"]) for row in rows)}


def llamafactory(asked: dict[str, Any]) -> dict[str, Any]:
    """LLaMA-Factory's ``run_exp`` with the fastest settings found. Its default is checkpointing,
    and fp32 where bf16 is not asked for."""
    # Imported at the top for audio; its wheel is one for GPUs, and breaks a torch for CPUs.
    stub = ModuleType("torchaudio")
    stub.__spec__ = ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = stub
    from datasets import Dataset, DatasetDict
    from llamafactory.train.tuner import run_exp  # type: ignore[import-not-found]  # not ours

    seen = clock()
    output = Path(asked["output"])
    rows = [json.loads(line) for line in Path(asked["train"]).read_text("utf-8").splitlines()]
    DatasetDict({"train": Dataset.from_list(rows)}).save_to_disk(output / "tokens")
    run_exp(
        {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": asked["model"],
            "dataset": "rows",  # a name is asked for; the next line is what it reads
            "tokenized_path": str(output / "tokens"),
            "output_dir": str(output / "adapter"),
            "finetuning_type": "lora",
            "lora_rank": 16,
            "lora_alpha": 32,
            "lora_dropout": 0.0,
            "lora_target": "all",
            "num_train_epochs": 1,
            "per_device_train_batch_size": 1,  # nothing is padded
            "gradient_accumulation_steps": asked["batch"],
            "disable_shuffling": True,
            "disable_gradient_checkpointing": True,
            "bf16": asked["bf16"],
            "learning_rate": asked["rate"],
            "lr_scheduler_type": "linear",
            "warmup_steps": 0,
            "optim": "adamw_torch",
            "seed": SEED,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
        }
    )
    return seen


def axolotl(asked: dict[str, Any]) -> dict[str, Any]:
    """Axolotl's ``do_cli`` with the fastest settings found. Its own choice without a GPU is fp16,
    which takes minutes a step on a CPU; bf16 it refuses there."""
    from axolotl.cli.train import do_cli  # type: ignore[import-not-found]  # not ours

    seen = clock()
    output = Path(asked["output"])
    config = output / "config.yaml"
    settings = {
        "base_model": asked["model"],
        "datasets": [{"path": asked["train"], "ds_type": "json", "type": ""}],  # token ids
        "dataset_prepared_path": str(output / "tokens"),
        "output_dir": str(output / "adapter"),
        "adapter": "lora",
        "lora_r": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        # Switched on where they are not set, and for GPUs only.
        "lora_mlp_kernel": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "num_epochs": 1,
        "micro_batch_size": 1,  # nothing is padded
        "gradient_accumulation_steps": asked["batch"],
        "shuffle_merged_datasets": False,
        "curriculum_sampling": True,  # its name for "as they stand"
        "sequence_len": 2048,
        "bf16": False,
        "fp16": False,
        "learning_rate": asked["rate"],
        "lr_scheduler": "linear",
        "warmup_steps": 0,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "optimizer": "adamw_torch",
        "seed": SEED,
        "logging_steps": 1,
        "save_strategy": "no",
    }
    config.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML
    del sys.argv[1:]  # it parses the command line too
    do_cli(str(config))
    return seen


def clock() -> dict[str, Any]:
    """Note losses and CPU seconds of the trainer of transformers that trains in this process."""
    from transformers import TrainerCallback, trainer

    seen: dict[str, Any] = {"losses": []}

    class Clock(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen["began"] = time.process_time()

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                seen["cpu"] = time.process_time() - seen["began"]
                seen["losses"].append(float(logs["loss"]))

    callbacks: list[Any] = trainer.DEFAULT_CALLBACKS
    callbacks.append(Clock)
    return seen


SIDES: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "llamafactory": llamafactory,
    "axolotl": axolotl,
}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    if given["side"] == "encode":
        result = encode(given)
    else:
        result = SIDES[given["side"]](given)
        packages = (given["side"], "torch", "transformers", "trl", "peft")
        result["versions"] = {name: version(name) for name in packages}
    print(json.dumps(result))
