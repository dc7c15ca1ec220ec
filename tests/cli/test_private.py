"""The home folder is this user's alone after every command, whatever the umask; what the user
names follows the umask; and a home that cannot be written can be read."""

from __future__ import annotations

import ast
import gc
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chaos import killed_after
from support.cli import Ftg
from support.modes import read_only, umask, wide
from support.provider import Provider
from support.rows import chat_rows
from support.traces import traces
from support.work import calls

import finetune_gateway
from finetune_gateway import Dataset, FakeBackend, Gateway, StoreError
from finetune_gateway.cli.commands import COMMANDS
from finetune_gateway.jobs import schema

GPT = "gpt-4.1-mini-2025-04-14"
NOWHERE = "--base-url http://127.0.0.1:9/v1 --api-key-env FTG_NO_KEY"  # nobody listens there
SUBMIT = "submit train.jsonl --model m --backend fake --yes"

# Command lines of each command, in an order in which each has what it needs.
CALLS = {
    "demo": [],  # trains for minutes; see test_demo.py
    "validate": ["validate rows.csv", "validate rows.json --like rows.csv"],
    "preview": ["preview rows.json --model builtin/tiny"],
    "estimate": [
        f"estimate rows.json --model {GPT} --validation-file rows.csv",
        "estimate rows.csv --model builtin/tiny",
    ],
    "advise": ["advise rows.json --model builtin/tiny"],
    "prices": [
        f"prices set --backend openai --model {GPT} --unit train_mtok --usd 5 --source ours"
    ],
    "config": ["config set budget.monthly_usd 500"],
    "doctor": ["doctor", "doctor --service"],
    "backends": ["backends"],
    "models": ["models"],
    "rules": ["rules"],
    "convert": ["convert rows.json --out out.jsonl --to openai"],
    "split": ["split rows.json --out parts"],
    "submit": [SUBMIT, "submit rows.json --model n --backend fake --yes --validation-split 0.3"],
    "list": ["list --refresh"],
    "status": ["status latest"],
    "watch": ["watch latest"],
    "wait": ["wait latest"],
    "logs": ["logs latest -f"],
    "events": ["events latest"],
    "metrics": ["metrics latest"],
    "checkpoints": ["checkpoints latest"],
    "report": ["report latest"],
    "costs": ["costs"],
    "cancel": ["cancel latest --yes"],
    "pause": ["pause latest"],
    "resume": ["resume latest --yes", "resume --all"],
    "settle": ["settle latest --not-created"],
    "chat": ["chat latest Hello"],
    "compare": ["compare latest --data train.jsonl --rows 2 --yes"],
    "check": [
        "check --init rows.json -o behaviour.yaml",
        "check latest behaviour.yaml --data rows.csv --rows 2 --junit checks.xml",
    ],
    "migrate list": [f"migrate list {NOWHERE}"],
    "migrate plan": [f"migrate plan ft:m:o::1 {NOWHERE}"],
    "migrate fetch": [f"migrate fetch --all {NOWHERE}"],  # see below
    "migrate record": [f"migrate record ft:m:o::i --data rows.csv --yes {NOWHERE}"],
    "migrate run": ["migrate run ft:m:o::1 --to builtin/tiny --min exact_match=1"],
    "models add": [f"models add ft:m:o::i {NOWHERE}"],
    "download": ["download latest"],
    "merge": ["merge latest --to merged"],
    "export": ["export latest --to vllm --out served"],
    "push": ["push latest acme/support --yes"],
    "pull": ["pull acme/support --yes"],
    "card": ["card latest -o card.md"],
    "deploy": ["deploy latest"],
    "rm": ["rm latest --yes"],
    "prune": ["prune --older-than 0d --yes"],
}
FIRST_ACTS = ("validate", "preview", "estimate", "prices", "config", "submit")
# Nothing to do for them; no key.
ENDS = {
    "check latest behaviour.yaml --data rows.csv --rows 2 --junit checks.xml": 1,
    "pause latest": 2,
    "resume latest --yes": 2,
    "settle latest --not-created": 2,
    "download latest": 2,
    "merge latest --to merged": 2,
    "export latest --to vllm --out served": 2,
    "push latest acme/support --yes": 2,
    "pull acme/support --yes": 1,  # the Hub is not asked in tests
    "deploy latest": 2,
    f"migrate list {NOWHERE}": 5,
    f"migrate fetch --all {NOWHERE}": 5,
    f"migrate record ft:m:o::i --data rows.csv --yes {NOWHERE}": 4,  # there is a budget, no price
    f"migrate plan ft:m:o::1 {NOWHERE}": 5,
    f"models add ft:m:o::i {NOWHERE}": 5,
    "migrate run ft:m:o::1 --to builtin/tiny --min exact_match=1": 102,  # nothing was fetched
}
LOOKS = ("list", "list --costs", "status {}", "events {}", "metrics {}", "logs {}", "costs")
REFUSED = "can be read, but not written"


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with one file of rows in three forms."""
    rows = chat_rows(40)
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    lines = [f"Where is {number}?,{number} is here." for number in range(12)]
    (tmp_path / "rows.csv").write_text("\n".join(["prompt,completion", *lines]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(home: Path) -> list[Path]:
    """What lies in the spool."""
    return [path for path in (home / "spool").rglob("*") if path.is_file() and path.suffix]


# -- private from the first byte -----------------------------------------------------------------


@pytest.fixture
def narrowed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was wide before its mode was changed. Where this is empty and nothing is wide, nothing
    has been."""
    found: list[str] = []

    def recording(change: Callable[..., None]) -> Callable[..., None]:
        def record(file: str | int, mode: int, **rest: Any) -> None:
            if os.stat(file).st_mode & 0o077:
                found.append(str(file))
            change(file, mode, **rest)

        return record

    for name in ("chmod", "fchmod"):
        monkeypatch.setattr(os, name, recording(getattr(os, name)))
    return found


def run_and_look(calls: list[str], home: Path, ftg: Ftg) -> None:
    """Run command lines without a umask, under which a file that is wide at any is wide; after each
    the home is private, and at the end its spool is empty."""
    with umask(0):
        for call in calls:
            done = ftg(*call.split())
            assert done.returncode == ENDS.get(call, 0), done
            assert wide(home) == {}, call
    gc.collect()
    assert files(home) == []


def test_after_every_command_the_home_is_this_users_alone(
    home: Path, folder: Path, ftg: Ftg, narrowed: list[str]
) -> None:
    """From the first byte: nothing is made wide and then narrowed."""
    assert CALLS.keys() == COMMANDS.keys()
    run_and_look([call for calls in CALLS.values() for call in calls], home, ftg)
    assert (home / "prices.toml").exists() and (home / "config.toml").exists()
    assert narrowed == []


def test_what_is_fetched_and_added_is_this_users_alone(
    home: Path, folder: Path, ftg: Ftg, narrowed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, prompts of production, handles; and nothing of them stays after rm and prune."""
    with Provider() as provider:
        monkeypatch.setenv("HOST_PASS", provider.api_key)
        tune = provider.world.add_fine_tune(system="ZQXcanary")
        model = tune["fine_tuned_model"]
        provider.world.add_stored(model, [{"role": "user", "content": "ZQXcanary asks"}])
        at = f"--base-url {provider.url} --api-key-env HOST_PASS"
        fetch = f"migrate fetch --all --stored {at}"
        calls = [fetch, f"models add {model} {at}", f"chat {model} Hello", "models", "doctor"]
        run_and_look(calls, home, ftg)
        assert traces(home, "ZQXcanary")
        run_and_look([f"rm {model} --yes", fetch, "prune --older-than 0d --yes"], home, ftg)
        assert narrowed == [] and traces(home, "ZQXcanary") == []


@pytest.mark.parametrize("command", FIRST_ACTS)
def test_so_it_is_when_a_command_is_the_first_act(
    command: str, home: Path, folder: Path, ftg: Ftg, narrowed: list[str]
) -> None:
    """In a home that is not there, and in one that somebody made wide."""
    run_and_look(CALLS[command][:1], home, ftg)
    assert narrowed == []
    shutil.rmtree(home)
    home.mkdir()
    home.chmod(0o777)
    run_and_look(CALLS[command][-1:], home, ftg)


def test_what_the_user_names_follows_the_umask(home: Path, folder: Path, ftg: Ftg) -> None:
    """Pages, conversions, parts and handles."""
    with umask(0o022):
        ftg(*["validate", "rows.json", "--html", "report.html", "--fix", "fixed.jsonl"])
        ftg(*["convert", "rows.json", "-o", "out.jsonl", "--to", "openai"])
        ftg(*["split", "rows.json", "--out", "parts"])
        job = Gateway().submit("train.jsonl", model="m", backend=FakeBackend())
        job.result().save("handle.json")
    named = ["report.html", "fixed.jsonl", "out.jsonl", "parts/rows.train.jsonl", "handle.json"]
    assert [oct((folder / name).stat().st_mode & 0o777) for name in named] == ["0o644"] * 5
    assert (folder / "parts").stat().st_mode & 0o777 == 0o755 and wide(home) == {}


PACKAGE = Path(finetune_gateway.__file__).parent
# Where files and folders are made by the umask, because the user names them or they are no part of
# a home. All others go through settings/files.py.
BY_THE_UMASK = {
    "settings/files.py",
    "cli/conversation.py",  # /save FILE
    "cli/split.py",  # --out
    "evaluation/inspect_logs.py",  # a folder that the user names; the logs in it are private
    "preparation/split.py",  # Dataset.split(folder=)
    "cli/demo/command.py",  # --out
    "cli/demo/result.py",
    "testing/contract.py",  # the files of an author's tests
    "testing/deletion.py",
    "testing/models.py",
    "jobs/downloads.py",  # --to; in a home the folder is a private one
    "jobs/merges.py",  # --to
    "exports/export.py",  # --out
    "exports/go.py",  # a program of ours, in a folder for a while
    "backends/local/merging.py",
    "backends/local/calibrate.py",  # invented rows in a folder for a while
}


MADE = ("mkdir", "makedirs", "touch", "write_text", "write_bytes", "copyfile", "copy2")
MADE_TOO = ("mkstemp", "copytree")
NAMED = re.compile(rf"\b({'|'.join(('open', *MADE, *MADE_TOO))})\b")


def _makers(text: str) -> Iterator[str]:
    """Yield calls in a module that make files or folders by the umask."""
    for node in ast.walk(ast.parse(text)) if NAMED.search(text) else ():
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", None) or getattr(node.func, "id", "")
        words = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
        words += [one.value.value for one in node.keywords if isinstance(one.value, ast.Constant)]
        writes = any(
            isinstance(word, str) and word.strip("bt+") in ("w", "a", "x") for word in words
        )
        if name in (*MADE, *MADE_TOO) or (name == "open" and writes):
            yield f"{name}:{node.lineno}"


def test_one_module_makes_what_is_in_the_home() -> None:
    """No other module makes a file or folder in a way that goes by the umask."""
    found = {
        str(path.relative_to(PACKAGE)): calls
        for path in PACKAGE.rglob("*.py")
        if (calls := [*_makers(path.read_text("utf-8"))])
    }
    logs = {"backends/local/dispatcher.py", "backends/local/spawning.py"}  # they open private
    assert found.keys() - BY_THE_UMASK == logs, found
    assert found.keys() >= BY_THE_UMASK, "these need no exception any more"


# -- homes of earlier versions -------------------------------------------------------------------


def widen(home: Path) -> None:
    """As an earlier version left it under the umask 000."""
    (home / ".private").unlink(missing_ok=True)
    run = home / "runs" / "ftg-1"
    run.mkdir(parents=True)
    for path in (run / "worker.log", home / "models" / "config.json", home / "config.toml"):
        path.write_text("")
    for path in [home, *home.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o666)


def test_a_wide_home_is_mended_when_it_is_opened(home: Path, folder: Path, ftg: Ftg) -> None:
    """All of it, once; afterwards only what lies directly in the home is looked at."""
    ftg(*SUBMIT.split())
    widen(home)
    link = home / "models" / "elsewhere"
    link.symlink_to(folder / "train.jsonl")
    before = (folder / "train.jsonl").stat().st_mode
    ftg("validate", "train.jsonl")  # the first act need not be about jobs
    assert wide(home) == {} and (folder / "train.jsonl").stat().st_mode == before
    deep = home / "runs" / "ftg-1" / "worker.log"
    deep.chmod(0o644)
    Gateway()
    assert [*wide(home)] == [str(deep)]  # not walked again; the folder above is closed
    (home / "gateway.sqlite3").chmod(0o644)
    Gateway()
    assert wide(home) == {}


def test_a_folder_with_things_of_others_keeps_its_mode(home: Path) -> None:
    """What the gateway has in it is closed all the same; nothing else is touched."""
    home.mkdir()
    script = home / "run.sh"
    script.write_text("")
    for path in (home, script):
        path.chmod(0o755)
    Gateway().jobs()
    assert wide(home) == {str(home): "0o755", str(script): "0o755"}


def test_opening_a_home_does_not_walk_it(home: Path) -> None:
    """The same work with three files as with 600."""
    run = home / "runs" / "ftg-1"
    Gateway().jobs()
    run.mkdir(mode=0o700)
    counts = []
    for number in range(600):
        (run / f"{number}.log").touch(0o600)
        counts += [calls(Gateway)] if number in (2, 3, 599) else []
    assert counts[1] == counts[2]


# -- the spool -----------------------------------------------------------------------------------


def test_rows_leave_the_spool_with_their_last_reader(home: Path) -> None:
    """Equal rows of two datasets do not share a file; a dataset made from another reads its file;
    what a held-out share was split off for is gone after the estimate."""
    first, second = Dataset.open(chat_rows(40)), Dataset.open(chat_rows(40))
    assert first.fingerprint == second.fingerprint and len(files(home)) == 2
    del first
    gc.collect()
    assert len(files(home)) == 1 and len([*second.rows()]) == 40
    Gateway().estimate(second, model=GPT, validation_split=0.25)
    gc.collect()
    assert len(files(home)) == 1
    del second
    gc.collect()
    assert files(home) == []


def test_what_a_killed_process_left_in_the_spool_is_removed(home: Path) -> None:
    """By the next one that writes there; what a living one reads stays."""
    kept = Dataset.open(chat_rows(3))
    code = (
        "import os, signal; from finetune_gateway.data.dataset import Dataset\n"
        "dataset = Dataset.open([{'messages': []}]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=60)
    assert done.returncode == -signal.SIGKILL and len(files(home)) == 2
    ending = (
        "import os, sys; from finetune_gateway.data.dataset import Dataset\n"
        "dataset = Dataset.open([{'messages': []}])\n"
        "fork = os.fork()\n"
        "if fork: os.waitpid(fork, 0); assert dataset.path.exists()  # its fork has ended\n"
    )
    assert subprocess.run([sys.executable, "-c", ending], timeout=60).returncode == 0
    assert files(home) == [kept.path]


# -- homes that can only be read -----------------------------------------------------------------


@pytest.fixture
def jobs(home: Path, folder: Path) -> tuple[str, str]:
    """A job that has ended and one that has not."""
    gateway = Gateway()
    ended = gateway.submit("train.jsonl", model="m", backend=FakeBackend()).wait()
    live = gateway.submit("train.jsonl", model="other", backend=FakeBackend())
    gateway.store.close()
    return ended.id, live.id


def state(home: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in [home, *home.rglob("*")]}


def test_a_home_that_cannot_be_written_is_read(home: Path, jobs: tuple[str, str], ftg: Ftg) -> None:
    """The same words as where it can; a job that has not ended is shown as last seen. Nothing is
    written, and what would have to be is refused in one line."""
    ended, live = jobs
    looks = [look.format(ended).split() for look in LOOKS]
    assert not (home / "gateway.sqlite3-wal").exists()
    with read_only(home):
        before = state(home)
        shown = [ftg(*look) for look in looks]
        status, doctor = ftg("status", live), ftg("doctor", "--json")
        refused = [
            ftg(*words.split())
            for words in (SUBMIT, f"wait {live}", f"cancel {live} --yes", f"logs -f {live}")
            + (
                f"settle {live} --not-created",
                "config set budget.monthly_usd 5",
                "validate rows.json",
            )
        ]
        assert ftg("validate", "train.jsonl").returncode == 0
        assert state(home) == before
    written = [ftg(*look) for look in looks[3:]]
    assert all(done.returncode == 0 for done in shown)
    assert [done.stdout for done in shown[3:]] == [done.stdout for done in written]
    assert ended in shown[0].stdout and live in shown[0].stdout
    assert status.returncode == 0 and f"as last seen: The home folder {home} {REFUSED}" in (
        " ".join(status.stderr.split())
    )
    checks = {one["name"]: one for one in json.loads(doctor.stdout)["checks"]}
    assert REFUSED in checks["home"]["found"] and "2 jobs" in checks["store"]["found"]
    assert "others can read it" in checks["store"]["found"]  # as the files are here
    for done in refused:
        assert done.returncode and done.stderr.count("error:") == 1, done
        assert "writ" in done.stderr and "Traceback" not in done.stderr, done


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of threads and forks
def test_a_read_only_home_in_use_shows_its_last_commits(home: Path, jobs: tuple[str, str]) -> None:
    """They are in the -wal, which is read with the -shm of the process that writes, or wrote until
    it was killed. Without it they cannot be read; what was true before them is not shown."""
    killed_after(lambda: Gateway().store.set_phase(jobs[1], "committed last"))
    assert (home / "gateway.sqlite3-wal").stat().st_size
    with read_only(home):
        assert Gateway().job(jobs[1]).phase == "committed last"
    (home / "gateway.sqlite3-shm").unlink()
    with read_only(home), pytest.raises(StoreError, match="gateway.sqlite3-wal") as caught:
        Gateway().job(jobs[1])
    assert "Copy the home folder" in caught.value.hint


def test_a_read_only_home_is_read_again_when_another_has_written(
    home: Path, jobs: tuple[str, str]
) -> None:
    """One that is mounted read-only here may be written elsewhere."""
    writer = Gateway()
    with read_only(home):
        reader = Gateway()
        assert reader.job(jobs[1]).phase != "told since"
    writer.store.set_phase(jobs[1], "told since")
    writer.store.close()
    with read_only(home):
        assert reader.job(jobs[1]).phase == "told since"


def test_a_read_only_home_of_an_earlier_version_is_read(home: Path) -> None:
    """Its tables are brought up to date in memory, not on the disk."""
    home.mkdir()
    db = sqlite3.connect(home / "gateway.sqlite3")
    for step in schema.MIGRATIONS[:2]:
        step(db)
    db.execute("PRAGMA user_version = 2")
    db.execute("PRAGMA journal_mode = WAL")
    db.close()
    with read_only(home):
        before = state(home)
        assert Gateway().jobs() == [] and Gateway().costs().jobs == ()
        assert state(home) == before
