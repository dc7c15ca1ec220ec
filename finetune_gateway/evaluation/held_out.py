"""Rows to ask a model when none were named: those that its training has held out, if they are here.

In this order: the validation file of its job, fetched or our own copy; production prompts that were
stored at the host and fetched; else a tenth of the training file, drawn so that no near-duplicate
of it is left in the rest. The model has seen these: a replacement must not, so it is to be trained
on the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import SpecError
from finetune_gateway.evaluation import stored_data
from finetune_gateway.evaluation.subjects import Subject
from finetune_gateway.jobs.store import Store
from finetune_gateway.methods import HOLD_OUT_SHARE
from finetune_gateway.preparation import hold_out
from finetune_gateway.preparation import split as splitting
from finetune_gateway.settings.spool import new_folder
from finetune_gateway.text.cleaning import visible

SHARE = HOLD_OUT_SHARE  # of a training file
SEED = 0  # of a submit without one


@dataclass(frozen=True)
class Proposal:
    """Rows to ask, and which they are in words."""

    dataset: Dataset
    words: str


def proposal(subject: Subject, store: Store) -> Proposal:
    """Return rows that suit a model. Raises SpecError if none are here."""
    found = stored_data.rows_of(subject.model, subject.job_id, store)
    if not found:
        raise SpecError(
            f"Which rows {visible(subject.model)} is to be asked is not said, and none of its data "
            "are here.",
            hint="Name a file of held-out rows or prompts: --data FILE. Or fetch what its host "
            f"keeps first: ftg migrate fetch {visible(subject.model)}",
        )
    best = found[0]
    dataset = Dataset(best.path)
    if best.kind != "training":
        return Proposal(dataset, best.words)
    folder = new_folder(store.settings.spool)
    choice = hold_out.choose(dataset, SHARE, seed=SEED)
    if hold_out.has_enough(dataset) and all(choice.rows):
        rest, sample = hold_out.write_parts(dataset, choice, folder)
        way = "ftg submit holds the same rows out"
    else:
        rest, sample = splitting.split(dataset, SHARE, seed=SEED, folder=folder, private=True)
        way = f"ftg split FILE --ratio {1 - SHARE:g}/{SHARE:g} --seed {SEED} writes the rest"
    rest.for_a_while()
    return Proposal(
        sample.for_a_while(),
        f"a tenth of {best.words}, drawn by content: the model was trained on these rows, so train "
        f"its replacement without them ({way})",
    )
