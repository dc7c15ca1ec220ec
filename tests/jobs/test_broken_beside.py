"""One broken job beside others: each line of a list stands alone, and no clock orders it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.records import record

from finetune_gateway import Gateway, JobStatus
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.cli import main
from finetune_gateway.errors import BackendError, StoreError
from finetune_gateway.events import Event, Snapshot
from finetune_gateway.jobs import history
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.reports.job_text import job_document, job_facts
from finetune_gateway.reports.live import View

ONE_USD = dict.fromkeys(("low", "expected", "high"), "1")
Break = Callable[[Store, str], object]


@pytest.fixture
def store(home: Path) -> Store:
    return Gateway(home).store


def local_job(store: Store, events: int = 2, **changes: Any) -> JobRecord:
    """A job of this machine whose run has ended, which nobody has looked at since."""
    job = record(backend="local", status=JobStatus.RUNNING, step="sent", **changes)
    job = job.model_copy(update={"provider_id": job.id})
    store.add(job)
    queue = Queue(store.settings)
    queue.add(job.id)
    folder = queue.folder(job.id)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    lines = [Event(id=f"{job.id}-1-{n}", message=f"event {n}") for n in range(1, events + 1)]
    text = "".join(f"{event.model_dump_json()}\n" for event in lines)
    (folder / "events.jsonl").write_text(text)
    with store.transaction() as db:
        db.execute("UPDATE runs SET status = 'failed', error = 'why' WHERE id = ?", (job.id,))
    return job


def sql(change: str) -> Break:
    def broken(store: Store, job_id: str) -> None:
        with store.transaction() as db:
            db.execute(f"UPDATE {change} WHERE id = ?", (job_id,))

    return broken


def in_folder(change: Callable[[Path], object]) -> Break:
    return lambda store, job_id: change(store.settings.runs / job_id)


def instead_of_a_folder(path: Path) -> None:
    shutil.rmtree(path)
    path.write_text("no folder")


def log_is_a_folder(run: Path) -> None:
    (run / "events.jsonl").unlink()
    (run / "events.jsonl").mkdir()


BROKEN: dict[str, Break] = {
    "log zeroed": in_folder(lambda run: (run / "events.jsonl").write_bytes(bytes(300))),
    "log garbage": in_folder(lambda run: (run / "events.jsonl").write_bytes(b"\xff{\n[1]\n{}\n")),
    "log a folder": in_folder(log_is_a_folder),
    "run.json garbage": in_folder(lambda run: (run / "run.json").write_bytes(b"\0\0")),
    "folder gone": in_folder(shutil.rmtree),
    "folder a file": in_folder(instead_of_a_folder),
    "cursor beyond the file": sql("jobs SET cursor = '99999:1-77'"),
    "cursor of no sense": sql("jobs SET cursor = 'next'"),
    "run of an odd status": sql("runs SET status = 'resting'"),
    "run of an odd result": sql("runs SET result = '{'"),
    "job of an odd status": sql("jobs SET status = 'resting'"),
    "job of an odd spec": sql("jobs SET spec = '{'"),
    "odd metadata": sql("jobs SET metadata = '{', backend_options = '['"),
}
DAMAGED_ROWS = [how for how in BROKEN if " odd " in f" {how}"]


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_job_leaves_the_others_alone(
    store: Store, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The next poll is of both: the other one is listed, shown, followed and paid for as ever, and
    of the broken one a line says what is wrong, or it is as it should be."""
    broken, other = local_job(store), local_job(store)
    BROKEN[how](store, broken.id)
    for words in (
        ["list", "--json"],
        ["list", "--backend", "local", "--status", "failed", "--json"],
        ["status", other.id, "--json"],
        ["costs", "--json"],
        ["logs", other.id],
        ["events", other.id],
    ):
        assert main(words) == 0, words
    assert main(["watch", other.id, "--quiet"]) == main(["wait", other.id, "--quiet"]) == 100
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    listed = capsys.readouterr()
    found = {one["id"]: one for one in json.loads(listed.out)}
    assert found[other.id]["status"] == "failed" and found[other.id]["error"] == "why"
    assert len(Gateway().job(other.id).events()) == 2
    if how not in DAMAGED_ROWS:
        assert found[broken.id]["status"] == "failed" and listed.err == ""
        return
    assert f"{broken.id} is damaged" in listed.err
    with pytest.raises((StoreError, BackendError), match=f"{broken.id} is damaged"):
        Gateway().job(broken.id).refresh()


def test_jobs_whose_row_is_damaged_are_in_no_sum_and_said_so(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside those that can be read; what would be spent is still refused."""
    broken, other = local_job(store), local_job(store)
    sql("jobs SET spec = '{'")(store, broken.id)
    assert main(["costs", "--json"]) == 0
    said = capsys.readouterr()
    costs = json.loads(said.out)
    assert [line["job_id"] for line in costs["jobs"]] == [other.id]
    assert costs["totals"]["damaged"] == 1 and f"{broken.id} is damaged" in said.err
    capped = Gateway(monthly_usd=5)
    assert capped.budget().left_usd == 0
    with pytest.raises(StoreError, match=f"{broken.id} is damaged: spec. .*nothing more is bought"):
        capped._submitter.reserve(record(hosted=True, estimate={"cost_usd": ONE_USD}))


def test_no_clock_decides_which_job_is_the_latest(store: Store) -> None:
    """The clock is set back by days between two submits: lists, ``latest`` and turns are in the
    order of the submits."""
    first = local_job(store, created_at=2e9)
    second = local_job(store, created_at=1e9)
    gateway = Gateway()
    assert [job.id for job in gateway.jobs()] == [second.id, first.id]
    assert gateway.job("latest").id == gateway.jobs(limit=1)[0].id == second.id
    assert store.in_order({second.id, first.id}) == [first.id, second.id]


def test_the_same_submit_is_known_though_its_job_is_of_tomorrow(
    store: Store, train_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The clock was set back since: it is the existing job, and said so."""
    words = ["submit", str(train_file), "--model", "m", "--backend", "fake", "--yes", "--json"]
    assert main(words) == 0
    first = json.loads(capsys.readouterr().out)
    sql("jobs SET created_at = created_at + 1e6")(store, first["id"])
    assert main(words) == 0
    second = json.loads(capsys.readouterr().out)
    assert (first["existing"], second["existing"]) == (False, True)
    assert second["id"] == first["id"]


def test_status_and_screen_say_the_same_of_a_long_job_as_of_all_its_events(store: Store) -> None:
    """By range: last values, losses by step, also of steps that ran again or come late."""
    job = local_job(store)
    steps = [*range(1, 400), *range(390, 420), 7]
    events = [
        Event(id=f"m{n}", created_at=1e9 + n, type="metrics", data=figures(step, n))
        for n, step in enumerate(steps)
    ]
    odd = [Event(id="x", type="metrics", data={"step": "7"}), Event(id="y", message="the end")]
    store.apply(job.id, Snapshot(status=JobStatus.RUNNING, events=events + odd), None)
    opened = Gateway().job(job.id)
    metrics, found = opened.metrics(), history.curves(store, job.id)
    assert [*found.train] == [(one.step, one.train_loss) for one in metrics]
    assert [*found.valid] == [(one.step, one.valid_loss) for one in metrics if one.valid_loss]
    assert found.last == metrics[-1] and found.message == "the end"
    document = job_document(opened)
    assert document["last_metrics"] == metrics[-1].model_dump(mode="json")
    assert job_facts(opened)["last metrics"].startswith("step 419/500, train_loss ")
    whole, by_range = View(opened), View(opened, found)
    for event in opened.events():
        whole.add(event)
    assert by_range.losses == whole.losses and by_range.message == whole.message
    assert (by_range.began, by_range.at) == (whole.began, whole.at)
    assert by_range.latest["grad_norm"] == whole.latest["grad_norm"]
    assert [*history.each_event(store, job.id)] == opened.events()
    numbers = [event.number for event in opened.events()]
    assert [event.number for event in opened.events(after=numbers[3] or 0, limit=2)] == numbers[4:6]
    assert [event.number for event in history.last_events(store, job.id, 3)] == numbers[-3:]


def figures(step: int, n: int) -> dict[str, Any]:
    valid = {"valid_loss": 1 + step / 1000} if step % 50 == 0 else {}
    return {"step": step, "total_steps": 500, "train_loss": 2 / (step + n), "grad_norm": n, **valid}
