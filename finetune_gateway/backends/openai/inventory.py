"""What a host has: its jobs, models, files and checkpoints, as the key of a backend sees them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import openai

from finetune_gateway.backends.openai import bounds, wire
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import AuthenticationError, MissingScopeError

MOST_JOBS = 100  # of a page
MOST_FILES = 10_000  # of a page, by the reference
MISSING_SCOPE = "missing_scope"
_SCOPE = re.compile(r"\b(?:api\.)?[a-z_]+(?:\.[a-z_]+)+\b")

List = tuple[list[wire.Json], bool]  # and True if it was read to its end


class Host(Protocol):
    """The part of an OpenAIBackend that is used here."""

    @property
    def host(self) -> str: ...

    def calling(
        self, what: str, *, doubtful: bool = False, always_doubtful: bool = False
    ) -> AbstractContextManager[tuple[openai.OpenAI, wire.Call]]: ...


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
        raise MissingScopeError(
            exc.message,
            hint=f"Give this key {scope or 'that permission'}, or use a key that has it.",
            backend=exc.backend,
            status_code=exc.status_code,
            scope=scope,
        ) from None


def jobs(host: Host) -> List:
    """Return the fine-tuning jobs, newest first. Raises BackendError, MissingScopeError."""
    return _listed(
        host,
        "list the jobs",
        lambda client: client.fine_tuning.jobs.with_raw_response.list,
        limit=MOST_JOBS,
    )


def files(host: Host) -> List:
    """Return all files, whatever their purpose. Raises BackendError, MissingScopeError."""
    return _listed(
        host,
        "list the files",
        lambda client: client.files.with_raw_response.list,
        limit=MOST_FILES,
    )


def checkpoints(host: Host, job_id: str) -> List:
    """Return the checkpoints of a job, as the host orders them. Raises BackendError,
    MissingScope."""
    return _listed(
        host,
        f"list the checkpoints of {job_id}",
        lambda client: client.fine_tuning.jobs.checkpoints.with_raw_response.list,
        job_id,
        limit=MOST_JOBS,
    )


def models(host: Host) -> List:
    """Return the models, which come on one page. Raises BackendError, MissingScopeError."""
    with scoped(), host.calling("list the models") as (client, call):
        page = wire.read(retried(client.models.with_raw_response.list), call)
        if not isinstance(page.get("data"), list):
            raise wire.undecodable(call, wire.error_of(page) or "")
        found = [one for one in page["data"] if isinstance(one, dict)]
        whole = not page.get("has_more") and not page.get("error")
        return found, whole and len(found) == len(page["data"])


def _listed(
    host: Host,
    what: str,
    resource: Callable[[openai.OpenAI], Callable[..., Any]],
    *args: str,
    limit: int,
) -> List:
    with scoped(), host.calling(what) as (client, call), bounds.within():
        ask = resource(client)

        def fetch(after: str | None) -> wire.Answer:
            answer: wire.Answer = retried(ask, *args, limit=limit, after=after or openai.omit)
            return answer

        pages = wire.Pages(fetch, call)
        return [item for page in pages for item in page], pages.complete
