"""Addresses: this machine, origins, and the proxy on the way to one. Sends nothing."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from os import environ
from urllib.parse import unquote, urlsplit

MOST_BYTES = 32_000_000  # of one answer, unpacked: a list of prices or models has less
LONGEST_ANSWER = 300.0  # seconds
PORTS = {"http": 80, "https": 443}
SOCKS = ("socks5", "socks5h")


def whole_answer(pieces: Iterable[bytes]) -> bytes:
    """Return all pieces of an answer. Raises ValueError for one without an end: a host may send for
    ever, a lot or a byte now and then."""
    raw, end = bytearray(), time.monotonic() + LONGEST_ANSWER
    for piece in pieces:
        raw += piece
        if len(raw) > MOST_BYTES or time.monotonic() > end:
            raise ValueError("the answer has no end")
    return bytes(raw)


def is_loopback(host: str) -> bool:
    """Return True for this machine itself: ``localhost``, 127.0.0.0/8, ::1."""
    if host.lower() == "localhost":
        return True
    address = _ip(host)
    mapped = getattr(address, "ipv4_mapped", None)
    return address is not None and (mapped or address).is_loopback


def is_here(url: str) -> bool:
    """Return True for an address that a resolver may take for this machine."""
    return _may_be_here(urlsplit(url).hostname or "")


def _may_be_here(host: str) -> bool:
    """Return True for this machine by any name that a resolver may take for it: ``localhost.``,
    ``x.localhost``, ``127.1``, ``2130706433``, ``0.0.0.0``."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or is_loopback(name):
        return True
    address = _ip(name)
    with suppress(OSError):
        address = address or ipaddress.ip_address(socket.inet_aton(name))
    return address is not None and (address.is_loopback or address.is_unspecified)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def hidden(address: str) -> str:
    """Return an address for a message, however malformed it is: without user and password, and
    without what is after ``?`` or ``#``."""
    text = re.sub(r"^([a-z0-9+.-]*://)?.*@", r"\1***@", address, flags=re.I | re.S)
    return re.sub(r"[?#].*", "?***", text, flags=re.S)


def origin(url: str) -> str:
    """Return ``https://host`` or ``http://host:8000``: scheme, host, and a port of its own."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    port = parts.port if parts.port != PORTS.get(parts.scheme) else None
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}"


def matches(name: str, url: str) -> bool:
    """Return True if ``host``, ``host:port`` or ``*.host`` names the host of this address; ``*`` is
    one part of it."""
    netloc = origin(url).partition("://")[2]
    pattern = re.escape(name.lower()).replace(r"\*", "[a-z0-9_-]+")
    return bool(re.fullmatch(rf"{pattern}|{pattern}:\d+", netloc))


@dataclass(frozen=True)
class Proxy:
    """A proxy, and the environment variable that names it; "" for one of the system's settings."""

    variable: str
    url: str

    @property
    def shown(self) -> str:
        """Its address and variable, without user and password."""
        return f"{hidden(self.url)} ({self.variable or 'the settings of this system'})"

    @property
    def endpoint(self) -> tuple[str, int]:
        """Its host and port. Raises ValueError if it has none that can be used."""
        parts = urlsplit(self.url)
        if parts.scheme not in (*PORTS, *SOCKS):
            raise ValueError(
                f"{parts.scheme}:// is no proxy, but {', '.join((*PORTS, *SOCKS))} are"
            )
        if not parts.hostname:
            raise ValueError("it names no host")
        try:
            parts.hostname.encode("idna")
        except UnicodeError:
            raise ValueError("its host has a part that is empty or too long") from None
        return parts.hostname, parts.port or PORTS.get(parts.scheme, 1080)

    @property
    def usable_url(self) -> str:
        """Its address. Raises ValueError as ``endpoint`` does."""
        return self.url if self.endpoint else ""

    @property
    def is_socks(self) -> bool:
        return urlsplit(self.url).scheme in SOCKS

    def hide(self, text: str) -> str:
        """Return a text without the user and the password of this proxy."""
        said = self.url.rpartition("@")[0].partition("://")[2]
        words = {said, *said.split(":", 1)}
        for word in sorted(words | {unquote(word) for word in words}, key=len, reverse=True):
            text = text.replace(word, "***") if len(word) > 2 else text
        return text


def proxy_for(url: str) -> Proxy | None:
    """Return the proxy on the way to an address, by the environment; None for none, and always for
    this machine: what is sent to it must not leave it."""
    parts, known = urlsplit(url), proxies()
    proxy = known.get(parts.scheme) or known.get("all")
    if proxy is None or _may_be_here(parts.hostname or ""):
        return None
    return None if _goes_around(url, _from_environment().get("no", "")) else proxy


def proxies() -> dict[str, Proxy]:
    """Return the proxies that are set, by what they are for: ``http``, ``https``, ``all``."""
    known = _from_environment()
    return {
        kind: Proxy(_variable(kind, known[kind]), _with_scheme(known[kind]))
        for kind in PORTS.keys() | {"all"}
        if known.get(kind)
    }


def _from_environment() -> dict[str, str]:
    # Imported here: it takes 8 ms, and most commands send nothing.
    from urllib.request import getproxies

    return getproxies()


def _variable(kind: str, value: str) -> str:
    """Return the variable that this value comes from, as it is written there."""
    names = (name for name in environ if name.lower() == f"{kind}_proxy")
    return next((name for name in sorted(names, reverse=True) if environ[name] == value), "")


def _with_scheme(address: str) -> str:
    return address if "://" in address else f"http://{address}"


def _goes_around(url: str, exceptions: str) -> bool:
    """Return True if NO_PROXY names the host of an address: ``*``, a name with all below it, those
    below ``.name``, an address, a network."""
    host = (urlsplit(url).hostname or "").lower()
    words = [word.strip().lower() for word in exceptions.split(",") if word.strip()]
    return any(word == "*" or _is_in(host, url, word) for word in words)


def _is_in(host: str, url: str, word: str) -> bool:
    address = _ip(host)
    if address is not None:
        try:
            return address in ipaddress.ip_network(word.strip("[]"), strict=False)
        except ValueError:
            return matches(word, url)
    if word.startswith((".", "*.")):
        return host.endswith(word.removeprefix("*"))
    name = word.partition("://")[2] or word
    return host.endswith(f".{name}") or matches(name, url)
