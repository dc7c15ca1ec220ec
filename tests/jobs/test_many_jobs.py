"""Many jobs at once: one list instead of a request each, and lists are not believed too far."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.fleet import KEY, asked, bind, end, running, stored
from support.hosted import EVENTS, LIST, MODEL, RETRIEVE
from support.provider import CREATE, Fault, Provider

from finetune_gateway import (
    BackendError,
    FakeBackend,
    Gateway,
    JobNotFinished,
    JobStatus,
    OpenAIBackend,
)
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.cli import main
from finetune_gateway.jobs import groups
from finetune_gateway.settings.files import try_lock
from finetune_gateway.settings.home import Settings

LONG = 20  # steps of a job that does not end by being looked at a few times


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the providers."""
    monkeypatch.setenv(KEY, "sk-test-0123456789abcdef")
    monkeypatch.setenv("OTHER_KEY", "sk-other")


@pytest.fixture
def gateway(home: Path) -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.store.close()


# -- one pass ----------------------------------------------------------------------------


def test_500_jobs_are_asked_for_at_once(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """``ftg list --refresh`` with 500 running jobs, beside 20 that have ended: at most 10 requests
    over one connection, and the table of before."""
    with Provider(steps=LONG) as provider:
        running(provider, gateway.store, 20, status="succeeded")
        running(provider, gateway.store, 500)
        assert main(["list", "--limit", "2"]) == 0
        before = capsys.readouterr().out
        assert main(["list", "--limit", "2", "--refresh"]) == 0
        assert capsys.readouterr().out == before
        assert len(provider.requests) <= 10
        assert provider.server.accepted == 1


def test_a_job_that_has_moved_is_polled(gateway: Gateway) -> None:
    """Of 150 jobs 3 have ended and 2 go on as another status: these get their events, checkpoints,
    result; nobody asks for those of the others."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 148)
        made += running(provider, gateway.store, 2, status="queued", raw_status="queued")
        end(provider, *made[:3])
        assert gateway.refresh() == []
        assert asked(provider) == {"list": 2, "job": 5, "events": 5, "checkpoints": 5}
        assert stored(gateway) == {"running": 147, "succeeded": 3}
        ended = gateway.job(made[0])
        assert ended.record.result is not None and ended.checkpoints() and ended.events()
        assert gateway.job(made[-1]).events() and not gateway.job(made[5]).events()


def test_a_status_that_many_jobs_reach_is_stored_without_events(gateway: Gateway) -> None:
    """30 jobs that were queued are running: one request. Their events come with a poll."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 30, status="queued", raw_status="queued")
        assert gateway.refresh() == []
        assert asked(provider) == {"list": 1} and stored(gateway) == {"running": 30}
        assert gateway.job(made[0]).refresh().events()


def test_jobs_that_are_not_sent_are_sent_by_wait_alone(gateway: Gateway, train_file: Path) -> None:
    """A refresh looks for the one whose create was lost, and leaves it; a wait sends it."""
    with Provider() as provider:
        running(provider, gateway.store, 3)
        provider.fault(CREATE, "reset_before")
        options = gateway.jobs()[0].record.backend_options
        job = gateway.submit(train_file, model=MODEL, backend=OpenAIBackend(**options))
        time.sleep(0.05)
        sent = provider.posts["/fine_tuning/jobs"]
        assert gateway.refresh() == [] and provider.posts["/fine_tuning/jobs"] == sent
        assert gateway.job(job.id).record.unsent
        end(provider, *provider.world.jobs)
        assert gateway.wait(gateway.jobs(), 20) == []
        assert provider.posts["/fine_tuning/jobs"] == sent + 1
        assert stored(gateway) == {"succeeded": 4}


def test_a_host_that_runs_few_jobs_gets_them_in_order(
    gateway: Gateway, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five jobs at a host that runs two at a time: a wait for all sends each once, oldest first,
    and shows other processes the oldest."""
    monkeypatch.setattr(groups, "SHOWN", 1)
    with Provider(running_limit=2, pace=99.0, steps=1) as provider:
        hosted: dict[str, Any] = {"base_url": provider.url, "api_key_env": KEY}
        backend = OpenAIBackend(**hosted, profile="custom", poll_seconds=0.005, settle_seconds=0.03)
        jobs = [
            gateway.submit(train_file, model=MODEL, backend=backend, seed=seed) for seed in range(5)
        ]
        assert sum(job.record.waits_here for job in jobs) == 3
        provider.world.pace = 0.02
        assert gateway.wait(reversed(jobs), 20) == [] and stored(gateway) == {"succeeded": 5}
        assert [made["request"]["seed"] for made in provider.jobs] == [0, 1, 2, 3, 4]


# -- lists that cannot be believed -------------------------------------------------------

WORLDS: list[dict[str, Any]] = [
    {"jobs_newest_first": False},
    {"honours_after": False},
    {"page_size": 7},
    {"jobs_newest_first": False, "page_size": 7, "honours_after": False},
    {"hides": ("created_at", "finished_at", "metadata", "training_file")},
]


@pytest.mark.parametrize("world", WORLDS)
def test_order_and_pages_of_a_list_do_not_matter(gateway: Gateway, world: dict[str, Any]) -> None:
    """Oldest first, ``after`` ignored, small pages, no times: each of 18 jobs has its status."""
    with Provider(steps=LONG, **world) as provider:
        running(provider, gateway.store, 4, status="succeeded")
        made = running(provider, gateway.store, 18)
        end(provider, *made[::6])
        assert gateway.refresh() == []
        assert stored(gateway) == {"succeeded": 7, "running": 15}


def test_a_list_without_has_more_is_read(gateway: Gateway) -> None:
    """The next page is asked for until nothing is missing."""
    with Provider(steps=LONG, page_size=10) as provider:
        running(provider, gateway.store, 25)
        provider.fault(LIST, *[Fault("overlay", body={"has_more": None})] * 9)
        assert gateway.refresh() == [] and asked(provider) == {"list": 3}


def test_strange_rows_hide_no_job(gateway: Gateway) -> None:
    """Rows that are no jobs, jobs of others, a job twice with two statuses, one without a status:
    the list is a hint, and polls tell."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 4)
        end(provider, made[1])
        rows: list[Any] = [
            None, "a text", 7, [made[0]], {"id": 5, "status": "failed"}, {"id": "a/../b"},
            {"id": "ftjob-of-another-account", "status": "failed"},
            {"id": made[0], "status": "running"},
            {"id": made[1], "status": "succeeded"}, {"id": made[1], "status": "running"},
            {"id": made[2], "status": ["running"]}, {"id": made[3], "status": "failed"}, {},
        ]  # fmt: skip
        provider.fault(LIST, Fault("body", body={"data": rows, "has_more": False}))
        assert gateway.refresh() == []
        assert asked(provider)["job"] == 3, "all but the first"
        assert gateway.job(made[1]).status is JobStatus.SUCCEEDED
        assert gateway.job(made[3]).status is JobStatus.RUNNING, "the poll counts, not the list"


def test_an_older_answer_moves_nothing(gateway: Gateway) -> None:
    """A list that lags behind costs no polls, and takes no job back."""
    with Provider(steps=LONG) as provider:
        running(provider, gateway.store, 20)
        provider.world.extra = {"status": "queued"}
        assert gateway.refresh() == [] and asked(provider) == {"list": 1}
        assert stored(gateway) == {"running": 20}


def test_an_unknown_word_is_asked_about_once(gateway: Gateway) -> None:
    """It is kept and shown, and the same word again is no news."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 6)
        provider.world.extra = {"status": "dreaming"}
        assert gateway.refresh() == [] and asked(provider)["job"] == 6
        since = len(provider.requests)
        assert gateway.job(made[0]).record.raw_status == "dreaming"
        assert gateway.job(made[0]).status is JobStatus.RUNNING
        assert gateway.refresh() == [] and asked(provider, since) == {"list": 1}
        provider.world.extra = {}
        assert gateway.refresh() == [] and stored(gateway) == {"running": 6}


def test_a_list_that_never_changes_is_found_out(gateway: Gateway) -> None:
    """Each pass polls one of the jobs that were not polled for ten minutes."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 3, polled_at=time.time() - 700)
        end(provider, *made)
        rows = [{"id": one, "status": "running"} for one in made]
        provider.fault(LIST, *[Fault("body", body={"data": rows, "has_more": False})] * 9)
        for ended in (1, 2, 3):
            assert gateway.refresh() == []
            assert stored(gateway)["succeeded"] == ended


def test_jobs_that_no_list_shows_are_asked_for_by_themselves(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many of them in a pass; the others stay as they are, and one message says so. A wait takes
    all of them in turns."""
    monkeypatch.setattr("finetune_gateway.jobs.many.SINGLES", 4)
    with Provider(steps=LONG) as provider:
        end(provider, *running(provider, gateway.store, 11))
        provider.world.list_lag = 60.0
        (failure,) = gateway.refresh()
        assert asked(provider)["list"] <= 2 and asked(provider)["job"] == 4
        assert len(failure.jobs) == 7 and "does not show them" in str(failure.error)
        assert stored(gateway) == {"succeeded": 4, "running": 7}
        assert gateway.wait(gateway.jobs(), 20) == [] and stored(gateway) == {"succeeded": 11}


@pytest.mark.parametrize(
    "fault",
    [Fault("status", status=403), Fault("status", status=500), Fault("html_ok"),
     Fault("body", body=[]), Fault("body", body={"data": "none"}), Fault("status", status=404)],
)  # fmt: skip
def test_without_a_list_each_job_is_asked_for(gateway: Gateway, fault: Fault) -> None:
    """A list that is refused or is no list says nothing; the jobs do."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 5)
        end(provider, made[3])
        fault.headers = {"x-should-retry": "false"}
        provider.fault(LIST, fault, fault, fault)
        assert gateway.refresh() == [] and asked(provider)["job"] == 5
        assert stored(gateway) == {"running": 4, "succeeded": 1}


@pytest.mark.parametrize("status", [401, 429])
def test_a_host_that_turns_us_away_is_not_asked_for_each_job(
    gateway: Gateway, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told once, with the number of jobs; the rows stay as they are."""
    with Provider(steps=LONG) as provider:
        running(provider, gateway.store, 50)
        final = {"x-should-retry": "false"}
        provider.fault(LIST, *[Fault("status", status=status, headers=final)] * 9)
        assert main(["list", "--refresh", "--limit", "1"]) == 0
        assert asked(provider)["job"] == 0 and stored(gateway) == {"running": 50}
        told = capsys.readouterr().err
        assert told.count("shown as last seen") == 1 and "and 48 more are" in told


def test_an_ended_job_whose_poll_fails_is_asked_for_again(gateway: Gateway) -> None:
    """An error of one job keeps no other; one of the host ends the pass, and loses nothing."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 6)
        end(provider, *made)
        provider.fault(RETRIEVE, Fault("status", status=403))
        (failure,) = gateway.refresh()
        assert len(failure.jobs) == 1 and stored(gateway) == {"succeeded": 5, "running": 1}
        assert gateway.refresh() == [] and stored(gateway) == {"succeeded": 6}


def test_a_host_that_asks_for_too_long_a_wait_ends_it(gateway: Gateway) -> None:
    """A day and an hour, by its list of jobs: more than is allowed."""
    with Provider() as provider:
        running(provider, gateway.store, 2)
        provider.fault(LIST, *["status"] * 9, status=429, headers={"retry-after": "90000"})
        (failure,) = gateway.wait(gateway.jobs(), 5)
        assert isinstance(failure.error, BackendError) and len(failure.jobs) == 2


# -- several hosts -----------------------------------------------------------------------


def test_a_host_that_does_not_answer_holds_up_no_other(gateway: Gateway) -> None:
    """The jobs of another host end meanwhile; at the end of its time the wait says what is left,
    once."""
    with Provider() as provider, socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        made = running(provider, gateway.store, 5)
        lost = running(provider, gateway.store, 5)
        bind(gateway.store, KEY, url)
        with gateway.store.transaction() as db:
            db.execute(
                "UPDATE jobs SET backend_options = json_set(backend_options, '$.base_url', ?,"
                f" '$.request_timeout', 60.0) WHERE provider_id IN ({','.join('?' * 5)})",
                (url, *lost),
            )
        for name in made[:2]:
            gateway.job(name).refresh()  # what is loaded for that is not of the time below
        end(provider, *made)
        ended: list[str] = []
        failures = gateway.wait(gateway.jobs(), 0.7, on_change=lambda job: ended.append(job.id))
        assert len(ended) == 5 and stored(gateway) == {"succeeded": 5, "running": 5}
        (failure,) = failures
        assert isinstance(failure.error, JobNotFinished) and len(failure.jobs) == 5


def test_a_host_that_is_down_is_told_once(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its 20 jobs are shown as last seen; those of the other host are up to date."""
    with Provider() as down:
        running(down, gateway.store, 20)
    with Provider() as provider:
        end(provider, *running(provider, gateway.store, 4))
        assert main(["list", "--refresh", "--limit", "1"]) == 0
        assert stored(gateway) == {"running": 20, "succeeded": 4}
        assert capsys.readouterr().err.count("Could not reach") == 1


def test_each_account_is_asked_with_its_key(gateway: Gateway) -> None:
    """Two keys at one host: two lists, and no job is asked for with the key of the other."""
    with Provider(steps=LONG, keys={"sk-other": "other"}) as provider:
        mine = running(provider, gateway.store, 5)
        theirs = running(provider, gateway.store, 5, "OTHER_KEY")
        for one in theirs:
            provider.world.jobs[one]["account"] = "other"
        end(provider, mine[0], theirs[0])
        assert gateway.refresh() == []
        assert asked(provider) == {"list": 2, "job": 2, "events": 2, "checkpoints": 2}
        for _, path, headers in provider.requests:
            wanted = "Bearer sk-other" if theirs[0] in path else "Bearer sk-test"
            assert len(path) < 20 or headers["authorization"].startswith(wanted)
        assert stored(gateway) == {"succeeded": 2, "running": 8}


def test_backends_that_were_built_one_by_one_share_a_list(
    gateway: Gateway, train_file: Path
) -> None:
    """Four jobs, each with a backend object and the key by value: one host, one account."""
    with Provider(pace=99.0) as provider:
        jobs = []
        for seed in range(4):
            backend = OpenAIBackend(
                base_url=provider.url, api_key=provider.api_key, profile="custom"
            )
            jobs.append(gateway.submit(train_file, model=MODEL, backend=backend, seed=seed))
        since = len(provider.requests)
        assert gateway.refresh(jobs) == []
        assert asked(provider, since) == {"list": 1} and provider.server.accepted == 1


def test_backends_without_a_list_are_polled_from_where_they_were(gateway: Gateway) -> None:
    """A plug-in that has no ``statuses`` of its own: one poll for each job, with its events."""
    backend = FakeBackend()
    for _ in range(3):
        data = [{"messages": [{"role": "user", "content": "a"},
                              {"role": "assistant", "content": "b"}]}] * 10  # fmt: skip
        gateway.submit(data, model="m", backend=backend, again=True)
    assert gateway.refresh() == [] and gateway.refresh() == []
    assert [len(job.events()) for job in gateway.jobs()] == [2, 2, 2]
    assert gateway.wait(gateway.jobs()) == [] and stored(gateway) == {"succeeded": 3}


def test_local_runs_are_read_by_one_query(home: Path) -> None:
    """As the rows say; one that is not there is left to a poll."""
    settings = Settings.load().create()
    backend, queue = LocalBackend(), Queue(settings)
    backend.bind(settings)
    assert try_lock(settings.locks / LOCK) is not None  # as if the dispatcher lived
    for name in ("waits", "works", "stopping", "ended"):
        queue.add(name)
    queue.folder("works").mkdir(parents=True)
    assert try_lock(queue.folder("works") / "worker.lock") is not None
    with queue.store.transaction() as db:
        db.execute("UPDATE runs SET status = 'running' WHERE id = 'works'")
        db.execute("UPDATE runs SET status = 'failed' WHERE id = 'ended'")
        db.execute("UPDATE runs SET cancel_at = 1 WHERE id = 'stopping'")
    told = backend.statuses(["waits", "works", "stopping", "ended", "never"])
    assert {name: shot.status.value for name, shot in told.items()} == {
        "waits": "queued",
        "works": "running",
        "stopping": "cancelling",
        "ended": "failed",
    }


def test_an_error_of_events_is_no_news(gateway: Gateway) -> None:
    """A pass asks for no events of a job that has not moved, so it meets none of their faults."""
    with Provider(steps=LONG) as provider:
        running(provider, gateway.store, 30)
        provider.fault(EVENTS, *[Fault("status", status=500)] * 90)
        assert gateway.refresh() == [] and len(provider.requests) == 1


# -- on the command line -----------------------------------------------------------------


def test_wait_for_many_on_the_command_line(
    gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line for each, in the order of the arguments; the exit code of the worst."""
    with Provider(steps=LONG) as provider:
        made = running(provider, gateway.store, 4)
        end(provider, *made[:3])
        ids = [gateway.job(one).id for one in made]
        assert main(["wait", *ids[:3], "-q"]) == 0
        assert capsys.readouterr().out.split() == [
            word for one in ids[:3] for word in (one, "succeeded")
        ]
        assert main(["wait", *ids, "--timeout", "0.1s", "--json"]) == 101
        statuses = [one["status"] for one in json.loads(capsys.readouterr().out)]
        assert statuses == ["succeeded"] * 3 + ["running"]
        provider.fault(RETRIEVE, *[Fault("status", status=401)] * 9)
        provider.fault(LIST, *[Fault("status", status=401)] * 9)
        running(provider, gateway.store, 1)
        rest = [job.id for job in gateway.jobs(status="running")]
        assert main(["wait", *rest]) == 5 and "refused" in capsys.readouterr().err


# -- what it takes -----------------------------------------------------------------------

MEASURE = """
import os, re, sys
from finetune_gateway import Gateway

gateway = Gateway()
jobs = gateway.jobs()
assert gateway.refresh(jobs) == []
assert [job.refresh() for job in jobs[:int(sys.argv[1])]]
assert len(gateway.jobs()) == len(jobs)
if len(sys.argv) > 2:
    assert gateway.wait(jobs) == []
# Not ru_maxrss: a new process begins with that of the one that started it.
peak = re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]
print(len(os.listdir("/proc/self/fd")), int(peak) // 1024)
"""


def measure(*args: str) -> tuple[int, int]:
    """Return the descriptors and the MB of a process that opens, refreshes and lists all jobs."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *args], capture_output=True, text=True, check=True
    )
    descriptors, megabytes = done.stdout.split()
    return int(descriptors), int(megabytes)


@pytest.mark.chaos
def test_hundreds_of_jobs_in_one_process(gateway: Gateway) -> None:
    """60 jobs, 5 of them also refreshed one by one: less than 64 descriptors and 300 MB."""
    with Provider(steps=LONG) as provider:
        running(provider, gateway.store, 60)
        descriptors, megabytes = measure("5")
        assert descriptors < 64 and megabytes < 300
        assert provider.server.accepted <= 2


@pytest.mark.chaos
def test_thousands_of_jobs_in_one_process(gateway: Gateway) -> None:
    """2,000 jobs, all refreshed, opened, listed, each refreshed by itself and waited for: less than
    256 descriptors and 300 MB, one connection."""
    with Provider(steps=LONG) as provider:
        running(provider, gateway.store, 2000)
        end(provider, *provider.world.jobs)
        descriptors, megabytes = measure("2000", "wait")
        print(f"{descriptors} descriptors, {megabytes} MB, {len(provider.requests)} requests")
        assert descriptors < 256 and megabytes < 300
        assert provider.server.accepted <= 2
        assert stored(gateway) == {"succeeded": 2000}


def test_errors_are_typed(gateway: Gateway) -> None:
    """A backend that cannot be loaded keeps no other from being asked."""
    with Provider(steps=LONG) as provider:
        end(provider, *running(provider, gateway.store, 3))
        running(provider, gateway.store, 2, backend="gone")
        (failure,) = gateway.refresh()
        assert len(failure.jobs) == 2 and not isinstance(failure.error, BackendError)
        assert stored(gateway) == {"succeeded": 3, "running": 2}
