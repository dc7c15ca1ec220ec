"""What a backend implements, and everything its author needs: the one import of a plug-in.

Short calls, each of which returns at once. Waiting, retrying, storing and printing are written
once, in ``jobs``.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from pydantic import ConfigDict, Field

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
    "Checkpoint", "DataFile", "Dataset", "Estimate", "Event", "HandleData", "HostedCounter",
    "JobStatus", "LifeCycle", "Metric", "NotFoundError", "Range", "Result", "Settings", "Snapshot",
    "SpecError", "TokenCounter", "TokenStats", "TrainingSpec", "UnsupportedError", "Usage",
]  # fmt: skip

# Settings that say what to train rather than how: every backend understands them.
NEUTRAL = frozenset({"model", "method", "n_epochs", "seed", "suffix"})


@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, as data, so that a refusal comes before any work."""

    hosted: bool  # does the data leave this machine?
    methods: frozenset[str]
    priced: frozenset[str] = frozenset()  # methods it can estimate and not run
    training_types: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()  # spec fields it honours beside NEUTRAL
    min_rows: int = 1
    max_file_bytes: int | None = None
    max_context: int | None = None  # tokens per example; longer ones are cut at the end
    no_new_jobs_after: date | None = None
    life_cycle: LifeCycle | None = None  # the dates of the model that was asked for
    unknown_model_reason: str = ""  # why this backend certainly lacks the model; "" if it may not
    notes: tuple[str, ...] = ()
    poll_seconds: tuple[float, float] = (0.5, 2.0)  # first and longest pause between polls
    settle_seconds: float = 0.0  # how long a sent create may still take effect, see Gateway

    def require(self, backend: str, spec: TrainingSpec) -> None:
        """Raise UnsupportedError for the first thing in ``spec`` that this backend cannot do."""
        if spec.method not in self.methods | self.priced:
            raise UnsupportedError(
                f"Backend {backend!r} cannot do method {spec.method!r}; it does: "
                f"{', '.join(sorted(self.methods)) or 'none that is known here'}.",
                backend=backend,
                option="method",
            )
        if spec.training_type and spec.training_type not in self.training_types:
            can = ", ".join(sorted(self.training_types)) or "it decides itself"
            other = "use one of these" if self.training_types else "use --backend local"
            raise UnsupportedError(
                f"Backend {backend!r} cannot do training_type {spec.training_type!r} ({can}).",
                hint=f"Leave training_type out, or {other}.",
                backend=backend,
                option="training_type",
            )
        refused = spec.chosen - NEUTRAL - self.options - {"training_type"}
        if refused:
            name = sorted(refused)[0]
            raise UnsupportedError(
                f"Backend {backend!r} cannot honour {', '.join(sorted(refused))}.",
                hint=f"It honours: {', '.join(sorted(self.options | NEUTRAL))}.",
                backend=backend,
                option=name,
            )


@dataclass(frozen=True)
class DataFile:
    """A dataset as a backend receives it: a private copy named by its content."""

    path: Path
    sha256: str
    rows: int
    bytes: int
    remote_id: str | None = None  # set when the backend has already received this content


class Usage(Model):
    """Tokens of one answer, as the backend counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatReply(Model):
    """One answer."""

    text: str
    finish_reason: str | None = None  # stop | length | tool_calls | content_filter
    tool_calls: list[dict[str, Any]] = Field(default_factory=list)
    usage: Usage = Field(default_factory=Usage)
    seconds: float = 0.0  # from the request to the whole answer


class HandleData(Model):
    """What is known of a fine-tuned model: where it is and what it came from. JSON in and out.

    Only the *name* of the key's environment variable is kept, never its value.
    """

    model_config = ConfigDict(extra="forbid", defer_build=True, protected_namespaces=())

    handle_version: Literal[1] = 1
    kind: Literal["hosted", "adapter", "merged"]
    model: str  # hosted model id, or absolute folder
    base_model: str
    base_revision: str | None = None
    base_quantization: Literal["nf4"] | None = None  # how the base was loaded in training
    backend: str
    backend_options: dict[str, Any] = Field(default_factory=dict)
    base_url: str | None = None
    api_key_env: str | None = None
    template_hash: str | None = None  # sha256 of the chat template it was trained with
    system_prompt: str | None = None  # the one system prompt of the training data, if there was one
    job_id: str | None = None
    dataset_sha256: str | None = None
    metrics: dict[str, Any] = Field(default_factory=dict)
    created_at: float = Field(default_factory=time.time)  # seconds since the epoch
    ready_at: float | None = None  # when it first answered a chat
    first_answer: str | None = None
    retires_on: str | None = None  # YYYY-MM-DD, from the provider's dated profile

    @property
    def ready(self) -> bool:
        """True once the model has answered a chat."""
        return self.ready_at is not None


class ChatModel(Protocol):
    """Something that answers. ``messages`` is OpenAI's list of role and content."""

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply: ...

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]: ...


class Backend(ABC):
    """Where a fine-tuning job runs.

    Built by name (``backend="openai"``) or by you (``OpenAIBackend(base_url=...)``).
    ``options()`` gives what a new process needs to build the same one; never a secret.
    """

    name: ClassVar[str]

    @property
    def display_name(self) -> str:
        """Its name in what people read; a host of another backend's has its own."""
        return self.name

    @abstractmethod
    def capabilities(self, model: str | None = None) -> Capabilities:
        """What this backend can do (with this model); needs no key and no network."""

    def options(self) -> dict[str, Any]:
        """Constructor arguments as plain JSON, without secrets."""
        return {}

    def identity(self) -> dict[str, Any]:
        """The options that say where a job goes: two backends that are equal in these are one
        to a repeated submit and to the files already sent."""
        return self.options()

    def bind(self, settings: Settings) -> None:
        """Called by the gateway with its home folder. A backend without files ignores it."""
        return None

    def check(self, spec: TrainingSpec) -> None:
        """Raise when this spec cannot run here for a reason known before any work:
        an unknown model, a base already retired, a missing key."""
        return None

    @abstractmethod
    def counter(self, spec: TrainingSpec) -> TokenCounter:
        """Counts rows as this backend would. Exact where the tokenizer is known. Offline."""

    def preview_renderer(self, spec: TrainingSpec) -> PreviewRenderer | None:
        """Return what shows rows as this backend's models see them, offline; None: rows are shown
        by the hosts' documented rule."""
        return None

    @abstractmethod
    def estimate(
        self, spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None = None
    ) -> Estimate:
        """Money, time and memory of a run on rows with these ``tokens``, with a validation file
        or without. Offline."""

    def upload(self, file: DataFile) -> str | None:
        """Send a file; return the provider's id, or None where nothing is sent."""
        return None

    def find_upload(self, file: DataFile) -> str | None:
        """The id of a file that an earlier ``upload`` may have sent. An error says nothing
        about whether it was: None means it was looked for and is not there."""
        return None

    @abstractmethod
    def start(
        self, job_id: str, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> str:
        """Create the job once, tagged with our ``job_id``; return the provider's id.

        Raises BackendError; ``maybe_applied`` must be True when the job may exist.
        """

    @abstractmethod
    def find(self, job_id: str) -> str | None:
        """The provider's id of the job tagged ``job_id``, or None when there certainly is none.

        None allows the gateway to send the job again; a look that failed must raise.
        """

    @abstractmethod
    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        """Status and what is new since ``cursor``. Repeatable."""

    @abstractmethod
    def cancel(self, provider_id: str) -> None:
        """Ask the job to stop. Cancelling an ended job does nothing."""

    @abstractmethod
    def open(self, handle: HandleData) -> ChatModel:
        """Something that answers as the model of this handle."""

    def log_path(self, provider_id: str) -> Path | None:
        """A file with the raw log of the job, where there is one."""
        return None
