"""A hosted plug-in in memory that has all that the contract leaves open: settings of its own, and
what it refuses, its models, its health and its quotes."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field
from support.hostile import Honest

from finetune_gateway.backend import (
    BackendParams,
    Capabilities,
    DataFile,
    Health,
    TrainingSpec,
)

REFUSES = frozenset({"suffix", "seed", "n_epochs", "metadata"})


class Grade(StrEnum):
    """How fast its machines are."""

    SLOW = "slow"
    FAST = "fast"


class AcmeParams(BackendParams):
    """Settings that no other backend has."""

    warmup_steps: Annotated[int, Field(ge=0, description="Steps of warm-up")] = 0
    decay: float = 0.5
    schedule: Literal["linear", "cosine"] = "linear"
    layers: list[str] = []
    grade: Grade = Grade.SLOW
    note: str | None = None


class Acme(Honest):
    """Keeps the settings that each job was started with in ``params_of``, by our id."""

    name = "acme"
    params = AcmeParams

    def __init__(self) -> None:
        super().__init__()
        self.params_of: dict[str, AcmeParams] = {}
        self.down = False
        self.quoted: Decimal | None = Decimal("3.50")

    def capabilities(self, model: str | None = None) -> Capabilities:
        return replace(super().capabilities(model), refuses=REFUSES)

    def models(self) -> list[str]:
        return ["acme-small", "acme-large", "acme-small"]

    def health(self) -> Health:
        if self.down:
            return Health(ok=False, detail="api.acme.test refuses the key sk-acme-1234567")
        return Health(ok=True, detail="api.acme.test answers", latency_s=0.012)

    def quote(
        self, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> Decimal | None:
        return self.quoted

    def start(
        self, job_id: str, spec: TrainingSpec, train: DataFile, validation: DataFile | None
    ) -> str:
        self.params_of[job_id] = AcmeParams.of(spec)
        return super().start(job_id, spec, train, validation)
