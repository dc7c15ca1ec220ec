"""A file whose bytes are no text is refused before anything is written from its lines."""

from __future__ import annotations

from finetune_gateway.data.column_names import with_path
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect
from finetune_gateway.validation.file_bytes import HEAD, file_defect
from finetune_gateway.validation.rules import RULES


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
