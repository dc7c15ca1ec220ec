"""The public class of a data set: what is read of it, and what the gateway does to it as methods.

A method imports what it calls: reading rows needs nothing of jobs and backends, which take 0.15 s.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Self, Unpack

from finetune_gateway.data.dataset import Dataset as _Dataset
from finetune_gateway.data.dataset import Source
from finetune_gateway.model import exact_methods

if TYPE_CHECKING:
    from finetune_gateway.findings import Report
    from finetune_gateway.keywords import PreviewOptions, ValidateOptions
    from finetune_gateway.preparation.convert import Conversion
    from finetune_gateway.preparation.fix_report import FixReport
    from finetune_gateway.spec import AnyMethod
    from finetune_gateway.tokens.masks.preview import Preview


@exact_methods
class Dataset(_Dataset):
    """A JSONL file of examples, with what the gateway does to it as methods.

    >>> Dataset.open("train.jsonl").fingerprint        # sha256 of the bytes
    >>> Dataset.open("train.jsonl").validate(model="gpt-4.1-mini-2025-04-14").ok
    """

    @classmethod
    def open(
        cls,
        source: Source,
        *,
        spool: Path | None = None,
        folder: Path | None = None,
        columns: Mapping[str, str] | None = None,
    ) -> Self:
        """Open a path, or rows in memory, as what they hold.

        ``columns``: columns of your own names, by the key that each is read as: ``{"question":
        "prompt", "answer": "completion"}``. Raises SpecError for one that no row has, for an
        unknown key, and for a key that the rows have already; NotFoundError if there is no such
        file, DataError if it cannot be read.
        """
        found = super().open(source, spool=spool, folder=folder)
        if columns is None:
            return found
        from finetune_gateway.data.columns import mapped

        return mapped(found, columns, spool=spool, folder=folder)

    def split(
        self,
        ratio: float,
        *,
        seed: int = 0,
        folder: Path,
        stratify: bool = False,
        near: bool = True,
    ) -> tuple[Dataset, Dataset]:
        """Return two files below ``folder``, the second with about ``ratio`` of the rows.

        Each row is placed by a hash of its content and the seed, so adding rows moves none of
        the others, and rows that are equal except for case and spaces stay on one side. ``near``:
        so do those that nearly repeat each other, when the extra [dedup] is installed.
        ``stratify``: see ``splitting``. Raises SpecError for a ratio outside 0..1, DataError
        when one side would be empty.
        """
        from finetune_gateway.preparation.split import split

        parts = split(self, ratio, seed=seed, folder=folder, stratify=stratify, near=near)
        return self.open(parts[0]), self.open(parts[1])

    def validate(self, **options: Unpack[ValidateOptions]) -> Report:
        """Check this dataset and return the report; keywords as in ``gateway.validate``."""
        from finetune_gateway import api

        return api.validate(self, **options)

    def preview(self, *, model: str, **options: Unpack[PreviewOptions]) -> list[Preview]:
        """Return rows as ``model`` will see them; keywords as in ``gateway.preview``."""
        from finetune_gateway import api

        return api.preview(self, model=model, **options)

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
        from finetune_gateway.preparation.convert import convert

        return convert(self, to, out, force=force, drop=drop)

    def fix(
        self, out: str | os.PathLike[str], *, force: bool = False, method: AnyMethod | None = None
    ) -> FixReport:
        """Write a copy in which everything is fixed that can be fixed safely, and a log of the
        changes (``<out>.changes.jsonl``); this file stays as it is.

        ``method``: what the copy is checked for (default: the usual one of its rows). Raises
        SpecError when ``out`` exists and ``force`` is not set, or is this file.
        """
        from finetune_gateway import api
        from finetune_gateway.preparation.fix import fix

        def check(copy: _Dataset) -> Report:
            return api.validate(copy, method=method)

        return fix(self, out, force=force, check=check)
