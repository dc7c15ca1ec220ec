"""The example backend of the docs, found by its entry point as an installed one would be."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Ftg
from support.installed import install
from support.paths import ROOT
from support.rows import chat_rows

from finetune_gateway import backend as contract
from finetune_gateway import registry

EXAMPLE = ROOT / "docs" / "example-backend"


def installed(site: Path, source: Path = EXAMPLE) -> None:
    install(site, source)


def ftg(site: Path, home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(site), "FTG_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-m", "finetune_gateway", *words],
        capture_output=True,
        text=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_an_installed_backend_runs_a_job(tmp_path: Path, home: Path, train_file: Path) -> None:
    """Submit, wait and chat through a backend that the gateway has never heard of."""
    site = tmp_path / "site"
    installed(site)
    sent = ftg(
        site, home, "submit", str(train_file), "--model", "any", "--backend", "recall", "--wait",
        "--json",
    )  # fmt: skip
    assert sent.returncode == 0, sent.stderr
    job = json.loads(sent.stdout)
    assert (job["status"], job["backend"]) == ("succeeded", "recall")
    said = ftg(site, home, "chat", job["id"], "where is parcel number 4")
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "Parcel 4 comes on day 4."
    # A second process has the same events, and no more of them.
    events = ftg(site, home, "events", job["id"], "--json").stdout.splitlines()
    assert [json.loads(line)["message"] for line in events] == ["Read the rows."]


def test_the_contract_is_the_one_import_of_an_author() -> None:
    """The example imports nothing else of ours, and what a backend with prices and its own errors
    needs is there too."""
    for path in EXAMPLE.glob("*.py"):
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        whole = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
        ours = {name for name in froms | whole if name.partition(".")[0] == "finetune_gateway"}
        assert ours == {"finetune_gateway.backend"}
    wanted = {
        *("HostedCounter", "TokenCounter", "find_price", "gpu_prices", "Price", "epochs_of"),
        *("auto_epochs", "Settings", "ChatModel", "ChatReply", "Usage", "Range", "Estimate"),
        *("BackendError", "AuthenticationError", "NotFoundError", "GatewayError"),
    }
    assert wanted <= {*contract.__all__}
    assert all(hasattr(contract, name) for name in contract.__all__)


def test_an_installed_backend_is_listed(tmp_path: Path, home: Path) -> None:
    """With the distribution that brought it."""
    installed(tmp_path / "site")
    listed = ftg(tmp_path / "site", home, "backends")
    assert listed.returncode == 0, listed.stderr
    assert "recall  (ftg-recall 0.1.0)" in listed.stdout


def test_a_backend_on_this_machine_is_held_to_local_rules(tmp_path: Path, home: Path) -> None:
    """Four rows are too few for OpenAI; a plug-in whose data stay here trains on them."""
    data = tmp_path / "four.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in chat_rows(4)), encoding="utf-8")
    installed(tmp_path / "site")
    words = (str(data), "--model", "any", "--backend", "recall")
    for command in ("validate", "estimate", "submit"):
        done = ftg(tmp_path / "site", home, command, *words)
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_backend_has_rules_of_its_own(
    tmp_path: Path, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example looks the last answer up: a row without one is refused for it alone. A mistake in
    its rules is said in a sentence that names it, before a row is read."""
    site, data = tmp_path / "site", tmp_path / "rows.jsonl"
    rows = chat_rows(12)
    rows[3]["messages"].append({"role": "user", "content": "Thanks."})
    data.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    installed(site)
    monkeypatch.syspath_prepend(str(site))
    report = json.loads(ftg("validate", str(data), "--backend", "recall", "--json").stdout)
    (one,) = (one for one in report["findings"] if one["severity"] == "error")
    assert (one["code"], one["line"], one["backends"]) == ("last_not_assistant", 4, ["recall"])
    module = site / "ftg_recall.py"
    text = module.read_text(encoding="utf-8")
    # Of another size: Python takes bytecode for a file's by its size and its second.
    text = text.replace('assistant": "error"', 'assistant": "fatal"') + "# changed\n"
    module.write_text(text, encoding="utf-8")
    del sys.modules["ftg_recall"]
    said = ftg("submit", str(data), "--model", "any", "--backend", "recall")
    assert said.returncode == 1, said.stderr
    assert "Capabilities.rules of backend 'recall' gives last_not_assistant" in said.stderr
    assert "'fatal'" in said.stderr and "Traceback" not in said.stderr
    del sys.modules["ftg_recall"]


def test_a_package_that_comes_or_goes_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a process that has asked before: entry points are read again when a folder changes."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    assert "recall" not in registry.names()
    installed(site)
    os.utime(site, (1, 1))  # however coarse the clock of the disk is
    assert "recall" in registry.names()
    [about] = site.glob("*.dist-info")
    about.rename(tmp_path / about.name)
    assert "recall" not in registry.names()


def test_without_it_the_name_is_unknown(tmp_path: Path, home: Path, train_file: Path) -> None:
    """The message names the backends there are."""
    sent = ftg(tmp_path, home, "estimate", str(train_file), "--model", "m", "--backend", "recall")
    assert sent.returncode == 102
    assert "No backend named 'recall'" in sent.stderr and "fake" in sent.stderr


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("recall =", "openai =", "Two packages offer a backend named 'openai'"),
        ("ftg_recall:", "ftg_gone:", "cannot be imported"),
    ],
)
def test_a_broken_plugin_is_told(
    old: str, new: str, said: str, tmp_path: Path, home: Path, train_file: Path
) -> None:
    """A name that is taken, and a module that is not there: one sentence, no traceback."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    text = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    (source / "pyproject.toml").write_text(text.replace(old, new), encoding="utf-8")
    installed(site, source)
    sent = ftg(site, home, "submit", str(train_file), "--model", "any", "--backend", "recall")
    assert sent.returncode == 1
    assert said in sent.stderr and "Traceback" not in sent.stderr


def test_two_plugins_of_one_name_are_both_named(
    tmp_path: Path, home: Path, train_file: Path
) -> None:
    """The message says which distributions to choose between."""
    source, site = tmp_path / "source", tmp_path / "site"
    source.mkdir()
    text = (EXAMPLE / "pyproject.toml").read_text(encoding="utf-8")
    other = text.replace('name = "ftg-recall"', 'name = "ftg-other"')
    (source / "pyproject.toml").write_text(other, encoding="utf-8")
    installed(site, source)
    installed(site)
    sent = ftg(site, home, "submit", str(train_file), "--model", "any", "--backend", "recall")
    assert sent.returncode == 1 and "Two packages offer a backend named 'recall'" in sent.stderr
    assert "ftg-other" in sent.stderr and "ftg-recall" in sent.stderr
