"""Record by the batch API of a host: for less money, within a day, without a process that
waits.

What was asked for is written down before each step, as for a job: a batch whose create was not
answered is looked for by its key before another one is made. The same command again collects what
has ended. What a batch has not answered when it expires stays to be asked, by a batch or at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from finetune_gateway.backends.openai import batches as host_batches
from finetune_gateway.backends.openai import wire
from finetune_gateway.errors import BackendError
from finetune_gateway.evaluation.asking import Question
from finetune_gateway.evaluation.costing import Prices
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.evaluation.recording import (
    Recording,
    Run,
    batch_file,
)
from finetune_gateway.evaluation.work import (
    Work,
    last_lines,
    open_charges,
    reserve,
    settle_all,
    settle_one,
    spent_already,
    writing,
)
from finetune_gateway.evaluation.writer import OnProgress, answer_fields
from finetune_gateway.jobs import charges
from finetune_gateway.jobs.charges import Charge
from finetune_gateway.jobs.journal import Journal, read_lines
from finetune_gateway.jobs.requests import (
    ANSWERS,
    BATCHES,
    COLLECTED,
    ERRORS,
    OVER,
    REFUSED,
    REQUESTS,
)
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings import files
from finetune_gateway.text.cleaning import whole

Json = dict[str, Any]
LEFT = list[tuple[Question, Prompt]]


def begin(store: Store, work: Work) -> Recording:
    """Send what is left to ask as batches, and return at once. Raises BudgetError before anything
    is sent, BackendError; what was sent until then is followed by the same command."""
    with writing(store, work.recording):
        settle_all(store, work.recording, open_charges(work.recording))
        work = replace(work, already=spent_already(store, work.recording))
        every = work.questions(work.recording.state())
        left = work.within(every)
        for part in parts(work, left):
            _Batch.begun(store, work, part).advance(wait=False)
        run = Run(asked=len(left), beyond=len(every) - len(left))
        begun = replace(work.recording, run=run)
        return begun.with_batch_under_way() if left else begun


def follow(store: Store, work: Work, wait: bool, on_progress: OnProgress | None) -> Recording:
    """Bring on each batch that is under way, collect those that have ended, and return the
    recording. ``wait``: return when all have. Raises BackendError."""
    with writing(store, work.recording), _going_on(work.recording):
        before = len(work.recording.state().answered)
        pause = work.subject.backend.capabilities().poll_seconds[0]
        going = [*_open(store, work)]
        while going:
            counts = [one.advance(wait=True) for one in going]
            if on_progress is not None:
                on_progress(sum(done for done, _ in counts), sum(size for _, size in counts))
            going = [one for one in going if not one.over]
            if not (wait and going):
                break
            time.sleep(pause)
            pause = min(1.5 * pause, work.subject.backend.capabilities().poll_seconds[1])
        work.recording.finish()
        answers = len(work.recording.state().answered) - before
        collected = replace(work.recording, run=Run(answers=answers))
        return collected.with_batch_under_way() if going else collected


@contextmanager
def _going_on(recording: Recording) -> Iterator[None]:
    """Say of Ctrl-C that it stops no batch."""
    try:
        yield
    except KeyboardInterrupt as exc:
        exc.add_note(f"The batch of {recording.title} goes on: the same command collects it.")
        raise


def _open(store: Store, work: Work) -> Iterator[_Batch]:
    for line in last_lines(work.recording).values():
        if line["event"] not in OVER:
            yield _Batch(store, work, line)


def parts(work: Work, left: LEFT) -> Iterator[LEFT]:
    """Yield requests in parts that a host takes as one batch."""
    part: LEFT = []
    size = 0
    for question, prompt in left:
        line = len(_line(work, question))
        full = len(part) == host_batches.MOST_LINES or size + line > host_batches.MOST_BYTES
        if part and full:
            yield part
            part, size = [], 0
        part.append((question, prompt))
        size += line
    if part:
        yield part


def _line(work: Work, question: Question) -> bytes:
    body = {"model": work.subject.model, **question.body}
    return host_batches.request_line(question.id, body)


class _Batch:
    """One batch: ``known`` is all that was written down of it. The lock of the recording is
    held."""

    def __init__(self, store: Store, work: Work, known: Json) -> None:
        self.store = store
        self.work = work
        self.known = known
        self.host = work.subject.backend

    @classmethod
    def begun(cls, store: Store, work: Work, part: LEFT) -> _Batch:
        """Write down a new batch with its share of the budget. Raises BudgetError, StoreError."""
        recording = work.recording
        cost = work.cost(part)
        charge = reserve(store, work, cost)
        key = charge.id.removeprefix("chg-")
        path = batch_file(recording.folder, key)
        lines = b"".join(_line(work, question) for question, _ in part)
        with files.storing(f"{path.name} cannot be written", recording.folder):
            files.write_atomic(path, lines, private=True)
        attempts = {line["id"]: line["attempt"] for line in read_lines(recording.folder / REQUESTS)}
        with Journal(recording.folder / REQUESTS) as requests:
            for question, prompt in part:
                most = work.costing.most(prompt)
                line = {
                    "id": question.id,
                    "row": prompt.id,
                    "attempt": attempts.get(question.id, 0) + 1,
                    "charge": charge.id,
                    "usd": None if most is None else f"{most:f}",
                    "at": time.time(),
                    "batch": key,
                }
                requests.write(line)
        batch = cls(store, work, {"key": key, "charge": charge.id, "requests": len(part)})
        batch._note("intent", charge=charge.id, requests=len(part))
        return batch

    @property
    def over(self) -> bool:
        """True if it was collected, or refused."""
        return self.known["event"] in OVER

    @property
    def _path(self) -> Path:
        return batch_file(self.work.recording.folder, self.known["key"])

    def _note(self, event: str, **more: Any) -> None:
        """Write down a step, on the disk before it is taken."""
        line = {"key": self.known["key"], "event": event, "at": time.time(), **more}
        with Journal(self.work.recording.folder / BATCHES) as journal:
            journal.write(line)
        self.known |= line

    def advance(self, *, wait: bool) -> tuple[int, int]:
        """Take the next steps; return the requests that are done, and all. ``wait``: also until a
        create that was not answered can no longer take effect. Raises BackendError."""
        try:
            if self.known["event"] == "intent":
                self._upload()
            if self.known["event"] == "creating":
                self._look(wait)
            if self.known["event"] == "uploaded":
                self._create()
        except BackendError as exc:
            if not (exc.maybe_applied or exc.retryable):
                self._refuse(exc.message)
            raise
        if self.known["event"] == "created":
            return self._poll()
        return 0, int(self.known["requests"])

    def _upload(self) -> None:
        again = self.known.get("uploading")
        file_id = host_batches.find_upload(self.host, self._path) if again else None
        if file_id is None:
            self._note("intent", uploading=True)
            file_id = host_batches.upload(self.host, self._path)
        self._note("uploaded", file_id=file_id)

    def _look(self, wait: bool) -> None:
        """Settle a create that was not answered: by its key, once it can no longer take effect."""
        key, file_id = self.known["key"], self.known["file_id"]
        found = host_batches.find(self.host, key, file_id)
        longest = self.host.capabilities().settle_seconds
        # By a clock that may have been put back since.
        left = min(longest, self.known["at"] + longest - time.time())
        if found is None and left > 0 and wait:
            time.sleep(left)
            found = host_batches.find(self.host, key, file_id)
        if found is not None:
            self._note("created", id=found)
        elif wait or left <= 0:
            host_batches.require_sight(self.host, file_id)
            self._note("uploaded")

    def _create(self) -> None:
        self._note("creating")
        try:
            found = host_batches.create(self.host, self.known["file_id"], self.known["key"])
        except BackendError as exc:
            if not exc.maybe_applied:
                self._note("uploaded")
            raise
        self._note("created", id=found)

    def _poll(self) -> tuple[int, int]:
        batch = self._retrieve()
        counts = wire.object_of(batch.get("request_counts"))
        done = sum(whole(counts.get(name)) or 0 for name in ("completed", "failed"))
        if why := host_batches.refusal_of(batch):
            self._refuse(why)
            raise BackendError(
                f"{self.host.host} refused the batch {self.known['id']}: {why}.",
                hint="Nothing of it was answered. Ask without --batch, or change what it names.",
                backend=self.host.name,
            )
        if wire.text_of(batch.get("status")) in host_batches.FINAL:
            self._collect(batch)
        return done, int(self.known["requests"])

    def _retrieve(self) -> Json:
        """Return it as its host shows it. Raises BackendError, with what can be done about a batch
        that the host has lost."""
        try:
            return host_batches.retrieve(self.host, self.known["id"])
        except BackendError as exc:
            if exc.not_there:
                exc.hint = (
                    "Is this the key that has sent it? If its host has lost it: ftg settle "
                    f"{self.work.recording.title} --not-created"
                )
            raise

    def _refuse(self, why: str) -> None:
        """Write down that nothing of it was bought."""
        self._note(REFUSED, why=why)
        self._end()

    def _end(self) -> None:
        """Settle its charge, and remove the file that was sent: its rows are in the recording."""
        for charge in charges.unsettled(self.store, self.work.recording.title):
            if charge.id == self.known["charge"]:
                settle_one(self.store, self.work.recording, charge)
        self._path.unlink(missing_ok=True)

    # -- what came of it -----------------------------------------------------------------------

    def _collect(self, batch: Json) -> None:
        """Write down each answer and each error of a batch that has ended."""
        folder = self.work.recording.folder
        asked = {
            line["id"]: line
            for line in read_lines(folder / REQUESTS)
            if line.get("batch") == self.known["key"]
        }
        charge, came, failed = self._charge(), 0, 0
        with Journal(folder / ANSWERS) as answers, Journal(folder / ERRORS) as errors:
            for name, result in host_batches.results(self.host, batch):
                if (line := asked.pop(name, None)) is None:
                    continue  # said twice, or not ours
                response = wire.object_of(result.get("response"))
                sold = response.get("status_code") == 200
                came += sold
                failed += not sold
                usd = self._usd(line, response.get("body"), charge) if sold else "0"
                body = _answer(result)
                if body is None:  # paid for all the same, if it was sold
                    errors.write({**_head(line, usd), **_error(result)})
                    continue
                answers.write({**_head(line, usd), **answer_fields(body), "seconds": None})
            self._require_all(batch, came, failed)
            status = str(batch.get("status"))
            for line in asked.values():
                # Of one that is said to be complete, a request without a word may have been billed.
                usd = line["usd"] if status == "completed" else "0"
                errors.write({**_head(line, usd), **_silence(status)})
        self._note(COLLECTED, status=status)
        self._end()

    def _require_all(self, batch: Json, came: int, failed: int) -> None:
        """Raise BackendError if the host has answered more than came, by its count or because it
        calls the batch complete: what is missing was paid for, and would be asked again."""
        counts, size = wire.object_of(batch.get("request_counts")), int(self.known["requests"])
        said = min(whole(counts.get("completed")) or 0, size)
        if batch.get("status") == "completed":
            said = max(said, size - max(failed, whole(counts.get("failed")) or 0))
        if came < said:
            raise BackendError(
                f"{self.host.host} gave {came:,} of the {said:,} answers that the batch "
                f"{self.known['id']} has by its own word.",
                hint="The same command asks for them again. To leave it at these: ftg settle "
                f"{self.work.recording.title} --not-created",
                backend=self.host.name,
                retryable=True,
            )

    def _charge(self) -> Charge | None:
        every = charges.unsettled(self.store, self.work.recording.title)
        return next((one for one in every if one.id == self.known["charge"]), None)

    def _usd(self, line: Json, body: object, charge: Charge | None) -> str | None:
        most = None if line["usd"] is None else Decimal(line["usd"])
        prices = Prices.from_rows(charge.prices if charge else ())
        usd = prices.of_usage(wire.object_of(wire.object_of(body).get("usage")), most)
        return None if usd is None or most is None else f"{usd:f}"


def _head(line: Json, usd: str | None) -> Json:
    kept = {key: line[key] for key in ("id", "row", "attempt", "charge", "batch")}
    sample = int(line["id"].rpartition("-")[2])
    return {**kept, "sample": sample, "usd": usd, "at": time.time()}


def _answer(result: Json) -> Json | None:
    """Return the chat's answer in a line of a batch; None if there is none."""
    response = wire.object_of(result.get("response"))
    body = wire.object_of(response.get("body"))
    choices = wire.list_of(body.get("choices"))
    whole = response.get("status_code") == 200 and choices and isinstance(choices[0], dict)
    return body if whole else None


def _error(result: Json) -> Json:
    """Return why a line of a batch has no answer."""
    response = wire.object_of(result.get("response"))
    body = wire.object_of(response.get("body"))
    said = wire.object_of(result.get("error")) or wire.object_of(body.get("error"))
    status = response.get("status_code")
    number = status if isinstance(status, int) else None
    lasting = number is not None and 400 <= number < 500 and number not in (408, 409, 429)
    return {
        "again": False,
        "retryable": not lasting,
        "status": number,
        "code": wire.text_of(said.get("code")),
        "message": wire.error_of({"error": said}) or "the batch has no answer to it",
    }


def _silence(status: str) -> Json:
    message = f"the batch ended as {status} without a word about it"
    return {"again": False, "retryable": True, "status": None, "code": None, "message": message}
