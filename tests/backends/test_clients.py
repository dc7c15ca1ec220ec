"""Clients of hosts: one per host and key in a process, whatever is built, forked or rotated."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hosted import begin, connect, data_file
from support.provider import Provider

from finetune_gateway import AuthenticationError, BackendError, OpenAIBackend
from finetune_gateway.backend import DataFile

FORK = """
import atexit, os, stat, sys

def sockets():
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            status = os.fstat(int(name))
        except OSError:  # that of the listing
            continue
        if stat.S_ISSOCK(status.st_mode):
            found.add(status.st_ino)
    return found

def check():  # registered first, so that it runs last
    if child == 0 and not inherited <= sockets():
        os._exit(1)

atexit.register(check)
from finetune_gateway import OpenAIBackend

backend = OpenAIBackend(base_url=sys.argv[1], api_key=sys.argv[2])
backend.poll(sys.argv[3], None)
inherited = sockets()
assert len(inherited) == 1
child = os.fork()
if child == 0:
    backend.poll(sys.argv[3], None)
    sys.exit(0)  # not os._exit: what runs at the end of a process runs here too
assert os.waitpid(child, 0)[1] == 0
backend.poll(sys.argv[3], None)
"""


@pytest.fixture
def job(tmp_path: Path) -> Callable[[Provider], str]:
    return lambda provider: begin(connect(provider), data_file(tmp_path / "train.jsonl"))


def test_backends_of_one_host_share_a_connection(job: Callable[[Provider], str]) -> None:
    """50 backends of a host and key: one connection, closed with the last of them; another
    time-out is another client."""
    with Provider() as provider:
        provider_id = job(provider)
        before = provider.server.accepted
        backends = [connect(provider) for _ in range(50)]
        for backend in backends:
            backend.poll(provider_id, None)
        assert provider.server.accepted - before == 1
        hurried = connect(provider, request_timeout=4.0)
        hurried.poll(provider_id, None)
        assert provider.server.accepted - before == 2
        mine = {id(backend._client) for backend in backends}
        assert len(mine) == 1
        closers = [backends[0]._client.closer, hurried._client.closer]  # type: ignore[union-attr]
        del backend, backends, hurried
        assert not any(closer.alive for closer in closers)


def test_a_rotated_key_makes_another_client(
    job: Callable[[Provider], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The key is read at each call: a new one counts at once, one that is gone is missed, and
    none can be read where clients are kept."""
    with Provider() as provider:
        provider_id = job(provider)
        monkeypatch.setenv("ROTATED", provider.api_key)
        backend = OpenAIBackend(base_url=provider.url, api_key_env="ROTATED")
        backend.poll(provider_id, None)
        provider.keys["sk-test-rotated"] = provider.keys.pop(provider.api_key)
        with pytest.raises(AuthenticationError):
            backend.poll(provider_id, None)
        monkeypatch.setenv("ROTATED", "sk-test-rotated")
        try:
            backend.poll(provider_id, None)
        except AuthenticationError as exc:
            pytest.fail(f"the new key is not used: {exc}")
        from finetune_gateway.backends.openai import clients  # not there before (tests/trust.py)

        kept = repr(dict(clients._clients)) + repr(backend) + repr(backend._client)
        assert "sk-test-rotated" not in kept
        monkeypatch.delenv("ROTATED")
        with pytest.raises(AuthenticationError, match="ROTATED is not set"):
            backend.poll(provider_id, None)


def test_a_proxy_that_is_set_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client reads from the environment is part of what it is shared by."""
    with Provider() as provider:
        place = {"base_url": "http://gpu.example/v1", "allow_http": True}
        first, second = connect(provider, **place), connect(provider, **place)
        monkeypatch.setenv("HTTP_PROXY", provider.url.removesuffix("/v1"))
        assert first.find_upload(DataFile(Path("none"), "0" * 64, 1, 1)) is None
        monkeypatch.setenv("HTTP_PROXY", "socks9://127.0.0.1:1")
        with pytest.raises(BackendError, match="Nothing was sent"):
            second.poll("ftjob-1", None)


@pytest.mark.parametrize("proxy", ["a..b:9", f"http://{'x' * 64}"])
def test_a_proxy_that_cannot_be_looked_up_is_said(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """In words, with nothing sent: sockets end in a UnicodeError there."""
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    for name in ("NO_PROXY", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    backend = OpenAIBackend(base_url="https://nobody.invalid/v1", api_key="sk-test")
    try:
        with pytest.raises(BackendError, match=r"Nothing was sent") as caught:
            backend.poll("ftjob-1", None)
    except UnicodeError as exc:
        pytest.fail(f"no words, but {exc!r}")
    assert "HTTPS_PROXY" in str(caught.value)


def test_threads_that_start_at_once_share_a_client(job: Callable[[Provider], str]) -> None:
    """20 threads, each with a backend of its own: one client."""
    with Provider() as provider:
        provider_id = job(provider)
        backends = [connect(provider) for _ in range(20)]
        start = threading.Barrier(len(backends))

        def poll(backend: OpenAIBackend) -> None:
            start.wait()
            backend.poll(provider_id, None)

        threads = [threading.Thread(target=poll, args=(backend,)) for backend in backends]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len({id(backend._client) for backend in backends}) == 1


@pytest.mark.chaos
def test_a_forked_process_has_connections_of_its_own(job: Callable[[Provider], str]) -> None:
    """A child asks over another connection, and does not touch the parent's, at its end either:
    the pool's lock may be held by a thread of the parent, which the child does not have."""
    with Provider() as provider:
        provider_id = job(provider)
        before = provider.server.accepted
        command = [sys.executable, "-c", FORK, provider.url, provider.api_key, provider_id]
        done = subprocess.run(command, timeout=60, capture_output=True, text=True)
        assert provider.server.accepted - before == 2 and done.returncode == 0, done.stderr
