"""Wrong command lines, and streams and folders that cannot be used: one line in our words and the
right exit code, never those of the libraries that parse, never a traceback."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import typer.main
from support.cli import Done, Ftg
from support.paths import DEMO_TRAIN

from finetune_gateway.cli import main
from finetune_gateway.cli.commands import ALIASES, COMMANDS, ELSEWHERE, FAMILIES, MEANT, split_name
from finetune_gateway.cli.run import build_app
from finetune_gateway.reports.output import display_width, fold

DATA = str(DEMO_TRAIN)
HOSTED = "gpt-4.1-mini-2025-04-14"
THEIRS = re.compile(
    r"Input should|Invalid value|Missing (?:argument|option|parameter)|No such option|unexpected"
    r"|Possible options|requires an argument|not take a value|validation error|pydantic"
    r"|Traceback|Errno|Error\b:|delimiter|None"
)


def errors(command: str, capfd: pytest.CaptureFixture[str], *lines: list[str]) -> list[str]:
    """What each of these wrong lines of a command says; exit 2, nothing on stdout."""
    said = []
    for words in lines:
        assert main([*command.split(), *words]) == 2, words
        out, err = capfd.readouterr()
        assert out == "" and not THEIRS.search(err), err
        assert re.fullmatch(r"error: .+\nhint:  .+\n", err), err
        said.append(err.partition("\n")[0].removeprefix("error: "))
    return said


@pytest.mark.parametrize("command", COMMANDS)
def test_no_word_of_the_parser_is_shown(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Every option of every command without its value or with one too many, numbers that are none,
    an option that there is not, and no argument at all."""
    wrong = [["--frobnicate"]]
    for parameter in typer.main.get_command(build_app(command)).params:
        flag = max(parameter.opts, key=len)
        if parameter.param_type_name == "argument":
            wrong += [[]] if parameter.required else []
        elif getattr(parameter, "is_flag", False):
            wrong += [[f"{flag}=3"]]
        else:
            wrong += [[flag]]
            number = cast(Any, parameter).type_descriptor.annotation in (int, float, list[int])
            wrong += [["x", f"{flag}=x"]] if number else []
    for words, said in zip(wrong, errors(command, capfd, *wrong), strict=True):
        assert (words or ["missing"])[-1].partition("=")[0] in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("list --limit 0", "--limit must be a whole number of at least 1, not '0'."),
        ("list --limit x", "--limit must be a whole number of at least 1, not 'x'."),
        ("logs latest -n -1", "--lines must be a whole number of at least 0, not '-1'."),
        ("chat m hi --temperature nan", "--temperature must be a number of at least 0, not 'nan'."),
        ("preview d --model m --row 0", "--row must be a whole number of at least 1, not '0'."),
        ("submit d --model m --seed x", "--seed must be a whole number, not 'x'."),
        ("config set budget.monthly_usd -5", "ftg config takes no negative number such as -5."),
        ("status", "JOB is missing."),
        ("convert d --to openai", "--out OUT is missing."),
        ("submit d", "--model MODEL is missing."),
        ("list a b", "ftg list does not take 'a b'."),
        ("validate d --mod m", "ftg validate has no option '--mod'."),
        ("validate d --strict=1", "--strict takes no value."),
    ],
)
def test_a_wrong_line_is_answered_with_what_is_taken(line: str, said: str, ftg: Ftg) -> None:
    done = ftg(*line.split())
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, f"error: {said}")
    meant = "Did you mean --model?" if "--mod " in line else ""
    meant = "Like --model builtin/tiny; for others: ftg models" if line == "submit d" else meant
    assert meant in done.stderr


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("list --backend nope", 102, "No backend named 'nope'"),
        ("doctor --backend nope", 102, "No backend named 'nope'"),
        ("models --backend nope", 102, "known: local, azure"),
        ("submit DATA --model m --backend nope --dry-run", 102, "No backend named 'nope'"),
        ("settle nope", 2, "Say whether the host has the job."),
        (f"estimate DATA --model {HOSTED} --set target_modules=[1", 2, "'[1' is not a list"),
        (
            "prices set --backend b --model m --unit train_mtok --usd 1 --source s --as-of soon",
            2,
            "as_of must be a date like 2026-11-21, not 'soon'",
        ),
        ("chat README hi", 2, "is not a model handle: it is not valid JSON"),
        ("chat DATA hi", 2, "It looks like rows."),
    ],
)
def test_wrong_names_and_values_have_their_code(
    line: str, code: int, said: str, ftg: Ftg, tmp_path: Path
) -> None:
    (tmp_path / "README").write_text("# Hello\n")
    words = [{"DATA": DATA, "README": str(tmp_path / "README")}.get(x, x) for x in line.split()]
    done = ftg(*words)
    assert done.returncode == code and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 2 and not THEIRS.search(done.stderr)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("run", "Did you mean: ftg submit"),  # not prune, which is nearer by its letters
        ("show", "Did you mean: ftg status"),
        ("budget", "Did you mean: ftg costs"),  # nor get
        ("submti", "Did you mean: ftg submit"),
        ("login", "Keys are read from the environment: ftg doctor"),
        ("serve", "'ftg status JOB' says where the result is"),
        ("frobnicate", "Run: ftg --help"),
    ],
)
def test_a_word_of_another_tool_is_answered_with_ours(word: str, said: str, ftg: Ftg) -> None:
    done = ftg(word, "latest")
    assert done.returncode == 2 and f"hint:  {said}" in done.stderr


def test_what_is_suggested_exists() -> None:
    """No word of another tool hides a command, and each leads to one."""
    ours = COMMANDS.keys() | ALIASES.keys() | FAMILIES.keys()
    assert not (MEANT.keys() | ELSEWHERE.keys()) & ours
    assert {split_name(meant.split())[0] for meant in MEANT.values()} <= COMMANDS.keys()


# -- a dry run ---------------------------------------------------------------------------------


def test_a_name_that_is_no_text_is_a_name_of_nothing(ftg: Ftg) -> None:
    """Bytes of a file's name in another encoding, given for a job."""
    for command in ("status", "rm", "settle"):
        more = ["--not-created"] if command == "settle" else []
        done = ftg(command, "job-\udcff", *more)
        assert done.returncode == 102 and "'job-\\udcff'" in done.stderr, done.stderr


def test_a_dry_run_ends_as_the_submit_would(
    ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """3 for bad data, 4 over a limit and over the month's budget, 5 without a key, else 0."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": []}\n')
    hosted = (DATA, "--model", HOSTED, "--dry-run")
    assert ftg("submit", *hosted).returncode == 5
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-nobody")
    assert ftg("submit", *hosted).returncode == 0
    assert ftg("submit", *hosted, "--max-cost", "0.0001").returncode == 4
    assert ftg("submit", str(bad), *hosted[1:]).returncode == 3
    monkeypatch.setenv("FTG_BUDGET_MONTHLY_USD", "0.01")
    for form in ((), ("--json",)):
        done = ftg("submit", *hosted, *form)
        assert done.returncode == 4 and "are left" in done.stdout + done.stderr
    assert json.loads(done.stdout)["error"]["code"] == 4


def test_a_dry_run_names_an_equal_job_and_leaves_it(ftg: Ftg) -> None:
    words = ("submit", DATA, "--model", "m", "--backend", "fake")
    job = ftg(*words, "-q").stdout.strip()
    done = ftg(*words, "--dry-run", "--json")
    assert (done.returncode, json.loads(done.stdout)["existing"]) == (0, job)
    assert job in done.stderr
    assert json.loads(ftg(*words, "--dry-run", "--again", "--json").stdout)["existing"] is None
    assert [one["id"] for one in json.loads(ftg("list", "--json").stdout)] == [job]


# -- streams that are closed or full -----------------------------------------------------------


def in_shell(env: dict[str, str], line: str) -> Done:
    command = line.replace("ftg", f"'{sys.executable}' -m finetune_gateway")
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    return Done(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ftg rules <&- >&- 2>&-", 0),
        ("ftg nope 2>/dev/full", 2),
        ("ftg nope 2>&1 >/dev/null | true; exit ${PIPESTATUS[0]}", 2),
        ("ftg --help >/dev/full", 1),
    ],
)
def test_a_stream_that_cannot_be_used_changes_no_exit_code(
    line: str, code: int, env: dict[str, str]
) -> None:
    """A closed stdout is an empty one; without stderr the result and the exit code are the same; a
    full stdout is an error in words."""
    done = in_shell(env, line)
    assert done.returncode == code, done.stderr
    assert not THEIRS.search(done.stderr)


# -- folders and files without rights ----------------------------------------------------------

RUN = """
import sys
from finetune_gateway.cli import main
for line in sys.argv[1:]:
    print(main(line.split()), flush=True)
    print("--", file=sys.stderr, flush=True)
"""


def obey_modes() -> None:
    """Let modes of files count for root too: drop CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    for capability in (1, 2):
        ctypes.CDLL(None).prctl(24, capability)


@pytest.mark.skipif(sys.platform != "linux", reason="root obeys modes on Linux only")
def test_what_may_not_be_read_or_written_is_said_in_a_line(
    env: dict[str, str], tmp_path: Path
) -> None:
    """Data, a folder of data, a file to write, a model, a handle and prices, each by its name."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "d.jsonl").write_text("{}")
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "fixed").mkdir()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "prices.toml").write_text("")
    for name, mode in (("closed", 0), ("secret", 0), ("fixed", 0o555), ("home/prices.toml", 0)):
        (tmp_path / name).chmod(mode)
    lines = {
        "validate secret": 3,
        "validate closed/d.jsonl": 3,
        f"convert {DATA} --to openai -o fixed/x.jsonl": 1,
        f"estimate {DATA} --model ./closed": 1,
        "chat secret hi": 1,
        "prices": 1,
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, *lines],
        env=env | {"FTG_HOME": str(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        preexec_fn=obey_modes if os.geteuid() == 0 else None,
    )
    (tmp_path / "closed").chmod(0o755)
    assert [int(code) for code in done.stdout.split()] == list(lines.values()), done.stderr
    assert not THEIRS.search(done.stderr), done.stderr
    for said in done.stderr.split("--\n")[:-1]:
        assert "ermission denied" in said and len(said.splitlines()) <= 2, said


# -- pages -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["validate", "preview", "estimate"])
def test_a_page_replaces_pages_of_ours_alone(command: str, ftg: Ftg, tmp_path: Path) -> None:
    """Another file is replaced with --force only, and refused before any work."""
    page = tmp_path / "index.html"
    page.write_text("<title>My own site</title>")
    words = (command, DATA, "--model", HOSTED, "--html", str(page), "-q")
    done = ftg(*words)
    assert done.returncode == 2 and "not a page of ours" in done.stderr and "--force" in done.stderr
    assert "My own site" in page.read_text() and done.stdout == ""
    assert ftg(*words, "--force").returncode == 0
    before = page.stat().st_ino
    assert ftg(*words).returncode == 0 and page.stat().st_ino != before


def test_the_demo_keeps_a_summary_that_is_not_its_own(ftg: Ftg, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    done = ftg("demo", "--out", str(tmp_path))
    assert done.returncode == 2 and "not a page of ours" in done.stderr
    assert (tmp_path / "report.html").read_text() == "mine"


# -- wrapping ----------------------------------------------------------------------------------


def test_long_lines_are_wrapped_at_words() -> None:
    """Under the text of an error or a hint, under the first word of an indented line; our colours
    take no room, wide characters take two columns, no word is broken."""
    hint = f"hint:  Use one of: {', '.join(['validating_files', 'queued', 'running'] * 3)}."
    lines = fold(f"error: short\n{hint}", 40).split("\n")
    assert lines[0] == "error: short" and lines[2].startswith("       queued, running,")
    assert " ".join(line.strip() for line in lines[1:]) == hint
    assert all(len(line) <= 40 for line in lines)
    assert fold("  one two three", 9) == "  one two\n  three"
    assert display_width("\x1b[31merror:\x1b[0m 数据") == 11
    assert fold("x" * 90 + " y", 40) == "x" * 90 + "\ny"
