"""The rows of a comparison when none were named: those that a training has held out.

A recording answers only what it was asked: where one is compared, its rows are taken. Else the
first compared model counts that has some: the validation file of its job, the rows that were held
out and kept here, what was fetched, production prompts that were stored at the host. Training rows
are never taken: a model has seen them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, read_prompts
from finetune_gateway.evaluation.stored_data import StoredRows, rows_of
from finetune_gateway.jobs.store import Store


@dataclass(frozen=True)
class DefaultRows:
    """Rows to compare on, and which they are in words; ``dataset``: None for those of a
    recording."""

    prompts: list[Prompt]
    words: str
    dataset: Dataset | None = None


def default_rows(models: Sequence[EvaluatedModel], store: Store) -> DefaultRows:
    """Return the rows of the first recording, else the held-out rows of the first model that has
    some. Raises SpecError if there are none, or only rows that a model was trained on."""
    recorded = next((one.recording for one in models if one.recording is not None), None)
    if recorded is not None:
        return DefaultRows(recorded.prompts(), recorded.title)
    every = [row for model in models for row in _rows(model, store)]
    held_out = next((one for one in every if one.kind != "training"), None)
    if held_out is not None:
        dataset = Dataset(held_out.path)
        try:
            return DefaultRows(read_prompts(dataset), held_out.words, dataset)
        except DataError as exc:
            raise _asks_nothing(held_out, exc) from None
    if every:
        raise SpecError(
            f"There are no held-out rows: all that is here are {every[0].words}, and a model that "
            "has seen a row is not judged by it.",
            hint="Name a file of rows that none of the models was trained on: --data FILE. From 50 "
            "rows on, 'ftg submit' holds a tenth of them out.",
        )
    raise SpecError(
        "There are no rows to compare on: none of the models has held-out rows here.",
        hint="Name a file of them: --data FILE",
    )


def _asks_nothing(held_out: StoredRows, error: DataError) -> DataError:
    """Return the error for held-out rows that cannot be asked, such as texts: their file has a name
    that means nothing to a person."""
    _, _, why = error.message.partition(": ")
    words = held_out.words[0].upper() + held_out.words[1:]
    return DataError(
        f"{words} cannot be asked: {why}",
        hint="Name a file of rows that ask something, like a prompt and its answer: --data FILE",
    )


def _rows(model: EvaluatedModel, store: Store) -> list[StoredRows]:
    return rows_of(model.model, model.job.id if model.job else None, store)
