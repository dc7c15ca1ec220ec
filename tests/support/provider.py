"""A stateful hosted provider on a loopback socket, in OpenAI's wire shapes, with faults to order.

Not a mock of an SDK: files, jobs, events, checkpoints, models and chat behave as one system,
so that create-then-crash, look-up and chat can be proven end to end.

    with Provider() as provider:                  # .url .api_key .posts .jobs .requests
        provider.fault("POST /fine_tuning/jobs", "reset_after")

    python -m support.provider --port-file F --state-file S    # as a process; GET /_provider

Keys belong to accounts, and an account sees its own files and jobs alone: ``keys={"sk-2": "main"}``
is a new key of the first account, ``{"sk-2": "other"}`` the key of another one. A project that is
named with a key has files and jobs of its own.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from support.provider_state import ACCOUNT, MAIN, TurnedAway, World

JSON = dict[str, Any]
CREATE = "POST /fine_tuning/jobs"
POLL = 0.005  # seconds until a server sees that it has to stop: hundreds are started
NO_DEPLOYMENT = (  # Azure's words
    "The API deployment for this resource does not exist. If you created the deployment within the "
    "last 5 minutes, please wait a moment and try again."
)


@dataclass
class Fault:
    """What happens to one request instead of a plain answer.

    ``refuse`` 503, not applied; ``status`` any status, not applied; ``busy`` 429 that asks to wait
    ``seconds``, not applied; ``slow`` waits, applies,
    answers; ``late`` applies, waits, answers; ``reset_before``/``reset_after`` drop the
    connection (RST); ``error_after`` applies, then 500;
    ``refused_after`` applies, then any status with ``headers``; ``html`` 502 page, not applied;
    ``html_ok`` applies, then a page with 200; ``truncated`` applies, then half a JSON;
    ``cut`` applies and drops the connection after the first piece of a stream;
    ``redirect`` 307 to ``location``; ``body`` answers 200 with ``body``, as JSON or as these bytes,
    and applies nothing (``raw``: with any status);
    ``overlay`` applies, and lays ``body`` over the answer;
    ``endless`` applies, then a body of spaces, 160 MB if nobody stops it; ``trickle`` the same a
    byte at a time, for ``seconds``; ``hints`` applies, then says 102 again and again, as long.
    """

    kind: str
    seconds: float = 1.0
    status: int = 503
    code: str | None = None
    message: str = "The server is overloaded."
    headers: dict[str, str] = field(default_factory=dict)
    location: str = ""
    body: Any = None


FOR_EVER = {  # the head, what comes again and again, and the seconds in between
    "endless": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" " * 2**20, 0.0),
    "trickle": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", b" ", 0.02),
    "hints": (b"", b"HTTP/1.1 102 Processing\r\n\r\n", 0.02),
}
MOST_SENT = 160_000_000  # bytes of such an answer

NOT_APPLIED = {"refuse", "status", "busy", "reset_before", "html", "redirect", "body", "raw"}


class Provider:
    """The provider as a context manager. Everything a test may want to set is an argument or a
    public attribute; everything it may want to know is in ``posts``, ``requests``, ``jobs``."""

    def __init__(
        self,
        *,
        api_key: str = "sk-test-0123456789abcdef",
        keys: dict[str, str] | None = None,  # more keys, and the account of each
        state_file: Path | None = None,
        port: int = 0,
        chaos: dict[str, float] | None = None,
        seed: int = 0,
        fault_seconds: float = 1.0,
        **world: Any,
    ) -> None:
        self.api_key = api_key
        self.keys = {api_key: MAIN, **(keys or {})}  # take one out to revoke it
        self.world = World(state_file=state_file, **world)
        self.faults: dict[str, list[Fault]] = {}
        self.chaos = chaos or {}
        self.random = random.Random(seed)
        self.fault_seconds = fault_seconds
        self.posts: Counter[str] = Counter()
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.sent = 0  # bytes of answers without an end
        self.lock = threading.Lock()
        handler = type("BoundHandler", (Handler,), {"provider": self})
        self.server = Server(("127.0.0.1", port), handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def jobs(self) -> list[JSON]:
        """Every job ever created, oldest first, as stored."""
        return list(self.world.jobs.values())

    def fault(self, endpoint: str, *kinds: str | Fault, **settings: Any) -> None:
        """Let the next requests of ``"METHOD /path"`` (ids as ``*``) meet these faults, in order.
        The kind ``ok`` lets one request pass."""
        queue = self.faults.setdefault(endpoint, [])
        queue.extend(k if isinstance(k, Fault) else Fault(k, **settings) for k in kinds)

    def next_fault(self, endpoint: str) -> Fault | None:
        with self.lock:
            queue = self.faults.get(endpoint)
            if queue:
                return queue.pop(0)
            if not self.chaos or endpoint != CREATE:
                return None
            drawn, total = self.random.random(), 0.0
            for kind, share in self.chaos.items():
                total += share
                if drawn < total:
                    return Fault(kind, seconds=self.fault_seconds)
        return None

    def count(self, method: str, path: str, headers: dict[str, str]) -> None:
        with self.lock:
            self.requests.append((method, path, headers))
            if method == "POST":
                self.posts[path] += 1

    def report(self) -> JSON:
        """What ``GET /_provider`` answers to a test in another process."""
        return {
            "posts": dict(self.posts),
            "jobs": self.jobs,
            "files": len(self.world.files),
            "connections": len(self.server.open_sockets),  # this one included
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(POLL,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Recorder:
    """A second origin that answers everything with 200 and keeps the headers it was sent."""

    def __init__(self) -> None:
        self.seen: list[dict[str, str]] = []
        seen = self.seen

        class Record(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                seen.append({name.lower(): value for name, value in self.headers.items()})
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_POST = do_GET

            def log_message(self, format: str, *args: Any) -> None: ...

        self.server = Server(("127.0.0.1", 0), Record)

    @property
    def url(self) -> str:
        return f"http://localhost:{self.server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, args=(POLL,), daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self.open_sockets: dict[int, Any] = {}
        self.accepted = 0  # connections, from the start

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open_sockets[id(request)] = request
        self.accepted += 1
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.open_sockets.pop(id(request), None)

    def server_close(self) -> None:
        """Be gone for those who have a connection already, too."""
        super().server_close()
        for request in list(self.open_sockets.values()):
            with suppress(OSError):
                request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what these tests are about; anything else is printed."""
        import sys

        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Refused(Exception):
    """An answer in OpenAI's error shape."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        kind = "server_error" if status >= 500 else "invalid_request_error"
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    provider: Provider

    def do_GET(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        split = urlsplit(self.path)
        if split.path == "/_provider":
            return self.control()
        self.query = {name: values[-1] for name, values in parse_qs(split.query).items()}
        self.route = unquote(split.path).removeprefix("/v1")
        sent = {name.lower(): value for name, value in self.headers.items()}
        self.provider.count(self.command, self.route, sent)
        endpoint = f"{self.command} {starred(self.route)}"
        self.answer(endpoint, self.provider.next_fault(endpoint))

    do_POST = do_DELETE = do_GET

    def control(self) -> None:
        if self.command == "POST":
            asked = json.loads(self.body)
            if "keys" in asked:  # from now on these, and no others
                self.provider.keys = asked["keys"]
            else:
                self.provider.fault(asked.pop("endpoint"), Fault(**asked))
        self.send_json(200, self.provider.report())

    def answer(self, endpoint: str, fault: Fault | None) -> None:
        kind = fault.kind if fault else "ok"
        if fault and kind in NOT_APPLIED:
            return self.fail_before(fault)
        if fault and kind == "slow":
            time.sleep(fault.seconds)
        self.more: dict[str, str] = {}
        status, body = self.applied(endpoint)
        if fault:
            return self.fail_after(fault, status, body)
        self.send(status, body)

    def applied(self, endpoint: str) -> tuple[int, Any]:
        try:
            self.authorise()
            action = ROUTES.get(endpoint)
            if action is None:
                raise Refused(404, f"Invalid URL ({self.command} {self.path})")
            return 200, action(self)
        except Refused as refused:
            return refused.status, refused.body
        except TurnedAway as away:
            self.more = away.headers
            return 429, Refused(429, str(away), code="rate_limit_exceeded").body
        except KeyError as missing:
            what = missing.args[0]
            return 404, Refused(404, f"No such object: {what}", code="not_found", param="id").body
        except ValueError as wrong:
            message, param = (*wrong.args, None)[:2]
            return 400, Refused(400, str(message), code="invalid_value", param=param).body

    def authorise(self) -> None:
        given = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        account = self.provider.keys.get(given)
        if account is None:
            shown = f"{given[:7]}{'*' * 12}{given[-4:]}"
            raise Refused(401, f"Incorrect API key provided: {shown}.", code="invalid_api_key")
        project = self.headers.get("OpenAI-Project")
        ACCOUNT.set(f"{account} {project}" if project else account)

    # Faults

    def fail_before(self, fault: Fault) -> None:
        if fault.kind == "reset_before":
            return self.reset()
        if fault.kind == "busy":
            fault.status, fault.code = 429, fault.code or "rate_limit_exceeded"
            milliseconds = {"retry-after-ms": f"{fault.seconds * 1000:.0f}"}
            fault.headers = fault.headers or milliseconds
        if fault.kind == "html":
            page = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"
            return self.send_bytes(502, "text/html", page)
        if fault.kind == "redirect":
            return self.send_json(307, {}, {"Location": fault.location})
        if fault.kind == "body":
            raw = fault.body if isinstance(fault.body, bytes) else json.dumps(fault.body).encode()
            return self.send_bytes(200, "application/json", raw, fault.headers)
        if fault.kind == "raw":
            return self.send_bytes(fault.status, "application/json", fault.body, fault.headers)
        refusal = Refused(fault.status, fault.message, code=fault.code)
        self.send_json(fault.status, refusal.body, fault.headers)

    def fail_after(self, fault: Fault, status: int, body: Any) -> None:
        if fault.kind == "reset_after":
            return self.reset()
        if fault.kind in FOR_EVER:
            return self.send_for_ever(fault)
        if fault.kind == "late":
            time.sleep(fault.seconds)
        if fault.kind == "overlay":
            body = {**body, **fault.body}
        if fault.kind == "error_after":
            status, body = 500, Refused(500, "The server had an error.", code="server_error").body
        if fault.kind == "refused_after":
            refusal = Refused(fault.status, fault.message, code=fault.code)
            return self.send_json(fault.status, refusal.body, fault.headers)
        if fault.kind == "html_ok":
            return self.send_bytes(200, "text/html", b"<html>Welcome to the portal</html>")
        if fault.kind == "cut" and isinstance(body, Iterator):
            self.send_stream(iter([next(body)]), end=b"")
            return self.reset()
        if fault.kind == "truncated":
            half = json.dumps(body).encode()
            return self.send_bytes(status, "application/json", half[: len(half) // 2])
        self.send(status, body)

    def send_for_ever(self, fault: Fault) -> None:
        """Send until nobody reads any more."""
        head, piece, pause = FOR_EVER[fault.kind]
        self.close_connection = True
        self.wfile.write(head)
        sent, end = 0, time.monotonic() + fault.seconds
        while sent < MOST_SENT and time.monotonic() < end:
            self.wfile.write(piece)
            sent += len(piece)
            self.provider.sent += len(piece)
            time.sleep(pause)

    def reset(self) -> None:
        """Close with RST, as a crashed peer or a firewall does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.rfile.close()
        self.connection.close()

    # Answers

    def send(self, status: int, body: Any) -> None:
        if isinstance(body, bytes):
            self.send_bytes(status, "application/octet-stream", body)
        elif isinstance(body, Iterator):
            self.send_stream(body)
        else:
            self.send_json(status, body, self.more)

    def send_json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        self.send_bytes(status, "application/json", json.dumps(body).encode(), headers)

    def send_bytes(
        self, status: int, kind: str, raw: bytes, headers: dict[str, str] | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.send_header("x-request-id", f"req_{len(self.provider.requests)}")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw)

    def send_stream(self, chunks: Iterator[JSON], end: bytes = b"data: [DONE]\n\n") -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True
        for chunk in chunks:
            self.wfile.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        self.wfile.write(end)

    def log_message(self, format: str, *args: Any) -> None: ...

    # What each route needs

    @property
    def world(self) -> World:
        return self.provider.world

    @property
    def id(self) -> str:
        return self.route.split("/")[3 if self.route.startswith("/fine_tuning") else 2]

    def json(self) -> JSON:
        try:
            body = json.loads(self.body or b"{}")
        except ValueError:
            raise Refused(400, "We could not parse the JSON body of your request.") from None
        if not isinstance(body, dict):
            raise Refused(400, "The body must be a JSON object.")
        return body

    def chat(self) -> JSON | Iterator[JSON]:
        body = self.json()
        model = str(body.get("model"))
        if not self.world.answers(model):
            if self.world.deployments is not None:
                raise Refused(404, NO_DEPLOYMENT, code="DeploymentNotFound")
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refused(404, message, code="model_not_found")
        return self.world.stream(body) if body.get("stream") else self.world.chat(body)


def starred(path: str) -> str:
    """``/files/file-1/content`` -> ``/files/*/content``: the name of an endpoint."""
    parts = path.split("/")
    at = 3 if path.startswith("/fine_tuning/jobs") else 2
    if len(parts) > at and path != "/chat/completions":
        parts[at] = "*"
    return "/".join(parts)


def multipart(handler: Handler) -> tuple[str, str, bytes, JSON]:
    """(purpose, file name, content, ``expires_after``) of an upload, cut exactly at the
    boundaries."""
    marker = handler.headers.get("Content-Type", "").partition("boundary=")[2].strip('"')
    if not marker:
        raise Refused(400, "Expected multipart/form-data.")
    purpose, name, content = "", "", b""
    expiry: JSON = {}
    for part in handler.body.split(b"--" + marker.encode())[1:-1]:
        head, _, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        value = value.removesuffix(b"\r\n")
        if b'name="purpose"' in head:
            purpose = value.decode()
        elif b'name="file"' in head:
            name = head.partition(b'filename="')[2].partition(b'"')[0].decode()
            content = value
        elif b'name="expires_after[' in head:
            expiry[head.partition(b"[")[2].partition(b"]")[0].decode()] = value.decode()
    return purpose, name, content, expiry


ROUTES: dict[str, Callable[[Handler], Any]] = {
    "POST /files": lambda h: h.world.add_file(*multipart(h)),
    "GET /files": lambda h: h.world.list_files(h.query),
    "GET /files/*": lambda h: h.world.file(h.id),
    "DELETE /files/*": lambda h: h.world.delete_file(h.id),
    "GET /files/*/content": lambda h: h.world.content(h.id),
    "POST /fine_tuning/jobs": lambda h: h.world.create(h.json()),
    "GET /fine_tuning/jobs": lambda h: h.world.list_jobs(h.query),
    "GET /fine_tuning/jobs/*": lambda h: h.world.retrieve(h.id),
    "GET /fine_tuning/jobs/*/events": lambda h: h.world.list_events(h.id, h.query),
    "GET /fine_tuning/jobs/*/checkpoints": lambda h: h.world.list_checkpoints(h.id, h.query),
    "POST /fine_tuning/jobs/*/cancel": lambda h: h.world.cancel(h.id),
    "POST /fine_tuning/jobs/*/pause": lambda h: h.world.pause(h.id),
    "POST /fine_tuning/jobs/*/resume": lambda h: h.world.resume(h.id),
    "GET /models": lambda h: h.world.list_models(),
    "GET /models/*": lambda h: h.world.model(h.id),
    "DELETE /models/*": lambda h: h.world.delete_model(h.id),
    "POST /chat/completions": Handler.chat,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--state-file", type=Path)
    parser.add_argument("--api-key", default="sk-test-0123456789abcdef")
    parser.add_argument("--key", action="append", default=[], help="another key: KEY=ACCOUNT")
    parser.add_argument("--chaos", default="", help="refuse=.05,reset_after=.1")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault-seconds", type=float, default=1.0)
    parser.add_argument("--list-lag", type=float, default=0.0)
    parser.add_argument("--pace", type=float)
    parser.add_argument("--metadata", default="kept", help="kept, null or empty")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--oldest-first", dest="jobs_newest_first", action="store_false")
    parser.add_argument("--running-limit", type=int, help="jobs at a time; more get 429")
    parser.add_argument("--retry-after", help="the header with that 429")
    args = vars(parser.parse_args())
    port_file = args.pop("port_file")
    args["keys"] = dict(pair.split("=") for pair in args.pop("key"))
    shares = [pair.split("=") for pair in args.pop("chaos").split(",") if pair]
    with Provider(**args, chaos={kind: float(share) for kind, share in shares}) as provider:
        port_file.with_suffix(".tmp").write_text(str(provider.server.server_address[1]))
        port_file.with_suffix(".tmp").replace(port_file)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
