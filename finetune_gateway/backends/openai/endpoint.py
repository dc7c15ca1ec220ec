"""Which host a hosted backend talks to, and which key may be sent there."""

from __future__ import annotations

import os
import re
from urllib.parse import urlsplit

from finetune_gateway.backends.openai.wire import redact
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation import profiles

OPENAI_HOST = "api.openai.com"
OPENAI_KEY = "OPENAI_API_KEY"
# What a key acts for. The SDK reads them from the environment and sends them to OpenAI.
SCOPE = ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID")
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
    """Return the address without its last slash. Raises SpecError if it is not a URL, or has a
    password or a query in it: it is stored and shown."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"base_url {redact(url)!r} is not a URL.", hint="Like https://HOST/v1.")
    if parts.username or parts.password:
        raise SpecError(
            "base_url has a user or password in it.", hint="Keys come from api_key_env."
        )
    if parts.query or parts.fragment:
        raise SpecError(
            "base_url has something after ? or # in it.",
            hint="Leave that out. Keys come from api_key_env.",
        )
    return url.rstrip("/")


def checked_variable(name: str) -> str:
    """Return the name of a key's variable. Raises SpecError, without the words, for what can be
    none: the key itself, perhaps."""
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise SpecError(
            "api_key_env is no name of an environment variable.",
            hint="Give the name, not the key: --api-key-env MY_KEY, after: export MY_KEY=...",
        )
    return name


def check_seconds(name: str, value: float | None) -> None:
    """Raise SpecError unless a setting is a number of seconds that a clock can wait, or None."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (number and 0 <= value <= LONGEST_SETTING):
        raise SpecError(
            f"{name} cannot be {value!r}.",
            hint=f"Give seconds as a number from 0 to {LONGEST_SETTING:,}.",
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


def key_allowed_for(url: str, variable: str) -> bool:
    """Return True if the key in that variable may be sent to this host.

    A handle or a stored job names a host. If that were enough, a file from somebody else could send
    OpenAI's key anywhere (as in CVE-2024-6587).
    """
    if variable != OPENAI_KEY or is_openai(url):
        return True
    host = urlsplit(url).hostname
    ambient = urlsplit(os.environ.get("OPENAI_BASE_URL", "")).hostname
    return host in ("127.0.0.1", "localhost", "::1") or host == ambient
