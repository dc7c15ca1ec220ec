"""What a local job costs over a bare TRL script: from start to the last training step.

With ``engine=trl``, so that both sides import and do the same. Ours begins at ``Gateway.submit``
and ends with the last metrics event of the job; the script (``_bare_sft.py``) begins with its
process and ends with its last logged loss. Same base, rows, labels, settings, environment and
threads. The bound: at most 1.05 times.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from _common import Bench, alternate, arguments, run, say, versions
from _rows import chat_rows, write

from finetune_gateway import Gateway, Job, JobStatus, LocalBackend
from finetune_gateway.backends.local.spawning import worker_environment

AT_MOST = 1.05
BARE = Path(__file__).with_name("_bare_sft.py")
# In a process of its own: this one stays small and never imports torch.
BUILD = """\
import json, sys
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from finetune_gateway.backends.local import builtin
folder = builtin.ensure_tokenizer(Path(sys.argv[1]))
torch.manual_seed(0)
config = LlamaConfig(**{**builtin.CONFIG, **json.loads(sys.argv[2])})
LlamaForCausalLM(config).save_pretrained(folder)
(folder / "generation_config.json").write_text(json.dumps(builtin.GENERATION_CONFIG))
"""


@dataclass(frozen=True)
class Run:
    """One training: seconds until it begins and until its last step, its last losses."""

    before: float
    whole: float
    cpu: float  # of all processes until the last step
    step: int
    train_loss: float
    valid_loss: float


@dataclass(frozen=True)
class Sample:
    """CPU seconds a process had used at a moment."""

    at: float
    cpu: float


def main() -> int:
    asked = arguments(
        __doc__, runs=3, steps=200, rows=400, hidden=256, layers=3, threads=1, base=""
    )
    packages = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    # One thread: the two of a busy machine's cores wait for each other in a loop, and the same
    # 20 steps then took 66 to 116 s of CPU instead of 39.
    os.environ["OMP_NUM_THREADS"] = str(asked.threads)
    bench = Bench("overhead", versions("finetune-gateway", *packages))
    with TemporaryDirectory() as name:
        folder = Path(name)
        settings = prepared(folder, asked)
        numbers = count()
        sides: dict[str, Callable[[], Run]] = {
            "ours": partial(ours, folder, settings, numbers),
            "bare": partial(bare, folder, settings, numbers),
        }
        found = alternate(sides, asked.runs)
    mine, other = found["ours"], found["bare"]
    if {r.step for r in (*mine, *other)} != {asked.steps}:
        raise SystemExit(f"The sides trained differently: {mine} {other}")

    def compare(metric: str, of: Callable[[Run], float], unit: str, **bound: float) -> None:
        bench.figure(metric, [of(r) for r in mine], [of(r) for r in other], unit, **bound)

    compare("to_last_step_wall", lambda r: r.whole, "s", at_most=AT_MOST)
    compare("to_last_step_cpu", lambda r: r.cpu, "s")
    compare("to_first_step_wall", lambda r: r.before, "s")
    compare("training_wall", lambda r: r.whole - r.before, "s")
    compare("last_train_loss", lambda r: r.train_loss, "nats", at_most=1.01, at_least=0.99)
    compare("last_valid_loss", lambda r: r.valid_loss, "nats", at_most=1.01, at_least=0.99)
    return bench.end(asked.out)


def prepared(folder: Path, asked: Any) -> dict[str, Any]:
    """Write the base and the data; the settings of both sides."""
    base = Path(asked.base) if asked.base else built(folder / "base", asked)
    rows = partial(chat_rows, words=8, spread=0.4, tools=0)
    write(folder / "train.jsonl", rows(asked.rows))
    write(folder / "validation.jsonl", rows(32, seed=1))
    every = max(1, asked.steps // 10)
    steps = {"max_steps": asked.steps, "eval_steps": every, "save_steps": every}
    return {
        **steps,
        "model": str(base),
        "engine": "trl",
        "logging_steps": 1,
        "batch_size": 4,
        "learning_rate": 2e-4,
        "lora_r": 16,
        "seed": 7,
    }


def built(folder: Path, asked: Any) -> Path:
    """A random Llama with the tokenizer and the template of builtin/tiny."""
    heads = asked.hidden // 32
    shape = {
        "hidden_size": asked.hidden,
        "intermediate_size": 3 * asked.hidden,
        "num_hidden_layers": asked.layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
    }
    say("building the base")
    run([sys.executable, "-c", BUILD, str(folder), json.dumps(shape)])
    return folder


def ours(folder: Path, settings: dict[str, Any], numbers: Any) -> Run:
    """Through the gateway, a new home each time; waited for as a user would."""
    gateway = Gateway(folder / f"home-{next(numbers)}")
    began, cpu = time.time(), own_cpu()
    job = gateway.submit(
        folder / "train.jsonl",
        backend="local",
        validation=folder / "validation.jsonl",
        **settings,
    )
    samples = worker_samples(job)
    cpu = own_cpu() - cpu
    events, last = job.events(), job.metrics()[-1]
    first = next(event for event in events if "Training starts" in event.message)
    ended = [event for event in events if event.type == "metrics"][-1].created_at
    assert last.train_loss is not None and last.valid_loss is not None  # for the type checker
    cpu += cpu_at(samples, ended)
    before = first.created_at - began
    return Run(before, ended - began, cpu, last.step, last.train_loss, last.valid_loss)


def worker_samples(job: Job) -> list[Sample]:
    """Look every half second, as ``ftg watch`` does, until the job has ended; each time note the
    CPU seconds of its worker. Raises SystemExit when the job fails."""
    assert isinstance(job.backend, LocalBackend)
    samples = [Sample(time.time(), 0.0)]
    while not job.refresh().status.final:
        pid = job.backend.queue.get(job.id).pid
        if pid is not None:
            with suppress(psutil.NoSuchProcess):  # it ended since we looked
                samples.append(Sample(time.time(), sum(psutil.Process(pid).cpu_times()[:2])))
        time.sleep(0.5)
    if job.status is not JobStatus.SUCCEEDED:
        raise SystemExit(f"The job has {job.status}: {job.error}")
    return samples


def cpu_at(samples: list[Sample], moment: float) -> float:
    """CPU seconds at a moment, on the line through the last two looks before it."""
    older, newer = [sample for sample in samples if sample.at <= moment][-2:]
    rate = (newer.cpu - older.cpu) / (newer.at - older.at)
    return newer.cpu + rate * (moment - newer.at)


def own_cpu() -> float:
    """CPU seconds of this process and of the children that have ended."""
    return sum(os.times()[:4])


def bare(folder: Path, settings: dict[str, Any], numbers: Any) -> Run:
    """The script, in the environment that the gateway gives its worker, and like it in a
    session of its own: Linux shares a busy machine out by session."""
    given = {
        **settings,
        "train": str(folder / "train.jsonl"),
        "validation": str(folder / "validation.jsonl"),
        "output": str(folder / f"bare-{next(numbers)}"),
    }
    began = time.time()
    done = run([sys.executable, str(BARE), json.dumps(given)], worker_environment(), session=True)
    seen = json.loads(done.out.splitlines()[-1])
    return Run(
        seen["began"] - began,
        seen["ended"] - began,
        seen["cpu"],
        seen["step"],
        seen["loss"],
        seen["eval_loss"],
    )


if __name__ == "__main__":
    os.environ["HF_HUB_OFFLINE"] = "1"  # for both sides: nothing here is on the hub
    sys.exit(main())
