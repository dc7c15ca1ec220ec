"""How long it takes to record 500 prompts, 16 at once, against a bare asyncio loop.

Ours is all of ``evaluation.record``: rows are read, searched for private data and priced, the
recording and its share of the budget are written, each request is on the disk before it is sent,
and each answer after. The other side asks the same prompts, 16 at once, and keeps nothing: with
the SDK's own asynchronous client, and with the bare httpx2 that it runs on.

The host is a process of its own that answers after 50 to 200 ms, the same prompt always after the
same time. Both sides take turns in one process, whose modules are loaded.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import openai
from _asking import AT_ONCE, KEY, MODEL, Json, bare, by_httpx2, rows, server
from _common import Bench, alternate, arguments, versions

from finetune_gateway import evaluation
from finetune_gateway.backends.openai.backend import OpenAIBackend

BOUND = 1.1


def recorded(url: str, data: list[Json], home: Path, number: Iterator[int]) -> float:
    """Seconds of one recording."""
    backend = OpenAIBackend(base_url=url, api_key=KEY, profile="openai")
    began = time.perf_counter()
    done = evaluation.record(
        MODEL, data, backend=backend, home=home, name=f"run-{next(number)}", at_once=AT_ONCE
    )
    seconds = time.perf_counter() - began
    assert done.run is not None and done.run.answers == len(data), done.run
    return seconds


async def by_sdk(url: str, data: list[Json]) -> None:
    left = iter(data)
    async with openai.AsyncOpenAI(base_url=url, api_key=KEY) as client:

        async def work() -> None:
            for row in left:
                answer = await client.chat.completions.create(
                    model=MODEL, messages=row["messages"][:-1], max_tokens=1024, temperature=0
                )
                assert answer.choices[0].message.content

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def main() -> int:
    options = arguments(__doc__, runs=7, prompts=500)
    bench = Bench("record_speed", versions("finetune-gateway", "openai", "httpx2"))
    data = rows(options.prompts)
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as url:
        number = iter(range(1000))
        home = Path(folder) / "home"
        recorded(url, data[:16], home, number)  # modules, tables of tokens, a connection each
        for ask_all in (by_sdk, by_httpx2):
            bare(ask_all, url, data[:16])
        sides = {
            "recording": lambda: recorded(url, data, home, number),
            "sdk": lambda: bare(by_sdk, url, data),
            "httpx2": lambda: bare(by_httpx2, url, data),
        }
        found = alternate(sides, options.runs)
    ours = found.pop("recording")
    for name, other in found.items():
        bench.figure(f"record_{options.prompts}_{name}", ours, other, "s", at_most=BOUND)
    return bench.end(options.out)


if __name__ == "__main__":
    raise SystemExit(main())
