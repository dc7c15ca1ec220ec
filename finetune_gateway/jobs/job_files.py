"""The files of a job before anything is sent: the data, and the rows that are held out of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from finetune_gateway.data.columns import mapped
from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import DataError, SpecError, shown
from finetune_gateway.findings import Report
from finetune_gateway.methods import HOLD_OUT_SHARE
from finetune_gateway.preparation import hold_out
from finetune_gateway.preparation import split as splitting
from finetune_gateway.settings import files as disk
from finetune_gateway.settings.spool import new_folder
from finetune_gateway.validation.file_bytes import HEAD, file_defect

_GAPS = ("blank_line", "trailing_blank_line")  # rules: parts have empty lines for other rows


@dataclass(frozen=True)
class Files:
    """The files of a job.

    ``whole``: the data that ``train`` and ``held_out`` are parts of; None if nothing is held out of
    them. ``share``: what was held out; 0 if nothing was to be, None if the data have too few rows
    or the held-out rows are a file of their own. ``asked``: the share was asked for, so the rows
    are for the backend too, wherever it is. ``note``: what is to be known of them, in words.
    """

    train: Dataset
    held_out: Dataset | None = None
    whole: Dataset | None = None
    share: float | None = None
    asked: bool = False
    note: str = ""

    @classmethod
    def open(
        cls, data: Source, validation: Source | None, folder: Path, *, copy: bool = False,
        columns: Mapping[str, str] | None = None,
    ) -> Files:  # fmt: skip
        """Return the files of these data. Rows that are not JSON lines are written for a while
        below ``folder``, the spool; with ``copy`` all files are written to ``folder``, to stay.

        ``columns``: columns of the data, by the key that each is read as; held-out rows may have
        the keys already."""
        given = [data] if validation is None else [data, validation]
        if copy:
            datasets = [Dataset.open(one, folder=folder) for one in given]
        else:
            datasets = [Dataset.open(one, spool=folder) for one in given]
        if columns is not None:
            where = {"folder" if copy else "spool": folder}
            datasets = [
                mapped(one, columns, required=not place, **where)
                for place, one in enumerate(datasets)
            ]
        if copy:
            datasets = [_copied(one, folder) for one in datasets]
        return cls(datasets[0], None if validation is None else datasets[1])

    def split(
        self, share: float | None, seed: int | None, folder: Path, *, copy: bool = False
    ) -> Files:
        """Return files with this share of the rows held out, written as ``open`` does. None: a
        tenth, if there are enough rows; 0: nothing. Raises SpecError for another share, DataError
        if the one that is asked for cannot be held out."""
        if isinstance(share, int | float) and share == 0:  # a NaN of Decimal cannot be compared
            return replace(self, share=None if self.held_out else 0.0)
        if share is not None and not splitting.is_share(share):
            raise SpecError(
                f"A split of {shown(share)} is not between 0 and 1.",
                hint="Use e.g. 0.1, or 0 to train all rows.",
            )
        if self.held_out is not None:
            if share is None:
                return self
            raise SpecError("validation and validation_split exclude each other.", hint="Drop one.")
        try:
            return self._split(share, seed or 0, folder, copy=copy)
        except DataError:
            if share is not None:
                raise
            return self  # what is wrong with the file is found when it is checked

    def _split(self, share: float | None, seed: int, folder: Path, *, copy: bool) -> Files:
        if share is None and not hold_out.has_enough(self.train):
            return self
        wanted = HOLD_OUT_SHARE if share is None else share
        choice = hold_out.choose(self.train, wanted, seed=seed)
        if not all(choice.rows):
            if share is None:
                return replace(self, share=0.0, note=choice.note)
            raise DataError(
                f"A split of {share:g} leaves a part of {self.train.name} empty.",
                hint="Use more rows, or another share.",
            )
        made = disk.folder(folder) if copy else new_folder(folder)
        parts = hold_out.write_parts(self.train, choice, made)
        train, held_out = parts if copy else (part.for_a_while() for part in parts)
        return Files(train, held_out, self.train, wanted, share is not None, choice.note)

    def given(self, *, hosted: bool) -> Dataset | None:
        """Return the held-out rows that the backend gets: those that are held out by default stay
        here when it is a host."""
        return None if hosted and self.whole is not None and not self.asked else self.held_out

    def report_of(self, report: Report) -> Report:
        """Return the report on one of the files without what is said of gaps between its rows."""
        if self.whole is None:
            return report
        kept = [finding for finding in report.findings if finding.code not in _GAPS]
        return report.model_copy(update={"findings": kept})

    def as_before(self, seed: int | None, folder: Path) -> Files | None:
        """Return the files that an earlier version would have made of the same data in ``folder``:
        all rows, or for a share that is asked for, other rows. None: the same files."""
        if self.whole is None or self.share is None:
            return None
        if not self.asked:
            return Files(self.whole)
        try:
            parts = splitting.split(
                self.whole, self.share, seed=seed or 0, folder=disk.folder(folder), private=True
            )
        except DataError:  # it would have refused
            return None
        return Files(*parts)


def _copied(dataset: Dataset, folder: Path) -> Dataset:
    """Return a copy in ``folder``: the dataset itself if it was written there just now."""
    return dataset if dataset.path.parent == folder else dataset.copied(folder, _is_no_text)


def _is_no_text(head: bytes) -> bool:
    """Return True if the check refuses a file for its first bytes, so that the rest is not read."""
    return file_defect(head[:HEAD]) is not None
