"""What the provider's organisation used and spent, by day: for admin keys.

What was chatted with counts, and what ``add_usage`` says of days before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.provider_batch import Batches
from support.provider_memory import ACCOUNT, JSON, MAIN
from support.provider_models import base_of

DAY = 86400
USAGE_DAYS = (7, 31)  # a page by default, and at most
COST_DAYS = (7, 180)


@dataclass(frozen=True)
class DayUse:
    """What one model was used for on a day."""

    day: int  # its first second
    model: str
    account: str
    input_tokens: int
    output_tokens: int
    requests: int = 1
    share: float = 1.0  # of the price: half in a batch


class Usage(Batches):
    names_fine_tunes: bool = True  # False: what an ``ft:`` id used stands under its base
    usd_per_million: tuple[float, float] = (0.8, 3.2)  # in and out, of every model

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.used: list[DayUse] = []

    def add_usage(
        self,
        model: str,
        *,
        days_ago: float,
        input_tokens: int = 1000,
        output_tokens: int = 100,
        requests: int = 1,
        account: str = MAIN,
    ) -> None:
        """Let a model have been used on a day."""
        day = first_second(time.time() - days_ago * DAY)
        self.used.append(DayUse(day, model, account, input_tokens, output_tokens, requests))

    def days_used(self) -> list[DayUse]:
        """Of the organisation that asks: what was added and what was sold here."""
        sold = [
            DayUse(
                first_second(one.at),
                one.model,
                one.account,
                one.prompt_tokens,
                one.completion_tokens,
                share=0.5 if one.batch else 1.0,
            )
            for one in [*self.charges]
        ]
        asking = ACCOUNT.get().partition(" ")[0]
        return [one for one in self.used + sold if one.account.partition(" ")[0] == asking]

    def usage(self, query: dict[str, str]) -> JSON:
        """Tokens by day, and by model where that is asked for."""
        by_model = "model" in grouping(query)

        def results(uses: list[DayUse]) -> list[JSON]:
            groups: dict[str | None, list[DayUse]] = {}
            for one in uses:
                groups.setdefault(self.named(one.model) if by_model else None, []).append(one)
            return [usage_result(model, group) for model, group in groups.items()]

        return self.buckets(query, USAGE_DAYS, results)

    def costs(self, query: dict[str, str]) -> JSON:
        """Dollars by day, and by line item where that is asked for."""
        by_item = "line_item" in grouping(query)

        def results(uses: list[DayUse]) -> list[JSON]:
            groups: dict[str | None, list[tuple[int, float]]] = {}
            for one in uses:
                for item, tokens, usd in self.items(one):
                    groups.setdefault(item if by_item else None, []).append((tokens, usd))
            return [cost_result(item, sums) for item, sums in groups.items()]

        return self.buckets(query, COST_DAYS, results)

    def items(self, one: DayUse) -> list[tuple[str, int, float]]:
        """Line item, tokens and dollars of what was read and of what was written."""
        price_in, price_out = (price * one.share / 1e6 for price in self.usd_per_million)
        name = self.named(one.model)
        return [
            (f"{name}, input_tokens", one.input_tokens, one.input_tokens * price_in),
            (f"{name}, output_tokens", one.output_tokens, one.output_tokens * price_out),
        ]

    def named(self, model: str) -> str:
        return model if self.names_fine_tunes else base_of(model)

    def buckets(
        self,
        query: dict[str, str],
        days: tuple[int, int],
        results: Callable[[list[DayUse]], list[JSON]],
    ) -> JSON:
        """A page of days, those without use too."""
        if "start_time" not in query:
            raise ValueError("Missing required parameter: 'start_time'.", "start_time")
        limit = int(query.get("limit", days[0]))
        if not 1 <= limit <= days[1]:
            raise ValueError(f"limit must be between 1 and {days[1]}", "limit")
        start = int(query.get("page", query["start_time"]).removeprefix("page_"))
        end = int(query.get("end_time", time.time()))
        starts = [*range(first_second(start), end, DAY)]
        used = self.days_used()
        shown = [
            {
                "object": "bucket",
                "start_time": day,
                "end_time": day + DAY,
                "results": results([one for one in used if one.day == day]),
            }
            for day in starts[:limit]
        ]
        more = f"page_{starts[limit]}" if len(starts) > limit else None
        return {"object": "page", "data": shown, "has_more": bool(more), "next_page": more}


def usage_result(model: str | None, uses: list[DayUse]) -> JSON:
    return {
        "object": "organization.usage.completions.result",
        "input_tokens": sum(one.input_tokens for one in uses),
        "output_tokens": sum(one.output_tokens for one in uses),
        "input_cached_tokens": 0,
        "input_audio_tokens": 0,
        "output_audio_tokens": 0,
        "num_model_requests": sum(one.requests for one in uses),
        "project_id": None,
        "user_id": None,
        "api_key_id": None,
        "model": model,
        "batch": None,
        "service_tier": None,
    }


def cost_result(item: str | None, sums: list[tuple[int, float]]) -> JSON:
    return {
        "object": "organization.costs.result",
        "amount": {"value": sum(usd for _, usd in sums), "currency": "usd"},
        "line_item": item,
        "project_id": None,
        "quantity": float(sum(tokens for tokens, _ in sums)) if item else None,
        "quantity_unit": "tokens" if item else None,
    }


def grouping(query: dict[str, str]) -> str:
    """The SDK writes a list as ``group_by[]``."""
    return query.get("group_by[]", query.get("group_by", ""))


def first_second(at: float) -> int:
    return int(at // DAY * DAY)
