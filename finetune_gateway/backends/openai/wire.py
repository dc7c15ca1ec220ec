"""OpenAI's wire contract as our types: errors, pages, job states, events, checkpoints.

Knows the SDK's exceptions and the JSON of the contract; sends nothing. Answers are read as plain
dicts, because hosts of this contract leave out fields, add states, and send ``error: {}`` with
healthy jobs.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import openai

from finetune_gateway.errors import AuthenticationError, BackendError
from finetune_gateway.events import Checkpoint, Event, JobStatus

Json = dict[str, Any]

MAX_PAGES = 50  # of 100; for a server that ignores ``after``
SHOWN = 500  # characters of a provider's message

# What a call of the SDK can raise. ``json.JSONDecodeError``, ``UnicodeDecodeError`` and
# ``RecursionError`` come unwrapped if a 200 is not JSON.
FAILURES = (
    openai.OpenAIError,
    httpx2.HTTPError,
    httpx2.StreamError,
    json.JSONDecodeError,
    UnicodeDecodeError,
    RecursionError,
)

# The connection was never made, so nothing was sent.
NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)


@dataclass(frozen=True)
class Call:
    """One request, as errors describe it."""

    what: str  # "create the job"
    backend: str
    host: str
    key: str | None = None  # only to remove it from messages
    doubtful: bool = False  # True if it may take effect although no answer comes back
    always_doubtful: bool = False  # True if it looks for an earlier request that may have done so


# Errors


@dataclass(frozen=True)
class Rule:
    """What an HTTP status means for a request that was sent."""

    hint: str = ""
    maybe_applied: bool = False
    retryable: bool = False
    authentication: bool = False


RULES = {
    401: Rule("Check the key and the account it belongs to.", authentication=True),
    403: Rule("This key or organisation is not allowed to do that.", authentication=True),
    408: Rule("Try again later.", maybe_applied=True, retryable=True),
    409: Rule("Try again later.", maybe_applied=True, retryable=True),
    413: Rule("Send a smaller file."),
    429: Rule("Try again later.", retryable=True),
}
REDIRECT = Rule("The key is not sent to another host; set base_url to the right one.")
REFUSED = Rule("Change what it names, then try again.")
SERVER = Rule("Try again later.", maybe_applied=True, retryable=True)

# Codes that say more than their status.
CODES = {
    "training_not_available": Rule(
        "Use another host of the same contract (base_url=...), or your own GPU (--backend local).",
        authentication=True,
    ),
    "insufficient_quota": Rule("Add credit or raise the limit of that account."),
}
WORDS = {
    "training_not_available": "this organisation can no longer create fine-tuning jobs there",
}


def translate(exc: BaseException, call: Call) -> BackendError:
    """Return the SDK's exception as ours, by status before text, and without the key."""
    if isinstance(exc, openai.APIStatusError):
        return _from_status(exc, call)
    cause = exc.__cause__ if isinstance(exc, openai.APIConnectionError) else exc
    if isinstance(cause, NEVER_SENT):
        return _error(
            call,
            f"Could not reach {call.host}: {_reason(cause)}.",
            Rule("Check the address and the network.", retryable=True),
        )
    if isinstance(cause, httpx2.TimeoutException):
        return _error(call, f"{call.host} did not answer in time to {call.what}.", SERVER)
    if isinstance(cause, httpx2.HTTPError | openai.APIConnectionError):
        return _error(call, f"The connection to {call.host} broke ({_reason(cause)}).", SERVER)
    if type(exc) is openai.APIError:  # an error inside a stream
        return _error(call, f"{call.host} broke off: {_provider_message(exc)}", SERVER)
    return undecodable(call)


def undecodable(call: Call, error: str = "") -> BackendError:
    """Return an error for an answer with a good status that does not follow the contract."""
    detail = f" It said: {error}" if error else ""
    message = f"{call.host} did not answer in OpenAI's format to {call.what}.{detail}"
    hint = "Is base_url right (it usually ends in /v1), and no proxy in between?"
    return _error(call, message, Rule(hint, maybe_applied=True, retryable=True))


def _from_status(exc: openai.APIStatusError, call: Call) -> BackendError:
    status, code = exc.status_code, exc.code
    rule = CODES.get(code or "") or RULES.get(status) or _by_class(status)
    reason = WORDS.get(code or "") or _provider_message(exc)
    if 300 <= status < 400:
        reason = f"it redirects to {urlsplit(exc.response.headers.get('location', '')).netloc!r}"
    field = f" (field {exc.param})" if exc.param else ""
    message = f"{call.host} refused to {call.what} ({status}): {reason.rstrip('.')}{field}."
    wait = exc.response.headers.get("retry-after")
    return _error(call, message, rule, status=status, code=code, wait=wait)


def _by_class(status: int) -> Rule:
    if status >= 500:
        return SERVER
    return REDIRECT if status < 400 else REFUSED


def _error(
    call: Call,
    message: str,
    rule: Rule,
    *,
    status: int | None = None,
    code: str | None = None,
    wait: str | None = None,
) -> BackendError:
    kind = AuthenticationError if rule.authentication else BackendError
    advice = f" It asks to wait {wait} s." if wait and wait.isdecimal() else ""
    return kind(
        redact(message, call.key),
        hint=(rule.hint + advice).strip(),
        backend=call.backend,
        status_code=status,
        code=code,
        maybe_applied=call.always_doubtful or (call.doubtful and rule.maybe_applied),
        retryable=rule.retryable,
    )


def _provider_message(exc: openai.APIError) -> str:
    """Return the provider's message, short and on one line."""
    body = exc.body
    if isinstance(body, dict):
        words = body.get("message") or body.get("detail") or body
        text = words if isinstance(words, str) else json.dumps(words)
    else:
        text = "no reason in OpenAI's format" if "<" in exc.message else exc.message
    return one_line(text)


def _reason(cause: BaseException) -> str:
    return one_line(str(cause)) or type(cause).__name__


def one_line(text: str) -> str:
    """Return the text without control characters, cut at 500 characters."""
    clean = "".join(char if char.isprintable() else " " for char in text).strip()
    return clean if len(clean) <= SHOWN else f"{clean[:SHOWN]}..."


def redact(text: str, key: str | None = None) -> str:
    """Return the text without ``key``, and without anything that looks like a key."""
    if key:
        text = text.replace(key, "[key]")
    text = re.sub(r"(?i)bearer\s+[^\s\"',]+", "Bearer [key]", text)
    return re.sub(r"\bsk-[\w*-]{4,}", "[key]", text)


# Pages


def plain(answer: object) -> Json | None:
    """Return an SDK object as a plain dict; None if the host sent no object."""
    if not isinstance(answer, openai.BaseModel):
        return None
    return answer.to_dict(mode="json", warnings=False)


def id_of(answer: Json | None, call: Call) -> str:
    """Return the id of what was created. Raises BackendError if the answer has none."""
    created_id = (answer or {}).get("id")
    if not isinstance(created_id, str) or not created_id:
        raise undecodable(call, error_of(answer or {}) or "")
    return created_id


def pages(
    fetch: Callable[[str | None], object], call: Call, limit: int = MAX_PAGES
) -> Iterator[list[Json]]:
    """Yield the pages of a list, at most ``limit``, each item once.

    Ends after a page with nothing new: the SDK's own iteration never ends with a server that
    ignores ``after`` and leaves out ``has_more``.
    """
    after: str | None = None
    seen: set[str] = set()
    for _ in range(limit):
        page = plain(fetch(after))
        items = page.get("data") if page is not None else None
        if page is None or not isinstance(items, list):
            raise undecodable(call)
        fresh = [item for item in map(_with_id, items) if item["id"] not in seen]
        if fresh:
            yield fresh
        seen.update(item["id"] for item in fresh)
        if not fresh or page.get("has_more") is False:
            return
        after = fresh[-1]["id"]


def _with_id(item: Any) -> Json:
    """Return the item with an id, digest from its content if the host gives none."""
    named = item if isinstance(item, dict) else {"message": str(item)}
    if isinstance(named.get("id"), str) and named["id"]:
        return named
    digest = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:24]
    return {**named, "id": f"made-{digest}"}


# Jobs

# States of Azure and its tools, in addition to OpenAI's six.
STATES = {
    "pending": JobStatus.QUEUED,
    "created": JobStatus.QUEUED,
    "notRunning": JobStatus.QUEUED,
    "pausing": JobStatus.RUNNING,
    "resuming": JobStatus.PAUSED,
    "canceling": JobStatus.CANCELLING,
    "canceled": JobStatus.CANCELLED,
}


def status_of(job: Json) -> JobStatus:
    """Return the job's status; ``unknown``, which is never final, for a word we do not know."""
    raw = job.get("status")
    if not isinstance(raw, str):
        return JobStatus.UNKNOWN
    return STATES.get(raw) or JobStatus.parse(raw)


def moment(value: object) -> float | None:
    """Return seconds since the epoch; None if the host gives none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if value > 0 else None


def error_of(job: Json) -> str | None:
    """Return why the job failed. ``error: {}`` comes with healthy jobs and is not an error."""
    error = job.get("error")
    if isinstance(error, str):
        return redact(one_line(error)) or None
    if not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    text = ": ".join(str(part) for part in (code, message) if part)
    return redact(one_line(text)) or None


# Events


def events_after(pages: Iterator[list[Json]], cursor: str | None) -> list[Json]:
    """Return the events after the one with the id ``cursor``, oldest first.

    The contract lists the newest first, so reading stops at the cursor. A host that lists the
    oldest first is recognised by its times and read to the end.
    """
    items: list[Json] = []
    ascending = False
    for number, page in enumerate(pages):
        ascending = _ascends(page) if number == 0 else ascending
        items += page
        if not ascending and any(item["id"] == cursor for item in page):
            break
    ordered = items if ascending else items[::-1]
    ids = [item["id"] for item in ordered]
    return ordered[ids.index(cursor) + 1 :] if cursor in ids else ordered


def _ascends(page: list[Json]) -> bool:
    first, last = page[0].get("created_at"), page[-1].get("created_at")
    if not isinstance(first, int | float) or not isinstance(last, int | float):
        return False
    return first < last


def event_of(item: Json, born: float) -> Event:
    """Return one event; its metrics are read from the text if ``data`` is empty.

    ``born``: seconds since the epoch, for an event without a time.
    """
    message = redact(str(item.get("message") or ""))
    given = item.get("data")
    data = finite(given) if isinstance(given, dict) else {}
    parsed = {} if data else figures(message)
    kind = "metrics" if parsed else str(item.get("type") or "message")
    time_given = item.get("created_at")
    return Event(
        id=item["id"],
        created_at=time_given if isinstance(time_given, int | float) else born,
        level=_level(item.get("level")),
        type=kind,
        message=message,
        data=data or parsed,
    )


def _level(word: object) -> Literal["info", "warn", "error"]:
    if word == "error":
        return "error"
    return "warn" if word in ("warn", "warning") else "info"


def finite(data: Json) -> Json:
    """Return the data with None for NaN and infinity, which JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in data.items()
    }


NAMES = {
    "training loss": "train_loss",
    "validation loss": "valid_loss",
    "full validation loss": "full_valid_loss",
}


def figures(message: str) -> Json:
    """Return ``Step 300/300: training loss=0.15, validation loss=0.27`` as data."""
    step = re.match(r"Step (\d+)(?:/(\d+))?: ", message)
    if not step:
        return {}
    data: Json = {"step": int(step[1])}
    if step[2]:
        data["total_steps"] = int(step[2])
    for name, value in re.findall(r"([a-z][a-z ]*)=(\d+(?:\.\d+)?(?:e-?\d+)?)", message):
        if name in NAMES:
            data[NAMES[name]] = float(value)
    return data


def checkpoint_of(item: Json) -> Checkpoint | None:
    """Return one checkpoint; None if the host does not give its model or step."""
    model, step = item.get("fine_tuned_model_checkpoint"), item.get("step_number")
    if not isinstance(model, str) or not isinstance(step, int):
        return None
    metrics = item.get("metrics")
    kept = finite(metrics) if isinstance(metrics, dict) else {}
    known = {name: value for name, value in kept.items() if value is not None}
    return Checkpoint(id=item["id"], step=step, model=model, metrics=known)
