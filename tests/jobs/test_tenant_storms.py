"""Storms of two accounts at one home, and of two tenants in one process: nothing crosses."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.chaos import killed_after, killed_at_line, lines_of
from support.provider import CREATE, Provider
from support.rows import chat_rows
from support.traces import traces

from finetune_gateway import (
    Backend,
    FakeBackend,
    Gateway,
    GatewayError,
    Job,
    JobNotFinished,
    JobStatus,
    LocalBackend,
    OpenAIBackend,
)
from finetune_gateway.jobs.budget import Quote, never_created

MODEL = "gpt-4.1-mini-2025-04-14"
MINE = "sk-test-0123456789abcdef"
THEIRS = "sk-test-other-6789abcdef"  # of another account

LOCAL = 3  # trainings on this machine of a tenant
SECONDS = float(os.environ.get("FTG_STORM_SECONDS", "600"))  # read here: tests have no FTG_...
NEWEST = 12  # jobs that one act looks at

Enough = Callable[[int], bool]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(steps=1, begins=1, keys={THEIRS: "other"}) as provider:
        yield provider


def wire(provider: Provider, key: str | None, **options: Any) -> OpenAIBackend:
    """A host that settles quickly, with a key by value."""
    given = {"request_timeout": 1.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    place = {"base_url": provider.url, "profile": "custom", "api_key": key}
    return OpenAIBackend(**{**given, **place, **options})


def asked_by(provider: Provider, job: Job) -> set[str]:
    """The keys with which this job was asked for at the host."""
    return {
        headers["authorization"].removeprefix("Bearer ")
        for _, path, headers in provider.requests
        if job.provider_id and job.provider_id in path
    }


# -- every order of submit, kill and look --------------------------------------------------


def act(action: str, job: Job, provider: Provider, file: Path) -> None:
    """What the process of the other account does, whose Gateway has the same home."""
    theirs = Gateway(job.store.settings.home)
    with suppress(GatewayError):
        if action == "submit":
            theirs.submit(
                file, model=MODEL, backend=wire(provider, THEIRS), seed=job.record.spec.seed
            )
        elif action == "budget":
            poor = Gateway(job.store.settings.home, monthly_usd=0.0001)
            poor.submit(file, model=MODEL, backend=wire(provider, THEIRS), train_price=1)
        else:
            seen = theirs.job(job.id, backend=wire(provider, THEIRS))
            getattr(seen, action)(**({"timeout": 0.02} if action in ("wait", "result") else {}))


def require_whole(job: Job, provider: Provider, said: object) -> None:
    """It is at most once at the host, in its own account, and ends as never created only there
    where it never was."""
    there = [one for one in provider.jobs if tag(one) == job.id]
    assert len(there) <= 1 and all(one["account"] == "main" for one in there), said
    assert not there or not never_created(job.reload().record), said


def tag(job: dict[str, Any]) -> str:
    """Our id of a job of the provider."""
    return str(job["request"]["metadata"]["ftg_job_id"])


ACTIONS = ("refresh", "wait", "cancel", "resume", "result", "submit", "budget")


def follow(orders: Iterable[tuple[str, ...]], home: Path, file: Path, provider: Provider) -> int:
    """Let a job be sent, or lose its answer, for each order of what the other account does; the
    own account ends it. Return the number of orders."""
    count = 0
    for order in orders:
        for kind in ("sent", "lost"):
            count += 1
            if kind == "lost":
                provider.fault(CREATE, "reset_after")
            mine = Gateway(home)
            job = mine.submit(file, model=MODEL, backend=wire(provider, MINE), seed=count)
            for action in order:
                act(action, job, provider, file)
                require_whole(job, provider, (kind, order, action))
            seen = Gateway(home).job(job.id, backend=wire(provider, MINE))
            with suppress(JobNotFinished):  # cancelled by nobody: the other account may not
                assert seen.wait(20).status is JobStatus.SUCCEEDED, (kind, order)
            require_whole(job, provider, (kind, order))
    return count


def test_orders_of_two_accounts(home: Path, train_file: Path, provider: Provider) -> None:
    """Whatever the other account's process does with a job that is sent or in doubt: it stays in
    its account, is bought once, and its own key ends it."""
    order = tuple(random.Random(7).sample(ACTIONS, len(ACTIONS)))
    assert follow([order], home, train_file, provider) == 2
    mine = {tag(job) for job in provider.jobs if job["account"] == "main"}
    assert len(mine) == 2


@pytest.mark.chaos
def test_all_orders_of_two_accounts(tmp_path: Path, train_file: Path) -> None:
    """The same for all orders of two, and for each alone in its home, where nothing shows whose a
    key is; at hosts that keep no tags too."""
    worlds: list[dict[str, Any]] = [{}, {"metadata": "null"}]
    for number, world in enumerate(worlds):
        with Provider(steps=1, begins=1, keys={THEIRS: "other"}, **world) as provider:
            if not world:
                pairs = itertools.permutations(ACTIONS, 2)
                follow(pairs, tmp_path / "all", train_file, provider)
            for place, order in enumerate(itertools.product(ACTIONS, repeat=1)):
                follow([order], tmp_path / f"{number}-{place}", train_file, provider)


@pytest.mark.chaos
def test_submitters_are_killed_at_every_line(tmp_path: Path, train_file: Path) -> None:
    """A submit of one account dies at a line, from its first to its last; the other account looks;
    the own one ends it. Kills fall before a job is stored, before it is bought, and after."""
    outcomes: Counter[str] = Counter()
    with Provider(steps=1, begins=1, keys={THEIRS: "other"}) as provider:

        def submit(home: Path) -> None:
            Gateway(home).submit(train_file, model=MODEL, backend=wire(provider, MINE))

        last = lines_of(partial(submit, tmp_path / "counted"))
        for line in [*range(5, last // 2, 31), *range(last // 2, last, 11)]:
            home, before = tmp_path / f"home-{line}", len(provider.jobs)

            def killed(home: Path = home, line: int = line) -> None:
                with killed_at_line(line):
                    submit(home)

            killed_after(killed)
            jobs = Gateway(home).jobs()
            there = {tag(job) for job in provider.jobs[before:]}
            assert there <= {job.id for job in jobs}, (line, "bought, and written down nowhere")
            outcomes["bought" if there else "stored" if jobs else "nothing"] += 1
            for job in jobs:
                for action in random.Random(line).sample(ACTIONS, 2):
                    act(action, job, provider, train_file)
                    require_whole(job, provider, (line, action))
                if not job.reload().status.final:
                    own = Gateway(home).job(job.id, backend=wire(provider, MINE))
                    assert own.wait(20).status is JobStatus.SUCCEEDED, line
                require_whole(job, provider, line)
    print(f"\nkilled at {outcomes.total()} of {last} lines: {dict(outcomes)}")
    assert min(outcomes[kind] for kind in ("nothing", "stored", "bought")) >= 5, outcomes


# -- two tenants, many threads -------------------------------------------------------------


class Tenant:
    """A home, a key, a price and a word that is in all of its data."""

    def __init__(self, folder: Path, name: str, account: str, key: str, usd: int) -> None:
        self.word, self.account, self.key, self.usd = f"word-of-{name}", account, key, usd
        self.files, self.home = folder / f"files-{name}", folder / f"home-{name}"
        self.files.mkdir()
        self.home.mkdir(mode=0o700)
        self.home.joinpath("prices.toml").write_text(
            f'[[price]]\nbackend = "openai"\nmodel = "{MODEL}"\nusd = {{ train_mtok = "{usd}" }}\n'
            'as_of = 2026-11-01\nsource = "the contract of this tenant"\n'
        )
        self.numbers = itertools.count()
        self.trainings = iter(range(LOCAL))
        self.gateway: Gateway

    def data(self) -> Path:
        """A new file, with the word of this tenant in each row."""
        path = self.files / f"{next(self.numbers)}.jsonl"
        rows = chat_rows(10)
        for row in rows:
            row["messages"][0]["content"] += f" {self.word} {path.stem}."
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    def act(self, draw: random.Random, places: dict[str, Backend], common: Path) -> None:
        """Do one of the things that a service does, with backend objects that all tenants share."""
        # Of all that there are, a look at everything by 32 threads would take longer and longer.
        known = self.gateway.jobs(limit=NEWEST)
        name, place = draw.choice([*places.items()])
        if name == "local" and next(self.trainings, None) is None:
            name, place = "fake", places["fake"]
        model = "builtin/tiny" if name == "local" else MODEL
        more: dict[str, Any] = {"max_steps": 1} if name == "local" else {}
        kind = draw.choice(("submit", "common", "look", "list", "estimate", "use", "end"))
        if kind == "submit" or not known:
            job = self.gateway.submit(self.data(), model=model, backend=place, **more)
            assert job.store.settings.home == self.home
        elif kind == "common":
            self.gateway.submit(common, model=model, backend=place, **more)
        elif kind == "look":
            self.gateway.job(draw.choice(known).id).refresh()
        elif kind == "list":
            assert self.gateway.refresh(known) == []
        elif kind == "estimate":
            hosted = self.gateway.estimate(common, model=MODEL, backend=places["hosted"])
            assert {price.usd for price in hosted.prices} == {self.usd}
        elif kind == "use":
            with self.gateway.use(timeout=7) as other:
                assert {one.id for one in known} <= {one.id for one in other.jobs()}
        else:
            others = [job for job in known if job.record.backend != "local"]
            with suppress(JobNotFinished):  # trainings on this machine wait for each other
                draw.choice(others or known).wait(60)


def storm(
    folder: Path, provider: Provider, places: dict[str, Backend], threads: int, enough: Enough
) -> list[Tenant]:
    """Let two tenants do things in as many threads until it is enough; return them, with all of
    their jobs ended."""
    common = folder / "common.jsonl"
    common.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(11)))
    tenants = [
        Tenant(folder, "one", "main", MINE, 11),
        Tenant(folder, "two", "other", THEIRS, 29),
    ]
    host = provider.url.split("/")[2]
    for tenant in tenants:
        tenant.gateway = Gateway(tenant.home, keys={host: tenant.key}, monthly_usd=1000)

    def work(number: int) -> int:
        draw, count = random.Random(number), 0
        while not enough(count):
            tenants[number % 2].act(draw, places, common)
            count += 1
        return count

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(work, range(threads)))
    assert done >= threads
    for tenant in tenants:
        for job in tenant.gateway.jobs():  # this host goes on with a job that is looked at
            job.wait(600)
    return tenants


def require_apart(tenants: list[Tenant], provider: Provider) -> None:
    """No job, file, price, budget, key or text of one tenant is where another one's are."""
    words = [tenant.word for tenant in tenants]
    for tenant in tenants:
        jobs = tenant.gateway.jobs()
        own = {job.id for job in jobs if job.record.hosted}
        there = [job for job in provider.jobs if job["account"] == tenant.account]
        assert {tag(job) for job in there} == own and len(there) == len(own)
        for file in provider.world.files.values():
            if file["account"] == tenant.account:
                assert not any(word in file["content"] for word in words if word != tenant.word)
        for job in jobs:
            assert job.status is JobStatus.SUCCEEDED, job.error
            quote = Quote.of(job.record)
            if job.record.hosted:
                assert quote.row is not None and quote.row.usd == tenant.usd
                assert asked_by(provider, job) <= {tenant.key}
        spent = sum((job.actual.cost_usd or 0 for job in jobs if job.actual), Decimal(0))
        budget = tenant.gateway.budget()
        assert budget.spent_usd == spent and budget.reserved_usd == 0
        for other in tenants:
            found = traces(tenant.home, other.word)
            assert (found != []) is (other is tenant), found
            assert not traces(tenant.home, other.key)
        tenant.gateway.close()


def test_two_tenants_in_many_threads(tmp_path: Path) -> None:
    """6 threads, a hosted and a fake backend object that both tenants share, and data that both
    have."""
    with Provider(steps=1, begins=1, keys={THEIRS: "other"}) as provider:
        hosted = wire(provider, None, profile="openai")
        places: dict[str, Backend] = {"hosted": hosted, "fake": FakeBackend()}
        tenants = storm(tmp_path, provider, places, 6, lambda count: count >= 4)
        require_apart(tenants, provider)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_two_tenants_in_32_threads(tmp_path: Path) -> None:
    """The same for ten minutes, with trainings on this machine among them. FTG_STORM_SECONDS=60
    shows as much on two cores that others use too."""
    end = time.monotonic() + SECONDS
    with Provider(steps=1, begins=1, keys={THEIRS: "other"}) as provider:
        hosted = wire(provider, None, profile="openai", request_timeout=30.0)
        places: dict[str, Backend] = {
            "hosted": hosted, "fake": FakeBackend(), "local": LocalBackend(),
        }  # fmt: skip
        tenants = storm(tmp_path, provider, places, 32, lambda count: time.monotonic() > end)
        require_apart(tenants, provider)
