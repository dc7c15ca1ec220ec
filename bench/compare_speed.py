"""How long a comparison takes to ask 500 prompts, 16 at once, against a bare asyncio loop.

Ours is all that a comparison does to ask: rows are read, searched for private data and priced, the
share of the budget is written, each request is on the disk before it is sent and each answer after;
answers are streamed, so that the time to the first piece is known. The other side asks the same
prompts, 16 at once over as many connections, and keeps nothing: whole answers, and streamed ones.

The host is a process of its own that answers after 50 to 200 ms, the same prompt always after the
same time. All sides take turns in one process, whose modules are loaded.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from _asking import AT_ONCE, KEY, MODEL, Json, bare, by_httpx2, by_stream, rows, server
from _common import Bench, alternate, arguments, versions

from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.evaluation.answers import AskHow, ask, plan
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import read_prompts
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.encodings import base_model

BOUND = 1.1


def compared(url: str, data: list[Json], home: Path) -> float:
    """Seconds in which one model was asked for a comparison."""
    backend = OpenAIBackend(base_url=url, api_key=KEY, profile="openai")
    began = time.perf_counter()
    store = Store(Settings.load(home).create())
    backend.bind(store.settings)
    model = EvaluatedModel(
        "tuned", MODEL, "tuned", "hosted", "tuned", MODEL, base_model(MODEL),
        host=backend.host, account=backend.account(), backend=backend,
    )  # fmt: skip
    how = AskHow(name="compare:cmp-bench", at_once=AT_ONCE)
    prompts = read_prompts(Dataset.open(data, spool=store.settings.spool))
    done = ask(plan(store, [model], {"tuned": prompts}, how))
    seconds = time.perf_counter() - began
    answers = done.answers.values()
    assert done.asked == len(data) and all(one.first_token_seconds for one in answers), done
    return seconds


def main() -> int:
    options = arguments(__doc__, runs=7, prompts=500)
    bench = Bench("compare_speed", versions("finetune-gateway", "openai", "httpx2"))
    data = rows(options.prompts)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
        homes = (Path(folder) / f"home-{number}" for number in range(1000))
        compared(url, data[:16], next(homes))  # modules, tables of tokens, a connection each
        for ask_all in (by_httpx2, by_stream):
            bare(ask_all, url, data[:16])
        sides = {
            "comparison": lambda: compared(url, data, next(homes)),
            "whole": lambda: bare(by_httpx2, url, data),
            "streamed": lambda: bare(by_stream, url, data),
        }
        found = alternate(sides, options.runs)
    ours = found.pop("comparison")
    for name, other in found.items():
        bench.figure(f"compare_{options.prompts}_{name}", ours, other, "s", at_most=BOUND)
    return bench.end(options.out)


if __name__ == "__main__":
    raise SystemExit(main())
