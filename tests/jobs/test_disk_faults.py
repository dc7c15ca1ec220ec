"""Full disks, for real: limits on file sizes and a tiny file system. Nothing half-written is seen,
the store stays whole, the cause is one line, and with space again the same command works."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.chaos import ProviderProcess, check_run, data_file
from support.disks import fill, plain_failure, run, submit, whole

from finetune_gateway import Gateway, JobStatus
from finetune_gateway.backends.local.event_log import read_events
from finetune_gateway.backends.local.run import Run, write_json
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.backends.local.worker import fail
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Rows = Callable[[int], list[dict[str, Any]]]


@pytest.mark.parametrize("limit", [0, 1000, 20_000, 33_000, 50_000])
def test_a_submit_without_room(home: Path, tmp_path: Path, limit: int) -> None:
    """Wherever the room ends, nothing was bought that the store does not know, and the same
    command buys one job once there is room."""
    with ProviderProcess(tmp_path) as provider:
        words = submit(provider.url, data_file(tmp_path, 1))
        plain_failure(run(limit, *words, home=home))
        whole(home)
        assert not provider.bought()
        done = run(None, *words, home=home)
        assert done.returncode == 0, done.stderr
        assert Gateway().job(done.stdout.strip()).id in provider.bought()
        assert list(provider.bought().values()) == [1]


def test_a_full_disk_and_room_again(tiny_disk: Path, tmp_path: Path) -> None:
    """A really full file system: the words say what to do, and doing it is enough."""
    home = tiny_disk / "home"
    with ProviderProcess(tmp_path) as provider:
        words = submit(provider.url, data_file(tmp_path, 1))
        for left in (0, 16_384, 65_536):
            ballast = fill(tiny_disk, left)
            said = plain_failure(run(None, *words, home=home))
            assert "space" in said
            ballast.unlink()
            whole(home)
        assert run(None, *words, home=home).returncode == 0
        assert list(provider.bought().values()) == [1]


def test_a_model_that_does_not_fit(
    home: Path, tiny_folder: Path, rows: Rows, tmp_path: Path
) -> None:
    """The job fails with the reason; no model, whole or half, is left behind. (The optimizer's
    state has 1.3 MB, the store stays far below 1 MB.)"""
    file = data_file(tmp_path, 1)
    words = ["submit", file, "--model", tiny_folder, "--backend", "local", "-q"]
    words += ["--training-type", "full", "--set", "max_steps=1"]
    done = run(1_000_000, *words, home=home)
    assert done.returncode == 0, done.stderr
    job = Gateway().job(done.stdout.strip()).wait(90)
    assert job.status is JobStatus.FAILED and job.error and "\n" not in job.error
    assert "disk seems to be full" in job.error and job.error.endswith("let it go on: ftg resume.")
    assert "device Free" not in job.error and ".." not in job.error
    assert not (home / "runs" / job.id / "model").exists()
    assert check_run(home, job.id) == "failed"
    whole(home)


@pytest.fixture
def held(home: Path) -> Run:
    """A run with a queue row, seen by its worker."""
    folder = home / "runs" / "ftg-run"
    folder.mkdir(parents=True)
    about = RunFile(
        job_id=folder.name,
        spec=TrainingSpec(model="m"),
        train_sha256="0",
        versions={},
        created_at=0,
    )
    write_json(folder / "run.json", about.model_dump(mode="json"))
    made = Run(Settings(home), folder.name, 0)
    made.queue.add(folder.name)
    return made


def test_half_an_event_is_taken_back(held: Run) -> None:
    """An event cut off by a full disk does not spoil the next one, and the reason of the end is
    in the row all the same."""
    import resource

    path = held.folder / "events.jsonl"
    held.event("first")
    before, unlimited = path.stat().st_size, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (before + 20, unlimited[1]))
    try:
        with pytest.raises(OSError):
            held.event("cut off")
        assert path.stat().st_size == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    path.chmod(0o400)
    held.event("second")
    assert [event.message for event in read_events(path, None).events] == ["first", "second"]
    path.unlink()
    path.mkdir()  # whatever is wrong with the file
    fail(held, "the reason")
    row = held.queue.get(held.id)
    assert row.status is JobStatus.FAILED and row.error == "the reason"
    path.rmdir()


def test_a_result_without_room_leaves_nothing(tmp_path: Path) -> None:
    """A save that ends half-way gives its space back."""
    from finetune_gateway.backends.local.saving import save_whole

    def write(folder: Path) -> None:
        (folder / "half.safetensors").write_bytes(b"x" * 100)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_whole(tmp_path / "model", write, {})
    assert not list(tmp_path.iterdir())
