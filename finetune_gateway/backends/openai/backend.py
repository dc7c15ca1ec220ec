"""The hosted backend: OpenAI's fine-tuning contract at any ``base_url``.

A job is bought once. ``start`` posts once: the SDK's own retries are off, because it repeats a
create that was applied, without an idempotency key (3 POSTs measured for one call).
``maybe_applied`` says if the job may exist, and ``find`` looks it up by its metadata or file.

Knows nothing of storage and waiting; those are in ``jobs``.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import openai

from finetune_gateway.backend import LIST_LAG, Backend, Capabilities, DataFile, HandleData, Intent
from finetune_gateway.backend.health import Health
from finetune_gateway.backends.openai import (
    bounds,
    clients,
    endpoint,
    finding,
    permission,
    reports,
    request,
    storage,
    terms,
    wire,
)
from finetune_gateway.backends.openai.chat import OpenAIChat
from finetune_gateway.backends.openai.retries import REFUSALS, retried
from finetune_gateway.errors import AuthenticationError, BackendError, SpecError, raise_alone
from finetune_gateway.estimation import profiles
from finetune_gateway.estimation.hosted import estimate_hosted, with_validation
from finetune_gateway.events import Checkpoint, JobStatus, Result, Snapshot
from finetune_gateway.methods import OPENAI_WORDS
from finetune_gateway.model import exact_methods
from finetune_gateway.settings import clock
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.client_options import AMBIENT, ClientOptions, Key
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.counter import HostedCounter

if TYPE_CHECKING:
    from finetune_gateway.estimation.estimate import Estimate
    from finetune_gateway.spec import TrainingSpec
    from finetune_gateway.tokens.stats import TokenStats


@exact_methods
class OpenAIBackend(Backend):
    """OpenAI, or another host of its contract.

    ================================================  =====================================
    ``OpenAIBackend()``                               api.openai.com, or OPENAI_BASE_URL
    ``OpenAIBackend(profile="nebius")``               a known host with its own key variable
    ``OpenAIBackend(profile="azure")``                the same; base_url is needed to send
    ``OpenAIBackend(base_url="https://gpu:8000/v1",`` any other host, and the key for it
    ``              api_key_env="GPU_KEY")``
    ================================================  =====================================

    ``request_timeout``: seconds in which the host may send nothing; a whole answer may take five
    times as long. ``settle_seconds``: how long a sent create may still take effect (default:
    request_timeout + 10). ``longest_wait``: seconds to wait at most when the host asks to (default:
    hosts.longest_wait_seconds of the settings, an hour). ``uploads_expire``: seconds after which
    the host deletes an upload, an hour to 30 days (default: hosts.uploads_expire_seconds, else
    never). ``azure_training``: how Azure trains, which decides where the data go: standard (the
    default), global, datazone or developer.

    A key is sent where its profile, OPENAI_BASE_URL (for OPENAI_API_KEY) or the settings
    (``keys.VARIABLE``) bind its variable, to an address given with it as above, and to this machine
    where ``base_url`` says so. ``allow_http``: ask a host beyond this machine by http://. Redirects
    are not followed.
    """

    name: ClassVar[str] = "openai"
    gateway_options = frozenset({"keys", "http_client", "proxy", "timeout"})

    def __init__(
        self,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        api_key_env: str | None = None,
        profile: str | None = None,
        request_timeout: float = 60.0,
        settle_seconds: float | None = None,
        poll_seconds: float = 2.0,
        longest_wait: float | None = None,
        allow_http: bool = False,
        uploads_expire: float | None = None,
        azure_training: str | None = None,
    ) -> None:
        endpoint.check_settings(locals())
        given = endpoint.default(profile) if base_url is None else base_url
        self._base_url = None if given is None else endpoint.checked(given)
        ours = self._base_url is not None and endpoint.is_openai(self._base_url)
        self.profile_name = profile or ("openai" if ours else "custom")
        self.profile = profiles.load_profile(self.profile_name)
        self.api_key_env = endpoint.checked_variable(api_key_env or self.profile.api_key_env)
        self.request_timeout = request_timeout
        self.settle_seconds = settle_seconds
        self.poll_seconds = poll_seconds  # between the first polls; later up to 15 times that
        self.longest_wait = longest_wait
        self.uploads_expire = storage.checked_lifetime(uploads_expire, self.profile)
        self.training = self.profile.checked_training(azure_training)
        self._api_key = api_key
        self._call = permission.Call(
            base_url is not None, api_key_env is not None, api_key, allow_http
        )
        self._settings: Settings | None = None
        self._client: clients.Client | None = None  # kept, so that it stays open
        self._tags = finding.TagMemory(self._base_url or "", None)

    @property
    def display_name(self) -> str:
        """Return the profile's name; ``openai`` for OpenAI and for hosts without a profile."""
        return self.name if self.profile_name == "custom" else self.profile_name

    @property
    def base_url(self) -> str:
        """Return the address. Raises SpecError if none was given and the profile has none."""
        if self._base_url is None:
            raise SpecError(
                f"Each customer of {self.profile.title} has an address of their own, and none was "
                "given.",
                hint=f"Pass base_url (--base-url), like {self.profile.base_url_hint}",
            )
        return self._base_url

    @property
    def host(self) -> str:
        """Return the host in the address."""
        return urlsplit(self.base_url).netloc

    def options(self) -> dict[str, Any]:
        """Return what builds this backend again: the key's variable, never the key."""
        return {
            "base_url": self._base_url,
            "api_key_env": self.api_key_env,
            "profile": self.profile_name,
            "request_timeout": self.request_timeout,
            "settle_seconds": self.settle_seconds,
            "poll_seconds": self.poll_seconds,
            "longest_wait": self.longest_wait,
            "uploads_expire": self.uploads_expire,
            **({"azure_training": self.training} if self.training else {}),
        }

    def identity(self) -> dict[str, Any]:
        """Return the host and, unless it is that of jobs before there was a choice, the way of
        training; time-outs and pauses do not matter here."""
        chosen = self.training not in (None, self.profile.earlier_training)
        return self.place() | ({"azure_training": self.training} if chosen else {})

    def place(self) -> dict[str, Any]:
        """Return the host, which has a file once for all ways of training."""
        return {"base_url": self._base_url}

    def account(self) -> str | None:
        """Return a salted fingerprint of the key, given by name or by value, with its organisation
        and project at OpenAI; None without a key."""
        key = self._given_key()
        if key is None or self._settings is None:
            return None
        scope = endpoint.scope(self.base_url)
        return self._settings.fingerprint(self.base_url, key.value, *scope)

    def __repr__(self) -> str:
        return f"OpenAIBackend(base_url={self._base_url!r}, profile={self.profile_name!r})"

    def bind(self, settings: Settings) -> None:
        """Use the price rows of this home folder before the package's, what it knows of the host,
        and the keys, the client and the time-out of its Gateway."""
        self._settings, self._client = settings, None
        self._tags = finding.TagMemory(self._base_url or "", settings.hosts)
        seconds = settings.client.timeout
        if self.restored and seconds is not None:
            # What was sent before took the time-out of the job, or its own pause.
            pause = self.capabilities().settle_seconds
            self.settle_seconds = max(pause, seconds + LIST_LAG)
            self.request_timeout = seconds

    @property
    def client_options(self) -> ClientOptions:
        """Return with what the Gateway reaches hosts."""
        return self._settings.client if self._settings else AMBIENT

    def close(self) -> None:
        """Let go of the connections to the host; the next call makes new ones."""
        self._client = None

    def remember(self) -> None:
        """Keep that this variable belongs to this address, if the user's call says so."""
        self._permission.remember(self._bindings)

    def today(self) -> date:
        """Return the day that decides which models are still open."""
        return clock.today()

    # -- before anything is sent ---------------------------------------------------------

    def capabilities(self, model: str | None = None) -> Capabilities:
        """Return what the host's dated profile says; no key, no network."""
        return terms.capabilities(self, model)

    def check(self, spec: TrainingSpec) -> None:
        """Raise UnsupportedError for a base or host that takes no jobs, NotFoundError for a model
        that the host does not have, SpecError for a suffix that it refuses or a missing address,
        AuthenticationError if there is no key for it."""
        terms.check(self, spec)
        endpoint.checked(self.base_url)  # raises if there is none
        self._permission.key(self._given_key(), self._bindings)

    def models(self) -> list[str]:
        """Return the bases that take new jobs today, by its profile."""
        return [row.model for row in self.profile.models if row.trainable(self.today())]

    def health(self) -> Health:
        """Ask the host for its models: that shows whether it answers and accepts the key."""
        with self.calling("list the models") as (client, _):
            return terms.health(self.host, client)

    def counter(self, spec: TrainingSpec) -> HostedCounter:
        """Return a counter that counts as OpenAI's chat models do."""
        return HostedCounter(spec.model, self.capabilities(spec.model).max_context)

    def estimate(
        self, spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None = None
    ) -> Estimate:
        """Return what the host would charge. Offline."""
        estimate = estimate_hosted(
            spec,
            tokens,
            self.profile,
            extra=self._settings.prices if self._settings else None,
            host=self.host if self._base_url else None,
            today=self.today(),
            training=self.training,
        )
        if validation is not None:
            estimate = with_validation(estimate, validation, self.profile)
        if spec.method in OPENAI_WORDS:
            return estimate
        warnings = [request.unsent(spec.method), *estimate.warnings]
        return estimate.model_copy(update={"warnings": warnings})

    # -- files ---------------------------------------------------------------------------

    def connect(self) -> None:
        """Make the client. Raises AuthenticationError for the key, BackendError for a proxy or a
        certificate that cannot be used."""
        with self.calling("connect"):
            return None

    def upload(self, file: DataFile) -> str:
        """Send a file under a name made from its content; return its id."""
        return storage.upload(self, file)

    def upload_lifetime(self) -> float | None:
        """Return the lifetime of an upload, by this backend or the settings; None: for good."""
        return storage.lifetime(self.uploads_expire, self.profile, self._settings)

    def find_upload(self, file: DataFile) -> str | None:
        """Return the id of a whole file with this content, if one was uploaded before."""
        return storage.find_upload(self, file)

    def find_uploads(self, file: DataFile, since: float, until: float) -> list[str]:
        """Return the ids of all files with the name of this content, whole or not."""
        return storage.find_uploads(self, file, since, until)

    def delete_file(self, remote_id: str) -> None:
        """Delete an upload at the host."""
        storage.delete_file(self, remote_id)

    def delete_model(self, model: str) -> None:
        """Delete a fine-tuned model, or a checkpoint, at the host."""
        storage.delete_model(self, model)

    # -- the job -------------------------------------------------------------------------

    def start(
        self,
        job_id: str,
        spec: TrainingSpec,
        train: DataFile,
        validation: DataFile | None,
        *,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Post the job once. ``BackendError.maybe_applied`` says if it may exist."""
        body = request.create_job(
            job_id, spec, train, validation, self.profile, metadata or {}, self.training
        )
        with self.calling("create the job", doubtful=True) as (client, call):
            raw = client.fine_tuning.jobs.with_raw_response.create(**body)
            answer = wire.read(raw, call)
            provider_id = wire.id_of(answer, call)
            if not finding.is_created(answer, job_id, train):
                raise wire.undecodable(call, wire.error_of(answer) or "")
            self._tags.look_at(answer)
            return provider_id

    def find(self, intent: Intent) -> str | None:
        """Return the id of the job of this intent, by its tag or else by its file.

        None only if the list was read to its end and proves it: the host keeps tags, and no job
        has ours; or it shows the files of its jobs, and none has ours. Else BackendError with the
        code ``not_settled``.
        """
        files = partial(storage.list_files, self)
        host = finding.Host(self.host, self._list_jobs, files, self._tags, self._documents_tags)
        return finding.find(intent, host)

    @property
    def _documents_tags(self) -> bool:
        """True if the documentation of this host says that it keeps tags; another host that was
        only given OpenAI's profile is not OpenAI."""
        ours = self.profile_name != "openai" or endpoint.is_openai(self.base_url)
        return bool(self.profile.keeps_metadata) and ours

    def _list_jobs(self, tag: dict[str, str] | None) -> tuple[list[wire.Json], bool]:
        """Return the jobs of the host, newest first, and True if the list was read to its end."""
        listing = self.calling("list the jobs", always_doubtful=True)
        with listing as (client, call), bounds.within():
            listed = client.fine_tuning.jobs.with_raw_response.list

            def fetch(after: str | None) -> wire.Answer:
                metadata = tag or openai.omit
                return retried(listed, metadata=metadata, limit=100, after=after or openai.omit)

            pages = wire.Pages(fetch, call)
            jobs = [job for page in pages for job in page]
            named = [job for job in jobs if wire.usable_id(job)]
            return named, pages.complete and len(named) == len(jobs)

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        """Return the job as it is now, with its events since ``cursor``; see ``reports.poll``."""
        return reports.poll(self, provider_id, cursor)

    def statuses(self, provider_ids: Collection[str]) -> dict[str, Snapshot]:
        """Return the status of those jobs that the host's list shows; see ``reports.statuses``."""
        return reports.statuses(self, frozenset(provider_ids))

    def cancel(self, provider_id: str) -> None:
        """Ask the job to stop; a job that has ended stays as it is."""
        self._ask_to("cancel", provider_id, lambda now: now.final or now is JobStatus.CANCELLING)

    def _ask_to(self, word: str, job: str, heeded: Callable[[JobStatus], bool]) -> None:
        """Ask a job to cancel or resume. After a refusal, or an answer that is not this job (the
        page of a portal, with 200), raise that error unless the job's status shows it ``heeded``.
        """
        with self.calling(f"{word} the job") as (client, call):
            jobs = client.fine_tuning.jobs.with_raw_response
            try:
                answer = wire.read(retried(getattr(jobs, word), job), call)
                if wire.id_of(answer, call) != job:
                    raise wire.undecodable(call)
            except (*REFUSALS, BackendError):
                now = wire.read(retried(jobs.retrieve, job), call)
                if now.get("id") != job or not heeded(wire.status_of(now)):
                    raise

    def deploy_command(self, model: str) -> str | None:
        """Return the command that deploys a tuned model; None where it answers without."""
        if not self.profile.deploy_command:
            return None
        resource = shlex.quote(endpoint.resource(self.base_url, self.profile))
        return self.profile.deploy_command.format(model=shlex.quote(model), resource=resource)

    def checkpoint(self, provider_id: str, point: Checkpoint) -> Result:
        """Return a checkpoint, which has an id of its own at the host."""
        deploy = self.deploy_command(point.model)
        return Result(kind="hosted", model=point.model, deploy=deploy)

    def resume(self, provider_id: str, attempt: int) -> None:
        """Ask a paused job to go on; a job that is not paused stays as it is."""
        waits = (JobStatus.PAUSED, JobStatus.UNKNOWN)
        self._ask_to("resume", provider_id, lambda now: now not in waits)

    def open(self, handle: HandleData) -> OpenAIChat:
        """Return the model of a handle. Raises AuthenticationError if there is no key."""
        return OpenAIChat(self, handle.model)

    # -- the client ----------------------------------------------------------------------

    @property
    def chat_patience(self) -> float:
        """Return how long a chat waits, in seconds, when the host asks for it."""
        longest = self.longest_wait
        return self.request_timeout if longest is None else min(longest, self.request_timeout)

    @contextmanager
    def calling(
        self, what: str, *, doubtful: bool = False, always_doubtful: bool = False
    ) -> Iterator[tuple[openai.OpenAI, wire.Call]]:
        """Yield the client for one call; the SDK's exceptions become ours."""
        self.client_options.require_open()
        given, proxy = self._given_key(), self.client_options.proxy_for(self.base_url)
        secret = given.value if given else None
        asked = (what, self.name, self.host, self.key_words)
        call = wire.Call(*asked, secret, proxy, doubtful, always_doubtful)
        shared = self._connect(call, given)
        try:
            yield shared.sdk, call
        except wire.FAILURES as exc:
            # Not chained: the SDK's exception holds the request, with the key in its headers.
            raise_alone(wire.translate(exc, call))

    def _connect(self, call: wire.Call, given: Key | None) -> clients.Client:
        """Return the client for today's key. Raises AuthenticationError if there is none."""
        try:
            key = self._permission.key(given, self._bindings)
        except AuthenticationError as exc:
            exc.maybe_applied = call.always_doubtful
            raise
        try:
            client = clients.shared(self.base_url, key, self.request_timeout, self.client_options)
        except wire.NOT_CONNECTABLE as exc:
            raise_alone(wire.not_connectable(exc, call))
        self._client = client
        return client

    def _given_key(self) -> Key | None:
        """Return the key: that of the call, else of the Gateway, else of the environment."""
        return permission.given_key(
            self._api_key, self.client_options, self.api_key_env, self.profile_name, self._base_url
        )

    @property
    def key_words(self) -> str:
        """Return which key is sent: ``the key in OPENAI_API_KEY``."""
        return self._permission.key_words

    @property
    def _permission(self) -> permission.Permission:
        call = permission.RESTORED if self.restored else self._call
        ambient = self.client_options.ambient
        return permission.Permission(self.api_key_env, self.base_url, call, ambient)

    @property
    def _bindings(self) -> Bindings:
        return Bindings(self._settings or Settings.load())
