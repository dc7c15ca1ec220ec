"""One side of ``train_speed``: trains in this process and prints one JSON object on stdout.

``ours`` runs a job's own code on a run folder, as a worker does; ``trl`` is TRL's trainer with its
defaults as people write it, ``trl_best`` with the flags that were found fastest on a CPU. CPU
seconds are those of training: of ours with the choice of the engine and the scores of the
reference, of TRL without its imports and tokenising.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

# As in our worker: peft would import it, which takes 0.7 s and helps nobody here.
sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # blocks the import


def ours(asked: dict[str, Any]) -> dict[str, Any]:
    from finetune_gateway.backends.local.imports import import_training
    from finetune_gateway.backends.local.queue import Queue
    from finetune_gateway.backends.local.run import Run, write_json
    from finetune_gateway.backends.local.run_file import RunFile
    from finetune_gateway.methods import load_trainer
    from finetune_gateway.settings.home import Settings
    from finetune_gateway.spec import TrainingSpec

    seen: dict[str, Any] = {"losses": []}

    class Timed(Run):
        def event(self, message: str, **kwargs: Any) -> None:
            super().event(message, **kwargs)
            data = kwargs.get("data") or {}
            if "micro_batch" in data:
                seen.update(began=time.process_time(), choice=data)
            if "train_loss" in data:
                seen.update(ended=time.process_time())
                seen["losses"].append(data["train_loss"])
            if "trained_tokens_per_epoch" in data:
                seen.update(tokens=data["tokens"], rows=data["rows"])

    settings = Settings(Path(asked["output"])).create()
    spec = TrainingSpec.build(
        model=asked["model"],
        method=asked["method"],
        training_type=asked["kind"],
        max_steps=asked["steps"],
        learning_rate=asked["rate"],
        batch_size=asked["batch"],
        warmup_ratio=0.0,
        logging_steps=1,
        seed=7,
        **asked.get("options", {}),
    )
    # As a worker does.
    import_training(spec.method, bitsandbytes=False, full=spec.training_type == "full")
    folder = settings.runs / "run"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "train.jsonl").write_bytes(Path(asked["train"]).read_bytes())
    about = RunFile(job_id="run", spec=spec, train_sha256="", versions={}, created_at=time.time())
    write_json(folder / "run.json", about.model_dump(mode="json"))
    Queue(settings).add("run")
    run = Timed(settings, "run", 0)
    run.claim(status="running")
    load_trainer(spec.method).train_and_save(run)
    return seen


def trl(asked: dict[str, Any]) -> dict[str, Any]:
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    seen: dict[str, Any] = {"losses": []}

    class Clock(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if "loss" in logs:
                seen.update(ended=time.process_time())
                seen["losses"].append(logs["loss"])

    best = asked["side"] == "trl_best"
    options = asked.get("options", {})
    # A base that is not trained may be bf16.
    half = best and asked["kind"] == "lora" and options.get("bf16", True)
    flags: dict[str, Any] = {"per_device_train_batch_size": asked["batch"]}  # 8 is the default
    if best:  # nothing is padded, nothing computed twice
        flags = {
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": asked["batch"],
            "activation_checkpointing": False,
        }
    rows = [json.loads(line) for line in Path(asked["train"]).read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model: Any = AutoModelForCausalLM.from_pretrained(
        asked["model"], dtype=torch.bfloat16 if half else torch.float32
    )
    common: dict[str, Any] = {
        "output_dir": asked["output"], "use_cpu": True, "max_steps": asked["steps"],
        "learning_rate": asked["rate"], "seed": 7, "data_seed": 7, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True,
        "max_length": None,  # nothing is cut: ours has the limit of the model
        **options, **flags,
    }  # fmt: skip
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    config: Any
    data: Dataset
    if asked["method"] == "sft":
        data, config = Dataset.from_list(encoded(rows, tokenizer)), SFTConfig(**common)
    else:
        data = Dataset.from_list(
            [
                {
                    "prompt": row["input"]["messages"],
                    "chosen": row["preferred_output"],
                    "rejected": row["non_preferred_output"],
                }
                for row in rows
            ]
        )
        config = DPOConfig(**common)
    trainer: Any = (SFTTrainer if asked["method"] == "sft" else DPOTrainer)(
        model=model,
        args=config,
        train_dataset=data,
        processing_class=tokenizer,
        peft_config=lora if asked["kind"] == "lora" else None,
        callbacks=[Clock()],
    )
    seen["began"] = time.process_time()
    trainer.train()
    return seen


def encoded(rows: list[dict[str, Any]], tokenizer: Any) -> list[dict[str, list[int]]]:
    """Ids, and labels on what the assistant says."""
    found = []
    for row in rows:
        one = tokenizer.apply_chat_template(
            row["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, mask = one["input_ids"], one["assistant_masks"]
        labels = [i if trained else -100 for i, trained in zip(ids, mask, strict=True)]
        found.append({"input_ids": ids, "labels": labels})
    return found


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    result = ours(given) if given["side"] == "ours" else trl(given)
    result["cpu"] = result["ended"] - result["began"]
    print(json.dumps(result))
