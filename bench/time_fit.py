"""How long local jobs take, against the estimate made before they began.

The machine is calibrated before each job (``ftg doctor --calibrate``), because others may be
busy on it: measured and estimated stand close together; with ``--once 1`` before the first alone.
Jobs take the threads that they take by default. ``wall`` is from submit to the end, and is to lie
in the range of the estimate; ``cpu`` is the worker's own CPU seconds against those that the
calibration predicts of one thread, within 20 %: a busy machine disturbs them less. ``--seconds``
sets how long each job is to take, in CPU seconds of one thread; ``--only "13M;98M"`` takes the
cases with one of these in their names.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from _common import Bench, arguments, run, say, versions
from _models import SHAPES, Case, built
from _rows import method_rows, write

from finetune_gateway import Gateway, Job, LocalBackend, TrainingSpec
from finetune_gateway.estimation.batch_plan import plan_batches
from finetune_gateway.estimation.calibration import FILE, Calibration, read
from finetune_gateway.estimation.local import checkpoints, training_load
from finetune_gateway.estimation.memory import Setup, micro_batch_rows
from finetune_gateway.estimation.model_config import shape_of

BOUND = 0.20


FULL, QLORA, TRL = {"training_type": "full"}, {"training_type": "qlora"}, {"engine": "trl"}
AGAIN, FP32 = {"gradient_checkpointing": True}, {"bf16": False}
DPO, ORPO, KTO = {"method": "dpo"}, {"method": "orpo"}, {"method": "kto"}
PRETRAIN, REWARD = {"method": "pretrain", "max_length": 256}, {"method": "reward"}
CASES = (
    Case("2M", 40, 8),
    Case("2M", 40, 4, FULL),
    Case("13M", 30, 4),
    Case("40M qwen3", 30, 4),
    Case("40M qwen3", 30, 4, FP32),
    Case("40M qwen3", 30, 4, FULL | AGAIN),
    Case("40M qwen3", 30, 4, QLORA),
    Case("98M", 20, 1, {"packing": True, "max_length": 256}),
    Case("13M", 30, 4, DPO),
    Case("13M", 30, 4, DPO | FULL),
    Case("13M", 30, 4, DPO | QLORA),
    Case("40M qwen3", 30, 4, DPO),
    Case("13M", 30, 4, ORPO),
    Case("13M", 30, 4, ORPO | FULL),
    Case("13M", 30, 4, KTO),
    Case("13M", 30, 4, KTO | FULL),
    Case("13M", 30, 4, PRETRAIN),
    Case("13M", 30, 4, PRETRAIN | FULL),
    Case("13M", 30, 4, REWARD),
    Case("13M", 30, 4, REWARD | FULL),
    Case("13M", 20, 4, TRL),
    Case("13M", 20, 4, TRL | DPO),
    Case("13M", 20, 4, TRL | KTO),
)


@dataclass(frozen=True)
class Taken:
    """Predicted and taken seconds."""

    expected: float
    wall: float
    expected_cpu: float
    cpu: float
    steps: int
    low: float
    high: float
    threads: int


def main() -> int:
    asked = arguments(__doc__, seconds=60, only="", once=0)
    bench = Bench("time_fit", versions("finetune-gateway", "torch", "transformers", "trl", "peft"))
    bound = {"at_most": 1 + BOUND, "at_least": 1 - BOUND}
    rows, inside = [], 0
    with TemporaryDirectory() as name:
        folder = Path(name)
        for number, case in enumerate(CASES):
            if not any(part in case.name for part in asked.only.split(";")):
                continue
            if not (asked.once and (folder / FILE).exists()):
                calibrate(folder)
            found = measure(folder, number, case, asked.seconds)
            inside += found.low <= found.wall <= found.high
            bench.figure(f"{case.name}: wall", [found.expected], [found.wall], "s")
            of_one = bound if found.threads == 1 else {}  # more wait for each other in a loop
            bench.figure(f"{case.name}: cpu", [found.expected_cpu], [found.cpu], "s", **of_one)
            rows.append(
                f"| {case.name} | {found.steps} | {found.threads} | {found.wall:.0f} | "
                f"{found.low:.0f} to {found.high:.0f} | {found.expected:.0f} | "
                f"{found.expected / found.wall - 1:+.0%} | {found.cpu:.0f} | "
                f"{found.expected_cpu:.0f} | {found.expected_cpu / found.cpu - 1:+.0%} |"
            )
            say(rows[-1])
    bench.figure("wall times in their range", [inside], [len(rows)], "", at_least=1.0)
    titles = "model, training | steps | threads | wall s | range | estimate s | off | CPU s"
    head = f"| {titles} | estimate s | off |"
    say("\n".join([head, "|---" * 10 + "|", *rows]))
    return bench.end(asked.out)


def calibrate(folder: Path) -> None:
    """Measure this machine, into ``calibration.json`` of the folder."""
    command = [sys.executable, "-m", "finetune_gateway", "doctor", "--calibrate", "--json"]
    run(command, {**os.environ, "FTG_HOME": str(folder)})


def measure(folder: Path, number: int, case: Case, seconds: float) -> Taken:
    """Choose as many steps as take ``seconds`` of CPU, predict, and train."""
    home, data = folder / f"home-{number}", folder / f"rows-{number}.jsonl"
    write(data, method_rows(case.method, 400, words=case.words, spread=0.4))
    base = str(built(folder, case.model))
    home.mkdir()
    shutil.copy(folder / FILE, home / FILE)
    found = read(home)
    assert found is not None
    gateway = Gateway(home)
    asked = {"seed": 7, "batch_size": case.batch_size, **case.options}
    tokens = gateway.plan(data, model=base, backend="local", **asked).tokens

    def predicted(steps: int) -> float:
        spec = TrainingSpec.build(model=base, max_steps=steps, **asked)
        return cpu_seconds(found, case, spec, tokens)

    steps = 10
    while predicted(steps) < seconds:
        steps += 1 + steps // 10
    estimate = gateway.estimate(
        data, model=base, backend="local", max_steps=steps, validation_split=0, **asked
    )
    assert estimate.seconds is not None
    began = time.time()
    job = gateway.submit(
        data, model=base, backend="local", max_steps=steps, validation_split=0, again=True, **asked
    )
    cpu = 0.0
    while not job.status.final:
        job.refresh()
        cpu = max(cpu, used(job))
        time.sleep(0.2)
    wall = time.time() - began
    job.result()  # raises when it failed
    low, expected, high = (getattr(estimate.seconds, end) for end in ("low", "expected", "high"))
    return Taken(expected, wall, predicted(steps), cpu, steps, low, high, threads(job))


def threads(job: Job) -> int:
    """The threads of a training, as its event says."""
    return next(int(one.data["threads"]) for one in job.events() if "threads" in one.data)


def cpu_seconds(found: Calibration, case: Case, spec: TrainingSpec, tokens: Any) -> float:
    """What the calibration says of the CPU seconds of a job on one thread."""
    shape, limit = shape_of(SHAPES[case.model]), spec.max_length or 2048
    setup = Setup.of(spec, "cpu", shape)
    longest = plan_batches(spec, tokens, limit).longest
    at_once = micro_batch_rows(spec, shape, setup, longest, None)
    plan = plan_batches(spec, tokens, limit, at_once=at_once)
    load = training_load(shape, spec, setup, plan)
    return found.cpu_seconds(load, checkpoints(spec, plan.steps))


def used(job: Job) -> float:
    """CPU seconds of the job's worker; 0 when there is none."""
    assert isinstance(job.backend, LocalBackend)
    pid = job.backend.queue.get(job.id).pid
    with suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times() if pid else None
        return times.user + times.system if times else 0.0
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
