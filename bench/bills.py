"""Published bills of hosted training, counted again from the files that were trained.

FOLDER holds the files: ``norec``, ``dqe``, ``tlp``, ``pinolo`` and ``semantic.jsonl`` are in
github.com/AldonahZero/QTRAN_PLUS, MutationData/FineTuningTrainingData (its doc/finetune says what
OpenAI billed); ``dog_breeds.jsonl`` are the 4,800 rows with a picture each that the notebook on
image classification of github.com/microsoft-foundry/fine-tuning writes. A file that is not there is
named and left out. The number of epochs is not read from the bill: it is the one that is expected
for so many rows. Nothing is sent anywhere.

    python bench/bills.py FOLDER
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

from _common import Bench, versions

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.estimation.estimate import epochs_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter

MINI, GPT_4O = "gpt-4o-mini-2024-07-18", "gpt-4o-2024-08-06"


@dataclass(frozen=True)
class Bill:
    """What a host has billed for a file: tokens, or USD at a price per million."""

    name: str
    model: str
    tokens: int = 0
    usd: float = 0.0
    usd_per_mtok: float = 0.0
    epochs: int | None = None  # as the job was given; None: left to the host


BILLS = (
    Bill("norec", MINI, tokens=19_956),
    Bill("dqe", MINI, tokens=37_616),
    Bill("tlp", MINI, tokens=95_838),
    Bill("pinolo", MINI, tokens=216_609),
    Bill("semantic", MINI, tokens=46_134),
    Bill("dog_breeds", GPT_4O, usd=157.44, usd_per_mtok=27.50, epochs=2),
)


def count(path: Path, model: str, epochs: int | None = None) -> int:
    """Return the tokens that training on a file is expected to be billed as."""
    counter = HostedCounter(model)
    for row in Dataset.open(path).rows():
        counter.add(row.data)
    rows = counter.stats()
    return (
        rows.billed * epochs_of(TrainingSpec(model=model, n_epochs=epochs or "auto"), rows.rows)[1]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="where the files are")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    asked = parser.parse_args()
    bench = Bench("bills", versions("finetune-gateway", "tiktoken"))
    for bill in BILLS:
        path = asked.folder / f"{bill.name}.jsonl"
        if not path.is_file():
            bench.unmeasured(bill.name, f"{path.name} is not in {asked.folder}")
        elif bill.tokens:
            ours = count(path, bill.model, bill.epochs)
            bench.figure(bill.name, [ours], [bill.tokens], "tokens", at_least=1, at_most=1)
        else:
            usd = count(path, bill.model, bill.epochs) * bill.usd_per_mtok / 1e6
            bench.figure(bill.name, [usd], [bill.usd], "USD", at_least=0.99, at_most=1.01)
    return bench.end(asked.out)


if __name__ == "__main__":
    sys.exit(main())
