"""OpenAI's wire contract as our types: errors, answers, pages, job states.

Knows the SDK's exceptions and the JSON of the contract; sends nothing. Answers are read from their
bytes as plain dicts, because hosts of this contract leave out fields, add states, send
``error: {}`` with healthy jobs, and values that no model of the SDK can hold: see ``read``.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2
import openai

from finetune_gateway.backend import NOT_DEPLOYED
from finetune_gateway.backends.openai.bounds import Endless, last_request_id
from finetune_gateway.backends.openai.retries import asked_wait
from finetune_gateway.errors import AuthenticationError, BackendError, raise_alone
from finetune_gateway.events import JobStatus
from finetune_gateway.settings.network import Proxy, hidden
from finetune_gateway.text.cleaning import clean, visible
from finetune_gateway.text.quoting import duration
from finetune_gateway.text.redaction import holds, redact, without, without_in

Json = dict[str, Any]

MAX_PAGES = 50  # of 100; for a server that ignores ``after``
SHOWN = 500  # characters of a provider's message
LONGEST_INTEGER = 20  # digits; longer ones need more than 64 bits, and Python refuses 4,301

# What a call of the SDK can raise.
FAILURES = (openai.OpenAIError, httpx2.HTTPError, httpx2.StreamError)

# Ids become a part of addresses: printable ASCII, without what an address gives a meaning.
ID = re.compile(r"(?!\.{1,2}$)[^\x00-\x20\x7f-\U0010ffff/?#%\\]{1,256}")

# The connection was never made, so nothing was sent.
NEVER_SENT = (
    httpx2.ConnectError,
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.LocalProtocolError,
)

# What making a client raises for a proxy variable or a certificate path that cannot be used.
NOT_CONNECTABLE = (ImportError, ValueError, OSError, httpx2.InvalidURL)
NEW_JOB = re.compile(r"/fine_tuning/jobs/[^/?#]+")  # where 301 and 302 mean See Other


@dataclass(frozen=True)
class Call:
    """One request, as errors describe it."""

    what: str  # "create the job"
    backend: str
    host: str
    key_words: str = "the key"  # which one, and where it is from
    key: str | None = None  # only to remove it from messages
    proxy: Proxy | None = None  # on the way to the host
    doubtful: bool = False  # True if it may take effect although no answer comes back
    always_doubtful: bool = False  # True if it looks for an earlier request that may have done so

    @property
    def way(self) -> str:
        """Return `` through the proxy http://proxy:3128 (HTTPS_PROXY)``; empty without one."""
        return f" through the proxy {self.proxy.shown}" if self.proxy else ""


# Errors


@dataclass(frozen=True)
class Rule:
    """What an HTTP status means for a request that was sent."""

    hint: str = ""
    maybe_applied: bool = False
    retryable: bool = False
    authentication: bool = False


RULES = {
    401: Rule("Check {key} and the account it belongs to.", authentication=True),
    403: Rule("Use a key that may: {key}, or its organisation, may not.", authentication=True),
    # See Other: it was taken, and something else is to be read.
    303: Rule("Set base_url to the address it redirects to.", maybe_applied=True),
    408: Rule("Try again later.", maybe_applied=True, retryable=True),
    409: Rule("Try again later.", maybe_applied=True, retryable=True),
    413: Rule("Send a smaller file."),
    407: Rule("That is the proxy: it wants a user and a password, http://USER:PASSWORD@HOST:PORT."),
    420: Rule("Try again later.", retryable=True),
    425: Rule("Try again later.", retryable=True),
    429: Rule("Try again later.", retryable=True),
}
# 409 or 503 that says when to ask again, in the contract's own words: the host itself has turned
# the request away. Without these a server in between may have answered after it was passed on.
# So does 400 or 403 that says when, or that there were too many requests.
TURNED_AWAY = Rule("Try again later.", retryable=True)
REDIRECT = Rule("The key is not sent to another host; set base_url to the right one.")
REFUSED = Rule("Change what it names, then try again.")
SERVER = Rule("Try again later.", maybe_applied=True, retryable=True)
STRANGE = Rule(
    "Is base_url right (it usually ends in /v1), and no proxy in between?",
    maybe_applied=True,
    retryable=True,
)

# Codes that say more than their status.
CODES = {
    "training_not_available": Rule(
        "Use another host of the same contract (base_url=...), or your own GPU (--backend local).",
        authentication=True,
    ),
    NOT_DEPLOYED: Rule("Deploy the model: ftg deploy JOB; or name one: ftg chat JOB --model NAME."),
    "insufficient_quota": Rule("Add credit or raise the limit of that account."),
    "billing_not_active": Rule("Add credit or a way to pay to that account."),
    "billing_hard_limit_reached": Rule("Add credit or raise the limit of that account."),
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
            f"Could not reach {call.host}{call.way}: {_reason(cause, call)}.",
            Rule(_way_out(call) or "Check the address and the network.", retryable=True),
        )
    if isinstance(cause, Endless):
        text = f"{call.host} did not end its answer to {call.what}: it was cut off after {cause}."
        return _error(call, text, STRANGE)
    if isinstance(cause, httpx2.TimeoutException):
        return _error(call, f"{call.host} did not answer in time to {call.what}{call.way}.", SERVER)
    if isinstance(cause, httpx2.HTTPError | openai.APIConnectionError):
        return _error(
            call, f"The connection to {call.host}{call.way} broke ({_reason(cause, call)}).", SERVER
        )
    if type(exc) is openai.APIError:  # an error inside a stream
        return _error(call, f"{call.host} broke off: {_provider_message(exc, call)}", SERVER)
    return undecodable(call)


def not_connectable(exc: BaseException, call: Call) -> BackendError:
    """Return an error for a client that could not be made: nothing was sent."""
    why = _reason(exc, call).rstrip(".")
    reason = f"Nothing was sent: no connection to {call.host}{call.way} can be made: {why}."
    rule = Rule(f"{_way_out(call)} Check SSL_CERT_FILE and SSL_CERT_DIR.".strip())
    return _error(call, reason, rule, asked=False)


def _way_out(call: Call) -> str:
    """Return what to do about a proxy that does not work; empty without one."""
    if call.proxy is None:
        return ""
    host = call.host.rpartition(":")[0] or call.host
    named = call.proxy.variable or "the proxy of this system"
    return f"Check {named}, or go around that proxy: NO_PROXY={host}."


def undecodable(call: Call, error: str = "") -> BackendError:
    """Return an error for an answer with a good status that does not follow the contract."""
    detail = f" It said: {error}" if error else ""
    message = f"{call.host} did not answer in OpenAI's format to {call.what}.{detail}"
    return _error(call, message, STRANGE)


def _from_status(exc: openai.APIStatusError, call: Call) -> BackendError:
    status, code, param = exc.status_code, text_of(exc.code), text_of(exc.param)
    wait = asked_wait(exc.response.headers)
    rule = CODES.get(code or "") or RULES.get(status) or _by_class(status)
    if _turns_away(exc, wait):
        rule = TURNED_AWAY
    reason = WORDS.get(code or "") or _provider_message(exc, call)
    if 300 <= status < 400:
        location = without(exc.response.headers.get("location", ""), call.key)
        reason = f"it redirects to {_host_in(location)!r}"
        rule = RULES[303] if status < 303 and NEW_JOB.search(location) else rule
    field = f" (field {param})" if param else ""
    message = f"{call.host} refused to {call.what} ({status}): {reason.rstrip('.')}{field}."
    # A page of a server in between is no word of the host about a job.
    missing = status == 404 and _has_error(exc.response.content)
    return _error(call, message, rule, status=status, code=code, wait=wait, missing=missing)


def _turns_away(exc: openai.APIStatusError, wait: float | None) -> bool:
    """Return True if the host takes the request later, and has not taken it now."""
    if exc.status_code in (409, 503):
        return wait is not None and _has_error(exc.response.content)
    code = text_of(exc.code)
    later = code == "rate_limit_exceeded" or (wait is not None and code not in CODES)
    return exc.status_code in (400, 403) and later


def _has_error(content: bytes) -> bool:
    """Return True for an error in the contract's form, with words."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(object_of(object_of(body).get("error")).get("message"), str)


def _host_in(location: str) -> str:
    try:
        return hidden(urlsplit(location).netloc)
    except ValueError:  # brackets that hold no address
        return hidden(location)


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
    wait: float | None = None,
    missing: bool = False,
    asked: bool = True,
) -> BackendError:
    kind = AuthenticationError if rule.authentication else BackendError
    asks = [f"It asks to wait {duration(wait)}."] if rule.retryable and wait is not None else []
    return kind(
        redact(visible(message), call.key),
        hint=" ".join([rule.hint.replace("{key}", call.key_words), *asks]).strip(),
        backend=call.backend,
        status_code=status,
        code=code and without(code, call.key),
        maybe_applied=call.always_doubtful or (call.doubtful and rule.maybe_applied),
        retryable=rule.retryable,
        retry_after=wait if rule.retryable else None,
        not_there=missing,
        request_id=last_request_id() if asked else None,
    )


def _provider_message(exc: openai.APIError, call: Call) -> str:
    """Return the provider's message, short and on one line."""
    body = exc.body
    if isinstance(body, dict):
        words = body.get("message") or body.get("detail") or body
        text = words if isinstance(words, str) else json.dumps(words)
    else:
        text = "no reason in OpenAI's format" if "<" in exc.message else exc.message
    return one_line(without(text, call.key))  # before it is cut


def _reason(cause: BaseException, call: Call) -> str:
    said = call.proxy.hide(str(cause)) if call.proxy else str(cause)
    return one_line(without(said, call.key)) or type(cause).__name__


def one_line(text: str) -> str:
    """Return the text on one line, its control characters as escapes, cut at 500 characters."""
    line = " ".join(visible(text).split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}..."


# Answers


class Answer(Protocol):
    """An answer of the SDK before it is read."""

    @property
    def content(self) -> bytes: ...


def read(answer: Answer, call: Call) -> Json:
    """Return an answer as a plain dict that can be stored and shown: see ``safe``. Raises
    BackendError if it is no JSON object."""
    value = parsed(answer.content, call)
    if not isinstance(value, dict):
        raise undecodable(call)
    return safe(value, answer.content, call)


def parsed(raw: bytes, call: Call) -> Any:
    """Return the JSON of an answer, or of a piece of one. Raises BackendError if it is none."""
    try:
        return _DECODER.decode(raw.decode("utf-8", "replace").removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        raise_alone(undecodable(call))


def safe(value: Json, raw: bytes, call: Call) -> Json:
    """Return an answer as it can be stored and shown: see ``cleaning.clean``, and without the key,
    which a host may echo. ``raw``: its bytes, in which that is looked for."""
    has_key = call.key and holds(raw, call.key)
    return object_of(without_in(clean(value), call.key) if has_key else clean(value))


def _integer(digits: str) -> int | None:
    return int(digits) if len(digits) <= LONGEST_INTEGER else None


_DECODER = json.JSONDecoder(parse_int=_integer, strict=False)


def text_of(value: object) -> str | None:
    """Return a text that is not empty; None for anything else."""
    return clean(value) if isinstance(value, str) and value else None


def object_of(value: object) -> Json:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def list_of(value: object) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def id_of(item: Json, call: Call) -> str:
    """Return the id of a job or a file. Raises BackendError if there is none that an address can
    have in it."""
    given = usable_id(item)
    if given is None:
        raise undecodable(call, error_of(item) or "")
    return given


def usable_id(item: Json) -> str | None:
    """Return the id of a job or a file; None if there is none that an address can have in it."""
    given = item.get("id")
    return given if isinstance(given, str) and ID.fullmatch(given) else None


# Pages


class Pages:
    """The pages of a list, at most ``limit``, each item once. ``complete``: read to its end.

    ``same``: gives what two items that are one have in common. Ends after a page with nothing new:
    the SDK's own iteration never ends with a server that ignores ``after`` and leaves out
    ``has_more``.
    """

    def __init__(
        self,
        fetch: Callable[[str | None], Answer],
        call: Call,
        limit: int = MAX_PAGES,
        same: Callable[[Json], str] | None = None,
    ) -> None:
        self.complete = False
        self._fetch = fetch
        self._call = call
        self._limit = limit
        self._same = same or key_of

    def __iter__(self) -> Iterator[list[Json]]:
        after: str | None = None
        seen: set[str] = set()
        readable = True
        for _ in range(self._limit):
            page = read(self._fetch(after), self._call)
            items = page.get("data")
            if not isinstance(items, list):
                raise undecodable(self._call, error_of(page) or "")
            objects = [as_item(item) for item in items if item is not None]
            fresh = {key: item for item in objects if (key := self._same(item)) not in seen}
            # A page that only repeats what was there shows that ``after`` is ignored.
            more = page.get("has_more")
            ended = more is False or (not items and not more)
            readable = readable and _is_readable(page)
            self.complete = ended and readable
            if fresh:
                yield [*fresh.values()]
            seen.update(fresh)
            ids = [text_of(item.get("id")) for item in fresh.values()]
            after = next((one for one in reversed(ids) if one), None)
            if after is None or ended:
                return


def _is_readable(page: Json) -> bool:
    """Return False for a page that may lack items: it has empty ones, or an error, does not say
    whether there is more, or names a next page in a way that is not the contract's."""
    more = page.get("has_more", False)
    next_page = any(value for name, value in page.items() if name.lower().startswith("next"))
    cut = page.get("error") or None in page["data"] or (next_page and not more)
    return isinstance(more, bool) and not cut


def as_item(item: Any) -> Json:
    """Return an item of a list; one that is no object becomes a message."""
    return item if isinstance(item, dict) else {"message": str(item)}


def key_of(item: Json) -> str:
    """Return the item's id, or one made from its content if the host gives none."""
    digest = hashlib.sha256(json.dumps(item, sort_keys=True).encode()).hexdigest()[:24]
    return text_of(item.get("id")) or f"made-{digest}"


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
