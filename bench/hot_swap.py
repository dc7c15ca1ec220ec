"""Eight adapters that answer on one base, against eight bases with one adapter each.

Each side is a process of its own: it opens eight handles and answers the same requests, in the same
random order. The base has 98 million random weights, the adapters rank 16 on all linear layers.
Answers must be the same. One thread. Then, in one process: what it takes to change adapters, as the
time of an answer that goes to another handle than the one before, against one that does not.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _common import Bench, Process, alternate, arguments, run, say, versions
from _models import built

ADAPTERS, REQUESTS, TOKENS = 8, 64, 8
NAME = "98M"
MAKE = """\
import sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
base, *folders = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base)
for number, folder in enumerate(folders):
    torch.manual_seed(number)
    config = LoraConfig(r=16, target_modules="all-linear")
    model = get_peft_model(model, config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained(folder)
    model = model.unload()
"""


def main() -> int:
    if sys.argv[1:2] == ["ask"]:
        return ask(sys.argv[2], *map(Path, sys.argv[3:]))
    options = arguments(__doc__, runs=3)
    packages = ("finetune-gateway", "torch", "transformers", "peft")
    bench = Bench("hot_swap", versions(*packages))
    with tempfile.TemporaryDirectory() as scratch:
        base = built(Path(scratch), NAME)
        folders = [str(Path(scratch) / f"adapter{number}") for number in range(ADAPTERS)]
        run([sys.executable, "-c", MAKE, str(base), *folders])
        os.environ["FTG_HOME"] = str(Path(scratch) / "home")

        def side(how: str) -> Callable[[], Process]:
            command = [sys.executable, __file__, "ask", how, str(base), *folders]
            return lambda: run(command)

        sides = {how: side(how) for how in ("shared", "apart", "swaps")}
        found = alternate(sides, options.runs)
    shared, apart = found["shared"], found["apart"]
    same = len({one.out for one in (*shared, *apart)}) == 1
    say(f"the same texts: {same}")
    if not same:
        bench.missed.append("same_texts")
    bench.figure("peak_memory", *_of(shared, apart, "peak_mb"), "MB", at_most=0.5)
    bench.figure("wall", *_of(shared, apart, "wall"), "s")
    bench.figure("cpu", *_of(shared, apart, "cpu"), "s", at_most=1.1)
    swaps = [json.loads(one.out) for one in found["swaps"]]
    other, same_one = [one["other"] for one in swaps], [one["same"] for one in swaps]
    bench.figure("answer_of_another_adapter", other, same_one, "s", at_most=1.2)
    return bench.end(options.out, adapters=ADAPTERS, requests=REQUESTS, tokens=TOKENS)


def _of(ours: list[Process], other: list[Process], name: str) -> tuple[list[float], list[float]]:
    return [getattr(one, name) for one in ours], [getattr(one, name) for one in other]


def ask(how: str, base: Path, *folders: Path) -> int:
    """Answer, and print the answers; of ``swaps``, what a change of adapters takes."""
    import torch

    from finetune_gateway import ModelHandle
    from finetune_gateway.backends.local import shared_bases

    if how == "apart":
        shared_bases.is_shareable = lambda folder: False
    handles = [
        ModelHandle(kind="adapter", model=str(one), base_model=str(base), backend="local")
        for one in folders
    ]
    for handle in handles:
        handle.connect()
    _say(handles[0], 0)
    torch.set_num_threads(1)
    order = random.Random(0).choices(range(len(handles)), k=REQUESTS)
    if how == "swaps":
        print(json.dumps(_swaps(handles)))
        return 0
    print(json.dumps([_say(handles[one], number) for number, one in enumerate(order)]))
    return 0


def _say(handle: Any, number: int) -> str:
    text: str = handle.chat(f"Where is parcel {number}?", max_tokens=TOKENS).text
    return text


def _swaps(handles: list[Any]) -> dict[str, float]:
    """Return the mean seconds of an answer of each handle in turn, and of one handle alone."""
    for handle in handles:
        _say(handle, 0)  # reads its adapter
    seconds = {"other": 0.0, "same": 0.0}
    for number in range(REQUESTS):
        # The first one changes the adapter, the second finds it on.
        for name in seconds:
            began = time.perf_counter()
            _say(handles[number % len(handles)], number)
            seconds[name] += time.perf_counter() - began
    return {name: one / REQUESTS for name, one in seconds.items()}


if __name__ == "__main__":
    raise SystemExit(main())
