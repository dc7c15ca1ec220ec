"""kill -9 of a recording: nothing is asked again but what was in flight, figures add up."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.chaos import KEY, ProviderProcess, kill, ready, start, until
from support.paths import TEST_PATH
from support.recordings import USD_IN, USD_OUT, charge, rows, wide

from finetune_gateway import Gateway, OpenAIBackend, evaluation
from finetune_gateway.evaluation import Recording
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.journal import read_lines
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

AT_ONCE = 16
CHATS = "/chat/completions"
LATENCY = "[0.02, 0.1]"  # seconds of an answer

# arguments: url, model, file, and "batch" for a batch
RECORD = """
import json, os, sys
from finetune_gateway import evaluation
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.evaluation import batches, planning, recorder
backend = OpenAIBackend(base_url=sys.argv[1], api_key=os.environ["CHAOS_KEY"], profile="openai",
                        request_timeout=2.0, poll_seconds=0.05, settle_seconds=0.6)
batch = "batch" in sys.argv
limit = next((word[6:] for word in sys.argv if word.startswith("limit=")), None)
print("ready", flush=True)
done = evaluation.record(sys.argv[2], sys.argv[3], backend=backend, name="k", batch=batch,
                         wait=batch, max_cost_usd=limit)
print(json.dumps({"again": done.run.again, "answers": done.run.answers}))
"""


def model_of(provider: ProviderProcess) -> str:
    headers = {"Authorization": f"Bearer {KEY}"}
    listed = httpx.get(f"{provider.url}/models", headers=headers).json()["data"]
    return next(str(one["id"]) for one in listed if one["id"].startswith("ft:"))


def file_of(folder: Path, count: int) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(count)))
    return path


def charged(report: dict[str, Any]) -> Decimal:
    """What the provider has sold, at the prices of chats."""
    tokens = ((one["prompt_tokens"], one["completion_tokens"]) for one in report["charges"])
    usd_in, usd_out = Decimal(str(USD_IN)), Decimal(str(USD_OUT))
    return sum(((read * usd_in + wrote * usd_out) / 10**6 for read, wrote in tokens), Decimal(0))


def check(home: Path, report: dict[str, Any], count: int, kills: int) -> dict[str, int]:
    """Hold a recording that was finished against what the provider has seen, and return the
    figures."""
    recording = Recording.load("recorded:k")
    answers = [*recording.answers()]
    assert len(answers) == count == len({one.row for one in answers})
    prompts = {prompt.id: prompt.messages[-1]["content"] for prompt in recording.prompts()}
    assert all(one.text.endswith(prompts[one.row]) for one in answers)
    requests = [*read_lines(recording.folder / "requests.jsonl")]
    failed = {
        (line["id"], line["attempt"]) for line in read_lines(recording.folder / "errors.jsonl")
    }
    answered = {
        line["id"]: line["attempt"] for line in read_lines(recording.folder / "answers.jsonl")
    }
    ended = {*failed, *answered.items()}
    cut_off = [line for line in requests if (line["id"], line["attempt"]) not in ended]
    sold = sum(report["asked"].values())
    assert len(cut_off) <= AT_ONCE * kills
    # Whatever was sold twice was written down twice, and was in flight at a kill or has an error.
    assert sold - count <= len(cut_off) + len(failed)
    most = sum((Decimal(line["usd"]) for line in cut_off), Decimal(0))
    spent = Gateway().budget().spent_usd
    assert Gateway().budget().reserved_usd == 0 and wide(home) == []
    if not failed:
        known = sum((one.usd or Decimal(0) for one in answers), Decimal(0))
        assert spent == known + most and spent >= charged(report)
    return {"sold": sold, "in_flight": len(cut_off), "failed": len(failed)}


def storm(home: Path, folder: Path, count: int, kills: int, seed: int, *words: str) -> None:
    """Kill a recording so many times while it asks, then let it end."""
    draw, file = random.Random(seed), file_of(folder, count)
    done = 0
    with ProviderProcess(folder, "--fine-tunes", "1", "--set", f"latency={LATENCY}", *words) as p:
        model = model_of(p)
        for number in range(kills):
            process = start(RECORD, p.url, model, file)
            ready(process)
            due = p.posts(CHATS) + draw.randint(0, 3 * count // (2 * (kills + 2))) + (number < 2)
            until(lambda: p.posts(CHATS) >= due or process.poll() is not None)  # noqa: B023
            done += kill(process)
        until(p.idle)
        last = finish(p.url, model, file)
        while [*Recording.load("k").errors()]:  # a fault three times in a row
            assert finish(p.url, model, file) == 0
        figures = check(home, p.report(), count, kills)
    print(f"kills {done} of {kills}, again {last}, {figures}")
    assert done == kills and figures["in_flight"] > 0


def finish(url: str, model: str, file: Path) -> int:
    """Record what is left in this process; return what is said to be asked again."""
    backend = OpenAIBackend(base_url=url, api_key=KEY, profile="openai")
    done = evaluation.record(model, file, backend=backend, name="k")
    assert done.run is not None and not done.run.stopped
    return done.run.again


def test_killed_twice(home: Path, tmp_path: Path) -> None:
    """While it asks; here by forks of this process, whose modules are loaded."""
    file = file_of(tmp_path, 100)
    with ProviderProcess(tmp_path, "--fine-tunes", "1", "--set", f"latency={LATENCY}") as p:
        model = model_of(p)
        for _ in range(2):
            due = p.posts(CHATS) + 20
            child = os.fork()
            if child == 0:
                finish(p.url, model, file)
                os._exit(1)  # it was not killed
            until(lambda: p.posts(CHATS) >= due)  # noqa: B023
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
        until(p.idle)
        again = finish(p.url, model, file)
        figures = check(home, p.report(), 100, 2)
    assert 0 < again <= AT_ONCE and figures["in_flight"] > again


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_twenty_times(home: Path, tmp_path: Path, seed: int) -> None:
    """Of 500 prompts none is missing, and none is asked again but those in flight."""
    storm(home, tmp_path, 500, 20, seed)


@pytest.mark.chaos
def test_killed_twenty_times_under_faults(home: Path, tmp_path: Path) -> None:
    """429, 500, cut bodies, slow ones, lost connections."""
    kinds = "busy=.05,error_after=.05,cut=.05,slow=.05,reset_after=.05,refuse=.05"
    words = ("--chaos", kinds, "--chaos-on", "POST /chat/completions", "--fault-seconds", "0.05")
    storm(home, tmp_path, 300, 20, 3, *words)


@pytest.mark.chaos
def test_a_limit_holds_over_twenty_kills(home: Path, tmp_path: Path) -> None:
    """What was in flight counts at its most: all runs together never pass the limit."""
    file, limit = file_of(tmp_path, 400), 3
    with ProviderProcess(tmp_path, "--fine-tunes", "1", "--set", f"latency={LATENCY}") as p:
        model = model_of(p)
        for _ in range(20):
            due = p.posts(CHATS) + 8
            process = start(RECORD, p.url, model, file, f"limit={limit}")
            ready(process)
            until(lambda: p.posts(CHATS) >= due or process.poll() is not None)  # noqa: B023
            kill(process)
        until(p.idle)
        evaluation.settle("k")
        report = p.report()
    spent = Gateway().budget().spent_usd
    print(f"limit {limit}, counted {spent}, charged {charged(report)}, posts {report['posts']}")
    assert 0 < charged(report) <= spent <= Decimal(str(limit))


# -- batches -------------------------------------------------------------------------------------


def killed_batch(folder: Path, kills: int, seed: int) -> dict[str, int]:
    draw, file = random.Random(seed), file_of(folder, 40)
    with ProviderProcess(folder, "--fine-tunes", "1") as p:
        model = model_of(p)
        for number in range(kills):
            if number < 3:
                endpoint = ("POST /files", "POST /batches", "GET /files/*/content")[number]
                p.fault(endpoint, "late", seconds=0.5)
            process = start(RECORD, p.url, model, file, "batch")
            ready(process)
            time.sleep(draw.uniform(0.1, 0.6))
            kill(process)
            until(p.idle)
        process = start(RECORD, p.url, model, file, "batch")
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        report = p.report()
    assert len([*Recording.load("k").answers()]) == 40
    assert {*report["asked"].values()} == {1} and len(report["asked"]) == 40
    assert Gateway().budget().reserved_usd == 0
    return {"batches": len(report["batches"]), "files": report["files"]}


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2])
def test_a_batch_killed_twenty_times_is_bought_once(home: Path, tmp_path: Path, seed: int) -> None:
    """At its upload, at its create, while its answers are fetched, and anywhere."""
    figures = killed_batch(tmp_path, 20, seed)
    print(figures)
    assert figures["batches"] == 1


# -- the month, with jobs of other processes -------------------------------------------------------

# arguments: number of jobs, each of 1 USD; the cap is 10
SUBMIT_JOBS = """
import sys
sys.path[:0] = sys.argv[2].split(":")
from support.records import record
from finetune_gateway import Gateway, BudgetError
gateway = Gateway(monthly_usd=10)
cost = {"low": "0", "expected": "1", "high": "1"}
print("ready", flush=True)
for _ in range(int(sys.argv[1])):
    one = record(hosted=True, provider_id=None, step="creating",
                 estimate={"cost_usd": cost, "prices": []})
    try:
        gateway.store.add(one, lambda: gateway._submitter.reserve(one))
    except BudgetError:
        pass
"""


def test_a_month_is_shared_with_jobs_of_another_process(home: Path) -> None:
    """Both take from it at the same time until nothing is left: never more than there was."""
    store = Store(Settings.load())
    charges.reserve(store, charge("1"), Decimal(10))  # there is one, whoever is faster
    process = start(SUBMIT_JOBS, 12, TEST_PATH)
    ready(process)

    def reserve() -> None:
        for _ in range(11):
            try:
                charges.reserve(store, charge("1"), Decimal(10))
            except Exception as exc:
                assert "may cost" in str(exc), exc

    thread = threading.Thread(target=reserve)
    thread.start()
    thread.join()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    found = Gateway(monthly_usd=10).budget()
    assert found.reserved_usd == 10 and os.environ["FTG_HOME"] == str(home)
    assert any(hold.job_id.startswith("recorded:") for hold in found.holds)
