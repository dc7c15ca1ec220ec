"""The client that a plug-in sends its requests by: that of its Gateway, for one address.

Its connections are shared by all backends of a Gateway that ask this address, and closed with it.
Imported when a client is asked for, not before.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx2

from finetune_gateway.errors import BackendError, raise_alone
from finetune_gateway.settings.client_options import ClientOptions, HttpClient, closed
from finetune_gateway.settings.network import Proxy
from finetune_gateway.text import logs

CONNECT_SECONDS = 10.0
LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=20)
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR")  # variables that httpx2 reads
KEY_HEADERS = ("authorization", "x-api-key", "api-key")


@dataclass(frozen=True)
class Given:
    """A client of the user's, and the process that it was given in: its connections are there."""

    client: HttpClient
    process: int

    @classmethod
    def of(cls, options: ClientOptions) -> Given | None:
        """Return the client of a Gateway; None if it was given none."""
        client = options.http_client
        return None if client is None else cls(client, options.process)


class Through(httpx2.BaseTransport):
    """Sends each request by a client of the user's, who alone closes it: its connections, proxy,
    certificates and hooks count; not its redirects and its own login."""

    def __init__(self, given: Given) -> None:
        self._given = given

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        client = self._given.client
        if client.is_closed:
            raise httpx2.ConnectError("the http_client of this Gateway is closed", request=request)
        if self._given.process != os.getpid():
            why = "the http_client of this Gateway is that of another process, before a fork"
            raise httpx2.ConnectError(why, request=request)
        request.extensions.pop("trace", None)  # it would stay with a connection of the user's
        answer: httpx2.Response = client.send(
            request, stream=True, auth=None, follow_redirects=False
        )
        return answer


def transport(given: Given | None, proxy: Proxy | None) -> httpx2.BaseTransport:
    """Return what sends requests: a client of the user's, else connections by this proxy. It is
    chosen here and not by httpx2, so that errors name the proxy that is on the way."""
    if given is not None:
        return Through(given)
    return httpx2.HTTPTransport(limits=LIMITS, proxy=proxy.usable_url if proxy else None)


class Client(httpx2.Client):
    """A client with a line in the log for each request. Keeps no cookies: those of one account
    would be sent for another."""

    def __init__(self, url: str, options: ClientOptions, seconds: float) -> None:
        # Weakly: what holds the keys of a Gateway goes with it, closed or not.
        self._ended = weakref.ref(options.ended)
        super().__init__(
            base_url=url,
            transport=transport(Given.of(options), options.proxy_for(url)),
            timeout=httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Send a request. Raises SpecError once the Gateway is closed."""
        ended = self._ended()
        if ended is None or ended.is_set():
            raise closed()
        with logs.request(request.method, str(request.url), _key_of(request)) as exchange:
            answer = super().send(request, **options)
            exchange.answered(answer.status_code, answer.headers)
            return answer


def _key_of(request: httpx2.Request) -> str | None:
    """Return the key that a request is sent with."""
    sent = (request.headers.get(name, "").rpartition(" ")[2] for name in KEY_HEADERS)
    return next(filter(None, sent), None)


Made = dict[tuple[object, ...], Client]

_lock = threading.Lock()
_made: WeakKeyDictionary[threading.Event, Made] = WeakKeyDictionary()  # by the end of a Gateway
_inherited: list[Made] = []


def close_with(owner: object, close: Callable[[], object]) -> weakref.finalize[Any, Any]:
    """Call this once the owner of connections is gone. Not in a fork, which leaves its parent the
    connections that it has: to close one would end it for both."""
    return weakref.finalize(owner, _close_here, os.getpid(), close)


def _close_here(process: int, close: Callable[[], object]) -> None:
    if process == os.getpid():
        close()


def client(url: str, options: ClientOptions, seconds: float) -> Client:
    """Return the client of a Gateway for an address, with a time-out in seconds. Raises
    BackendError for a proxy or certificates that cannot be used."""
    options.require_open()
    proxy = options.proxy_for(url)
    name = (url, seconds, proxy, *(os.environ.get(one) for one in CERTIFICATES))
    with _lock:
        made = _made.setdefault(options.ended, {})
        if name not in made:
            made[name] = _built(url, options, seconds)
            close_with(options.ended, made[name].close)
        return made[name]


def _built(url: str, options: ClientOptions, seconds: float) -> Client:
    try:
        return Client(url, options, seconds)
    except (ValueError, OSError, ImportError, httpx2.InvalidURL) as exc:
        proxy = options.proxy_for(url)
        way = f" by the proxy {proxy.shown}" if proxy else ""
        why = proxy.hide(str(exc)) if proxy else str(exc)
        error = BackendError(
            f"No connection to {urlsplit(url).hostname}{way} can be made: {why}.",
            hint="Nothing was sent. Check the address, the proxy and SSL_CERT_FILE.",
        )
        raise_alone(error)


def close(ended: threading.Event) -> None:
    """Close the connections of a Gateway."""
    with _lock:
        made = _made.pop(ended, {})
    for one in made.values():
        one.close()


def _forget() -> None:
    """Leave the parent its connections."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_made.values())
    _made.clear()


os.register_at_fork(after_in_child=_forget)
