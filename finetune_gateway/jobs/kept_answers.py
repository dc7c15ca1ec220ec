"""The folders of kept answers, for those who count and remove them; ``evaluation`` reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from finetune_gateway.jobs import charges
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

ABOUT = "about.json"  # of a folder: whose answers these are
CHARGES = "charges.jsonl"  # and what was reserved for them
PREFIX = "answers:"  # begins the name of a folder wherever people see it


def folders(settings: Settings) -> list[Path]:
    """Return the folders of all models whose answers are kept, by name."""
    return sorted(path for path in settings.answers.glob("*") if path.is_dir())


def lock_of(settings: Settings, name: str) -> Path:
    """Return the file that is locked while a process asks a model."""
    return settings.locks / f"answers-{name}"


def charges_of(folder: Path) -> Iterator[str]:
    """Yield the ids of all charges that were noted in a folder."""
    with suppress(FileNotFoundError):
        for line in (folder / CHARGES).read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):  # half a line, of a kill: it was not committed
                yield str(json.loads(line)["charge"])


def settle_lost(store: Store, name: str) -> None:
    """Settle the charges of this name whose requests are in no folder any more: all that was
    reserved counts."""
    noted = {one for folder in folders(store.settings) for one in charges_of(folder)}
    for charge in charges.unsettled(store, name):
        if charge.id not in noted:
            basis = "not known: its requests are gone"
            charges.settle(store, charge.id, charge.reserved_usd, basis)
