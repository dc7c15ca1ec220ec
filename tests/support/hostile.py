"""A hosted plug-in that keeps its contract, and one that breaks it in one method."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from finetune_gateway.backend import (
    Backend,
    BackendError,
    Capabilities,
    ChatReply,
    DataFile,
    Estimate,
    Event,
    HandleData,
    HostedCounter,
    Intent,
    JobStatus,
    Range,
    Result,
    Snapshot,
    TokenStats,
    TrainingSpec,
)

USD = Decimal(4)
ODD = "job-warming-up"  # a job in a state of the host's own
LOST = "no-such-job"
Misbehaviour = Callable[..., Any]


@dataclass
class Market:
    """What was bought at the host, and how often it was asked to."""

    bought: list[str] = field(default_factory=list)  # our ids of the jobs that it created
    starts: int = 0
    files: set[str] = field(default_factory=set)  # by their content


class Honest(Backend):
    """A host in memory whose jobs have ended when they are first polled."""

    name = "hostile"

    def __init__(self) -> None:
        self.market = Market()

    def capabilities(self, model: str | None = None) -> Capabilities:
        return Capabilities(
            hosted=True,
            rules="trl",
            methods=frozenset({"sft"}),
            poll_seconds=(0.002, 0.004),
            settle_seconds=0.01,
        )

    def options(self) -> dict[str, Any]:
        return {}

    def account(self) -> str | None:
        return None

    def resolve(self, spec: TrainingSpec, train: Any = None) -> TrainingSpec:
        return spec

    def check(self, spec: TrainingSpec) -> None:
        return None

    def connect(self) -> None:
        return None

    def counter(self, spec: TrainingSpec) -> HostedCounter:
        return HostedCounter(spec.model)

    def estimate(
        self, spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None = None
    ) -> Estimate:
        return Estimate(
            backend=self.name,
            model=spec.model,
            method=spec.method,
            n_epochs=1,
            n_epochs_rule="once",
            tokens=tokens,
            cost_usd=Range(low=USD, expected=USD, high=USD),
            data_leaves_machine=True,
        )

    def upload(self, file: DataFile) -> str | None:
        self.market.files.add(file.sha256)
        return f"file-{file.sha256[:8]}"

    def find_upload(self, file: DataFile) -> str | None:
        return f"file-{file.sha256[:8]}" if file.sha256 in self.market.files else None

    def start(
        self, job_id: str, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> str:
        self.market.starts += 1
        self.market.bought.append(job_id)
        return f"job-{job_id}"

    def find(self, intent: Intent) -> str | None:
        return f"job-{intent.job_id}" if intent.job_id in self.market.bought else None

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        if provider_id == ODD:
            return Snapshot(status=JobStatus.parse("warming_up"), raw_status="warming_up")
        if provider_id == LOST:
            raise BackendError("There is no such job.", backend=self.name, status_code=404)
        event = Event(id=f"{provider_id}-1", message="Done.")
        return Snapshot(
            status=JobStatus.SUCCEEDED,
            events=[] if cursor else [event],
            cursor="1",
            result=Result(kind="hosted", model="tuned"),
        )

    def cancel(self, provider_id: str) -> None:
        return None

    def open(self, handle: HandleData) -> Answering:
        return Answering()


class Closing(Honest):
    """Cannot let go of its connections."""

    name = "closing"

    def close(self) -> None:
        raise RuntimeError("no handle")


class Answering:
    """Says yes."""

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        return ChatReply(text="Yes.")

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Any:
        yield "Yes."


def breaking(methods: dict[str, Misbehaviour]) -> Honest:
    """Return a backend that breaks its contract in these methods until its ``repaired`` is True.

    A misbehaviour is called with the backend, then with what the honest method would return, as a
    function without arguments.
    """

    def broken(name: str, misbehave: Misbehaviour) -> Callable[..., Any]:
        honest: Callable[..., Any] = getattr(Honest, name)

        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            usual = honest.__get__(self)
            if self.repaired:
                return usual(*args, **kwargs)
            return misbehave(self, lambda: usual(*args, **kwargs))

        return call

    members: dict[str, Any] = {name: broken(name, how) for name, how in methods.items()}
    kind = type("Hostile", (Honest,), {**members, "repaired": False, "__module__": "ftg_hostile"})
    made: Honest = kind()
    return made


def polled_until(method: str) -> tuple[Honest, threading.Event]:
    """Return a backend whose method waits while the event that comes with it is clear."""
    release = threading.Event()
    release.set()

    def wait(backend: Any, honest: Any) -> Any:
        release.wait(60)
        return honest()

    return breaking({method: wait}), release
