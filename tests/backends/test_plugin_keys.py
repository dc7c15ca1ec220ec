"""Keys, client, proxy and time-out of a Gateway, in the hands of a plug-in: docs/example-rest."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from support.acme import Acme
from support.hostile import Honest
from support.paths import ROOT
from support.rest_service import KEY, RestService

from finetune_gateway import (
    AuthenticationError,
    BackendError,
    Gateway,
    Job,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.backend import Event, JobStatus, Snapshot

Submit = Callable[..., tuple[Gateway, Job]]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[RestService]:
    (tmp_path / "model").mkdir()
    with RestService(tmp_path / "model") as service:
        yield service


@pytest.fixture
def submit(
    service: RestService, home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Submit]:
    """Submit by a Gateway that was given this, as its backend ``rest``."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "example-rest"))
    monkeypatch.delitem(sys.modules, "ftg_rest", raising=False)
    build: Any = importlib.import_module("ftg_rest").RestBackend
    opened: list[Gateway] = []

    def submit(url: str = service.url, **given: Any) -> tuple[Gateway, Job]:
        opened.append(Gateway(home, backends={"rest": build(url=url)}, **given))
        return opened[-1], opened[-1].submit(train_file, model="acme-7b", backend="rest")

    yield submit
    for one in opened:
        one.close()
    sys.modules.pop("ftg_rest", None)


def test_a_plugin_sends_the_key_of_its_gateway(
    submit: Submit, service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the name of the backend, of its host, of its variable, or from a function; never that of
    the environment, which is another account's."""
    monkeypatch.setenv("REST_API_KEY", "of-somebody-else")
    asked: list[Any] = []

    def resolve(request: Any) -> str:
        asked.append(request)
        return KEY

    host = service.url.split("/")[2]
    for keys in ({"rest": KEY}, {host: KEY}, {"REST_API_KEY": KEY}, resolve):
        submit(keys=keys)
    assert len(service.runs) == 1
    assert (asked[0].backend, asked[0].host, asked[0].variable) == ("rest", host, "REST_API_KEY")
    monkeypatch.setenv("REST_API_KEY", KEY)
    service.asked.clear()
    with pytest.raises(AuthenticationError, match="given none"):
        submit(keys={"openai": "sk-1"})
    with pytest.raises(AuthenticationError, match="no key has"):
        submit(keys={"rest": "two words"})
    assert not service.asked


def test_a_plugin_that_cannot_take_it_is_refused(home: Path, train_file: Path) -> None:
    """In words, before its job is stored: it would send another key, or by another way."""
    client = httpx2.Client()
    given = {"keys": {"openai": "k"}, "http_client": client, "proxy": "http://x.example"}
    for name, value in (given | {"timeout": 5}).items():
        acme, options = Acme(), {name: value}
        with Gateway(home, **options) as gateway:  # type: ignore[arg-type]
            with pytest.raises(UnsupportedError, match=f"'acme' takes no {name}") as error:
                gateway.submit(train_file, model="m", backend=acme)
            assert error.value.option == name
            assert gateway.jobs() == []
        assert not acme.market.starts
    client.close()


def test_a_plugin_sends_by_the_client_of_its_gateway(
    submit: Submit, service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own sees each request; after ``close`` nothing is sent any more."""
    monkeypatch.setenv("REST_API_KEY", KEY)
    seen: list[str] = []
    with httpx2.Client(event_hooks={"request": [lambda one: seen.append(one.method)]}) as client:
        gateway, job = submit(http_client=client)
        assert "POST" in seen and sum(service.asked.values()) == len(seen)
        gateway.close()
        with pytest.raises(SpecError, match="closed"):
            job.backend.health() or job.backend.poll(job.provider_id or "", None)
        assert sum(service.asked.values()) == len(seen)


def test_a_plugin_sends_by_the_proxy_of_its_gateway(
    submit: Submit, service: RestService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy that is not there lets nothing through, and a wrong one is refused by name; neither
    shows its password."""
    monkeypatch.setenv("REST_API_KEY", KEY)
    for scheme in ("http", "socks5"):
        with pytest.raises(BackendError) as error:
            submit("http://rest.example/v1", proxy=f"{scheme}://me:hunter2@127.0.0.1:1")
        assert "hunter2" not in str(error.value)
    assert not service.asked


def test_requests_of_a_plugin_are_in_the_log(
    submit: Submit, caplog: pytest.LogCaptureFixture, service: RestService
) -> None:
    """A line for each, without query and key; the connections end with the Gateway."""
    with caplog.at_level(logging.INFO, "finetune_gateway.requests"):
        gateway, job = submit(keys={"rest": KEY}, timeout=7)
        job.refresh()
    lines = [one for one in caplog.records if one.name == "finetune_gateway.requests"]
    assert len(lines) == sum(service.asked.values())
    assert {one.__dict__["status"] for one in lines} >= {200}
    assert f"GET {service.url}/runs/" in caplog.text
    assert KEY not in caplog.text and "after=" not in caplog.text
    client = gateway.backend("rest").http_client(service.url)
    assert client.timeout.read == 7
    gateway.close()
    assert client.is_closed


def test_a_fork_sends_by_connections_of_its_own(submit: Submit, service: RestService) -> None:
    """And leaves its parent those that it has."""
    gateway, _ = submit(keys={"rest": KEY})
    backend: Any = gateway.backend("rest")
    client, before = backend.http_client(service.url), sum(service.asked.values())
    child = os.fork()
    if child == 0:
        try:
            assert backend.http_client(service.url) is not client
            assert backend.send("GET", "/runs?label=x") == {"runs": []}
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.http_client(service.url) is client
    assert backend.send("GET", "/runs?label=x") == {"runs": []}
    assert sum(service.asked.values()) == before + 2


ECHOED = "acme-Jx83kfQpZ1mmR7"


class Echoing(Honest):
    """Hands on what its host echoes. ``how``: what it does with it."""

    name = "echoing"
    gateway_options = frozenset({"keys"})

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def options(self) -> dict[str, Any]:
        return {"how": self.how}

    def start(self, *args: Any, **given: Any) -> str:
        text = f"no account for {self.required_key('ACME_KEY', 'https://acme.example')}"
        if self.how == "refuses":
            raise BackendError(text, hint=text, status_code=400)
        if self.how == "breaks":
            raise LookupError(text)
        if self.how == "exits":
            sys.exit("sk-test-0123456789abcdef")
        return super().start(*args, **given)

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        text = f"no account for {self.required_key('ACME_KEY', 'https://acme.example')}"
        event = Event(id="1", message=text, data={"said": [text]})
        return Snapshot(
            status=JobStatus.FAILED, error=text, raw_status=text, cursor="1", events=[event]
        )


@pytest.mark.parametrize("how", ["refuses", "breaks", "exits", "says"])
def test_a_key_that_a_host_echoes_is_not_kept_or_shown(
    home: Path, train_file: Path, how: str
) -> None:
    with Gateway(home, keys=lambda asked: ECHOED) as gateway:
        said = ""
        try:
            job = gateway.submit(train_file, model="m", backend=Echoing(how))
            said = job.refresh().record.phase
        except BackendError as exc:
            said = str(exc)
        job = gateway.jobs()[0]
        said += str([*job.events(), job.to_dict()])
    assert "[key]" in said
    kept = b"".join(one.read_bytes() for one in home.rglob("*") if one.is_file())
    for secret in (ECHOED, "sk-test"):
        assert secret not in said and secret.encode() not in kept
