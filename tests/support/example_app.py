"""The example service of the docs, on a socket, and what asks it."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from support.chaos import until
from support.paths import ROOT

APP = ROOT / "docs" / "example-app" / "app.py"


def load() -> Any:
    """Return the module of the docs."""
    spec = importlib.util.spec_from_file_location("example_app", APP)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@contextmanager
def serving(tenants: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """Serve these tenants in a thread, and yield the address."""
    uvicorn = pytest.importorskip("uvicorn")
    config = uvicorn.Config(
        load().service(tenants), port=0, log_level="error", ws="none", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def client(url: str, token: str) -> httpx.Client:
    """One tenant's way to the service."""
    headers = {"authorization": f"Bearer {token}"}
    return httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False)


def progress(asked: httpx.Client, job: str, after: int | None = None) -> Generator[dict[str, Any]]:
    """Yield the events that the service sends, each with its name and number, until the last."""
    headers = {} if after is None else {"last-event-id": str(after)}
    with asked.stream("GET", f"/jobs/{job}/events", headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        for line in answer.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                fields[name] = value
            else:
                yield {**fields, "data": json.loads(fields["data"])}
                fields = {}
