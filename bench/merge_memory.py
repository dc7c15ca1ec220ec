"""How much memory a merge takes: its peak beside the base, of 36 and 440 million parameters.

Each base is made from a config, stored in shards of 200 MB, and given an adapter drawn by lot; a
process of its own merges it. Compared is the peak with the base, one shard and 300 MB, once without
and once with what the imports take. Takes 2 minutes.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from _common import Bench, arguments, say, versions

SIZES = {"36M": (512, 8), "440M": (1024, 26)}  # hidden size, layers
SHARD, MORE = 200 * 10**6, 300 * 10**6


def main() -> int:
    asked = arguments(__doc__)
    bench = Bench("merge_memory", versions("torch", "transformers", "peft"))
    for name, (hidden, layers) in SIZES.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            run(folder, "make", hidden, layers)
            bare, peak = run(folder, "import"), run(folder, "merge")
            base = sum(one.stat().st_size for one in (folder / "base").glob("*.safetensors"))
        allowed = base + SHARD + MORE
        say(f"{name}: base {base:,}, imports {bare:,}, peak {peak:,}")
        bench.figure(f"{name}, peak", [peak], [allowed], "bytes")
        bench.figure(
            f"{name}, peak above the imports", [peak - bare], [allowed], "bytes", at_most=1.0
        )
    return bench.end(asked.out)


def run(folder: Path, task: str, *numbers: int) -> int:
    """Do a task in a process of its own, and return its peak in bytes."""
    command = [sys.executable, __file__, task, str(folder), *map(str, numbers)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def make(folder: Path, hidden: int, layers: int) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune_gateway import ModelHandle
    from finetune_gateway.backends.local import builtin

    words = builtin.ensure_tokenizer(folder / "base")
    config = LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, intermediate_size=4 * hidden,
        num_attention_heads=8, num_key_value_heads=8, vocab_size=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(words, max_shard_size=SHARD)
    lora = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
    adapter = str(folder / "adapter")
    get_peft_model(model, lora).save_pretrained(adapter)
    handle = ModelHandle(kind="adapter", model=adapter, base_model=str(words), backend="local")
    handle.save(adapter)


def merge(folder: Path) -> None:
    from finetune_gateway import ModelHandle
    from finetune_gateway.backends.local import merging

    merging.SHARD = f"{SHARD // 10**6}MB"
    ModelHandle.load(folder / "adapter").merge(folder / "whole")


def task() -> int:
    name, folder, *numbers = sys.argv[1:]
    if name == "make":
        make(Path(folder), *map(int, numbers))
    elif name == "merge":
        merge(Path(folder))
    else:
        import finetune_gateway.backends.local.merging  # noqa: F401
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return 0


if __name__ == "__main__":
    is_task = len(sys.argv) > 1 and sys.argv[1] in ("make", "merge", "import")
    sys.exit(task() if is_task else main())
