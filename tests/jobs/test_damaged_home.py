"""Files of a home beside the run folders damaged, one at a time: each command has words for it, and
what can be used is used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support.cli import Ftg
from support.comparisons import comparison
from support.damage import DAMAGES, copied, damages
from support.records import record, write_down
from support.sleepers import Home

from finetune_gateway import Gateway, JobStatus
from finetune_gateway.backends.local import heartbeat
from finetune_gateway.backends.local.spawning import LOCK, note_shutdown
from finetune_gateway.cli import main
from finetune_gateway.errors import StoreError
from finetune_gateway.evaluation.comparison import keep
from finetune_gateway.settings.files import try_lock, unlock
from finetune_gateway.settings.home import Settings

COMMANDS = (
    ["list"], ["list", "--refresh", "--json"], ["status", "latest"], ["costs"], ["doctor"],
    ["resume", "--all"], ["resume", "latest"], ["prices"], ["config"],
    ["prune", "--older-than", "0d", "--yes"],
)  # fmt: skip
STORE = ("gateway.sqlite3", "gateway.sqlite3-wal")  # without them there is no list
FEW = ("place.json", "prices.toml", "config.toml", "dispatcher.beat")


def a_home(folder: Path, rows: Path) -> str:
    """A home with a local job that waits, one that was not sent, and all files of its own; return
    the id of the first."""
    home = Home(folder)
    job = record(backend="local", status=JobStatus.QUEUED, step="sent")
    job = job.model_copy(update={"provider_id": job.id})
    home.queue.store.add(job)
    home.add(job.id)
    gateway = Gateway(folder)
    write_down(gateway, rows, model="m", backend="fake")
    made = Settings(folder)
    assert home.alone is not None
    heartbeat.write(made.locks)
    note_shutdown(home.alone)
    (made.locks / f"{LOCK}.log").write_text("Traceback (most recent call last):\nKeyError: 5\n")
    (folder / "prices.toml").write_text("# mine\n")
    (folder / "config.toml").write_text("[local]\nhang_seconds = 600\n")
    (folder / "calibration.json").write_text("{}")
    (folder / "key.salt").write_bytes(os.urandom(32))
    base = folder / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (folder / "models" / "weights.json").write_text("{}")
    (folder / "encoded").mkdir(exist_ok=True)
    (folder / "encoded" / "a.arrow").write_bytes(b"ARROW1\0\0")
    copy = copied(folder, folder.with_name("whole"))  # with its -wal, as a kill leaves it
    unlock(home.alone)
    assert (copy / STORE[1]).stat().st_size
    return job.id


def judged(home: Path, job: str, name: str, how: str, ftg: Ftg) -> list[str]:
    """What is wrong after this damage."""
    case = copied(home, home.with_name("case"))
    held = None if Path(name).name == LOCK else try_lock(case / "locks" / LOCK)
    DAMAGES[how](case / name)
    wrong = []
    for words in COMMANDS:
        done = ftg("--home", str(case), *words)
        if "Traceback" in done.stderr.replace("(most recent", "") or "a bug" in done.stderr:
            wrong.append(f"{name} {how}: {words}: {done.stderr[-600:]}")
        lists = name not in STORE and not (name.endswith("-shm") and how == "folder")
        if words == ["list"] and lists and job not in done.stdout:
            wrong.append(f"{name} {how}: not in the list: {done}")
    if held is not None:
        unlock(held)
    shutil.rmtree(case)
    return wrong


@pytest.mark.parametrize("some", [True, pytest.param(False, marks=pytest.mark.chaos)])
def test_each_file_of_a_home_is_damaged(
    tmp_path: Path, ftg: Ftg, train_file: Path, some: bool
) -> None:
    """The store too: then the error says which file, and what to do."""
    job = a_home(tmp_path / "home", train_file)
    home = tmp_path / "whole"
    every = [one for one in damages(home) if not one[0].startswith("runs/")]
    if some:
        every = [one for one in every if Path(one[0]).name in FEW and one[1] == "zeroed"]
    wrong = [text for name, how in every for text in judged(home, job, name, how, ftg)]
    print(f"{len(every)} damages to {len({name for name, _ in every})} files")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("name", ["locks", "runs", "files", "models"])
def test_what_lies_in_place_of_a_folder_is_named(home: Path, ftg: Ftg, name: str) -> None:
    """It is no home that cannot be created."""
    Settings(home).create()
    (home / name).rmdir()
    for wrong, what in (("a file", Path.touch), ("a link to nowhere", _link)):
        what(home / name)
        result = ftg("list")
        assert result.returncode == 1, result
        assert f"{home / name} is {wrong}, where a folder" in result.stderr, result.stderr
        (home / name).unlink()


PLACES = (
    *("files", "runs", "models", "locks", "spool", "encoded", "hosts", "fetched", "recordings"),
    *("answers", "comparisons", "gateway.sqlite3", "key.salt", "place.json", "key_hosts"),
    *("backend_options", "config.toml", "prices.toml", "calibration.json", ".private"),
)


@pytest.mark.parametrize("name", PLACES)
def test_doctor_names_what_lies_in_the_place_of_a_folder_or_a_file(
    home: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the way out, as an error: commands that need it fail, in words."""
    Gateway(home).store.add(record())
    path = home / name
    is_folder = "." not in name and name not in ("key_hosts", "backend_options")
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    wrong, right = ("a file", "folder") if is_folder else ("a folder", "file")
    (path.touch if is_folder else path.mkdir)()
    assert main(["doctor", "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    [found] = [one for one in checks if f"where a {right} of this home" in one["found"]]
    assert found["state"] == "error" and f"{path} is {wrong}" in found["found"]
    assert "Move it away" in found["fix"]
    for words in (["list"], ["costs"], ["status", "latest"], ["models"], ["prices"]):
        assert main(words) in (0, 1, 2)
        said = capsys.readouterr()
        assert "a bug" not in said.err and "Traceback" not in said.err, said.err


def test_what_cannot_be_kept_because_a_file_is_there_is_said_so(home: Path, tmp_path: Path) -> None:
    """Space is not what is missing."""
    settings = Settings(home).create()
    settings.comparisons.touch()
    made = comparison(tmp_path, rows=1, models=1)
    with pytest.raises(StoreError, match="File exists") as caught:
        keep(settings, made.data, made.rows(), made.answers())
    assert "Look at what is there" in caught.value.hint


def _link(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))
