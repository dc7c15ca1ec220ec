"""How long a local model takes for eight conversations, at once against one after the other.

The model has about 40 million random weights and the tokenizer of builtin/tiny. Prompts are of
different lengths; all answers have as many tokens. Both sides must give the same texts. One
thread, since two on a busy machine wait for each other (``--threads``).
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from _common import Bench, alternate, arguments, say, versions
from _models import built

AT_ONCE = 8
BOUND = 0.5
NAME = "40M qwen3"


def conversations() -> list[dict[str, Any]]:
    """Eight prompts of 20 to 200 tokens."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Where is parcel {number}? " * (1 + 3 * number)}
            ]
        }
        for number in range(AT_ONCE)
    ]


def main() -> int:
    options = arguments(__doc__, runs=5, tokens=64, threads=1)
    import torch

    from finetune_gateway.backends.local.inference import LocalModel
    from finetune_gateway.backends.local.loading import load_model
    from finetune_gateway.tokens.chat_template import ChatTemplate

    bench = Bench("chat_many", versions("finetune-gateway", "torch", "transformers"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = built(Path(scratch), NAME)
        model = LocalModel(load_model(folder), ChatTemplate.load(folder))
    torch.set_num_threads(options.threads)
    asked = conversations()

    def together() -> float:
        began = time.perf_counter()
        model.chat_many(asked, max_tokens=options.tokens)
        return time.perf_counter() - began

    def alone() -> float:
        began = time.perf_counter()
        for one in asked:
            model.chat(one["messages"], max_tokens=options.tokens)
        return time.perf_counter() - began

    together()
    found = alternate({"alone": alone, "together": together}, options.runs)
    many = [getattr(one, "text", one) for one in model.chat_many(asked, max_tokens=options.tokens)]
    singly = [model.chat(one["messages"], max_tokens=options.tokens).text for one in asked]
    say(f"the same texts: {many == singly}")
    if many != singly:
        bench.missed.append("same_texts")
    bench.figure("8_at_once", found["together"], found["alone"], "s", at_most=BOUND)
    return bench.end(options.out)


if __name__ == "__main__":
    raise SystemExit(main())
