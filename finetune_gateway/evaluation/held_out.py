"""Rows to ask a model when none were named: those that its training has held out, if they are here.

In this order: the validation file of its job, fetched or our own copy; production prompts that were
stored at the host and fetched; else a tenth of the training file, drawn so that no near-duplicate
of it is left in the rest. The model has seen these: a replacement must not, so it is to be trained
on the rest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import SpecError
from finetune_gateway.evaluation.subjects import Subject
from finetune_gateway.jobs import fetched
from finetune_gateway.jobs.store import Store
from finetune_gateway.preparation import split as splitting
from finetune_gateway.settings.spool import new_folder
from finetune_gateway.text.cleaning import visible

SHARE = 0.1  # of a training file
SEED = 0
FETCHED = {
    "validation": "the held-out rows",
    "stored": "the stored production prompts",
    "training": "the training rows",
}


@dataclass(frozen=True)
class Proposal:
    """Rows to ask, and which they are in words."""

    dataset: Dataset
    words: str


def proposal(subject: Subject, store: Store) -> Proposal:
    """Return rows that suit a model. Raises SpecError if none are here."""
    found = next(_files(subject, store), None)
    if found is None:
        raise SpecError(
            f"Which rows {visible(subject.model)} is to be asked is not said, and none of its data "
            "are here.",
            hint="Name a file of held-out rows or prompts: --data FILE. Or fetch what its host "
            f"keeps first: ftg migrate fetch {visible(subject.model)}",
        )
    kind, path, words = found
    dataset = Dataset(path)
    if kind != "training":
        return Proposal(dataset, words)
    folder = new_folder(store.settings.spool)
    rest, sample = splitting.split(dataset, SHARE, seed=SEED, folder=folder, private=True)
    rest.for_a_while()
    return Proposal(
        sample.for_a_while(),
        f"a tenth of {words}, drawn by content: the model was trained on these rows, so train its "
        f"replacement without them (ftg split FILE --ratio {1 - SHARE:g}/{SHARE:g} --seed {SEED} "
        "writes the rest)",
    )


def _files(subject: Subject, store: Store) -> Iterator[tuple[str, Path, str]]:
    """Yield what is here of a model's data, the best first: its kind, the file, and words."""
    own = [*_own_files(subject, store), *_fetched_files(subject, store)]
    for kind in ("validation", "stored", "training"):
        yield from (one for one in own if one[0] == kind)


def _fetched_files(subject: Subject, store: Store) -> Iterator[tuple[str, Path, str]]:
    """Yield what ``ftg migrate fetch`` has saved of a model."""
    for manifest in fetched.find(store.settings, subject.model):
        for piece in manifest.pieces:
            path = fetched.path_of(store.settings, manifest, piece)
            if path is not None and piece.kind in FETCHED:
                yield piece.kind, path, f"{FETCHED[piece.kind]} of {manifest.job_id}, as fetched"


def _own_files(subject: Subject, store: Store) -> Iterator[tuple[str, Path, str]]:
    """Yield the copies that a job of this home has kept."""
    if subject.job_id is None:
        return
    for record in store.select("id = ? AND removed_at IS NULL", (subject.job_id,)):
        for file in filter(None, (record.validation, record.held_out)):
            if Path(file.path).is_file():
                yield "validation", Path(file.path), f"the held-out rows of {record.id}"
        if Path(record.train.path).is_file():
            yield "training", Path(record.train.path), f"the training rows of {record.id}"
