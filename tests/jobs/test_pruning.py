"""ftg prune: data that no job needs go, here and at the host where this home has sent them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.hosted import data_file
from support.hostile import Honest
from support.provider import CREATE, Provider
from support.records import record
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import FakeBackend, Gateway, Job, JobStatus, OpenAIBackend, Pruned
from finetune_gateway.backend import Backend
from finetune_gateway.backends.local import checkpoints
from finetune_gateway.cli import main
from finetune_gateway.errors import BackendError, SpecError, UnsupportedError
from finetune_gateway.jobs.pruning import DAY, Item
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings

Json = dict[str, Any]
MODEL = "gpt-4.1-mini-2025-04-14"
CANARY = "ZQXcanary"
FILE, DELETE_FILE, DELETE_MODEL = "POST /files", "DELETE /files/*", "DELETE /models/*"


def rows(word: str = CANARY, count: int = 10) -> list[Json]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"{word} asks {number}."},
                {"role": "assistant", "content": f"{word} answers {number}."},
            ]
        }
        for number in range(count)
    ]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    given = {"settle_seconds": 0.0, "poll_seconds": 0.01, "profile": "custom", **options}
    return OpenAIBackend(base_url=provider.url, api_key_env="PRUNE_KEY", **given)


@pytest.fixture(autouse=True)
def _key(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNE_KEY", provider.api_key)


def hosted(provider: Provider, data: Any, **options: Any) -> Job:
    """A job that has succeeded, and whose model has answered."""
    backend = options.pop("backend", None) or wire(provider)
    job = Gateway().submit(data, model=MODEL, backend=backend, train_price=1, **options)
    job.result(30)
    return job


def state(provider: Provider) -> str:
    """All that the provider has, except its jobs, which nothing deletes."""
    world = provider.world
    return json.dumps([world.files, [name for name in world.models() if name.startswith("ft:")]])


def made_older(job: Job, days: float) -> None:
    with job.store.transaction() as db:
        db.execute(
            "UPDATE jobs SET finished_at = ? WHERE id = ?", (time.time() - days * DAY, job.id)
        )


def names(items: tuple[Item, ...]) -> list[tuple[str, str]]:
    return sorted((item.kind, item.name) for item in items)


# -- at the host -----------------------------------------------------------------------------------


def test_after_rm_and_prune_the_provider_has_nothing(home: Path, provider: Provider) -> None:
    """Both files, the model and its checkpoints, and nothing that this home has not sent; the name
    of the model is in no file of the home any more. A second time nothing is asked."""
    theirs = provider.world.add_file("fine-tune", "theirs.jsonl", b"{}")["id"]
    job = hosted(provider, rows(), validation=rows(count=11), suffix=CANARY)
    other = hosted(provider, chat_rows(10))
    assert CANARY in state(provider)
    job.remove()
    pruned = gateway.prune(remote=True)
    kinds = [kind for kind, _ in names(pruned.removed)]
    assert kinds == ["file", "file", "model", "model", "model", "model"] and not pruned.failed
    assert CANARY not in state(provider)
    assert provider.world.files.keys() == {other.record.train_file_id, theirs}
    assert CANARY.encode() not in b"".join(path.read_bytes() for path in (home / "files").iterdir())
    assert job.reload().record.result is None and job.record.gone
    before = len(provider.requests)
    assert gateway.prune(remote=True) == Pruned() and len(provider.requests) == before


def test_each_thing_at_a_host_is_asked_for(home: Path, provider: Provider) -> None:
    """By its id, one by one; what is kept is asked for again the next time."""
    job = hosted(provider, rows())
    job.remove()
    asked: list[list[Item]] = []

    def confirm(items: list[Item]) -> bool:
        asked.append(items)
        return items[0].kind == "file"

    pruned = gateway.prune(remote=True, confirm=confirm)
    assert all(len(items) == 1 for items in asked)
    assert {item.kind for item in pruned.removed} == {"file"}
    assert {item.kind for item in pruned.kept} == {"model"} and not job.reload().record.gone
    assert {item.kind for item in gateway.prune(remote=True).removed} == {"model"}


def test_models_of_jobs_that_are_kept_stay(home: Path, provider: Provider) -> None:
    """Of an old job that was not removed the upload goes, and the model answers as before; of a
    young one nothing. An equal submit then sends the file again."""
    job = hosted(provider, rows())
    assert gateway.prune(remote=True) == Pruned()
    made_older(job, 31)
    pruned = gateway.prune(remote=True)
    assert names(pruned.removed) == [("copies", "copies"), ("file", job.record.train_file_id)]
    assert job.result().chat("Hi").text
    assert hosted(provider, rows(), again=True).record.train_file_id in provider.world.files


def test_an_upload_stays_while_a_live_job_trains_on_it(home: Path, provider: Provider) -> None:
    """Also if another job with the same content was removed; it goes with the last one."""
    first = hosted(provider, rows())
    second = Gateway().submit(
        rows(), model=MODEL, backend=wire(provider), train_price=1, again=True, seed=2
    )
    first.remove()
    assert {item.kind for item in gateway.prune(remote=True).removed} == {"model"}
    assert provider.world.files and not first.reload().record.gone
    second.result(30)
    second.remove()
    gateway.prune(remote=True)
    assert provider.world.files == {} and first.reload().record.gone


def test_an_upload_whose_answer_was_lost_is_found(home: Path, provider: Provider) -> None:
    """Its id never came: it is known by its name. So is one that was forgotten after a refusal."""
    provider.fault(FILE, "reset_after")
    job = Gateway().submit(rows(), model=MODEL, backend=wire(provider), train_price=1)
    job.cancel()
    assert job.status == "cancelled" and len(provider.world.files) == 1
    provider.fault(CREATE, "status", status=400)
    with pytest.raises(BackendError):
        Gateway().submit(rows(count=12), model=MODEL, backend=wire(provider), train_price=1)
    gateway.remove_jobs(gateway.list_jobs())
    assert len(gateway.prune(remote=True).removed) == 2 and provider.world.files == {}


def test_a_lost_answer_to_a_delete_is_no_failure(home: Path, provider: Provider) -> None:
    """It is asked again, and what a list does not show any more is gone."""
    hosted(provider, rows()).remove()
    provider.fault(DELETE_FILE, "reset_after")
    provider.fault(DELETE_MODEL, "html_ok", "truncated")
    pruned = gateway.prune(remote=True)
    assert not pruned.failed and CANARY not in state(provider)


def test_what_a_host_refuses_is_said_and_asked_for_again(home: Path, provider: Provider) -> None:
    """An owner's right is missing, the route is unknown, the key is of another account: the rest
    goes on."""
    job = hosted(provider, rows())
    job.remove()
    provider.fault(DELETE_MODEL, *["status"] * 4, status=403)
    provider.fault(DELETE_FILE, *["status"] * 1, status=404)
    pruned = gateway.prune(remote=True)
    assert not pruned.removed and len(pruned.failed) == 5
    assert any("(403)" in one.reason for one in pruned.failed)
    provider.keys = {"sk-other-0123456789": "other"}
    os.environ["PRUNE_KEY"] = "sk-other-0123456789"
    assert all("another account" in one.reason for one in gateway.prune(remote=True).failed)
    provider.keys = {provider.api_key: "main"}
    os.environ["PRUNE_KEY"] = provider.api_key
    assert len(gateway.prune(remote=True).removed) == 5


def test_a_host_that_deletes_nothing_says_so(home: Path, provider: Provider) -> None:
    """By its profile: nothing is sent."""
    job = hosted(provider, rows(), backend=wire(provider, profile="nebius"))
    job.remove()
    before = len(provider.requests)
    (one, *others) = gateway.prune(remote=True).failed
    assert "cannot be asked to delete" in one.reason and len(others) == 4
    assert len(provider.requests) == before
    with pytest.raises(UnsupportedError, match="nebius cannot be asked to delete"):
        wire(provider, profile="nebius").delete_file("file-1")


# -- uploads that expire ---------------------------------------------------------------------------


def test_uploads_expire_where_the_host_takes_it(home: Path, provider: Provider) -> None:
    """The contract's field; by the setting too. An upload that expires soon is sent again."""
    job = hosted(provider, rows(), backend=wire(provider, profile="openai", uploads_expire=7200))
    (file,) = provider.world.files.values()
    assert file["expires_at"] - file["created_at"] == 7200
    with job.store.transaction() as db:
        db.execute("UPDATE files SET expires_at = ?", (time.time() + 60,))
    hosted(provider, rows(), backend=wire(provider, profile="openai"), again=True)
    assert len(provider.world.files) == 2
    config.write(Settings(home), "hosts.uploads_expire_seconds", "3600")
    for profile, lifetime in (("openai", 3600), ("custom", None)):
        backend = Gateway().backend(wire(provider, profile=profile))
        uploaded = provider.world.files[backend.upload(data_file(home / "x.jsonl")) or ""]
        assert backend.upload_lifetime() == lifetime
        assert bool(uploaded["expires_at"]) == (lifetime is not None)


def test_a_lifetime_that_no_host_takes_is_refused(provider: Provider) -> None:
    """In words, before anything is sent."""
    for seconds in (60, 3_000_000, True):
        with pytest.raises(SpecError, match="uploads_expire cannot be"):
            wire(provider, profile="openai", uploads_expire=seconds)
    with pytest.raises(SpecError, match="not documented to let uploads expire"):
        wire(provider, profile="nebius", uploads_expire=7200)


# -- on this machine -------------------------------------------------------------------------------


def run_folder(home: Path, job_id: str, *, model: bool) -> Path:
    """What a local job leaves, with a result or without."""
    folder = home / "runs" / job_id
    names = ["run.json", "events.jsonl", "worker.log", "data/train.jsonl", "checkpoints/1/x"]
    for name in [*names, "model/manifest.json"] if model else names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(CANARY)
    return folder


def local_job(home: Path, days: float, *, model: bool) -> Path:
    """A local job that has ended so many days ago."""
    status = "succeeded" if model else "failed"
    ended = record(backend="local", status=status, finished_at=time.time() - days * DAY)
    Gateway().store.add(ended.model_copy(update={"provider_id": ended.id}))
    return run_folder(home, ended.id, model=model)


def test_old_runs_lose_their_rows_and_keep_their_models(home: Path) -> None:
    """A run without a model goes whole; a young one stays as it is."""
    young, old = local_job(home, 1, model=True), local_job(home, 31, model=True)
    failed = local_job(home, 31, model=False)
    pruned = gateway.prune()
    assert names(pruned.removed) == sorted([("run", old.name), ("run", failed.name)])
    assert sorted(path.name for path in old.iterdir()) == ["model", "run.json"]
    assert not failed.exists() and (young / "data" / "train.jsonl").exists()
    assert pruned.bytes == 9 * len(CANARY)
    assert gateway.prune() == Pruned()


def test_prune_says_which_checkpoints_were_set_aside(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the line of their run, whether it has a result or not."""
    for model in (True, False):
        folder = local_job(home, 31, model=model)
        for step in (2, 4):
            point = folder / "checkpoints" / f"checkpoint-{step}"
            point.mkdir()
            checkpoints.set_aside(point, "a.bin differs")
        (folder / "data" / "damaged-checkpoint-1").write_text("a file is none")
    plain = local_job(home, 31, model=True)
    assert main(["prune", "--yes"]) == 0
    lines = " ".join("".join(capsys.readouterr()).split())
    assert lines.count("; 2 checkpoints of it set aside as damaged") == 2
    assert f"checkpoints of {plain.name}, " in lines and lines.count("set aside") == 2


def test_the_age_comes_from_the_call_or_the_setting(home: Path) -> None:
    """0 days is everything that has ended; a job that goes on keeps its copy."""
    live = gateway.submit(chat_rows(11), model="m", backend=FakeBackend())
    job = gateway.submit(chat_rows(10), model="m", backend=FakeBackend()).wait(5)
    made_older(job, 10)
    assert gateway.prune() == Pruned()
    config.write(Settings(home), "retention.days", "20")
    assert gateway.prune() == Pruned()
    config.write(Settings(home), "retention.days", "5")
    asked: list[list[Item]] = []

    def refuse(items: list[Item]) -> bool:
        asked.append(items)
        return False

    assert not gateway.prune(confirm=refuse).removed
    assert names(gateway.prune().removed) == [("copies", "copies")]
    assert names(tuple(asked[0])) == [("copies", "copies")]
    assert gateway.prune(0) == Pruned()
    assert [path.stem for path in (home / "files").iterdir()] == [live.record.train.sha256]
    with pytest.raises(SpecError, match="older_than_days cannot be"):
        gateway.prune(-1)


# -- the command line ------------------------------------------------------------------------------


def test_prune_says_first_what_goes(ftg: Ftg, env: dict[str, str], provider: Provider) -> None:
    """In bytes; without a terminal and --yes nothing goes. --dry-run removes nothing."""
    os.environ["FTG_HOME"] = env["FTG_HOME"]
    os.environ["PRUNE_KEY"] = provider.api_key
    home = Path(env["FTG_HOME"])
    nothing = "There is nothing to remove of jobs that ended more than 30 days ago.\n"
    assert ftg("prune", "--yes").stderr == nothing
    old = local_job(home, 31, model=True)
    job = hosted(provider, rows())
    job.remove()
    refused = ftg("prune")
    assert refused.returncode == 4 and "no terminal" in refused.stderr
    assert f"rows, log and checkpoints of {old.name}, 36 B" in refused.stderr
    tried = ftg("prune", "--remote", "--dry-run")
    assert tried.returncode == 0 and "--dry-run" in tried.stdout
    assert f"the uploaded file {job.record.train_file_id} of {job.id}" in tried.stderr
    assert (old / "data").exists() and provider.world.files
    done = ftg("prune", "--remote", "--yes", "--json")
    document = json.loads(done.stdout)
    assert document["bytes"] == 36 and len(document["removed"]) == 6
    assert not (old / "data").exists() and CANARY not in state(provider)
    assert ftg("prune", "--older-than", "soon").returncode == 2


def test_doctor_says_what_is_kept_since_when(ftg: Ftg, env: dict[str, str]) -> None:
    """In bytes; and what to run where the setting says that data should have gone, or where a
    removal was interrupted."""
    os.environ["FTG_HOME"] = env["FTG_HOME"]
    home = Path(env["FTG_HOME"])

    def data() -> Json:
        checks = json.loads(ftg("doctor", "--json").stdout)["checks"]
        return next(one for one in checks if one["name"] == "data")

    assert data()["found"] == "none are kept"
    old = local_job(home, 31, model=True)
    os.utime(old / "worker.log", (0, 0))
    assert "run folders 54 B" in data()["found"] and "of 1970-01-01" in data()["found"]
    assert data()["state"] == "ok"
    config.write(Settings(home), "retention.days", "30")
    assert "Data of 1 job are older" in data()["fix"] and "ftg prune" in data()["fix"]
    assert ftg("prune", "-y").returncode == 0 and data()["state"] == "ok"
    with Gateway().store.transaction() as db:
        db.execute("UPDATE jobs SET removed_at = 1")
    assert f"ftg rm {old.name}" in data()["fix"]


def test_a_host_without_files_is_asked_for_none(home: Path, train_file: Path) -> None:
    """A plug-in that sends its rows with the create has no uploads: nothing is said of them."""
    calls = ("capabilities", "options", "counter", "estimate", "start", "find", "poll", "cancel")
    methods = {name: getattr(Honest, name) for name in ("__init__", *calls, "open")}
    backend: Any = type("Inline", (Backend,), {**methods, "name": "inline"})()
    with Gateway(home, backends={"inline": backend}) as gateway:
        job = gateway.submit(train_file, model="m", backend="inline")
        assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
        gateway.remove([job])
        pruned = gateway.prune(0, remote=True, confirm=lambda items: True)
    assert pruned.unknown == () and "files" not in str(pruned.failed)
