"""Any column of one job that holds nonsense, of all tables that have a line of it: the others are
listed, started and followed as ever."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
from support.records import record
from support.sleepers import Home

from finetune_gateway import Gateway, GatewayError, JobStatus
from finetune_gateway.backends.local import states
from finetune_gateway.cli import main
from finetune_gateway.jobs.records import JobRecord

NONSENSE: tuple[Any, ...] = (
    *(None, "nonsense", "", "[1]", '["../x"]', '{"code": "x", "seconds": {"expected": "y"}}'),
    *(b"\xff\x00", -1, 2**62, 1e300, float("inf")),
)
KEYS = {"runs": ("id", "seq"), "jobs": ("id", "provider_id")}  # what finds a line is none of it
OF_ALL = (["list", "--all"], ["list", "--all", "--json"], ["list", "--all", "--costs"], ["costs"])


@pytest.fixture
def sleeping(home: Path) -> Iterator[Home]:
    found = Home(home)
    yield found
    found.close()


def add_job(sleeping: Home, device: str, status: str = "queued", **changes: Any) -> JobRecord:
    """A local job, and its run in line."""
    job = record(
        backend="local", status=JobStatus.QUEUED, step="sent", estimate={"seconds": None}, **changes
    )
    job = job.model_copy(update={"provider_id": job.id})
    sleeping.queue.store.add(job)
    sleeping.add(job.id, device)
    with sleeping.queue.store.transaction() as db:
        db.execute("UPDATE runs SET status = ? WHERE id = ?", (status, job.id))
    return job


def damage(sleeping: Home, table: str, kinds: int) -> list[tuple[str, str]]:
    """Jobs each of which has one column with nonsense, so many kinds for each; their ids, and what
    it is."""
    store = sleeping.queue.store
    columns = [one["name"] for one in store.query(f"SELECT name FROM pragma_table_info('{table}')")]
    made = []
    values = cycle(NONSENSE)
    for number, column in enumerate(one for one in columns if one not in KEYS[table]):
        for value in islice(values, kinds):
            job = add_job(sleeping, "gpu-0", "running" if number % 2 else "queued")
            try:
                with store.transaction() as db:
                    db.execute(f"UPDATE {table} SET {column} = ? WHERE id = ?", (value, job.id))
            except (sqlite3.IntegrityError, GatewayError):  # the store itself refuses it
                continue
            made.append((job.id, f"{table}.{column} = {value!r}"))
    return made


@pytest.mark.parametrize("table", KEYS)
@pytest.mark.parametrize("kinds", [1, pytest.param(len(NONSENSE), marks=pytest.mark.chaos)])
def test_nonsense_in_a_column_is_of_one_job_alone(
    sleeping: Home, table: str, kinds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each column, all at once: a job behind them is listed, begins where its device is free, and
    each damaged one is as it should be, or an error in words."""
    made = damage(sleeping, table, kinds)
    assert len(made) > 15 * kinds
    other = add_job(sleeping, "gpu-1")
    queue = sleeping.queue
    for words in (*OF_ALL, ["status", other.id]):
        main(words)
        said = capsys.readouterr()
        assert "This is a bug" not in said.err and "Traceback" not in said.err, words
        assert words[0] == "costs" or other.id in said.out + said.err, words
    assert main(["list", "--all", "--json"]) == 0
    listed = {one["id"]: one for one in json.loads(capsys.readouterr().out)}
    assert listed[other.id]["status"] == "queued"
    assert other.id in states.places(queue, 0.0)
    for _ in range(3):
        sleeping.look()
    assert other.id in sleeping.dispatcher.workers
    gateway, raised = Gateway(), []
    for job_id, what in made:
        for act in ("refresh", "pause", "cancel"):
            try:
                getattr(gateway.job(job_id), act)()
            except GatewayError:
                pass
            except Exception as exc:
                raised.append(f"{what}: {act}: {exc!r}")
    assert not raised, "\n".join(raised)
