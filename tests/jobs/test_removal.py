"""ftg rm: no byte of a text is left in the home folder, and what it cost stays."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.chaos import slots_taken
from support.cli import Ftg
from support.provider import Provider
from support.records import record
from support.rows import chat_rows
from support.traces import traces

import finetune_gateway as gateway
from finetune_gateway import FakeBackend, Gateway, Job, OpenAIBackend
from finetune_gateway.errors import BackendError, JobRemoved, SpecError
from finetune_gateway.events import Event, JobStatus, Result, Snapshot
from finetune_gateway.jobs import removal, schema
from finetune_gateway.jobs.store import Store
from finetune_gateway.reports.machine_checks import check_machine
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

Json = dict[str, Any]

MODEL = "gpt-4.1-mini-2025-04-14"
CANARY = "ZQXcanary"
METADATA = {f"{CANARY}key": f"{CANARY}value"}
TOOL = {
    "type": "function",
    "function": {
        "name": f"{CANARY}_tool",
        "description": f"{CANARY} describes.",
        "parameters": {"type": "object", "properties": {f"{CANARY}_field": {"type": "string"}}},
    },
}


def rows(count: int = 12, word: str = CANARY) -> list[Json]:
    """Chat rows with a word in each of their parts."""
    return [
        {
            "messages": [
                {"role": "system", "content": f"{word} is the system prompt."},
                {"role": "user", "content": f"{word} asks for number {number}."},
                {"role": "assistant", "content": f"{word} answers {number}."},
            ],
            "tools": [TOOL] if word == CANARY else [],
        }
        for number in range(count)
    ]


def file_of(folder: Path, word: str = CANARY, count: int = 12) -> Path:
    path = folder / f"{word}-file-{count}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count, word)), encoding="utf-8")
    return path


def found(home: Path, word: str = CANARY) -> list[str]:
    return traces(home, word)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    given = {"settle_seconds": 0.1, "poll_seconds": 0.01, "profile": "custom", **options}
    return OpenAIBackend(base_url=provider.url, api_key=provider.api_key, **given)


def hosted(provider: Provider, data: Any, **options: Any) -> Job:
    """A job that has succeeded, and whose model has answered."""
    options = {"metadata": METADATA, "train_price": 1, **options}
    job = Gateway().submit(data, model=MODEL, backend=wire(provider), **options)
    job.result(30)
    return job


def leave_free_pages(store: Store) -> None:
    """Leave the word in pages that are in no use, as a SQLite does that does not overwrite what it
    deletes; builds of it differ in that."""
    db = schema.connect(store.settings.database)
    db.execute("PRAGMA secure_delete = OFF")
    db.execute("CREATE TABLE gone (text TEXT)")
    db.executemany("INSERT INTO gone VALUES (?)", [(CANARY * 100,)] * 100)
    db.execute("DROP TABLE gone")
    db.execute("PRAGMA wal_checkpoint(PASSIVE)")
    db.close()


def money(g: Gateway) -> list[Json]:
    """The lines of the ledger, without the names of files."""
    return [line.model_dump(exclude={"data"}) for line in g.costs(date(2020, 1, 1)).jobs]


# -- nothing is left -------------------------------------------------------------------------------


def test_no_byte_of_a_hosted_job_is_left(home: Path, tmp_path: Path, provider: Provider) -> None:
    """Rows, system prompt, tools, answers, metadata, file names: gone from every file of the home,
    free pages and log included, while another connection is open. What it cost is as before."""
    reader = Gateway().store  # its connection stays open
    assert reader.jobs() == []
    job = hosted(provider, file_of(tmp_path), validation=file_of(tmp_path, count=11))
    other = hosted(provider, file_of(tmp_path, "stays"), metadata={})
    assert {"gateway.sqlite3-wal", f"files/{job.record.train.sha256}.jsonl"} <= {*found(home)}
    g = Gateway()
    before, budget = money(g), g.budget()
    leave_free_pages(reader)
    assert "gateway.sqlite3" in found(home)
    removed = g.job(job.id).remove()
    assert removed.bytes > 1000 and removed.events > 3
    assert found(home) == []
    assert money(g) == before and g.budget() == budget
    assert found(home, "stays") and g.job(other.id).result().system_prompt


def test_the_model_of_a_removed_job_keeps_its_name(home: Path, provider: Provider) -> None:
    """By it, and by the ids of its files, all of it can be deleted at the host."""
    job = hosted(provider, rows())
    model = job.result().model
    job.remove()
    kept = Gateway().job(job.id).record
    assert kept.result == Result(kind="hosted", model=model) and kept.handle is None
    assert kept.provider_id and kept.train_file_id and not kept.metadata and kept.name == ""
    assert kept.backend_options["base_url"] == provider.url


def test_errors_phases_and_what_the_backend_said_go(home: Path, tmp_path: Path) -> None:
    """A job that failed with a text from its rows, and events of all kinds; options of a backend
    that are texts."""
    report = Event(id="1", message=CANARY, type=CANARY, data={CANARY: [CANARY]})
    shots = [
        Snapshot(status=JobStatus.RUNNING, raw_status=CANARY, phase=CANARY, events=[report]),
        Snapshot(status=JobStatus.FAILED, raw_status=CANARY, error=CANARY),
    ]
    backend = FakeBackend(shots, answer=CANARY)
    job = gateway.submit(file_of(tmp_path), model="m", backend=backend, suffix=CANARY).wait(5)
    assert job.error == CANARY
    job.remove()
    assert found(home) == []
    assert (job.reload().error, job.events(), job.status) == (None, [], "failed")


def test_what_dead_processes_have_left_goes_too(home: Path) -> None:
    """Copies of a submit that was killed, copies that no job names, and rows in the spool."""
    job = gateway.submit(chat_rows(10), model="m", backend=FakeBackend()).wait(5)
    for name in ("files/.submit-1/copy.jsonl", "spool/.rows-2/1/x.jsonl", "spool/x.jsonl"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(CANARY)
    (home / "files" / f"{'0' * 64}.jsonl").write_text(CANARY)
    (home / "files" / ".copy.tmp.1").write_text(CANARY)
    (home / "encoded").mkdir()
    (home / "encoded" / ".copy.tmp.1").write_text(CANARY)
    assert len(found(home)) == 6
    job.remove()
    assert found(home) == []


# -- what stays ------------------------------------------------------------------------------------


def test_a_copy_stays_while_another_job_needs_it(home: Path, tmp_path: Path) -> None:
    """The copy goes with the last job that names its content, and its rows as token ids with it;
    ``ftg doctor`` counts them."""
    data = file_of(tmp_path)
    first = gateway.submit(data, model="m", backend=FakeBackend()).wait(5)
    second = gateway.submit(data, model="other", backend=FakeBackend()).wait(5)
    copy = home / "files" / f"{first.record.train.sha256}.jsonl"
    encoded = home / "encoded" / f"{first.record.train.sha256}-key-content.arrow"
    encoded.parent.mkdir()
    encoded.write_text(CANARY)
    said = {check.name: check for check in check_machine(Settings(home), None)}["data"].found
    assert f"encoded rows {len(CANARY)} B" in said
    assert first.remove().shared_with == (second.id,) and copy.exists() and encoded.exists()
    removed = second.remove()
    assert removed.shared_with == () and removed.bytes >= len(CANARY)
    assert found(home) == [] and not encoded.exists()


def test_a_job_that_has_not_ended_is_refused(home: Path) -> None:
    """In words, and nothing of the others in the same call is removed."""
    ended = gateway.submit(chat_rows(10), model="m", backend=FakeBackend()).wait(5)
    live = gateway.submit(chat_rows(11), model="m", backend=FakeBackend())
    with pytest.raises(SpecError, match=rf"{live.id} has not ended .*ftg cancel {live.id}"):
        gateway.remove_jobs([ended, live])
    assert not ended.reload().record.removed
    lost = FakeBackend(faults={"start": [BackendError("Lost.", maybe_applied=True)]})
    doubt = gateway.submit(chat_rows(12), model="m", backend=lost)
    with pytest.raises(SpecError, match="has not ended"):
        doubt.remove()


def test_a_job_whose_model_another_one_was_trained_from_stays(home: Path) -> None:
    """Alone; both together go."""
    store = Gateway().store
    base, _ = store.add(record(status="succeeded", finished_at=time.time()))
    spec = TrainingSpec(model=f"{home}/runs/{base.id}/model")
    tuned, _ = store.add(record(status="succeeded", finished_at=time.time(), spec=spec))
    jobs = [gateway.get_job(base.id), gateway.get_job(tuned.id)]
    with pytest.raises(SpecError, match=f"{tuned.id} was trained from its model"):
        jobs[0].remove()
    assert [one.job_id for one in gateway.remove_jobs(jobs)] == [base.id, tuned.id]


def test_an_equal_submit_after_it_is_a_new_job(home: Path) -> None:
    """The removed one has no model to give back. It is listed, and cannot be used."""
    backend = FakeBackend()
    job = gateway.submit(chat_rows(10), model="m", backend=backend).wait(5)
    job.remove()
    assert job.remove().bytes == 0  # a second time changes nothing
    for use in (job.result, job.resume):
        with pytest.raises(JobRemoved, match="was removed on"):
            use()
    assert job.refresh().wait(1).status == "succeeded" and not job.resumable
    again = gateway.submit(chat_rows(10), model="m", backend=backend)
    assert again.id != job.id and len(gateway.list_jobs()) == 2


def test_who_was_asking_meanwhile_writes_no_text_back(home: Path) -> None:
    """A handle, or the answer to a poll, that comes when the job is removed."""
    job = gateway.submit(chat_rows(10), model="m", backend=FakeBackend()).wait(5)
    handle = job.result().model_dump(mode="json")
    job.remove()
    job.store.set_handle(job.id, {**handle, "system_prompt": CANARY})
    answer = Snapshot(status=JobStatus.UNKNOWN, phase=CANARY)
    job.store.apply(job.id, answer, None)
    other, _ = job.store.add(record(finished_at=time.time()))  # ended, with a word that is unknown
    Gateway().job(other.id).remove()
    job.store.apply(other.id, answer, None)
    assert found(home) == []


# -- kill -9 ---------------------------------------------------------------------------------------


def killed_at(name: str, job: Job) -> None:
    """Remove a job in a process of its own, which kills itself where it would call a function."""
    child = os.fork()
    if child == 0:
        setattr(removal, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        job.remove()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads and forks
@pytest.mark.parametrize("at", ["remove_copies", "erase"])
def test_the_next_removal_finishes_one_that_was_killed(home: Path, tmp_path: Path, at: str) -> None:
    """Killed with its rows stripped and its files there, or with all but the database done: the
    same command again, or one about another job, leaves nothing."""
    job = gateway.submit(file_of(tmp_path), model="m", backend=FakeBackend(answer=CANARY)).wait(5)
    other = gateway.submit(chat_rows(10), model="m", backend=FakeBackend()).wait(5)
    job.store.close()  # no connection goes through a fork
    killed_at(at, job)
    assert job.reload().record.removed and not job.record.erased and found(home)
    (job if at == "erase" else other).remove()
    assert found(home) == [] and job.reload().record.erased


# -- the command line ------------------------------------------------------------------------------


def test_rm_asks_and_says_what_goes(ftg: Ftg, env: dict[str, str], provider: Provider) -> None:
    """Without a terminal and --yes nothing goes; with it, one line for each, and what is left at
    the host is named. The list still has the line, and the costs are the same."""
    os.environ["FTG_HOME"] = env["FTG_HOME"]
    job = hosted(provider, rows())
    other = gateway.submit(chat_rows(10), model="m", backend=FakeBackend()).wait(5)
    costs = json.loads(ftg("costs", "--json").stdout)["totals"]
    refused = ftg("rm", job.id)
    assert refused.returncode == 4 and "no terminal" in refused.stderr
    assert f"{job.id}, succeeded" in refused.stderr and "of files" in refused.stderr
    done = ftg("rm", job.id, "-y", other.id, job.id)
    assert done.stdout == f"{job.id} removed\n{other.id} removed\n"
    assert "ftg prune --remote" in " ".join(done.stderr.split())
    assert found(Path(env["FTG_HOME"])) == []
    assert json.loads(ftg("costs", "--json").stdout)["totals"] == costs
    assert ftg("list").stdout.count("(removed)") == 2
    assert "only what it cost is kept" in ftg("status", job.id).stdout
    for words in (("logs", job.id), ("events", job.id), ("chat", job.id, "Hi")):
        gone = ftg(*words)
        assert gone.returncode == 102 and "was removed on" in gone.stderr, words


@pytest.mark.usefixtures("tiny_at_home")
def test_no_byte_of_a_local_job_is_left(ftg: Ftg, env: dict[str, str], tmp_path: Path) -> None:
    """While it goes on it is refused (exit 2), in words. Then the run folder goes with all that is
    in it."""
    home = Path(env["FTG_HOME"])
    os.environ["FTG_HOME"] = env["FTG_HOME"]
    with slots_taken(home):
        data = file_of(tmp_path)
        job = gateway.submit(data, model="builtin/tiny", backend="local", metadata=METADATA)
        done = ftg("rm", job.id, "--yes", "--json")
        assert done.returncode == 2
        assert "has not ended" in json.loads(done.stdout)["error"]["message"]
        assert job.cancel().wait(30).status == "cancelled"
    assert f"runs/{job.id}/run.json" in found(home)
    removed = json.loads(ftg("rm", job.id, "--yes", "--json").stdout)["removed"]
    assert [one["job_id"] for one in removed] == [job.id] and removed[0]["bytes"] > 1000
    assert found(home) == [] and not (home / "runs" / job.id).exists()
    with pytest.raises(JobRemoved, match="was removed on"):
        job.resume()
