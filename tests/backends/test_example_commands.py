"""Every command with each example of docs/: what one refuses is said in words."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Ftg
from support.installed import install
from support.paths import ROOT
from support.rest_service import KEY, RestService
from support.rows import chat_rows
from support.safetensors import weights
from support.together_host import BASES, TogetherHost

from finetune_gateway.cli.commands import COMMANDS
from finetune_gateway.jobs import deployments

ADAPTER = {"adapter_config.json": b"{}", "adapter_model.safetensors": weights("w")}
BOTH = ("rest", "together")
TO = "--model {model} --backend {name}"
ASKED = "--data {held_out} --rows 2 --yes"
NO_CONTRACT = "hosts of OpenAI's contract, and '{name}' is none"

# In the order of a job's life: the command, its arguments, its exit code, what it says, and of
# which examples that is so.
LINES: list[tuple[str, str, int, str, tuple[str, ...]]] = [
    ("backends", "{name}", 0, "hosted: the data leaves this machine", BOTH),
    ("demo", "--help", 0, "", BOTH),  # is about no backend
    ("config", "", 0, "budget.monthly_usd", BOTH),
    ("prices", "show", 0, "USD per million tokens", BOTH),
    ("models", "--backend {name}", 0, "rest does not say which models", ("rest",)),
    ("models", "--backend {name}", 0, "{model}", ("together",)),
    ("validate", "{rows} --backend {name}", 0, "12 rows", BOTH),
    ("rules", "last_not_assistant", 0, "the last message is not from the assistant", BOTH),
    ("convert", "{rows} --to trl -o {out}/c.jsonl", 0, "converted 12 rows", BOTH),
    ("split", "{rows} --out {out}/s", 0, "91.7%", BOTH),
    ("preview", "{rows} " + TO, 2, "The encoding of '{model}' is not known", BOTH),
    ("estimate", "{rows} " + TO, 0, "{name} / {model}", BOTH),
    ("advise", "{rows} " + TO, 0, "{name} {model}", BOTH),
    ("submit", "{rows} " + TO + " --yes --wait -q", 0, "ftg-", BOTH),
    ("doctor", "", 0, "store 1 job", BOTH),
    ("doctor", "--backend {name}", 0, "accepts the key", ("together",)),
    ("list", "--backend {name} --refresh", 0, "{job} succeeded", BOTH),
    ("status", "{job}", 0, "as {name} bills it", BOTH),
    ("watch", "{job}", 0, "{job} succeeded", BOTH),
    ("wait", "{job}", 0, "{job} succeeded", BOTH),
    ("logs", "{job}", 0, "Now DONE.", ("rest",)),
    ("logs", "{job}", 0, "The job is completed.", ("together",)),
    ("events", "{job}", 0, "Now DONE.", ("rest",)),
    ("events", "{job}", 0, "The job is completed.", ("together",)),
    ("metrics", "{job}", 0, "No metrics.", BOTH),
    ("checkpoints", "{job}", 0, "No checkpoints.", BOTH),
    ("report", "{job} --out {out}/r.html", 0, "r.html", BOTH),
    ("costs", "", 0, "as {name} bills it", BOTH),
    ("cancel", "{job} --yes", 0, "The job had already ended.", BOTH),
    ("pause", "{job}", 2, "{job} has ended", BOTH),
    ("resume", "{job} --yes", 2, "{job} has succeeded", BOTH),
    ("settle", "{job} --not-created", 2, "{job} is not in doubt", BOTH),
    ("deploy", "{job} --yes", 0, "It answers: ftg chat {job}", ("rest",)),
    ("deploy", "{job} --yes", 2, "{job} is of together", ("together",)),
    ("chat", "{job} Hello", 0, "Hello", BOTH),
    ("compare", "{job} " + ASKED, 0, "{job}", BOTH),
    ("check", "{job} {guide} " + ASKED, 1, "role", BOTH),  # it repeats what it is asked
    ("download", "{job}", 0, "The adapter: adapter_config.json", ("rest",)),  # while it is deployed
    ("download", "{job}", 2, "together gives no files of {job}", ("together",)),
    ("push", "{job} acme/support --yes", 2, "answers at its host", BOTH),
    ("pull", "acme/support --yes", 1, "HF_HUB_OFFLINE is set", BOTH),
    ("merge", "{job} --to {out}/whole", 2, "answers at its host", BOTH),
    ("export", "{job} --to vllm --out {out}/served", 2, "answers at its host", BOTH),
    ("card", "{job}", 0, "answers at its host alone", BOTH),
    ("models add", "run-1 --backend {name}", 2, NO_CONTRACT, BOTH),
    ("migrate list", "--backend {name}", 2, NO_CONTRACT, BOTH),
    ("migrate fetch", "--backend {name} --all", 2, NO_CONTRACT, BOTH),
    ("migrate record", "{job} " + ASKED, 2, "whose backend is a plug-in", BOTH),
    ("migrate plan", "{job} --backend {name}", 2, NO_CONTRACT, BOTH),
    (
        "migrate run",
        "{job} --to {name} --yes --min normalized_match=0.8",
        2,
        "{job} was trained at {name}",
        BOTH,
    ),
    ("prune", "--remote --yes", 0, "nothing to remove", BOTH),
    ("deploy", "{job} --delete --yes", 0, "{job}", ("rest",)),
    ("rm", "{job} --yes", 0, "{job} removed", BOTH),
]


def test_each_command_has_a_line() -> None:
    """A new one says what it does with a plug-in."""
    for example in BOTH:
        assert {command for command, *_, of in LINES if example in of} == COMMANDS.keys()


@pytest.fixture(params=BOTH)
def example(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ftg: Ftg
) -> Iterator[str]:
    """An example that is installed, with its host and its key, and short pauses."""
    name = str(request.param)
    if name == "together":
        pytest.importorskip("together", reason="pip install --no-deps together")
    folder, source, site = ROOT / "docs" / f"example-{name}", tmp_path / "source", tmp_path / "site"
    source.mkdir()
    (files := tmp_path / "adapter").mkdir()
    for file, raw in ADAPTER.items():
        (files / file).write_bytes(raw)
    with RestService(files) as rest, TogetherHost() as host:
        for file in (f"ftg_{name}.py", "pyproject.toml"):
            text = (folder / file).read_text(encoding="utf-8")
            text = text.replace("https://rest.example/v1", rest.url)
            text = text.replace("(0.2, 30.0)", "(0.01, 0.02)").replace(
                "(5.0, 60.0)", "(0.01, 0.02)"
            )
            (source / file).write_text(text)
        install(site, source)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, f"ftg_{name}", raising=False)
        importlib.invalidate_caches()
        for variable, value in {
            "REST_API_KEY": KEY, "TOGETHER_API_KEY": host.key, "TOGETHER_BASE_URL": host.root,
        }.items():  # fmt: skip
            monkeypatch.setenv(variable, value)
        monkeypatch.setattr(deployments, "PAUSE", 0.01)
        yield name
    sys.modules.pop(f"ftg_{name}", None)


def test_every_command_with_an_example(
    example: str, ftg: Ftg, home: Path, train_file: Path, tmp_path: Path
) -> None:
    """It works, or says why not; none ends with a traceback."""
    (tmp_path / "held_out.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in chat_rows(14)[12:])
    )
    assert (
        ftg("check", "--init", str(train_file), "-o", str(tmp_path / "guide.yaml")).returncode == 0
    )
    known = {
        "name": example, "rows": str(train_file), "out": str(tmp_path), "job": "",
        "model": {"rest": "acme-7b", "together": BASES[0]}[example],
        "held_out": str(tmp_path / "held_out.jsonl"), "guide": str(tmp_path / "guide.yaml"),
    }  # fmt: skip
    wrong = []
    for command, words, code, said, examples in LINES:
        if example not in examples:
            continue
        done = ftg(*command.split(), *words.format(**known).split())
        text = " ".join((done.stdout + done.stderr).split())
        if command == "submit":
            known["job"] = done.stdout.strip()
        if done.returncode != code or said.format(**known) not in text or "Traceback" in text:
            wrong.append((command, done.returncode, text))
    assert not wrong, "\n".join(map(str, wrong))
