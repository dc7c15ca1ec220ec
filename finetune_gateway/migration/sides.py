"""The two sides of a move's data: the rows that both models are asked, and those to train on.

What a recording was asked, or a tenth of the training file, must not be trained on: of the training
file all rows are left out that one of them repeats, or nearly does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.errors import DataError
from finetune_gateway.evaluation import held_out
from finetune_gateway.evaluation.prompts import Prompt, read_prompts
from finetune_gateway.evaluation.recording import Recording
from finetune_gateway.evaluation.row_matching import matches
from finetune_gateway.evaluation.subjects import Subject
from finetune_gateway.jobs.store import Store
from finetune_gateway.preparation.convert import whole_file
from finetune_gateway.settings.spool import new_folder

ROUNDS = 5  # of looking for rows that repeat one: each changes which words are rare


@dataclass(frozen=True)
class Sides:
    """``asked``: what both models are asked, from ``words``; ``data``: the same as a data set, None
    for a recording, which has them. ``train``: the rest of ``all_rows``."""

    asked: Sequence[Prompt]
    words: str
    data: Dataset | None
    train: Dataset
    all_rows: int
    left_out: int


def of_recording(recording: Recording, training: Path, store: Store) -> Sides:
    """Return the rows of a recording, and the training rows that are none of them."""
    return _sides(recording.prompts(), f"the rows of {recording.title}", None, training, store)


def of_rows(data: Source, training: Path, store: Store) -> Sides:
    """Return rows of the user's, and the training rows that are none of them."""
    dataset = Dataset.open(data, spool=store.settings.spool)
    return _sides(read_prompts(dataset), dataset.name, dataset, training, store)


def of_model(model: str, base: str, host: OpenAIBackend, training: Path, store: Store) -> Sides:
    """Return the rows that the training of a model has held out, else a tenth of its training rows,
    and the rest."""
    proposal = held_out.proposal(Subject(model, base, host), store)
    dataset = proposal.dataset
    words = proposal.words.partition(",")[0]
    return _sides(read_prompts(dataset), words, dataset, training, store)


def _sides(
    asked: Sequence[Prompt], words: str, data: Dataset | None, training: Path, store: Store
) -> Sides:
    whole = Dataset(training)
    rows = sum(1 for _ in whole.examples())
    train = _without(whole, asked, store)
    left = sum(1 for _ in train.examples())
    if not left:
        raise DataError(
            f"All {rows:,} training rows are among {words}: there is nothing to train on.",
            hint="Name other rows to compare on: --data FILE, or another recording: --against.",
        )
    return Sides(asked, words, data, train, rows, rows - left)


def _without(training: Dataset, asked: Sequence[Prompt], store: Store) -> Dataset:
    """Return the training rows that repeat none of these prompts; the file itself if none does."""
    rest = training
    for _ in range(ROUNDS):
        lines = {line for match in matches(asked, rest.path).values() for line in match.lines}
        if not lines:
            break
        rest = _written(rest, lines, training.name, store)
    return rest


def _written(dataset: Dataset, lines: set[int], name: str, store: Store) -> Dataset:
    path = new_folder(store.settings.spool) / name
    with whole_file(path, private=True) as file:
        for number, raw in dataset.examples():
            if number not in lines:
                file.write(raw.strip() + b"\n")
    return Dataset(path, name, source=dataset.source or dataset.path).for_a_while()
