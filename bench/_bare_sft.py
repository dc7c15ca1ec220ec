"""LoRA fine-tuning by TRL as people write it by hand: what a local job is measured against.

Takes one JSON object on the command line (``overhead`` writes it) and prints one on stdout:
when training began, when the last metrics were logged, and the last losses.
"""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

# As in our worker: peft would import it, which takes 0.7 s and helps nobody here.
sys.modules["bitsandbytes"] = None  # type: ignore[assignment]  # blocks the import

import torch  # noqa: E402
from datasets import Dataset  # noqa: E402
from peft import LoraConfig, TaskType  # noqa: E402
from torch.optim.lr_scheduler import LambdaLR  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402


class Clock(TrainerCallback):
    """Notes when training begins and when a loss was logged."""

    def __init__(self) -> None:
        self.seen: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seen["began"] = time.time()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        for name in {"loss", "eval_loss"} & logs.keys():
            now = {"ended": time.time(), "cpu": time.process_time(), "step": state.global_step}
            self.seen |= {name: logs[name], **now}


class Trainer(SFTTrainer):
    """With our schedule, written out: transformers' would have 0 as its first rate."""

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
        total, warmup = num_training_steps, self.args.get_warmup_steps(num_training_steps)

        def factor(done: int) -> float:
            rising, falling = (done + 1) / warmup, (total - done) / (total + 1 - warmup)
            return float(min(rising, falling))

        self.lr_scheduler = scheduler = LambdaLR(self.optimizer, factor)  # type: ignore[arg-type]  # it has one by now
        return scheduler


def encoded(path: str, tokenizer: Any) -> Dataset:
    """Ids, and labels on what the assistant says."""
    columns: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
    with open(path, encoding="utf-8") as file:
        for line in file:
            messages = json.loads(line)["messages"]
            found = tokenizer.apply_chat_template(
                messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
            )
            ids, mask = found["input_ids"], found["assistant_masks"]
            columns["input_ids"].append(ids)
            columns["labels"].append(
                [i if trained else -100 for i, trained in zip(ids, mask, strict=True)]
            )
    return Dataset.from_dict(columns)


def main(asked: dict[str, Any]) -> None:
    on_gpu = torch.cuda.is_available()
    in_bf16 = on_gpu and torch.cuda.is_bf16_supported()
    tokenizer = AutoTokenizer.from_pretrained(asked["model"])
    model: Any = AutoModelForCausalLM.from_pretrained(  # mypy takes its wrapped .cuda for unbound
        asked["model"], dtype=torch.bfloat16 if in_bf16 else torch.float32
    )
    clock = Clock()
    trainer = Trainer(
        model=model.cuda() if on_gpu else model,
        args=SFTConfig(
            output_dir=asked["output"],
            max_steps=asked["max_steps"],
            num_train_epochs=3,
            per_device_train_batch_size=asked["batch_size"],
            per_device_eval_batch_size=asked["batch_size"],
            learning_rate=asked["learning_rate"],
            lr_scheduler_type="linear",
            warmup_steps=math.ceil(0.05 * asked["max_steps"]),
            max_length=None,
            packing=False,
            use_cpu=not on_gpu,
            bf16=in_bf16,
            activation_checkpointing=on_gpu,
            logging_steps=asked["logging_steps"],
            logging_first_step=True,
            eval_strategy="steps",
            eval_steps=asked["eval_steps"],
            save_strategy="steps",
            save_steps=asked["save_steps"],
            save_total_limit=2,
            seed=asked["seed"],
            data_seed=asked["seed"],
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=on_gpu,
        ),
        train_dataset=encoded(asked["train"], tokenizer),
        eval_dataset=encoded(asked["validation"], tokenizer),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=asked["lora_r"],
            lora_alpha=32,
            lora_dropout=0.0,
            target_modules="all-linear",
            task_type=TaskType.CAUSAL_LM,
        ),
        callbacks=[clock],
    )
    trainer.train()
    print(json.dumps(clock.seen))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
