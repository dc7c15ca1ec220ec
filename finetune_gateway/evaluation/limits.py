"""An amount that is never passed, by all who ask at the same time."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from decimal import Decimal

from finetune_gateway.jobs.budget import ZERO, dollars


@dataclass
class Limit:
    """What may be spent by all requests together, ``usd``; None: as much as they cost. Of those
    who wait for room the first one is served first, so that one model does not starve another.

    ``spent``: by requests that have ended; ``others``: what other runs of the same name have spent
    and reserved since it was made; ``on_the_way``: what those that have not may cost at
    most. ``stopped``: why not all could be asked; empty if all could. ``begun``: this process has
    asked something under it. ``named``: the amount in messages, where ``usd`` is the rest of it.
    """

    usd: Decimal | None
    spent: Decimal = ZERO
    others: Decimal = ZERO
    stopped: str = ""
    on_the_way: Decimal = ZERO
    begun: bool = False
    named: Decimal | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _freed: asyncio.Event = field(default_factory=asyncio.Event)  # something has ended

    @property
    def left(self) -> Decimal | None:
        """What may still be spent, once all that is on the way has ended."""
        return None if self.usd is None else max(ZERO, self.usd - self.spent - self.others)

    async def take(self, most: Decimal) -> bool:
        """Return True once a request that costs so much at most fits: what is on its way counts at
        its most, and mostly ends at less. False if it does not fit with nothing on its way."""
        if self.usd is not None:
            async with self._turn:
                if not await self._has_room(most, self.usd):
                    return False
        self.on_the_way += most
        return True

    async def _has_room(self, most: Decimal, usd: Decimal) -> bool:
        while self.spent + self.on_the_way + most > usd:
            if self.stopped or not self.on_the_way:
                named = dollars(usd if self.named is None else self.named)
                self.stopped = f"the next request could pass the limit of {named} USD"
                return False
            self._freed.clear()
            await self._freed.wait()
        return True

    def end(self, most: Decimal, usd: Decimal | None) -> None:
        """Count a request that has ended: it could cost ``most``, and did cost ``usd``."""
        self.on_the_way -= most
        self.spent += usd or ZERO
        self._freed.set()
