"""A backend of another package, with every call of the contract and every name that
``finetune_gateway.backend`` gives to its author. Type checkers read it, nobody runs it."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from collections.abc import Sequence as SequenceOf
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar, assert_type

import pytest

from finetune_gateway import Preview, Sequence
from finetune_gateway import backend as contract
from finetune_gateway.backend import (
    BY_FTG,
    Artifact,
    AuthenticationError,
    Backend,
    BackendError,
    BackendParams,
    Capabilities,
    ChatModel,
    ChatReply,
    ChatsMany,
    ChatStream,
    Checkpoint,
    DataError,
    DataFile,
    Dataset,
    Estimate,
    Event,
    GatewayError,
    HandleData,
    Health,
    HostedCounter,
    Intent,
    JobNotFinished,
    JobStatus,
    LifeCycle,
    Metric,
    MissingDependency,
    MissingScopeError,
    NotFoundError,
    PreviewRenderer,
    Price,
    Range,
    Result,
    RowTokens,
    Schedule,
    Settings,
    Snapshot,
    SpecError,
    StoreError,
    TakesMetadata,
    TakesSchedule,
    TokenCounter,
    TokenStats,
    TrainingSpec,
    UnsupportedError,
    Usage,
    auto_epochs,
    epochs_of,
    find_price,
    gpu_prices,
)
from finetune_gateway.testing import BackendContract, FinishedJob

FREE = Decimal(0)


class AcmeParams(BackendParams):
    """Settings of its own."""

    warmup_steps: int = 0


class AcmeBackend(Backend):
    """Each call, with its types."""

    name: ClassVar[str] = "acme"
    params: ClassVar[type[BackendParams] | None] = AcmeParams
    gateway_options: ClassVar[frozenset[str]] = frozenset({"keys", "http_client"})

    def __init__(self, region: str = "eu") -> None:
        self.region = region
        self.settings: Settings | None = None

    @property
    def display_name(self) -> str:
        return f"{self.name} {self.region}"

    def capabilities(self, model: str | None = None) -> Capabilities:
        return Capabilities(
            hosted=True, methods=frozenset({"sft"}), rules={"extends": "openai"},
            priced=frozenset({"dpo"}), training_types=frozenset({"lora"}),
            options=frozenset({"lora_r"}), fixed={"optim": "adamw_torch"}, min_rows=10,
            max_file_bytes=1 << 30, max_context=4096, no_new_jobs_after=date(2027, 1, 1),
            life_cycle=None, unknown_model_reason="", notes=("A note.",),
            resumes=frozenset({JobStatus.PAUSED}), poll_seconds=(1.0, 30.0), settle_seconds=60.0,
            takes_metadata=True, longest_wait=600.0, deletes=frozenset({"file"}),
            schedules=frozenset({"priority", "after", "at"}), pauses=True,
        )  # fmt: skip

    def options(self) -> dict[str, Any]:
        return {"region": self.region}

    def identity(self) -> dict[str, Any]:
        return self.options()

    def place(self) -> dict[str, Any]:
        return {}

    def account(self) -> str | None:
        if self.settings is None:
            return None
        return self.settings.fingerprint("acme.example", "key", "project")

    def bind(self, settings: Settings) -> None:
        self.settings = settings

    def ask(self, path: str) -> int:
        key: str = self.key("ACME_KEY", "https://acme.example") or self.required_key(
            "A", "https://b"
        )
        client = self.http_client("https://acme.example", timeout=5)
        return client.get(path, headers={"x-api-key": key}).status_code

    def remember(self) -> None: ...

    def resolve(self, spec: TrainingSpec, train: Dataset | None = None) -> TrainingSpec:
        return spec.model_copy(update={"model": spec.model.lower()})

    def check_model(self, spec: TrainingSpec) -> None:
        if spec.model != "m":
            raise NotFoundError(f"There is no {spec.model}.", hint="Choose m.")

    def check(self, spec: TrainingSpec) -> None:
        raise AuthenticationError("No key.", hint="Set ACME_KEY.", backend=self.name)

    def health(self) -> Health | None:
        return Health(ok=True, detail="It answers.", latency_s=0.1)

    def quote(
        self, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> Decimal | None:
        assert_type(AcmeParams.of(spec), AcmeParams)
        return AcmeParams.of(spec).warmup_steps * FREE if self.gives_quotes else None

    def connect(self) -> None:
        raise MissingDependency("Backend 'acme'", "acme")

    def counter(self, spec: TrainingSpec) -> TokenCounter:
        return HostedCounter(spec.model, max_context=4096)

    def preview_renderer(self, spec: TrainingSpec) -> PreviewRenderer | None:
        return AcmePreviews(spec.model, encoding="bytes", limit=None)

    def estimate(
        self, spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None = None
    ) -> Estimate:
        low, epochs, high, rule = epochs_of(spec, tokens.rows)
        assert_type((low, high, auto_epochs(tokens.rows)), tuple[int, int, int])
        row = find_price("acme", spec.model, "train_mtok", extra=None, tier=None)
        assert_type(row, Price | None)
        assert_type([one.usd for one in gpu_prices("H200", extra=Path("x"))], list[Decimal])
        return Estimate(
            backend=self.name, model=spec.model, method=spec.method, n_epochs=epochs,
            n_epochs_rule=rule, tokens=tokens, validation_tokens=None,
            cost_usd=Range(low=FREE, expected=FREE, high=FREE), data_leaves_machine=True,
        )  # fmt: skip

    def upload(self, file: DataFile) -> str | None:
        return f"{file.path.name}-{file.sha256}-{file.rows}-{file.bytes}-{file.remote_id}"

    def upload_lifetime(self) -> float | None:
        return 3600.0

    def find_upload(self, file: DataFile) -> str | None:
        return None

    def find_uploads(self, file: DataFile, since: float, until: float) -> list[str]:
        return []

    def start(
        self, job_id: str, spec: TrainingSpec, train: DataFile, validation: DataFile | None,
        *, metadata: Mapping[str, str] | None = None, schedule: Schedule | None = None,
    ) -> str:  # fmt: skip
        raise BackendError(
            "Timed out.", hint="Wait.", backend=self.name, status_code=504, code="x",
            maybe_applied=True, retryable=True, retry_after=1.5, not_there=False, param="seed",
            request_id="req_1",
        )  # fmt: skip

    def find(self, intent: Intent) -> str | None:
        assert_type((intent.job_id, intent.sent_at), tuple[str, float])
        assert_type((intent.others, intent.contested), tuple[frozenset[str], bool])
        assert_type((intent.train, intent.validation), tuple[DataFile, DataFile | None])
        assert_type((intent.spec, intent.same_account), tuple[TrainingSpec, bool])
        raise BackendError("It keeps no tags.", code=contract.NOT_SETTLED, maybe_applied=True)

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        event = Event(id="1", level="info", type="metrics", message="", data={"step": 1})
        return Snapshot(
            status=JobStatus.parse("running"), job_id=None, raw_status="busy", phase="training",
            events=[event], checkpoints=[Checkpoint(id="1", step=1, model="m", metrics={})],
            cursor="1", result=Result(kind="hosted", model="m"), trained_tokens=9, seconds=1.0,
            finished_at=None, error=None,
        )  # fmt: skip

    def statuses(self, provider_ids: Collection[str]) -> dict[str, Snapshot]:
        return {one: self.poll(one, None) for one in provider_ids}

    def cancel(self, provider_id: str) -> None: ...

    def pause(self, provider_id: str) -> None: ...

    def resume(self, provider_id: str, attempt: int) -> None: ...

    def allow_changed_versions(self, provider_id: str, attempt: int) -> None: ...

    def rewind(self, provider_id: str, point: Checkpoint) -> None: ...

    def checkpoint(self, provider_id: str, point: Checkpoint) -> Result:
        kept = Artifact(name="adapter.safetensors", kind="adapter", bytes=9, sha256=None)
        return Result(kind="hosted", model=point.model, deploy=BY_FTG, artifacts=[kept])

    def download(self, artifact: Artifact, handle: HandleData, folder: Path) -> None:
        (folder / artifact.name).write_bytes(b"weights")

    def deployment_price(self, handle: HandleData) -> Price | None:
        return None

    def deploy(self, handle: HandleData, name: str) -> str:
        return name

    def end_deployment(self, handle: HandleData, name: str) -> bool:
        return True

    def open(self, handle: HandleData) -> ChatModel:
        return AcmeChat(handle.model)

    def log_path(self, provider_id: str) -> Path | None:
        return None

    def kept_files(self, provider_id: str, *, model: bool = True) -> list[Path]:
        return []

    def delete_file(self, remote_id: str) -> None:
        raise self.cannot_delete("uploads")

    def delete_model(self, model: str) -> None:
        raise UnsupportedError("No.", hint="", backend=self.name, option="delete_model")


class AcmeChat:
    """A model of a plug-in."""

    def __init__(self, model: str) -> None:
        self.model = model

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        return ChatReply(text="Yes.", usage=Usage(prompt_tokens=1, completion_tokens=1))

    def stream(
        self, messages: list[dict[str, Any]], **sampling: Any
    ) -> Generator[str, None, ChatReply]:
        yield "Yes."
        return self.chat(messages, **sampling)

    def chat_many(
        self, conversations: SequenceOf[Mapping[str, Any]], **sampling: Any
    ) -> list[ChatReply | GatewayError]:
        return [self.chat(list(one["messages"])) for one in conversations]


class AcmePreviews(PreviewRenderer):
    """Which tokens are trained, by a rule of its own."""

    def conversation(self, messages: list[dict[str, Any]], row: dict[str, Any]) -> list[Sequence]:
        return [self.text(str(messages))]

    def pair(self, row: dict[str, Any]) -> list[Sequence]:
        return [self.text(str(row)), self.text("")]

    def pair_notes(self, chosen: Sequence, rejected: Sequence) -> list[str]:
        return []

    def text(self, text: str) -> Sequence:
        shown = Sequence()
        shown.add([*text.encode()], chr, self.limit, trained=True)
        return shown

    def text_notes(self) -> list[str]:
        return []

    def notes(self, messages: list[dict[str, Any]], row: dict[str, Any]) -> list[str]:
        return ["Every byte is a token."]


class TestAcme(BackendContract):
    """The author's tests."""

    ends_at_once = True
    seconds = 5.0

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, settings: Settings) -> Backend:
        made = AcmeBackend()
        made.bind(settings)
        return made


def protocols(done: FinishedJob) -> tuple[TakesMetadata, TakesSchedule, ChatsMany, Iterator[str]]:
    """What they are to the gateway."""
    assert_type(done.last, Snapshot)
    assert_type(AcmePreviews("m", "bytes", None).preview({"text": "x"}), Preview)
    return AcmeBackend(), AcmeBackend(), AcmeChat("m"), ChatStream(iter(["Yes."]))


def others(counter: TokenCounter, dates: LifeCycle, handle: HandleData) -> None:
    assert_type(counter.add({"messages": []}), RowTokens)
    assert_type(counter.fresh().measure({}).truncated(9).trained, int)
    counter.totals()
    assert_type(counter.add_plain([], [], limit=None), int)
    assert_type(HostedCounter("m").add_sent({}), RowTokens)
    assert_type(counter.stats().summary(), dict[str, Any])
    assert_type((counter.stats().cut_share, counter.stats().approximate), tuple[float, bool])
    assert_type(counter.stats().without_lengths(), TokenStats)
    assert_type(dates.closed_on(date.today()), date | None)
    assert_type((dates.known, dates.stale(date.today())), tuple[bool, bool])
    assert_type(dates.only_for(date.today()), str)
    assert_type((handle.ready, handle.allows_changed_base), tuple[bool, bool])
    assert_type(Metric(step=1, train_loss=0.5).step, int)
    can = Capabilities(hosted=False, methods=contract.NEUTRAL, refuses=frozenset({"seed"}))
    can.require("acme", TrainingSpec(model="m"))
    can.require_metadata("acme", {"team": "support"})
    line = Schedule(priority=3, after=("ftg-1",), start_at=1.0)
    can.require_schedule("acme", line)
    print(line.used[0].upper())
    assert_type(can.refused("acme", "seed"), UnsupportedError)
    print(contract.JOB_TAG.upper(), contract.NOT_DEPLOYED.upper(), contract.LIST_LAG + 1.0)


def price(row: Price) -> None:
    assert_type((row.usd, row.as_of), tuple[Decimal, date | None])
    assert_type(row.dated, str)
    assert_type(row.stale(date.today()), int)


def home(settings: Settings) -> None:
    """Where a backend may keep files of its own."""
    assert_type(Settings.load("home").create().home, Path)
    assert_type(settings.named("gpu").mend(), Settings)
    settings.require_writable()
    assert_type(settings.stored_path(settings.real_path("x")), str)
    assert_type(settings.read_only, bool)
    folders = [
        settings.answers, settings.backend_options, settings.comparisons, settings.config,
        settings.database, settings.encoded, settings.fetched, settings.files, settings.hosts,
        settings.key_hosts,
        settings.locks, settings.models, settings.prices, settings.recordings, settings.runs,
        settings.spool,
    ]  # fmt: skip
    assert_type(folders, list[Path])


def errors() -> list[GatewayError]:
    return [
        DataError("x"), JobNotFinished("x", job_id="ftg-1"), SpecError("x", hint="y"),
        StoreError("x"), MissingScopeError("x", scope="api.model.read"),
    ]  # fmt: skip
