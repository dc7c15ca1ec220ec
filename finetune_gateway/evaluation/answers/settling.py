"""What runs have cost, also those that were killed: by the requests that they wrote down."""

from __future__ import annotations

from decimal import Decimal

from finetune_gateway.errors import JobNotFinished, NotFoundError
from finetune_gateway.evaluation.limits import Limit
from finetune_gateway.jobs import charges, compared
from finetune_gateway.jobs.budget import ZERO
from finetune_gateway.jobs.journal import writing_alone
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings


def limit_of(store: Store, name: str, usd: Decimal | None) -> Limit:
    """Return a limit for all runs of this name, like ``compare:cmp-3f9a2c1d``: what earlier ones
    have cost counts. Raises JobNotFinished while one of them is asking."""
    _settle_dead(store, name)
    return Limit(usd, sum((one.held_usd for one in charges.of_name(store, name)), ZERO))


def settle(settings: Settings, name: str) -> Decimal:
    """Settle what killed runs of this name have reserved; return what they cost. Raises
    NotFoundError for a name that nothing was spent under; JobNotFinished while one is asking."""
    store = Store(settings)
    if not charges.of_name(store, name):
        raise NotFoundError(f"Nothing was spent on {name!r}.", hint="See: ftg costs")
    return _settle_dead(store, name)


def _settle_dead(store: Store, name: str) -> Decimal:
    left = {charge.id for charge in charges.unsettled(store, name)}
    for folder in compared.answer_folders(store.settings) if left else ():
        if left & {*compared.charges_of(folder)}:
            with writing_alone(compared.lock_of(store.settings, folder.name), folder) as ours:
                if not ours:
                    raise JobNotFinished(
                        f"A process is asking models for {name}.", hint="Wait until it has ended."
                    )
                compared.settle(store, folder)
    compared.settle_lost(store, name)
    ended = (charge for charge in charges.of_name(store, name) if charge.id in left)
    return sum((charge.held_usd for charge in ended), ZERO)
