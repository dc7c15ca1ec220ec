"""What a job reports: status, events, metrics, checkpoints.

Knows nothing of backends or storage. Status words are OpenAI's
(``fine_tuning.job.status``), plus ``cancelling`` and ``unknown``.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import ConfigDict, Field, ValidationError

from finetune_gateway.model import MOST, Given, Model


class JobStatus(StrEnum):
    """The state of a job. A ``final`` status never changes again."""

    VALIDATING_FILES = "validating_files"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  # a word of the provider that we do not know: shown, never final

    @property
    def final(self) -> bool:
        """True if the job has ended."""
        return self in FINAL

    @classmethod
    def parse(cls, raw: str) -> JobStatus:
        """Return the status for a provider's word; ``UNKNOWN`` for a word we do not know."""
        try:
            return cls(raw)
        except ValueError:
            return cls.UNKNOWN


# The phase of a job that has failed because its loss diverged: resumed, it would diverge again.
DIVERGED = "diverged"
PAUSING = "pausing"  # the phase of a job that was asked to pause, and has not yet

FINAL = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED})

# A stored status only moves to an equal or higher rank, so a late or repeated answer cannot take
# a job backwards. UNKNOWN ranks lowest: it never replaces a known status.
RANK = {
    JobStatus.UNKNOWN: -1,
    JobStatus.VALIDATING_FILES: 0,
    JobStatus.QUEUED: 1,
    JobStatus.RUNNING: 2,
    JobStatus.PAUSED: 2,
    JobStatus.CANCELLING: 3,
    JobStatus.SUCCEEDED: 4,
    JobStatus.FAILED: 4,
    JobStatus.CANCELLED: 4,
}


def later(old: JobStatus, new: JobStatus, *, requeued: bool = False) -> JobStatus:
    """Return the status to keep when ``new`` is reported after ``old``; ``requeued``: of a job that
    waits again, after it has run."""
    if requeued and old in (JobStatus.RUNNING, JobStatus.PAUSED) and new is JobStatus.QUEUED:
        return new
    return new if not old.final and RANK[new] >= RANK[old] else old


class Event(Given):
    """One report of a job. ``data`` of a ``metrics`` event has OpenAI's names: step, total_steps,
    train_loss, valid_loss, learning_rate, ..."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    created_at: float = Field(default_factory=time.time)  # seconds since the epoch
    level: Literal["info", "warn", "error"] = "info"
    type: str = "message"  # message | metrics | checkpoint, or the provider's own word
    message: str = ""
    data: dict[str, Any] = Field(default_factory=dict)
    number: int | None = None  # of a stored event: they grow, so a stream goes on after one


class Metric(Model):
    """The metrics of one training step; None for what the backend does not report."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    step: int
    total_steps: int | None = None
    train_loss: float | None = None
    valid_loss: float | None = None
    learning_rate: float | None = None


# What methods that learn a preference report beside the loss, by TRL's names: of pairs, and of
# answers that are each good or bad.
PREFERENCES = ("rewards/accuracies", "rewards/margins", "accuracy", "margin")
REWARDS = ("rewards/chosen", "rewards/rejected")


def metrics_of(data: dict[str, Any]) -> dict[str, Any]:
    """Return the data of a metrics event without what is no number where ``Metric`` has one."""
    try:
        Metric.model_validate({"step": 0, **data})
    except ValidationError as exc:
        wrong = {error["loc"][0] for error in exc.errors(include_url=False)}
        return {name: value for name, value in data.items() if name not in wrong}
    return data


def metrics_by_step(events: Iterable[Event]) -> list[Metric]:
    """Return the metrics in these events; the later of two about a step counts."""
    by_step: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.type == "metrics" and isinstance(event.data.get("step"), int):
            known = {k: v for k, v in event.data.items() if v is not None}
            by_step.setdefault(event.data["step"], {}).update(known)
    return [Metric.model_validate(metrics_of(by_step[step])) for step in sorted(by_step)]


class Checkpoint(Given):
    """A model saved during training: a path (local) or a model id (hosted)."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    step: int
    model: str
    metrics: dict[str, Any] = Field(default_factory=dict)


# A model on the Hub: owner/name, or the name alone of an old one; never a path.
HUB_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,95}(/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?$"


class Artifact(Given):
    """A file of a job's model, as its host keeps it. All those of one kind together are the model:
    an adapter is its ``adapter_config.json`` and ``adapter_model.safetensors``, and more files
    where it has a tokenizer of its own; or one archive of them (.zip, .tar, .tar.gz, ...)."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{0,199}$")  # of the file here
    kind: Literal["adapter", "merged"]
    bytes: int = Field(ge=0, le=MOST)
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")  # None: the host gives none


class Result(Given):
    """What a backend returns for a job that has succeeded: the parts of a ``ModelHandle`` that only
    the backend knows."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    kind: Literal["hosted", "adapter", "merged", "reward"]  # reward: gives scores, no answers
    model: str  # hosted model id, or absolute folder
    # The base by its name on the Hub, where the host has another: what its adapter answers on.
    hub_base: str | None = Field(default=None, pattern=HUB_NAME)
    base_revision: str | None = None
    base_sha256: str | None = None  # of the weights of a base in a folder
    base_quantization: Literal["nf4"] | None = None  # how the base was loaded in training
    template_hash: str | None = None
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)  # switches, as in training
    first_answer: str | None = None  # set if the backend has already chatted with the model
    deploy: str | None = None  # the command that deploys it, at a host where it answers only then
    metrics: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)  # why the model may be of no use
    continued_from: list[str] = Field(default_factory=list)  # see ``HandleData``
    artifacts: list[Artifact] = Field(default_factory=list)  # what ``Backend.download`` can get


class Snapshot(Given):
    """The answer of ``Backend.poll``. The same cursor gives the same answer, or the same and more,
    so a crash between poll and store loses nothing."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    status: JobStatus
    job_id: str | None = None  # whose it is, if the backend shows that
    raw_status: str = ""
    phase: str = ""  # local detail: waiting for a slot, loading, training, saving, ...
    events: list[Event] = Field(default_factory=list)
    checkpoints: list[Checkpoint] = Field(default_factory=list)
    cursor: str | None = None
    more: bool = False  # events after these are there by now: ask again, from the cursor
    result: Result | None = None
    trained_tokens: int | None = None
    seconds: float | None = None  # spent so far, by the backend's own clock
    cost_usd: Decimal | None = None  # so far, as the host bills it; the last one is the actual cost
    progress: float | None = None  # from 0 to 1
    place_in_line: int | None = None  # of a job that waits for its host; 1 is the next one
    expected_start_at: float | None = None  # of one that waits; seconds since the epoch
    requeued: bool = False  # it waits again, after it has run: the status goes back to queued
    finished_at: float | None = None  # seconds since the epoch, if the backend reports it
    error: str | None = None


def going_on(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot as that of a job that has not ended: while it has more events, for an ended
    job is not polled again."""
    changes: dict[str, Any] = {"finished_at": None}
    if snapshot.status.final:
        changes |= {"status": JobStatus.RUNNING, "result": None, "error": None}
    return snapshot.model_copy(update=changes)
