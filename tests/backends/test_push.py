"""A model goes to the Hub whole, in one commit, whatever ends a push; and nothing private does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from support.hub_repos import TOKEN, HubRepos, hub_repos
from support.rows import chat_rows
from support.training import handle_of

from finetune_gateway import ModelHandle, SpecError, UnsupportedError
from finetune_gateway.backends.local.run import Run

BASE = "Qwen/Qwen3-0.6B@" + "a" * 40
SYSTEM = "You answer for a shop in Kraków that nobody knows."
ADAPTER = {"adapter_config.json", "adapter_model.safetensors"}
Push = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub() -> Iterator[HubRepos]:
    with hub_repos() as hub:
        yield hub


@pytest.fixture
def model(train: Callable[..., Run], home: Path) -> Path:
    """The folder of a trained adapter, whose base is a folder here."""
    handle = handle_of(train(8, n_epochs=1))
    folder = Path(handle.model)
    handle.model_copy(update={"system_prompt": SYSTEM}).save(folder)
    (folder / "optimizer.pt").write_bytes(b"the state of an optimiser")
    (folder / "rows.jsonl").write_text("a row\n")
    return folder


@pytest.fixture
def push(hub: HubRepos, model: Path, tmp_path: Path) -> Push:
    """Runs ``ftg push`` of that model to acme/support."""

    def run(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finetune_gateway", "push", str(model), "acme/support"]
        process = subprocess.Popen(
            [*command, *words],
            env=hub.environment(tmp_path / "cache") | env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        hub.pid = process.pid
        out, err = process.communicate(timeout=120)
        assert TOKEN not in out + err and "Traceback" not in err, err
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    return run


def require_whole(hub: HubRepos) -> None:
    """One commit beside the first, empty one, with all of the model and nothing else."""
    [(_, empty), (_, files)] = hub.repos["acme/support"].branches["main"]
    assert not empty and files.keys() > ADAPTER
    assert {"README.md", "finetune_gateway.json", "tokenizer.json", "chat_template.jinja"} < {
        *files
    }
    assert not {name for name in files if name.endswith((".pt", ".bin", ".jsonl", ".lock"))}
    about = json.loads(files["adapter_config.json"])
    assert (about["base_model_name_or_path"], about["revision"]) == tuple(BASE.split("@"))


def test_a_push_is_one_private_commit_and_says_nothing_private(
    push: Push, hub: HubRepos, model: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    """What will be sent is shown first; the same command again makes no second commit. Nothing on
    the wire names a row, a system prompt, a folder or a user."""
    asked = push("--base", BASE)
    assert asked.returncode == 4 and "Nothing was sent: there is no terminal" in asked.stderr
    assert "for you and your organisation alone, by the token of jan" in asked.stderr
    shown = json.loads(push("--base", BASE, "--dry-run", "--json").stdout)
    assert shown["dry_run"] and not hub.repos
    done = push("--base", BASE, "--yes", "--tag", "v1")
    assert done.returncode == 0 and done.stdout == f"{hub.url}/acme/support\n", done.stderr
    require_whole(hub)
    repo = hub.repos["acme/support"]
    commit, files = repo.files()
    assert repo.private and repo.tags == {"v1": commit}
    assert {one["name"]: one["bytes"] for one in shown["files"]} == {
        name: len(raw) for name, raw in files.items()
    }
    assert files["adapter_model.safetensors"] == (model / "adapter_model.safetensors").read_bytes()
    again = push("--base", BASE, "--yes", "--tag", "v1", "-q")
    assert (again.returncode, again.stderr) == (0, "")
    require_whole(hub)
    sent = b"\n".join(hub.received)
    private = [SYSTEM, str(tmp_path), str(tiny_folder), f"{Path.home()}/", "optimiser", "a row"]
    texts = [one["content"] for row in chat_rows(8) for one in row["messages"]]
    for text in [*private, *texts]:
        assert text.encode() not in sent and json.dumps(text)[1:-1].encode() not in sent, text


def kill_at(push: Push, hub: HubRepos, stages: list[tuple[int, bool]]) -> None:
    for stage in stages:
        hub.repos.clear()
        hub.large.clear()
        hub.asked.clear()
        hub.kill_at = stage
        assert push("--base", BASE, "--yes", "--tag", "v1").returncode == -9
        hub.kill_at = None
        done = push("--base", BASE, "--yes", "--tag", "v1")
        assert done.returncode == 0, done.stderr
        require_whole(hub)
        assert hub.repos["acme/support"].tags == {"v1": hub.repos["acme/support"].files()[0]}


def requests_of(push: Push, hub: HubRepos) -> list[str]:
    """The requests of a push that nothing ends."""
    assert push("--base", BASE, "--yes", "--tag", "v1").returncode == 0
    return list(hub.asked)


def test_a_push_that_was_killed_goes_on(push: Push, hub: HubRepos) -> None:
    """While a large file is sent, and once the commit is made but not answered."""
    requests = requests_of(push, hub)
    sends = next(at for at, one in enumerate(requests, 1) if one.startswith("PUT /large/"))
    commits = next(at for at, one in enumerate(requests, 1) if "/commit/" in one)
    kill_at(push, hub, [(sends, True), (commits, True)])


@pytest.mark.chaos
def test_a_push_that_was_killed_at_any_request_goes_on(push: Push, hub: HubRepos) -> None:
    count = len(requests_of(push, hub))
    kill_at(push, hub, [(at, after) for at in range(1, count + 1) for after in (False, True)])


def test_what_the_hub_refuses_is_said_and_goes_on(push: Push, hub: HubRepos) -> None:
    """A token that it does not know, one that may not write, a commit that is refused."""
    wrong = push("--base", BASE, "--yes", HF_TOKEN="hf_wrong")
    assert wrong.returncode == 5 and "The Hub takes no such token" in wrong.stderr, wrong.stderr
    hub.statuses["/api/repos/create"] = [403]
    denied = push("--base", BASE, "--yes")
    assert "may not do that with acme/support" in denied.stderr and not hub.repos
    hub.statuses["/api/models/acme/support/commit/main"] = [400]
    refused = push("--base", BASE, "--yes")
    assert "refuses it: sending it failed (400)" in refused.stderr
    assert len(hub.repos["acme/support"].branches["main"]) == 1
    assert push("--base", BASE, "--yes").returncode == 0
    require_whole(hub)


def test_a_repository_that_others_read_is_not_written_unless_that_is_asked(
    push: Push, hub: HubRepos
) -> None:
    """And what would be loaded in the place of the new files goes, in the same commit."""
    old = {"model-00001-of-00002.safetensors": b"x", "config.json": b"{}", "notes.md": b"mine"}
    repo = hub.new("acme/support", old, private=False)
    refused = push("--base", BASE, "--yes")
    assert refused.returncode == 2 and "is public on the Hub, and stays so" in refused.stderr
    assert push("--base", BASE, "--yes", "--public").returncode == 0
    files = repo.files()[1]
    assert len(repo.branches["main"]) == 2 and files.keys() > ADAPTER and "notes.md" in files
    assert not {"model-00001-of-00002.safetensors", "config.json"} & files.keys()


def test_what_cannot_be_sent_is_refused_before_anything_is(
    model: Path, hub: HubRepos, push: Push
) -> None:
    unknown = push("--yes")
    assert unknown.returncode == 2 and "Its base is on no Hub that is known here" in unknown.stderr
    weights = model / "adapter_model.safetensors"
    save_file(load_file(weights), weights, {"format": "pt", "made_in": "/home/jan"})
    noted = push("--yes", "--base", BASE)
    assert "has notes (made_in), which may be private" in noted.stderr, noted.stderr
    assert not [one for one in hub.asked if one.startswith(("POST", "PUT"))]
    handle = ModelHandle.load(model)
    for wrong in ("support", "a/b/c", "../x", "a--b/c"):
        with pytest.raises(SpecError, match="no name of a model on the Hub"):
            handle.push(wrong)
    with pytest.raises(SpecError, match="tag cannot be"):
        handle.push("acme/support", tag="v 1")
    with pytest.raises(SpecError, match="branch cannot be"):
        handle.push("acme/support", branch="-x")
    hosted = ModelHandle(kind="hosted", model="ft:x", base_model="m", backend="openai")
    with pytest.raises(UnsupportedError, match="answers at its host"):
        hosted.push("acme/support")


def test_an_adapter_is_sent_merged_if_that_is_asked(push: Push, hub: HubRepos) -> None:
    """Its base need not be on the Hub; no copy stays here."""
    done = push("--merged", "--yes", "--branch", "merged")
    assert done.returncode == 0, done.stderr
    files = hub.repos["acme/support"].files("merged")[1]
    assert {"model.safetensors", "config.json", "generation_config.json"} < files.keys()
    assert (
        not ADAPTER & files.keys()
        and json.loads(files["finetune_gateway.json"])["kind"] == "merged"
    )
