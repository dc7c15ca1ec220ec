"""The contract of a backend, and every type it uses: the one import of a plug-in.

A backend has short calls, each of which returns at once. Waiting, retrying and storing are in
``jobs``, once for all backends.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import (
    ConfigDict,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from finetune_gateway import methods
from finetune_gateway.chat import ChatModel, ChatReply, ChatStream, Usage
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import (
    AuthenticationError,
    BackendError,
    NotFoundError,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.estimation.profiles import LifeCycle
from finetune_gateway.events import Checkpoint, Event, JobStatus, Metric, Result, Snapshot
from finetune_gateway.methods import LORA
from finetune_gateway.model import Model
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter, TokenCounter
from finetune_gateway.tokens.stats import TokenStats

if TYPE_CHECKING:
    # The type checker alone: previews bring jinja2.
    from finetune_gateway.tokens.masks.preview import PreviewRenderer

__all__ = [
    "AuthenticationError", "Backend", "BackendError", "Capabilities", "ChatModel", "ChatReply",
    "ChatStream", "Checkpoint", "DataFile", "Dataset", "Estimate", "Event", "HandleData",
    "HostedCounter", "Intent", "JobStatus", "LifeCycle", "Metric", "NotFoundError", "Range",
    "Result", "Settings", "Snapshot", "SpecError", "TakesMetadata", "TokenCounter", "TokenStats",
    "TrainingSpec", "UnsupportedError", "Usage",
]  # fmt: skip

# Seconds until a new job is in the lists of its host; our allowance, no host states one.
LIST_LAG = 10.0

JOB_TAG = "ftg_job_id"  # the key in a host's metadata that holds our id of the job

# The code of a BackendError of ``find``: only a person can tell whether the job was created.
NOT_SETTLED = "not_settled"
# The code with which a host refuses a chat with a model that has no deployment; Azure's word.
NOT_DEPLOYED = "DeploymentNotFound"

# Settings that say what to train rather than how: every backend understands them.
NEUTRAL = frozenset({"model", "method", "n_epochs", "seed", "suffix"})


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, as data, so that a job is refused before any work."""

    hosted: bool  # True if the data leave this machine
    methods: frozenset[str]
    rules: str | Mapping[str, str] = "common"  # a family of data rules, or codes -> severities
    priced: frozenset[str] = frozenset()  # methods it can price but not run
    training_types: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()  # spec fields it honours in addition to NEUTRAL
    fixed: Mapping[str, Any] = field(default_factory=dict)  # those it honours at one value alone
    min_rows: int = 1
    max_file_bytes: int | None = None
    max_context: int | None = None  # tokens per example; longer examples are cut at the end
    no_new_jobs_after: date | None = None
    life_cycle: LifeCycle | None = None  # dates of the model, where one is named
    unknown_model_reason: str = ""  # why this backend certainly lacks the model; "" if it may not
    notes: tuple[str, ...] = ()
    resumes: frozenset[JobStatus] = frozenset()  # states that ``Backend.resume`` leads out of
    poll_seconds: tuple[float, float] = (0.5, 2.0)  # first and longest wait between polls
    settle_seconds: float = 0.0  # how long a sent create may still take effect
    takes_metadata: bool = False  # True if it is a TakesMetadata
    longest_wait: float | None = None  # seconds to wait at most when asked to; None: the setting
    deletes: frozenset[Literal["file", "model"]] = frozenset()  # what the host deletes when asked

    def require(self, backend: str, spec: TrainingSpec) -> None:
        """Raise UnsupportedError for the first thing in ``spec`` that this backend cannot do."""
        if spec.method not in self.methods | self.priced:
            raise UnsupportedError(
                f"Backend {backend!r} cannot do method {spec.method!r}; it does: "
                f"{', '.join(sorted(self.methods)) or 'none that we know of'}.",
                hint="Use --backend local." if spec.method in methods.TRAINERS else "",
                backend=backend,
                option="method",
            )
        if spec.training_type and spec.training_type not in self.training_types:
            can = ", ".join(sorted(self.training_types)) or "it chooses itself"
            other = "use one of these" if self.training_types else "use --backend local"
            raise UnsupportedError(
                f"Backend {backend!r} cannot do training_type {spec.training_type!r} ({can}).",
                hint=f"Leave training_type out, or {other}.",
                backend=backend,
                option="training_type",
            )
        fixed = {name for name, value in self.fixed.items() if getattr(spec, name) == value}
        refused = sorted(spec.chosen - NEUTRAL - self.options - fixed - {"training_type"})
        if refused:
            honoured = f"It honours: {', '.join(sorted(self.options | NEUTRAL))}."
            named = "It trains on from a model of its own that is named as model, like ft:..."
            raise UnsupportedError(
                f"Backend {backend!r} cannot honour {', '.join(refused)}.",
                hint=named if self.hosted and refused[0] == "continue_from" else honoured,
                backend=backend,
                option=refused[0],
            )
        if not spec.chosen <= NEUTRAL:
            methods.require(spec)
        unused = sorted(spec.chosen & LORA) if spec.training_type == "full" else []
        if unused:
            raise UnsupportedError(
                f"training_type 'full' has no adapter, so it cannot honour {', '.join(unused)}.",
                hint="Leave it out, or use training_type='lora'.",
                backend=backend,
                option=unused[0],
            )


@dataclass(frozen=True)
class DataFile:
    """A dataset as a backend receives it: a copy named by its content."""

    path: Path
    sha256: str
    rows: int
    bytes: int
    remote_id: str | None = None  # set once the backend has this content


@dataclass(frozen=True)
class Intent:
    """A job that may have been created, with all that it can be recognised by."""

    job_id: str  # the tag it was sent with
    spec: TrainingSpec
    train: DataFile  # with the provider's id, if one is known
    validation: DataFile | None = None
    sent_at: float = 0.0  # seconds since the epoch; no create was sent before
    others: frozenset[str] = frozenset()  # provider's ids of our other jobs there: never this one
    # True if another job of ours may be there on the same file, trained in another way, whose id is
    # not known either: then the file does not show which of the two a job is.
    contested: bool = False
    # False if the key at hand may belong to another account than the job: then only our tag shows
    # that a job is this one.
    same_account: bool = True


class HandleData(Model):
    """A fine-tuned model: where it is and what it was made from. JSON in and out.

    It keeps the *name* of the key's environment variable, never its value.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True, protected_namespaces=())

    handle_version: Literal[1] = 1
    kind: Literal["hosted", "adapter", "merged", "reward"]
    model: str  # hosted model id, or absolute folder
    base_model: str
    base_revision: str | None = None
    base_sha256: str | None = None  # of the weights of a base in a folder; a hub's has a revision
    base_quantization: Literal["nf4"] | None = None  # how the base was loaded in training
    backend: str
    backend_options: dict[str, Any] = Field(default_factory=dict)
    base_url: str | None = None
    api_key_env: str | None = None
    template_hash: str | None = None  # sha256 of the chat template it was trained with
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)  # switches, as in training
    system_prompt: str | None = None  # of the training data, if all rows have the same one
    job_id: str | None = None
    step: int | None = None  # of a checkpoint of the job
    # The base and the trainings before the job's own: ["builtin/tiny", "sft ftg-7kq3@200"].
    continued_from: list[str] = Field(default_factory=list)
    dataset_sha256: str | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)  # why it may be of no use, from its training
    created_at: float = Field(default_factory=time.time)  # seconds since the epoch
    ready_at: float | None = None  # when it first answered a chat
    first_answer: str | None = None
    retires_on: str | None = None  # YYYY-MM-DD, from the provider's dated profile
    deploy: str | None = None  # the command that deploys it; None where it answers, or may
    deployment: dict[str, Any] = Field(default_factory=dict)  # that we made for it
    _allows_changed_base: bool = PrivateAttr(default=False)

    @property
    def allows_changed_base(self) -> bool:
        """True if the caller wants an answer on a base that has changed since training. Never
        stored: no file can say it."""
        return self._allows_changed_base

    @property
    def ready(self) -> bool:
        """True once the model has answered a chat."""
        return self.ready_at is not None

    @model_serializer(mode="wrap")
    def _dump(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is empty and came later: versions that do not know it read the rest."""
        fields: dict[str, Any] = write(self)
        later = (
            *("base_sha256", "deploy", "deployment", "chat_template_kwargs", "warnings", "step"),
            "continued_from",
        )
        unused = [name for name in later if not getattr(self, name)]
        return {name: value for name, value in fields.items() if name not in unused}


class Backend(ABC):
    """Where a fine-tuning job runs.

    Users name it (``backend="openai"``) or build it (``OpenAIBackend(base_url=...)``).
    ``finetune_gateway.testing.BackendContract`` tests what is said here.
    """

    name: ClassVar[str]
    restored: bool = False  # built from what a job or a handle says, not by a call of the user

    @property
    def display_name(self) -> str:
        """Return its name in messages; a host with a profile has a name of its own."""
        return self.name

    @abstractmethod
    def capabilities(self, model: str | None = None) -> Capabilities:
        """Return what this backend can do (with this model). Needs no key and no network."""

    def options(self) -> dict[str, Any]:
        """Return the constructor arguments as plain JSON, enough for another process to build the
        same backend; never a secret."""
        return {}

    def identity(self) -> dict[str, Any]:
        """Return the options that say where a job goes, but not the name of a key's variable. A
        repeated submit is recognised by these and the account."""
        return self.options()

    def place(self) -> dict[str, Any]:
        """Return the part of ``identity`` that says where files go: a file that is there for one
        job is there for all with the same place and account."""
        return self.identity()

    def account(self) -> str | None:
        """Return a salted fingerprint of the key at hand: ``settings.fingerprint(host, key)``. None
        without a key, and for a backend without accounts.

        A job and its files are sent and asked for with a key of its own account alone.
        """
        return None

    def bind(self, settings: Settings) -> None:
        """Use the home folder of this gateway; called before any work. A backend without files
        ignores it."""
        return None

    def remember(self) -> None:
        """Keep in the home folder what a later process has to know of the user's call, beside
        ``options``: called before a job is stored."""
        return None

    def resolve(self, spec: TrainingSpec, train: Dataset | None = None) -> TrainingSpec:
        """Return the spec as it will be stored: what depends on this call of the user, such as a
        relative path, is made independent of it. Called once, before the spec is used.

        ``train``: the training rows, where there are some. A resolved spec is returned as it is.
        """
        return spec

    def check_model(self, spec: TrainingSpec) -> None:
        """Raise if the model of a spec cannot be trained as it is: of a plan, before its data are
        read. Offline."""
        return None

    def check(self, spec: TrainingSpec) -> None:
        """Raise if this spec cannot run here for a reason known before any work: an unknown model,
        a base that is retired, a missing key."""
        return None

    @abstractmethod
    def counter(self, spec: TrainingSpec) -> TokenCounter:
        """Return a counter that counts rows as this backend does. Offline."""

    def preview_renderer(self, spec: TrainingSpec) -> PreviewRenderer | None:
        """Return what shows rows as this backend's models see them, offline; None to show them by
        the hosts' documented rule."""
        return None

    @abstractmethod
    def estimate(
        self, spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None = None
    ) -> Estimate:
        """Return money, time and memory of a run on rows with these ``tokens``. Offline."""

    def connect(self) -> None:
        """Get ready to send; raise for what makes that impossible. Sends nothing: called before
        the first request that may change something."""
        return None

    def upload(self, file: DataFile) -> str | None:
        """Send a file once and return the provider's id; None if nothing is sent."""
        return None

    def upload_lifetime(self) -> float | None:
        """Return for how many seconds the host keeps what ``upload`` sends; None: until it is
        deleted."""
        return None

    def find_upload(self, file: DataFile) -> str | None:
        """Return the id of a file with this content that an earlier ``upload`` has sent; None if
        there certainly is none. A search that failed must raise."""
        return None

    def find_uploads(self, file: DataFile, since: float, until: float) -> list[str]:
        """Return the ids of all uploads of this content that were sent between these two moments,
        as far as the host says when; also of those that broke off or were refused. ``ftg prune
        --remote`` deletes them. Raises BackendError if not all could be looked through."""
        found = self.find_upload(file)
        return [] if found is None else [found]

    @abstractmethod
    def start(
        self, job_id: str, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> str:
        """Create the job once, tagged with our ``job_id``, and return the provider's id.

        Raises BackendError; ``maybe_applied`` must be True if the job may exist.
        """

    @abstractmethod
    def find(self, intent: Intent) -> str | None:
        """Return the provider's id of the job of this intent; None only if it can be known that
        there is none.

        None allows the gateway to send the job again. Everything else raises BackendError with
        ``maybe_applied``: a search that failed, a list that was not read to its end, and, with the
        code ``not_settled``, a host whose answers cannot tell.
        """

    @abstractmethod
    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        """Return the status, and what is new since ``cursor``. Repeatable: the same cursor gives
        the same answer, or the same and more."""

    def statuses(self, provider_ids: Collection[str]) -> dict[str, Snapshot]:
        """Return what is known of many jobs, by their ids, in as few requests as possible: their
        ``status``, ``raw_status``, ``phase`` and ``finished_at``; the rest does not count.

        A job that differs from what is stored is polled, and so is one that is left out: leave out
        what a list does not tell. By default each job is polled.
        """
        return {provider_id: self.poll(provider_id, None) for provider_id in provider_ids}

    @abstractmethod
    def cancel(self, provider_id: str) -> None:
        """Ask the job to stop; a job that has ended stays as it is."""

    def resume(self, provider_id: str, attempt: int) -> None:
        """Let a job in a state of ``Capabilities.resumes`` go on as the same job; leave others as
        they are.

        ``attempt`` counts the resumes of an ended job, from 1: a second call with the same number
        changes nothing. Raises UnsupportedError if this job certainly cannot go on.
        """
        raise UnsupportedError(
            f"{self.display_name} cannot let a job go on.",
            hint="Submit it again.",
            backend=self.name,
            option="resume",
        )

    def rewind(self, provider_id: str, point: Checkpoint) -> None:
        """Forget what an ended job has saved after a checkpoint: ``resume`` then goes on from that
        one. Raises UnsupportedError, and then nothing is forgotten."""
        why = f"{self.display_name} lets no job go on from a checkpoint of its choice."
        raise UnsupportedError(why, hint="Leave it out.", backend=self.name, option="resume")

    def checkpoint(self, provider_id: str, point: Checkpoint) -> Result:
        """Return a model that this job has saved during training as if it were its result. Raises
        NotFoundError for one that is gone."""
        return Result(kind="hosted", model=point.model)

    @abstractmethod
    def open(self, handle: HandleData) -> ChatModel:
        """Return the model of this handle, ready to chat."""

    def log_path(self, provider_id: str) -> Path | None:
        """Return the file with the raw log of the job, if there is one."""
        return None

    # -- what is deleted ------------------------------------------------------------------

    def kept_files(self, provider_id: str, *, model: bool = True) -> list[Path]:
        """Return the files and folders in which this machine keeps an ended job: ``ftg rm`` deletes
        them. Without ``model``, those that its model does without: ``ftg prune`` deletes these.

        Raises JobNotFinished while something still writes to them.
        """
        return []

    def delete_file(self, remote_id: str) -> None:
        """Delete an upload at the host; one that is not there is no error. Only where
        ``Capabilities.deletes`` has ``file``."""
        raise self.cannot_delete("an uploaded file")

    def delete_model(self, model: str) -> None:
        """Delete a model that a job has made, or one of its checkpoints, at the host; one that is
        not there is no error. Only where ``Capabilities.deletes`` has ``model``."""
        raise self.cannot_delete("a model")

    def cannot_delete(self, what: str) -> UnsupportedError:
        """Return the error for a host that is not known to delete this."""
        return UnsupportedError(
            f"{self.display_name} cannot be asked to delete {what}.",
            hint="Delete it there yourself.",
            backend=self.name,
            option="delete",
        )


class TakesMetadata(Protocol):
    """A backend that keeps the user's own metadata with a job: its ``start`` has one more keyword,
    given only where ``Capabilities.takes_metadata`` says so."""

    def start(
        self,
        job_id: str,
        spec: TrainingSpec,
        train: DataFile,
        validation: DataFile | None,
        *,
        metadata: Mapping[str, str],
    ) -> str: ...
