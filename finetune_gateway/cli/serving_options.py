"""The options of ``ftg estimate`` about serving the trained model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path, PurePath

from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.serving import (
    ServingCosts,
    serving_costs,
)
from finetune_gateway.estimation.serving_bounds import (
    check_counts,
    check_gpu,
    check_served,
)
from finetune_gateway.estimation.throughput import USERS, ServedModel
from finetune_gateway.estimation.traffic import Traffic
from finetune_gateway.methods import METHODS

BY_FORMULA = ("--serve-users", "--serve-billions")  # what the speed of a GPU depends on


@dataclass(frozen=True)
class ServingOptions:
    """The volume to serve, and a GPU of one's own; None where nothing was given."""

    requests: int | None
    tokens_in: int | None
    tokens_out: int | None
    gpu: str | None
    usd_per_hour: Decimal | None
    tokens_per_second: Decimal | None
    users: int | None = None
    billions: float | None = None

    def check(self) -> None:
        """Raise SpecError for an option that has no effect or an impossible value."""
        if self.requests is None and (names := [*self._given()]):
            raise SpecError(
                f"{names[0]} has no effect without --monthly-requests.",
                hint="Add --monthly-requests N.",
            )
        formula = next((name for name in self._given() if name in BY_FORMULA), None)
        if formula and self.tokens_per_second is not None:
            raise SpecError(
                f"{formula} contradicts --serve-tokens-per-second.", hint="Drop one of them."
            )
        check_gpu(self.usd_per_hour, self.tokens_per_second)
        check_served(self._users, self._served([]).billions)
        check_counts(self.requests or 1, self.tokens_in, self.tokens_out)

    def _given(self) -> Iterator[str]:
        names = ("tokens_in", "tokens_out", "gpu", "usd_per_hour", "tokens_per_second", "users",
                 "billions")  # fmt: skip
        for name in names:
            if getattr(self, name) is not None:
                prefix = "" if name in ("tokens_in", "tokens_out") else "serve-"
                yield f"--{prefix}{name.replace('_', '-')}"

    @property
    def _users(self) -> int:
        return USERS if self.users is None else self.users

    def _served(self, estimates: Sequence[Estimate]) -> ServedModel:
        """Return the model of the size that was given, else the first base whose shape is known."""
        if self.billions is not None:
            return ServedModel(self.billions)
        known = next(iter(_own(estimates)), None)
        if known is None or known.parameters is None:
            return ServedModel(assumed=True)
        return ServedModel.base(
            PurePath(known.model).name,
            parameters=known.parameters,
            expert_parameters=known.expert_parameters,
            used=known.used_experts,
            cache_bytes=known.cache_bytes,
        )

    def costs(self, estimates: Sequence[Estimate], prices: Path) -> ServingCosts | None:
        """Return what serving costs; None without a volume or without a model to serve."""
        first = next((estimate for estimate in estimates if estimate.tokens), None)
        if self.requests is None or first is None or first.tokens is None:
            return None
        traffic = Traffic.like(
            first.tokens,
            self.requests,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            answers=METHODS[first.method].sequences,
        )
        served = self._served(estimates)
        hosted = [(one.backend, one.model) for one in estimates if one.data_leaves_machine]
        return serving_costs(
            traffic,
            list(dict.fromkeys(hosted)),
            gpu=self.gpu,
            usd_per_hour=self.usd_per_hour,
            tokens_per_second=self.tokens_per_second,
            users=self._users,
            served=served,
            extra=prices,
        ).with_warnings(() if self.billions else _not_served(estimates))


def _own(estimates: Sequence[Estimate]) -> list[Estimate]:
    """Return those of bases whose shape is known: they can be served on a GPU of one's own."""
    return [one for one in estimates if one.parameters]


def _not_served(estimates: Sequence[Estimate]) -> Iterator[str]:
    """Yield a sentence on the bases of another size than the one that is served."""
    sizes = {PurePath(one.model).name: one.parameters for one in _own(estimates)}
    served = next(iter(sizes), "")
    others = [name for name, size in sizes.items() if size != sizes[served]]
    if others:
        yield (
            f"Your own GPU is priced for {served}, not for {', '.join(others)}: estimate that by "
            "itself."
        )
