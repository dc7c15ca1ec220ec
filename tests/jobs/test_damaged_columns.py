"""Any column of one job that holds nonsense, of all tables that have a line of it: the others are
listed, started and followed as ever."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from decimal import Decimal
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

import pytest
from support.records import record
from support.sleepers import Home

from finetune_gateway import Gateway, GatewayError, JobStatus
from finetune_gateway.backends.local import states
from finetune_gateway.cli import main
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.records import JobRecord

NO_TEXT = b"\xff in a text"  # bytes that are no UTF-8
NONSENSE: tuple[Any, ...] = (
    NO_TEXT,
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
                    given = "CAST(? AS TEXT)" if value is NO_TEXT else "?"
                    db.execute(
                        f"UPDATE {table} SET {column} = {given} WHERE id = ?", (value, job.id)
                    )
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


MONEY = ("max_cost_usd", "quote_usd", "cost_usd", "estimate")
NUMBERS = (
    *("trained_tokens", "seconds", "progress", "place_in_line", "expected_start_at", "tries"),
    *("not_before", "turned_away", "resumes", "held_out_share", "priority", "start_at"),
)
FAR = ("-3.5e300", "3.5e300", "-1", "1e99999", "NaN", "Infinity")


def test_amounts_that_nothing_costs_are_of_one_job_alone(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And numbers that nothing has: each command says which is damaged, or leaves it out."""
    gateway = Gateway(home)
    made, store = [], gateway.store
    for column in (*MONEY, *NUMBERS):
        for value in FAR[:6] if column in MONEY else FAR[:2]:
            job = record(backend="openai", status=JobStatus.RUNNING, step="sent", hosted=True)
            store.add(job.model_copy(update={"provider_id": job.id}))
            given: Any = value if column in MONEY else float(value)
            if column == "estimate":
                given = json.dumps({"cost_usd": dict.fromkeys(("low", "expected", "high"), value)})
            with store.transaction() as db:
                db.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (given, job.id))
            made.append((job.id, f"{column} = {value}"))
    good = record(backend="openai", status=JobStatus.RUNNING, step="sent", hosted=True)
    store.add(good.model_copy(update={"provider_id": good.id}))
    bugs = []
    for words, what in [
        *((words, "") for words in (*OF_ALL, ["costs", "--json"])),
        *((["status", job_id, *more], what) for job_id, what in made for more in ([], ["--json"])),
    ]:
        code = main(words)
        said = capsys.readouterr()
        if code not in (0, 1) or "Traceback" in said.err or "This is a bug" in said.err:
            bugs.append(f"{' '.join(words)} {what}: {code} {said.err[-300:]}")
        if words[0] == "list" and "--json" in words:
            assert good.id in said.out
    assert not bugs, "\n".join(bugs)


def test_a_charge_with_an_amount_that_nothing_costs(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its sum cannot be known, and an error says whose it is."""
    store = Gateway(home).store
    about: Any = {"name": "recorded:x", "backend": "openai", "host": "openai", "model": "m"}
    one = Charge(id="c1", created_at=time.time(), spent_usd=Decimal(1), ended_at=1.0, **about)
    charges.reserve(store, one, None)
    for column, value in product(("reserved_usd", "spent_usd", "prices", "cost"), FAR):
        with store.transaction() as db:
            [before] = db.execute(f"SELECT {column} FROM charges").fetchone()
            db.execute(f"UPDATE charges SET {column} = ?", (value,))
        for words in (["costs"], ["list", "--all", "--costs"]):
            assert main(words) in (0, 1)
            said = capsys.readouterr()
            assert "Traceback" not in said.err and "This is a bug" not in said.err, said.err
            assert words[0] == "list" or f"the charge c1 is damaged: {column}" in said.err, said.err
        with store.transaction() as db:
            db.execute(f"UPDATE charges SET {column} = ?", (before,))
