"""An adapter merged into its base: the same logits by transformers, PEFT and the handle, or nothing
is there."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.chaos import until
from support.cli import Ftg
from support.training import handle_of

from finetune_gateway import GatewayError, ModelHandle
from finetune_gateway.backends.local import merging
from finetune_gateway.backends.local.run import Run

Train = Callable[..., Run]
IDS = torch.arange(5, 65).reshape(3, 20)
LARGE = {"learning_rate": 0.05, "n_epochs": 2}  # an adapter that changes what is answered


def logits(folder: Path, base: Path | None = None) -> torch.Tensor:
    """Those of a folder by transformers alone; of an adapter on a base by PEFT."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32)
    if base is not None:
        with warnings.catch_warnings():  # peft 0.21 reads what transformers 5.23 has renamed
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(model, str(folder))
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(input_ids=IDS).logits
    return found


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def test_a_merged_model_answers_as_its_adapter_does(
    train: Train, ftg: Ftg, tiny_folder: Path, tmp_path: Path
) -> None:
    """In transformers, PEFT and the handle, and wherever the folder is moved to; its files are
    readable as any other's, without a pickle, and name no folder of this machine's home."""
    run = train(8, **LARGE)
    handle = handle_of(run)
    handle.save(run.model)
    done = ftg("merge", str(run.model), "--to", str(tmp_path / "whole"))
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == str(tmp_path / "whole")
    merged = ModelHandle.load(tmp_path / "whole")
    assert merged.kind == "merged" and merged.base_model == str(tiny_folder)
    whole = logits(tmp_path / "whole")
    assert apart(whole, logits(run.model, tiny_folder)) < 1e-4 < apart(whole, logits(tiny_folder))
    os.rename(tmp_path / "whole", tmp_path / "moved")
    moved = ModelHandle.load(tmp_path / "moved")
    asked = [f"Where is parcel {number}?" for number in range(4)]
    said = [handle.chat(one, max_tokens=12).text for one in asked]
    assert [moved.chat(one, max_tokens=12).text for one in asked] == said
    umask = os.umask(0)
    os.umask(umask)
    files = [*(tmp_path / "moved").iterdir()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~umask}
    assert not {".bin", ".pt", ".pkl"} & {path.suffix for path in files}
    about = json.loads((tmp_path / "moved" / "manifest.json").read_text("utf-8"))
    assert about["dtype"] == "float32" and 0 <= about["logits_difference"] < 1e-4
    stops = json.loads((tmp_path / "moved" / "generation_config.json").read_text("utf-8"))
    kept = json.loads((run.model / "generation_config.json").read_text("utf-8"))
    assert stops["eos_token_id"] == kept["eos_token_id"]


def test_an_adapter_trained_in_four_bits_is_merged_into_the_full_base(
    train: Train, tiny_folder: Path, tmp_path: Path
) -> None:
    """Merged into the four bits it would be rounded once more: what is written is the adapter on
    the base as it is stored."""
    pytest.importorskip("bitsandbytes")
    run = train(8, training_type="qlora", **LARGE)
    handle = handle_of(run)
    assert handle.base_quantization == "nf4"
    merged = handle.merge(tmp_path / "whole")
    assert merged.base_quantization is None
    assert apart(logits(tmp_path / "whole"), logits(run.model, tiny_folder)) < 1e-4


def test_a_base_in_bfloat16_stays_so_and_is_written_in_shards(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default; in float32 it is as exact as that."""
    run = train(8, learning_rate=5e-3)
    handle = handle_of(run)
    base = tmp_path / "base"
    shutil.copytree(handle.base_model, base)
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    half = handle.model_copy(update={"base_model": str(base), "base_sha256": None})
    monkeypatch.setattr(merging, "SHARD", "100KB")
    half.merge(tmp_path / "half")
    shards = sorted((tmp_path / "half").glob("model-*.safetensors"))
    assert len(shards) > 1 and (tmp_path / "half" / "model.safetensors.index.json").is_file()
    assert {one.dtype for path in shards for one in load_file(path).values()} == {torch.bfloat16}
    half.merge(tmp_path / "exact", dtype="float32")
    wanted = logits(run.model, base)
    assert apart(logits(tmp_path / "exact"), wanted) < 1e-4
    assert apart(logits(tmp_path / "half"), wanted) < 0.05 * float(wanted.abs().max())


def test_adapters_are_added_up_by_their_weights(
    train: Train, ftg: Ftg, tiny_folder: Path, tmp_path: Path
) -> None:
    """What is written is the base and the weighted sum of what each adds, also of other ranks; a
    person hears that nobody has trained it."""
    runs = [train(8, **LARGE), train(8, lora_r=2, **{**LARGE, "seed": 5})]
    for run in runs:
        handle_of(run).save(run.model)
    done = ftg(
        "merge", *(str(run.model) for run in runs), "--weight", "0.7", "--weight", "0.4",
        "--to", str(tmp_path / "sum"),
    )  # fmt: skip
    assert done.returncode == 0 and "Nobody has trained the sum" in done.stderr
    base = load_file(tiny_folder / "model.safetensors")
    found = load_file(tmp_path / "sum" / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    expected = base[f"{name}.weight"].clone()
    for run, weight in zip(runs, (0.7, 0.4), strict=True):
        config = json.loads((run.model / "adapter_config.json").read_text("utf-8"))
        parts = load_file(run.model / "adapter_model.safetensors")
        down, up = (parts[f"base_model.model.{name}.lora_{one}.weight"] for one in "AB")
        expected += weight * config["lora_alpha"] / config["r"] * (up @ down)
    assert apart(found[f"{name}.weight"], expected) < 1e-5
    merged = ModelHandle.load(tmp_path / "sum")
    assert merged.job_id is None and merged.metrics == {}  # of a sum nothing was measured


def test_what_cannot_be_merged_says_why(
    train: Train, ftg: Ftg, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In words, and nothing is written: another kind of model, another base, a folder of the
    user's, a sum of one, a merged model that answers otherwise."""
    run = train(8)
    handle = handle_of(run)
    handle.save(run.model)
    taken, target = tmp_path / "taken", tmp_path / "whole"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    elsewhere = handle.model_copy(update={"base_model": str(other), "base_sha256": None})
    hosted = ModelHandle(kind="hosted", model="ft:x", base_model="gpt-4o", backend="openai")
    whole = handle.model_copy(update={"kind": "merged"})
    for one, options, said in (
        (hosted, {}, "answers at its host"),
        (whole, {}, "nothing to merge"),
        (handle, {"dtype": "int8"}, "dtype cannot be"),
        (handle, {"weight": 0}, "weight of an adapter"),
        (handle, {"others": [(elsewhere, 1.0)]}, "different bases"),
        (handle, {"others": [7]}, "a handle and its weight"),
        (handle, {"to": taken}, "nothing was written"),
    ):
        given: dict[str, Any] = {"to": target, **options}
        with pytest.raises(GatewayError, match=said):
            one.merge(**given)
    assert [path.name for path in taken.iterdir()] == ["mine.txt"] and not target.exists()
    said_by = ftg("merge", str(run.model), "--weight", "1", "--weight", "2", "--to", str(target))
    assert said_by.returncode == 2 and "1 adapters and 2 weights" in said_by.stderr
    (tmp_path / "whole.tmp.1").mkdir()  # of a process that was killed
    with monkeypatch.context() as strict:
        strict.setattr(merging, "CLOSE", {torch.float32: -1.0})
        with pytest.raises(GatewayError, match="answers otherwise"):
            handle.merge(target)
    assert not target.exists()
    handle.merge(target)
    assert not [*tmp_path.glob("whole.tmp.*")]


def begin(run: Run, target: Path, env: dict[str, str]) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "finetune_gateway", "merge", str(run.model), "--to", str(target)]
    return subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_after_a_kill_nothing_is_at_its_place_and_the_same_call_writes_it(
    train: Train, env: dict[str, str], tmp_path: Path
) -> None:
    run, target = train(8, **LARGE), tmp_path / "whole"
    handle_of(run).save(run.model)
    with begin(run, target, env) as process:
        until(lambda: any(tmp_path.glob("whole.tmp.*/*")) or process.poll() is not None)
        process.kill()
    assert process.returncode == -signal.SIGKILL and not target.exists()
    ModelHandle.load(run.model).merge(target)
    assert [*tmp_path.glob("whole*")] == [target] and ModelHandle.load(target).kind == "merged"


@pytest.mark.chaos
def test_kills_at_any_moment_leave_a_whole_model_or_none(
    train: Train, env: dict[str, str], tmp_path: Path
) -> None:
    """Twenty, over the whole time that a merge takes: after each there is no folder, or that of an
    unbroken run, and the next run clears up and writes it."""
    run, seed = train(8, **LARGE), random.randrange(10**6)
    print(f"seed {seed}")
    handle_of(run).save(run.model)
    began = time.monotonic()
    assert begin(run, tmp_path / "unbroken", env).wait() == 0
    takes, draw = time.monotonic() - began, random.Random(seed)
    expected = load_file(tmp_path / "unbroken" / "model.safetensors")
    whole = 0
    for number in range(20):
        target = tmp_path / "killed"
        with begin(run, target, env) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(takes * (0.5 + 0.6 * draw.random()))
            process.kill()
        if target.exists():
            found, whole = load_file(target / "model.safetensors"), whole + 1
            assert all(torch.equal(found[name], expected[name]) for name in expected), number
            assert ModelHandle.load(target).kind == "merged"
            shutil.rmtree(target)
    assert begin(run, target, env).wait() == 0
    print(f"{whole} of 20 were done before the kill")
    assert {path.name for path in tmp_path.glob("*illed*")} == {"killed"}
