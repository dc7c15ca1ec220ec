"""A stand-in for the Hugging Face hub to which models are sent: repositories with their commits,
large files, branches and tags. It writes down every byte that comes, and can end its client at any
request."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock, Thread
from typing import Any

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
LARGE = (".safetensors", "tokenizer.json", ".model")
Json = dict[str, Any]


@dataclass
class Repo:
    """One repository: per branch its commits, the newest last, each the content of all files."""

    private: bool
    branches: dict[str, list[tuple[str, dict[str, bytes]]]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def files(self, revision: str = "main") -> tuple[str, dict[str, bytes]]:
        """Return the commit of a branch, a tag or a commit, and its files."""
        if revision in self.branches:
            return self.branches[revision][-1]
        revision = self.tags.get(revision, revision)
        commits = [one for branch in self.branches.values() for one in branch]
        return next(one for one in commits if one[0] == revision)


@dataclass
class HubRepos:
    """The repositories, the requests that came, and what is to go wrong."""

    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by sha256
    asked: list[str] = field(default_factory=list)  # "POST /path"
    received: list[bytes] = field(default_factory=list)  # heads and bodies
    statuses: dict[str, list[int]] = field(default_factory=dict)  # of a path's next answers
    kill_at: tuple[int, bool] | None = None  # number of a request; True: after it took effect
    pid: int | None = None  # whom to end
    url: str = ""

    def environment(self, cache: Path) -> dict[str, str]:
        """Return the environment of a process that asks this hub."""
        quiet = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY")
        env = {name: value for name, value in os.environ.items() if name not in quiet}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1"}
        return env | ours | {"HF_TOKEN": TOKEN}

    def new(self, name: str, files: dict[str, bytes] | None = None, private: bool = True) -> Repo:
        """Make a repository with a first commit."""
        repo = self.repos[name] = Repo(private)
        repo.branches["main"] = [(commit_of(files or {}), files or {})]
        return repo


def commit_of(files: dict[str, bytes], before: str = "") -> str:
    parts = [(name, hashlib.sha256(raw).hexdigest()) for name, raw in sorted(files.items())]
    return hashlib.sha1(repr((before, parts)).encode(), usedforsecurity=False).hexdigest()


def blob_oid(raw: bytes) -> str:
    """Return the name that git gives to a file."""
    head = f"blob {len(raw)}\0".encode()
    return hashlib.sha1(head + raw, usedforsecurity=False).hexdigest()


class NotThere(Exception):
    """There is no such repository."""


class Handler(BaseHTTPRequestHandler):
    """Answers as the hub does, as far as its client (huggingface_hub 2.4) asks."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.work()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def work(self) -> None:
        hub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.chunks()
        path = self.path.partition("?")[0]
        with self.server.lock:
            hub.asked.append(f"{self.command} {path}")
            hub.received += [f"{self.path}\n{self.headers}".encode(), body]
            number = len(hub.asked)
            if hub.kill_at == (number, False) and hub.pid:
                os.kill(hub.pid, signal.SIGKILL)
                self.close_connection = True
                return
            if statuses := hub.statuses.get(path):
                return self.send({"error": "as asked"}, statuses.pop(0))
            try:
                answer = self.answer(path, body)
            except (NotThere, StopIteration, KeyError):
                return self.send({"error": "no"}, 404, {"X-Error-Code": "RepoNotFound"})
            if hub.kill_at == (number, True) and hub.pid:
                os.kill(hub.pid, signal.SIGKILL)
        self.send(*answer) if isinstance(answer, tuple) else self.send(answer)

    def chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self, path: str, body: bytes) -> Any:
        if path.startswith("/large/"):
            return self.take_large(path.removeprefix("/large/"), body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return {"error": "who are you"}, 401
        if path == "/api/whoami-v2":
            return {"name": "jan", "type": "user", "orgs": []}
        if path == "/api/validate-yaml":
            return {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.repo(found[1])
            return self.batch(json.loads(body))
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            commit, files = self.repo(found[1]).files(found[2])
            raw = files[found[3]]
            etag = f'"{hashlib.sha256(raw).hexdigest()}"'
            return raw, 200, {"X-Repo-Commit": commit, "ETag": etag}
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(\w+)(?:/([^/]+))?(?:/.*)?)?", path)
        if found is None:
            raise NotThere
        repo = self.repo(found[1])
        what, revision = found[2] or "revision", found[3] or "main"
        return getattr(self, f"do_{what}")(repo, found[1], revision, body)

    def repo(self, name: str) -> Repo:
        if name not in self.server.hub.repos:
            raise NotThere
        return self.server.hub.repos[name]

    def create(self, asked: Json) -> Any:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.hub.repos:
            return {"error": "You already created this model repo"}, 409
        self.server.hub.new(name, private=asked.get("visibility") == "private")
        return {"url": f"{self.server.hub.url}/{name}"}

    def do_revision(self, repo: Repo, name: str, revision: str, body: bytes) -> Any:
        commit, files = repo.files(revision)
        siblings = [
            {"rfilename": path, "size": len(raw), "blobId": blob_oid(raw), **_lfs(path, raw)}
            for path, raw in files.items()
        ]
        return {"id": name, "sha": commit, "private": repo.private, "siblings": siblings}

    def do_tree(self, repo: Repo, name: str, revision: str, body: bytes) -> Any:
        return [
            {
                "type": "file",
                "path": path,
                "size": len(raw),
                "oid": blob_oid(raw),
                **_lfs(path, raw),
            }
            for path, raw in repo.files(revision)[1].items()
        ]

    def do_refs(self, repo: Repo, name: str, revision: str, body: bytes) -> Any:
        def ref(kind: str, name: str, commit: str) -> Json:
            return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": commit}

        heads = [ref("heads", one, commits[-1][0]) for one, commits in repo.branches.items()]
        tags = [ref("tags", one, commit) for one, commit in repo.tags.items()]
        return {"branches": heads, "tags": tags, "converts": []}

    def do_branch(self, repo: Repo, name: str, branch: str, body: bytes) -> Any:
        if branch in repo.branches:
            return {"error": "Reference already exists"}, 409
        repo.branches[branch] = [*repo.branches["main"]]
        return {}

    def do_tag(self, repo: Repo, name: str, revision: str, body: bytes) -> Any:
        repo.tags[json.loads(body)["tag"]] = repo.files(revision)[0]
        return {}

    def do_preupload(self, repo: Repo, name: str, revision: str, body: bytes) -> Any:
        files = repo.files(revision)[1]
        found = []
        for one in json.loads(body)["files"]:
            there = files.get(one["path"])
            large = one["path"].endswith(LARGE)
            oid = None if there is None else _oid(one["path"], there)
            mode = "lfs" if large else "regular"
            found.append(
                {"path": one["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid}
            )
        return {"files": found}

    def batch(self, asked: Json) -> Any:
        hub = self.server.hub
        objects = []
        for one in asked["objects"]:
            upload = {"href": f"{hub.url}/large/{one['oid']}", "header": {}}
            actions = {} if one["oid"] in hub.large else {"actions": {"upload": upload}}
            objects.append({"oid": one["oid"], "size": one["size"], **actions})
        return {"transfer": "basic", "objects": objects}

    def take_large(self, oid: str, body: bytes) -> Any:
        if hashlib.sha256(body).hexdigest() != oid:
            return {"error": "half of it"}, 400
        self.server.hub.large[oid] = body
        return {}

    def do_commit(self, repo: Repo, name: str, revision: str, body: bytes) -> Any:
        before, files = repo.files(revision)
        files = dict(files)
        for line in body.splitlines():
            asked = json.loads(line)
            value = asked["value"]
            if asked["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif asked["key"] == "lfsFile":
                files[value["path"]] = self.server.hub.large[value["oid"]]
            elif asked["key"] == "deletedFile":
                del files[value["path"]]
        commit = commit_of(files, before)
        repo.branches[revision].append((commit, files))
        url = f"{self.server.hub.url}/{name}/commit/{commit}"
        return {"success": True, "commitUrl": url, "commitOid": commit}

    def send(self, data: Any, status: int = 200, head: dict[str, str] | None = None) -> None:
        raw = data if isinstance(data, bytes) else json.dumps(data).encode()
        self.send_response(status)
        for name, value in {**(head or {}), "Content-Length": str(len(raw))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw if self.command != "HEAD" else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Not on our screen."""


def _oid(path: str, raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest() if path.endswith(LARGE) else blob_oid(raw)


def _lfs(path: str, raw: bytes) -> Json:
    if not path.endswith(LARGE):
        return {}
    digest = hashlib.sha256(raw).hexdigest()
    return {"lfs": {"oid": digest, "sha256": digest, "size": len(raw), "pointerSize": 134}}


class Server(ThreadingHTTPServer):
    hub: HubRepos
    lock: Lock
    daemon_threads = True


@contextmanager
def hub_repos() -> Iterator[HubRepos]:
    """Yield a hub without repositories."""
    with Server(("127.0.0.1", 0), Handler) as server:
        server.hub = HubRepos(url=f"http://127.0.0.1:{server.server_port}")
        server.lock = Lock()
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.hub
        server.shutdown()
