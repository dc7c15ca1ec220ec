"""The command line: help, exit codes, JSON, bad input.

``process`` runs ``python -m finetune_gateway``; ``ftg`` runs the same ``main`` in this process,
which is faster by the start of Python.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from support.cli import Ftg, loaded_after, process
from support.paths import ROOT

from finetune_gateway.cli import main, root_help
from finetune_gateway.cli.commands import ALIASES, COMMANDS, FAMILIES, GROUPS, second_words
from finetune_gateway.reports.output import escape_controls
from scripts.cli_page import command_help

DATA = ROOT / "finetune_gateway" / "resources" / "demo_train.jsonl"
HEAVY = (
    "torch", "transformers", "trl", "peft", "openai", "huggingface_hub", "ray", "datasets",
    "phonenumbers",
)  # fmt: skip
HOSTED = "gpt-4.1-mini-2025-04-14"
CLOSED = "http://127.0.0.1:9/v1"  # the discard port: nobody listens


# -- help ------------------------------------------------------------------------------------


@pytest.mark.parametrize("args", [(), ("--help",), ("-h",), ("help",), ("--version",)])
def test_root_help_imports_nothing(env: dict[str, str], args: tuple[str, ...]) -> None:
    """Root help and version load no typer, rich, pydantic, and nothing heavy."""
    loaded = loaded_after(env, *args)
    assert "finetune_gateway.cli" in loaded
    assert not loaded & {
        "typer",
        "rich",
        "pydantic",
        "click",
        "sqlite3",
        "finetune_gateway.cli.run",
    }
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("args", [("validate", str(DATA)), ("validate", "-h"), ("list",)])
def test_local_commands_import_nothing_heavy(env: dict[str, str], args: tuple[str, ...]) -> None:
    """Checking a file and listing jobs load no SDK and no torch."""
    loaded = loaded_after(env, *args)
    assert "typer" in loaded
    assert not loaded & {*HEAVY, "rich", "jinja2"}  # jinja2 draws pages


def test_root_help_fits_and_names_every_command() -> None:
    """80 columns; every command once, each in a known group, and examples."""
    text = root_help()
    assert max(map(len, text.splitlines())) <= 80
    for name, (_, line, group) in COMMANDS.items():
        assert f"  {name:<14}  {line}\n" in text
        assert group in GROUPS
    assert "Examples:" in text
    assert set(ALIASES.values()) <= set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_fits(name: str) -> None:
    """80 columns, a sentence, --json, and Examples at the foot."""
    text = command_help(name)
    assert max(map(len, text.splitlines())) <= 80
    assert text.startswith(f"Usage: ftg {name}")
    assert "--json" in text
    assert re.search(r"Examples:\n +ftg ", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_page(name: str) -> None:
    """docs/cli.md holds the help of each command as it is; else make it anew:
    python -m scripts.cli_page > docs/cli.md"""
    page = (ROOT / "docs" / "cli.md").read_text()
    assert f"## ftg {name}\n\n```text\n{command_help(name)}\n```\n" in page


def test_help_of_a_command_in_three_ways(env: dict[str, str]) -> None:
    """-h, --help and the word help; exit 0, on stdout."""
    said = [
        process(env, *args) for args in (("watch", "-h"), ("watch", "--help"), ("help", "watch"))
    ]
    assert [done.returncode for done in said] == [0, 0, 0]
    assert len({done.stdout for done in said}) == 1
    assert not said[0].stderr


def test_version(ftg: Ftg) -> None:
    """One line on stdout."""
    from finetune_gateway import __version__

    assert ftg("--version").stdout == f"finetune-gateway {__version__}\n"


def test_completion_knows_commands_and_options(env: dict[str, str]) -> None:
    """The shell asks ftg itself; nothing is installed without asking."""
    ask = {"_FTG_COMPLETE": "complete_bash", "COMP_WORDS": "ftg val", "COMP_CWORD": "1"}
    assert "validate" in process(env | ask).stdout.split()
    ask |= {"COMP_WORDS": "ftg submit --max", "COMP_CWORD": "2"}
    assert "--max-cost" in process(env | ask).stdout.split()
    for typed, count, offered in (
        ("ftg migr", 1, "migrate"),
        ("ftg migrate li", 2, "list"),
        ("ftg migrate list --key", 3, "--key-env"),
    ):
        ask |= {"COMP_WORDS": typed, "COMP_CWORD": str(count)}
        assert offered in process(env | ask).stdout.split(), typed


# -- commands of two words -------------------------------------------------------------------


@pytest.mark.parametrize("first", FAMILIES)
def test_a_first_word_lists_its_commands(first: str, ftg: Ftg) -> None:
    """By itself, with --help and after help; 80 columns, each command with its line."""
    said = {ftg(*line).stdout for line in ([first], [first, "-h"], ["help", first])}
    assert len(said) == 1
    text = said.pop()
    assert max(map(len, text.splitlines())) <= 80
    for word in second_words(first):
        assert f"  {first} {word}" in text and COMMANDS[f"{first} {word}"][1] in text


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("migrate lits", "Did you mean: ftg migrate list"),
        ("migrate --json frobnicate", "Run: ftg migrate --help"),
        ("migrate --frob", "Run: ftg migrate --help"),
        ("migrat", "Did you mean: ftg migrate"),
        ("inventory", "Did you mean: ftg migrate list"),
        ("help migrate lits", "Did you mean: ftg migrate list"),
    ],
)
def test_an_unknown_second_word_is_answered_with_ours(line: str, said: str, ftg: Ftg) -> None:
    done = ftg(*line.split())
    assert done.returncode == 2 and said in done.stderr + done.stdout


def test_a_command_of_two_words_is_one_command(ftg: Ftg) -> None:
    """Flags may stand before it and within it, an alias for its second word; help knows it."""
    text = ftg("migrate", "list", "--help").stdout
    assert text.startswith("Usage: ftg migrate list")
    for line in ("help migrate list", "migrate ls -h", "--json migrate -q list -h"):
        assert ftg(*line.split()).stdout == text


# -- usage errors ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("submt",), "Did you mean: ftg submit"),
        (("xyzzy",), "ftg --help"),
        (("help", "nope"), "There is no command 'nope'"),
        (("--home",), "--home needs a folder"),
        (("--json",), "No command"),
        (("--frobnicate",), "There is no command"),
        (("validate",), "DATA is missing"),
        (("validate", str(DATA), "--frob"), "--frob"),
        (("validate", str(DATA), "--method", "frob"), "method"),
        (("list", "--limit", "x"), "limit"),
        (("list", "--status", "frob"), "running"),
        (("wait", "latest", "--timeout", "soon"), "90s"),
        (("submit", str(DATA), "--model", "m", "--backend", "fake", "--set", "lora_q=1"), "lora_r"),
        (
            ("submit", str(DATA), "--model", "m", "--backend", "fake", "--set", "lora_r"),
            "KEY=VALUE",
        ),
        (("submit", str(DATA), "--model", "m", "--backend", "fake", "--n-epochs", "x"), "n_epochs"),
        (
            ("submit", str(DATA), "--model", "m", "--backend", "fake", "--base-url", "u"),
            "no setting 'base_url'",
        ),
        (("estimate", str(DATA), *["--model", "a"] * 2, *["--backend", "c"] * 3), "pair"),
    ],
)
def test_wrong_usage_is_two(ftg: Ftg, args: tuple[str, ...], said: str) -> None:
    """Exit 2, one error on stderr that says what to do, nothing on stdout, no traceback."""
    done = ftg(*args)
    if done.returncode == 0:
        pytest.fail(done.stdout)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_bad_input_has_its_code_and_words(ftg: Ftg, tmp_path: Path) -> None:
    """Missing, empty, a folder, not UTF-8, no JSON, unknown job, backend and host."""
    empty, latin, prose = (tmp_path / name for name in ("empty.jsonl", "latin.jsonl", "prose.md"))
    empty.write_bytes(b"")
    latin.write_bytes('{"messages": [{"role": "user", "content": "é"}]}\n'.encode("latin-1"))
    prose.write_text("# Hello\n")
    cases = [
        (("validate", "nope.jsonl"), 102, "There is no file"),
        (("validate", str(empty)), 3, "empty"),
        (("validate", str(tmp_path)), 3, "folder"),
        (("validate", str(latin)), 3, "UTF-8"),
        (("validate", str(prose)), 3, "JSON"),
        (("validate", str(DATA), "--backend", "frob"), 102, "installed"),
        (("estimate", "nope.jsonl", "--model", HOSTED), 102, "There is no file"),
        (("estimate", str(empty), "--model", HOSTED), 3, "no examples"),
        (("submit", str(empty), "--model", "m", "--backend", "fake"), 3, "nothing was sent"),
        (("submit", str(DATA), "--model", "frob", "--backend", "openai"), 102, "Trainable"),
        (("submit", str(DATA), "--model", HOSTED), 5, "OPENAI_API_KEY"),
        (("status", "nope"), 102, "ftg list"),
        (("chat", "nope", "hi"), 102, "ftg chat builtin/tiny"),
        (("chat", "./nope/folder", "hi"), 102, "no job, handle or model folder"),
        (("chat", str(prose), "hi"), 2, "not a model handle"),
        (("models", "--backend", "frob"), 102, "known"),
    ]
    for args, code, said in cases:
        done = ftg(*args)
        assert done.returncode == code, (args, done.stdout, done.stderr)
        assert said in done.stdout + done.stderr, (args, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr


def test_errors_are_json_when_json_is_wanted(ftg: Ftg, tmp_path: Path) -> None:
    """Errors of the gateway, of the usage and of the data: one document on stdout."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": []}\n')
    submit = ("submit", str(bad), "--model", "m", "--backend", "fake", "--json")
    for args, kind, code in (
        (("validate", "nope.jsonl", "--json"), "NotFoundError", 102),
        (("validate", "--frob", "--json"), "UsageError", 2),
        (("frob", "--json"), "UsageError", 2),
        (("--json", "status", "nope"), "NotFoundError", 102),
        (submit, "DataError", 3),
    ):
        done = ftg(*args)
        told = json.loads(done.stdout)
        assert done.returncode == code
        assert set(told["error"]) == {"type", "message", "hint", "code"}
        assert (told["error"]["type"], told["error"]["code"]) == (kind, code)
    assert told["report"]["findings"][0]["line"] == 1


def test_a_bug_is_told_in_words_and_shown_with_debug(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An exception nobody expected: two lines and exit 1; --debug adds the traceback."""

    def broken() -> None:
        """Breaks."""
        raise RuntimeError("the moon is full")

    monkeypatch.setattr("finetune_gateway.cli.catalog.models", broken)
    assert main(["models"]) == 1
    plain = capfd.readouterr().err
    assert "the moon is full" in plain and "This is a bug" in plain
    assert "Traceback" not in plain
    assert main(["--debug", "models"]) == 1
    assert "Traceback" in capfd.readouterr().err


def test_a_reader_that_leaves_is_no_error(env: dict[str, str]) -> None:
    """``ftg models -a | head -1``: quiet, 128 + SIGPIPE."""
    command = f"'{sys.executable}' -m finetune_gateway ARGS | true; echo ${{PIPESTATUS[0]}}"
    for args, codes in (
        ("models -a --json", ("141",)),
        ("status nope --json", ("141",)),
        ("--help", ("0",)),
    ):
        line = command.replace("ARGS", args)
        done = subprocess.run(["bash", "-c", line], env=env, capture_output=True, text=True)
        assert done.stdout.strip() in codes
        assert "Error" not in done.stderr and "Traceback" not in done.stderr


def test_a_full_disk_behind_stdout_is_said(env: dict[str, str]) -> None:
    """Writing to a full device: one line, exit 1, no traceback."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "finetune_gateway", "models"],
            env=env,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert done.returncode == 1
    assert "No space left" in done.stderr and "Traceback" not in done.stderr


def test_words_of_others_do_not_steer_the_terminal() -> None:
    """Control characters and marks of direction are shown, our own colours and line breaks stay."""
    shown = "a\\u001b[2Jb\\u009bc\\u0000d\\u000de\nf\tg\\u202eh"
    assert escape_controls("a\x1b[2Jb\x9bc\0d\re\nf\tg\u202eh") == shown
    assert escape_controls("\x1b[31mred\x1b[0m\r\n") == "\x1b[31mred\x1b[0m\n"


# -- before anything is sent -------------------------------------------------------------------


def test_validate_prints_the_documented_json(ftg: Ftg, tmp_path: Path) -> None:
    """The keys of the report, line numbers, exit 3 for errors and, with --strict, for warnings;
    nothing is written to the home folder."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(DATA.read_text() + '{"messages": [{"role": "user", "content": "hi"}]}\n')
    done = ftg("validate", str(bad), "--json")
    told = json.loads(done.stdout)
    assert done.returncode == 3 and told["ok"] is False
    parts = {"ok", "format", "kind", "rows", "tokens", "quality", "findings", "ignored"}
    assert set(told) == parts
    assert told["findings"][0]["line"] == 271
    assert json.loads(ftg("validate", str(DATA), "--json").stdout)["ok"] is True
    twice = tmp_path / "twice.jsonl"
    twice.write_text(DATA.read_text() + DATA.read_text().splitlines()[0] + "\n")
    assert ftg("validate", str(twice)).returncode == 0
    assert ftg("validate", str(twice), "--strict").returncode == 3
    assert not Path(os.environ["FTG_HOME"]).exists()


def test_validate_screen_names_line_reason_and_fix(ftg: Ftg, tmp_path: Path) -> None:
    """What people see fits 80 columns; the hint for the next step is on stderr."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(DATA.read_text() + '{"messages": [{"role": "usr", "content": "hi"}]}\n')
    done = ftg("validate", str(bad))
    assert done.returncode == 3
    for text in ("271 rows", "line 271", "Fix: ", "Rejected", "Nothing was sent anywhere."):
        assert text in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    good = ftg("validate", str(DATA))
    assert "Next: ftg estimate" in good.stderr and "Next" not in good.stdout
    where = ("--backend", "fake", "--model", "any-model")
    same = ftg("validate", str(DATA), "--no-quality", *where)
    assert "--model any-model --backend fake\n" in same.stderr


def test_estimate_shows_options_side_by_side(ftg: Ftg) -> None:
    """Hosted and local in one table; a name that nobody has says why; offline, no key."""
    args = ("estimate", str(DATA), "--model", HOSTED, "--n_epochs", "2")
    done = ftg(*args, "--backend", "openai,fake", "--backend", "frob", "--explain")
    assert done.returncode == 0, done.stderr
    for text in ("1  fake", "2  openai", "Left out", "No backend named 'frob'", "api.openai.com",
                 "as of", "(2 epochs)"):  # fmt: skip
        assert text in done.stdout
    assert max(len(line) for line in done.stdout.splitlines() if "http" not in line) <= 80
    told = json.loads(ftg(*args, "--backend", "openai,frob", "--json").stdout)
    assert [one["backend"] for one in told] == ["openai", "frob"]
    assert told[0]["n_epochs"] == 2 and told[1]["error"]["type"] == "NotFoundError"


def test_nothing_is_sent_without_a_yes(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """No terminal and no --yes: exit 4 and no job; a limit below the price: exit 4; a dry run:
    exit 0 and no job."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("OPENAI_BASE_URL", CLOSED)
    args = ("submit", str(DATA), "--model", HOSTED)
    done = ftg(*args, text="y\n")
    assert done.returncode == 4
    assert "will be uploaded to 127.0.0.1:9" in done.stderr and "--yes" in done.stderr
    limited = ftg(*args, "--profile", "openai", "--max-cost", "0.01", "--yes")
    assert limited.returncode == 4 and "0.01" in limited.stderr
    dry = ftg(*args, "--dry-run", "--json")
    assert dry.returncode == 0 and json.loads(dry.stdout)["dry_run"] is True
    assert json.loads(ftg("list", "--json").stdout) == []


def test_a_server_that_is_down_is_told_plainly(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """submit and doctor say what cannot be reached, with exit 1; the list still works."""
    monkeypatch.setenv("GPU_KEY", "secret-value")
    where = ("--base-url", CLOSED, "--api-key-env", "GPU_KEY")
    args = ("submit", str(DATA), "--model", HOSTED, "--backend", "openai", "--yes", *where)
    done = ftg(*args)
    assert done.returncode == 1 and "Could not reach 127.0.0.1:9" in done.stderr
    listed = ftg("list")
    assert listed.returncode == 0 and "failed" in listed.stdout
    doctor = ftg("doctor", "--backend", "openai", *where)
    assert doctor.returncode == 1 and "FAIL" in doctor.stdout
    every = done.stdout + done.stderr + listed.stdout + doctor.stdout
    assert "secret-value" not in every and "Traceback" not in every


class Unavailable(BaseHTTPRequestHandler):
    """A host that answers 503 to everything."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(503)
        self.send_header("content-length", "0")
        self.send_header("x-should-retry", "false")
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_a_job_in_doubt_is_kept_and_said_to_be(env: dict[str, str]) -> None:
    """A host that fails leaves the job unconfirmed: submit says so and names the next command,
    status and list show it, the list without asking the host."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Unavailable) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        env = env | {"GPU_KEY": "k"}
        url = f"http://127.0.0.1:{server.server_port}/v1"
        where = ("--base-url", url, "--api-key-env", "GPU_KEY", "--backend", "openai", "-y")
        done = process(env, "submit", str(DATA), "--model", HOSTED, *where)
        job = done.stdout.strip()
        assert job.startswith("ftg-"), done.stderr
        assert "has not confirmed it" in done.stderr and f"ftg wait {job}" in done.stderr
        status = process(env, "status", job)
        assert status.returncode == 0 and "not confirmed" in status.stdout
        assert f"ftg wait {job} sends it" in status.stderr
        server.shutdown()
    listed = process(env, "list")
    assert job in listed.stdout and not listed.stderr


# -- jobs --------------------------------------------------------------------------------------


def test_a_job_from_submit_to_chat(ftg: Ftg) -> None:
    """submit, submit again, wait, list, status, metrics, checkpoints, chat on the fake backend;
    results alone on stdout."""
    submit = ("submit", str(DATA), "--model", "m", "--backend", "fake", "--suffix", "bot")
    job = ftg(*submit).stdout.strip()
    same = ftg(*submit, "--set", "lora-r=16")
    assert same.stdout.strip() == job and "already there" in same.stderr
    other = ftg(*submit, "--again", "--wait", "--json")
    assert other.returncode == 0
    assert json.loads(other.stdout)["status"] == "succeeded"
    assert ftg("wait", job).returncode == 0
    assert ftg("ls", "-q").stdout.split() == [json.loads(other.stdout)["id"], job]
    assert len(json.loads(ftg("list", "--status", "succeeded", "--json").stdout)) == 2
    told = json.loads(ftg("get", job[4:8], "--json").stdout)
    assert (told["id"], told["final"], told["spec"]["suffix"]) == (job, True, "bot")
    assert told["last_metrics"]["step"] == 5
    assert ftg("metrics", job, "--csv").stdout.splitlines()[1] == "1,5,1.0"
    assert "step-5" in ftg("checkpoints", job).stdout
    assert ftg("chat", job, "Hello there").stdout.endswith("You said: Hello there\n")
    assert ftg("chat", job, text="From a pipe\n").stdout.endswith("From a pipe\n")
    answer = json.loads(ftg("chat", job, "Hi", "--json", "-s", "Be brief.").stdout)
    assert answer["text"].endswith("Hi") and answer["finish_reason"] == "stop"
    assert ftg("cancel", job).returncode == 0, "an ended job needs no question"


def test_home_goes_before_the_environment(ftg: Ftg, tmp_path: Path) -> None:
    """--home at either place, with a blank or an equals sign."""
    other = tmp_path / "other"
    args = ("submit", str(DATA), "--model", "m", "--backend", "fake", "-q")
    job = ftg("--home", str(other), *args).stdout.strip()
    assert ftg("list", "-q", f"--home={other}").stdout.strip() == job
    assert ftg("list", "-q").stdout == ""


def test_doctor_finds_a_broken_store(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready on a fresh machine; a damaged store is named, with exit 1; key values never shown."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-very-secret")
    fresh = ftg("doctor")
    assert fresh.returncode == 0 and "Ready." in fresh.stdout
    assert "OPENAI_API_KEY is set" in " ".join(fresh.stdout.split())
    assert "sk-very-secret" not in fresh.stdout
    free = [line for line in fresh.stdout.splitlines() if "home" not in line]
    assert max(len(line) for line in free if "https://" not in line) <= 80
    home = Path(os.environ["FTG_HOME"])
    home.mkdir()
    (home / "gateway.sqlite3").write_bytes(b"not a database" * 100)
    broken = ftg("doctor", "--json")
    assert broken.returncode == 1 and json.loads(broken.stdout)["ok"] is False
    assert ftg("list").returncode == 1


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config", "# ours\nbudget = [\n", "config.toml cannot be read: Invalid value (at the end"),
        ("config", "# ours\nbudget = [\n", "line 2"),
        ("config", "[budget]\nmontly_usd = 5\n", "config.toml, line 2: There is no setting"),
        ("prices", "# ours\ngarbage [", "prices.toml is not a price table: Expected '='"),
        ("prices", "# ours\ngarbage [", "line 2"),
        ("prices", "\n[[price]]\nbackend = 1\nusd = { train_mtok = 1 }\n", "from line 2"),
    ],
)
def test_doctor_reads_what_a_person_wrote(ftg: Ftg, name: str, text: str, said: str) -> None:
    """A file that would stop submit or estimate is named, with its line and what to do."""
    home = Path(os.environ["FTG_HOME"])
    home.mkdir()
    (home / f"{name}.toml").write_text(text)
    done = ftg("doctor")
    shown = " ".join(done.stdout.split())
    assert done.returncode == 1 and "Ready." not in done.stdout
    assert "Something required is broken." in shown
    told = json.loads(ftg("doctor", "--json").stdout)
    (check,) = [one for one in told["checks"] if one["state"] == "error"]
    assert told["ok"] is False and check["name"] == name
    assert said in check["found"] and str(home / f"{name}.toml") in check["found"]
    assert check["fix"]
    (home / f"{name}.toml").unlink()
    assert "Ready." in ftg("doctor").stdout


def test_doctor_names_a_limit_that_is_no_amount(ftg: Ftg, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment too: submit would stop at it."""
    monkeypatch.setenv("FTG_BUDGET_JOB_USD", "12.50")
    assert "budget.job_usd = 12.50" in ftg("doctor").stdout
    monkeypatch.setenv("FTG_BUDGET_JOB_USD", "much")
    done = ftg("doctor")
    assert done.returncode == 1 and "FTG_BUDGET_JOB_USD cannot be 'much'" in done.stdout


def test_backends_and_models_tell_dates(ftg: Ftg) -> None:
    """Every built-in backend, and the closing dates of OpenAI's models."""
    told = {one["name"]: one for one in json.loads(ftg("backends", "--json").stdout)}
    assert {"fake", "local", "openai"} <= told.keys()
    assert told["openai"]["hosted"] and told["openai"]["no_new_jobs_after"]
    assert "openai" in ftg("backends").stdout
    rows = json.loads(ftg("models", "--backend", "openai", "-a", "--json").stdout)
    assert all(row["trainable_until"] for row in rows)
    assert max(map(len, ftg("models").stdout.splitlines())) <= 80
