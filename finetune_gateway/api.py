"""The verbs on a default Gateway, as ``httpx.get`` is to ``httpx.Client``."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import date
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from finetune_gateway.backend import Backend
from finetune_gateway.data.dataset import Dataset as _Dataset
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.findings import Report
from finetune_gateway.gateway import Gateway, Source
from finetune_gateway.jobs.budget import Budget
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.ledger import Ledger
from finetune_gateway.jobs.planning import Backends, ModelNames, Option
from finetune_gateway.preparation import convert as converting
from finetune_gateway.preparation import fix as fixing
from finetune_gateway.preparation import split as splitting
from finetune_gateway.preparation.convert import Conversion
from finetune_gateway.preparation.fix import FixReport
from finetune_gateway.settings.home import Settings

if TYPE_CHECKING:
    from finetune_gateway.tokens.masks.preview import Preview


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
    data: Source, *, model: ModelNames, backend: str | Backend | Backends = "openai", **options: Any
) -> list[Option]: ...


@overload
def estimate(data: Source, *, model: str, backend: Backends, **options: Any) -> list[Option]: ...


def estimate(
    data: Source,
    *,
    model: str | ModelNames,
    backend: str | Backend | Backends = "openai",
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


class Dataset(_Dataset):
    """A JSONL file of examples, with what the gateway does to it as methods.

    >>> Dataset.open("train.jsonl").fingerprint        # sha256 of the bytes
    >>> Dataset.open("train.jsonl").validate(model="gpt-4.1-mini-2025-04-14").ok
    """

    def split(
        self,
        ratio: float,
        *,
        seed: int = 0,
        folder: Path,
        stratify: bool = False,
        near: bool = True,
    ) -> tuple[Dataset, Dataset]:
        """Two files below ``folder``, the second with about ``ratio`` of the rows.

        Each row is placed by a hash of its content and the seed, so adding rows moves none of
        the others, and rows that are equal but for case and spaces stay on one side. ``near``:
        so do those that nearly repeat each other, when the extra [dedup] is installed.
        ``stratify``: see ``splitting``. Raises SpecError for a ratio outside 0..1, DataError
        when one side would be empty.
        """
        parts = splitting.split(self, ratio, seed=seed, folder=folder, stratify=stratify, near=near)
        return self.open(parts[0]), self.open(parts[1])

    def validate(self, **options: Any) -> Report:
        """``gateway.validate`` of this dataset, with its options."""
        return validate(self, **options)

    def preview(self, *, model: str, **options: Any) -> list[Preview]:
        """Rows as ``model`` will see them, token by token; ``options`` as ``Gateway.preview``."""
        return _default().preview(self, model=model, **options)

    def convert(
        self,
        to: str,
        out: str | os.PathLike[str],
        *,
        force: bool = False,
        drop: Collection[str] = (),
    ) -> Conversion:
        """Write the rows for ``openai``, ``openai-bom``, ``trl``, ``together`` or ``sharegpt``.

        ``drop``: keys of the rows to leave out. Raises DataError, with lines and fields, for
        what the target cannot hold, and SpecError when ``out`` exists and ``force`` is not set.
        """
        return converting.convert(self, to, out, force=force, drop=drop)

    def fix(
        self, out: str | os.PathLike[str], *, force: bool = False, method: str = "sft"
    ) -> FixReport:
        """Write a copy with everything mended that can be mended safely, and a log of it
        (``<out>.changes.jsonl``); this file stays as it is.

        ``method``: what the copy is checked for. Raises SpecError when ``out`` exists and
        ``force`` is not set, or is this file.
        """

        def check(copy: _Dataset) -> Report:
            return validate(copy, method=method)

        return fixing.fix(self, out, force=force, check=check)
