"""Training on one GPU, in at most ten minutes: speed, share of the peak, memory, the estimates.

Jobs of ours on models of 1 and 8 billion parameters (the shapes of Llama 3.2 1B and Llama 3.1 8B)
with random weights, made on the GPU: nothing is downloaded. LoRA, QLoRA, full training with float32
weights, and ``engine=trl`` where there is time for it. Each part has a bound of its own, which
grows with ``--minutes``. One that takes longer is ended, one for which no time is left is skipped,
and both are said.

It needs this checkout (on PYTHONPATH, or installed) with its dependencies, and of the extra
``local``: torch built for CUDA, transformers, peft, accelerate, datasets; bitsandbytes for QLoRA
and trl for ``engine=trl``, else those parts are skipped. flash-attn and liger-kernel are used where
they are. The machine needs 32 GB of memory, and 50 GB of disk in the temporary folder.

MFU is the share of the GPU's dense 16-bit peak (``estimation/gpus.py``, from NVIDIA's datasheets)
that the model's own operations reach: for each weight and token 2 forward, 2 backward for the
inputs and 2 more if the weight is trained; the head for trained tokens; attention 6 L D S a token
(L layers, D = heads x their size, S tokens a row, the causal half), after Chowdhery et al. 2022
(PaLM, appendix B). What checkpointing computes again does not count.

``--device cpu --tiny 1`` runs the same code on tiny models, to try the script out.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, arguments, say
from _models import shape
from _rows import method_rows, write

from finetune_gateway.estimation.assumptions import START_SECONDS
from finetune_gateway.estimation.gpus import GPUS, gpus_named
from finetune_gateway.estimation.memory import Setup, trained_parameters
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.spec import TrainingSpec

SIDE = Path(__file__).with_name("_gpu_side.py")
MEMORY_BOUND = 0.20
LOOK_SECONDS, LEAST_SECONDS = 120, 30  # of a part: it is not begun with less
NEEDED = {"torch": (2, 10), "transformers": (5, 20), "peft": (0, 21), "accelerate": (1, 15),
          "datasets": (5,)}  # fmt: skip
LARGE = {
    "1B": shape(2048, 8192, 16, 32, 8, 128_256),
    "8B": shape(4096, 14_336, 32, 32, 8, 128_256, tied=False),
}
TINY = {"1B": shape(64, 128, 2, 4, 2, 1_152), "8B": shape(96, 192, 2, 4, 2, 1_152, tied=False)}


@dataclass(frozen=True)
class Part:
    """A model and how it is trained; ``seconds``: its bound in a run of ``MINUTES``; ``package``:
    without which it is skipped."""

    model: str
    kind: str
    seconds: int
    engine: str = "auto"
    package: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.model} {self.kind}" + (" trl" if self.engine == "trl" else "")


# What matters most comes first: what is late is left out.
PARTS = (
    Part("1B", "lora", 100),
    Part("1B", "qlora", 100, package="bitsandbytes"),
    Part("1B", "full", 120),
    Part("8B", "lora", 150),
    Part("8B", "qlora", 150, package="bitsandbytes"),
    Part("1B", "lora", 100, engine="trl", package="trl"),
    Part("8B", "lora", 150, engine="trl", package="trl"),
    Part("1B", "full", 120, engine="trl", package="trl"),
)
BUILD_SECONDS, MINUTES = 120, 9.5


class Late(Exception):
    """A part took longer than it may."""


def main() -> int:
    asked = arguments(
        __doc__, device="cuda", tiny=0, minutes=MINUTES, steps=6, batch=8, words=330, only=""
    )
    until, longer = time.monotonic() + 60 * asked.minutes, asked.minutes / MINUTES
    there = look(asked.device)
    gpu = known(there["gpu"]) if there["gpu"] and asked.device == "cuda" else None
    bench = Bench("gpu", {"python": sys.version.split()[0], **there["versions"]})
    shapes = TINY if asked.tiny else LARGE
    skipped: dict[str, str] = {}
    measured: dict[str, dict[str, Any]] = {}
    with TemporaryDirectory() as name:
        folder = Path(name)
        data = write(
            folder / "rows.jsonl",
            method_rows("sft", asked.steps * asked.batch, words=asked.words, spread=0.0),
        )
        for part in PARTS:
            if not any(word in part.name for word in asked.only.split(";")):
                continue
            if part.package and part.package not in there["versions"]:
                skipped[part.name] = f"{part.package} is not installed"
                continue
            try:
                bound = BUILD_SECONDS * longer, until
                model = built(folder, part.model, shapes[part.model], asked.device, *bound)
                given = {
                    "name": part.name, "model": str(model), "data": str(data), "gpu": gpu,
                    "home": str(folder / "home"), "steps": asked.steps,
                    "options": {
                        "training_type": part.kind, "engine": part.engine,
                        "batch_size": asked.batch, "max_length": 2048, **part.options,
                    },
                }  # fmt: skip
                found = side("train", given, asked.device, part.seconds * longer, until)
            except (Late, RuntimeError) as exc:
                skipped[part.name] = str(exc)
                say(f"{part.name}: skipped: {exc}")
                continue
            finally:
                shutil.rmtree(folder / "home" / "runs", ignore_errors=True)  # 15 GB of full ones
            measured[part.name] = found
            report(bench, part, found, shape_of(shapes[part.model]), gpu, asked.batch)
    beside_trl(bench, measured)
    for part_name, why in skipped.items():
        say(f"{part_name}: not measured: {why}")
    choices = {part_name: one["choice"] for part_name, one in measured.items()}
    about = {"device": there["gpu"] or "cpu", "skipped": skipped, "choices": choices}
    return bench.end(asked.out, **about) if measured else _nothing(skipped)


def look(device: str) -> dict[str, Any]:
    """Return what torch sees. Raises SystemExit with a sentence where parts are missing."""
    try:
        there = side("look", {}, device, LOOK_SECONDS, time.monotonic() + LOOK_SECONDS)
    except (Late, RuntimeError) as exc:
        raise SystemExit(f"torch cannot be imported here: {exc}") from None
    found = there["versions"]
    lacking = [
        f"{name} {'.'.join(map(str, least))} or newer ({found.get(name, 'not installed')} here)"
        for name, least in NEEDED.items()
        if numbers(found.get(name, "")) < least
    ]
    if lacking:
        raise SystemExit(f"This bench needs {'; '.join(lacking)}.")
    if device == "cuda" and there["gpu"] is None:
        raise SystemExit(
            "torch sees no GPU here, so there is nothing to measure. It takes a GPU, its driver "
            "and a torch built for CUDA; --device cpu --tiny 1 tries the script out on a CPU."
        )
    return there


def numbers(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with."""
    return tuple(int(one) for one in re.findall(r"\d+", text.partition("+")[0])[:3])


def known(device: str) -> str | None:
    """Return the name in ``GPUS`` of what torch calls a device."""
    found = next(iter(gpus_named(device)), None)
    if found is None:
        say(f"No peak is known of {device}: speed is measured, and neither MFU nor memory judged.")
    return found


def built(
    folder: Path, name: str, wanted: dict[str, Any], device: str, seconds: float, until: float
) -> Path:
    """Return the folder of a model; made when the first part wants it. Raises Late."""
    path = folder / name
    if not (path / "generation_config.json").exists():
        shutil.rmtree(path, ignore_errors=True)
        given = {"folder": str(path), "shape": wanted, "device": device}
        made = side("build", given, device, seconds, until)
        say(f"{name}: {made['parameters'] / 1e9:.2f} billion parameters, {made['seconds']:.0f} s")
    return path


def side(
    task: str, given: dict[str, Any], device: str, seconds: float, until: float
) -> dict[str, Any]:
    """Return what a part says, in a process of its own. Raises Late if it takes longer, or there is
    no time left for it; RuntimeError with its last words if it fails."""
    left = until - time.monotonic()
    if left < LEAST_SECONDS:
        raise Late(
            f"{max(0, left):.0f} s are left, and none is begun with less than {LEAST_SECONDS}"
        )
    bound = min(seconds, left)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0") if device == "cuda" else ""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": visible, "HF_HUB_OFFLINE": "1",
           "TOKENIZERS_PARALLELISM": "false"}  # fmt: skip
    command = [sys.executable, str(SIDE), task, json.dumps(given)]
    started = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env,
        start_new_session=True,
    )  # fmt: skip
    try:
        out, err = started.communicate(timeout=bound)
    except subprocess.TimeoutExpired:
        os.killpg(started.pid, signal.SIGKILL)
        started.communicate()
        raise Late(f"it was ended after {bound:.0f} s") from None
    if started.returncode != 0:
        last = [line for line in err.splitlines() if line.strip()][-1:] or ["it said nothing"]
        say(err[-3000:])
        raise RuntimeError(f"exit {started.returncode}: {last[0][:500]}")
    found: dict[str, Any] = json.loads(out)
    return found


def report(
    bench: Bench,
    part: Part,
    found: dict[str, Any],
    model: ModelShape,
    gpu: str | None,
    batch: int,
) -> None:
    """Print the figures of a part; the memory of a GPU that is known has a bound."""
    each, length = median(found["seconds"]), found["tokens"] / found["rows"]
    tokens, name = batch * length, part.name
    first, *_, last = found["losses"]
    say(f"{name}: {json.dumps(found['choice'])}; losses {first:.3f} to {last:.3f}")
    speeds = [tokens / seconds for seconds in found["seconds"]]
    told = tokens * (len(speeds) + 1) / (found["estimated_seconds"] - START_SECONDS[1])
    bench.figure(f"{name}: speed, beside that of the estimate", speeds, [told], "tokens/s")
    flops = tokens * flops_per_token(model, part.kind, length, found["trained"] / found["tokens"])
    if gpu is not None:
        peak = GPUS[gpu].flops / 1e12
        bench.figure(f"{name}: MFU", [flops / each / 1e12], [peak], "TFLOP/s")
    bound = {"at_most": 1 + MEMORY_BOUND, "at_least": 1 - MEMORY_BOUND} if gpu else {}
    estimated = [found["estimated_bytes"] / 1e9]
    bench.figure(f"{name}: estimated memory", estimated, [found["used"] / 1e9], "GB", **bound)
    if found["allocated"] is not None:
        bench.figure(f"{name}: of tensors", estimated, [found["allocated"] / 1e9], "GB")


def flops_per_token(model: ModelShape, kind: Any, length: float, trained: float) -> float:
    """Return the operations of training on one token of a row of this ``length``; ``trained``: the
    share of tokens that meet the head."""
    spec = TrainingSpec.build(model="m", training_type=kind)
    adapters = 0 if kind == "full" else trained_parameters(model, Setup.of(spec, "gpu", model))
    each = 6 if kind == "full" else 4
    head = model.vocab_size * model.hidden_size * trained
    attention = 6 * model.layers * model.heads * model.head_dim * length
    return each * (model.active_block_parameters + head) + 6 * adapters + attention


def beside_trl(bench: Bench, measured: dict[str, dict[str, Any]]) -> None:
    """Print our speed and memory beside those of TRL's step, where both were measured."""
    for name, theirs in measured.items():
        ours = measured.get(name.removesuffix(" trl"))
        if not name.endswith(" trl") or ours is None:
            continue
        mine, other = ([1 / one for one in found["seconds"]] for found in (ours, theirs))
        bench.figure(f"{name}: our steps beside TRL's", mine, other, "steps/s")
        mine, other = ([found["used"] / 1e9] for found in (ours, theirs))
        bench.figure(f"{name}: our memory beside TRL's", mine, other, "GB")


def _nothing(skipped: dict[str, str]) -> int:
    say(f"Nothing was measured: {'; '.join(f'{name}: {why}' for name, why in skipped.items())}.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
