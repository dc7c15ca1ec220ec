"""Which host a hosted backend talks to."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

import httpx2

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.estimation import profiles
from finetune_gateway.settings.network import PORTS, hidden
from finetune_gateway.text.redaction import redact

OPENAI_HOST = "api.openai.com"
OPENAI_KEY = "OPENAI_API_KEY"
# What a key acts for. The SDK reads them from the environment and sends them to OpenAI.
SCOPE = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
# Without spaces, controls and a backslash, which readers of addresses understand differently.
PLAIN = re.compile(r"[!-\[\]-~]+")
LONGEST_SETTING = 604_800  # seconds, a week


def default(profile: str | None) -> str | None:
    """Return the default address: OPENAI_BASE_URL, else the profile's own; None if each customer
    has another one.

    OPENAI_BASE_URL replaces OpenAI's address, never that of a profile that was named.
    """
    ambient = os.environ.get("OPENAI_BASE_URL")
    if ambient and profile in (None, "openai", "custom"):
        return ambient
    return profiles.load_profile(profile or "openai").base_url


def checked(url: str) -> str:
    """Return the address in one form: its host in small letters, without the usual port and the
    last slash. Raises SpecError if it is not a URL, or has a password or a query in it: it is
    stored and shown."""
    parts = parts_of(url)
    if parts is None:
        shown = redact(hidden(url))
        raise SpecError(f"base_url {shown!r} is not a URL.", hint="Like https://HOST/v1.")
    if parts.username or parts.password or "@" in parts.netloc:
        raise SpecError(
            "base_url has a user or password in it.", hint="Keys come from api_key_env."
        )
    if parts.query or parts.fragment:
        raise SpecError(
            "base_url has something after ? or # in it.",
            hint="Leave that out. Keys come from api_key_env.",
        )
    host = parts.netloc.lower().removesuffix(f":{PORTS[parts.scheme]}")
    return f"{parts.scheme}://{host}{parts.path}".rstrip("/")


def parts_of(url: str) -> SplitResult | None:
    """Return the parts of an address; None if it is none, or if the one who connects would read
    another host in it than the one who checks: https://api.openai.com\\@other.example."""
    if not PLAIN.fullmatch(url):
        return None
    try:
        parts, real = urlsplit(url), httpx2.URL(url)
        (parts.hostname or "").encode("idna")  # as sockets do, which fail without a word on it
        same = (real.scheme, real.host, real.port or None) == (
            parts.scheme,
            parts.hostname,
            None if parts.port == PORTS.get(parts.scheme) else parts.port,
        )
    except (ValueError, httpx2.InvalidURL):
        return None
    return parts if parts.scheme in PORTS and parts.hostname and same else None


def checked_variable(name: str) -> str:
    """Return the name of a key's variable. Raises SpecError, without the words, for what can be
    none: the key itself, perhaps."""
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise SpecError(
            "api_key_env is no name of an environment variable.",
            hint="Give the name, not the key: --api-key-env MY_KEY, after: export MY_KEY=...",
        )
    return name


def check_settings(given: Mapping[str, object]) -> None:
    """Raise SpecError for a setting that is no text, or no time that a clock can wait. None is one
    where there is a default that depends on others."""
    for name in ("base_url", "api_key", "api_key_env", "profile", "azure_training"):
        if not isinstance(given[name], str | None):
            kind = type(given[name]).__name__  # not the value: it may be a key
            raise SpecError(f"{name} must be text, not {kind}.", hint="Write it in quotes.")
    for name in ("request_timeout", "poll_seconds"):
        _check_seconds(name, given[name])
    for name in ("settle_seconds", "longest_wait"):
        if given[name] is not None:
            _check_seconds(name, given[name])


def _check_seconds(name: str, value: object) -> None:
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else -1
    # No host answers in no time: each request would be in doubt.
    least = 0.001 if name == "request_timeout" else 0
    if not least <= number <= LONGEST_SETTING:
        raise SpecError(
            f"{name} cannot be {redact(shown(value))}.",
            hint=f"Give seconds as a number from {least} to {LONGEST_SETTING:,}.",
        )


def resource(url: str, profile: profiles.Profile) -> str:
    """Return the name of a customer's resource, which begins their address; RESOURCE if the address
    is not one of the profile's own domain."""
    host, form = urlsplit(url).hostname or "", urlsplit(profile.base_url_hint).hostname or ""
    domain = ".".join(form.split(".")[-2:])
    return host.partition(".")[0] if host.endswith(f".{domain}") else "RESOURCE"


def is_openai(url: str) -> bool:
    """Return True for OpenAI itself, including its regional hosts (eu.api.openai.com)."""
    host = urlsplit(url).hostname or ""
    return host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}")


def scope(url: str) -> list[str]:
    """Return the organisation and the project that a key is used for at OpenAI, where they are set:
    the same key sees other jobs with others."""
    named = [os.environ.get(name) or "" for name in SCOPE]
    return named if is_openai(url) and any(named) else []
