"""Local jobs for real: tiny models, TRL, detached worker processes, kill -9."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.chaos import (
    end_workers,
    ended,
    has_losses,
    hold_worker,
    kill_worker,
    row,
    slots_taken,
    until,
)
from support.modes import umask, wide
from support.plain_models import logits, logits_of

from finetune_gateway import (
    DataError,
    Gateway,
    Job,
    JobFailed,
    JobStatus,
    ModelHandle,
    NotFoundError,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.local.dispatcher import Dispatcher
from finetune_gateway.backends.local.queue import MAX_ATTEMPTS, Queue
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.estimation.local import evaluations
from finetune_gateway.events import DIVERGED
from finetune_gateway.reports.job_text import next_step
from finetune_gateway.settings import config
from finetune_gateway.settings.files import try_lock, unlock
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate

SMALL: dict[str, Any] = {"lora_r": 4, "batch_size": 4, "seed": 3, "learning_rate": 1e-3}
Rows = Callable[[int], list[dict[str, Any]]]


def submit(data: Any, folder: Path, **options: Any) -> Job:
    given = {"max_steps": 4, **SMALL, **options}
    if given.get("training_type") == "full":
        del given["lora_r"]
    return Gateway().submit(data, model=str(folder), backend="local", **given)


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def queue_of(job: Job) -> Queue:
    assert isinstance(job.backend, LocalBackend)
    return job.backend.queue


def worker_pid(job: Job, seconds: float = 60) -> int:
    """The worker's process id once it is training for real."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        row = queue_of(job).find(job.id)
        if row and row.pid and (row.status.final or row.phase == "training"):
            return row.pid
        time.sleep(0.02)
    raise AssertionError(f"{job.id} never began to train: {job.refresh()} {job.phase}")


def steps_of(job: Job) -> list[int]:
    return [metric.step for metric in job.metrics() if metric.train_loss is not None]


def test_lora_with_validation_from_file_to_chat(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """Losses on both sides, a whole adapter, a handle that has answered and answers again; all of
    it for this user alone. The run folder is enough to train again: spec, data, seed and versions
    are in it."""
    data, steps = rows(16), {"max_steps": 6, "save_steps": 2, "eval_steps": 1}
    keep_checkpoints(home)
    with umask(0):  # the worker inherits it, and libraries go by it
        job = submit(data, tiny_folder, validation=rows(20)[16:], **steps)
        handle = job.result(timeout=180)
    assert wide(home) == {}
    kept = {path.name.partition("-")[0] for path in (home / "encoded").iterdir()}
    assert kept == {file.sha256 for file in job.record.files}  # it goes when they go
    assert job.status is JobStatus.SUCCEEDED and steps_of(job) == [1, 2, 3, 4, 5, 6]
    evaluated = [m.step for m in job.metrics() if m.valid_loss is not None]
    assert len(evaluated) == evaluations(job.record.spec, 6) and evaluated[-1] == 6
    assert [c.step for c in job.checkpoints()][-1] == 6
    run = home / "runs" / job.id
    asked = json.loads((run / "run.json").read_text())
    assert asked["spec"]["seed"] == 3 and asked["versions"]["trl"] and asked["train_sha256"]
    assert len((run / "data" / "train.jsonl").read_text().splitlines()) == 16
    folder = Path(handle.model)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert set(manifest["files"]) == {p.name for p in folder.iterdir()} - {
        "manifest.json",
        "finetune_gateway.json",
    }
    assert not list(folder.glob("*.bin"))
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_folder)
    assert handle.ready and handle.template_hash == ChatTemplate.load(tiny_folder).sha256
    again = ModelHandle.load(folder)
    answer = again.chat("Where is parcel number 3?", max_tokens=8)
    assert answer.usage.completion_tokens <= 8 and answer.usage.prompt_tokens > 5
    streamed = "".join(again.stream("Where is parcel number 3?", max_tokens=8))
    assert streamed.strip() == answer.text.strip()
    with pytest.raises(SpecError, match="max_tokens"):
        again.chat("Hi", max_token=3)
    answers_as_trained(job, tiny_folder)


def keep_checkpoints(home: Path) -> None:
    """Keep the last two: by default the best and the last one stay."""
    config.write(Settings(home).create(), "retention.checkpoints", "2")


def answers_as_trained(job: Job, base: Path | None) -> None:
    """Each checkpoint that is left answers with its own weights, through the template and the base
    of its training, as transformers and PEFT load them; the last one as the result does."""
    steps = [point.step for point in job.checkpoints()]
    seen = []
    for point in job.checkpoints():
        handle = job.result(step=point.step)
        assert (handle.step, handle.ready) == (point.step, False)
        assert handle.template_hash == job.result().template_hash
        seen.append(logits_of(handle))
        assert torch.equal(seen[-1], logits(Path(point.model), base))
        ends = json.loads((Path(point.model) / "generation_config.json").read_text())
        assert ends["eos_token_id"] == sorted(ChatTemplate.load(Path(job.result().model)).stop_ids)
    assert torch.equal(seen[-1], logits_of(job.result()))
    assert not torch.equal(seen[0], seen[-1])
    assert job.result(step="last").step == steps[-1]
    losses = {m.valid_loss: m.step for m in job.metrics() if m.valid_loss is not None}
    known = {loss: step for loss, step in losses.items() if step in steps}
    if known:
        assert job.result(step="best").step == known[min(known)]
    with pytest.raises(NotFoundError, match="step 1[.:]") as missing:
        job.result(step=1)
    assert f"There are: {', '.join(map(str, steps))}." in missing.value.hint


def test_full_fine_tuning_gives_a_whole_model(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """All weights, loadable on their own, no adapter. Only the counted tokens are trained: the
    trainer's own count is what the labels say; cut and dropped rows are reported."""
    data = rows(12)
    data[0]["messages"][1]["weight"] = 0
    data[0]["messages"] += [
        {"role": "user", "content": "And then?"},
        {"role": "assistant", "content": "Then nothing."},
    ]
    data[1]["messages"][0]["content"] = "word " * 60
    options: dict[str, Any] = {"training_type": "full", "learning_rate": 1e-4, "n_epochs": 1}
    options["save_steps"] = 2
    keep_checkpoints(home)
    job = submit(data, tiny_folder, max_steps=None, max_length=48, **options)
    handle = job.result(180)
    assert handle.kind == "merged" and not list(Path(handle.model).glob("adapter*"))
    assert job.metrics()[0].learning_rate == 1e-4  # the first step learns
    # A base of random weights after three steps: what it says of that is what the job says.
    [warning, *_] = handle.warnings
    assert "Guessing among 1,152 tokens" in warning
    assert warning in [event.message for event in job.events() if event.level == "warn"]
    assert handle.chat("Hi", max_tokens=4).usage.completion_tokens > 0
    answers_as_trained(job, None)
    template = ChatTemplate.load(tiny_folder)
    labels = [one.labels for row in data for one in template.encode(row, max_length=48)]
    expected = sum(label != IGNORED for row in labels for label in row[1:])
    assert job.record.trained_tokens == expected
    [told] = [event for event in job.events() if "rows" in event.data]
    assert told.level == "warn" and told.data["dropped_rows"] == 1
    assert told.data["truncated_rows"] == 1 and told.data["rows"] == 11


def test_a_cancel_before_the_worker_has_a_pid_counts(
    home: Path, tiny_folder: Path, rows: Rows
) -> None:
    """No signal can be sent to a worker that is just starting: it looks for the flag itself."""
    settings = Settings(home).create()
    dispatcher = Dispatcher(settings.home, settings.database, settings.locks, settings.runs)
    assert (alone := try_lock(settings.locks / LOCK)) is not None  # as if one lived
    job = submit(rows(12), tiny_folder, max_steps=2000, save_steps=1000)
    queue = queue_of(job)
    run_lock, slot = try_lock(queue._lock(job.id)), try_lock(settings.locks / "slot-cpu")
    assert run_lock is not None and slot is not None
    fence = dispatcher._next_fence(job.id, "cpu")
    queue.cancel(job.id)
    assert queue.get(job.id).status is JobStatus.QUEUED
    dispatcher.spawn(job.id, fence or 0, run_lock, "cpu", slot)
    for lock in (run_lock, slot, alone):
        unlock(lock)
    dispatcher.workers[job.id].wait()
    assert job.refresh().status is JobStatus.CANCELLED
    assert [event.message for event in job.events()] == ["Cancelled."]


def test_one_job_at_a_time_and_cancel_while_waiting(
    home: Path, tiny_folder: Path, rows: Rows
) -> None:
    """The second waits for the first, and a waiting one can be cancelled. A cancel while training
    is quick and final, and the last checkpoint is whole."""
    first = submit(rows(12), tiny_folder, max_steps=2000, save_steps=1000)
    worker_pid(first)
    second = submit(rows(12), tiny_folder, max_steps=3)
    third = submit(rows(12), tiny_folder, max_steps=5)
    until(lambda: "waiting" in second.refresh().phase, 30, 0.05)
    assert second.status is JobStatus.QUEUED
    assert ended(third.cancel(), 30) is JobStatus.CANCELLED
    assert ended(first.cancel()) is JobStatus.CANCELLED
    assert first.checkpoints() and not (home / "runs" / first.id / "model").exists()
    assert first.cancel().status is JobStatus.CANCELLED
    until(lambda: second.refresh().status is JobStatus.RUNNING, 30, 0.05)


@pytest.mark.slow
def test_a_killed_worker_is_continued_to_the_same_result(
    home: Path, tiny_folder: Path, rows: Rows
) -> None:
    """kill -9 inside a save, then cancelled, its newest checkpoint damaged, and resumed: each time
    the same job goes on from its last whole checkpoint, and the adapter is bit for bit that of the
    unbroken run."""
    options: dict[str, Any] = {"max_steps": 60, "save_steps": 5}
    unbroken = submit(rows(12), tiny_folder, **options)
    assert ended(unbroken, 180) is JobStatus.SUCCEEDED, unbroken.error
    job = submit(rows(12), tiny_folder, again=True, **options)
    assert kill_worker(hold_worker(home, job.id, has_losses(home, job.id, 8)))
    half = leave_half_a_save(home / "runs" / job.id)
    reached = steps_of(job.refresh())[-1]  # starts the next worker
    until(lambda: steps_of(job.refresh())[-1] > reached)
    job.cancel()
    assert ended(job) is JobStatus.CANCELLED and job.resumable and not half.exists()
    reached = steps_of(job)[-1]
    assert 8 <= reached < 60
    before, newest = (point.step for point in job.checkpoints()[-2:])
    assert newest == reached
    saved = home / "runs" / job.id / "checkpoints"
    state = saved / f"checkpoint-{newest}" / "optimizer.pt"
    raw = state.read_bytes()
    state.write_bytes(raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:])
    assert ended(job.resume(), 180) is JobStatus.SUCCEEDED, job.error
    said = [event.message for event in job.events() if "Continuing from" in event.message]
    assert len(said) == 2 and said[1] == f"Continuing from checkpoint-{before}."
    assert any("optimizer.pt has another content" in event.message for event in job.events())
    assert (saved / f"damaged-checkpoint-{newest}" / "optimizer.pt").stat().st_size == len(raw)
    assert steps_of(job) == list(range(1, 61)) and row(home, job.id).resumes == 1
    assert job.record.trained_tokens == unbroken.record.trained_tokens
    files = [home / "runs" / j.id / "model" / "adapter_model.safetensors" for j in (unbroken, job)]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(SpecError, match="has succeeded"):
        job.resume()


def leave_half_a_save(run: Path) -> Path:
    """Leave in a run's folder what a kill inside a save leaves, and half a line of its events;
    return the checkpoint that is not whole."""
    half = run / "checkpoints" / "checkpoint-9999"
    half.mkdir()
    (half / "adapter_model.safetensors").write_bytes(b"torn")
    (run / "model.tmp.1").mkdir()
    with (run / "events.jsonl").open("a") as events:
        events.write('{"id": "torn')
    return half


def test_a_worker_that_always_dies_ends_the_job(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """After so many attempts the death is the answer, with the reason and the log's place."""
    with slots_taken(home):
        job = submit(rows(12), tiny_folder)
        with queue_of(job).store.transaction() as db:
            db.execute("UPDATE runs SET attempts = ? WHERE id = ?", (MAX_ATTEMPTS, job.id))
        with pytest.raises(JobFailed, match="died 3 times without a later step saved.*worker.log"):
            job.result(timeout=60)


def test_what_cannot_be_trained_is_refused_before_a_job_exists(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows
) -> None:
    """An unknown model, a folder without a template, a base with code of its own, a method or
    a setting the backend cannot do: one plain message each."""
    with pytest.raises(NotFoundError, match="no model folder"):
        submit(rows(12), tmp_path / "none")
    bare = shutil.copytree(tiny_folder, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink(missing_ok=True)
    (bare / "tokenizer_config.json").write_text("{}")
    with pytest.raises(SpecError, match="no chat template"):
        submit(rows(12), bare)
    evil = tmp_path / "evil"
    shutil.copytree(tiny_folder, evil)
    config = json.loads((evil / "config.json").read_text())
    (evil / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}))
    with pytest.raises(SpecError, match="auto_map"):
        submit(rows(12), evil)
    with pytest.raises(UnsupportedError, match="reinforcement"):
        submit(rows(12), tiny_folder, method="reinforcement")
    with pytest.raises(UnsupportedError, match="learning_rate_multiplier"):
        submit(rows(12), tiny_folder, learning_rate=None, learning_rate_multiplier=2.0)
    assert Gateway().jobs() == []


def test_a_row_the_template_refuses_is_named(home: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The finding gives the line and the template's own words."""
    path = tmp_path / "strict.jinja"
    source = ChatTemplate.load(tiny_folder).source
    guard = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    path.write_text(guard + source)
    data = [
        {"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}]}
        for n in range(11)
    ]
    data[4]["messages"].insert(0, {"role": "system", "content": "s"})
    with pytest.raises(DataError) as caught:
        submit(data, tiny_folder, chat_template=str(path))
    assert caught.value.report is not None
    [finding] = caught.value.report.errors
    assert finding.code == "template_refuses" and finding.line == 5
    assert "no system" in finding.message


def test_training_that_diverges_fails_with_the_reason(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows
) -> None:
    """A loss that is not finite stops the job; no adapter of NaNs is handed over. A resume, which
    would come to the same, is not offered."""
    folder = tmp_path / "poisoned"
    shutil.copytree(tiny_folder, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("inf")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    job = submit(rows(12), folder, max_steps=5).wait(180)
    assert job.status is JobStatus.FAILED and "diverged" in str(job.error), job.error
    assert not (home / "runs" / job.id / "model").exists()
    assert job.phase == DIVERGED and "a smaller learning_rate" in next_step(job)
    assert "ftg resume" not in next_step(job)


def test_real_data_sets_train_to_a_handle(home: Path, tiny_folder: Path, shared: Path) -> None:
    """Chat, SQL, tool calls and long turns of other people: all go through, in one job."""
    names = (
        "foundry_gsm8k_chat/chat_train.jsonl",
        "fireworks_text2sql/text2sql_dataset.jsonl",
        "foundry_stock_toolcall/stock_toolcall_training.jsonl",
        "together_coqa/small_coqa_10.jsonl",
    )
    data = [one for name in names for one in shortest(shared / "data" / name, 4)]
    job = submit(data, tiny_folder, max_steps=None, n_epochs=1, max_length=512)
    handle = job.result(timeout=180)
    assert handle.ready and handle.chat("Hi", max_tokens=3).usage.prompt_tokens
    told = next(event for event in job.events() if "rows" in event.data)
    assert told.data["rows"] + told.data["dropped_rows"] == 16
    assert told.data["rows"] > 12 and len(steps_of(job)) == 4  # so there are some of each


def shortest(path: Path, count: int) -> list[dict[str, Any]]:
    """Return the shortest rows of a file."""
    data = [row.data for row in Dataset(path).rows()]
    return sorted(data, key=lambda one: len(json.dumps(one)))[:count]


def test_the_hub_is_told_nothing_but_what_is_fetched(home: Path, train_file: Path) -> None:
    """Neither versions of libraries nor the name of the program that runs us, from ``ftg`` too."""
    heard: list[tuple[str, str]] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append((self.path, self.headers.get("User-Agent", "")))
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:
            """Not on our screen."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        quiet = ("HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")
        env = {name: value for name, value in os.environ.items() if name not in quiet}
        env |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(home)}
        command = ["estimate", str(train_file), "--model", "acme/small", "--backend", "local"]
        done = subprocess.run(
            [sys.executable, "-m", "finetune_gateway", *command],
            env=env, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        server.shutdown()
    assert done.returncode != 0 and "acme/small" in done.stderr
    assert heard and all("acme/small" in path for path, _ in heard)
    assert not any("torch/" in agent or "agent/" in agent for _, agent in heard)
