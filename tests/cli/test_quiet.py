"""With --quiet a command prints its result alone: a price, an id, a path, a word."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from support.cli import Done, Ftg, at_terminal
from support.options import DATA, MINI, TINY

from finetune_gateway import Gateway
from finetune_gateway.cli.commands import COMMANDS
from finetune_gateway.cli.run import load_command

HELD_OUT = str(DATA.with_name("demo_held_out.jsonl"))
FAKE = ("submit", str(DATA), "--model", "m", "--backend", "fake")
LOCAL = ("submit", str(DATA), "--model", TINY, "--dry-run")
HOSTED = ("--model", MINI)
KEY, ROW = "budget.monthly_usd", ("--backend", "custom", "--model", "m", "--unit", "train_mtok")

# command -> calls, each with what its stdout is; OUT is an empty folder, JOB a finished job.
CALLS: dict[str, list[tuple[tuple[str, ...], str]]] = {
    "doctor": [(("doctor",), "ready|broken")],
    "backends": [(("backends",), r"(\w+\n)*fake(\n\w+)*")],
    "models": [(("models", "--backend", "openai"), r"(\S+\n)*gpt-4\.1-mini-2025-04-14(\n\S+)*")],
    "prices": [
        (("prices", "path"), r"OUT/home/prices\.toml"),
        (("prices", "set", *ROW, "--usd", "2", "--source", "ours"), "added"),
        (("prices", "--model", "m"), r" *\$2  custom m train_mtok\n.*, ours; .*"),
    ],
    "config": [
        (("config", "path"), r"OUT/home/config\.toml"),
        (("config", "get", KEY), ""),
        (("config", "set", KEY, "50"), "50"),
        (("config", "get", KEY), "50"),
        (("config", "unset", KEY), "removed"),
    ],
    "validate": [
        (("validate", str(DATA), "--no-quality"), "accepted"),
        (("validate", "OUT/bad.jsonl", "--html", "OUT/v.html"), "rejected"),
        (("validate", str(DATA), "--no-quality", "--fix", "OUT/fixed.jsonl"), "accepted"),
    ],
    "rules": [(("rules",), r"(\w+\n)+\w+")],
    "convert": [(("convert", str(DATA), "--to", "trl", "-o", "OUT/trl.jsonl"), r"OUT/trl\.jsonl")],
    "split": [
        (("split", str(DATA), "-o", "OUT"), r"OUT/\S+\.train\.jsonl\nOUT/\S+\.validation\.jsonl")
    ],
    "preview": [
        (("preview", str(DATA), *HOSTED, "--row", "1"), r"(.*\n)*.*assistant.*(\n.*)*"),
        (("preview", str(DATA), *HOSTED, "--html", "OUT/p.html"), r"OUT/p\.html"),
    ],
    "estimate": [
        (("estimate", str(DATA), *HOSTED), r"0\.18729"),
        (("estimate", str(DATA), *HOSTED, "--html", "OUT/e.html"), r"0\.18729"),
        (("estimate", str(DATA), "--backend", "openai,local", *HOSTED, "--model", TINY),
         f"0\tlocal\t{TINY}\n0\\.18729\topenai\t{re.escape(MINI)}"),
        (("estimate", str(DATA), "--backend", "azure", *HOSTED), "unknown"),
    ],
    "advise": [(("advise", str(DATA)), "prompt")],
    "compare": [(("compare", "JOB", "--data", HELD_OUT, "--rows", "2"), r"cmp-[0-9a-f]{8}")],
    "check": [(("check", "--init", str(DATA), "-o", "OUT/g.yaml"), r"OUT/g\.yaml")],
    "submit": [
        (LOCAL, "0"),
        (FAKE, "JOB"),  # it has succeeded already
        ((*FAKE, "--wait"), "JOB"),
    ],
    "list": [(("list", "--backend", "fake", "--limit", "1"), "JOB"),
             (("list", "--backend", "azure"), "")],
    "watch": [(("watch", "JOB"), "succeeded")],
    "chat": [(("chat", "JOB", "Hello"), r".*You said: Hello")],
    "status": [(("status", "JOB"), "succeeded")],
    "wait": [(("wait", "JOB"), "succeeded"), (("wait", "JOB", "latest"), "succeeded")],
    "cancel": [(("cancel", "JOB"), "succeeded")],
    "logs": [(("logs", "JOB"), r"(.+\n)*.+"), (("logs", "JOB", "-f"), r"(.+\n)*.+")],
    "events": [(("events", "JOB"), r"(.+\n)+.+")],
    "metrics": [(("metrics", "JOB"), r"(.+\n)+.+")],
    "checkpoints": [(("checkpoints", "JOB"), r"(.+\n)*.+")],
    "report": [(("report", "JOB", "--out", "OUT/r.html"), r"OUT/r\.html")],
    "costs": [(("costs",), r"(.*\n)*.*JOB.*(\n.*)*"),
               (("costs", "--since", "2026-01-01", "--until", "2026-01-02"), "")],
    "card": [(("card", "JOB"), r"---\n(.*\n)*.*"), (("card", "JOB", "-o", "OUT/card.md"), "")],
    "prune": [(("prune", "--yes"), "")],
    "rm": [(("rm", "JOB", "--yes"), "JOB removed")],
}  # fmt: skip
# What needs a job in doubt, a stopped one, minutes or a host is looked at in tests of its own.
ELSEWHERE = {
    "demo",
    "pause",
    "resume",
    "settle",
    "models add",
    "deploy",
    "download",
    "merge",
    "export",
    "push",
    "pull",
}
ELSEWHERE |= {"migrate list", "migrate fetch", "migrate plan", "migrate record", "migrate run"}


def quiet_commands() -> set[str]:
    """The commands that take --quiet."""
    return {name for name in COMMANDS if "quiet" in load_command(name).__annotations__}


def test_every_command_that_takes_it_is_looked_at() -> None:
    """Which is all of them."""
    assert quiet_commands() == COMMANDS.keys() == CALLS.keys() | ELSEWHERE


@pytest.fixture
def job(ftg: Ftg) -> str:
    """A finished job."""
    done = ftg(*FAKE, "-q")
    assert re.fullmatch(r"ftg-\w{10}\n", done.stdout) and done.stderr == ""
    Gateway().job(done.stdout.strip()).result()
    return done.stdout.strip()


def check(ftg: Ftg, folder: Path, name: str, job: str = "") -> None:
    """Each call of a command prints what it should on stdout, and nothing on stderr."""
    for words, said in CALLS[name]:
        call = [word.replace("OUT", str(folder)).replace("JOB", job) for word in words]
        done = ftg(*call, "-q")
        assert done.stderr == "", call
        expected = said.replace("OUT", re.escape(str(folder))).replace("JOB", job)
        assert re.fullmatch(expected, done.stdout.removesuffix("\n")), (call, done.stdout)


OF_A_JOB = [name for name in CALLS if "JOB" in str(CALLS[name])]


@pytest.mark.usefixtures("tiny_at_home")
@pytest.mark.parametrize("name", [name for name in CALLS if name not in OF_A_JOB])
def test_the_result_alone(ftg: Ftg, tmp_path: Path, name: str) -> None:
    """Without a job."""
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n' * 10)
    check(ftg, tmp_path, name)


@pytest.mark.usefixtures("tiny_at_home")
def test_the_result_of_a_job_alone(ftg: Ftg, tmp_path: Path, job: str) -> None:
    """Submitted, looked at, and removed at last."""
    assert OF_A_JOB[-1] == "rm"
    for name in OF_A_JOB:
        check(ftg, tmp_path, name, job)


def test_a_quiet_conversation_is_its_answers(
    ftg: Ftg, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No title, no prompt, no bar; commands are obeyed."""
    done = at_terminal(monkeypatch, "Hello\n/reset\nAgain\n", "chat", job, "-q")
    assert [line.partition("] ")[2] for line in done.stdout.splitlines() if line] == [
        "You said: Hello",
        "You said: Again",
    ]
    assert done.stderr.strip() == "The conversation is forgotten."


def test_errors_are_not_quiet(ftg: Ftg) -> None:
    """They are on stderr with their exit code, and nothing is on stdout."""
    for call in (("validate", "none.jsonl"), ("status", "ftg-none"), ("config", "get", "x")):
        done = ftg(*call, "-q")
        assert done.returncode != 0 and done.stdout == ""
        assert done.stderr.startswith("error: ")


def test_a_question_is_not_quiet(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """What --yes would agree to is shown where it is not given; with it only the result is."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    asked: Done = ftg("submit", str(DATA), *HOSTED, "-q")
    assert asked.returncode == 4 and "Estimated cost: $0.187" in asked.stderr
    assert asked.stdout == ""
    dry = ftg("submit", str(DATA), *HOSTED, "-q", "--dry-run")
    assert (dry.stdout, dry.stderr) == ("0.18729\n", "")


def test_a_job_that_goes_on_or_is_settled_is_a_word(ftg: Ftg, job: str) -> None:
    """--quiet leaves out the id, which the caller has."""
    done = ftg("resume", job, "-q")
    assert done.returncode == 2 and done.stdout == ""
    assert ftg("settle", job, "--not-created", "-q").stdout == ""
    assert json.loads(ftg("status", job, "--json", "-q").stdout)["status"] == "succeeded"
