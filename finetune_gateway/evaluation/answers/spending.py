"""What a comparison or a check has cost in all of its runs, and which model how much of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from finetune_gateway.jobs import charges
from finetune_gateway.jobs.budget import ZERO
from finetune_gateway.jobs.requests import RequestCost, spent_by_request
from finetune_gateway.jobs.store import Store

Payers = dict[tuple[Path, str], str]  # folder of answers, id of a request -> key of a model


@dataclass(frozen=True)
class Spending:
    """In USD, in all, and ``by`` the key of the model. ``unanswered``: requests without an answer,
    which the host may have charged: they count at their most, ``at_most_usd`` of ``usd``."""

    usd: Decimal = ZERO
    by: dict[str, RequestCost] = field(default_factory=dict)
    unanswered: int = 0
    at_most_usd: Decimal = ZERO

    def of(self, key: str) -> RequestCost:
        """Return what one model has cost."""
        return self.by.get(key, RequestCost())


def spending(store: Store, name: str, payers: Mapping[tuple[Path, str], str]) -> Spending:
    """Return what all runs of this name, like ``compare:cmp-3f9a2c1d``, have cost: as much as their
    limit and the ledger count. Raises StoreError for lines that were changed."""
    bought = charges.of_name(store, name)
    ids = {charge.id for charge in bought}
    by: dict[str, RequestCost] = defaultdict(RequestCost)
    every = RequestCost()
    for folder in {folder for folder, _ in payers}:
        for key, cost in spent_by_request(folder, ids).items():
            every += cost
            if (folder, key) in payers:
                by[payers[folder, key]] += cost
    usd = sum((charge.held_usd for charge in bought), ZERO)
    return Spending(usd, dict(by), every.unanswered, every.at_most_usd)
