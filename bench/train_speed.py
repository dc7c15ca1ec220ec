"""How fast and how small a local job trains: CPU seconds, peak memory and losses beside TRL.

Three sides on one thread, each in a process of its own, in turn: ``SFTTrainer`` (``DPOTrainer``)
with its defaults and ``use_cpu``; the same with the best flags that were found; a job of ours with
its defaults. About 40 million parameters in Qwen3's shape, chats with the lengths of real ones
(median 258 tokens, mean 314, 95 % below 733), same rows, order, batch and rates.

``--converge 300`` compares bf16 with fp32 instead, over so many steps, on two data sets.
"""

from __future__ import annotations

import json
import math
import os
import random
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from pydoc_data.topics import topics
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, Process, alternate, arguments, run, say, versions
from _rows import write

SIDE = Path(__file__).with_name("_train_side.py")
SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
# In a process of its own: this one stays small and never imports torch.
BUILD = """\
import json, sys
from pathlib import Path
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from finetune_gateway.backends.local import builtin
folder = builtin.ensure_tokenizer(Path(sys.argv[1]))
torch.manual_seed(0)
Qwen3ForCausalLM(Qwen3Config(**json.loads(sys.argv[2]))).save_pretrained(folder)
(folder / "generation_config.json").write_text(json.dumps(builtin.GENERATION_CONFIG))
"""
# Numbers of a log-normal law with this median and this mean; its 95th percentile is 724.
MEDIAN, MEAN, LONGEST = 258, 314, 1000
CHARACTERS = 2.15  # of the manual, in a token of builtin/tiny
PROMPT = 0.35  # of a row's tokens
# Of the peak of TRL's defaults, at most.
PEAK = 0.25
TRL, BEST, OURS = "trl", "trl_best", "ours"
NUMBERS = count()  # of the runs: each has a folder of its own


def main() -> int:
    asked = arguments(
        __doc__,
        runs=1,
        steps=2,
        batch=8,
        hidden=512,
        layers=8,
        vocabulary=32768,
        only="",
        converge=0,
    )
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    packages = ("torch", "transformers", "trl", "peft")
    bench = Bench("train_speed", versions("finetune-gateway", *packages))
    with TemporaryDirectory() as name:
        folder = Path(name)
        if asked.converge:
            converge(bench, folder, asked)
            return bench.end(asked.out)
        model = built(folder / "base", asked.hidden, asked.layers, asked.vocabulary)
        rows = asked.steps * asked.batch
        chats = write(folder / "chats.jsonl", chat_rows(rows))
        pairs = write(folder / "pairs.jsonl", pair_rows(rows))
        common = {"model": model, "steps": asked.steps, "batch": asked.batch, "folder": folder}
        cases: dict[str, dict[str, Any]] = {
            "sft_lora": {"method": "sft", "kind": "lora", "train": chats, "rate": 2e-4},
            "sft_full": {"method": "sft", "kind": "full", "train": chats, "rate": 2e-5},
            "dpo_lora": {"method": "dpo", "kind": "lora", "train": pairs, "rate": 5e-6},
        }
        for case, given in cases.items():
            if asked.only in case:
                compare(bench, case, {**common, **given}, asked.runs)
        if asked.only in "dpo_lora":
            exact(bench, {**common, **cases["dpo_lora"]})
    return bench.end(asked.out)


def compare(bench: Bench, case: str, given: dict[str, Any], runs: int) -> None:
    """Measure the three sides of a case. The bounds are those of a CPU with bf16."""
    sides: dict[str, Callable[[], tuple[Process, dict[str, Any]]]] = {
        side: partial(trained, {**given, "side": side}) for side in (OURS, TRL, BEST)
    }
    found = alternate(sides, runs)

    def of(side: str, figure: Callable[[Process, dict[str, Any]], float]) -> list[float]:
        return [figure(*one) for one in found[side]]

    seen = found[OURS][0][1]
    say(f"{case}: {seen['rows']} rows, {seen['tokens']} tokens; {json.dumps(seen['choice'])}")
    lora = case == "sft_lora"
    fast = 3.8 if lora and seen["choice"]["bf16"] else 2.5 if lora else 2.0
    rows = given["steps"] * given["batch"]
    per_second = partial(of, figure=lambda _, one: rows / one["cpu"])
    peaks = partial(of, figure=lambda process, _: process.peak_mb)
    losses = partial(of, figure=lambda _, one: mean(one["losses"]))
    for other, bound in ((TRL, fast), (BEST, 2.0 if lora else None)):
        name, memory = f"{case}_{{}}_against_{other}", PEAK if other == TRL else None
        bench.figure(
            name.format("speed"), per_second(OURS), per_second(other), "rows/CPU s", at_least=bound
        )
        bench.figure(name.format("peak"), peaks(OURS), peaks(other), "MB", at_most=memory)
        bench.figure(
            name.format("loss"),
            losses(OURS), losses(other), "nats", at_most=1.005, at_least=0.995,
        )  # fmt: skip


def exact(bench: Bench, given: dict[str, Any]) -> None:
    """Compare the losses of DPO in fp32, on a small model. In bf16 they are rounded by more than a
    few steps of it change them: those of TRL with its defaults and with the best flags are 0.6 %
    apart after the first step."""
    model = built(given["folder"] / "small", 128, 4, 1152)
    same = {**given, "model": model, "options": {"bf16": False}}
    ours, best = ([mean(trained({**same, "side": side})[1]["losses"])] for side in (OURS, BEST))
    bench.figure("dpo_lora_loss_in_fp32", ours, best, "nats", at_most=1.0001, at_least=0.9999)


def converge(bench: Bench, folder: Path, asked: Any) -> None:
    """Compare bf16 with fp32 over many steps of full fine-tuning from random weights, on two sets:
    the mean loss of the last tenth of the steps within 0.5 %."""
    model = built(folder / "base", 128, 4, 1152)
    sets = {
        "gsm8k": SHARED / "foundry_gsm8k_chat",
        "text2sql": SHARED / "fireworks_text2sql",
    }
    last = max(1, asked.converge // 10)
    for name, place in sets.items():
        [train, *_] = sorted(place.glob("*.jsonl"), key=lambda path: -path.stat().st_size)
        given = {
            "method": "sft", "kind": "full", "train": train, "rate": 1e-3, "model": model,
            "steps": asked.converge, "batch": asked.batch, "folder": folder, "side": OURS,
        }  # fmt: skip
        sides = {
            str(bf16): partial(trained, {**given, "options": {"bf16": bf16}})
            for bf16 in (True, False)
        }
        found = alternate(sides, asked.runs)
        ends = {
            side: [mean(one["losses"][-last:]) for _, one in runs] for side, runs in found.items()
        }
        bench.figure(
            f"converge_{name}_{asked.converge}_steps",
            ends["True"], ends["False"], "nats", at_most=1.005, at_least=0.995,
        )  # fmt: skip


def trained(given: dict[str, Any]) -> tuple[Process, dict[str, Any]]:
    """Train one side, and return its process and what it said."""
    case = "-".join((given["side"], given["train"].stem, given["kind"]))
    output = given["folder"] / f"{case}-{next(NUMBERS)}"
    asked = {name: value for name, value in given.items() if name != "folder"}
    asked |= {"output": str(output), "model": str(given["model"]), "train": str(given["train"])}
    done = run([sys.executable, str(SIDE), json.dumps(asked)], session=True)
    found: dict[str, Any] = json.loads(done.out.splitlines()[-1])
    say(f"    {given['side']}: {found['cpu']:.1f} CPU s, {done.peak_mb:.0f} MB")
    return done, found


def built(folder: Path, hidden: int, layers: int, vocabulary: int) -> Path:
    """A random Qwen3 with the tokenizer and the template of builtin/tiny."""
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": hidden // 128,
        "head_dim": 64,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "eos_token_id": 2,
        "pad_token_id": 3,
    }
    run([sys.executable, "-c", BUILD, str(folder), json.dumps(shape)])
    return folder


def lengths(rows: int) -> Iterator[int]:
    drawn, spread = random.Random(0), math.sqrt(2 * math.log(MEAN / MEDIAN))
    for _ in range(rows):
        yield min(LONGEST, max(24, round(MEDIAN * math.exp(spread * drawn.gauss(0, 1)))))


def texts(length: float, drawn: random.Random) -> str:
    """Return about so many tokens of the manual."""
    manual, size = topics["specialnames"], round(length * CHARACTERS)
    start = drawn.randrange(len(manual) - size)
    return manual[start : start + size]


def chat_rows(rows: int) -> Iterator[dict[str, Any]]:
    drawn = random.Random(1)
    for length in lengths(rows):
        yield {
            "messages": [
                {"role": "user", "content": texts(PROMPT * length, drawn)},
                {"role": "assistant", "content": texts((1 - PROMPT) * length, drawn)},
            ]
        }


def pair_rows(rows: int) -> Iterator[dict[str, Any]]:
    drawn = random.Random(1)
    for length in lengths(rows):
        prompt = {"role": "user", "content": texts(PROMPT * length, drawn)}
        sides = [
            [{"role": "assistant", "content": texts((1 - PROMPT) * length, drawn)}]
            for _ in range(2)
        ]
        yield {
            "input": {"messages": [prompt]},
            "preferred_output": sides[0],
            "non_preferred_output": sides[1],
        }


if __name__ == "__main__":
    sys.exit(main())
