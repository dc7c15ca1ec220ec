"""The size of a base by what is here of it: its config.json, an index of its weights, or these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.bases import change_config, make_base, shapes, split

from finetune_gateway.backends.local.models import config_of, other_size, shape_in
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.estimation.weights import INDEX

LLAMA: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128_256,
    "tie_word_embeddings": True, "dtype": "bfloat16",
}  # fmt: skip
COUNTED = shape_of(LLAMA).parameters


def a_folder(tmp_path: Path, about: Any = None, **changed: Any) -> Path:
    """What is here of a base of the hub before its weights are: the small files."""
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, **changed}))
    if about is not None:
        places = {"model.norm.weight": "model-00001-of-00002.safetensors"}
        (tmp_path / INDEX).write_text(json.dumps({"metadata": about, "weight_map": places}))
    return tmp_path


@pytest.mark.parametrize(
    "about",
    [{"total_size": 6 * COUNTED}, {"total_size": 1, "total_parameters": 3 * COUNTED}],
)
def test_an_index_says_the_size_before_the_weights_are_here(
    about: dict[str, int], tmp_path: Path
) -> None:
    folder = a_folder(tmp_path, about)
    shape = shape_in(folder)
    assert shape.parameters == 3 * COUNTED
    assert shape.linear_parameters == shape_of(LLAMA).linear_parameters
    said = other_size(folder, shape)
    assert "have 3.71 billion parameters" in said and "1.24 billion are counted" in said


@pytest.mark.parametrize(
    "about",
    [
        {"total_size": 2 * COUNTED},
        {"total_size": 4 * COUNTED},  # float32, whatever config.json says
        {"total_size": int(2.08 * COUNTED)},
        {"total_parameters": COUNTED},
        *({"total_size": wrong} for wrong in (-1, 0, 2**60, "2", 2.0, True, None, [2])),
        *([], "x", {}, 7),
    ],
)
def test_an_index_of_the_counted_size_or_of_none_changes_nothing(
    about: Any, tmp_path: Path
) -> None:
    folder = a_folder(tmp_path, about)
    shape = shape_in(folder)
    assert shape == shape_of(LLAMA)
    assert other_size(folder, shape) == ""


def test_a_smaller_file_takes_from_the_blocks(tmp_path: Path) -> None:
    folder = a_folder(tmp_path, {"total_size": COUNTED})
    shape = shape_in(folder)
    assert shape.parameters == COUNTED // 2
    blocks = shape.parameters - shape.embedding_parameters - shape.hidden_size
    assert shape.block_parameters == shape.active_block_parameters == blocks
    assert shape.linear_parameters <= blocks


def test_a_family_that_is_not_known_is_said_where_nothing_else_gives_its_size(
    tmp_path: Path,
) -> None:
    folder = a_folder(tmp_path, model_type="llama_of_tomorrow")
    said = other_size(folder, shape_in(folder))
    assert "1.24 billion parameters are counted" in said and "'llama_of_tomorrow'" in said
    a_folder(tmp_path, {"total_size": 2 * COUNTED}, model_type="llama_of_tomorrow")
    assert other_size(folder, shape_in(folder)) == ""


def test_quantised_weights_are_of_the_size_of_the_config(tmp_path: Path) -> None:
    stored = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    folder = a_folder(tmp_path, {"total_size": COUNTED // 2}, **stored)
    assert shape_in(folder).parameters == COUNTED
    assert other_size(folder, shape_in(folder)) == ""


def test_weights_that_are_here_give_their_own_size(tmp_path: Path, tiny_tokenizer: Path) -> None:
    tensors = shapes() | {"vision.tower.weight": ("F32", (64, 1_000))}
    folder = make_base(tmp_path / "base", tiny_tokenizer, tensors)
    shape = shape_in(folder)
    whole = sum(rows * (sides[0] if sides else 1) for _, (rows, *sides) in tensors.values())
    assert shape.parameters == whole
    assert "Its weights have" in other_size(folder, shape)
    split(folder, tensors)
    assert shape_in(folder).parameters == whole
    change_config(folder, quantization_config={"quant_method": "awq"})
    assert shape_in(folder) == shape_of(config_of(folder))
