"""A model of anybody's comes from the Hub whole, on a base that is asked for, or is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from support.hub_repos import HubRepos, hub_repos
from transformers import AutoModelForCausalLM

from finetune_gateway import ModelHandle
from finetune_gateway.backends.local import peft_warnings

NAME, BASE = "acme/support", "acme/base"
Ftg = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def hub(tiny_folder: Path) -> Iterator[HubRepos]:
    """A hub with the base."""
    with hub_repos() as hub:
        files = {path.name: path.read_bytes() for path in tiny_folder.iterdir()}
        hub.new(BASE, files, private=False)
        yield hub


@pytest.fixture(scope="module")
def adapter(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of an adapter that somebody has made with PEFT alone."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(1)
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    config = LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights=False)
    with peft_warnings.ignored():
        get_peft_model(base, config).save_pretrained(str(folder))
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return {**files, **changed(files, base_model_name_or_path=BASE)}


def changed(files: dict[str, bytes], **values: Any) -> dict[str, bytes]:
    """The configuration with other values."""
    about = json.loads(files["adapter_config.json"]) | values
    return {"adapter_config.json": json.dumps(about).encode()}


@pytest.fixture
def ftg(hub: HubRepos, home: Path, tmp_path: Path) -> Ftg:
    """Runs a command line that asks that hub."""

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "finetune_gateway", *words],
            env=hub.environment(tmp_path / "cache"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        hub.pid = process.pid
        out, err = process.communicate(timeout=120)
        assert "Traceback" not in err, err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    return run


def test_an_adapter_of_anybodys_answers_on_its_base(
    ftg: Ftg, hub: HubRepos, adapter: dict[str, bytes], tiny_folder: Path, tmp_path: Path
) -> None:
    """Its base is shown with its commit and asked for, and pinned: a newer one is not used."""
    repo = hub.new(NAME, {**adapter, "rows.jsonl": b"x", "optimizer.pt": b"x"})
    pinned, _ = hub.repos[BASE].files()
    asked = ftg("pull", NAME)
    assert asked.returncode == 4 and f"answers on {BASE} at commit {pinned[:12]}" in asked.stderr
    done = ftg("pull", NAME, "--yes", "--to", str(tmp_path / "mine"))
    assert done.returncode == 0 and done.stdout == f"{tmp_path / 'mine'}\n", done.stderr
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {
        *("adapter_config.json", "adapter_model.safetensors"),
        *("finetune_gateway.json", "manifest.json"),
    }
    handle = ModelHandle.load(tmp_path / "mine")
    assert (handle.kind, handle.base_model, handle.base_revision) == ("adapter", BASE, pinned)
    hub.repos[BASE].branches["main"].append(("f" * 40, {"config.json": b"{}"}))
    answer = ftg("chat", str(tmp_path / "mine"), "Hello", "--max-tokens", "5")
    assert answer.returncode == 0, answer.stderr
    here = handle.model_copy(update={"base_model": str(tiny_folder), "base_revision": None})
    assert answer.stdout.strip() == here.chat("Hello", max_tokens=5).text.strip()
    assert repo.files()[0] in ftg("pull", NAME, "--dry-run", "--json").stdout


def test_a_pull_that_was_killed_goes_on(
    ftg: Ftg, hub: HubRepos, adapter: dict[str, bytes], tmp_path: Path
) -> None:
    """No folder is there before all of it is."""
    hub.new(NAME, adapter)
    place = tmp_path / "mine"
    words = ("pull", NAME, "--yes", "--to")
    assert ftg(*words, str(tmp_path / "other"), "--dry-run").returncode == 0
    hub.asked.clear()
    assert ftg(*words, str(tmp_path / "other")).returncode == 0
    large = [at for at, one in enumerate(hub.asked, 1) if one.endswith(".safetensors")][-1]
    hub.asked.clear()
    hub.kill_at = (large, True)
    assert ftg(*words, str(place)).returncode == -9 and not place.exists()
    hub.kill_at = None
    assert ftg(*words, str(place)).returncode == 0
    weights = (place / "adapter_model.safetensors").read_bytes()
    assert weights == adapter["adapter_model.safetensors"]


BAD: dict[str, tuple[Callable[[dict[str, bytes]], dict[str, bytes]], str]] = {
    "a pickle": (
        lambda files: {"adapter_config.json": files["adapter_config.json"], "a.bin": b"x"},
        "its weights are pickles (a.bin), which can run code",
    ),
    "nothing": (lambda files: {"README.md": b"x"}, "it has no adapter and no weights"),
    "code": (lambda files: {**files, **changed(files, auto_map={"x": "y"})}, "code of its own"),
    "a folder as its base": (
        lambda files: {**files, **changed(files, base_model_name_or_path="/home/jan/base")},
        "names no base on the Hub, but '/home/jan/base'",
    ),
    "a base that is not there": (
        lambda files: {**files, **changed(files, base_model_name_or_path="acme/gone")},
        "The Hub has no acme/gone",
    ),
    "a huge rank": (lambda files: {**files, **changed(files, r=10**9)}, "its rank cannot be"),
    "another rank": (
        lambda files: {**files, **changed(files, r=64)},
        "it says rank 64, and its weights have 4",
    ),
    "another method": (
        lambda files: {**files, **changed(files, peft_type="PREFIX_TUNING")},
        "it is no LoRA adapter, but 'PREFIX_TUNING'",
    ),
    "a start that changes the base": (
        lambda files: {**files, **changed(files, init_lora_weights="pissa")},
        "it changes its base when it is put on",
    ),
    "no JSON": (lambda files: {**files, "adapter_config.json": b"{"}, "is no JSON object"),
    "half a header": (
        lambda files: {**files, "adapter_model.safetensors": b"\xff" * 40},
        "holds no weights",
    ),
    "other weights": (
        lambda files: {**files, "adapter_model.safetensors": save({"x": torch.zeros(2)})},
        "its weights have no LoRA in them",
    ),
}


def test_what_cannot_be_trusted_is_refused(
    hub: HubRepos, adapter: dict[str, bytes], home: Path, tmp_path: Path
) -> None:
    """Before a weight is loaded, in one process for all."""
    for number, (make, _) in enumerate(BAD.values()):
        hub.new(f"acme/bad-{number}", make(adapter))
    script = (
        "import sys, finetune_gateway as g\n"
        "for number in range(int(sys.argv[1])):\n"
        "    try: g.ModelHandle.pull(f'acme/bad-{number}')\n"
        "    except g.GatewayError as exc: print(exc.message)\n"
        "    else: print('brought')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(len(BAD))],
        env=hub.environment(tmp_path / "cache"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for said, (kind, (_, words)) in zip(done.stdout.splitlines(), BAD.items(), strict=True):
        assert words in said, (kind, said)
    assert not [*(home / "models").glob("*")]
