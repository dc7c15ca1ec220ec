"""How a local job trains beside LLaMA-Factory and axolotl: CPU seconds, peak memory and losses.

Each peer gets an environment of its own below build/peers, with the torch of this one. Then all
sides train LoRA on a CPU with one thread, in turn, each in a process of its own: the model and the
chats of ``train_speed``, the same token ids, labels and order, one epoch of the same batches and
rates. Ours has its defaults, a peer the fastest settings found (``_peer_side.py``). A peer that
cannot be installed, or cannot train here, is a line with its reason.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, Process, alternate, arguments, run, say, versions
from _peer_setup import attempt, installed
from _rows import write
from train_speed import NUMBERS, OURS, built, chat_rows, trained

from finetune_gateway.estimation.engine import cpu_has_bf16

SIDE = Path(__file__).with_name("_peer_side.py")
PEERS = {"llamafactory": "0.9.5", "axolotl": "0.19.0"}
# Axolotl's loss of a batch is the mean of those of its rows, not of its tokens (Qwen3, 0.19.0).
BY_ROW = {"axolotl"}

Result = tuple[Process, dict[str, Any]]


def main() -> int:
    asked = arguments(__doc__, runs=1, steps=3, batch=8, hidden=512, layers=8, vocabulary=32768)
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    mine = versions("finetune-gateway", "torch", "transformers", "trl", "peft")
    bench = Bench("peers", mine)
    torch = f"torch=={mine['torch'].partition('+')[0]}"  # whichever build the index offers
    reasons: dict[str, str] = {}
    pythons = {
        peer: attempt(reasons, peer, partial(installed, f"{peer}=={version}", torch))
        for peer, version in PEERS.items()
    }
    with TemporaryDirectory() as name:
        folder = Path(name)
        model = built(folder / "base", asked.hidden, asked.layers, asked.vocabulary)
        chats = write(folder / "chats.jsonl", chat_rows(asked.steps * asked.batch))
        common = {
            "model": model, "steps": asked.steps, "batch": asked.batch, "rate": 2e-4,
            "folder": folder,
        }  # fmt: skip
        ours = common | {"side": OURS, "method": "sft", "kind": "lora", "train": chats}
        theirs = common | {"train": encoded(model, chats), "bf16": cpu_has_bf16()}
        sides: dict[str, Callable[[], Result | None]] = {OURS: partial(trained, ours)}
        for peer, python in pythons.items():
            if python is None:
                continue
            train = partial(trained_by, python, theirs | {"side": peer})
            sides[peer] = partial(attempt, reasons, peer, train)
        found = alternate(sides, asked.runs)
    for peer, version in PEERS.items():
        if peer in reasons:
            bench.versions = mine | {peer: version}
            bench.unmeasured(peer, reasons[peer])
        else:
            runs = {side: [one for one in found[side] if one is not None] for side in (OURS, peer)}
            bench.versions = mine | named(peer, runs[peer][0][1]["versions"])
            compare(bench, peer, runs, asked.steps * asked.batch)
    return bench.end(asked.out)


def compare(bench: Bench, peer: str, runs: dict[str, list[Result]], rows: int) -> None:
    """Print the figures of ours beside those of a peer. The first loss is that of the untrained
    model: it is the same if the rows, the labels, their order and the mean are."""
    seen = runs[OURS][0][1]
    say(f"{peer}: {seen['rows']} rows, {seen['tokens']} tokens; {json.dumps(seen['choice'])}")
    figures: dict[str, tuple[Callable[[Process, dict[str, Any]], float], str]] = {
        "speed": (lambda _, side: rows / side["cpu"], "rows/CPU s"),
        "cpu": (lambda _, side: side["cpu"], "CPU s"),
        "peak": (lambda process, _: process.peak_mb, "MB"),
        "first_loss": (lambda _, side: side["losses"][0], "nats"),
        "loss": (lambda _, side: side["losses"][-1], "nats"),
    }
    bounds = {"loss": 0.005} | ({} if peer in BY_ROW else {"first_loss": 0.0005})
    for name, (figure, unit) in figures.items():
        near = bounds.get(name)
        bench.figure(
            f"{name}_against_{peer}",
            [figure(*one) for one in runs[OURS]],
            [figure(*one) for one in runs[peer]],
            unit,
            at_most=None if near is None else 1 + near,
            at_least=None if near is None else 1 - near,
        )


def named(peer: str, theirs: dict[str, str]) -> dict[str, str]:
    """The versions of a peer's environment beside those of ours: axolotl, axolotl.trl, ..."""
    return {peer: theirs[peer]} | {
        f"{peer}.{name}": version for name, version in theirs.items() if name != peer
    }


def trained_by(python: str, given: dict[str, Any]) -> Result:
    """Train by a peer, and return its process and what it said. Raises SystemExit if it failed, or
    ended before its last step."""
    folder = given["folder"]
    output = folder / f"{given['side']}-{next(NUMBERS)}"
    output.mkdir()
    asked = {name: value for name, value in given.items() if name != "folder"}
    asked |= {"output": str(output), "model": str(given["model"]), "train": str(given["train"])}
    # Its own packages only, no telemetry, and what it caches goes with the folder.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env |= {"HF_HOME": str(folder / "home"), "DO_NOT_TRACK": "1", "AXOLOTL_DO_NOT_TRACK": "1"}
    done = run([python, str(SIDE), json.dumps(asked)], env, session=True)
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    if len(found["losses"]) != given["steps"]:
        raise SystemExit(f"\nit ended after {len(found['losses'])} of {given['steps']} steps")
    say(f"    {given['side']}: {found['cpu']:.1f} CPU s, {done.peak_mb:.0f} MB")
    return done, found


def encoded(model: Path, chats: Path) -> Path:
    """The rows as token ids and labels."""
    output = chats.with_name("rows.jsonl")
    asked = {"side": "encode", "model": str(model), "train": str(chats), "output": str(output)}
    run([sys.executable, str(SIDE), json.dumps(asked)])
    return output


if __name__ == "__main__":
    sys.exit(main())
