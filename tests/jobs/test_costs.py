"""What jobs cost, beside what was estimated: in Job, list, status and the ledger. All offline."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.chaos import slots_taken, until
from support.provider import Provider
from support.records import record
from support.work import calls

from finetune_gateway import Gateway, JobStatus, OpenAIBackend, Snapshot
from finetune_gateway.cli import main
from finetune_gateway.estimation.price_table import Price, new_price, write_price
from finetune_gateway.jobs import budget as budgets
from finetune_gateway.jobs import charges

MODEL = "gpt-4.1-mini-2025-04-14"
Ftg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ftg(home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Ftg:
    """Runs a command line in this process: exit code, stdout, stderr."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words: str) -> tuple[int, str, str]:
        code = main([*words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return run


def hosted_job(home: Path, file: Path, usd: str = "5.00") -> str:
    """A job that ran at a host whose price is a row of the user's file."""
    own(home, usd)
    with Provider() as provider:
        backend = OpenAIBackend(
            base_url=provider.url, profile="custom", api_key=provider.api_key, poll_seconds=0.05
        )
        job = Gateway().submit(file, model=MODEL, backend=backend, n_epochs=2)
        return job.wait(30).id


def own(home: Path, usd: str) -> None:
    row = {"backend": "custom", "model": MODEL, "unit": "train_mtok", "source": "our contract"}
    write_price(home / "prices.toml", new_price(**row, usd=usd, as_of="2026-11-01"))


def stored(home: Path, **changes: Any) -> str:
    """A job as another version of a backend left it."""
    gateway = Gateway(home)
    return gateway.store.add(record(**changes))[0].id


def estimate(**fields: Any) -> dict[str, Any]:
    return {"cost_usd": {"low": "1", "expected": "2", "high": "3"}, "prices": [], **fields}


def gpu_hour(usd: str) -> dict[str, Any]:
    row = Price(
        backend="local",
        model="L40S",
        unit="gpu_hour",
        usd=Decimal(usd),
        as_of=date(2026, 11, 1),
        source="given by the user",
    )
    return row.model_dump(mode="json")


def host(provider: Provider) -> str:
    return provider.url.split("/")[2]


# -- one job -----------------------------------------------------------------------------


def test_tokens_of_the_host_times_the_row_of_the_job(home: Path, train_file: Path) -> None:
    """To the last digit, with the row; the price file may change or go, the bill stays."""
    job = Gateway().job(hosted_job(home, train_file))
    tokens = job.record.trained_tokens
    assert tokens and job.actual is not None
    assert job.actual.cost_usd == Decimal(5) * tokens / 1_000_000
    assert job.actual.basis == f"{tokens:,} tokens x $5.00 a million, of 2026-11-01, our contract"
    before = Gateway().costs().to_csv()
    own(home, "99.00")
    assert Gateway().job(job.id).actual == job.actual and Gateway().costs().to_csv() == before
    (home / "prices.toml").unlink()
    assert Gateway().job(job.id).actual == job.actual and Gateway().costs().to_csv() == before


def test_no_bill_is_made_of_the_tokens_of_images(home: Path) -> None:
    """Azure has reported the base64 of an image as trained tokens: the cost stays unknown, with the
    reason, and the budget keeps the high estimate."""
    row = new_price(backend="azure", model="gpt-4o-2024-08-06", unit="train_mtok", usd="27.50",
                    source="a bill", as_of="2026-11-01")  # fmt: skip
    for images, cost in ((0, Decimal("0.2750")), (1, None)):
        tokens = {"encoding": "o200k_base", "exact": False, "images": images}
        billed = {"low": 2_000, "expected": 5_000, "high": 9_000}
        quote = estimate(tokens=tokens, billed_tokens=billed, prices=[row.model_dump(mode="json")])
        name = stored(home, backend="azure", estimate=quote)
        gateway = Gateway()
        gateway.store.set_sent(name, name)
        done = Snapshot(status=JobStatus.SUCCEEDED, trained_tokens=10_000, cursor="1")
        gateway.store.apply(name, done, None)
        found = gateway.job(name).actual
        assert found is not None and (found.cost_usd, found.trained_tokens) == (cost, 10_000)
        assert ("images" in found.basis) == bool(images)
        line = next(line for line in gateway.costs().jobs if line.job_id == name)
        assert line.counted_usd == (3 if images else cost) and line.basis == found.basis


def test_hours_times_the_row_of_a_local_job(home: Path) -> None:
    """Half an hour at 2.18 USD is 1.09; until the job has ended there is no actual."""
    name = stored(home, backend="local", estimate=estimate(prices=[gpu_hour("2.18")]))
    gateway = Gateway()
    gateway.store.set_sent(name, name)
    assert gateway.job(name).actual is None and gateway.budget().reserved_usd == 3
    ended = Snapshot(status=JobStatus.SUCCEEDED, seconds=1800, trained_tokens=7, cursor="1")
    gateway.store.apply(name, ended, None)
    found = gateway.job(name).actual
    assert found is not None and (found.cost_usd, found.seconds) == (Decimal("1.09"), 1800)
    assert "0.5000 hours x $2.18" in found.basis
    assert gateway.budget().spent_usd == Decimal("1.09")


def test_tokens_of_a_local_job_stand_beside_their_estimate(ftg: Ftg, home: Path) -> None:
    """A trainer's count has an estimate too, in status and in the ledger."""
    predicted = estimate(trained_tokens={"low": 6, "expected": 7, "high": 8})
    name = stored(home, backend="local", estimate=predicted)
    store = Gateway().store
    store.set_sent(name, name)
    ended = Snapshot(status=JobStatus.SUCCEEDED, seconds=9, trained_tokens=7, cursor="1")
    store.apply(name, ended, None)
    assert "trained       7 tokens, estimated 7\n" in ftg("status", name)[1]
    line = json.loads(ftg("costs", "--since", "2020-01-01", "--json")[1])["jobs"][0]
    assert (line["estimated_tokens"], line["trained_tokens"]) == (7, 7)


@pytest.mark.parametrize(
    ("changes", "cost", "held", "said"),
    [
        # final; what the host did not say stays at the high estimate
        ({"provider_id": "j", "estimate": estimate(prices=[gpu_hour("1")])}, None, 3, "how long"),
        ({"provider_id": "j", "estimate": estimate()}, None, 3, "no price was known"),
        ({"step": "creating", "estimate": estimate()}, None, 3, "no price was known"),
        ({"step": "uploading", "estimate": estimate()}, 0, 0, "nothing was created"),
        ({"provider_id": "j", "estimate": None, "hosted": True}, None, 0, "no price was known"),
        (
            {
                "provider_id": "j",
                "estimate": estimate(cost_usd={"low": "0", "expected": "0", "high": "0"}),
            },
            0,
            0,
            "this machine has no price",
        ),
    ],
)
def test_what_is_not_known_is_said_and_kept_reserved(
    changes: dict[str, Any], cost: int | None, held: int, said: str
) -> None:
    """Never a guess: None with the reason, and the budget stays on the safe side."""
    failed = record(status=JobStatus.FAILED, **changes)
    found = budgets.actual(failed)
    assert found is not None and found.cost_usd == cost and said in found.basis
    assert budgets.held(failed, lambda job_id: False) == held


def test_what_an_ended_job_took_is_computed_once(home: Path) -> None:
    """A submit adds it all up while nobody else may write: of rows that stay as they are it only
    looks whether they do."""
    store = Gateway(home).store
    sent: dict[str, Any] = {"status": JobStatus.SUCCEEDED, "step": "sent"}
    for number in range(40):
        store.add(record(**sent, provider_id=f"j-{number}", cost_usd=Decimal(number)))
    found: list[budgets.Budget] = []

    def month() -> None:
        found.append(charges.month(store, time.time(), Decimal(5000)))

    first, again = calls(month), calls(month)
    assert again < first / 8, f"{first:,} calls, then {again:,}"
    assert found[0] == found[1] and found[0].spent_usd == 780
    with store.transaction() as db:
        db.execute("UPDATE jobs SET cost_usd = '100' WHERE cost_usd = '39'")
    month()
    assert found[2].spent_usd == 841


def test_an_open_job_that_nobody_sends_holds_nothing() -> None:
    """Only while its submitter lives, or after somebody has read that it will be sent."""
    alive: dict[str, Any] = {"estimate": estimate()}
    for changes, living, held in (
        ({"step": "intent"}, True, 3),
        ({"step": "intent"}, False, 0),
        ({"step": "uploading"}, False, 0),
        ({"step": "creating"}, False, 3),
        ({"step": "intent", "phase": "not confirmed: 429"}, False, 3),
        ({"step": "sent", "provider_id": "j"}, False, 3),
    ):
        one = record(**alive, **changes)
        submitters = {one.id} if living else set()
        assert budgets.held(one, submitters.__contains__) == held, changes


# -- screens -----------------------------------------------------------------------------


def test_list_and_status_show_both(ftg: Ftg, home: Path, train_file: Path) -> None:
    """Estimate and actual beside each other, within 80 columns; --json has all of it."""
    name = hosted_job(home, train_file)
    code, out, _ = ftg("list", "--costs")
    head, line = out.splitlines()
    assert code == 0 and head.split() == ["JOB", "STATUS", "MODEL", "EXPECTED", "AT_MOST", "ACTUAL"]
    assert line.startswith(f"{name}  succeeded") and line.count("$") == 3 and len(line) <= 80
    status = ftg("status", name)[1]
    assert all(len(line) <= 80 for line in status.splitlines())
    assert "trained" in status and "estimated" in status
    assert "of 2026-11-01, our contract" in " ".join(status.split())
    (found,) = json.loads(ftg("list", "--json")[1])
    assert found["actual"]["price"]["usd"] == "5.00"
    actual = Gateway().job(name).actual
    assert actual is not None and Decimal(found["actual"]["cost_usd"]) == actual.cost_usd


def test_the_ledger_of_the_command_line(ftg: Ftg, home: Path, train_file: Path) -> None:
    """Table, CSV and JSON say the same; a job of a backend that is gone is in it; open ones and
    unknown ones are counted as such; no network is needed."""
    name = hosted_job(home, train_file)
    stored(home, backend="gone", estimate=estimate(), provider_id="x", step="sent")
    ended = stored(home, backend="gone", hosted=True)
    Gateway().store.set_sent(ended, "y")
    Gateway().store.apply(ended, Snapshot(status=JobStatus.SUCCEEDED, cursor="1"), None)
    found = json.loads(ftg("costs", "--json")[1])
    lines = {line["job_id"]: line for line in found["jobs"]}
    assert len(lines) == 3 and found["totals"]["open"] == found["totals"]["without_actual"] == 1
    actual = Gateway().job(name).actual
    assert actual is not None
    cost, total = actual.cost_usd, Decimal(found["totals"]["actual_usd"])
    assert Decimal(lines[name]["actual_usd"]) == total == cost
    assert lines[name]["price_source"] == "our contract"
    assert lines[name]["price_as_of"] == "2026-11-01"
    assert lines[ended]["actual_usd"] is None and lines[ended]["estimated_usd"] is None
    assert Decimal(found["totals"]["counted_usd"]) == (cost or 0) + 3
    code, out, err = ftg("costs", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and [row["job_id"] for row in rows] == [*lines]
    assert Decimal(rows[0]["actual_usd"]) == cost and rows[2]["actual_usd"] == ""
    assert "3 jobs, 1 not finished" in err
    table = ftg("costs")[1]
    assert all(len(line) <= 80 for line in table.splitlines()), table
    assert all(job in table for job in lines) and "1 not known" in table


def test_days_are_of_utc_and_both_are_in(ftg: Ftg, home: Path) -> None:
    """--since and --until name whole days; without them it is this month."""
    day = datetime(2026, 3, 5, tzinfo=UTC).timestamp()
    names = [stored(home, created_at=moment) for moment in (day - 1, day, day + 86399, day + 86400)]
    now = stored(home, created_at=time.time())

    def listed(*words: str) -> list[str]:
        jobs = json.loads(ftg("costs", *words, "--json")[1])["jobs"]
        return [line["job_id"] for line in jobs]

    assert listed("--since", "2026-03-05", "--until", "2026-03-05") == names[1:3]
    assert listed("--since", "2026-03-06") == [names[3], now]
    assert listed() == [now]
    assert len(Gateway().costs().jobs) == 5


def test_a_spreadsheet_runs_nothing(ftg: Ftg, home: Path) -> None:
    """Names that begin like a formula are preceded by an apostrophe, quotes are doubled."""
    stored(home, name='=HYPERLINK("http://x","y").jsonl', backend="@sum")
    stored(home, name="-1+1.jsonl", backend="+b")
    rows = list(csv.DictReader(io.StringIO(ftg("costs", "--format", "csv", "-q")[1])))
    assert [row["data"] for row in rows] == ['\'=HYPERLINK("http://x","y").jsonl', "'-1+1.jsonl"]
    assert [row["backend"] for row in rows] == ["'@sum", "'+b"]
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "yesterday"), "Like 2026-11-21"),
        (("--since", "2026-02-01", "--until", "2026-01-01"), "comes after"),
        (("--format", "xml"), "table, csv, json"),
    ],
)
def test_what_makes_no_sense_is_refused(ftg: Ftg, words: tuple[str, ...], said: str) -> None:
    """Exit 2 and the next step."""
    code, out, err = ftg("costs", *words)
    assert code == 2 and out == "" and said in err


def test_the_former_name_works_and_says_the_new_one(ftg: Ftg, home: Path) -> None:
    """One line on stderr; stdout is that of ``ftg costs``."""
    stored(home)
    new, former = ftg("costs", "--json"), ftg("report", "costs", "--json")
    assert former[:2] == new[:2] and len(json.loads(new[1])["jobs"]) == 1
    assert former[2].splitlines()[0] == "'ftg report costs' is now: ftg costs"


def test_the_confirmation_shows_price_bytes_host_and_budget(
    ftg: Ftg, home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Low, expected and high, each file with its bytes, where it goes, what the month has left;
    nothing is sent without an answer."""
    ftg("config", "set", "budget.monthly_usd", "5")
    own(home, "5.00")
    with Provider(pace=0.01) as provider:  # ended by the first look, 2 s later
        monkeypatch.setenv("A_KEY", provider.api_key)
        words = ["submit", str(train_file), "--model", MODEL, "--backend", "openai"]
        words += ["--base-url", provider.url, "--profile", "custom", "--api-key-env", "A_KEY"]
        code, _, err = ftg(*words)
        said = " ".join(err.split())
        assert code == 4 and provider.requests == []
        assert "(low $" in said and ", high $" in said
        assert (
            f": {train_file.stat().st_size:,} bytes) will be uploaded to {host(provider)}." in said
        )
        assert "$5.00 of $5.00 left" in said and "this job reserves $" in said
        assert "At $5.00 per million training tokens, as of 2026-11-01, our contract." in said
        dry = json.loads(ftg(*words, "--dry-run", "--json")[1])
        assert dry["budget"]["left_usd"] == "5"
        assert ftg(*words, "--yes", "--wait")[0] == 0
        monkeypatch.setenv("FTG_BUDGET_MONTHLY_USD", "0.0001")
        code, _, err = ftg(*words, "--again", "--yes")
        assert code == 4 and "this job does not fit" in " ".join(err.split())
        assert "are left" in err
        assert len(provider.jobs) == 1


def test_a_local_job_counts_the_time_of_its_workers(
    home: Path, tiny_folder: Path, rows: Callable[[int], list[dict[str, Any]]]
) -> None:
    """From the slot to the end, and on top of what an attempt before had counted; waiting for the
    slot costs nothing."""
    gateway = Gateway()
    with slots_taken(home):
        job = gateway.submit(
            rows(12), model=str(tiny_folder), backend="local", max_steps=1, batch_size=4, lora_r=4
        )
        until(lambda: job.refresh().phase == "waiting for a free slot")
        with gateway.store.transaction() as db:  # as a worker that died left it
            db.execute("UPDATE runs SET seconds = 1000 WHERE id = ?", (job.id,))
    began = time.time()
    job.wait(200)
    assert job.status is JobStatus.SUCCEEDED, job.error
    took, ended = job.record.seconds, job.record.finished_at
    assert took is not None and 1000 < took <= 1000 + time.time() - began
    assert ended is not None and began < ended <= time.time()
    assert job.actual is not None and job.actual.trained_tokens
