"""Model folders that are whole, damaged, quantised or something else: written without torch."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

from finetune_gateway.estimation.weights import BITS, INDEX, SINGLE

Shapes = dict[str, tuple[str, tuple[int, ...]]]  # name -> type and shape
LAYER = {
    "self_attn.q_proj.weight": (32, 32),
    "self_attn.o_proj.weight": (32, 32),
    "mlp.down_proj.weight": (32, 64),
    "input_layernorm.weight": (32,),
}


def shapes(layers: int = 3, vocabulary: int = 1152) -> Shapes:
    """Return the tensors of a small decoder whose head is tied."""
    found: Shapes = {"model.embed_tokens.weight": ("F32", (vocabulary, 32))}
    for number in range(layers):
        found |= {f"model.layers.{number}.{name}": ("F32", shape) for name, shape in LAYER.items()}
    return {**found, "model.norm.weight": ("F32", (32,))}


def packed(tensors: Shapes) -> bytes:
    """Return a safetensors file with these tensors, all zero."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * BITS[dtype] // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + bytes(end)


def make_base(folder: Path, tokenizer: Path, tensors: Shapes | None = None) -> Path:
    """Write a model folder with this tokenizer, and return it."""
    shutil.copytree(tokenizer, folder)
    change_config(folder, num_hidden_layers=3, hidden_size=32)
    (folder / SINGLE).write_bytes(packed(shapes() if tensors is None else tensors))
    return folder


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def split(folder: Path, tensors: Shapes) -> list[Path]:
    """Write the weights as two shards with an index, and return the shards."""
    (folder / SINGLE).unlink()
    names, half = list(tensors), len(tensors) // 2
    parts = {"model-1.safetensors": names[:half], "model-2.safetensors": names[half:]}
    for file, part in parts.items():
        (folder / file).write_bytes(packed({name: tensors[name] for name in part}))
    places = {name: file for file, part in parts.items() for name in part}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    return [folder / file for file in parts]
