"""A run folder, and one attempt at training it: what to train, what to report, when to stop.

run.json        spec, data and versions: enough to reproduce the run
data/           a copy of the rows
chat_template.jinja  a copy of the file that the spec names, if it names one
base.json       which weights, tokenizer and template the base had when the run began
start/          a copy of the adapter that it trains on from, if it continues another job
events.jsonl    the worker's events, one per line
attempt.json    how things stood before its newest worker began (``deaths``)
worker.log      the output of the libraries
checkpoints/    from which training can continue
model/          the result, complete with manifest.json; it appears whole or not at all

All of it is for this user alone, what libraries write too.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from finetune_gateway.backends.local import event_log, hangs, line, models
from finetune_gateway.backends.local.queue import Queue
from finetune_gateway.backends.local.run_file import (
    BASE_FILE,
    CHAT_TEMPLATE,
    START,
    base_of,
    read_run_file,
)
from finetune_gateway.backends.local.run_folder import PUT_BACK, identity, missing
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import BackendError, GatewayError, StoreError
from finetune_gateway.events import Event, JobStatus
from finetune_gateway.settings import files, sealed
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

HEARTBEAT_SECONDS = 5.0
EVENTS = "events.jsonl"


class Cancelled(Exception):
    """The run was asked to stop: for good, or for a while."""


class Fenced(Exception):
    """A newer worker has this run; this one must not write any more."""


class Run:
    """One attempt at a run; the worker and the training code report through it."""

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        fence: int,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """``environment``: for a dispatcher that the heartbeat has to start."""
        self.settings = settings
        self.environment = environment
        self.id = run_id
        self.fence = fence
        self.queue = Queue(settings)
        self.folder = self.queue.folder(run_id)
        self.file = read_run_file(self.folder)
        self.spec = self._with_base_as_it_lies(self.file.spec)
        self.stop = threading.Event()  # set by SIGTERM or by a flag in the queue
        self._events = self.folder / EVENTS
        self._log = event_log.open_log(self._events)
        self.lost = False  # a newer worker has this run
        self.asked_to_pause = False
        self.seconds_left: float | None = None  # of training, as the trainer's pace says
        self._earlier = 0.0  # seconds of work of the attempts before this one
        self._began: float | None = None  # monotonic; when we got the slot
        self.pulse = hangs.Pulse()
        self._telling = threading.Lock()  # the heartbeat has events too
        self._counting = threading.Lock()  # of what the row counts of this attempt
        self._counted, self._taken_back = False, False
        self._place = identity(self.folder)
        self.locks: dict[Path, int] = {}  # their files and descriptors, while the worker lives
        self.queue.sweep(run_id)

    def _with_base_as_it_lies(self, spec: TrainingSpec) -> TrainingSpec:
        model = models.located(spec.model, base_of(self.folder).get("sha256"), self.settings)
        return spec if model == spec.model else spec.model_copy(update={"model": model})

    @property
    def train(self) -> Dataset:
        return Dataset(self.folder / "data" / "train.jsonl")

    @property
    def validation(self) -> Dataset | None:
        """The held-out rows, if the job has any."""
        path = self.folder / "data" / "validation.jsonl"
        return Dataset(path) if path.exists() or self.file.validation_sha256 else None

    def content_of(self, dataset: Dataset) -> str:
        """Return the sha256 of the training or held-out rows, as their file is now. Raises
        GatewayError if it is not what was submitted."""
        known = {"train": self.file.train_sha256, "validation": self.file.validation_sha256}
        expected = known.get(dataset.path.stem)  # of an earlier version, or a trial: none
        try:
            found = files.sha256_of(dataset.path)
        except OSError as exc:
            raise self._changed(
                dataset.path, f"it cannot be read ({exc.strerror or exc})"
            ) from None
        if expected and found != expected:
            raise self._changed(dataset.path, f"sha256 {expected[:12]} then, {found[:12]} now")
        return found

    def _changed(self, path: Path, how: str) -> GatewayError:
        return GatewayError(
            f"{path} was changed since the job was submitted: {how}.",
            hint=f"Put the old file back and run: ftg resume {self.id}. Or submit it again.",
        )

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def chat_template(self) -> Path | None:
        """The copy of the file that the spec names; what becomes of the file itself does not count.

        Raises GatewayError if the copy was changed.
        """
        given = self.spec.chat_template
        if given is None or self.file.chat_template_sha256 is None:  # an earlier version made none
            return Path(given) if given else None
        path = self.folder / CHAT_TEMPLATE
        self._require_content(path, self.file.chat_template_sha256)
        return path

    def _require_content(self, path: Path, expected: str) -> None:
        if not path.is_file():
            raise self._changed(path, "it is gone")
        found = files.sha256_of(path)
        if found != expected:
            raise self._changed(path, f"sha256 {expected[:12]} then, {found[:12]} now")

    @property
    def start_adapter(self) -> Path | None:
        """The folder of the adapter that training begins with; None if that is a new one. Raises
        GatewayError if it was changed."""
        origin = self.file.origin
        if origin is None or not origin.adapter:
            return None
        folder = self.folder / START
        for name, digest in origin.adapter.items():
            self._require_content(folder / name, digest)
        return folder

    def require_folder(self) -> None:
        """Raise GatewayError if its folder is not there any more: what is saved would lie where
        nobody looks."""
        if gone := self.folder_is_gone():
            raise GatewayError(gone)

    @property
    def base_revision(self) -> str | None:
        """The commit of a model of the hub that an earlier attempt, or the submit, has seen."""
        return self.file.base_revision or self._base().get("revision")

    def pin_base(
        self,
        revision: str | None,
        sha256: str | None,
        small: Mapping[str, str] | None = None,
        weights: str | None = None,
    ) -> None:
        """Keep which weights the base has, and the sha256 of its ``small`` files. Raises
        GatewayError if an earlier call, in this attempt or one before it, or the job that is
        continued, has seen others: an adapter fits the base it was trained on alone, and the ids
        that it was trained with.

        ``weights``: their hash, that of a model of the hub too, whose ``sha256`` is None.
        """
        base = {"revision": revision, "sha256": sha256}
        kept = self._base()
        if not kept:
            about = {**base, "weights": weights, "files": dict(small or {})}
            return sealed.write(self.folder / BASE_FILE, about)
        first = self.spec.continue_from or "this job"
        back = "Put the old {} back and run: ftg resume {}. Or submit a new job."
        before_all = weights and (kept.get("weights") or weights)  # none of an earlier version
        known = (kept.get("revision"), kept.get("sha256"), before_all)
        if known != (revision, sha256, weights):
            then, now = (_weights_text(*one) for one in (known, (revision, sha256, weights)))
            raise GatewayError(
                f"The weights of the base {self.spec.model} have changed since {first} began: "
                f"{then} then, {now} now.",
                hint=_FETCH if revision else back.format("weights", self.id),
            )
        before: dict[str, str] | None = kept.get("files")  # none of an earlier version
        if not before or small is None:
            return None
        # Another program may have fetched more of the same commit.
        changed = {
            name
            for name in {*before, *(() if revision else small)}
            if before.get(name) != small.get(name)
        }
        if self.chat_template is not None:
            changed -= {CHAT_TEMPLATE}  # it has one of its own
        if changed:
            raise GatewayError(
                f"{' and '.join(sorted(changed))} of the base {self.spec.model} changed since "
                f"{first} began: the same text would be other tokens, or mean something else.",
                hint=_FETCH if revision else back.format("files", self.id),
            )

    def _base(self) -> dict[str, Any]:
        return base_of(self.folder)

    # -- reporting -----------------------------------------------------------------------

    def event(
        self,
        message: str,
        *,
        type: Literal["message", "metrics", "checkpoint"] = "message",
        level: Literal["info", "warn", "error"] = "info",
        data: dict[str, Any] | None = None,
    ) -> None:
        """Append one event to events.jsonl, whole or not at all.

        Raises Fenced if a newer worker has the run, OSError if the disk is full.
        """
        row = self.queue.get(self.id)
        if row.fence != self.fence:
            raise Fenced
        with self._telling:
            number = self._log.number + 1
            name = f"{self.id}-{self.fence}-{number}"
            event = Event(id=name, level=level, type=type, message=message, data=data or {})
            event_log.append(self._events, event)
            self._log.number = number
            self._log.losses |= event_log.losses_of(event.type, event.data)

    def losses_told(self) -> set[event_log.Reported]:
        """Return which losses the events of this run have told of which steps, as they are in its
        folder or in the store."""
        rows = self.queue.store.query(
            "SELECT data FROM events WHERE job_id = ? AND type = 'metrics' AND json_valid(data)",
            (self.id,),
        )
        stored = (event_log.losses_of("metrics", json.loads(row["data"])) for row in rows)
        return self._log.losses.union(*stored)

    def _tell_what_was_lost(self) -> None:
        """Say what is missing in the log that the workers before this one have written."""
        rows = self.queue.store.query("SELECT event_id FROM events WHERE job_id = ?", (self.id,))
        ours = re.compile(rf"{re.escape(self.id)}-\d+-\d+")
        told = {row["event_id"] for row in rows if ours.fullmatch(row["event_id"])}
        gone, torn = len(told - self._log.ids), self._log.torn
        if torn:
            self.event(
                f"The last {torn:,} bytes of {EVENTS} were no whole line, as a power cut leaves "
                "them: they were cut off.",
                level="warn",
            )
        if gone:
            self.event(
                f"{EVENTS} has lost {gone:,} of the events of before. They are kept in the store.",
                level="warn",
            )

    def phase(self, phase: str) -> None:
        """Store what is being done now. Raises Cancelled if the run should stop."""
        self.pulse.begin_phase(phase)
        self.claim(phase=phase, progress_at=self.pulse.at, step_seconds=None)
        self.check()

    def check(self) -> None:
        """Note some progress. Raise Cancelled if the run was asked to stop, Fenced if a newer
        worker has it."""
        self.pulse.advance()
        if self.lost:
            raise Fenced
        self.require_folder()
        if self.stop.is_set():
            raise Cancelled

    def folder_is_gone(self) -> str:
        """Return what has become of its folder, and what to do; empty while it is where it was."""
        now = identity(self.folder)
        if now == self._place:
            return ""
        return missing(self.folder) or (
            f"Its run folder {self.folder} was replaced by another one. {PUT_BACK}"
        )

    def claim(self, **values: str | float | int | None) -> None:
        """Write to the run's row. Raises Fenced if a newer worker has the run."""
        if not self.queue.claim(self.id, self.fence, **values):
            raise Fenced

    def saved(self, step: int) -> None:
        """Keep that a checkpoint of this step was saved: after a later one than before, deaths are
        counted from here on."""
        with self.queue.store.transaction() as db:
            db.execute(
                "UPDATE runs SET saved_step = ?, attempts = min(attempts, 1)"
                f" WHERE id = ? AND fence = ? AND saved_step < ? AND {line.LIVE}",
                (step, self.id, self.fence, step),
            )

    def begin(self) -> None:
        """Start to count the time: the slot is ours."""
        self._earlier = self.queue.get(self.id).seconds
        self._began = time.monotonic()
        self._tell_what_was_lost()

    def begin_attempt(self, slot: str) -> int:
        """Count an attempt, on this slot, and return its number."""
        with self._counting:
            attempts = self.queue.get(self.id).attempts + 1
            self.claim(status=JobStatus.RUNNING, slot=slot, phase="starting", attempts=attempts)
            self._counted = True
        return attempts

    def take_back_attempt(self) -> None:
        """Let neither the attempt nor the start of its worker count: what ends it comes from
        outside. One that ends before it has begun is no attempt yet."""
        with self._counting:
            if self._taken_back:
                return
            row = self.queue.get(self.id)
            self.asked_to_pause |= row.pause_at is not None
            self.claim(
                attempts=row.attempts - self._counted,
                first_fence=row.first_fence + 1,
            )
            self._taken_back = True

    def interrupt(self) -> None:
        """Stop, as a signal asks: with a checkpoint, if one can be made before SIGKILL comes. That
        is no death of the worker either, so its attempt is taken back at once."""
        self.stop.set()
        try:
            self.take_back_attempt()
        except Fenced:  # it has ended, or another worker has it
            return
        except StoreError as exc:  # a full disk: the end of the worker counts
            print(f"interrupted, and not stored: {exc}", file=sys.stderr)

    @property
    def seconds(self) -> float:
        """Seconds of work so far, including earlier attempts."""
        return self._earlier + (time.monotonic() - self._began if self._began else 0.0)

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Store every few seconds that we are alive, and look if the run should stop."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_SECONDS):
                self._beat()

        thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
        # A cancel that came before our pid was in the row has sent no signal: its flag counts.
        self._beat()
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _hold_locks(self) -> None:
        """Lock the files of our locks again, if somebody has removed or replaced them."""
        if not self.folder_is_gone() and self.settings.locks.is_dir():
            for path, descriptor in self.locks.items():
                self.locks[path] = files.lock_again(descriptor, path)

    def _beat(self) -> None:
        self._hold_locks()
        try:
            seconds = {"seconds": self.seconds} if self._began else {}
            values = {"heartbeat_at": time.time(), "seconds_left": self.seconds_left, **seconds}
            self.queue.claim(self.id, self.fence, **values, **self._progress())
            row = self.queue.get(self.id)
        except (StoreError, BackendError) as exc:
            # A full disk, a busy store, a damaged row: the next heartbeat may succeed.
            print(f"no heartbeat: {exc}", file=sys.stderr)
            return
        self.lost = row.fence != self.fence
        self.asked_to_pause |= row.pause_at is not None
        if self.lost or row.cancel_at is not None or row.pause_at is not None:
            self.stop.set()
        if not self.stop.is_set():
            try:
                self.queue.ensure_dispatcher(self.environment, by_user=False)
            except OSError as exc:  # of its locks: the next heartbeat may start it
                print(f"no dispatcher: {exc}", file=sys.stderr)

    def _progress(self) -> dict[str, float | int | None]:
        """Return what the row says of our progress; tell of one that is missing."""
        if self._began and (news := self.pulse.news()):
            with suppress(OSError, Fenced):  # a full disk: the row says it
                self.event(news, level="warn")
        unit = 1 if sys.platform == "darwin" else 1024  # getrusage(2)
        return {
            "progress_at": self.pulse.at,
            "step_seconds": self.pulse.step_seconds,
            "step": self.pulse.step,
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
        }


_FETCH = (
    "Delete its folder in the cache of Hugging Face, so that it is fetched anew, and let the job "
    "go on: ftg resume."
)


def _weights_text(revision: str | None, sha256: str | None, weights: str | None) -> str:
    """Return which weights a base has, in words."""
    digest = sha256 or weights or ""
    commit = f"commit {revision[:12]}, " if revision else ""
    return f"{commit}sha256 {digest[:12] or 'unknown'}"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    files.write_atomic(path, json.dumps(data, indent=2, ensure_ascii=False), private=True)
