"""Requests of a month: how many, how long each, and what one has cost where it was measured."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

from pydantic import ConfigDict, Field

from finetune_gateway.estimation.serving_bounds import check_counts
from finetune_gateway.model import Model
from finetune_gateway.tokens.stats import TokenStats


class Traffic(Model):
    """Requests of a month, and how long each is."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    requests: Annotated[int, Field(ge=1)]
    tokens_in: Annotated[int, Field(ge=0)]
    tokens_out: Annotated[int, Field(ge=0)]
    lengths: str = "as given"

    @property
    def tokens(self) -> Decimal:
        """Return the tokens of one request with its answer."""
        return Decimal(self.tokens_in + self.tokens_out)

    @classmethod
    def like(
        cls,
        tokens: TokenStats,
        requests: int,
        *,
        tokens_in: int | None = None,
        tokens_out: int | None = None,
        answers: int = 1,
    ) -> Traffic:
        """Return requests of the mean length of a dataset's rows, unless lengths are given.

        ``answers``: per row (2 for preference rows). Raises SpecError for counts out of bounds.
        """
        check_counts(requests, tokens_in, tokens_out)
        rows = max(1, tokens.rows)
        prompt = round((tokens.total - tokens.trained) / rows)
        answer = round(tokens.trained / (rows * answers))
        given = tokens_in is not None and tokens_out is not None
        return cls(
            requests=requests,
            tokens_in=prompt if tokens_in is None else tokens_in,
            tokens_out=answer if tokens_out is None else tokens_out,
            lengths="as given" if given else "the mean of the dataset's rows",
        )


class MeasuredUse(Model):
    """What requests to a model of a host were, or to ``models`` with the same price: the mean of
    their lengths, and of what one has cost in USD; None if that is not known."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    tokens_in: Annotated[int, Field(ge=0)]
    tokens_out: Annotated[int, Field(ge=0)]
    usd: Decimal | None = None
    models: int = 1
