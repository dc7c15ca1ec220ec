"""One event loop, and how long it was blocked at a time: with the service of the docs in it, or
with nothing.

Run as a process: python _loop_side.py idle, or serve TENANTS PORT_FILE. Prints its figures as JSON
when its stdin ends.
"""

from __future__ import annotations

import asyncio
import heapq
import importlib.util
import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

PAUSE = 0.001  # seconds between two ticks
KEPT = 10  # longest blocks
APP = Path(__file__).resolve().parents[1] / "docs" / "example-app" / "app.py"


async def main() -> None:
    end = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    if sys.argv[1] == "idle":
        figures = await ticks(end)
    else:
        figures = await serve(Path(sys.argv[2]), Path(sys.argv[3]), end)
    print(json.dumps(figures))


async def ticks(end: asyncio.Future[str]) -> dict[str, Any]:
    """Tick until the end; return the longest times, in seconds, by which a tick came late."""
    late: list[float] = []
    count, began = 0, time.perf_counter()
    cpu, own = time.process_time(), time.thread_time()
    while not end.done():
        before = time.perf_counter()
        await asyncio.sleep(PAUSE)
        count += 1
        heapq.heappush(late, time.perf_counter() - before - PAUSE)
        if len(late) > KEPT:
            heapq.heappop(late)
    return {
        "late": [round(one, 4) for one in sorted(late)],
        "ticks": count,
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_of_threads": round(time.process_time() - cpu - (time.thread_time() - own), 2),
        "cpu_of_loop": round(time.thread_time() - own, 2),
    }


async def serve(tenants: Path, port_file: Path, end: asyncio.Future[str]) -> dict[str, Any]:
    """Serve these tenants, and tick beside that in the same loop."""
    import uvicorn

    spec = importlib.util.spec_from_file_location("app", APP)
    assert spec is not None and spec.loader is not None  # for the type checker
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    app = module.service(json.loads(tenants.read_text("utf-8")))
    config = uvicorn.Config(app, port=0, log_level="error", ws="none")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(PAUSE)
    port_file.with_suffix(".tmp").write_text(str(server.servers[0].sockets[0].getsockname()[1]))
    port_file.with_suffix(".tmp").replace(port_file)
    figures = await ticks(end)
    process = psutil.Process()
    figures |= {"descriptors": process.num_fds(), "threads": process.num_threads()}
    server.should_exit = True
    await serving
    return figures | {"rss_mb": process.memory_info().rss / 1e6}


if __name__ == "__main__":
    asyncio.run(main())
