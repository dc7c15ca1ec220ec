"""OpenAI's wire contract in our words: errors, pages, job states, events, checkpoints.

Knows the SDK's exceptions and the JSON of the contract; sends nothing. Answers are read as plain
dicts, because hosts that speak the contract leave out fields, add states, and send ``error: {}``
on healthy jobs.
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

MAX_PAGES = 50  # of 100; ends a list whose server ignores ``after``
SHOWN = 500  # characters of a provider's message

# What a call through the SDK can end with beside an answer. ``json.JSONDecodeError``,
# ``UnicodeDecodeError`` and ``RecursionError`` leave it unwrapped when a 200 is not JSON.
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
    """One request as an error has to speak of it."""

    what: str  # "create the job"
    backend: str
    host: str
    key: str | None = None  # only to take it out of messages
    doubtful: bool = False  # may it have taken effect when no answer came back?
    always_doubtful: bool = False  # looks for an earlier request that may have taken effect


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

# Codes that say more than their status does.
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
    """The SDK's exception as ours; status before text, and never with a key in it."""
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
        return _error(call, f"{call.host} broke off: {_said(exc)}", SERVER)
    return undecodable(call)


def undecodable(call: Call, said: str = "") -> BackendError:
    """An answer with a good status that is not what the contract promises."""
    detail = f" It said: {said}" if said else ""
    message = f"{call.host} did not answer in OpenAI's format to {call.what}.{detail}"
    hint = "Is base_url right (it usually ends in /v1), and no proxy in between?"
    return _error(call, message, Rule(hint, maybe_applied=True, retryable=True))


def _from_status(exc: openai.APIStatusError, call: Call) -> BackendError:
    status, code = exc.status_code, exc.code
    rule = CODES.get(code or "") or RULES.get(status) or _by_class(status)
    said = WORDS.get(code or "") or _said(exc)
    if 300 <= status < 400:
        said = f"it redirects to {urlsplit(exc.response.headers.get('location', '')).netloc!r}"
    field = f" (field {exc.param})" if exc.param else ""
    message = f"{call.host} refused to {call.what} ({status}): {said.rstrip('.')}{field}."
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
    asked = f" It asks to wait {wait} s." if wait and wait.isdigit() else ""
    return kind(
        redact(message, call.key),
        hint=(rule.hint + asked).strip(),
        backend=call.backend,
        status_code=status,
        code=code,
        maybe_applied=call.always_doubtful or (call.doubtful and rule.maybe_applied),
        retryable=rule.retryable,
    )


def _said(exc: openai.APIError) -> str:
    """The provider's own words, short and on one line."""
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
    """Without control characters, which a terminal would obey, and at most 500 characters."""
    clean = "".join(char if char.isprintable() else " " for char in text).strip()
    return clean if len(clean) <= SHOWN else f"{clean[:SHOWN]}..."


def redact(text: str, key: str | None = None) -> str:
    """The text without anything that looks like a key, and without ``key`` itself."""
    if key:
        text = text.replace(key, "[key]")
    text = re.sub(r"(?i)bearer\s+[^\s\"',]+", "Bearer [key]", text)
    return re.sub(r"\bsk-[\w*-]{4,}", "[key]", text)


# Pages


def plain(answer: object) -> Json | None:
    """An SDK object as a plain dict; None when the host sent no object at all."""
    if not isinstance(answer, openai.BaseModel):
        return None
    return answer.to_dict(mode="json", warnings=False)


def id_of(answer: Json | None, call: Call) -> str:
    """Return the id of what was created. Raises BackendError if the answer has none."""
    found = (answer or {}).get("id")
    if not isinstance(found, str) or not found:
        raise undecodable(call, said=error_of(answer or {}) or "")
    return found


def pages(
    fetch: Callable[[str | None], object], call: Call, limit: int = MAX_PAGES
) -> Iterator[list[Json]]:
    """The pages of a list, each item once, at most ``limit`` of them.

    Ends when a page brings nothing new: a server that ignores ``after`` and leaves out
    ``has_more`` is paged for ever by the SDK's own iteration.
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
    """The item with an id; one made of its content where the host gives none."""
    found = item if isinstance(item, dict) else {"message": str(item)}
    if isinstance(found.get("id"), str) and found["id"]:
        return found
    made = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()[:24]
    return {**found, "id": f"made-{made}"}


# Jobs

# Words of Azure and its tools beside OpenAI's six.
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
    """The job's status; a word nobody knows becomes ``unknown``, which is never final."""
    raw = job.get("status")
    if not isinstance(raw, str):
        return JobStatus.UNKNOWN
    return STATES.get(raw) or JobStatus.parse(raw)


def moment(value: object) -> float | None:
    """Seconds since the epoch; None where the host gives none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value) if value > 0 else None


def error_of(job: Json) -> str | None:
    """Why the job failed. ``error: {}`` stands on healthy jobs and is no error."""
    error = job.get("error")
    if isinstance(error, str):
        return redact(one_line(error)) or None
    if not isinstance(error, dict):
        return None
    code, message = error.get("code"), error.get("message")
    text = ": ".join(str(part) for part in (code, message) if part)
    return redact(one_line(text)) or None


# Events


def events_after(found: Iterator[list[Json]], cursor: str | None) -> list[Json]:
    """The events newer than the one named by ``cursor``, oldest first.

    Newest first is the contract, so reading stops at the cursor; a host that lists oldest
    first is told by its times and read to the end.
    """
    items: list[Json] = []
    ascending = False
    for number, page in enumerate(found):
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
    """One event; its figures are read out of the text where ``data`` is empty.
    ``born``: seconds since the epoch for an event without a time."""
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
    """The data with NaN and infinities as None: they are no JSON."""
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
    """``Step 300/300: training loss=0.15, validation loss=0.27`` as data."""
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
    """One checkpoint, or None when the host did not say which model or step it is."""
    model, step = item.get("fine_tuned_model_checkpoint"), item.get("step_number")
    if not isinstance(model, str) or not isinstance(step, int):
        return None
    metrics = item.get("metrics")
    kept = finite(metrics) if isinstance(metrics, dict) else {}
    known = {name: value for name, value in kept.items() if value is not None}
    return Checkpoint(id=item["id"], step=step, model=model, metrics=known)
