"""The cap of a month: reserved with the intent, kept by many processes, given back by the dead."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
from support.chaos import (
    BACKEND,
    KEY,
    SUBMIT,
    ProviderProcess,
    data_file,
    kill,
    ready,
    start,
    until,
)
from support.provider import CREATE, Provider

from finetune_gateway import BackendError, BudgetError, Gateway, OpenAIBackend, SpecError
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.estimation.price_table import new_price, write_price
from finetune_gateway.jobs.budget import (
    Budget,
    dollars,
    month_of,
    require_room,
    require_within,
)

MODEL = "gpt-4.1-mini-2025-04-14"
PRICE = Decimal(1000)  # USD a million tokens: a job of 12 short rows costs dollars
ROOM = 10  # jobs that fit under the cap

# arguments: url, folder with a file for each submitter, seed, how many to kill
# The submitters are forks of a process that has imported everything: they all begin at once.
SUBMITTERS = (
    BACKEND
    + """
import random, signal, time
from decimal import Decimal
from pathlib import Path
from finetune_gateway.gateway import Gateway
from finetune_gateway.errors import BudgetError
import finetune_gateway.backends.openai.backend

url, folder, draw = sys.argv[1], Path(sys.argv[2]), random.Random(int(sys.argv[3]))
files = sorted(folder.glob("job-*.jsonl"))
options = {"model": "gpt-4.1-mini-2025-04-14", "train_price": Decimal(1000), "n_epochs": 1}

def one(path):
    try:
        said = Gateway().submit(path, backend=backend(url), **options).id
    except BudgetError as exc:
        said = f"refused: {exc}"
    except Exception as exc:
        said = f"{type(exc).__name__}: {exc}"
    path.with_suffix(".said").write_text(said)

Gateway().estimate(files[0], backend=backend(url), **options)  # loads the vocabulary
held, gate = os.pipe()
children = []
for path in files:
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        os.read(held, 1)  # until the gate is closed
        one(path)
        os._exit(0)
    children.append(pid)
os.close(gate)
begun, alive, killed = time.monotonic(), dict(zip([path.name for path in files], children)), 0
gateway, left = Gateway(), int(sys.argv[4])
while left and alive:
    time.sleep(draw.uniform(0, 0.06))
    unsent = [job.record.name for job in gateway.jobs() if job.provider_id is None]
    between = [name for name in unsent if name in alive]  # the intent and the create
    name = draw.choice(between if between and draw.random() < 0.7 else list(alive))
    os.kill(alive[name], signal.SIGKILL)  # unreaped children keep their ids
    _, end = os.waitpid(alive.pop(name), 0)
    killed += end != 0
    left -= 1
ends = [os.waitpid(pid, 0)[1] for pid in alive.values()]
assert not any(ends), ends
print(json.dumps({"killed": killed, "seconds": round(time.monotonic() - begun, 1)}))
"""
)


def storm(
    provider: ProviderProcess, folder: Path, count: int, *, kills: int = 0, seed: int = 0
) -> Counter[str]:
    """``count`` processes submit a job of their own at once, some are killed with -9 on the way:
    how many were admitted, refused, killed."""
    folder.mkdir()
    for number in range(count):
        data_file(folder, number)
        (folder / f"job-{number}.jsonl").rename(folder / f"job-{folder.name}-{number:02}.jsonl")
    for path in folder.iterdir():  # content of its own in every storm
        path.write_text(path.read_text().replace("This is file", f"This is {folder.name}"))
    process = start(
        SUBMITTERS, provider.url, folder, seed, kills, CHAOS_TIMEOUT=30, CHAOS_SETTLE=SETTLE
    )
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    said = [path.read_text() for path in folder.glob("*.said")]
    odd = [text for text in said if not text.startswith(("ftg-", "refused: "))]
    assert odd == []
    found = Counter(json.loads(out))
    found.update("admitted" if text.startswith("ftg-") else "refused" for text in said)
    return found


# Seconds, more than the host takes to answer: else a job of the dead is created after its share was
# given back. With 0.05 two of three storms go above the cap; with 1 one of 40 did, beside load.
SETTLE = 4


def let_settle(home: Path) -> None:
    """Let the time pass after which a request can no longer take effect."""
    with Gateway(home).store.transaction() as db:
        db.execute("UPDATE jobs SET step_at = step_at - ?, step_clock = NULL", (SETTLE,))


def one_job(home: Path, folder: Path) -> Decimal:
    """The most that a job of these tests costs."""
    folder.mkdir()
    hosted = OpenAIBackend(api_key=KEY)
    estimate = Gateway(home).estimate(
        data_file(folder, 1), model=MODEL, backend=hosted, train_price=PRICE, n_epochs=1
    )
    assert estimate.cost_usd is not None
    return estimate.cost_usd.high


@contextmanager
def watched(home: Path) -> Iterator[list[Decimal]]:
    """What the month holds, looked at again and again meanwhile."""
    seen: list[Decimal] = []
    ended = Event()

    def look() -> None:
        gateway = Gateway(home)
        while not ended.wait(0.05):
            found = gateway.budget()
            seen.append(found.spent_usd + found.reserved_usd)
        gateway.store.close()

    thread = Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def repetition(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, kills: int
) -> str:
    """50 submitters against a cap for 10 jobs, some of them killed; then 12 more find the room
    that the dead have left, and no more than that."""
    monkeypatch.setenv("CHAOS_KEY", KEY)
    cap = one_job(home, tmp_path / "one") * ROOM + PRICE / 100_000  # names differ by a token
    monkeypatch.setenv("FTG_BUDGET_MONTHLY_USD", str(cap))
    # A pace of an hour: jobs stay reserved at their high estimate.
    with ProviderProcess(tmp_path, "--pace", 3600) as provider:
        for kind in random.Random(seed).choices(["ok", "late", "slow"], k=12):
            provider.fault(CREATE, kind, seconds=0.4)
        with watched(home) as seen:
            first = storm(provider, tmp_path / "first", 50, kills=kills, seed=seed)
            bought = provider.bought()
            assert max(bought.values(), default=0) <= 1 and len(bought) <= ROOM
            assert kills or first["admitted"] == len(bought) == ROOM
            until(provider.idle)  # what was sent can no longer take effect
            let_settle(home)
            second = storm(provider, tmp_path / "second", 12, seed=seed)
        assert max(seen) <= cap and len(seen) > 10
        bought = provider.bought()
        assert max(bought.values()) == 1 and len(bought) == ROOM, (first, second, bought)
        jobs = Gateway(home).jobs()
        for job in jobs:
            list(job.watch(0, send=True))
        unsent = [job for job in jobs if job.provider_id is None]
        assert provider.bought() == bought, "what came too late was sent all the same"
        assert {job.id for job in jobs if job.provider_id} == set(bought)
    assert all(job.status == "failed" and "are left" in str(job.error) for job in unsent)
    return f"{dict(first)} {dict(second)} dead and not sent: {len(unsent)}"


def test_fifty_submitters_and_some_die(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never above the cap, and every dead submitter's room is used again."""
    print(f"\n{repetition(home, tmp_path, monkeypatch, 0, 20)}")


@pytest.mark.chaos
@pytest.mark.parametrize("kills", [0, 20])
@pytest.mark.parametrize("seed", range(1, 21))
def test_twenty_times(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, kills: int
) -> None:
    """The same with 20 seeds, with kills and without."""
    print(f"\n{seed}: {repetition(home, tmp_path, monkeypatch, seed, kills)}")


# -- one at a time -----------------------------------------------------------------------


def hosted(provider: Provider, **options: Any) -> OpenAIBackend:
    given = {"request_timeout": 1.0, "settle_seconds": SETTLE, "poll_seconds": 0.05}
    return OpenAIBackend(
        base_url=provider.url, profile="custom", api_key=provider.api_key, **given | options
    )


def test_a_refusal_says_who_holds_what(home: Path, train_file: Path) -> None:
    """The cap, what was spent, what is reserved and by which job, and the command to raise it; a
    free job and the same submit again still go."""
    with Provider(pace=3600) as provider:
        gateway = Gateway(monthly_usd=Decimal("0.01"))
        backend = hosted(provider)

        def submit(seed: int) -> Any:
            return gateway.submit(
                train_file, model=MODEL, backend=backend, train_price=PRICE, n_epochs=1, seed=seed
            )

        with pytest.raises(BudgetError, match=r"may cost .* USD, and 0.0100 of the 0.0100 for 20"):
            submit(1)
        assert gateway.jobs() == [] and provider.requests == []
        high = one_job(home, train_file.parent / "one")
        gateway = Gateway(monthly_usd=float(high) * 1.5)
        job = submit(1)
        with pytest.raises(BudgetError) as caught:
            submit(2)
        usd = dollars(gateway.budget().reserved_usd)
        assert f"0.00 spent, {usd} reserved ({job.id} {usd} reserved)" in str(caught.value)
        assert "ftg config set budget.monthly_usd" in caught.value.hint
        assert submit(1).id == job.id and len(provider.jobs) == 1
        assert gateway.submit(train_file, model="m", backend="fake").wait().status == "succeeded"
        locks = {path.stem for path in (home / "locks").glob("*.submit")}
        assert locks == {one.id for one in gateway.jobs()}, "a refused intent leaves nothing"


def test_an_ended_job_takes_what_it_cost(home: Path, train_file: Path) -> None:
    """The reservation becomes the actual cost: tokens of the host times the row of the job."""
    with Provider() as provider:
        gateway = Gateway(monthly_usd=100)
        job = gateway.submit(
            train_file, model=MODEL, backend=hosted(provider), train_price=PRICE, n_epochs=1
        )
        before, actual_before = gateway.budget(), job.actual
        assert before.spent_usd == 0 < before.reserved_usd and actual_before is None
        job.wait(30)
        found, after = job.actual, gateway.budget()
        assert found is not None and found.trained_tokens
        assert found.cost_usd == PRICE * found.trained_tokens / 1_000_000 == after.spent_usd
        assert after.reserved_usd == 0 and after.left_usd == 100 - after.spent_usd
        assert found.price is not None and found.price.usd == PRICE
        assert found.seconds is not None and job.record.finished_at is not None


def test_a_refused_job_and_one_never_sent_give_it_back(home: Path, train_file: Path) -> None:
    """A 400, a server that is down, and a cancel before the create: nothing is held."""
    with Provider() as provider:
        gateway, backend = Gateway(monthly_usd=100), hosted(provider)
        options: dict[str, Any] = {"model": MODEL, "train_price": PRICE}
        provider.fault(CREATE, "status", status=400)
        with pytest.raises(BackendError):
            gateway.submit(train_file, backend=backend, **options)
        assert gateway.budget().holds == ()
        provider.fault(CREATE, "status", status=429)
        job = gateway.submit(train_file, backend=backend, **options)
        assert job.provider_id is None and gateway.budget().reserved_usd > 0
        assert job.record.step == "intent" and job.phase
        assert job.cancel().status == "cancelled" and gateway.budget().holds == ()
        assert provider.posts["/fine_tuning/jobs"] == 2, "a cancel sends nothing first"
    with pytest.raises(BackendError):
        gateway.submit(train_file, backend=hosted(provider), **options)
    assert gateway.budget().holds == ()
    ends = {line.basis for line in gateway.costs().jobs}
    assert ends == {"nothing was created"}


def test_a_doubt_is_held_until_it_is_settled(home: Path, tmp_path: Path) -> None:
    """The answer to a create was lost: its share stays reserved. When the job turns out not to be
    there, the next submitter that needs the room gets it, and the job itself ends as not sent."""
    with Provider(pace=3600) as provider:
        backend = hosted(provider)
        high = one_job(home, tmp_path / "one")
        gateway = Gateway(monthly_usd=high * 3 / 2)

        def submit(number: int) -> Any:
            file = data_file(tmp_path, number)
            return gateway.submit(file, model=MODEL, backend=backend, train_price=PRICE, n_epochs=1)

        provider.fault(CREATE, "reset_before")
        doubtful = submit(1)
        assert doubtful.record.step == "creating"
        with pytest.raises(BudgetError, match=f"{doubtful.id} .* reserved"):
            submit(2)
        let_settle(home)
        admitted = submit(2)
        assert admitted.provider_id == provider.jobs[0]["id"]
        list(doubtful.watch(0, send=True))
        assert doubtful.status == "failed" and "Not sent: The job may cost" in doubtful.error
        assert len(provider.jobs) == 1


def test_a_doubt_that_was_created_is_honoured(home: Path, tmp_path: Path) -> None:
    """The submitter that needs the room finds the job at its host, and is refused."""
    with Provider(pace=3600) as provider:
        backend = hosted(provider)
        gateway = Gateway(monthly_usd=one_job(home, tmp_path / "one") * 3 / 2)
        options: dict[str, Any] = {"model": MODEL, "train_price": PRICE, "n_epochs": 1}
        provider.fault(CREATE, "reset_after")
        doubtful = gateway.submit(data_file(tmp_path, 1), backend=backend, **options)
        assert doubtful.provider_id is None
        let_settle(home)
        with pytest.raises(BudgetError):
            gateway.submit(data_file(tmp_path, 2), backend=backend, **options)
        assert gateway.job(doubtful.id).provider_id == provider.jobs[0]["id"]
        assert len(provider.jobs) == 1


def test_a_dead_submitters_room_comes_back(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while its file was being sent: nothing can have been created, so the room is free at
    once; what is left of the job ends with the reason when somebody waits for it."""
    row = {"backend": "custom", "model": MODEL, "unit": "train_mtok", "source": "a test"}
    write_price(home / "prices.toml", new_price(**row, usd=PRICE, as_of="2026-11-01"))
    with ProviderProcess(tmp_path, "--pace", 3600) as provider:
        monkeypatch.setenv("CHAOS_KEY", KEY)
        provider.fault("POST /files", "slow", seconds=0.5)
        process = start(SUBMIT, provider.url, data_file(tmp_path, 1))
        ready(process)
        until(lambda: provider.posts("/files"))
        dead = Gateway().jobs()[0]
        assert Gateway().budget().reserved_usd > 0, "alive, it holds its share"
        assert kill(process) and Gateway().budget().holds == ()
        assert dead.record.estimate is not None
        high = dead.record.estimate["cost_usd"]["high"]
        gateway = Gateway(monthly_usd=Decimal(high) * 3 / 2)
        # The dead job is asked for with this key, and waits as long as its requests may take.
        given: dict[str, Any] = {"profile": "custom", "settle_seconds": SETTLE}
        backend = OpenAIBackend(base_url=provider.url, api_key=KEY, **given)
        other = gateway.submit(data_file(tmp_path, 2), model=MODEL, backend=backend)
        assert other.provider_id
        let_settle(home)
        late = gateway.job(dead.id).wait(20)
        assert late.status == "failed" and other.id in str(late.error)
        assert provider.bought() == {other.id: 1}


def test_without_a_price_a_cap_cannot_be_kept(home: Path, train_file: Path) -> None:
    """A hosted model without a row is refused under a cap; a local one without a price counts as
    nothing."""
    with Provider() as provider:
        gateway = Gateway(monthly_usd=100)
        with pytest.raises(BudgetError, match="No price is known for 'unpriced'.*--train-price"):
            gateway.submit(train_file, model="unpriced", backend=hosted(provider))
        assert provider.requests == []
    gateway.submit(train_file, model="unpriced", backend="fake").wait()
    assert gateway.budget().holds == ()


@pytest.mark.parametrize("limit", [float("nan"), -1, True, "plenty"])
def test_a_limit_that_is_none_is_refused(home: Path, train_file: Path, limit: Any) -> None:
    """NaN compares false with everything: it would be no limit at all."""
    with pytest.raises(SpecError, match="cannot be"):
        Gateway().submit(train_file, model="m", backend="fake", max_cost_usd=limit)
    with pytest.raises(SpecError, match="cannot be"):
        Gateway(monthly_usd=limit).submit(train_file, model="m", backend="fake")


def test_a_month_is_a_calendar_month_in_utc() -> None:
    """Its first second is in, the first of the next is not; December ends in January."""
    inside = datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    assert month_of(inside) == (
        "2026-12",
        datetime(2026, 12, 1, tzinfo=UTC).timestamp(),
        datetime(2027, 1, 1, tzinfo=UTC).timestamp(),
    )
    assert month_of(inside + 1)[0] == "2027-01"


def test_another_month_is_another_budget(home: Path, train_file: Path) -> None:
    """Jobs of last month take nothing of this one."""
    gateway = Gateway(monthly_usd=100)
    with Provider(pace=3600) as provider:
        job = gateway.submit(
            train_file, model=MODEL, backend=hosted(provider), train_price=PRICE, n_epochs=1
        )
    _, start_, _ = month_of(time.time())
    with gateway.store.transaction() as db:
        db.execute("UPDATE jobs SET created_at = ? WHERE id = ?", (start_ - 1, job.id))
    assert gateway.budget().holds == ()
    with gateway.store.transaction() as db:
        db.execute("UPDATE jobs SET created_at = ? WHERE id = ?", (start_, job.id))
    assert [hold.job_id for hold in gateway.budget().holds] == [job.id]


def an_estimate(high: str | None, *, leaves: bool = True) -> Estimate:
    usd = (
        None
        if high is None
        else Range[Decimal](low=Decimal(0), expected=Decimal(0), high=Decimal(high))
    )
    return Estimate(
        backend="openai", model="m", method="sft", n_epochs=1, n_epochs_rule="given",
        cost_usd=usd, data_leaves_machine=leaves,
    )  # fmt: skip


def test_amounts_that_look_equal_are_shown_in_full() -> None:
    """20.001 over a limit of 20 would read 20.00 over 20.00."""
    with pytest.raises(BudgetError, match=r"cost 20\.001 USD, over the limit of 20\."):
        require_within(an_estimate("20.001"), Decimal(20))


def test_a_job_may_cost_exactly_what_is_left() -> None:
    """Of a month, and of its own limit."""
    usd = Range(low=Decimal(20), expected=Decimal(20), high=Decimal(20))
    month = Budget(month="2026-11", cap_usd=Decimal(20), holds=())
    require_room(usd, month, unpriced=None)
    require_within(an_estimate("20"), Decimal(20))
    with pytest.raises(BudgetError, match="may cost 20"):
        require_room(usd, month.model_copy(update={"cap_usd": Decimal("19.99")}), unpriced=None)


def test_a_limit_without_a_price_stops_hosted_jobs_only() -> None:
    """A run on this machine that nobody bills is not held by a limit that cannot be checked."""
    require_within(an_estimate(None, leaves=False), Decimal(1))
    with pytest.raises(BudgetError, match="No price is known"):
        require_within(an_estimate(None), Decimal(1))
