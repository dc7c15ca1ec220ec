"""Measure how fast this machine trains: small models of several shapes, as jobs train them.

Runs in a process of its own: ``python -m finetune_gateway.backends.local.calibrate HOME``, which
prints the figures as JSON. Each model has random weights and lives in a folder that is removed.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from finetune_gateway.backends.local import builtin, fourbit
from finetune_gateway.backends.local.imports import import_training
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run import Run, write_json
from finetune_gateway.backends.local.run_file import RunFile
from finetune_gateway.estimation.calibration import (
    ENGINE,
    Calibration,
    Load,
    Passes,
    fit_rates,
    load_of,
    machine,
    torch_version,
)
from finetune_gateway.estimation.engine import BITSANDBYTES, TRL, cpu_has_bf16
from finetune_gateway.estimation.memory import Setup
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

WITH_QLORA = fourbit.installed()
# As the worker does: most jobs are without bitsandbytes. It is counted apart from a training.
import_training("sft", bitsandbytes=False)

IMPORTED = psutil.Process().memory_info().rss
IMPORT_CPU = time.process_time()  # since the process began
STEPS = 4  # the first is not counted: it fills the caches


@dataclass(frozen=True)
class Case:
    """A model and how it is trained."""

    hidden: int
    inner: int
    layers: int
    vocabulary: int
    rows: int
    words: int
    options: dict[str, Any] = field(default_factory=dict)


TRL_STEP = {"engine": "trl"}
FULL, AGAIN = {"training_type": "full"}, {"gradient_checkpointing": True}
BF16 = {"bf16": cpu_has_bf16()}  # as large models are trained, on a small one
# Each is heavy in another kind of work, and trains with one thread. Without the large ones, the
# first and the last, the rates were 5 % low for models of 40 million parameters.
CASES = (
    Case(512, 1408, 8, 8_000, 1, 160),
    Case(192, 512, 4, 1_152, 1, 40),
    Case(192, 512, 4, 1_152, 4, 300),
    Case(320, 896, 5, 16_000, 2, 120),
    Case(512, 1408, 4, 1_152, 2, 120),
    Case(512, 1408, 4, 1_152, 2, 120, BF16),
    Case(256, 768, 4, 16_000, 1, 300, BF16),
    Case(128, 256, 2, 32_000, 2, 120),
    Case(256, 768, 6, 16_000, 1, 60, FULL),
    Case(640, 1728, 3, 1_152, 1, 200, AGAIN),
    Case(256, 768, 4, 1_152, 1, 700),
    Case(128, 256, 2, 32_000, 4, 200),
    Case(192, 512, 4, 1_152, 2, 120, TRL_STEP),
    Case(128, 256, 2, 32_000, 2, 240, TRL_STEP),
    Case(256, 768, 4, 16_000, 4, 120, TRL_STEP),
    Case(512, 1408, 8, 32_000, 2, 120),
)
# After these cases the first is trained with one thread and with all: what a second thread gains
# depends on what others do, so it is measured several times, apart.
APART = (1, 8, 15)


@dataclass(frozen=True)
class Mark:
    """An event's message, and when it came."""

    message: str
    wall: float
    cpu: float


class Timed(Run):
    """A run that records when its events came."""

    def __init__(self, *args: Any) -> None:
        self.marks: list[Mark] = []
        self.rows: dict[str, Any] = {}
        super().__init__(*args)

    def event(self, message: str, **kwargs: Any) -> None:
        super().event(message, **kwargs)
        self.rows = self.rows or (kwargs.get("data") or {} if "rows" in message else {})
        self.marks.append(Mark(message, time.perf_counter(), time.process_time()))


@dataclass(frozen=True)
class Measured:
    """One case: the work of a step, and seconds (wall, CPU) of a step, of starting and saving."""

    load: Load
    step: tuple[float, float]
    around: tuple[float, float]
    save: tuple[float, float]


def measure(home: Settings, name: str, case: Case, *, threads: int = 1) -> Measured:
    """Train one case for a few steps, up to its first answer, and return the seconds it took."""
    import torch

    # Loaded above, with the method.
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune_gateway.backends.local import finishing

    os.environ["OMP_NUM_THREADS"] = str(threads)  # as if the user had chosen: no load changes it
    torch.set_num_threads(threads)
    folder = builtin.ensure_tokenizer(home.home / f"model-{name}")
    heads = case.hidden // 32
    config = {
        **builtin.CONFIG,
        "hidden_size": case.hidden,
        "intermediate_size": case.inner,
        "num_hidden_layers": case.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "vocab_size": case.vocabulary,
        "max_position_embeddings": 2048,
    }
    LlamaForCausalLM(LlamaConfig(**config)).save_pretrained(folder)
    write_json(folder / "generation_config.json", builtin.GENERATION_CONFIG)
    spec = TrainingSpec(
        model=str(folder),
        batch_size=case.rows,
        max_steps=STEPS,
        logging_steps=1,
        save_steps=STEPS,
        **case.options,
    )
    run = _run(home, f"case-{name}", spec, case.words)
    began = time.perf_counter(), time.process_time()
    finishing.train(run)
    ended = time.perf_counter(), time.process_time()
    marks = run.marks
    steps = [mark for mark in marks if mark.message.startswith("Step ")]
    saved = next(mark for mark in marks if mark.message.startswith("Saved checkpoint"))
    first = next(mark for mark in marks if mark.message.startswith("Training starts"))
    pairs = list(zip(steps, steps[1:], strict=False))
    length = run.rows["tokens"] / run.rows["rows"]
    trained = run.rows["trained_tokens_per_epoch"] / run.rows["rows"]
    shape = shape_of(config)
    setup = Setup.of(spec, "cpu", shape)
    passes = Passes(length, trained, length * length, batches=1, masked=False).times(case.rows)
    if setup.engine == "trl":  # all rows at once, and all of their tokens meet the head
        passes = replace(passes, scored_tokens=passes.padded_tokens, batches=1, masked=True)
    load = load_of(shape, setup, passes, steps=1)
    return Measured(
        load=load,
        step=(
            median(b.wall - a.wall for a, b in pairs),
            median(b.cpu - a.cpu for a, b in pairs),
        ),
        around=(
            first.wall - began[0] + ended[0] - saved.wall,
            first.cpu - began[1] + ended[1] - saved.cpu,
        ),
        save=(saved.wall - steps[-1].wall, saved.cpu - steps[-1].cpu),
    )


def _run(settings: Settings, name: str, spec: TrainingSpec, words: int) -> Timed:
    folder = settings.runs / name
    (folder / "data").mkdir(parents=True)
    question, answer = (
        " ".join(["parcel"] * (words // 3)),
        " ".join(["order"] * (words - words // 3)),
    )
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    line = json.dumps({"messages": messages}) + "\n"
    count = STEPS * int(spec.batch_size)
    (folder / "data" / "train.jsonl").write_text(line * count, "utf-8")
    about = RunFile(job_id=name, spec=spec, train_sha256="", versions={}, created_at=time.time())
    write_json(folder / "run.json", about.model_dump(mode="json"))
    Queue(settings).add(name)
    run = Timed(settings, name, 0)
    run.claim(status="running")
    return run


def calibrate(scratch: Path) -> Calibration:
    """Measure every case and return the calibration; about a minute on an idle core."""
    import torch  # loaded above, with the method

    settings = Settings(home=scratch).create()
    threads = torch.get_num_threads()
    began = time.process_time()
    from finetune_gateway.backends.local import trl_trainers  # noqa: F401  # the import is timed

    import_cpu = {TRL: time.process_time() - began}
    results, speedups = [], []
    for number, case in enumerate(CASES):
        results.append(measure(settings, str(number), case))
        if threads > 1 and number in APART:
            speedups.append(_speedup(settings, number, threads))
    rates = fit_rates([case.load for case in results], [case.step[1] for case in results])
    stretch = sum(case.step[0] for case in results) / sum(case.step[1] for case in results)
    stretch = max(1.0, stretch)
    largest = max(results, key=lambda case: case.load.checkpoint_bytes)
    plain = median(case.save[1] for case in results)
    if WITH_QLORA:
        began = time.process_time()
        fourbit.import_quietly()
        import_cpu[BITSANDBYTES] = time.process_time() - began
    return Calibration(
        machine=machine(),
        torch=torch_version(),
        measured_on=clock.today(),
        threads=threads,
        rates=rates,
        stretch=stretch,
        speedups=tuple(speedups),
        start_cpu=IMPORT_CPU + median(case.around[1] for case in results),
        save_cpu=plain,
        save_byte_cpu=max(0.0, largest.save[1] - plain) / largest.load.checkpoint_bytes,
        imported_bytes=IMPORTED,
        errors=tuple(_taken(case.load, rates) / case.step[1] - 1 for case in results),
        largest=max(case.load.parameters for case in results),
        load_average=os.getloadavg()[0],
        import_cpu=import_cpu,
        quantise_cpu=_quantising() if WITH_QLORA else None,
        engine=ENGINE,
        bf16=cpu_has_bf16(),
    )


def _speedup(settings: Settings, number: int, threads: int) -> float:
    """Return how many times as fast so many threads train the first case as one, one after the
    other, in wall seconds."""
    one, more = (
        measure(settings, f"{number}-{count}", CASES[0], threads=count).step[0]
        for count in (1, threads)
    )
    return one / more


def _quantising() -> float:
    """Return the CPU seconds of quantising one weight to 4 bits."""
    import torch

    bitsandbytes = importlib.import_module("bitsandbytes")
    seconds, matrix = [], torch.randn(1024, 1024)
    for _ in range(4):  # the first is not counted
        began = time.process_time()
        bitsandbytes.nn.Params4bit(matrix, False, quant_type=fourbit.NF4).to("cpu")
        seconds.append(time.process_time() - began)
    return median(seconds[1:]) / matrix.numel()


def _taken(load: Load, rates: tuple[float, ...]) -> float:
    return sum(rate * units for rate, units in zip(rates, load.units, strict=True))


if __name__ == "__main__":
    with TemporaryDirectory(prefix="ftg-calibrate-", dir=sys.argv[1]) as scratch:
        result = calibrate(Path(scratch))
    print(result.model_dump_json())
