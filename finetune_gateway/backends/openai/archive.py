"""What a host keeps of a job, read whole: its events, its files, what was stored of its model.

Pages are handed on as they come, and files piece by piece, so that no size fills the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Literal, TypeVar

from finetune_gateway.backends.openai import bounds, inventory, wire
from finetune_gateway.backends.openai.inventory import Host
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import AuthenticationError, BackendError, MissingScopeError

PIECE = 1 << 16  # bytes of a file that are read at a time

# Why a host does not give something. ``free_account`` and ``purpose`` are refusals of files that
# OpenAI gave to good keys; users have quoted them, and its reference does not name them.
Refusal = Literal["scope", "key", "free_account", "purpose", "not_there", "other"]

T = TypeVar("T")


def events(host: Host, job_id: str) -> inventory.Listing:
    """Return the events of a job, in the host's order: at OpenAI the newest first."""
    what = f"list the events of {job_id}"
    return inventory.Listing(
        host, what, lambda client: client.fine_tuning.jobs.with_raw_response.list_events, job_id
    )


def stored_completions(host: Host, model: str, after: str | None = None) -> inventory.Listing:
    """Return the answers of a model that were kept with ``store=true``, the oldest first.

    ``after``: the id of one of them; those that came later are listed.
    """
    return inventory.Listing(
        host,
        f"list the stored completions of {model}",
        lambda client: client.chat.completions.with_raw_response.list,
        start=after,
        model=model,
        order="asc",
    )


def stored_messages(host: Host, completion_id: str) -> list[wire.Json]:
    """Return the messages that a stored completion was asked with. Raises BackendError."""
    listing = inventory.Listing(
        host,
        f"list the messages of {completion_id}",
        lambda client: client.chat.completions.messages.with_raw_response.list,
        completion_id,
        order="asc",
    )
    with bounds.within():
        return [message for page in listing for message in page]


def download(host: Host, file_id: str, take: Callable[[Iterator[bytes]], T]) -> T:
    """Return what ``take`` makes of the bytes of a file, which come in pieces. Raises BackendError
    for a refusal, a connection that broke and an answer that is no file."""
    what = f"download {file_id}"
    with inventory.scoped(), host.calling(what) as (client, call), ExitStack() as stack:
        content = client.files.with_streaming_response.content
        answer = retried(lambda: stack.enter_context(content(file_id)))
        if answer.headers.get("content-type", "").startswith("text/html"):
            raise wire.undecodable(call)  # the page of a portal
        return take(answer.iter_bytes(PIECE))


def refusal_of(error: BackendError) -> Refusal | None:
    """Return why a host refuses, by its words; None for what may work later: a limit, a fault of
    the server, a connection that broke."""
    words = error.message.lower()
    if isinstance(error, MissingScopeError):
        return "scope"
    if "free account" in words:
        return "free_account"
    if "not allowed to download files of purpose" in words:
        return "purpose"
    if error.not_there:
        return "not_there"
    if isinstance(error, AuthenticationError):
        return "key"
    refused = error.status_code is not None and 400 <= error.status_code < 500
    return "other" if refused and not error.retryable and error.status_code != 404 else None
