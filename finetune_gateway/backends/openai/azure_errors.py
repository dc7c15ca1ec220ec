"""What Azure's management plane refuses, in words: which right, which quota, what instead."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from finetune_gateway.backends.openai.retries import asked_wait
from finetune_gateway.backends.openai.wire import object_of, one_line, text_of
from finetune_gateway.errors import AuthenticationError, BackendError
from finetune_gateway.settings.network import Proxy
from finetune_gateway.text.cleaning import clean
from finetune_gateway.text.logs import request_id
from finetune_gateway.text.redaction import redact, without

AGAIN = "Run the same command again: a deployment is known by its name, and is made once."
AGAIN_END = "Run the same command again, or look in the Foundry portal."
# Refusals of a 404 that are about more than the thing that was asked for.
OTHERS_MISSING = frozenset(
    {"SubscriptionNotFound", "ResourceGroupNotFound", "ParentResourceNotFound"}
)
HINTS = {
    "InsufficientQuota": "Delete a deployment that is not used, ask for less (--capacity), take "
    "another kind (--sku), or ask Microsoft for quota in the Foundry portal.",
    "DeploymentModelNotSupported": "Is that the model's whole name, and was it trained in this "
    "account? Standard serves tuned models in North Central US and Sweden Central (gpt-4o: East US "
    "2 and Sweden Central); elsewhere: --sku global, or developer.",
    "InvalidResourceProperties": "Choose another kind: --sku standard, global or developer.",
    "SubscriptionNotFound": "See: az account list --output table",
    "ResourceGroupNotFound": "See: az group list --output table",
    "ResourceNotFound": "See: az cognitiveservices account list --output table",
}
KIND = "Microsoft.CognitiveServices"
RIGHTS = {  # what each call needs
    "PUT": f"{KIND}/accounts/deployments/write",
    "DELETE": f"{KIND}/accounts/deployments/delete",
    "GET": f"{KIND}/accounts/deployments/read",
}
TO_LIST_MODELS = f"{KIND}/locations/models/read"
LIST_MODELS = "list the models"


def refused(
    what: str, method: str, status: int, raw: bytes, headers: Mapping[str, str], token: str
) -> BackendError:
    """Return the error for an answer that is a refusal."""
    error = _error(raw)
    code = text_of(error.get("code"))
    said = one_line(redact(text_of(error.get("message")) or "", token))
    text = ": ".join(filter(None, (without(code or "", token), said))) or f"HTTP {status}"
    if status in (401, 403):
        return _not_allowed(what, method, status, code, text, request_id(headers, token))
    busy = status in (408, 409, 429) or status >= 500
    hint = HINTS.get(code or "", "")
    if 300 <= status < 400:
        text, hint = "it points to another address, which is not followed", "Is a proxy in between?"
    return BackendError(
        f"Azure could not {what}: {text}",
        hint=hint or (AGAIN if busy else ""),
        backend="azure",
        status_code=status,
        code=code and without(code, token),
        retryable=busy,
        retry_after=asked_wait(headers),
        request_id=request_id(headers, token),
        maybe_applied=status >= 500 and method != "GET",
        not_there=status == 404 and bool(code) and code not in OTHERS_MISSING,
    )


def _not_allowed(
    what: str, method: str, status: int, code: str | None, text: str, asked: str | None
) -> AuthenticationError:
    if status == 401:
        hint = "Sign in anew: az login. Is it the tenant of this subscription?"
    elif what == LIST_MODELS:
        hint = f"Ask for the right {TO_LIST_MODELS} on this subscription."
    else:
        hint = (
            f"Ask for the right {RIGHTS[method]}, which the role Azure AI Owner has: the right to "
            "train does not include it."
        )
    return AuthenticationError(
        f"Azure did not let you {what}: {text}",
        hint=hint,
        backend="azure",
        status_code=status,
        code=code,
        request_id=asked,
    )


def no_answer(
    what: str, method: str, exc: Exception, token: str, proxy: Proxy | None
) -> BackendError:
    """Return the error for a request without an answer."""
    why = one_line(redact(str(exc) or type(exc).__name__, token))
    way = f" through the proxy {proxy.shown}" if proxy else ""
    return BackendError(
        f"Azure did not answer{way}, to {what}: {proxy.hide(why) if proxy else why}",
        hint=AGAIN,
        backend="azure",
        retryable=True,
        maybe_applied=method != "GET",
    )


def not_made(name: str, state: str, reason: str) -> BackendError:
    """Return the error for a deployment that did not come to be, or not in time."""
    ended = state in ("Failed", "Canceled")
    said = f": {one_line(reason)}" if reason else ""
    return BackendError(
        f"The deployment {name} is {one_line(state)}{said}.",
        hint="Run the same command again, or end it with --delete."
        if ended
        else "It goes on without us; it costs from the moment on that it is made. " + AGAIN,
        backend="azure",
        retryable=not ended,
    )


def foreign_page(address: str) -> BackendError:
    """Return the error for a list whose next page is elsewhere: the token does not go there."""
    return BackendError(
        f"Azure's list goes on at another address, which is not asked: {one_line(address)[:80]}",
        backend="azure",
    )


def decoded(what: str, raw: bytes, token: str) -> dict[str, Any]:
    """Return the object in an answer, without the token; an empty one for none. Raises
    BackendError."""
    if not raw.strip():
        return {}
    try:
        value = json.loads(without(raw.decode("utf-8"), token))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BackendError(
            f"Azure's answer is no JSON object, to {what}.",
            hint=f"Is a proxy or a portal in between? {AGAIN}",
            backend="azure",
            retryable=True,
            maybe_applied=True,
        )
    return object_of(clean(value))


def _error(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return {}
    return object_of(object_of(value).get("error"))
