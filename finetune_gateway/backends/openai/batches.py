"""Batches of chats at a host: a file of requests, answered within a day for half the price.

A batch is bought once, as a job is: its key is among its metadata, and by it a batch is found whose
create was not answered.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import openai

from finetune_gateway.backends.openai import bounds, wire
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import BackendError, raise_alone
from finetune_gateway.text.cleaning import whole

if TYPE_CHECKING:
    from finetune_gateway.backends.openai.backend import OpenAIBackend

# openai 3.54.0, batch_create_params.py: 50,000 requests, 200 MB, 24 h; and the id of a request may
# have 64 characters.
MOST_LINES, MOST_BYTES = 50_000, 200_000_000
PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
TAG = "ftg_batch"  # the key in a batch's metadata that holds our own
UPLOAD_RATE = 1e6  # bytes per second; slower uploads time out
FINAL = frozenset({"completed", "expired", "cancelled", "failed"})


def request_line(custom_id: str, body: wire.Json) -> bytes:
    """Return the line of a request. ``body`` has the model in it."""
    line = {"custom_id": custom_id, "method": "POST", "url": PATH, "body": body}
    return json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def upload(host: OpenAIBackend, path: Path) -> str:
    """Send a file of requests under its own name; return its id at the host."""
    size = path.stat().st_size
    seconds = host.request_timeout + size / UPLOAD_RATE
    whole_time = bounds.within(bounds.READS * host.request_timeout + size / UPLOAD_RATE)
    with host.calling("upload the batch", doubtful=True) as (client, call), whole_time:
        with path.open("rb") as raw:
            files = client.files.with_raw_response
            part = (path.name, raw, "application/jsonl")
            answer = files.create(file=part, purpose="batch", timeout=seconds)
        return wire.id_of(wire.read(answer, call), call)


def find_upload(host: OpenAIBackend, path: Path) -> str | None:
    """Return the id of a file that was sent before, by its name, which no other has, and size."""
    with host.calling("list the files", always_doubtful=True) as (client, call), bounds.within():

        def fetch(after: str | None) -> wire.Answer:
            files = client.files.with_raw_response
            return retried(files.list, purpose="batch", limit=100, after=after or openai.omit)

        listed = [file for page in wire.Pages(fetch, call) for file in page]
    size = path.stat().st_size
    ours = (file for file in listed if file.get("filename") == path.name)
    same = (file for file in ours if whole(file.get("bytes")) in (None, size))
    return next(filter(None, map(wire.usable_id, same)), None)


def create(host: OpenAIBackend, file_id: str, key: str) -> str:
    """Create a batch once, and return its id. ``BackendError.maybe_applied`` says if it may
    exist."""
    with host.calling("create the batch", doubtful=True) as (client, call):
        answer = client.batches.with_raw_response.create(
            completion_window="24h",
            endpoint=PATH,
            input_file_id=file_id,
            metadata={TAG: key},
        )
        return wire.id_of(wire.read(answer, call), call)


def find(host: OpenAIBackend, key: str, file_id: str) -> str | None:
    """Return the id of the batch with this key or, where the host keeps no metadata, of this file,
    which no other batch has; None only if the whole list shows that there is none. Raises
    BackendError."""
    can_tell = True
    with host.calling("list the batches", always_doubtful=True) as (client, call), bounds.within():

        def fetch(after: str | None) -> wire.Answer:
            listed = client.batches.with_raw_response.list
            return retried(listed, limit=100, after=after or openai.omit)

        pages = wire.Pages(fetch, call)
        for page in pages:
            for one in page:
                tag, file = wire.object_of(one.get("metadata")).get(TAG), one.get("input_file_id")
                if key == tag or file_id == file:
                    return wire.id_of(one, call)
                can_tell = can_tell and bool(tag or file)
    if pages.complete and can_tell:
        return None
    lacks = "all batches" if can_tell else "of which file each batch is"
    raise BackendError(
        f"{host.host} did not list {lacks}, so one whose answer was lost may be there.",
        hint=f"Run the same command again, or look there for {TAG}={key}.",
        backend=host.name,
        maybe_applied=True,
        retryable=True,
    )


def require_sight(host: OpenAIBackend, file_id: str) -> None:
    """Raise BackendError unless the key at hand sees a file of its own account: the list of another
    account proves nothing."""
    try:
        with host.calling(f"look for the file {file_id}", always_doubtful=True) as (client, call):
            wire.read(retried(client.files.with_raw_response.retrieve, file_id), call)
    except BackendError as exc:
        if not exc.not_there:
            raise
        error = BackendError(
            f"T{host.key_words[1:]} does not see the file {file_id}, of which a batch may "
            "have been made.",
            hint="Use the key that has sent it.",
            backend=host.name,
            maybe_applied=True,
        )
        raise_alone(error)


def retrieve(host: OpenAIBackend, batch_id: str) -> wire.Json:
    """Return a batch as it is now. Raises BackendError."""
    with host.calling(f"look at the batch {batch_id}") as (client, call):
        body = wire.read(retried(client.batches.with_raw_response.retrieve, batch_id), call)
        if body.get("id") != batch_id:
            raise wire.undecodable(call, wire.error_of(body) or "")
        return body


def results(host: OpenAIBackend, batch: wire.Json) -> Iterator[tuple[str, wire.Json]]:
    """Yield the id of each request that a batch says something about, and what: of its output file
    first, then of its error file. Raises BackendError for a file that cannot be read whole."""
    for name in ("output_file_id", "error_file_id"):
        file_id = wire.text_of(batch.get(name))
        if file_id is not None:
            yield from _lines(host, file_id)


def _lines(host: OpenAIBackend, file_id: str) -> Iterator[tuple[str, wire.Json]]:
    with host.calling("download what a batch has answered") as (client, call):
        content = client.files.with_streaming_response.content
        with content(wire.id_of({"id": file_id}, call)) as answer:
            for raw in filter(bytes.strip, _split(answer.iter_bytes(1 << 16))):
                line = wire.read(_Line(raw), call)
                if name := wire.text_of(line.get("custom_id")):
                    yield name, line


class _Line:
    """One line of a file, read as an answer is."""

    def __init__(self, raw: bytes) -> None:
        self.content = raw


def _split(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the lines of a file that comes in pieces. Raises Endless for a line without an end."""
    rest = bytearray()
    for piece in pieces:
        first, *lines = piece.split(b"\n")
        rest += first
        if len(rest) > bounds.LONGEST_CHAT:
            raise bounds.Endless(f"{bounds.LONGEST_CHAT // 10**6} MB")
        for line in lines:
            yield bytes(rest)
            rest = bytearray(line)
    yield bytes(rest)


def refusal_of(batch: wire.Json) -> str:
    """Return why a batch was refused, in the host's words; empty if it was not."""
    if batch.get("status") != "failed":
        return ""
    errors = wire.list_of(wire.object_of(batch.get("errors")).get("data"))
    said = [wire.error_of({"error": one}) for one in errors[:3]]
    return "; ".join(filter(None, said)) or "no reason was given"
