"""A stateful hosted provider on a loopback socket, in OpenAI's wire shapes, with faults to order.

Not a mock of an SDK: files, jobs, events, checkpoints, models and chat behave as one system,
so that create-then-crash, look-up and chat can be proven end to end.

    with Provider() as provider:                  # .url .api_key .posts .jobs .requests
        provider.fault("POST /fine_tuning/jobs", "reset_after")
        provider.world.add_fine_tunes(300)

    python -m support.provider --port-file F --state-file S    # as a process; GET /_provider

Keys belong to accounts, and an account sees its own files and jobs alone: ``keys={"sk-2": "main"}``
is a new key of the first account, ``{"sk-2": "other"}`` the key of another one. A project that is
named with a key (``{"sk-2": "main proj_shop"}``, or a header) has files and jobs of its own.
"""

from __future__ import annotations

import argparse
import json
import threading
from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

from support.provider_faults import Fault
from support.provider_memory import BASES, JSON, MAIN
from support.provider_routes import Handler
from support.provider_server import POLL, Host, Server
from support.provider_state import World

__all__ = ["CREATE", "Fault", "Provider", "Recorder"]

CREATE = "POST /fine_tuning/jobs"


class Provider(Host):
    """The provider as a context manager. Everything a test may want to set is an argument or a
    public attribute; everything it may want to know is in ``posts``, ``requests``, ``jobs``."""

    def __init__(
        self,
        *,
        api_key: str = "sk-test-0123456789abcdef",
        keys: dict[str, str] | None = None,  # more keys, and the account of each
        lacks: dict[str, Collection[str]] | None = None,  # by key: scopes that it has not got
        admin_keys: dict[str, str] | None = None,  # keys for /organization alone, with accounts
        admin_refusal: int = 403,  # or 401: what other keys get there, and these elsewhere
        state_file: Path | None = None,
        port: int = 0,
        chaos: dict[str, float] | None = None,
        chaos_on: Collection[str] = (CREATE,),  # endpoints, or "*" for all
        seed: int = 0,
        fault_seconds: float = 1.0,
        **world: Any,
    ) -> None:
        self.world = World(state_file=state_file, **world)  # first: a wrong setting opens no socket
        super().__init__(Handler, port, chaos, chaos_on, seed, fault_seconds)
        self.api_key = api_key
        self.keys = {api_key: MAIN, **(keys or {})}  # take one out to revoke it
        self.lacks = lacks or {}
        self.admin_keys = admin_keys or {}
        self.admin_refusal = admin_refusal
        self.posts: Counter[str] = Counter()
        self.given_up: Counter[str] = Counter()  # of these, what no client waited for any more
        self.requests: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def jobs(self) -> list[JSON]:
        """Every job ever created, oldest first, as stored."""
        return list(self.world.jobs.values())

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
            "batches": [*self.world.batches],
            "requests": Counter(f"{method} {path}" for method, path, _ in [*self.requests]),
            "asked": self.world.asked,  # by prompt_key
            "charges": [asdict(one) for one in [*self.world.charges]],
            "connections": len(self.server.open_sockets),  # this one included
        }

    def whole_report(self) -> JSON:
        """What ``GET /_provider?whole`` answers: its state, from which all can be derived that it
        shows to any key."""
        world = self.world
        return {
            "jobs": [
                {**world.shown(job), "account": job["account"], "points": world.checkpoints(job)}
                for job in self.jobs
            ],
            "files": {
                name: {k: file[k] for k in ("account", "filename", "bytes")}
                for name, file in world.files.items()
            },
            "host": self.root.partition("//")[2],
            "bases": BASES,
            "lists_checkpoints": world.lists_checkpoints,
            "deleted": sorted(world.deleted),
            "hidden": {name: sorted(accounts) for name, accounts in world.hidden.items()},
            "retired": sorted(world.retired),
            "shutdown_dates": world.shutdown_dates,
            "dates_fine_tunes": world.dates_fine_tunes,
            "jobs_by_project": world.jobs_by_project,
            "names_fine_tunes": world.names_fine_tunes,
            "used": [vars(one) for one in world.used],
            "usd_per_million": world.usd_per_million,
            "accounts": self.keys,
            "lacks": {key: sorted(scopes) for key, scopes in self.lacks.items()},
        }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--state-file", type=Path)
    parser.add_argument("--api-key", default="sk-test-0123456789abcdef")
    parser.add_argument("--key", action="append", default=[], help="another key: KEY=ACCOUNT")
    parser.add_argument("--admin-key", action="append", default=[], help="likewise, an admin's")
    parser.add_argument("--chaos", default="", help="refuse=.05,reset_after=.1")
    parser.add_argument("--chaos-on", action="append", help="an endpoint, or *; the creates else")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fault-seconds", type=float, default=1.0)
    parser.add_argument("--list-lag", type=float, default=0.0)
    parser.add_argument("--pace", type=float)
    parser.add_argument("--metadata", default="kept", help="kept, null or empty")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--oldest-first", dest="jobs_newest_first", action="store_false")
    parser.add_argument("--running-limit", type=int, help="jobs at a time; more get 429")
    parser.add_argument("--retry-after", help="the header with that 429")
    parser.add_argument("--fine-tunes", type=int, default=0, help="finished ones to begin with")
    parser.add_argument("--set", action="append", default=[], help="any setting: NAME=JSON")
    args = vars(parser.parse_args())
    port_file, fine_tunes = args.pop("port_file"), args.pop("fine_tunes")
    for pair in args.pop("set"):
        name, _, value = pair.partition("=")
        args[name] = json.loads(value)
    args["chaos_on"] = args["chaos_on"] or (CREATE,)
    args["keys"] = dict(pair.split("=") for pair in args.pop("key"))
    args["admin_keys"] = dict(pair.split("=") for pair in args.pop("admin_key"))
    shares = [pair.split("=") for pair in args.pop("chaos").split(",") if pair]
    with Provider(**args, chaos={kind: float(share) for kind, share in shares}) as provider:
        if not provider.world.jobs:
            provider.world.add_fine_tunes(fine_tunes)
        port_file.with_suffix(".tmp").write_text(str(provider.server.server_address[1]))
        port_file.with_suffix(".tmp").replace(port_file)
        with suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
