"""QLoRA on this machine for real: a base in 4 bits, its adapter, kill -9, and a machine without
bitsandbytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from support.chaos import end_workers, ended, has_losses, hold_worker, kill_worker

from finetune_gateway import Gateway, Job, JobStatus, ModelHandle, SpecError
from finetune_gateway.backends.local import quantization
from finetune_gateway.estimation.calibration import (
    ENGINE,
    IMPORT_CPU,
    WORK,
    Calibration,
    Passes,
    load_of,
)
from finetune_gateway.estimation.engine import BITSANDBYTES
from finetune_gateway.estimation.local import evaluations
from finetune_gateway.estimation.memory import NF4_BYTES, Setup, step_memory
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.spec import TrainingSpec

SMALL: dict[str, Any] = {"lora_r": 4, "batch_size": 4, "seed": 3, "learning_rate": 5e-3}
MODEL = {
    "model_type": "llama",
    "hidden_size": 640,
    "intermediate_size": 1_728,
    "num_hidden_layers": 14,
    "num_attention_heads": 10,
    "num_key_value_heads": 5,
    "vocab_size": 50_000,
}
Rows = Callable[[int], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def submit(data: Any, folder: Path, **options: Any) -> Job:
    given = {"training_type": "qlora", **SMALL, **options}
    return Gateway().submit(data, model=str(folder), backend="local", **given)


def losses(job: Job) -> list[float]:
    return [found.train_loss for found in job.metrics() if found.train_loss is not None]


def weights(job: Job, home: Path) -> bytes:
    return (home / "runs" / job.id / "model" / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
def test_qlora_from_file_to_chat(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """The loss falls, also after evaluations; as many tokens are trained as predicted; the adapter
    is in float32; the handle says that its base was in 4 bits, and answers on such a one.

    A run that was killed, with twice as many evaluations, comes to the same result: after one
    bitsandbytes would compute otherwise, and let no gradient through."""
    data, held_out = rows(16), rows(20)[16:]
    asked: dict[str, Any] = {"n_epochs": 4, "eval_steps": 4, "save_steps": 4}
    given: dict[str, Any] = {"model": str(tiny_folder), "backend": "local", **SMALL, **asked}
    quote = Gateway().estimate(data, validation=held_out, training_type="qlora", **given)
    job = submit(data, tiny_folder, validation=held_out, **asked)
    handle = job.result(timeout=180)
    found = losses(job)
    assert sum(found[-4:]) < sum(found[:4]) - 0.5, found
    assert quote.trained_tokens and quote.trained_tokens.expected == job.record.trained_tokens
    evaluated = [metric.step for metric in job.metrics() if metric.valid_loss is not None]
    assert evaluated == [4, 8, 12, 16] and evaluations(job.record.spec, 16) == 4
    folder = Path(handle.model)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["base_quantization"] == handle.base_quantization == "nf4"
    with safe_open(folder / "adapter_model.safetensors", framework="np") as file:
        assert {str(file.get_slice(name).get_dtype()) for name in file.keys()} == {"F32"}  # noqa: SIM118  # safe_open cannot be iterated
    versions = json.loads((home / "runs" / job.id / "run.json").read_text())["versions"]
    assert versions["bitsandbytes"] != "missing"
    assert "gemm_4bit_forward" not in (home / "runs" / job.id / "worker.log").read_text()
    again = ModelHandle.load(folder)
    assert again.base_quantization == "nf4" and again.kind == "adapter"
    assert again.chat("Where is parcel number 3?", max_tokens=4).usage.completion_tokens == 4

    killed = submit(data, tiny_folder, validation=held_out, **{**asked, "eval_steps": 2})
    assert kill_worker(hold_worker(home, killed.id, has_losses(home, killed.id, 6)))
    assert ended(killed, 180) is JobStatus.SUCCEEDED, killed.error
    assert any("Continuing from checkpoint" in event.message for event in killed.events())
    assert losses(killed) == found and weights(killed, home) == weights(job, home)


HIDDEN = """
import sys
sys.modules["bitsandbytes"] = None
import finetune_gateway as g
print(*g.LocalBackend().capabilities().notes)
print(g.estimate(sys.argv[1], model=sys.argv[2], backend="local", training_type="qlora").steps)
try:
    g.submit(sys.argv[1], model=sys.argv[2], backend="local", training_type="qlora")
except g.MissingDependency as exc:
    print(exc.extra, exc)
print(len(g.Gateway().jobs()))
"""


def test_without_bitsandbytes_it_is_refused_before_a_job_exists(
    home: Path, tiny_folder: Path, train_file: Path
) -> None:
    """And says what to install; an estimate needs nothing."""
    command = [sys.executable, "-c", HIDDEN, str(train_file), str(tiny_folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    notes, steps, refusal, jobs = done.stdout.splitlines()
    assert "pip install 'finetune-gateway[local]'" in notes and "qlora" in notes
    assert steps == "16"  # 12 rows in batches of 8, 8 epochs
    assert refusal.startswith("local QLoRA (missing: bitsandbytes)") and "pip install" in refusal
    assert jobs == "0"


def test_a_base_stored_quantised_is_told_apart(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows
) -> None:
    """In 4 bits by bitsandbytes it wants QLoRA; by another way, or in 8 bits, it is refused."""
    folder = tmp_path / "stored"
    shutil.copytree(tiny_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    ours = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    for stored, kind, words in (
        (ours, "lora", "only QLoRA can train"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "lora", "stored quantised"),
        ({"quant_method": "gptq"}, "qlora", "stored quantised .gptq"),
    ):
        changed = {**config, "quantization_config": stored}
        (folder / "config.json").write_text(json.dumps(changed))
        with pytest.raises(SpecError, match=words):
            submit(rows(12), folder, training_type=kind)
    quantization.check_base("m", {"quantization_config": ours}, "qlora")
    assert Gateway().jobs() == []


ALONE = """
import sys
from finetune_gateway.backends.local import fourbit
fourbit.block_import()
import peft
assert not fourbit.installed() and not peft.import_utils.is_bnb_available()
assert not [name for name in sys.modules if name.startswith("bitsandbytes.")]
fourbit.import_quietly()
assert fourbit.installed() and sys.modules["bitsandbytes"].nn.Linear4bit
assert "kernels" not in sys.modules
"""


def test_bitsandbytes_is_kept_out_and_brought_in_without_a_word() -> None:
    """Jobs that do not need it do not pay for it; its complaint at import is not ours."""
    command = [sys.executable, "-W", "error", "-c", ALONE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "bitsandbytes" not in done.stderr


def test_the_weights_of_qlora_are_counted_one_by_one() -> None:
    """Half a byte and the scales for the linear maps, 4 bytes for the rest; bitsandbytes itself is
    in the overhead, and reading the file is a peak where the step is small."""
    shape = shape_of(MODEL)
    assert shape.linear_parameters == 14 * (640 * (640 + 320 + 320 + 640) + 3 * 640 * 1_728)
    others = 50_000 * 640 + 14 * 2 * 640 + 640
    assert shape.parameters == shape.linear_parameters + others
    lora, qlora = (
        Setup.of(TrainingSpec(model="m", training_type=kind, bf16=False), "cpu")
        for kind in ("lora", "qlora")
    )
    parts = step_memory(shape, qlora, 4, 256)
    assert parts.weights == int(NF4_BYTES * shape.linear_parameters) + 4 * others
    assert parts.overhead > step_memory(shape, lora, 4, 256).overhead + 49_000_000
    reading = step_memory(shape, qlora, 1, 1)
    assert reading.activations == 0 and reading.weights == parts.weights + 4 * shape.parameters
    half = shape_of({**MODEL, "dtype": "bfloat16"})
    assert step_memory(half, qlora, 1, 1).total < reading.total
    experts = shape_of({**MODEL, "model_type": "mixtral", "num_local_experts": 8})
    assert experts.linear_parameters == 14 * 640 * (640 + 320 + 320 + 640)


def test_the_time_of_qlora_counts_what_it_does_beside_training() -> None:
    """Matrices turned back in each step, and weights turned into 4 bits each time they are read,
    at the speed that was measured or, in a calibration without bitsandbytes, at a usual one."""
    shape = shape_of(MODEL)
    lora, qlora = (
        load_of(
            shape, Setup.of(TrainingSpec(model="m", training_type=kind, bf16=False), "cpu"),
            Passes(1024, 512, 1 << 20, batches=1, masked=True), steps=1,
        )
        for kind in ("lora", "qlora")
    )  # fmt: skip
    assert 1.05 < qlora.units[1] / lora.units[1] < 1.11
    assert (lora.quantised, qlora.quantised) == (0, shape.linear_parameters)
    given: dict[str, Any] = {
        "machine": "m", "torch": "t", "measured_on": date(2026, 11, 21), "threads": 1,
        "rates": (0,) * len(WORK), "stretch": 1, "speedups": (), "start_cpu": 0, "save_cpu": 0,
        "save_byte_cpu": 0, "imported_bytes": 1, "errors": (), "largest": 1, "load_average": 0,
        "engine": ENGINE,
    }  # fmt: skip
    old, new = Calibration(**given), Calibration(**given, quantise_cpu=1e-8)
    imported = IMPORT_CPU[BITSANDBYTES]
    for one, each in ((old, 4e-8), (new, 1e-8)):
        expected = 2 * each * shape.linear_parameters + imported
        assert one.cpu_seconds(qlora, 0) == pytest.approx(expected)
    assert old.cpu_seconds(lora, 0) == 0
