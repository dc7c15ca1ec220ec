"""The service of docs/example-rest, on the wire: datasets, runs, files, endpoints, in memory.

Each look at a run takes it one state further. ``faults``: what the next requests of a kind meet,
``drop`` (it is carried out, and the connection ends), a status code, or a state that nobody knows.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

KEY = "rest-key-9fJ2kQ81mZp"
# State, place in line, share done, GPU seconds.
STAGES: list[tuple[str, int | None, float, float]] = [
    ("WAITING", 2, 0.0, 0),
    ("WAITING", 1, 0.0, 0),
    ("BOOTING", None, 0.0, 30),
    ("TRAINING", None, 0.4, 90),
    ("TRAINING", None, 0.8, 150),
    ("SAVING", None, 1.0, 180),
    ("DONE", None, 1.0, 200),
]
USD_A_SECOND = 0.0005


class RestService:
    """A service with the model in ``folder`` as the result of each run."""

    def __init__(self, folder: Path) -> None:
        self.model = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        self.altered: dict[str, bytes | None] = {}  # what it gives in the place of a file
        self.datasets: dict[str, bytes] = {}
        self.runs: dict[str, dict[str, Any]] = {}
        self.endpoints: dict[str, dict[str, Any]] = {}
        self.asked: Counter[str] = Counter()
        self.faults: dict[str, list[Any]] = {}
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, method: str, target: str, body: bytes) -> tuple[int, Any]:
        """The status and the document, or the bytes, of an answer."""
        path, query = urlsplit(target).path.removeprefix("/v1"), parse_qs(urlsplit(target).query)
        with self.lock:
            self.asked[f"{method} {path.split('/')[1]}"] += 1
            for pattern, act in self.routes().items():
                verb, _, where = pattern.partition(" ")
                if verb == method and (found := re.fullmatch(where, path)):
                    return act(*found.groups(), body, query)  # type: ignore[no-any-return]
        return 404, {"error": "no such thing"}

    def routes(self) -> dict[str, Any]:
        return {
            r"PUT /datasets/([0-9a-f]{64})": self.put_dataset,
            r"GET /datasets/([0-9a-f]{64})": self.get_dataset,
            r"POST /runs": self.create,
            r"GET /runs": self.find,
            r"GET /runs/([^/]+)": self.look,
            r"POST /runs/([^/]+)/stop": self.stop,
            r"GET /runs/([^/]+)/files/([^/]+)": self.file,
            r"PUT /endpoints/([^/]+)": self.deploy,
            r"DELETE /endpoints/([^/]+)": self.end,
            r"POST /endpoints/([^/]+)/chat": self.chat,
        }

    def put_dataset(self, digest: str, body: bytes, _: Any) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != digest:
            return 400, {"error": "not this content"}
        self.datasets[digest] = body
        return 201, {}

    def get_dataset(self, digest: str, *_: Any) -> tuple[int, Any]:
        return (200, {}) if digest in self.datasets else (404, {})

    def create(self, body: bytes, _: Any) -> tuple[int, Any]:
        wanted = json.loads(body)
        if wanted["dataset"] not in self.datasets:
            return 400, {"error": "no such dataset"}
        run = f"run-{len(self.runs) + 1:04}"
        self.runs[run] = {**wanted, "stage": 0, "stopped": False, "state": None}
        return 201, {"id": run}

    def find(self, _: bytes, query: dict[str, list[str]]) -> tuple[int, Any]:
        [label] = query["label"]
        found = [{"id": name} for name, run in self.runs.items() if run["label"] == label]
        return 200, {"runs": found}

    def look(self, name: str, _: bytes, query: dict[str, list[str]]) -> tuple[int, Any]:
        run = self.runs.get(name)
        if run is None:
            return 404, {"error": "no such run"}
        state, place, done, seconds = STAGES[run["stage"]]
        state = run["state"] or ("STOPPED" if run["stopped"] else state)
        log = [
            {"id": f"{name}-{at}", "created_at": 1_790_000_000.0 + at, "message": f"Now {one[0]}."}
            for at, one in enumerate(STAGES[: run["stage"] + 1])
        ]
        document = {
            "label": run["label"],
            "state": state,
            "place": None if run["stopped"] else place,
            "done": done,
            "gpu_seconds": seconds,
            "usd": f"{seconds * USD_A_SECOND:.4f}",
            "error": None,
            "log": log[int(query["after"][0]) :],
            "lines": len(log),
            "files": self.files() if state == "DONE" else [],
        }
        if not run["stopped"] and run["state"] is None:
            run["stage"] = min(run["stage"] + 1, len(STAGES) - 1)
        return 200, document

    def files(self) -> list[dict[str, Any]]:
        return [
            {"name": name, "bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
            for name, raw in self.model.items()
        ]

    def stop(self, name: str, *_: Any) -> tuple[int, Any]:
        run = self.runs.get(name)
        if run is None:
            return 404, {"error": "no such run"}
        run["stopped"] = run["stopped"] or STAGES[run["stage"]][0] != "DONE"
        return 200, {}

    def file(self, run: str, name: str, *_: Any) -> tuple[int, Any]:
        raw = self.altered.get(name, self.model.get(name))
        return (404, {}) if run not in self.runs or raw is None else (200, raw)

    def deploy(self, name: str, body: bytes, _: Any) -> tuple[int, Any]:
        run = json.loads(body)["run"]
        if run not in self.runs:
            return 404, {"error": "no such run"}
        self.endpoints.setdefault(name, {"run": run, "starting": 2})
        return 200, {"name": name}

    def end(self, name: str, *_: Any) -> tuple[int, Any]:
        return (200, {}) if self.endpoints.pop(name, None) else (404, {})

    def chat(self, name: str, body: bytes, _: Any) -> tuple[int, Any]:
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            return 404, {"error": f"no endpoint {name}"}
        if endpoint["starting"]:
            endpoint["starting"] -= 1
            return 503, {"error": "starting"}
        asked = json.loads(body)["messages"][-1]["content"]
        return 200, {"text": f"{endpoint['run']} heard: {asked}", "finish_reason": "stop"}


def _handler(service: RestService) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = f"{self.command} {urlsplit(self.path).path.removeprefix('/v1').split('/')[1]}"
            fault = service.faults[kind].pop(0) if service.faults.get(kind) else None
            if self.headers.get("Authorization") != f"Bearer {KEY}":
                self._write(401, {"error": "a wrong key"})
                return
            if isinstance(fault, int):
                self._write(fault, {"error": "a fault"})
                return
            status, answer = service.answer(self.command, self.path, body)
            if fault == "drop":
                self.close_connection = True
                return
            self._write(status, answer)

        def _write(self, status: int, answer: Any) -> None:
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            kind = "application/octet-stream" if isinstance(answer, bytes) else "application/json"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        do_GET = do_PUT = do_POST = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Print nothing."""

    return Handler
