"""A run that died once its last step was saved is not trained any further."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from support.training import events_of, log_of, method_run, metrics_of, train_run, trained_weights

from finetune_gateway.backends.local.run import Run


@pytest.mark.parametrize("steps", [{"max_steps": 3}, {"max_steps": 5}, {"n_epochs": 1}])
def test_the_last_checkpoint_is_the_end(
    home: Path, tiny_folder: Path, steps: dict[str, int]
) -> None:
    """Wherever it lies in its epoch (4 steps): no step more, the same weights, and the
    result is said again."""
    options = {"batch_size": 2, "save_steps": 1, "lr_scheduler_type": "constant", **steps}
    data = some_rows(8)
    run = method_run(home, tiny_folder, "sft", "lora", data, validation=data[:2], **options)
    train_run(run)
    before, told = trained_weights(run), len(metrics_of(run))
    weights = {name: tensor.clone() for name, tensor in before.items()}

    shutil.rmtree(run.model)
    again = Run(run.settings, run.id, 0)
    again.claim(status="running")
    train_run(again)
    assert "Continuing from checkpoint-" in log_of(run)
    assert len(metrics_of(run)) == told
    ends = [one["message"] for one in events_of(run) if one["message"].startswith("Result: ")]
    assert len(ends) == 2 and len(set(ends)) == 1
    assert all(bool((trained_weights(run)[name] == weights[name]).all()) for name in weights)


def some_rows(number: int) -> list[dict[str, Any]]:
    """Rows of one question and answer each."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What is {one} and {one}?"},
                {"role": "assistant", "content": f"It is {2 * one}."},
            ]
        }
        for one in range(number)
    ]
