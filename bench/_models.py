"""Models with random weights for the benches, the tokenizer and template of builtin/tiny."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _common import run, say

BUILD = """\
import json, sys
from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from finetune_gateway.backends.local import builtin
folder = builtin.ensure_tokenizer(Path(sys.argv[1]))
torch.manual_seed(0)
given = {**builtin.CONFIG, **json.loads(sys.argv[2])}
given.pop("architectures")
kind = given.pop("model_type")
AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **given)).save_pretrained(folder)
(folder / "generation_config.json").write_text(json.dumps(builtin.GENERATION_CONFIG))
"""


def shape(
    hidden: int,
    inner: int,
    layers: int,
    heads: int,
    kv_heads: int,
    vocabulary: int,
    kind: str = "llama",
    *,
    tied: bool = True,
) -> dict[str, Any]:
    """The part of a config.json that says how large a model is."""
    return {
        "model_type": kind,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
    }


SHAPES = {
    "2M": shape(192, 512, 4, 6, 6, 1_152),
    "13M": shape(320, 896, 6, 8, 4, 16_000),
    "40M qwen3": shape(512, 1_408, 8, 8, 4, 32_000, "qwen3"),
    "58M untied": shape(512, 1_408, 8, 8, 8, 32_000, tied=False),
    "98M": shape(640, 1_728, 14, 10, 5, 50_000),
}


def built(folder: Path, name: str) -> Path:
    """The folder of one of ``SHAPES``; made in a process of its own, so that this one stays
    small."""
    path = folder / name.replace(" ", "-")
    if not path.exists():
        say(f"building {name}")
        run([sys.executable, "-c", BUILD, str(path), json.dumps(SHAPES[name])])
    return path


@dataclass(frozen=True)
class Case:
    """A model, its rows, and how it is trained."""

    model: str
    words: int
    batch_size: int
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        kind = self.options.get("training_type", "lora")
        flags = ("gradient_checkpointing", "packing", "use_dora")
        more = [name for name in flags if self.options.get(name)]
        rows = self.options.get("micro_batch_size")
        more += [f"micro-batch {rows}"] if rows else []
        more += ["fp32"] if self.options.get("bf16") is False else []
        more += [f"engine {self.options['engine']}"] if "engine" in self.options else []
        return ", ".join([self.model, self.method, kind, f"batch {self.batch_size}", *more])

    @property
    def method(self) -> str:
        return str(self.options.get("method", "sft"))
