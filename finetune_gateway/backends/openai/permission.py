"""May the key in a variable be sent to an address? Nothing is sent before this is answered.

A handle or a stored job names both, and may come from somebody else: what it says binds nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from finetune_gateway.backends.openai.endpoint import OPENAI_KEY, parts_of
from finetune_gateway.errors import AuthenticationError, UnboundKeyError
from finetune_gateway.estimation import profiles
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.client_options import ClientOptions, Key, KeyRequest
from finetune_gateway.settings.network import is_loopback, matches, origin

PLAIN_HTTP = "plain_http"  # the code of the error for an address that is not encrypted


@dataclass(frozen=True)
class Call:
    """What the user gave in the call that built a backend."""

    address: bool = False
    variable: bool = False  # its name
    key: str | None = field(default=None, repr=False)  # its value
    allow_http: bool = False


RESTORED = Call()  # built from a job or a handle: the user gave nothing


def given_key(
    value: str | None, options: ClientOptions, variable: str, profile: str, url: str | None
) -> Key | None:
    """Return the key for an address: the ``value`` of the call, else that of the Gateway, else that
    of the environment, which is not read for a Gateway with keys of its own."""
    if value is None and not options.ambient:
        host = urlsplit(url).netloc if url else ""
        return options.key(KeyRequest(options.name or profile, host, variable)) if host else None
    text = ((os.environ.get(variable) if value is None else value) or "").strip()
    return Key(text) if text else None


@dataclass(frozen=True)
class Permission:
    """The answer for one variable and one address, by a call, the profiles and the settings."""

    variable: str
    url: str
    call: Call
    ambient: bool = True  # the environment has the keys; else the Gateway was given them

    def key(self, given: Key | None, bindings: Bindings) -> str:
        """Return the key that was ``given`` if it may be sent. Raises AuthenticationError if not,
        and if it is missing or malformed."""
        if given is None and self.call.key is not None:
            raise AuthenticationError(
                f"There is no key for {urlsplit(self.url).netloc}: the api_key that was given is "
                "empty.",
                hint=f"Give the key. Without api_key that in {self.variable} is sent.",
                backend="openai",
            )
        if given is None and not self.ambient:
            raise self._not_given()
        self._require(bindings, bound=given is not None and given.bound)
        if given is None:
            keyless = " (any text, if the server asks for no key)" if self._is_here else ""
            raise AuthenticationError(
                f"There is no key for {urlsplit(self.url).netloc}: {self.variable} is not set.",
                hint=f"Run: export {self.variable}=...{keyless}",
                backend="openai",
            )
        if not all("!" <= char <= "~" for char in given.value):
            raise AuthenticationError(
                f"T{self.key_words[1:]} has spaces or characters no key has.",
                hint="Copy it again.",
                backend="openai",
            )
        return given.value

    @property
    def key_words(self) -> str:
        """Return which key is sent: ``the key in OPENAI_API_KEY``."""
        if self.call.key is not None:
            return "the key given as api_key"
        if not self.ambient:
            return f"the key that this Gateway was given for {urlsplit(self.url).netloc}"
        return f"the key in {self.variable}"

    def _not_given(self) -> AuthenticationError:
        host = urlsplit(self.url).netloc
        return AuthenticationError(
            f"This Gateway was given no key for {host}. The environment is not read.",
            hint=f"Nothing was sent. Name the host: keys={{{host!r}: ...}}",
            backend="openai",
        )

    def _require(self, bindings: Bindings, *, bound: bool) -> None:
        """Raise UnboundKeyError if nothing binds the variable to the address, AuthenticationError
        if the address is not encrypted and nothing allows that."""
        bound = bound or self.call.key is not None
        bound = bound or self._bound_by_call or self._bound_by_profile
        if not (bound or bindings.allow(self.variable, self.url)):
            raise self._unbound()
        if self._plain and not (self.call.allow_http or bindings.allow_http(self.url)):
            raise self._plain_http()

    def remember(self, bindings: Bindings) -> None:
        """Keep what the call says, for processes that have the job alone."""
        known = self._bound_by_profile and not self._plain
        if self._bound_by_call and not known:
            bindings.keep(self.variable, self.url)

    @property
    def _bound_by_call(self) -> bool:
        """True if the call names the variable, gives the very key that is in it, or gives no key
        and an address on this machine."""
        by_value = self.call.key is not None
        named = by_value and self.call.key == os.environ.get(self.variable)
        here = self.call.address and self._is_here and not by_value
        return self.call.variable or named or here

    @property
    def _bound_by_profile(self) -> bool:
        """True if a profile, or OPENAI_BASE_URL for OpenAI's own key, names the host."""
        ambient = os.environ.get("OPENAI_BASE_URL") if self.variable == OPENAI_KEY else None
        if ambient and parts_of(ambient) and origin(ambient) == origin(self.url):
            return True
        return any(matches(host, self.url) for host in profiles.hosts_of_key(self.variable))

    @property
    def _is_here(self) -> bool:
        return is_loopback(urlsplit(self.url).hostname or "")

    @property
    def _plain(self) -> bool:
        return urlsplit(self.url).scheme != "https" and not self._is_here

    def _unbound(self) -> UnboundKeyError:
        variable, host = self.variable, urlsplit(self.url).netloc
        bind = f"ftg config set keys.{variable} {host}"
        if self.call.address:
            why = "it may belong to another host"
            hint = (
                f"Name the variable too: --api-key-env {variable} (api_key_env= in Python), or one "
                f"that holds the key of this host. Or bind it: {bind}"
            )
        else:
            why, hint = "nothing of yours says that it belongs there", f"If it does: {bind}"
        if not self.ambient:
            hint = f"If it belongs there, name the host: keys={{{host!r}: ...}}"
        return UnboundKeyError(
            f"{variable} is not sent to {host}: {why}.",
            hint=hint,
            backend="openai",
            variable=variable,
            url=self.url,
        )

    def _plain_http(self) -> AuthenticationError:
        host = urlsplit(self.url).netloc
        return AuthenticationError(
            f"Nothing was sent to {origin(self.url)}: it is not encrypted, so key and data can be "
            "read on the way.",
            hint="Use https://, or allow it: --allow-http, allow_http=True in Python, or "
            f"ftg config set hosts.allow_http {host}",
            backend="openai",
            code=PLAIN_HTTP,
        )
