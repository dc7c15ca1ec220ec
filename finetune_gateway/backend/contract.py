"""The contract of a backend: short calls, each of which returns at once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from finetune_gateway.backend import gateway_options
from finetune_gateway.backend.capabilities import Capabilities, Schedule
from finetune_gateway.backend.handle_data import HandleData
from finetune_gateway.backend.health import Health
from finetune_gateway.backend.params import BackendParams
from finetune_gateway.backend.plugin_objects import guarded_model
from finetune_gateway.backend.seam import CALL_SECONDS, guard_calls
from finetune_gateway.chat import ChatModel
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import UnsupportedError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.events import Artifact, Checkpoint, Result, Snapshot
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import TokenCounter
from finetune_gateway.tokens.masks.preview import PreviewRenderer
from finetune_gateway.tokens.stats import TokenStats

if TYPE_CHECKING:
    from finetune_gateway.backend.http import Client

# Seconds until a new job is in the lists of its host; our allowance, no host states one.
LIST_LAG = 10.0

JOB_TAG = "ftg_job_id"  # the key in a host's metadata that holds our id of the job

# The code of a BackendError of ``find``: only a person can tell whether the job was created.
NOT_SETTLED = "not_settled"
# The code with which a host refuses a chat with a model that has no deployment; Azure's word.
NOT_DEPLOYED = "DeploymentNotFound"
# As ``Result.deploy``: the model answers once ``Backend.deploy`` was called, as 'ftg deploy' does.
BY_FTG = "ftg deploy"


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


class Backend(ABC):
    """Where a fine-tuning job runs.

    Users name it (``backend="openai"``) or build it (``OpenAIBackend(base_url=...)``).
    ``finetune_gateway.testing.BackendContract`` tests what is said here.
    """

    name: ClassVar[str]
    # Seconds that a call may take, an upload more by its size: one that takes longer is cut off,
    # and goes on in a thread though nobody waits for it.
    call_seconds: ClassVar[float] = CALL_SECONDS
    params: ClassVar[type[BackendParams] | None] = None  # the settings that it alone has
    # What it uses of a Gateway's keys, http_client, proxy and timeout, by ``key`` and
    # ``http_client`` below; a hosted one is refused where another of these was given.
    gateway_options: ClassVar[frozenset[str]] = frozenset()
    restored: bool = False  # built from what a job or a handle says, not by a call of the user

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        gateway_options.read_attributes(cls)
        guard_calls(cls, Backend, guarded_model)
        gateway_options.guard_bind(cls)

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
        """Return the options that say where a job goes, but not the name of a key's variable: the
        same each time. A repeated submit is recognised by these and the account."""
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
        gateway_options.attach(self, settings)

    def key(self, variable: str, url: str) -> str | None:
        """Return the key for an address: the one that the Gateway was given for its host, for this
        backend or for the ``variable``. Where it was given no ``keys``, that of the environment; it
        comes from nowhere else. Raises AuthenticationError for what can be no key."""
        return gateway_options.key(self, variable, url)

    def required_key(self, variable: str, url: str) -> str:
        """Return the key for an address. Raises AuthenticationError if there is none."""
        if key := self.key(variable, url):
            return key
        raise gateway_options.no_key(self, variable, url)

    def http_client(self, url: str, timeout: float = 60.0) -> Client:
        """Return the client for requests to paths below an address: by the Gateway's own client or
        proxy, else the proxy of the environment; with the Gateway's time-out, else this one, in
        seconds without a byte. An ``httpx2.Client``; each request is a line in the log. The Gateway
        closes it."""
        return gateway_options.http_client(self, url, timeout)

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

    def models(self) -> list[str]:
        """Return the models that can be trained here; the host may be asked. Empty where it does
        not say."""
        return []

    def health(self) -> Health | None:
        """Ask the host for something that costs nothing, and return whether it answers and accepts
        the key; None where there is nothing to ask."""
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

    def close(self) -> None:
        """Let go of connections of its own; the next call makes new ones. Called when a Gateway is
        closed that has built it: an object of the user's stays as it is. Sends nothing."""
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

    def quote(
        self, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> Decimal | None:
        """Return what this job will cost, in USD, now that its files are uploaded; the host is
        asked. None if it does not say: the estimate stands. Creates nothing.

        Called before ``start``. A price above the user's limit, or the budget of the month, ends
        the job.
        """
        return None

    @property
    def gives_quotes(self) -> bool:
        """True for a backend that has a ``quote`` of its own."""
        return type(self).quote is not Backend.quote

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

    def pause(self, provider_id: str) -> None:
        """Ask a job to stop until ``resume``, without losing what it has trained; one that has
        ended stays as it is. Only where ``Capabilities.pauses``."""
        raise UnsupportedError(
            f"{self.display_name} cannot be asked to pause a job.",
            hint="Cancel it, or let it go on.",
            backend=self.name,
            option="pause",
        )

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

    def allow_changed_versions(self, provider_id: str, attempt: int) -> None:
        """Let the resume of this number go on with other versions of what trains than before.
        Raises UnsupportedError where they decide nothing."""
        why = f"Versions of packages here change nothing for {self.display_name}."
        option = "allow_changed_versions"
        raise UnsupportedError(why, hint="Leave it out.", backend=self.name, option=option)

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

    def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None:
        """Write a file of this model to ``folder / artifact.name``, whole: what an earlier call has
        left of it there may be gone on from. The gateway checks its size and its hash.

        Only where a ``Result`` has artifacts. Raises NotFoundError for one that is gone.
        """
        raise UnsupportedError(
            f"{self.display_name} gives no files of its models.",
            hint="Ask it as it is.",
            backend=self.name,
            option="download",
        )

    # -- deployments: of a model that answers only while something is rented for it --------------

    def deployment_price(self, handle: HandleData) -> Price | None:
        """Return what an hour of a deployment of this model costs, used or not; None if that is not
        known. Offline."""
        return None

    def deploy(self, handle: HandleData, name: str) -> str:
        """Let this model answer, by a deployment that is known as ``name``, and return what a chat
        names as its model then. One of this name that is there is not made again.

        It may return before the deployment answers: until then a chat raises a BackendError that is
        ``retryable``, or has the status code 404. ``maybe_applied`` of its own errors must be True
        if the deployment may be there. Of a model that needs one, ``Result.deploy`` is ``BY_FTG``.
        """
        raise UnsupportedError(
            f"{self.display_name} makes no deployments.",
            hint="Ask the model as it is.",
            backend=self.name,
            option="deploy",
        )

    def end_deployment(self, handle: HandleData, name: str) -> bool:
        """End a deployment, so that it costs no more; its model stays. Return False if there is
        none of this name any more."""
        raise UnsupportedError(
            f"{self.display_name} makes no deployments.",
            hint="End it at the host.",
            backend=self.name,
            option="deploy",
        )

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


class TakesSchedule(Protocol):
    """A backend with a line of its own: its ``start`` has one more keyword, given only where a job
    has a schedule, of what ``Capabilities.schedules`` names."""

    def start(
        self,
        job_id: str,
        spec: TrainingSpec,
        train: DataFile,
        validation: DataFile | None,
        *,
        schedule: Schedule,
    ) -> str: ...
