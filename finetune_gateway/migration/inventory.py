"""What some keys see of a host's fine-tunes, as data. None is what is not known, never zero."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict

from finetune_gateway.events import JobStatus
from finetune_gateway.model import Model
from finetune_gateway.renderers import Shown

# ``gone`` is said where a key that sees another file of the same job lacks this one; a key of
# another project lacks it as well, so that anything else is ``not_visible``.
FileState = Literal["there", "gone", "not_visible", "refused", "unknown"]
# ``hidden``: the host says that these keys may not see it. ``not_visible``: deleted, or hidden.
# ``deleted``: this home has done so.
ModelState = Literal["there", "deleted", "hidden", "not_visible", "retired", "unknown"]


class RemoteFile(Model):
    """A file of a job at its host."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    state: FileState
    name: str | None = None
    bytes: int | None = None


class TunedCheckpoint(Model):
    """A model that was saved on the way: all but the last, which is the fine-tune itself.
    ``state``: ``there`` where a list of models has it; most hosts list none of them."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str
    step: int | None = None
    state: ModelState = "unknown"


class Cost(Model):
    """What something has cost; ``source`` says how that is known."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    usd: Decimal
    estimated: bool
    source: str


class FineTune(Model):
    """One fine-tune: a job, and the model that it has made.

    ``keys``: the variables of the keys that see it. ``shutdown_from``: whose date it is, the
    ``model``'s own or its ``base``'s. ``checkpoints``: None where they were not asked for or were
    refused. ``cost``: of its training. ``billed``: what the bill has under its name since a day,
    which may be use, training or both. ``unused_since``: no use of it is known since then.
    ``our_job``: the id of the job in this home that made it.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    model: str | None
    base_model: str | None
    method: str | None = None
    job_id: str | None
    host: str
    profile: str
    keys: tuple[str, ...]
    created_at: float | None = None
    finished_at: float | None = None
    job_status: JobStatus | None = None
    raw_status: str | None = None
    model_state: ModelState = "unknown"
    shutdown_date: date | None = None
    shutdown_from: Literal["model", "base"] | None = None
    shutdown_source: str = ""
    days_left: int | None = None
    checkpoints: tuple[TunedCheckpoint, ...] | None = None
    training_file: RemoteFile | None = None
    validation_file: RemoteFile | None = None
    result_files: tuple[RemoteFile, ...] = ()
    hyperparameters: dict[str, Any] | None = None
    suffix: str | None = None
    seed: int | None = None
    trained_tokens: int | None = None
    cost: Cost | None = None
    billed: Cost | None = None
    last_used: date | None = None
    unused_since: date | None = None
    our_job: str | None = None

    @property
    def name(self) -> str:
        """Return the model's id, or the job's while there is none."""
        return self.model or self.job_id or "unknown"


class KeyView(Model):
    """What one key was shown: how many ``jobs``, ``models`` and ``files``. ``refused``: what the
    host did not tell it, each with why. ``cut``: lists that were not read to their end.
    ``admin``: it was asked for costs and usage alone."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    variable: str
    host: str
    jobs: int | None = None
    models: int | None = None
    files: int | None = None
    refused: dict[str, str] = {}
    missing_scopes: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    admin: bool = False


class Inventory(Shown, Model):
    """What these keys see of their host's fine-tunes, first lost first.

    ``without_model``: jobs that failed or were cancelled, and have no model; they are left out.
    ``requests``: how many were sent.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    fine_tunes: tuple[FineTune, ...]
    keys: tuple[KeyView, ...]
    as_of: float
    without_model: int = 0
    requests: int = 0
