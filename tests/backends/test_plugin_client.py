"""The client that a Gateway gives its plug-ins: what it does not do, and what it is shared by."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import certifi
import httpx2
import pytest
from support.hostile import Honest

from finetune_gateway import Gateway
from finetune_gateway.backend.http import Client

URL = "http://127.0.0.1:1"  # nobody listens there
KEY = "quiet-harbour-of-acme-7"


class Asking(Honest):
    """Sends by its Gateway's client, in a time-out of its own."""

    gateway_options = frozenset({"keys", "http_client", "proxy"})

    def __init__(self, request_timeout: float = 60.0) -> None:
        super().__init__()


@pytest.fixture
def backend(home: Path) -> Iterator[Asking]:
    backend = Asking()
    with Gateway(home, keys={"OTHER_KEY": "k"}, timeout=5) as gateway:  # it was built with one
        gateway.backend(backend)
        yield backend


def test_it_keeps_no_cookie_and_follows_no_redirect(backend: Asking) -> None:
    """They would go to another account, or another host."""
    client: Client = backend.http_client("http://acme.example")
    asked = httpx2.Request("GET", "http://acme.example/jobs")
    answer = httpx2.Response(200, headers={"set-cookie": "session=1"}, request=asked)
    client.cookies.extract_cookies(answer)
    assert not list(client.cookies.jar) and not client.follow_redirects


def test_other_certificates_are_another_client(
    backend: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = backend.http_client(URL)
    assert backend.http_client(URL) is client
    monkeypatch.setenv("SSL_CERT_FILE", certifi.where())
    assert backend.http_client(URL) is not client


@pytest.mark.parametrize("header", ["Authorization", "x-api-key"])
def test_a_key_in_an_address_is_not_in_the_log(
    backend: Asking, caplog: pytest.LogCaptureFixture, header: str
) -> None:
    """Whatever it looks like: it is the one that the request is sent with."""
    with caplog.at_level(logging.INFO, "finetune_gateway"), pytest.raises(httpx2.ConnectError):
        backend.http_client(URL).get(f"/keys/{KEY}", headers={header: f"Bearer {KEY}"})
    assert "/keys/" in caplog.text and KEY not in caplog.text


def test_this_machine_is_asked_without_a_proxy(home: Path) -> None:
    """And another way to hosts takes the place of the one before."""
    proxied = Gateway(home, proxy="http://proxy.example:3128")
    options = proxied.settings.client
    assert options.proxy_for("http://localhost:8000") is None
    assert options.proxy_for("https://acme.example") is not None
    with httpx2.Client() as client:
        other = proxied.use(http_client=client).settings.client
        assert (other.http_client, other.proxy) == (client, None)
