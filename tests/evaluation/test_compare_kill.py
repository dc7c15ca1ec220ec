"""kill -9 of whole comparisons: rows, checks that ask on, the judge, the report."""

from __future__ import annotations

import json
import random
import subprocess
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support import chaos
from support.chaos import ProviderProcess, kill, until
from support.hosted import MODEL
from support.rederived import derived

from finetune_gateway import Gateway, OpenAIBackend
from finetune_gateway.evaluation.comparison import Comparison, ids
from finetune_gateway.jobs.journal import read_lines
from finetune_gateway.settings.home import Settings

Json = dict[str, Any]
AT_ONCE = 16
CHATS = "/chat/completions"
LATENCY = "latency=[0.02, 0.1]"
FAULTS = "busy=.05,error_after=.05,cut=.08,slow=.05,reset_after=.05,refuse=.05"
USD = {"ft:": (Decimal("0.8"), Decimal("3.2")), "gpt": (Decimal("0.4"), Decimal("1.6"))}
GUIDE = """
checks:
  - name: short
    length: {max_words: 60}
  - name: role
    stays_in_role: [override]
    rows: 1
  - name: keeps
    keeps_format: short
    turns: 2
    rows: 2
"""


def rows(count: int) -> list[Json]:
    return [
        {
            "messages": [
                {"role": "system", "content": "You answer for a parcel service."},
                {"role": "user", "content": f"Where is parcel {n} now?"},
                {"role": "assistant", "content": f"Parcel {n} is on its way."},
            ]
        }
        for n in range(count)
    ]


def write(path: Path, lines: list[Json]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return path


class Storm:
    """A comparison of a fine-tune with its base, judged by that, as a command that is killed."""

    def __init__(self, provider: ProviderProcess, folder: Path, count: int, *words: str) -> None:
        self.provider, self.count = provider, count
        backend = OpenAIBackend(
            base_url=provider.url, api_key_env="CHAOS_KEY", profile="openai", poll_seconds=0.05
        )
        train = write(folder / "train.jsonl", [*rows(2 * count)][-count:])
        job = Gateway().submit(train, model=MODEL, backend=backend)
        job.wait(timeout=60)
        data = write(folder / "held_out.jsonl", rows(count))
        guide = folder / "behaviour.yaml"
        guide.write_text(GUIDE, "utf-8")
        host = provider.root.partition("//")[2]
        self.command = ["compare", job.id, f"prompt:{job.id}", "--data", data, "--checks", guide]
        self.command += ["--judge", f"base:{job.id}", "--key-env", f"{host}=CHAOS_KEY", "--yes"]
        self.command += ["--max-tokens", "40", "--json", *words]
        self.trained, self.asked = Gateway().budget().spent_usd, self._sold()

    def begin(self) -> subprocess.Popen[str]:
        return chaos.ftg(*self.command)

    def end(self) -> tuple[int, Json, str]:
        """Run it to its end; return the exit code, what it says, and its errors."""
        process = self.begin()
        out, err = process.communicate(timeout=240)
        return process.returncode, json.loads(out) if out.startswith("{") else {}, err

    def _sold(self) -> int:
        return sum(self.provider.report()["asked"].values())

    def kills(self, count: int, seed: int, sold: int) -> int:
        """Kill it so many times, anywhere from its start to its end; return how many hit it."""
        draw, done = random.Random(seed), 0
        for number in range(count):
            process = self.begin()
            due = self.provider.posts(CHATS) + draw.randint(0, 2 * sold // count)
            until(lambda: self.provider.posts(CHATS) >= due or process.poll() is not None)  # noqa: B023
            if number % 5 == 4:
                time.sleep(draw.uniform(0.0, 1.5))  # between rounds, while it scores and writes
            done += kill(process)
        until(self.provider.idle)
        return done

    def lines(self, name: str) -> list[Json]:
        answers = Settings.load().answers
        return [
            {**line, "id": f"{path.parent.name[:8]} {line['id']}"}  # models are asked the same
            for path in answers.glob(f"*/{name}.jsonl")
            for line in read_lines(path)
        ]

    def check(self, comparison: Comparison, kills: int) -> Json:
        """Hold what was kept against what the provider has seen; return the figures."""
        report = self.provider.report()
        assert ids(Settings.load()) == [comparison.id]
        first, second = (model.key for model in comparison.data.models)
        rows = {one.id for one in comparison.rows() if not one.check}
        for key in (first, second):
            answers = [one.answer for one in comparison.answers() if one.answer.model == key]
            assert rows <= {one.row for one in answers} and not any(one.error for one in answers)
        failed = {(one["id"], one["attempt"], one["charge"]) for one in self.lines("errors")}
        answered = {(one["id"], one["attempt"], one["charge"]) for one in self.lines("answers")}
        requests = {
            (one["id"], one["attempt"], one["charge"]): one for one in self.lines("requests")
        }
        cut_off = [one for key, one in requests.items() if key not in failed | answered]
        wanted = len({one["id"] for one in requests.values()})
        assert len({one[0] for one in answered}) == len(answered) <= wanted
        sold = sum(report["asked"].values()) - self.asked
        assert len(cut_off) <= AT_ONCE * kills
        assert sold - len(answered) <= len(cut_off) + len(failed)
        self.check_money(cut_off, report)
        return {
            "sold": sold,
            "answers": len(answered),
            "in flight": len(cut_off),
            "failed": len(failed),
        }

    def check_money(self, cut_off: list[Json], report: Json) -> None:
        """The ledger is the sum of what was written down, and not below what was sold."""
        budget = Gateway().budget()
        written = [*self.lines("answers"), *self.lines("errors"), *cut_off]
        spent = sum((Decimal(one["usd"]) for one in written), Decimal(0))
        assert budget.reserved_usd == 0 and budget.spent_usd - self.trained == spent
        assert spent >= charged(report)


def charged(report: Json) -> Decimal:
    """What the provider has sold, at the prices of chats."""
    total = Decimal(0)
    for one in report["charges"]:
        usd_in, usd_out = next(usd for start, usd in USD.items() if one["model"].startswith(start))
        total += (one["prompt_tokens"] * usd_in + one["completion_tokens"] * usd_out) / 10**6
    return total


def loaded(said: Json) -> Comparison:
    return Gateway().comparison(said["id"])


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_KEY", chaos.KEY)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("faults", ["", FAULTS])
def test_a_comparison_that_is_killed_twenty_times(home: Path, tmp_path: Path, faults: str) -> None:
    """None is missing in the end, none was asked again but those in flight and those that failed;
    the ledger is what was written down, and every figure follows from the answers."""
    words = ("--chaos", faults, "--chaos-on", f"POST {CHATS}", "--fault-seconds", "0.05")
    with ProviderProcess(tmp_path, "--set", LATENCY, *(words if faults else ())) as provider:
        storm = Storm(provider, tmp_path, 120)
        done = storm.kills(20, seed=7, sold=360)
        said = {"asked": 1}
        for _ in range(12):  # a fault three times in a row is asked again by the next run
            if not said["asked"]:
                break
            code, said, err = storm.end()
            assert code == 0, err
        comparison = loaded(said)
        figures = storm.check(comparison, 20)
    assert said["asked"] == 0
    found = derived(tmp_path / "held_out.jsonl", comparison)
    print(f"kills {done} of 20, {figures}, given {found['given']}")
    assert found["wrong"] == [] and done >= 15


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_price_limit_holds_over_ten_kills(home: Path, tmp_path: Path) -> None:
    """All runs together, with what was in flight at its most, spend no more than the limit;
    a run that is stopped by it says so, with exit code 4."""
    with ProviderProcess(tmp_path, "--set", LATENCY) as provider:
        storm = Storm(provider, tmp_path, 60)
        plan = json.loads(chaos.ftg(*storm.command, "--dry-run").communicate()[0])
        # Just above the least that it can cost, below which nothing would be asked.
        limit = (Decimal(plan["cost_usd"]["low"]) * Decimal("1.05")).quantize(Decimal("0.000001"))
        storm.command += ["--max-cost", str(limit)]
        for _ in range(10):
            process = storm.begin()
            due = provider.posts(CHATS) + 4
            until(lambda: provider.posts(CHATS) >= due or process.poll() is not None)  # noqa: B023
            kill(process)
        until(provider.idle)
        code, said, err = storm.end()
        report = provider.report()
    spent = Gateway().budget().spent_usd - storm.trained
    print(f"limit {limit}, counted {spent}, charged {charged(report)}, exit {code}: {err[-300:]}")
    assert code == 4 and 0 < charged(report) <= spent <= limit
