"""A stand-in for the Hugging Face hub: serves folders as models, and writes down what is asked."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

FILE = re.compile(r"/(?P<model>[^/]+/[^/]+)/resolve/(?P<commit>\w+)/(?P<path>.+)")
API = re.compile(r"/api/models/(?P<model>[^/]+/[^/]+)/(?P<what>revision|tree)/(?P<commit>\w+)")


@dataclass
class Hub:
    """The models it has, by their ids, and the requests it got."""

    models: dict[str, Path] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)  # "GET /path"
    cut: set[str] = field(default_factory=set)  # files of which half is sent, once
    url: str = ""

    def environment(self, cache: Path) -> dict[str, str]:
        """Return the environment of a process that asks this hub."""
        quiet = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
        env = {name: value for name, value in os.environ.items() if name not in quiet}
        return env | {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}

    def commit(self, model: str) -> str:
        """Return the commit of a model: it changes with the files."""
        stamps = [
            (path, path.stat().st_size, path.stat().st_mtime_ns) for path in self.files(model)
        ]
        return hashlib.sha1(repr(stamps).encode(), usedforsecurity=False).hexdigest()

    def listing(self, model: str, what: str) -> bytes:
        """Return the answer about a revision, or the files of one (``tree``)."""
        if what == "revision":
            return json.dumps({"id": model, "sha": self.commit(model)}).encode()
        return json.dumps(
            [
                {
                    "type": "file",
                    "path": str(path.relative_to(self.models[model])),
                    "size": path.stat().st_size,
                    "oid": "0" * 40,
                }
                for path in self.files(model)
            ]
        ).encode()

    def files(self, model: str) -> list[Path]:
        return sorted(path for path in self.models[model].rglob("*") if path.is_file())


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does, as far as its client (huggingface_hub 2.4) asks."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        hub, path = self.server.hub, self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        found = FILE.fullmatch(path) or API.fullmatch(path)
        if found is None or found["model"] not in hub.models:
            self.send([("X-Error-Code", "RepoNotFound")], b"", 404)
        elif found.re is API:
            self.send([], hub.listing(found["model"], found["what"]))
        else:
            raw = (hub.models[found["model"]] / found["path"]).read_bytes()
            etag = f'"{hashlib.sha256(raw).hexdigest()}"'
            head = [("X-Repo-Commit", hub.commit(found["model"])), ("ETag", etag)]
            cut = body and found["path"] in hub.cut
            hub.cut -= {found["path"]} if cut else set()
            self.send(head, raw, body=body, share=0.5 if cut else 1)

    def send(
        self, head: list[tuple[str, str]], raw: bytes, status: int = 200, *, body: bool = True,
        share: float = 1,
    ) -> None:  # fmt: skip
        self.send_response(status)
        for name, value in [*head, ("Content-Length", str(len(raw)))]:
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = share < 1
        self.wfile.write(raw[: int(len(raw) * share)] if body else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Not on our screen."""


class Server(ThreadingHTTPServer):
    hub: Hub


@contextmanager
def serving(models: dict[str, Path]) -> Iterator[Hub]:
    """Yield a hub with these models."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.hub = Hub(models, url=f"http://127.0.0.1:{server.server_port}")
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.hub
        server.shutdown()
