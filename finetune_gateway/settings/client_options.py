"""With what a Gateway reaches hosts: keys, a client, a proxy, a time-out. Nothing of it is stored.

Without any of these, keys and proxies are those of the environment.
"""

from __future__ import annotations

import inspect
import os
import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Protocol, Self

from finetune_gateway.errors import AuthenticationError, GatewayError, SpecError, shown

if TYPE_CHECKING:
    from finetune_gateway.settings.network import Proxy

LONGEST_TIMEOUT = 604_800  # seconds, a week
VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
HERE = "localhost"


@dataclass(frozen=True)
class KeyRequest:
    """Which key is asked for: what a resolver of keys is called with."""

    backend: str  # its name in this Gateway, else its profile: openai, azure, custom
    host: str  # api.openai.com, gpu.example:8000
    variable: str  # the one that the environment would have it in


@dataclass(frozen=True)
class Key:
    """A key, and whether it was given for this very host: then it may be sent there."""

    value: str = field(repr=False)
    bound: bool = False


class HttpClient(Protocol):
    """What is used of an httpx2.Client, which is what has to be given."""

    @property
    def is_closed(self) -> bool: ...

    def send(
        self, request: Any, *, stream: bool = ..., auth: Any = ..., follow_redirects: Any = ...
    ) -> Any: ...


Keys = Mapping[str, str] | Callable[[KeyRequest], str | None]


@dataclass(frozen=True, eq=False)
class ClientOptions:
    """Of one Gateway; two are never equal. ``name``: of the backend that it is used for, if the
    Gateway has one of its own for it."""

    keys: Keys | None = field(default=None, repr=False)
    http_client: HttpClient | None = None
    proxy: str | None = field(default=None, repr=False)  # may have a password in it
    timeout: float | None = None  # seconds
    name: str = ""
    ended: threading.Event = field(default_factory=threading.Event, repr=False)
    process: int = field(default_factory=os.getpid, repr=False, compare=False)

    def checked(self, names: Collection[str]) -> Self:
        """Return self. Raises SpecError for what can be none of these, without showing a key.
        ``names``: of backends, for which there may be keys."""
        if isinstance(self.keys, Mapping):
            for name, value in self.keys.items():
                _check_key(name, value, names)
        elif self.keys is not None and not callable(self.keys):
            raise SpecError(
                f"keys is a mapping or a function, not {type(self.keys).__name__}.",
                hint="Like keys={'OPENAI_API_KEY': key}, or a function that returns a key.",
            )
        if self.http_client is not None:
            _check_client(self.http_client)
        if self.proxy is not None:
            _check_proxy(self.proxy, other=self.http_client)
        _check_timeout(self.timeout)
        return self

    def named(self, name: str) -> Self:
        """Return these for the backend with a name of its own."""
        return replace(self, name=name)

    @property
    def given(self) -> frozenset[str]:
        """Return which of them the Gateway was given."""
        names = ("keys", "http_client", "proxy", "timeout")
        return frozenset(name for name in names if getattr(self, name) is not None)

    @property
    def ambient(self) -> bool:
        """True if keys are those of the environment."""
        return self.keys is None

    def key(self, asked: KeyRequest) -> Key | None:
        """Return the key for a host; None if it was not given: it is taken from nowhere else.
        Raises AuthenticationError for a resolver that fails."""
        from finetune_gateway.settings.network import matches

        if callable(self.keys):
            value = self._resolved(asked)
            return None if value is None else Key(value, bound=True)
        given = self.keys or {}
        if self.name and self.name in given:
            return Key(given[self.name], bound=True)
        for name in given:
            if _is_host(name) and matches(name, f"https://{asked.host}"):
                return Key(given[name], bound=True)
        value = given.get(asked.variable, given.get(asked.backend))
        return None if value is None else Key(value)

    def _resolved(self, asked: KeyRequest) -> str | None:
        assert callable(self.keys)
        value: object = None
        failed = ""
        try:
            value = self.keys(asked)
        except GatewayError:
            raise
        except (Exception, SystemExit) as exc:
            failed = type(exc).__name__
        if failed:  # raised here, so that the error leads to no other one: its text may hold a key
            raise AuthenticationError(
                f"The function keys= of this Gateway gives no key for {asked.host}: it has raised "
                f"{failed}.",
                hint="Nothing was sent. Look at that function.",
                backend=asked.backend,
            )
        if inspect.iscoroutine(value):
            value.close()
        if value is None or isinstance(value, str):
            return (value or "").strip() or None
        raise AuthenticationError(
            f"The function keys= of this Gateway gives {type(value).__name__} for {asked.host}: a "
            "key is text.",
            hint="Return the key, or None if there is none.",
            backend=asked.backend,
        )

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy on the way to an address. Never one for this machine, or beside a client
        that was given, which has its own."""
        from finetune_gateway.settings import network

        if self.http_client is not None:
            return None
        if self.proxy is None:
            return network.proxy_for(url)
        named = network.Proxy("proxy= of this Gateway", self.proxy)
        return None if network.is_here(url) else named

    def require_open(self) -> None:
        """Raise SpecError once the Gateway is closed."""
        if self.ended.is_set():
            raise closed()


AMBIENT = ClientOptions()


def stays_here() -> SpecError:
    """Return the error of what is pickled, and belongs to its process."""
    return SpecError(
        "A Gateway and its jobs stay in their process: they hold connections and keys.",
        hint="Send the home folder and job.id, or job.to_dict(); there Gateway(home).job(id).",
    )


def closed() -> SpecError:
    """Return the error for what is asked of a Gateway that is closed."""
    return SpecError(
        "This Gateway is closed.",
        hint="Nothing was sent. Make another one of the same home: its jobs are there.",
    )


def _is_host(name: str) -> bool:
    return "." in name or ":" in name or name == HERE


def _check_key(name: object, value: object, names: Collection[str]) -> None:
    """Raise SpecError for a name that no key can have, and for what is no key."""
    if not isinstance(name, str):
        raise SpecError(f"keys has a name that is no text: {type(name).__name__}.")
    if not (name in names or _is_host(name) or VARIABLE.fullmatch(name)):
        near = get_close_matches(name, names, 1)
        meant = f"Did you mean {near[0]}? " if near else ""
        raise SpecError(
            "A name in keys is for no backend, host or variable.",  # not shown: it may be the key
            hint=f"{meant}Like keys={{'openai': key}}, {{'gpu.example:8000': key}} or "
            "{'OPENAI_API_KEY': key}.",
        )
    if not isinstance(value, str) or not value.strip():
        label = f"keys[{name!r}]" if name in names else "A key in keys"
        what = "empty" if isinstance(value, str) else type(value).__name__
        raise SpecError(
            f"{label} is {what}: a key is text.",
            hint="Leave it out if there is none: the environment is not read.",
        )


def _check_client(client: object) -> None:
    kinds = {(one.__module__.partition(".")[0], one.__name__) for one in type(client).__mro__}
    if ("httpx2", "Client") in kinds and not inspect.iscoroutinefunction(
        getattr(client, "send", None)
    ):
        return
    raise SpecError(
        f"http_client must be an httpx2.Client, not {type(client).__module__}."
        f"{type(client).__name__}.",
        hint="The SDK of hosts talks through httpx2: pip install httpx2.",
    )


def _check_proxy(proxy: object, other: object) -> None:
    if other is not None:
        raise SpecError(
            "http_client and proxy can't both be given.", hint="Give that client its proxy."
        )
    if not isinstance(proxy, str):
        raise SpecError(f"proxy is an address, not {type(proxy).__name__}.")
    from finetune_gateway.settings import network

    try:
        network.Proxy("proxy=", proxy).endpoint  # noqa: B018
    except ValueError as exc:
        raise SpecError(
            f"proxy can't be used: {exc}.", hint="Like proxy='http://proxy.example:3128'."
        ) from None


def _check_timeout(timeout: object) -> None:
    number = timeout if isinstance(timeout, int | float) and not isinstance(timeout, bool) else -1
    if timeout is not None and not 0.001 <= number <= LONGEST_TIMEOUT:
        raise SpecError(
            f"timeout cannot be {shown(timeout)}.",
            hint=f"Give seconds as a number from 0.001 to {LONGEST_TIMEOUT:,}.",
        )
