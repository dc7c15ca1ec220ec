"""What a host has: its jobs, models, files and checkpoints, as the key of a backend sees them.

Each function asks once, within a call's own retries; ``again`` asks again after an answer that was
lost or cut off. ``RequestCount`` counts the requests.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import openai
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from finetune_gateway.backends.openai import bounds, retries, wire
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import (
    AuthenticationError,
    BackendError,
    MissingScopeError,
    asked_wait,
    raise_alone,
)

MOST_JOBS = 100  # of a page
MOST_PAGES = 10_000  # of a list that is handed on page by page
MOST_FILES = 10_000  # of a page, by OpenAI's reference
MISSING_SCOPE = "missing_scope"
ROUNDS = 5  # in which one question is asked
LONGEST_WAIT = 60.0  # seconds; a host that asks for more is not asked again
_SCOPE = re.compile(r"\b[a-z_]+(?:\.[a-z_]+)+\b")

List = tuple[list[wire.Json], bool]  # and True if it was read to its end
T = TypeVar("T")


class Host(Protocol):
    """The part of an OpenAIBackend that is used here."""

    @property
    def host(self) -> str: ...

    @property
    def profile_name(self) -> str: ...

    def calling(
        self, what: str, *, doubtful: bool = False, always_doubtful: bool = False
    ) -> AbstractContextManager[tuple[openai.OpenAI, wire.Call]]: ...


@dataclass
class RequestCount:
    """How many requests were sent, counted by several threads."""

    requests: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, ask: Callable[..., T]) -> Callable[..., T]:
        """Return the function, each call of which is counted."""

        def counted(*args: Any, **kwargs: Any) -> T:
            with self._lock:
                self.requests += 1
            return ask(*args, **kwargs)

        return counted


def jobs(host: Host, count: RequestCount | None = None) -> List:
    """Return the fine-tuning jobs, newest first. Raises BackendError, MissingScopeError."""
    return _listed(
        host,
        "list the jobs",
        lambda client: client.fine_tuning.jobs.with_raw_response.list,
        limit=MOST_JOBS,
        count=count,
    )


def files(host: Host, count: RequestCount | None = None) -> List:
    """Return all files, whatever their purpose. Raises BackendError, MissingScopeError."""
    return _listed(
        host,
        "list the files",
        lambda client: client.files.with_raw_response.list,
        limit=MOST_FILES if host.profile_name == "openai" else MOST_JOBS,
        count=count,
    )


def checkpoints(host: Host, job_id: str, count: RequestCount | None = None) -> List:
    """Return the checkpoints of a job, as the host orders them. Raises as ``jobs``."""
    return _listed(
        host,
        f"list the checkpoints of {job_id}",
        lambda client: client.fine_tuning.jobs.checkpoints.with_raw_response.list,
        job_id,
        limit=MOST_JOBS,
        count=count,
    )


def models(host: Host, count: RequestCount | None = None) -> List:
    """Return the models, which come on one page. Raises as ``jobs``."""
    with scoped(), host.calling("list the models") as (client, call):
        ask = counted(client.models.with_raw_response.list, count)
        page = wire.read(retried(ask), call)
        if not isinstance(page.get("data"), list):
            raise wire.undecodable(call, wire.error_of(page) or "")
        found = [one for one in page["data"] if isinstance(one, dict)]
        whole = not page.get("has_more") and not page.get("error")
        return found, whole and len(found) == len(page["data"])


def model(host: Host, name: str, count: RequestCount | None = None) -> wire.Json:
    """Return a model by its id, listed or not. Raises as ``jobs``: with ``not_there`` for one that
    the host says it does not have, which may be one that this key may not see."""
    with scoped(), host.calling(f"look for the model {name}") as (client, call):
        ask = counted(client.models.with_raw_response.retrieve, count)
        found = wire.read(retried(ask, name), call)
        if found.get("id") != name:
            raise wire.undecodable(call, wire.error_of(found) or "")
        return found


def _listed(
    host: Host,
    what: str,
    resource: Callable[[openai.OpenAI], Callable[..., Any]],
    *args: str,
    limit: int,
    count: RequestCount | None,
) -> List:
    listing = Listing(host, what, resource, *args, most=wire.MAX_PAGES, count=count, limit=limit)
    with bounds.within():
        return [item for page in listing for item in page], listing.complete


class Listing:
    """The items of a list, page by page. ``complete``: True once it was read to its end.

    ``start``: the id after which the list is read. ``most``: pages. ``query``: parameters of each.
    Reading it raises BackendError, MissingScopeError.
    """

    def __init__(
        self,
        host: Host,
        what: str,
        resource: Callable[[openai.OpenAI], Callable[..., Any]],
        *args: str,
        start: str | None = None,
        most: int = MOST_PAGES,
        count: RequestCount | None = None,
        **query: Any,
    ) -> None:
        self.complete = False
        self._host = host
        self._what = what
        self._resource = resource
        self._args = args
        self._start = start
        self._most = most
        self._count = count
        self._query = {"limit": MOST_JOBS, **query}

    def __iter__(self) -> Iterator[list[wire.Json]]:
        with scoped(), self._host.calling(self._what) as (client, call):
            ask = counted(self._resource(client), self._count)

            def fetch(after: str | None) -> wire.Answer:
                since = after or self._start or openai.omit
                answer: wire.Answer = retried(ask, *self._args, after=since, **self._query)
                return answer

            pages = wire.Pages(fetch, call, self._most)
            yield from pages
            self.complete = pages.complete


def counted(ask: Callable[..., T], count: RequestCount | None) -> Callable[..., T]:
    """Return the function, each call of which is counted."""
    return ask if count is None else count.count(ask)


@contextmanager
def scoped() -> Iterator[None]:
    """Raise MissingScopeError for a refusal of the host that says so, with 401 or 403."""
    try:
        yield
    except AuthenticationError as exc:
        if exc.code != MISSING_SCOPE:
            raise
        found = _SCOPE.search(exc.message.partition("scopes")[2])
        scope = found[0] if found else ""
        error = MissingScopeError(
            exc.message,
            hint=f"Give this key {scope or 'that permission'}, or use a key that has it.",
            backend=exc.backend,
            status_code=exc.status_code,
            scope=scope,
        )
        raise_alone(error)


def again(ask: Callable[[], T]) -> T:
    """Return what a question is answered with, asked again if its answer was lost, cut off or put
    off, a few times. Raises what the last one raised."""
    asking = Retrying(
        retry=retry_if_exception(_is_worth_asking),
        wait=_pause,
        stop=stop_after_attempt(ROUNDS),
        reraise=True,
    )
    return asking(ask)


def _is_worth_asking(exc: BaseException) -> bool:
    return isinstance(exc, BackendError) and exc.retryable and asked_wait(exc) <= LONGEST_WAIT


def _pause(state: RetryCallState) -> float:
    exc = state.outcome.exception() if state.outcome else None
    return asked_wait(exc) or retries.BACKOFF(state)
