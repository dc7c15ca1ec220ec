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
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import openai
from _common import Bench, alternate, arguments, versions

from finetune_gateway import evaluation
from finetune_gateway.backends.openai.backend import OpenAIBackend

MODEL = "ft:gpt-4.1-mini-2025-04-14:bench:parcels:1"
AT_ONCE = 16
BOUND = 1.1
Json = dict[str, Any]
AskAll = Callable[[str, list[Json]], Coroutine[Any, Any, None]]


def rows(count: int) -> list[Json]:
    """Prompts of a support desk, each with its answer in the data."""
    system = "You answer for a parcel service, in one sentence. " * 6
    return [
        {
            "messages": [
                {"role": "system", "content": system},
                {"role": "user", "content": f"Where is parcel number {number}, please?"},
                {"role": "assistant", "content": "It is on its way."},
            ]
        }
        for number in range(count)
    ]


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of the host, as long as the block runs."""
    port = folder / "port"
    process = subprocess.Popen([sys.executable, Path(__file__).parent / "_chat_server.py", port])
    try:
        while not (port.exists() and port.read_text()):
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port.read_text()}/v1"
    finally:
        process.kill()
        process.wait()


def recorded(url: str, data: list[Json], home: Path, number: Iterator[int]) -> float:
    """Seconds of one recording."""
    backend = OpenAIBackend(base_url=url, api_key="sk-bench-0123456789", profile="openai")
    began = time.perf_counter()
    done = evaluation.record(
        MODEL, data, backend=backend, home=home, name=f"run-{next(number)}", at_once=AT_ONCE
    )
    seconds = time.perf_counter() - began
    assert done.run is not None and done.run.answers == len(data), done.run
    return seconds


def bare(ask_all: AskAll, url: str, data: list[Json]) -> float:
    """Seconds of the same prompts, asked in a loop that keeps nothing."""
    began = time.perf_counter()
    asyncio.run(ask_all(url, data))
    return time.perf_counter() - began


async def by_sdk(url: str, data: list[Json]) -> None:
    left = iter(data)
    async with openai.AsyncOpenAI(base_url=url, api_key="sk-bench-0123456789") as client:

        async def work() -> None:
            for row in left:
                answer = await client.chat.completions.create(
                    model=MODEL, messages=row["messages"][:-1], max_tokens=1024, temperature=0
                )
                assert answer.choices[0].message.content

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def by_httpx2(url: str, data: list[Json]) -> None:
    left = iter(data)
    headers = {"Authorization": "Bearer sk-bench-0123456789"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as client:

        async def work() -> None:
            for row in left:
                body = {"model": MODEL, "messages": row["messages"][:-1]}
                body |= {"max_tokens": 1024, "temperature": 0}
                answer = await client.post("/chat/completions", json=body)
                assert answer.json()["choices"][0]["message"]["content"]

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
