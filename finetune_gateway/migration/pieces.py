"""Fetches the pieces of one job: what is kept already is not asked for, nor what is gone.

After each piece the manifest is written, so that a kill loses only what is on its way.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from finetune_gateway.backends.openai import archive, inventory, wire
from finetune_gateway.errors import BackendError, MissingScopeError
from finetune_gateway.jobs import fetched
from finetune_gateway.jobs.fetched import Kind, Manifest, Piece, State, Why
from finetune_gateway.migration import metrics
from finetune_gateway.migration.incoming import Incoming, ResultFile, ending_of
from finetune_gateway.migration.keys import HostFails, Key
from finetune_gateway.migration.stored import StoredLog
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import whole

FileKind = Literal["training", "validation", "result"]
FILES: tuple[FileKind, ...] = ("training", "validation", "result")
NAMES = {"training": "train", "validation": "validation", "result": "result"}
Kept = tuple[str, str, int]  # the name of a content, its sha256 and its bytes
NOT_COMPLETE = "The host did not say that the list ends here."


class JobPieces:
    """One job and what is kept of it; ``manifest`` changes as pieces come. ``keys``: those that see
    the job. ``others``: more of the same host, which may see its files. ``saved``: the files of
    this host that are kept already, by their ids."""

    def __init__(
        self,
        settings: Settings,
        manifest: Manifest,
        job: wire.Json,
        keys: Sequence[Key],
        others: Sequence[Key],
        saved: dict[str, Piece],
    ) -> None:
        self.manifest = manifest
        self.changed = 0  # pieces that were saved now
        self._settings = settings
        self._job = job
        self._keys = keys
        self._all_keys = [*keys, *others]
        self._saved = saved
        self._new: list[str] = []  # contents that came now
        self._note = ""  # on the list that was read last
        self._accounts = {key.account: key.variable for key in self._all_keys}

    def fetch(self, *, with_stored: bool) -> None:
        """Fetch what is missing. Raises StoreError, and HostFails."""
        try:
            self._write_job()
            for kind, number, file_id in self._files():
                self._fetch_file(kind, number, file_id)
            self._tell_gone()
            self._fetch_list("events", "events.jsonl", self._events)
            self._fetch_list("checkpoints", "checkpoints.json", self._checkpoints)
            self._write_metrics()
            if with_stored and self.manifest.model:
                self._fetch_stored(self.manifest.model)
        finally:
            fetched.settle(self._settings, self.manifest, self._new)

    def complete(self, *, with_stored: bool) -> bool:
        """Return True if nothing is left to ask for with these keys."""
        if with_stored or not self.manifest.ended:  # more may have been stored since
            return False
        kinds: tuple[Kind, ...] = ("job", "events", "checkpoints")
        done = [self._is_done(self.manifest.piece(kind)) for kind in kinds]
        files = [self._is_done(piece) for piece in self.manifest.pieces if piece.kind in FILES]
        return all(done) and all(files)

    # -- what is there -------------------------------------------------------------------

    def _files(self) -> Iterator[tuple[FileKind, int, str]]:
        """Yield the files of the job: what they are, their number, and their ids."""
        results = (one if isinstance(one, str) else wire.object_of(one).get("id")
                   for one in wire.list_of(self._job.get("result_files")))  # fmt: skip
        named: dict[FileKind, list[Any]] = {
            "training": [self._job.get("training_file")],
            "validation": [self._job.get("validation_file")],
            "result": [*results],
        }
        for kind, ids in named.items():
            for number, file_id in enumerate(filter(None, map(wire.text_of, ids)), 1):
                yield kind, number, file_id

    def _is_done(self, piece: Piece | None) -> bool:
        """Return True for what is kept and will not change, for what is gone, and for what none of
        these keys sees."""
        if piece is None:
            return False
        if piece.state == "saved":
            there = fetched.path_of(self._settings, self.manifest, piece)
            return piece.final and there is not None
        unseen = piece.state == "not_visible" and {*self._accounts} <= {*piece.asked}
        return piece.state == "gone" or unseen

    def _put(self, piece: Piece) -> None:
        if piece.state == "saved":
            self.changed += 1
            self._new.append(piece.content)
        self.manifest = self.manifest.with_piece(piece.model_copy(update={"at": time.time()}))
        fetched.save(self._settings, self.manifest)

    def _piece(self, kind: Kind, name: str, kept: Kept, **more: Any) -> Piece:
        """Return a piece whose content is kept, with this name in the folder of the job."""
        content, sha256, size = kept
        given = fetched.name_content(self._settings, self.manifest, content, name)
        return Piece(
            kind=kind, state="saved", name=given, content=content, sha256=sha256, bytes=size, **more
        )

    # -- the job -------------------------------------------------------------------------

    def _write_job(self) -> None:
        """Write the job as its host lists it: no request of its own."""
        if not self._is_done(self.manifest.piece("job")):
            text = json.dumps(self._job, indent=1).encode() + b"\n"
            kept = fetched.keep(self._settings, [text], lambda: ".json")
            final, key = self.manifest.ended, self._keys[0].variable
            self._put(self._piece("job", "job.json", kept, final=final, key=key))

    # -- files ---------------------------------------------------------------------------

    def _fetch_file(self, kind: FileKind, number: int, file_id: str) -> None:
        earlier = self.manifest.piece(kind, file_id)
        if self._is_done(earlier):
            return
        name = f"{NAMES[kind]}-{number}" if kind == "result" else NAMES[kind]
        known = self._saved.get(file_id)
        if known is not None:  # as a file of another job
            named = f"{name}{Path(known.content).suffix}"
            given = fetched.name_content(self._settings, self.manifest, known.content, named)
            return self._put(known.model_copy(update={"kind": kind, "name": given}))
        if wire.usable_id({"id": file_id}) is None:
            reason = "The host names no file that can be asked for."
            piece = Piece(kind=kind, id=file_id, state="refused", why="other", reason=reason)
            return self._put(piece)
        piece = self._ask_keys(kind, name, file_id, earlier)
        self._put(piece)
        if piece.state == "saved":
            self._saved[file_id] = piece
        return None

    def _ask_keys(self, kind: FileKind, name: str, file_id: str, earlier: Piece | None) -> Piece:
        """Return the file, from the first key that is given it, or why there is none."""
        asked = [*earlier.asked] if earlier else []  # those that do not see it
        errors: list[BackendError] = []
        for key in self._by_sight(file_id):
            if key.account in asked:
                continue
            try:
                return self._download(key, kind, name, file_id)
            except BackendError as exc:
                errors.append(exc)
                asked += [key.account] if archive.refusal_of(exc) == "not_there" else []
            except HostFails as fails:
                self._put(_missing(kind, file_id, [*errors, fails.error], asked))
                raise
        return _missing(kind, file_id, errors, asked)

    def _by_sight(self, file_id: str) -> list[Key]:
        """Return the keys, those first that list the file."""
        if len(self._all_keys) == 1:
            return self._all_keys
        return sorted(self._all_keys, key=lambda key: file_id not in key.files())

    def _download(self, key: Key, kind: FileKind, name: str, file_id: str) -> Piece:
        about = key.files().get(file_id, {})
        remote_name = wire.text_of(about.get("filename"))
        size = whole(about.get("bytes"))
        reader: Incoming | ResultFile = ResultFile(size)
        if kind != "result":
            reader = Incoming(size, ending_of(remote_name), mark=key.host.profile.file_bom)

        def take(pieces: Iterator[bytes]) -> Kept:
            return fetched.keep(self._settings, reader.read(pieces), lambda: reader.ending)

        kept = key.ask(kind, lambda: archive.download(key.host, file_id, take))
        return self._piece(
            kind,
            f"{name}{reader.ending}",
            kept,
            id=file_id,
            remote_name=remote_name,
            final=True,
            note=reader.note,
            key=key.variable,
        )

    def _tell_gone(self) -> None:
        """Call gone what a key does not see that sees another file of the same job: files belong to
        a project, and all files of a job to the same one."""
        files = [piece for piece in self.manifest.pieces if piece.kind in FILES]
        seen = {one.key for one in files if one.state == "saved"}
        for piece in files:
            asked = {self._accounts.get(account) for account in piece.asked}
            if piece.state == "not_visible" and asked & seen:
                self._put(piece.model_copy(update={"state": "gone", "final": True}))

    # -- lists ---------------------------------------------------------------------------

    def _fetch_list(self, kind: Kind, name: str, lines: Callable[[Key], Iterator[bytes]]) -> None:
        """Fetch a list of the job with the first key that is given it."""
        if self._is_done(self.manifest.piece(kind)):
            return
        errors: list[BackendError] = []
        for key in self._keys:
            try:
                kept = key.ask(kind, partial(self._keep, lines, key, name))
            except BackendError as exc:
                errors.append(exc)
                continue
            except HostFails as fails:
                self._put(_missing(kind, None, [fails.error], []))
                raise
            final, note = self.manifest.ended, self._note
            piece = self._piece(kind, name, kept, final=final, note=note, key=key.variable)
            return self._put(piece)
        piece = _missing(kind, None, errors, [])
        if piece.state == "not_visible":  # the job is there: its host has no such list
            piece = piece.model_copy(update={"state": "gone", "final": True})
        return self._put(piece)

    def _keep(self, lines: Callable[[Key], Iterator[bytes]], key: Key, name: str) -> Kept:
        self._note = ""
        return fetched.keep(self._settings, lines(key), lambda: Path(name).suffix)

    def _events(self, key: Key) -> Iterator[bytes]:
        listing = archive.events(key.host, self.manifest.job_id)
        for page in listing:
            yield from (json.dumps(event).encode() + b"\n" for event in page)
        self._note = "" if listing.complete else NOT_COMPLETE

    def _checkpoints(self, key: Key) -> Iterator[bytes]:
        """Yield the checkpoints as one JSON list; the first of them is the model itself."""
        points, complete = inventory.checkpoints(key.host, self.manifest.job_id)
        names = (wire.text_of(point.get("fine_tuned_model_checkpoint")) for point in points)
        kept = tuple(name for name in names if name and name != self.manifest.model)
        self.manifest = self.manifest.model_copy(update={"checkpoints": kept})
        self._note = "" if complete else NOT_COMPLETE
        yield json.dumps(points, indent=1).encode() + b"\n"

    def _write_metrics(self) -> None:
        """Write what the events and the result files tell of each step."""
        events = self.manifest.piece("events")
        results = [piece for piece in self.manifest.pieces if piece.kind == "result"]
        sources = [piece.sha256 for piece in (events, *results) if piece and piece.sha256]
        earlier = self.manifest.piece("metrics")
        made_from = " ".join(sources)
        if not sources or (self._is_done(earlier) and earlier and earlier.note == made_from):
            return
        path = self._path(events) if events else None
        lines = metrics.by_step(path, filter(None, map(self._path, results)))
        kept = fetched.keep(self._settings, lines, lambda: ".jsonl")
        self._put(self._piece("metrics", "metrics.jsonl", kept, final=True, note=made_from))

    def _path(self, piece: Piece) -> Path | None:
        return fetched.path_of(self._settings, self.manifest, piece)

    def _fetch_stored(self, model: str) -> None:
        """Fetch the stored completions that came since the last time, with every key: each sees
        those of its project."""
        place = fetched.folder(self._settings, self.manifest.host, self.manifest.job_id)
        log = StoredLog(place / "stored.raw.jsonl")
        errors: list[BackendError] = []
        for key in self._all_keys:
            try:
                log.fetch(key, model)
            except BackendError as exc:
                errors.append(exc)
        reason = _missing("stored", None, errors, []) if errors else None
        kept = fetched.keep(self._settings, log.conversations(), lambda: ".jsonl")
        note = reason.reason if reason else ""
        if log.others:
            note = f"{note} {log.others:,} of other models were left out.".strip()
        piece = self._piece("stored", "stored.jsonl", kept, rows=log.rows, note=note)
        self._put(reason if reason and not log.rows else piece)


def _missing(
    kind: Kind, file_id: str | None, errors: Sequence[BackendError], asked: Sequence[str]
) -> Piece:
    """Return why something could not be had. A fault that may pass comes first, since it may be
    there; then a refusal, since it is."""
    reasons = [(archive.refusal_of(error), error) for error in errors]
    refusals = [one for one in reasons if one[0] not in (None, "not_there")]
    state: State = "not_visible"
    if faults := [one for one in reasons if one[0] is None]:
        state, reasons = "failed", faults
    elif refusals:
        state, reasons = "refused", refusals
    why: Why = (reasons[0][0] or "") if reasons else "not_there"
    reason = _words(reasons[0][1]) if reasons else "No key that was used sees it."
    return Piece(kind=kind, id=file_id, state=state, why=why, reason=reason, asked=tuple(asked))


def _words(error: BackendError) -> str:
    return error.scope if isinstance(error, MissingScopeError) and error.scope else str(error)
