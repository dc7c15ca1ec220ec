"""What a model card is written from: a handle, its job, a comparison that its model is in, and a
behaviour guide. No text of a row, and no path of this machine."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_gateway.backend import HandleData
from finetune_gateway.backends.local.licence import licence_of
from finetune_gateway.errors import GatewayError, StoreError
from finetune_gateway.estimation import weights
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparison import PREFIX, Comparison
from finetune_gateway.evaluation.results import ComparedFacts, ComparisonData
from finetune_gateway.events import Metric
from finetune_gateway.jobs import compared, history
from finetune_gateway.jobs.base_names import BUILTIN, HubBase, hub_base, is_hub_name
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

ADAPTER_CONFIG = "adapter_config.json"
OWN = "a model of the trainer's own"  # in the place of a path


@dataclass(frozen=True)
class Evaluation:
    """A comparison that a model was in: its figures there, and those of its base, if that was
    compared too."""

    data: ComparisonData
    ours: ComparedFacts
    base: ComparedFacts | None


@dataclass(frozen=True)
class CardFacts:
    """All that a card says something of. ``repo``: where the model will be, on the Hub."""

    handle: HandleData
    base: HubBase | None
    licence: dict[str, str]
    record: JobRecord | None = None
    metrics: Sequence[Metric] = ()
    adapter: dict[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None
    guide: Guide | None = None
    repo: str | None = None

    @property
    def kind(self) -> str:
        """Return hosted, adapter, merged or reward."""
        return self.handle.kind

    @property
    def method(self) -> str | None:
        return self.record.spec.method if self.record else None

    @property
    def base_text(self) -> str:
        """Return how the base is called: never by a path."""
        if self.base is not None:
            return self.base.name
        return public_name(self.handle.base_model)


def public_name(name: str) -> str:
    """Return the name of a model or a job; of a folder, however it is written, that it is one."""
    is_path = re.search(r"[\\/]", name.removeprefix(BUILTIN)) and not is_hub_name(name)
    return OWN if is_path or name.startswith((".", "~")) else name


def facts_of(
    handle: HandleData,
    settings: Settings,
    *,
    guide: Guide | None = None,
    repo: str | None = None,
) -> CardFacts:
    """Return what is known of a model in this home folder."""
    record, metrics, evaluation = _of_job(handle, settings)
    return CardFacts(
        handle=handle,
        base=hub_base(handle),
        licence={} if handle.kind == "hosted" else licence_of(handle, settings),
        record=record,
        metrics=metrics,
        adapter=_adapter(handle),
        evaluation=evaluation,
        guide=guide,
        repo=repo,
    )


def _of_job(
    handle: HandleData, settings: Settings
) -> tuple[JobRecord | None, list[Metric], Evaluation | None]:
    """Return what the store has of the job of a model; nothing of a job of another home."""
    if handle.job_id is None or not settings.database.exists():
        return None, [], None
    store = Store(settings)
    try:
        record = store.get(handle.job_id)
        metrics = history.read_metrics(store, record.id)
        if handle.step is not None:
            metrics = [one for one in metrics if one.step <= handle.step]
        return record, metrics, _newest(store, record, handle)
    except GatewayError:  # it is of another home, or was removed
        return None, [], None
    finally:
        store.close()


def _newest(store: Store, record: JobRecord, handle: HandleData) -> Evaluation | None:
    """Return the newest comparison that this very model was in."""
    found = []
    for folder in compared.of_job(store, record):
        if folder.name.startswith(PREFIX):
            with suppress(StoreError):  # a damaged one says nothing
                data = Comparison.at(store.settings, folder.name).data
                found += [(data.created_at, one) for one in _evaluations(data, record, handle)]
    return max(found, key=lambda one: one[0])[1] if found else None


def _evaluations(data: ComparisonData, record: JobRecord, handle: HandleData) -> list[Evaluation]:
    base = next(
        (one for one in data.models if one.variant == "base"
         and one.base_model == record.spec.model), None
    )  # fmt: skip
    return [
        Evaluation(data, one, base)
        for one in data.models
        if one.job_id == record.id and one.variant == "tuned" and one.step == handle.step
    ]


def _adapter(handle: HandleData) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        said = weights.read_json(Path(handle.model) / ADAPTER_CONFIG, weights.MAX_CONFIG)
        return said if isinstance(said, dict) else {}
    return {}
