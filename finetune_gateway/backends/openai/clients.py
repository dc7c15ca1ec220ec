"""One client per host, key and time-out in a process, shared by all backends that talk there.

A client has the connections to a host. It is closed as soon as no backend uses it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import threading
import weakref

import httpx2
import openai

from finetune_gateway.backend.http import CONNECT_SECONDS, Given, close_with, transport
from finetune_gateway.backends.openai import bounds, endpoint
from finetune_gateway.errors import UnsupportedError
from finetune_gateway.settings.client_options import AMBIENT, ClientOptions
from finetune_gateway.settings.network import Proxy

# With the proxy, what httpx2 and the SDK read from the environment when a client is made.
HEADERS = "OPENAI_CUSTOM_HEADERS"
VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", HEADERS, *endpoint.SCOPE)


class Client:
    """The SDK's client for one host and key; closed when the last user has let go of this."""

    def __init__(self, sdk: openai.OpenAI) -> None:
        self.sdk = sdk
        self.closer = close_with(self, sdk.close)


_lock = threading.Lock()
_clients: weakref.WeakValueDictionary[bytes, Client] = weakref.WeakValueDictionary()
_inherited: list[Client] = []
_salt = secrets.token_bytes(32)


def shared(url: str, key: str, timeout: float, options: ClientOptions = AMBIENT) -> Client:
    """Return the client of this process for a host, a key and a time-out in seconds. Another key,
    proxy, certificate in the environment or client of the user's makes another client.

    Raises what makes a client impossible: a proxy, a certificate (``wire.NOT_CONNECTABLE``).
    """
    proxy, given = options.proxy_for(url), Given.of(options)
    name = _name(url, key, timeout, proxy, given)
    with _lock:
        client = _clients.get(name)
        if client is None:
            client = _clients[name] = Client(_build(url, key, timeout, proxy, given))
        return client


def _name(url: str, key: str, timeout: float, proxy: Proxy | None, given: Given | None) -> bytes:
    """Return a name for all that a client is made from; no key or password can be read from it."""
    environment = [os.environ.get(name) for name in VARIABLES]
    parts = (url, key, timeout, environment, proxy, given and id(given.client))
    return hashlib.blake2b(repr(parts).encode("utf-8", "surrogatepass"), key=_salt).digest()


def _build(
    url: str, key: str, timeout: float, proxy: Proxy | None, given: Given | None
) -> openai.OpenAI:
    limit = httpx2.Timeout(timeout, connect=min(CONNECT_SECONDS, timeout))
    http = bounds.Client(follow_redirects=False, transport=transport(given, proxy))
    client = openai.OpenAI(
        api_key=key, base_url=url, timeout=limit, max_retries=0, http_client=http
    )
    _keep_to(url, client)
    return client


def asynchronous(
    client: openai.OpenAI, path: str, connections: int, seconds: float, options: ClientOptions
) -> bounds.AsyncClient:
    """Return a client of its own for one event loop, which sends what the SDK's ``client`` would,
    over so many connections at most, and waits so long for the next bytes; the caller closes it.
    Raises what ``shared`` does, UnsupportedError for a Gateway with a client of the user's."""
    if options.http_client is not None:
        raise UnsupportedError(
            "Many questions at once take connections of their own, not this Gateway's http_client.",
            hint="Ask by a Gateway without: gateway.use(proxy=...) sends them by a proxy.",
            option="http_client",
        )
    url = str(client.base_url)
    proxy = options.proxy_for(url)
    certificates = httpx2.create_ssl_context()  # read once, which takes a tenth of a second
    lanes = [
        httpx2.AsyncHTTPTransport(
            verify=certificates,
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1),
            proxy=proxy.usable_url if proxy else None,
        )
        for _ in range(connections)
    ]
    headers = {**client.default_headers, **client.auth_headers}
    return bounds.AsyncClient(
        f"{url.rstrip('/')}/{path}",
        {name: text for name, text in headers.items() if isinstance(text, str)},
        httpx2.Timeout(seconds, connect=min(CONNECT_SECONDS, seconds)),
        lanes,
    )


def _keep_to(url: str, client: openai.OpenAI) -> None:
    """Send nothing to another host that the SDK has read from the environment for OpenAI."""
    if not endpoint.is_openai(url):
        client.organization = client.project = client.admin_api_key = None
        client._custom_headers = {}


def _forget() -> None:
    """Leave the parent its connections."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_clients.values())
    _clients.clear()


os.register_at_fork(after_in_child=_forget)
