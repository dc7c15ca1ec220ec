"""Prompts of a support desk, a host that answers them, and bare loops that ask it and keep nothing:
what the benches of asking share."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2

MODEL = "ft:gpt-4.1-mini-2025-04-14:bench:parcels:1"
AT_ONCE = 16
KEY = "sk-bench-0123456789"
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


def bare(ask_all: AskAll, url: str, data: list[Json]) -> float:
    """Seconds of the same prompts, asked in a loop that keeps nothing."""
    began = time.perf_counter()
    asyncio.run(ask_all(url, data))
    return time.perf_counter() - began


async def by_httpx2(url: str, data: list[Json]) -> None:
    """Ask them all, 16 at once, with the client that the SDK runs on."""
    left = iter(data)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as client:

        async def work() -> None:
            for row in left:
                body = {"model": MODEL, "messages": row["messages"][:-1]}
                body |= {"max_tokens": 1024, "temperature": 0}
                answer = await client.post("/chat/completions", json=body)
                assert answer.json()["choices"][0]["message"]["content"]

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


async def by_stream(url: str, data: list[Json]) -> None:
    """The same, streamed: each piece is read, and the time of the first one taken."""
    left = iter(data)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=60) as client:

        async def work() -> None:
            for row in left:
                body = {"model": MODEL, "messages": row["messages"][:-1]}
                body |= {"max_tokens": 1024, "temperature": 0, "stream": True}
                began, first, text = time.perf_counter(), None, ""
                async with client.stream("POST", "/chat/completions", json=body) as answer:
                    async for line in answer.aiter_lines():
                        if line.startswith("data: {"):
                            choices = json.loads(line[6:])["choices"]
                            text += choices[0]["delta"].get("content") or "" if choices else ""
                            first = first or time.perf_counter() - began
                assert text and first

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))
