"""DPO and ORPO by a worker of their own: real rows, and kill -9 while the reference scores or
the model is trained."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from support.chaos import end_workers, ended, has_losses, hold_worker, kill_worker
from support.pairs import pair_rows

from finetune_gateway import Gateway, Job, JobStatus

pytestmark = pytest.mark.chaos
SMALL: dict[str, Any] = {"lora_r": 4, "seed": 3, "learning_rate": 5e-3, "max_length": 256}
FILES = ("foundry_orca_dpo/validation.jsonl", "llamafactory_dpo_en/dpo_en_demo.json")


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def submit(data: Any, folder: Path, **options: Any) -> Job:
    given = {**SMALL, "model": str(folder), "backend": "local", "validation_split": 0, **options}
    return Gateway().submit(data, **given)


def losses(job: Job) -> list[float]:
    return [found.train_loss for found in job.metrics() if found.train_loss is not None]


def weights(job: Job, home: Path) -> bytes:
    return (home / "runs" / job.id / "model" / "adapter_model.safetensors").read_bytes()


@pytest.mark.shared
@pytest.mark.parametrize("method", ["dpo", "orpo"])
@pytest.mark.parametrize("name", FILES)
def test_real_pairs_are_learned(
    home: Path, tiny_folder: Path, shared: Path, name: str, method: str
) -> None:
    """48 of them, in two forms; as many tokens are trained as the estimate says."""
    text = (shared / "data" / name).read_text("utf-8")
    lines = json.loads(text) if name.endswith(".json") else map(json.loads, text.splitlines())
    rows = [row for _, row in zip(range(48), lines, strict=False)]
    asked: dict[str, Any] = {"method": method, "n_epochs": 2}
    quote = Gateway().estimate(
        rows, model=str(tiny_folder), backend="local", validation_split=0, **SMALL, **asked
    )
    job = submit(rows, tiny_folder, **asked)
    handle = job.result(timeout=240)
    found = losses(job)
    assert sum(found[-4:]) < sum(found[:4]), found
    assert quote.trained_tokens and quote.trained_tokens.expected == job.record.trained_tokens
    assert handle.chat("Hello?", max_tokens=4).usage.completion_tokens >= 1


@pytest.mark.parametrize("moment", ["scoring", "training"])
def test_a_killed_worker_loses_nothing(home: Path, tiny_folder: Path, moment: str) -> None:
    """The adapter is that of a job that nobody killed, and no score is made twice."""
    data = pair_rows(400)
    asked: dict[str, Any] = {"method": "dpo", "max_steps": 40, "save_steps": 5, "batch_size": 8}
    whole = submit(data, tiny_folder, **asked)
    assert ended(whole, 240) is JobStatus.SUCCEEDED, whole.error
    job = submit(data, tiny_folder, **{**asked, "suffix": "killed"})
    folder = home / "runs" / job.id
    reached = has_losses(home, job.id, 12)
    if moment == "scoring":
        reached = lambda: any((folder / "reference").glob("*.f32"))  # noqa: E731
    assert kill_worker(hold_worker(home, job.id, reached))
    [kept] = (folder / "reference").glob("*.f32")
    size = kept.stat().st_size
    assert ended(job, 240) is JobStatus.SUCCEEDED, job.error
    assert weights(job, home) == weights(whole, home) and losses(job) == losses(whole)
    assert "Flattening" not in (folder / "worker.log").read_text()  # a bar is for a terminal
    scored = [
        event.data["reference_rows"] for event in job.events() if "reference_rows" in event.data
    ]
    assert kept.stat().st_size == 12 * 320
    assert scored[-1] == (320 - size // 12 if moment == "scoring" else 0)


@pytest.mark.parametrize("engine", ["fast", "trl"])
def test_what_is_continued_is_the_reference(
    home: Path, tiny_folder: Path, engine: Literal["fast", "trl"]
) -> None:
    """SFT, then DPO: the first step loses what a model loses that is its own reference, and the
    answers are as likely as the first training has made them."""
    rows = pair_rows(24)
    chats = [{"messages": [*row["input"]["messages"], *row["preferred_output"]]} for row in rows]
    first = submit(chats, tiny_folder, n_epochs=4)
    first.result(timeout=240)
    asked: dict[str, Any] = {"method": "dpo", "max_steps": 2, "engine": engine, "batch_size": 24}
    jobs = [
        submit(rows, tiny_folder, **asked),
        Gateway().submit(
            rows, **SMALL, **asked, backend="local", validation_split=0, continue_from=first.id
        ),
    ]
    assert [ended(job, 240) for job in jobs] == [JobStatus.SUCCEEDED] * 2
    assert [losses(job)[0] for job in jobs] == [pytest.approx(math.log(2), abs=1e-6)] * 2
    bare, continued = (job.metrics()[0].model_extra or {} for job in jobs)
    assert continued["train_logps/chosen"] > bare["train_logps/chosen"] + 5
