"""What a Gateway was given for hosts, as a plug-in gets it: keys, a client, a proxy, a time-out.

A hosted plug-in that cannot take one of these is refused: its job would go out by another key, or
by another way, than the user has said.
"""

from __future__ import annotations

import copy
import inspect
import os
import sys
from functools import wraps
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from finetune_gateway.backend import seam
from finetune_gateway.backend.rebuilt import Wrong, rebuilt
from finetune_gateway.backend.stored_options import STORED
from finetune_gateway.errors import AuthenticationError, SpecError, UnsupportedError
from finetune_gateway.settings.client_options import AMBIENT, ClientOptions, KeyRequest
from finetune_gateway.settings.home import Settings

if TYPE_CHECKING:
    from finetune_gateway.backend.http import Client

BOUND = "_gateway_settings"  # an attribute of a backend: the settings that it is bound to
UNBOUND = "_before_any_gateway"  # and its attributes before it was bound for the first time


def read_attributes(cls: Any) -> None:
    """Let a class have plain texts as its name and its ``gateway_options``. Raises SpecError for
    options that are no set of texts, such as a list: it is compared with others."""
    own = vars(cls)
    if issubclass(type(own.get("name")), str):
        cls.name = str.__str__(own["name"])
    try:
        if "gateway_options" in own:
            given = own["gateway_options"]
            cls.gateway_options = rebuilt(frozenset[str], given, "gateway_options")
    except Wrong as exc:
        like = 'Like frozenset({"keys", "http_client"}).'
        raise SpecError(f"The class {cls.__name__} {exc}.", hint=like) from None


def guard_bind(cls: type) -> None:
    """Let the ``bind`` that a class has of its own keep the settings first, whatever it does."""
    own = vars(cls).get("bind")
    if own is None:
        return

    @wraps(own)
    def bind(self: Any, settings: Settings) -> None:
        attach(self, settings)
        own(self, settings)

    cls.bind = bind  # type: ignore[attr-defined]


def attach(backend: Any, settings: Settings) -> None:
    """Keep the settings that a backend is bound to. Raises UnsupportedError for a hosted one that
    cannot take what its Gateway was given."""
    missing = settings.client.given - backend.gateway_options
    if "request_timeout" in inspect.signature(type(backend)).parameters:
        missing -= {"timeout"}  # built with it
    if missing and backend.capabilities().hosted:
        raise _refused(backend, sorted(missing)[0])
    vars(backend).setdefault(UNBOUND, _apart(vars(backend)))
    vars(backend)[BOUND] = settings


def bind_as(backend: Any, other: Any) -> None:
    """Bind a backend to what another one is bound to."""
    settings: Settings | None = vars(other).get(BOUND)
    if settings is not None:
        backend.bind(settings)


def copied(backend: Any) -> Any:
    """Return a copy for another Gateway. A plug-in's is as it was before any had it: what it has
    kept since, such as a client, may hold the key of that one."""
    found, state = copy.copy(backend), vars(backend)
    if seam.is_plugin(type(backend)) and not hasattr(type(backend), "__copy__"):
        marks = {name: state[name] for name in (UNBOUND, STORED) if name in state}
        vars(found).clear()
        vars(found).update(_apart(state[UNBOUND]), **marks)
    return found


def _apart(state: dict[str, Any]) -> dict[str, Any]:
    """Return attributes whose containers take nothing in that is put into those of another."""
    return {
        name: copy.copy(value) if isinstance(value, dict | list | set) else value
        for name, value in state.items()
    }


def _refused(backend: Any, option: str) -> UnsupportedError:
    if option == "keys":
        why = "takes no keys of a Gateway: it would send another one"
    else:
        why = f"takes no {option} of a Gateway: it would send by its own"
    return UnsupportedError(
        f"Backend {backend.display_name!r} {why}. Nothing was sent.",
        hint=f"Use a Gateway without {option}, or ask the author of "
        f"{type(backend).__module__.partition('.')[0]} for gateway_options.",
        backend=backend.name,
        option=option,
    )


def options_of(backend: Any) -> ClientOptions:
    """Return what the Gateway of a backend was given."""
    settings: Settings | None = vars(backend).get(BOUND)
    return AMBIENT if settings is None else settings.client


def key(backend: Any, variable: str, url: str) -> str | None:
    """Return the key for an address: see ``Backend.key``."""
    options, host = options_of(backend), urlsplit(url).netloc
    options.require_open()
    if options.ambient:
        value = os.environ.get(variable)
    else:
        found = options.key(KeyRequest(options.name or backend.name, host, variable))
        value = found.value if found else None
    value = (value or "").strip()
    if not all("!" <= char <= "~" for char in value):
        where = f"in {variable}" if options.ambient else f"given for {host}"
        raise AuthenticationError(
            f"The key {where} has spaces or characters no key has.",
            hint="Copy it again.",
            backend=backend.name,
        )
    if value:
        seam.note_key(value)
    return value or None


def no_key(backend: Any, variable: str, url: str) -> AuthenticationError:
    """Return the error for an address without a key."""
    host = urlsplit(url).netloc
    if options_of(backend).ambient:
        why, hint = f"{variable} is not set", f"Run: export {variable}=..."
    else:
        why = "this Gateway was given none, and the environment is not read"
        hint = f"Nothing was sent. Name the backend: keys={{{backend.name!r}: ...}}"
    return AuthenticationError(
        f"There is no key for {host}: {why}.", hint=hint, backend=backend.name
    )


def http_client(backend: Any, url: str, timeout: float) -> Client:
    """Return the client for an address: see ``Backend.http_client``."""
    # Imported here: few calls of a backend send something.
    from finetune_gateway.backend import http

    options = options_of(backend)
    return http.client(url, options, timeout if options.timeout is None else options.timeout)


def close(options: ClientOptions) -> None:
    """Close the connections that plug-ins of a Gateway have made by ``http_client``."""
    http = sys.modules.get("finetune_gateway.backend.http")
    if http is not None and options is not AMBIENT:
        http.close(options.ended)
