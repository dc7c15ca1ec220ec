"""What a host stores for us: uploads, which are sent, listed, deleted or expire, and models."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import openai

from finetune_gateway.backends.openai import bounds, finding, request, wire
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.errors import BackendError, SpecError, UnsupportedError
from finetune_gateway.settings import config
from finetune_gateway.text.cleaning import moment

if TYPE_CHECKING:
    from finetune_gateway.backend import DataFile
    from finetune_gateway.estimation.profiles import Profile
    from finetune_gateway.settings.home import Settings

UPLOAD_RATE = 1e6  # bytes per second; slower uploads time out
SETTING = "hosts.uploads_expire_seconds"
ASKED = 3  # times at most, for one delete
Kind = Literal["file", "model"]


class Host(Protocol):
    """The part of an OpenAIBackend that is used here."""

    profile: Profile
    request_timeout: float

    @property
    def host(self) -> str: ...

    def upload_lifetime(self) -> float | None: ...

    def cannot_delete(self, what: str) -> UnsupportedError: ...

    def calling(
        self, what: str, *, doubtful: bool = False, always_doubtful: bool = False
    ) -> AbstractContextManager[tuple[openai.OpenAI, wire.Call]]: ...


def kinds(profile: Profile) -> frozenset[Kind]:
    """Return what the host is documented to delete when asked."""
    sources: dict[Kind, str] = {"file": profile.deletes_files, "model": profile.deletes_models}
    return frozenset(kind for kind, source in sources.items() if source)


# -- uploads -----------------------------------------------------------------------------------


def upload(host: Host, file: DataFile) -> str:
    """Send a file under a name made from its content; return its id."""
    expiry = _expiry(host.upload_lifetime())
    seconds = file.bytes / UPLOAD_RATE
    whole = bounds.within(bounds.READS * host.request_timeout + seconds)
    with host.calling("upload the file", doubtful=True) as (client, call), whole:
        files = client.files.with_raw_response
        with file.path.open("rb") as raw:
            content = request.file_content(raw, host.profile)
            part = (request.file_name(file), content, "application/jsonl")
            timeout = host.request_timeout + seconds
            answer = files.create(
                file=part, purpose="fine-tune", expires_after=expiry, timeout=timeout
            )
        uploaded = wire.read(answer, call)
        file_id = wire.id_of(uploaded, call)
        if not finding.is_uploaded(uploaded, file):
            raise wire.undecodable(call, wire.error_of(uploaded) or "")
        return file_id


def find_upload(host: Host, file: DataFile) -> str | None:
    """Return the id of a file with this content, by its name and, where the host shows it, its
    size: of an upload that broke off a host may keep what had come. Azure may count the mark."""
    sizes = (file.bytes, file.bytes + len(request.BOM))
    listed, _ = list_files(host)
    same_size = [one for one in listed if one.get("bytes") is None or one["bytes"] in sizes]
    return next(iter(finding.uploads(same_size, file)), None)


def find_uploads(host: Host, file: DataFile, since: float, until: float) -> list[str]:
    """Return the ids of all files with the name of this content, whatever has become of them, that
    the host does not show to be older or younger. Raises BackendError for a list with an end
    missing."""
    listed, whole = list_files(host)
    if not whole:
        raise BackendError(
            f"{host.host} did not list all files, so an upload whose answer was lost may be there.",
            hint=f"Run the same command again, or look there for {request.file_name(file)}",
            backend="openai",
            retryable=True,
        )
    ours = [one for one in listed if one.get("filename") == request.file_name(file)]
    inside = [one for one in ours if since <= (moment(one.get("created_at")) or since) <= until]
    return [found for one in inside if (found := wire.usable_id(one))]


def list_files(host: Host) -> tuple[list[wire.Json], bool]:
    """Return the files of the host, and True if the list was read to its end."""
    listing = host.calling("list the files", always_doubtful=True)
    with listing as (client, call), bounds.within():

        def fetch(after: str | None) -> wire.Answer:
            files = client.files.with_raw_response
            return retried(files.list, purpose="fine-tune", limit=100, after=after or openai.omit)

        pages = wire.Pages(fetch, call)
        return [file for page in pages for file in page], pages.complete


# -- uploads that expire -----------------------------------------------------------------------


def checked_lifetime(seconds: float | None, profile: Profile) -> float | None:
    """Return the seconds for which an upload is kept. Raises SpecError for what no host takes, and
    for a host that is not documented to delete uploads by itself."""
    if seconds is None:
        return None
    config.find_key(SETTING).parse(seconds, "uploads_expire")
    if not profile.uploads_expire:
        raise SpecError(
            f"{profile.title} is not documented to let uploads expire.",
            hint="Leave uploads_expire out, and delete them with: ftg prune --remote",
        )
    return seconds


def lifetime(seconds: float | None, profile: Profile, settings: Settings | None) -> float | None:
    """Return this, else the setting where the host takes it, else None: uploads are kept."""
    if seconds is not None or settings is None or not profile.uploads_expire:
        return seconds
    setting = config.current_value(settings, SETTING).amount
    return None if setting is None else float(setting)


def _expiry(seconds: float | None) -> Any:
    """Return the field of an upload that expires, as OpenAI's contract has it."""
    return openai.omit if seconds is None else {"anchor": "created_at", "seconds": int(seconds)}


# -- what is deleted ---------------------------------------------------------------------------


def delete_file(host: Host, remote_id: str) -> None:
    """Delete an upload."""

    def is_there() -> bool:
        files, whole = list_files(host)
        return not whole or any(file.get("id") == remote_id for file in files)

    _delete(host, "file", remote_id, lambda client: client.files, is_there)


def delete_model(host: Host, model: str) -> None:
    """Delete a fine-tuned model."""

    def is_there() -> bool:
        with host.calling("list the models") as (client, call):
            listed = wire.read(retried(client.models.with_raw_response.list), call)
        models = wire.list_of(listed.get("data"))
        # An empty list tells nothing: a host has bases, too. Nor does half a list.
        whole = models and not listed.get("has_more") and not listed.get("error")
        return not whole or any(wire.object_of(one).get("id") == model for one in models)

    _delete(host, "model", model, lambda client: client.models, is_there)


def _delete(
    host: Host,
    kind: Kind,
    name: str,
    resource: Callable[[openai.OpenAI], Any],
    is_there: Callable[[], bool],
) -> None:
    """Ask the host to delete something, again after an answer that was lost or is no word of the
    host, such as the page of a portal. Its word that there is none will do where a list does not
    show it either: an earlier request was taken, or somebody else was faster. Checkpoints are in no
    list, so that a list alone tells nothing. Raises BackendError."""
    if kind not in kinds(host.profile):
        raise host.cannot_delete(f"a {kind}")
    for _ in range(ASKED):
        error = _ask_to_delete(host, f"delete the {kind} {name}", name, resource)
        if error is None or error.not_there:
            break
    if error is not None and (not error.not_there or is_there()):
        raise error


def _ask_to_delete(
    host: Host, what: str, name: str, resource: Callable[[openai.OpenAI], Any]
) -> BackendError | None:
    """Return None for an answer that says so, else the error. Raises one that is a refusal."""
    try:
        with host.calling(what) as (client, call):
            answer = wire.read(retried(resource(client).with_raw_response.delete, name), call)
    except BackendError as exc:
        if exc.status_code not in (None, 404):
            raise
        return exc
    said = answer.get("deleted") is True
    return None if said else wire.undecodable(call, wire.error_of(answer) or "")
