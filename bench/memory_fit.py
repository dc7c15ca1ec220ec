"""Peak memory of local jobs, measured against the estimate made before they began.

Each case is a real job through the gateway on a model with random weights: the peak resident
memory of its worker process (VmHWM, read until it ends) against ``Estimate.memory_bytes.expected``.
``delta`` is what comes on top of a process that has imported torch, measured here too.
``--only "kto;reward"`` takes the cases with one of these in their names. Linux only.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, arguments, run, say, versions
from _models import Case, built
from _rows import method_rows, write

from finetune_gateway import Gateway, LocalBackend
from finetune_gateway.backends.local.spawning import worker_environment

BOUND = 0.20
IMPORT = """\
import sys
from finetune_gateway.backends.local.imports import import_training
import_training("sft", bitsandbytes=sys.argv[1] == "qlora")
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print(int(line.split()[1]) * 1024)
"""


FULL, AGAIN = {"training_type": "full"}, {"gradient_checkpointing": True}
QLORA = {"training_type": "qlora"}
PACKED = {"packing": True, "max_length": 1024}
TRL, FP32, DORA = {"engine": "trl"}, {"bf16": False}, {"use_dora": True}
DPO, ORPO, KTO = {"method": "dpo"}, {"method": "orpo"}, {"method": "kto"}
PRETRAIN, REWARD = {"method": "pretrain", "max_length": 512}, {"method": "reward"}
CASES = (
    Case("2M", 150, 4),
    Case("13M", 80, 4),
    Case("13M", 80, 4, AGAIN),
    Case("13M", 80, 4, FULL),
    Case("40M qwen3", 60, 4),
    Case("40M qwen3", 60, 4, FP32),
    Case("40M qwen3", 60, 4, FP32 | DORA),
    Case("40M qwen3", 60, 4, FULL),
    Case("40M qwen3", 30, 2, PACKED),
    Case("40M qwen3", 60, 4, {"micro_batch_size": 4}),
    Case("98M", 40, 4),
    Case("98M", 40, 4, QLORA),
    Case("98M", 40, 4, FULL | AGAIN),
    Case("13M", 60, 4, DPO),
    Case("13M", 60, 4, DPO | FULL),
    Case("13M", 60, 4, DPO | QLORA),
    Case("40M qwen3", 40, 2, DPO),
    Case("13M", 60, 4, ORPO),
    Case("13M", 60, 4, ORPO | FULL),
    Case("13M", 60, 4, ORPO | QLORA),
    Case("13M", 60, 4, KTO),
    Case("13M", 60, 4, KTO | FULL),
    Case("13M", 60, 4, KTO | QLORA),
    Case("13M", 60, 4, PRETRAIN),
    Case("13M", 60, 4, PRETRAIN | FULL),
    Case("13M", 60, 4, PRETRAIN | QLORA),
    Case("13M", 60, 4, REWARD),
    Case("13M", 60, 4, REWARD | FULL),
    Case("13M", 60, 4, REWARD | QLORA),
    Case("13M", 50, 4, TRL),
    Case("40M qwen3", 40, 2, TRL | AGAIN),
    Case("13M", 50, 4, TRL | FULL),
    Case("13M", 30, 2, TRL | DPO),
    Case("13M", 30, 2, TRL | DPO | FULL),
    Case("13M", 30, 2, TRL | ORPO),
    Case("13M", 40, 2, TRL | KTO),
)


@dataclass(frozen=True)
class Peak:
    """What was predicted, and what came, in bytes."""

    expected: int
    measured: int
    parts: dict[str, int]
    longest: int


def main() -> int:
    asked = arguments(__doc__, steps=2, only="")
    os.environ["OMP_NUM_THREADS"] = "1"
    packages = ("torch", "transformers", "trl", "peft", "bitsandbytes")
    bench = Bench("memory_fit", versions("finetune-gateway", *packages))
    table = []
    with TemporaryDirectory() as name:
        folder = Path(name)
        bare = {kind: imported(kind) for kind in ("lora", "qlora")}
        say("imports alone: " + ", ".join(f"{kind} {n / 1e6:.0f} MB" for kind, n in bare.items()))
        for number, case in enumerate(CASES):
            if not any(part in case.name for part in asked.only.split(";")):
                continue
            baseline = bare["qlora" if case.options.get("training_type") == "qlora" else "lora"]
            found = measure(folder, number, case, asked.steps)
            table.append(line(case, found, baseline))
            say(table[-1])
            bench.figure(
                case.name, [found.expected / 1e6], [found.measured / 1e6], "MB",
                at_most=1 + BOUND, at_least=1 - BOUND,
            )  # fmt: skip
            bench.figure(
                f"{case.name}: above the imports",
                [(found.expected - baseline) / 1e6],
                [(found.measured - baseline) / 1e6],
                "MB",
            )
    head = "| model, training | longest row | measured MB | estimate MB | off | above imports |"
    say("\n".join([head, "|---|---|---|---|---|---|", *table]))
    return bench.end(asked.out)


def line(case: Case, found: Peak, baseline: int) -> str:
    """A row of the table."""
    off = found.expected / found.measured - 1
    above = (found.expected - baseline) / (found.measured - baseline) - 1
    return (
        f"| {case.name} | {found.longest} | {found.measured / 1e6:,.0f} | "
        f"{found.expected / 1e6:,.0f} | {off:+.0%} | {above:+.0%} |"
    )


def imported(kind: str) -> int:
    """Peak resident bytes of a process that has imported what the worker imports: bitsandbytes
    for QLoRA alone."""
    return int(run([sys.executable, "-c", IMPORT, kind], worker_environment()).out)


def measure(folder: Path, number: int, case: Case, steps: int) -> Peak:
    """Run one job in a home of its own."""
    home, data = folder / f"home-{number}", folder / f"rows-{number}.jsonl"
    # So many rows that every one is met: the longest decides the peak.
    count = 16 if case.options.get("packing") else steps * case.batch_size
    write(data, method_rows(case.method, count, words=case.words, spread=0.4))
    gateway = Gateway(home)
    asked = {"n_epochs": 1, "seed": 7, "batch_size": case.batch_size, **case.options}
    base = str(built(folder, case.model))
    estimate = gateway.estimate(data, model=base, backend="local", validation_split=0, **asked)
    assert estimate.memory_bytes and estimate.memory_parts and estimate.tokens
    job = gateway.submit(data, model=base, backend="local", validation_split=0, **asked)
    peak = 0
    while not job.status.final:
        job.refresh()
        for _ in range(20):  # often, and without the job's own files between: it ends soon after
            peak = max(peak, high_water(job))
            time.sleep(0.02)
    job.result()  # raises when it failed
    return Peak(
        estimate.memory_bytes.expected,
        peak,
        estimate.memory_parts.model_dump(),
        estimate.tokens.max,
    )


def high_water(job: Any) -> int:
    """The highest resident memory its worker has had; 0 when there is none."""
    assert isinstance(job.backend, LocalBackend)
    pid = job.backend.queue.get(job.id).pid
    if pid is None:
        return 0
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    found = (row for row in lines if row.startswith("VmHWM"))
    return int(next(found, "VmHWM: 0 kB").split()[1]) * 1024


if __name__ == "__main__":
    sys.exit(main())
