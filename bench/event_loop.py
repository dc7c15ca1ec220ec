"""How long the event loop of a service is blocked while it submits, watches and chats.

The service of ``docs/example-app`` with two tenants, over a host of OpenAI's contract in a process
of its own. So many clients, who come evenly over some seconds, submit a job each, follow its events
and chat with its model. In the loop of the service a task ticks every millisecond; the longest time
by which a tick came late is set beside that of a loop with nothing else in it, in a process beside
it. The bound, for the longest of all runs: at most 50 ms more.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from _common import ROOT, Bench, arguments, say, versions
from _rows import chat_rows

AT_MOST = 0.05  # seconds more than the idle loop
SIDE = Path(__file__).with_name("_loop_side.py")
KEYS = {"token-1": "sk-test-0123456789abcdef", "token-2": "sk-test-other-6789abcdef"}
MODEL = "gpt-4.1-mini-2025-04-14"
CHAT = {"messages": [{"role": "user", "content": "Where is my parcel?"}]}


def main() -> int:
    asked = arguments(__doc__, runs=3, jobs=200, rows=50, seconds=60.0)
    packages = ("finetune-gateway", "starlette", "uvicorn", "openai", "httpx2")
    bench = Bench("event_loop", versions(*packages))
    found = []
    for number in range(asked.runs):
        with TemporaryDirectory() as name:
            found.append(measured(Path(name), asked))
        say(f"  run {number + 1} of {asked.runs}: {json.dumps(found[-1])}")
    busy = [run["busy"]["late"][-1] for run in found]
    idle = [run["idle"]["late"][-1] for run in found]
    bench.figure("longest_block", busy, idle, "s")
    more = [max(0.0, one - other) for one, other in zip(busy, idle, strict=True)]
    bench.figure("usual_block_beyond_idle", more, [AT_MOST] * len(more), "s")
    bench.figure("longest_block_beyond_idle", [max(more)], [AT_MOST], "s", at_most=1.0)
    bench.figure(
        "tenth_longest_block",
        [run["busy"]["late"][0] for run in found],
        [run["idle"]["late"][0] for run in found],
        "s",
    )
    return bench.end(asked.out, jobs=asked.jobs, seconds=asked.seconds, runs_in_full=found)


def measured(folder: Path, asked: Any) -> dict[str, Any]:
    """Return the figures of both loops while all jobs go from submit to chat."""
    provider = [sys.executable, "-m", "support.provider", "--steps", "2", "--pace", "0.5"]
    provider += ["--api-key", KEYS["token-1"], "--key", f"{KEYS['token-2']}=other"]
    with ExitStack() as stack:
        _, port = served(stack, folder / "provider", [*provider, "--port-file"])
        url = f"http://localhost:{port}/v1"
        host = {"base_url": url, "profile": "custom", "poll_seconds": 0.2, "settle_seconds": 0.5}
        tenants = {
            token: {
                "home": str(folder / token),
                "keys": {f"localhost:{port}": key},
                "backends": {"openai": host},
            }
            for token, key in KEYS.items()
        }
        (folder / "tenants.json").write_text(json.dumps(tenants))
        service = [sys.executable, str(SIDE), "serve", str(folder / "tenants.json")]
        busy, port = served(stack, folder / "service", service)
        idle = begun(stack, [sys.executable, str(SIDE), "idle"])
        began = time.perf_counter()
        asyncio.run(clients(f"http://127.0.0.1:{port}", asked))
        seconds = time.perf_counter() - began
        return {"seconds": round(seconds, 1), "busy": figures(busy), "idle": figures(idle)}


def begun(stack: ExitStack, command: list[str]) -> subprocess.Popen[str]:
    """Start a process that ends with the stack."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    )
    stack.callback(process.wait)
    stack.callback(process.terminate)
    return process


def served(
    stack: ExitStack, port_file: Path, command: list[str]
) -> tuple[subprocess.Popen[str], int]:
    """Start a process that writes its port to a file, and return it with the port."""
    process = begun(stack, [*command, str(port_file)])
    while not port_file.exists():
        if process.poll() is not None:
            raise SystemExit(f"exit {process.returncode} of {' '.join(command)}")
        time.sleep(0.01)
    return process, int(port_file.read_text())


def figures(process: subprocess.Popen[str]) -> dict[str, Any]:
    """End a loop, and return what it has measured."""
    printed, _ = process.communicate("")
    found: dict[str, Any] = json.loads(printed)
    return found


async def clients(url: str, asked: Any) -> None:
    """Let all jobs be submitted, followed and asked."""

    async def one(number: int, client: httpx.AsyncClient) -> None:
        rows = chat_rows(asked.rows, words=8, spread=0.4, tools=0, seed=number)
        body = "".join(json.dumps(row) + "\n" for row in rows)
        headers = {"authorization": f"Bearer {[*KEYS][number % 2]}"}
        await asyncio.sleep(asked.seconds * number / asked.jobs)
        where = {"backend": "openai", "model": MODEL}
        answer = await client.post("/jobs", params=where, content=body, headers=headers)
        job = answer.json()["id"]
        events = client.stream("GET", f"/jobs/{job}/events", headers=headers)
        async with events as stream:
            last = [line async for line in stream.aiter_lines() if line][-1]
        if '"status": "succeeded"' not in last:
            raise SystemExit(f"{job} has not succeeded: {last}")
        answer = await client.post(f"/jobs/{job}/chat", json=CHAT, headers=headers)
        answer.raise_for_status()

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=url, timeout=600, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*(one(number, client) for number in range(asked.jobs)))


if __name__ == "__main__":
    sys.exit(main())
