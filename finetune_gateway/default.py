"""The verbs on a default Gateway, as ``httpx.get`` is to ``httpx.Client``."""

from __future__ import annotations

from datetime import date
from functools import cache
from typing import TYPE_CHECKING, Any, overload

from finetune_gateway.backends.base import Backend
from finetune_gateway.checks.findings import Report
from finetune_gateway.gateway import Gateway, Source
from finetune_gateway.job import Job
from finetune_gateway.ledger import Ledger
from finetune_gateway.planning import Names, Option, Several
from finetune_gateway.pricing import Estimate
from finetune_gateway.settings import Settings
from finetune_gateway.spending import Budget

if TYPE_CHECKING:
    from finetune_gateway.masks import Preview


def validate(
    data: Source,
    *,
    model: str | None = None,
    backend: str | Backend | None = None,
    method: str = "sft",
    **options: Any,
) -> Report:
    """``Gateway.validate`` on the default gateway, with all its options."""
    return _default().validate(data, model=model, backend=backend, method=method, **options)


@overload
def preview(
    data: dict[str, Any], *, model: str, backend: str | Backend | None = None, **options: Any
) -> Preview: ...


@overload
def preview(
    data: Source, *, model: str, backend: str | Backend | None = None, **options: Any
) -> list[Preview]: ...


def preview(
    data: Source | dict[str, Any],
    *,
    model: str,
    backend: str | Backend | None = None,
    **options: Any,
) -> Preview | list[Preview]:
    """``Gateway.preview`` on the default gateway; one row gives one preview."""
    if isinstance(data, dict):
        return _default().preview([data], model=model, backend=backend, **options)[0]
    return _default().preview(data, model=model, backend=backend, **options)


@overload
def estimate(
    data: Source, *, model: str, backend: str | Backend = "openai", **options: Any
) -> Estimate: ...


@overload
def estimate(
    data: Source, *, model: Names, backend: str | Backend | Several = "openai", **options: Any
) -> list[Option]: ...


@overload
def estimate(data: Source, *, model: str, backend: Several, **options: Any) -> list[Option]: ...


def estimate(
    data: Source,
    *,
    model: str | Names,
    backend: str | Backend | Several = "openai",
    **options: Any,
) -> Estimate | list[Option]:
    """``Gateway.estimate`` on the default gateway; lists of models or backends give a list."""
    return _default().estimate(data, model=model, backend=backend, **options)


def submit(data: Source, *, model: str, backend: str | Backend = "openai", **options: Any) -> Job:
    """``Gateway.submit`` on the default gateway, with all its options."""
    return _default().submit(data, model=model, backend=backend, **options)


def get_job(name: str) -> Job:
    """``Gateway.job`` on the default gateway."""
    return _default().job(name)


def list_jobs(
    *, status: str | None = None, backend: str | None = None, limit: int | None = None
) -> list[Job]:
    """``Gateway.jobs`` on the default gateway."""
    return _default().jobs(status=status, backend=backend, limit=limit)


def budget() -> Budget:
    """``Gateway.budget`` on the default gateway."""
    return _default().budget()


def costs(since: date | None = None, until: date | None = None) -> Ledger:
    """``Gateway.costs`` on the default gateway."""
    return _default().costs(since, until)


def _default() -> Gateway:
    """One gateway per home folder: ``FTG_HOME`` is read at each call."""
    return _gateway(str(Settings.load().home))


@cache
def _gateway(home: str) -> Gateway:
    return Gateway(home)
