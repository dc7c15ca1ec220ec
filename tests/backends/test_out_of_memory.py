"""Memory that runs out in training: fewer rows pass through the model at once, the steps stay."""

from __future__ import annotations

import json
import random
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.chaos import until
from support.training import a_run, events_of, row_table

from finetune_gateway import Gateway, Job
from finetune_gateway.backends.local import deaths, out_of_memory
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.worker import train_within_memory, why_it_died
from finetune_gateway.estimation.engine import engine_of
from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.memory import Setup, micro_batch_rows, step_memory
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.methods import METHODS
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Rows = Callable[[int], list[dict[str, Any]]]
QWEN3_4B: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 9728, "vocab_size": 151936,
    "tie_word_embeddings": True,
}  # fmt: skip


def losses(found: list[dict[str, Any]]) -> dict[int, float]:
    """The loss of each step; of one that was made again, the last."""
    steps = [event["data"] for event in found if "train_loss" in event["data"]]
    return {step["step"]: step["train_loss"] for step in steps}


class WithoutRoom(Run):
    """A run that has no memory left, once for each of the given events."""

    fails: list[str]

    def event(self, message: str, **kwargs: Any) -> None:
        super().event(message, **kwargs)
        if self.fails and message.startswith(self.fails[0]):
            del self.fails[0]
            import torch

            torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("engine", ["fast", "trl"])
def test_a_step_without_memory_is_made_again_in_smaller_parts(
    home: Path, tiny_folder: Path, rows: Rows, engine: str
) -> None:
    """In the first step, and behind a checkpoint: each time half as many rows at once, and the
    losses are those of a run that has begun so."""
    options: dict[str, Any] = {"batch_size": 4, "max_steps": 2, "lora_r": 4}
    options |= {"save_steps": 1, "engine": engine}

    def a_spec(at_once: int) -> TrainingSpec:
        return TrainingSpec.build(
            model=str(tiny_folder), seed=3, logging_steps=1, micro_batch_size=at_once, **options
        )

    made = a_run(home, a_spec(4), rows(12))
    run = WithoutRoom(made.settings, made.id, 0)
    run.fails = ["Training starts", "Step 2/"]
    from finetune_gateway.backends.local import finishing

    train_within_memory(run, finishing.train)
    told = [event for event in events_of(run) if "micro_batch" in event["data"]]
    again = [event["data"] for event in told if event["message"].startswith("Memory ran out")]
    assert again == [{"micro_batch": 2}, {"micro_batch": 1}]
    assert "one row passes through the model at once; a step has the same 4." in str(told)
    assert any("Continuing from checkpoint-1" in event["message"] for event in events_of(run))
    small = a_run(home, a_spec(1), rows(12))
    train_within_memory(small, finishing.train)
    assert losses(events_of(run)) == pytest.approx(losses(events_of(small)), rel=1e-5)


def test_what_is_not_of_a_batch_is_not_made_again(
    home: Path, tiny_folder: Path, rows: Rows
) -> None:
    """With one row at once, or without memory for the model itself, the job ends; a dead worker's
    successor takes half."""
    run = a_run(home, TrainingSpec.build(model=str(tiny_folder)), rows(4))
    assert out_of_memory.halve(run.folder, run.spec, "training") is None  # nothing is kept
    assert out_of_memory.micro_batch(run.folder, 8) == 8 == out_of_memory.micro_batch(run.folder, 4)
    assert out_of_memory.halve(run.folder, run.spec, "loading the model") is None
    deaths.begin(run.folder)
    assert "From here on" not in why_it_died(run, death(run), "cpu")
    with (run.folder / "worker.log").open("a") as log:
        log.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    assert "From here on 4 rows pass through the model" in why_it_died(run, death(run), "cpu")
    for rows_left in (2, 1):
        assert out_of_memory.halve(run.folder, run.spec, "training") == rows_left
    assert "It needs less with" in why_it_died(run, death(run), "cpu")


def death(run: Run) -> deaths.Death:
    """How a worker of this run has died while training, as its log has it."""
    return replace(deaths.find(run.folder), phase="training")


def test_rows_at_once_are_those_that_fit() -> None:
    """On a GPU the most that divide a batch and leave a quarter; on a CPU one row in our engine,
    a batch in TRL's; all of a step where the loss sorts them."""
    shape, spec = shape_of(QWEN3_4B), TrainingSpec(model="m", batch_size=12)
    setup = Setup.of(spec, "gpu", shape)
    for gpu in ("RTX 4090", "A100-80GB", "H200"):
        usable = GPUS[gpu].usable_bytes
        rows = micro_batch_rows(spec, shape, setup, 2048, usable)
        assert 12 % rows == 0
        assert rows == 1 or step_memory(shape, setup, rows, 2048).total * 3 // 2 <= usable
        more = next((n for n in range(rows + 1, 13) if 12 % n == 0), None)
        if more:
            assert step_memory(shape, setup, more, 2048).total * 3 // 2 > usable
    assert micro_batch_rows(spec, shape, setup, 2048, GPUS["H200"].usable_bytes) > 1
    for options, expected in (
        ({}, 1),
        ({"engine": "trl"}, 8),
        ({"micro_batch_size": 2}, 2),
        ({"method": "dpo"}, 1),
        ({"method": "dpo", "loss_type": "aot", "gradient_accumulation_steps": 2}, 16),
    ):
        asked = TrainingSpec.build(model="m", **options)
        here = Setup.of(asked, "cpu", shape)
        assert here.engine == engine_of(asked)
        assert micro_batch_rows(asked, shape, here, 2048, None) == expected


@pytest.mark.parametrize("method", ["kto", "reward"])
def test_whole_models_without_memory_for_fp32_are_bf16_in_every_method(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, method: Any
) -> None:
    """On a GPU that has next to no memory: the model says so, and the result comes with a
    warning. The GPU is torch's word alone; the model stays on the CPU."""
    import torch

    from finetune_gateway.backends.local import engine
    from finetune_gateway.backends.local.loading import load_base

    spec = TrainingSpec.build(
        model=str(tiny_folder), method=method, training_type="full", engine="trl"
    )
    run = a_run(home, spec, [])
    base = replace(load_base(run), bf16=True)  # as on such a GPU
    names = ["chosen_ids", "rejected_ids"] if METHODS[method].sequences == 2 else ["input_ids"]
    for name, value in (("is_available", True), ("is_bf16_supported", True)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value, **_: value)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10**6, 10**6))
    rows = row_table(dict.fromkeys(names, [[1, 2, 3]]))
    found = engine.choose(run, base, base.model, rows)
    assert base.model.dtype == torch.bfloat16
    assert found.warnings[0].startswith("The weights are trained in bfloat16: ")
    assert events_of(run)[-1]["message"] == found.warnings[0]


@pytest.mark.parametrize(
    ("options", "half"),
    [
        ({"method": "dpo", "loss_type": "aot"}, None),
        ({"method": "kto", "engine": "trl"}, None),
        ({"method": "kto", "engine": "trl", "loss_type": "apo_zero_unpaired"}, 4),
    ],
)
def test_a_loss_that_goes_by_the_rows_at_once_is_not_halved(
    home: Path, tiny_folder: Path, options: dict[str, Any], half: int | None
) -> None:
    """Half as many rows would be another loss: the job ends instead."""

    from finetune_gateway.backends.local import engine
    from finetune_gateway.backends.local.loading import load_base

    spec = TrainingSpec.build(model=str(tiny_folder), **options)
    run = a_run(home, spec, [])
    base = load_base(run)
    names = ["chosen_ids", "rejected_ids"] if spec.method == "dpo" else ["input_ids"]
    rows = row_table(dict.fromkeys(names, [[1, 2, 3]]))
    assert engine.choose(run, base, base.model, rows).micro_batch == 8
    assert out_of_memory.halve(run.folder, spec, "training") == half


def ran_out(job: Job) -> bool:
    return any("Memory ran out" in event.message for event in job.refresh().events())


@pytest.mark.chaos
def test_a_worker_with_little_memory_trains_all_the_same(
    home: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """A real limit while it trains: 64 long rows at once need more than the worker may have."""
    chance, data = random.Random(2), tmp_path / "long.jsonl"
    turns = [
        [
            {"role": "user", "content": "Where?"},
            {"role": "assistant", "content": "order parcel " * chance.randint(500, 700)},
        ]
        for _ in range(64)
    ]
    data.write_text("".join(json.dumps({"messages": one}) + "\n" for one in turns))
    queue = Queue(Settings(home))
    job = Gateway().submit(
        data, model=str(tiny_folder), backend="local", validation_split=0, n_epochs=1,
        batch_size=64, micro_batch_size=64, seed=3,
    )  # fmt: skip
    pid = until(lambda: queue.get(job.id).pid)
    none = resource.RLIM_INFINITY
    resource.prlimit(pid, resource.RLIMIT_DATA, (1_750_000_000, none))
    until(lambda: ran_out(job) or queue.get(job.id).status.final, 300)
    resource.prlimit(pid, resource.RLIMIT_DATA, (none, none))
    job.wait(timeout=600)
    assert job.status == "succeeded", job.error
    assert ran_out(job), [event.message for event in job.events()]
