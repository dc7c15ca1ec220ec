"""What asking a model costs: by tokens counted offline before, by the host's usage afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Self

from finetune_gateway.data.row_access import as_dict, texts_of
from finetune_gateway.estimation.estimate import MILLION, Range
from finetune_gateway.estimation.hosted import APPROXIMATE_HIGH, APPROXIMATE_LOW
from finetune_gateway.estimation.price_table import Price, Unit, add_command, find_price
from finetune_gateway.estimation.profiles import Profile
from finetune_gateway.evaluation.prompts import Prompt
from finetune_gateway.text.cleaning import whole
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.tokens.encodings import APPROXIMATE

Json = dict[str, Any]

_LIVE: tuple[Unit, Unit, Unit] = ("in_mtok", "out_mtok", "cached_in_mtok")
_BATCH: tuple[Unit, Unit, Unit] = ("batch_in_mtok", "batch_out_mtok", "batch_cached_in_mtok")
TOO_MANY = 10  # times the most that a request can take: no host has used so many tokens
# Tokens that a host may add to a prompt beyond the documented rule, for the high figure.
SPARE = 8


@dataclass(frozen=True)
class Prices:
    """Price rows of a million tokens: read, written, and read from the host's cache. ``add``: the
    command that adds what is missing, empty where a cost can be told."""

    read: Price | None
    written: Price | None
    cached: Price | None
    add: str = field(default="", kw_only=True)

    @classmethod
    def of(
        cls,
        profile: str,
        models: Sequence[str],
        extra: Path | None,
        *,
        batch: bool,
        tiers: Sequence[str] = (),
    ) -> Prices:
        """Return the rows of the first of these names that has both; ``extra``: the user's file.
        ``tiers``: the kinds of deployments there are; the dearest counts, since which of them
        answers is not known."""
        units = _BATCH if batch else _LIVE
        missing: Sequence[Unit] = units[:2]
        for model in dict.fromkeys(models):
            found = [
                cls(*(find_price(profile, model, unit, extra=extra, tier=tier) for unit in units))
                for tier in (tiers or (None,))
            ]
            if known := [one for one in found if one.known]:
                return max(known, key=lambda one: one.usd(1, 1) or Decimal(0))
            if model == models[0]:
                missing = min((one.missing(units) for one in found), key=len)
        return cls(None, None, None, add=add_command(profile, models[0], *missing))

    @classmethod
    def from_rows(cls, rows: Sequence[Price]) -> Prices:
        """Return the prices of a charge: those of the day on which it was made."""
        by_unit = {row.unit.removeprefix("batch_"): row for row in rows}
        return cls(*(by_unit.get(unit) for unit in _LIVE))

    @property
    def rows(self) -> tuple[Price, ...]:
        """The rows that are known."""
        return tuple(row for row in (self.read, self.written, self.cached) if row)

    @property
    def known(self) -> bool:
        """True if a cost can be told."""
        return self.read is not None and self.written is not None

    def missing(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """Return which units of tokens read and written have no price."""
        pairs = zip(units, (self.read, self.written), strict=False)
        return [unit for unit, row in pairs if row is None]

    def usd(self, read: int, written: int, cached: int = 0) -> Decimal | None:
        """Return what so many tokens cost, ``cached`` of them those read from the cache."""
        if self.read is None or self.written is None:
            return None
        cached = min(cached, read) if self.cached else 0
        cheap = self.cached.usd * cached if self.cached else Decimal(0)
        return (self.read.usd * (read - cached) + cheap + self.written.usd * written) / MILLION

    def of_usage(self, usage: Json, most: Decimal | None) -> Decimal | None:
        """Return what an answer cost by the host's usage: ``most``, what it can cost at most, if
        there is none, or one that cannot be true."""
        read, written = (whole(usage.get(f"{name}_tokens")) for name in ("prompt", "completion"))
        if not read or written is None:  # no prompt has no tokens
            return most
        details = as_dict(usage.get("prompt_tokens_details"))
        usd = self.usd(read, written, whole(details.get("cached_tokens")) or 0)
        absurd = usd is not None and most is not None and usd > TOO_MANY * most
        return most if absurd else usd


class Costing:
    """Counts and prices prompts for one model. ``exact``: its encoding is known."""

    def __init__(self, model: str, prices: Prices, max_tokens: int) -> None:
        self.prices = prices
        self.max_tokens = max_tokens
        self._counter = HostedCounter(model)
        self._read: dict[str, Range[int]] = {}
        self.exact = self._counter.encoding != APPROXIMATE

    @classmethod
    def of(
        cls,
        profile: Profile,
        model: str,
        base_model: str,
        max_tokens: int,
        extra: Path | None,
        *,
        batch: bool = False,
    ) -> Self:
        """Return that of a model at a host. ``extra``: the user's file of prices."""
        names = [model]
        if profile.deploy_command:  # its name is the user's; billed at the price of the base
            names += [f"ft:{base_model}", base_model]
        tiers = [*profile.deployments]
        prices = Prices.of(profile.name, names, extra, batch=batch, tiers=tiers)
        return cls(base_model, prices, max_tokens)

    def tokens(self, prompt: Prompt) -> Range[int]:
        """Return the tokens of a prompt: a range where tools, pictures or the encoding leave it
        open."""
        if prompt.id not in self._read:
            self._read[prompt.id] = self._count(prompt)
        return self._read[prompt.id]

    def _count(self, prompt: Prompt) -> Range[int]:
        row = self._counter.measure(prompt.asked)
        low, expected, high = min(row.total, row.billed_low), row.total, row.billed_high
        if not self.exact:
            low, high = int(low * APPROXIMATE_LOW), int(high * APPROXIMATE_HIGH)
        return Range[int](
            low=min(low, expected), expected=expected, high=max(expected, high) + SPARE
        )

    def most(self, prompt: Prompt) -> Decimal | None:
        """Return what one answer to a prompt can cost at most."""
        return self.prices.usd(self.tokens(prompt).high, self.max_tokens)

    def cost(self, asked: Sequence[tuple[Prompt, int]]) -> Range[Decimal] | None:
        """Return what so many answers to these prompts cost; None if no price is known.

        Low: a token each. Expected: as long as what the data answer, else half of the most. High:
        ``max_tokens`` each.
        """
        if not self.prices.known:
            return None
        sums = [Decimal(0)] * 3
        for prompt, times in asked:
            read = self.tokens(prompt)
            lengths = (1, self._answer(prompt), self.max_tokens)
            for at, (tokens, length) in enumerate(
                zip((read.low, read.expected, read.high), lengths, strict=True)
            ):
                sums[at] += times * (self.prices.usd(tokens, length) or 0)
        return Range[Decimal](low=sums[0], expected=sums[1], high=sums[2])

    def _answer(self, prompt: Prompt) -> int:
        if not prompt.references:
            return max(1, self.max_tokens // 2)
        texts = texts_of(prompt.references[0])
        return min(max(1, sum(map(self._counter.text, texts))), self.max_tokens)
