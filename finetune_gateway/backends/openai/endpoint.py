"""Which host a hosted backend talks to, and which key that host may see."""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from finetune_gateway.backends.openai.wire import redact
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation import profiles

OPENAI_HOST = "api.openai.com"
OPENAI_KEY = "OPENAI_API_KEY"


def default(profile: str | None) -> str | None:
    """The address when none was given: OPENAI_BASE_URL, then the profile's own; None where every
    customer has another.

    OPENAI_BASE_URL stands in for OpenAI's own, never for another host that was named.
    """
    ambient = os.environ.get("OPENAI_BASE_URL")
    if ambient and profile in (None, "openai", "custom"):
        return ambient
    return profiles.load_profile(profile or "openai").base_url


def checked(url: str) -> str:
    """The address without its last slash. Raises SpecError when it is none, or holds a key."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SpecError(f"base_url {redact(url)!r} is no address.", hint="Like https://HOST/v1.")
    if parts.username or parts.password:
        raise SpecError(
            "base_url has a user or password in it.", hint="Keys come from api_key_env."
        )
    return url.rstrip("/")


def is_openai(url: str) -> bool:
    """OpenAI itself, its regional hosts (eu.api.openai.com) included."""
    host = urlsplit(url).hostname or ""
    return host == OPENAI_HOST or host.endswith(f".{OPENAI_HOST}")


def key_allowed_for(url: str, variable: str) -> bool:
    """May this host see the key in that variable?

    A handle or a stored job names a host; were that enough, a file from a stranger could send
    OpenAI's key anywhere (CVE-2024-6587 was of this kind).
    """
    if variable != OPENAI_KEY or is_openai(url):
        return True
    host = urlsplit(url).hostname
    ambient = urlsplit(os.environ.get("OPENAI_BASE_URL", "")).hostname
    return host in ("127.0.0.1", "localhost", "::1") or host == ambient
