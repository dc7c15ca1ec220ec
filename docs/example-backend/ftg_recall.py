"""A backend in one file: its "model" gives the answer to the most similar question it has seen.

It keeps the rows of a job in a folder and looks the answer up. Comments say what a real backend
would do instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from finetune_gateway.backend import (
    Backend,
    Capabilities,
    ChatReply,
    DataFile,
    Dataset,
    Estimate,
    Event,
    HandleData,
    HostedCounter,
    Intent,
    JobStatus,
    NotFoundError,
    Range,
    Result,
    Settings,
    Snapshot,
    TokenStats,
    TrainingSpec,
)

FREE = Decimal(0)


class RecallBackend(Backend):
    """Remembers questions and answers. Trains nothing."""

    name = "recall"

    def __init__(self) -> None:
        self.folder = Settings.load().home / "recall"

    def bind(self, settings: Settings) -> None:
        self.folder = settings.home / "recall"

    # -- before anything is sent: no key, no network ------------------------------------

    def capabilities(self, model: str | None = None) -> Capabilities:
        return Capabilities(
            hosted=False,  # True: the data leaves the machine
            rules={"extends": "common", "last_not_assistant": "error"},  # it looks the last turn up
            methods=frozenset({"sft"}),
            notes=("Trains nothing: it looks the answer up.",),
            poll_seconds=(0.05, 0.2),
        )

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
            n_epochs_rule="rows are read once",
            tokens=tokens,
            validation_tokens=validation.billed if validation else None,
            cost_usd=Range(low=FREE, expected=FREE, high=FREE),
            data_leaves_machine=False,
        )

    # -- the job ------------------------------------------------------------------------

    def start(
        self, job_id: str, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> str:
        # A real backend sends one request here, tagged with job_id, and raises
        # BackendError(..., maybe_applied=True) on a time-out.
        rows = [row.data["messages"] for row in Dataset(train.path).rows()]
        pairs = [[row[-2]["content"], row[-1]["content"]] for row in rows]
        folder = self.folder / job_id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
        return job_id

    def find(self, intent: Intent) -> str | None:
        # None only if it can be known that there is no such job: None allows a second create.
        there = (self.folder / intent.job_id / "pairs.json").exists()
        return intent.job_id if there else None

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        folder = self.folder / provider_id
        if not (folder / "pairs.json").exists():
            return Snapshot(status=JobStatus.FAILED, error=f"{folder} is gone.")
        # The id is made from the job's: a repeated poll reports the same event, not another one.
        event = Event(id=f"{provider_id}-read", message="Read the rows.")
        return Snapshot(
            status=JobStatus.SUCCEEDED,
            raw_status="done",
            events=[] if cursor else [event],
            cursor="1",
            result=Result(kind="merged", model=str(folder)),
        )

    def cancel(self, provider_id: str) -> None:
        """Do nothing: a job has ended when start returns."""

    def kept_files(self, provider_id: str, *, model: bool = True) -> list[Path]:
        # What "ftg rm" deletes; with model=False what "ftg prune" may, and here all is the model.
        folder = self.folder / provider_id
        return [folder] if model and folder.exists() else []

    # -- the model ----------------------------------------------------------------------

    def open(self, handle: HandleData) -> Recall:
        path = Path(handle.model) / "pairs.json"
        if not path.exists():
            raise NotFoundError(f"There is no {path}.", hint="Submit the job again.")
        return Recall(json.loads(path.read_text(encoding="utf-8")))


class Recall:
    """Gives the answer to the most similar question."""

    def __init__(self, pairs: list[list[str]]) -> None:
        self.pairs = pairs

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        question = str(messages[-1].get("content") or "")
        nearest = max(self.pairs, key=lambda pair: SequenceMatcher(None, question, pair[0]).ratio())
        return ChatReply(text=nearest[1], finish_reason="stop")

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        yield self.chat(messages, **sampling).text
