"""What tests of the local backend share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.rows import chat_rows
from support.training import a_run, train_run

from finetune_gateway.backends.local.run import Run
from finetune_gateway.spec import TrainingSpec


@pytest.fixture
def train(home: Path, tiny_folder: Path) -> Callable[..., Run]:
    """``train(count, **options)``: a run of the worker's training code on so many rows, in this
    process; raises what it raises. ``run`` is the run, whatever became of it."""

    def trained(count: int, **options: Any) -> Run:
        given = {"lora_r": 4, "seed": 3, "batch_size": 4, "logging_steps": 1, **options}
        if given.get("training_type") == "full":
            del given["lora_r"]
        spec = TrainingSpec.build(model=str(tiny_folder), **given)
        return train_run(a_run(home, spec, chat_rows(count)))

    return trained
