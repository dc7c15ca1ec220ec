"""A local job that goes on with other versions: said, and refused where the rest would not be
equal, unless that is allowed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.measured import calibrated
from support.method_rows import small_rows
from support.training import events_of, method_run, train_run

from finetune_gateway import Gateway, SpecError, UnsupportedError
from finetune_gateway.backends.local import checkpoints, resuming, versions
from finetune_gateway.backends.local.run import Run
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import calibration
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.reports.job_text import job_facts
from finetune_gateway.settings import sealed
from finetune_gateway.spec import TrainingSpec

LORA = TrainingSpec(model="any", training_type="lora")


def saved_with(run: Run, step: int, **others: str) -> None:
    """Let a checkpoint say that it was saved with these."""
    path = run.checkpoints / f"checkpoint-{step}" / MANIFEST
    about = json.loads(path.read_text())
    about["environment"] |= others
    about.pop(sealed.SEAL)
    sealed.write(path, about)


@pytest.fixture
def run(home: Path, tiny_folder: Path) -> Run:
    """A run of two steps whose result is gone, as after a death while it was saved."""
    rows = small_rows("sft", 8)
    made = method_run(home, tiny_folder, "sft", "lora", rows, max_steps=2, save_steps=1)
    train_run(made)
    (made.model / MANIFEST).unlink()
    made.model.rename(made.folder / "first")
    return made


def again(run: Run) -> Run:
    return train_run(Run(run.settings, run.id, run.fence))


def test_what_is_decisive_is_refused_until_it_is_allowed(run: Run) -> None:
    """The words name what was, what is, why it counts, and both ways out; allowed, for this resume
    alone, it is said with the result."""
    environment = checkpoints.about(run.checkpoints / "checkpoint-2")["environment"]
    assert environment["torch"] == torch.__version__ and environment["threads"] == "1"
    saved_with(run, 2, torch="1.0", python="2.7", trl="0.1", datasets="1")
    with pytest.raises(GatewayError) as refused:
        again(run)
    assert f"torch 1.0 then, {environment['torch']} now" in refused.value.message
    assert "it computes and draws random numbers" in refused.value.message
    assert "trl" not in refused.value.message, "our own engine trains without it"
    assert refused.value.hint.endswith(f"ftg resume {run.id} --allow-changed-versions")
    versions.allow(run.folder, 7)  # of another resume
    with pytest.raises(GatewayError, match="was saved with others"):
        again(run)
    versions.allow(run.folder, 0)
    again(run)
    manifest = json.loads((run.model / MANIFEST).read_text())
    [warning] = manifest["warnings"]
    assert warning.startswith("From step 2 on it was trained with others: torch 1.0 then, ")
    said = [one for one in events_of(run) if "changed_versions" in one["data"]]
    assert said[-1]["data"]["changed_versions"]["python"][0] == "2.7"
    (run.folder / versions.ALLOWED).write_text("{")
    assert not versions.are_allowed(run.folder, 0)


def test_what_decides_nothing_is_said_alone(run: Run) -> None:
    """Python, and packages that this job does not use: the result is the same, bit for bit."""
    first = (run.folder / "first" / "adapter_model.safetensors").read_bytes()
    about = json.loads((run.folder / "run.json").read_text())
    about["versions"] = {"python": "3.0", "trl": "0.1"}
    (run.folder / "run.json").write_text(json.dumps(about))
    saved_with(run, 2, python="3.0", trl="0.1", bitsandbytes="0.1")
    again(run)
    assert (run.model / "adapter_model.safetensors").read_bytes() == first
    [said] = [one for one in events_of(run) if "changed_versions" in one["data"]]
    assert said["message"].startswith("Since the submit, versions have changed: python 3.0 then, ")
    assert said["level"] == "warn" and {*said["data"]["changed_versions"]} == {"python", "trl"}


@pytest.mark.parametrize(
    ("spec", "counts"),
    [
        (LORA, {"torch", "peft", "device", "threads"}),
        (LORA.model_copy(update={"training_type": "full"}), {"torch", "device", "threads"}),
        (LORA.model_copy(update={"engine": "trl"}), {"torch", "peft", "trl", "device", "threads"}),
        (LORA.model_copy(update={"packing": True}), {"torch", "peft", "trl", "device", "threads"}),
        (
            LORA.model_copy(update={"training_type": "qlora"}),
            {"torch", "peft", "bitsandbytes", "device", "threads"},
        ),
    ],
    ids=["lora", "full", "trl", "packing", "qlora"],
)
def test_what_counts_follows_from_the_job(spec: TrainingSpec, counts: set[str]) -> None:
    """A package that computes nothing of a job decides nothing."""
    names = ("torch", "peft", "trl", "bitsandbytes", "python", "datasets", "device", "threads")
    then, now = dict.fromkeys(names, "1"), dict.fromkeys(names, "2")
    found = versions.decisive(versions.changed(then, now), spec)
    assert {one.name for one in found} == counts


def test_a_run_keeps_its_threads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """How many there are depends on what else runs on the machine, and OMP_NUM_THREADS is that of
    whoever has looked at the jobs; it counts where the user has allowed it."""
    threads = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    try:
        saved_with(run, 2, threads="3")
        resuming.keep_threads(run)
        assert torch.get_num_threads() == 3 and not resuming.require_equal(
            run, run.checkpoints / "checkpoint-2"
        )
        monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "2")
        torch.set_num_threads(2)
        resuming.keep_threads(run)
        assert torch.get_num_threads() == 3
        versions.allow(run.folder, run.queue.get(run.id).resumes)
        torch.set_num_threads(2)
        resuming.keep_threads(run)
        assert torch.get_num_threads() == 2
        assert "threads" in resuming.require_equal(run, run.checkpoints / "checkpoint-2")
    finally:
        torch.set_num_threads(threads)


def test_a_run_begins_with_one_thread_where_more_were_no_gain(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the calibration of this machine, not by one that came with a copied home."""
    shutil.rmtree(run.checkpoints)  # which say how many there were
    threads = torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    here, elsewhere = calibration.machine(), "another machine"
    try:
        for machine, speedups, taken in (
            (here, (1.7, 0.5), 1), (here, (1.7, 1.4), 2), (elsewhere, (1.7, 0.5), 2)
        ):  # fmt: skip
            changed = {"machine": machine, "speedups": speedups}
            calibration.write(run.settings.home, calibrated().model_copy(update=changed))
            torch.set_num_threads(2)
            resuming.keep_threads(run)
            assert torch.get_num_threads() == taken
    finally:
        torch.set_num_threads(threads)


def test_a_job_says_what_has_changed(home: Path, rows: Callable[[int], Any]) -> None:
    """In its status; a backend that trains elsewhere, and a job that was not sent, refuse to be
    told what is allowed."""
    gateway = Gateway()
    job = gateway.submit(rows(12), model="any-model", backend="fake")
    job.cancel().wait()
    with pytest.raises(UnsupportedError, match="change nothing for fake"):
        job.resume(allow_changed_versions=True)
    assert job.reload().status == "cancelled" and "changed" not in job_facts(job)
    with gateway.store.transaction() as db:
        data = json.dumps({"changed_versions": {"torch": ["1", "2"]}})
        db.execute(
            "INSERT INTO events (job_id, event_id, created_at, level, type, message, data)"
            " VALUES (?, 'e', 0, 'warn', 'message', 'torch 1 then, 2 now', ?)",
            (job.id, data),
        )
    assert job_facts(job)["changed"] == "torch 1 then, 2 now"
    with gateway.store.transaction() as db:
        db.execute("UPDATE jobs SET provider_id = NULL, status = 'queued', step = 'intent'")
    with pytest.raises(SpecError, match="was not sent yet"):
        job.resume(allow_changed_versions=True)
