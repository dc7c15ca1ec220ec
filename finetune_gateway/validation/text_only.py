"""A file whose bytes are no text, or a table whose cells are not known, is refused before anything
is written from its lines."""

from __future__ import annotations

from finetune_gateway.data.column_names import with_path
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect
from finetune_gateway.validation.file_bytes import HEAD, file_defect
from finetune_gateway.validation.rules import RULES

_UNKNOWN_CELLS = ("cells_extra", "quote_unbalanced")  # rules


def require_cells(dataset: Dataset) -> None:
    """Raise DataError for a table with lines of which it is not known where their cells end: they
    can be corrected in the table alone."""
    for one in dataset.reading.observations.values():
        if one.code in _UNKNOWN_CELLS:
            more = f" ({one.count} such lines)" if one.count > 1 else ""
            detail = f"line {one.lines[0]}{more}: {one.detail}; nothing was written"
            raise not_text(dataset, Defect(one.code, detail=detail, fix=one.fix))


def require_text(dataset: Dataset) -> None:
    """Raise DataError for a dataset whose first bytes are not those of lines of JSON."""
    with dataset.path.open("rb") as file:
        defect = file_defect(file.read(HEAD))
    if defect:
        raise not_text(dataset, defect)


def not_text(dataset: Dataset, defect: Defect) -> DataError:
    """Return the error about the bytes of a file, with what to do as ``validate`` says it."""
    fix = with_path(defect.fix or RULES[defect.code].fix, dataset.source, dataset.reading.columns)
    return DataError(f"{dataset.name}: {defect.detail}.", hint=fix)
