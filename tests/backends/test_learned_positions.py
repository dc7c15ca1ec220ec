"""Models that have learned each of their positions, and cannot read a token beyond the last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from support.method_rows import small_rows
from support.training import log_of, method_run, train_run

from finetune_gateway import Gateway, SpecError


@pytest.fixture
def gpt2(tmp_path: Path, tiny_folder: Path) -> Path:
    """A small GPT-2 of 128 positions with the tokenizer of the other tiny model."""
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = shutil.copytree(tiny_folder, tmp_path / "gpt2")
    sizes: dict[str, Any] = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 128}
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    ends: dict[str, Any] = {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": 3}
    (folder / "model.safetensors").unlink()
    config = GPT2Config(vocab_size=vocabulary, **sizes, **ends)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def long_row() -> dict[str, Any]:
    [row] = small_rows("sft", 1)
    question = {"role": "user", "content": "Where is parcel number 1? " * 40}
    return {"messages": [question, row["messages"][1]]}


def test_a_longer_held_out_row_ends_no_training(tmp_path: Path, gpt2: Path) -> None:
    """A max_length that lets it in is refused first, with the one that serves; cut, the row is
    left out or evaluated."""
    rows, held_out = small_rows("sft", 8), [long_row(), *small_rows("sft", 2, 20)]
    refused = method_run(
        tmp_path / "one", gpt2, "sft", "full", rows, validation=held_out, max_length=1024
    )
    with pytest.raises(SpecError, match="128 positions") as found:
        train_run(refused)
    assert "at most 128" in found.value.hint and "Training starts" not in log_of(refused)
    cut = method_run(tmp_path / "two", gpt2, "sft", "full", rows, validation=held_out, n_epochs=1)
    assert "valid_loss" in log_of(train_run(cut))


def test_its_context_counts_at_the_submit(home: Path, gpt2: Path) -> None:
    """By the name that its config has for it."""
    rows = [*small_rows("sft", 12), long_row()]
    given: dict[str, Any] = {"model": str(gpt2), "backend": "local"}
    assert "128" in Gateway().estimate(rows, **given, max_length=1024).refused["longer"]
    assert "longer" not in Gateway().estimate(rows, **given).refused
