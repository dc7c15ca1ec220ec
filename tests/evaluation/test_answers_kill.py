"""kill -9 of a comparison's requests: none is asked again but those in flight, figures add up."""

from __future__ import annotations

import os
import random
import signal
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.asked import BASES, RUN, ask_all, prompts
from support.chaos import ProviderProcess, kill, ready, start, until
from support.paths import TEST_PATH
from support.recordings import wide

from finetune_gateway import Gateway
from finetune_gateway.evaluation.answers import AskResult, settle
from finetune_gateway.jobs.journal import read_lines
from finetune_gateway.settings.home import Settings

AT_ONCE = 16
CHATS = "/chat/completions"
LATENCY = "[0.02, 0.1]"  # seconds of an answer
USD = {BASES[0]: (Decimal("0.4"), Decimal("1.6")), BASES[1]: (Decimal("2.5"), Decimal(10))}

# arguments: url, number of rows, the tests' folders, a limit in USD or ""
ASK = """
import sys
sys.path[:0] = sys.argv[3].split(":")
from support.asked import ask_all
print("ready", flush=True)
ask_all(sys.argv[1], int(sys.argv[2]), sys.argv[4] or None)
"""


def charged(report: dict[str, Any]) -> Decimal:
    """What the provider has sold, at the prices of chats."""
    total = Decimal(0)
    for one in report["charges"]:
        usd_in, usd_out = USD[one["model"]]
        total += (one["prompt_tokens"] * usd_in + one["completion_tokens"] * usd_out) / 10**6
    return total


def lines(home: Path, name: str) -> list[dict[str, Any]]:
    return [
        line for path in (home / "answers").glob(f"*/{name}.jsonl") for line in read_lines(path)
    ]


def check(home: Path, report: dict[str, Any], done: AskResult, count: int, kills: int) -> None:
    """Hold what was kept against what the provider has seen."""
    assert len(done.answers) == 2 * count
    texts = {prompt.id: prompt.messages[-1]["content"] for prompt in prompts(count)}
    for (model, row, _), answer in done.answers.items():
        assert answer.text == f"{model} heard: {texts[row]}", answer
    failed = {(one["id"], one["attempt"], one["charge"]) for one in lines(home, "errors")}
    answered = {(one["id"], one["attempt"], one["charge"]) for one in lines(home, "answers")}
    requests = lines(home, "requests")
    attempts = {(one["id"], one["attempt"], one["charge"]): one for one in requests}
    cut_off = [one for key, one in attempts.items() if key not in failed | answered]
    sold = sum(report["asked"].values())
    assert len(answered) == 2 * count and len(cut_off) <= AT_ONCE * kills
    # Whatever was sold twice was in flight at a kill, or has an error.
    assert sold - 2 * count <= len(cut_off) + len(failed)
    budget = Gateway().budget()
    assert budget.reserved_usd == 0 and budget.spent_usd >= charged(report) and wide(home) == []
    most = sum((Decimal(one["usd"]) for one in cut_off), Decimal(0))
    lost = sum((Decimal(one["usd"]) for one in lines(home, "errors")), Decimal(0))
    known = sum((Decimal(one["usd"]) for one in lines(home, "answers")), Decimal(0))
    assert budget.spent_usd == known + lost + most
    print(f"sold {sold} of {2 * count}, in flight {len(cut_off)}, failed {len(failed)}")
    assert kills == 0 or cut_off


def test_killed_twice(home: Path, tmp_path: Path) -> None:
    """While two models are asked; here by forks of this process, whose modules are loaded."""
    with ProviderProcess(tmp_path, "--set", f"latency={LATENCY}") as p:
        for _ in range(2):
            due = p.posts(CHATS) + 15
            child = os.fork()
            if child == 0:
                ask_all(p.url, 30)
                os._exit(1)  # it was not killed
            until(lambda: p.posts(CHATS) >= due)  # noqa: B023
            os.kill(child, signal.SIGKILL)
            assert os.waitpid(child, 0)[1] == signal.SIGKILL
        until(p.idle)
        done = ask_all(p.url, 30)
        check(home, p.report(), done, 30, 2)
    assert 0 < done.again <= AT_ONCE


@pytest.mark.chaos
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_twenty_times_under_faults(home: Path, tmp_path: Path, seed: int) -> None:
    """429, 500, cut streams, slow ones, lost connections: none is missing in the end, and none is
    asked again but those in flight and those that failed."""
    draw, count, done = random.Random(seed), 150, 0
    kinds = "busy=.05,error_after=.05,cut=.08,slow=.05,reset_after=.05,refuse=.05"
    words = ("--chaos", kinds, "--chaos-on", f"POST {CHATS}", "--fault-seconds", "0.05")
    with ProviderProcess(tmp_path, "--set", f"latency={LATENCY}", *words) as p:
        for number in range(20):
            process = start(ASK, p.url, count, TEST_PATH, "")
            ready(process)
            due = p.posts(CHATS) + draw.randint(0, 4 * count // 22) + (number < 2)
            until(lambda: p.posts(CHATS) >= due or process.poll() is not None)  # noqa: B023
            done += kill(process)
        until(p.idle)
        found = ask_all(p.url, count)
        while any(
            answer.error for answer in found.answers.values()
        ):  # a fault three times in a row
            found = ask_all(p.url, count)
            assert found.again == 0
        check(home, p.report(), found, count, 20)
    assert done == 20


@pytest.mark.chaos
def test_a_limit_holds_over_twenty_kills(home: Path, tmp_path: Path) -> None:
    """What was in flight counts at its most: all runs together never pass the limit."""
    limit = Decimal("0.3")
    kinds = "busy=.05,error_after=.05,cut=.08"
    words = ("--chaos", kinds, "--chaos-on", f"POST {CHATS}", "--fault-seconds", "0.05")
    with ProviderProcess(tmp_path, "--set", f"latency={LATENCY}", *words) as p:
        for _ in range(20):
            due = p.posts(CHATS) + 8
            process = start(ASK, p.url, 400, TEST_PATH, str(limit))
            ready(process)
            until(lambda: p.posts(CHATS) >= due or process.poll() is not None)  # noqa: B023
            kill(process)
        until(p.idle)
        settle(Settings.load(), RUN)
        report = p.report()
    spent = Gateway().budget().spent_usd
    print(f"limit {limit}, counted {spent}, charged {charged(report)}, posts {report['posts']}")
    assert 0 < charged(report) <= spent <= limit
