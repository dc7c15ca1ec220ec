"""What an organisation has used and paid, which OpenAI tells an admin key alone.

No source says that these name a fine-tune by its id, so that what names none of them says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import httpx2

from finetune_gateway.backends.openai import bounds, wire
from finetune_gateway.backends.openai.inventory import Host, RequestCount, again, scoped
from finetune_gateway.backends.openai.retries import retried
from finetune_gateway.text.cleaning import moment, whole

COSTS, COST_DAYS = "/organization/costs", 180  # days of a page
USAGE, USAGE_DAYS = "/organization/usage/completions", 31
MOST_PAGES = 60


@dataclass(frozen=True)
class Spend:
    """What a line of the bill took in a day."""

    line_item: str
    usd: Decimal


@dataclass(frozen=True)
class Use:
    """The requests to a model in the bucket that begins at ``at``."""

    model: str
    at: float
    requests: int


def costs(host: Host, asked: RequestCount, since: float) -> tuple[list[Spend], bool]:
    """Return what was paid by line item, and True if the list was read to its end. Raises
    BackendError."""
    found, complete = _buckets(host, asked, COSTS, "line_item", since, COST_DAYS)
    return [spend for bucket in found for one in _results(bucket) if (spend := _spend(one))], (
        complete
    )


def usage(host: Host, asked: RequestCount, since: float) -> tuple[list[Use], bool]:
    """Return the requests to each model by day, and True if the list was read to its end. Raises
    BackendError."""
    found, complete = _buckets(host, asked, USAGE, "model", since, USAGE_DAYS)
    uses = (_use(one, bucket) for bucket in found for one in _results(bucket))
    return [one for one in uses if one], complete


def _results(bucket: wire.Json) -> list[wire.Json]:
    return [one for one in wire.list_of(bucket.get("results")) if isinstance(one, dict)]


def _spend(result: wire.Json) -> Spend | None:
    amount = wire.object_of(result.get("amount"))
    value, item = amount.get("value"), wire.text_of(result.get("line_item"))
    currency = amount.get("currency") or "usd"
    if item is None or currency != "usd" or isinstance(value, bool):
        return None
    return Spend(item, Decimal(str(value))) if isinstance(value, int | float) else None


def _use(result: wire.Json, bucket: wire.Json) -> Use | None:
    name, at = wire.text_of(result.get("model")), moment(bucket.get("start_time"))
    requests = whole(result.get("num_model_requests"))
    return Use(name, at, requests) if name and at is not None and requests is not None else None


def _buckets(
    host: Host, asked: RequestCount, path: str, group: str, since: float, days: int
) -> tuple[list[wire.Json], bool]:
    what = "show the costs" if path == COSTS else "show the usage"
    query: dict[str, Any] = {"start_time": int(since), "bucket_width": "1d", "limit": days}
    found: list[wire.Json] = []
    page: str | None = None
    with bounds.within():  # all pages together
        for _ in range(MOST_PAGES):
            asking = {**query, "group_by": [group], **({"page": page} if page else {})}
            answer = again(_question(host, asked, what, path, asking))
            found += [one for one in wire.list_of(answer.get("data")) if isinstance(one, dict)]
            following = wire.text_of(answer.get("next_page"))
            if following is None or following == page:
                return found, not answer.get("has_more")
            page = following
    return found, False


def _question(
    host: Host, asked: RequestCount, what: str, path: str, query: dict[str, Any]
) -> Callable[[], wire.Json]:
    def ask() -> wire.Json:
        with scoped(), host.calling(what) as (client, call):
            get = asked.count(client.get)
            raw = retried(get, path, cast_to=httpx2.Response, options={"params": query})
            answer = wire.read(raw, call)
            if not isinstance(answer.get("data"), list):
                raise wire.undecodable(call, wire.error_of(answer) or "")
            return answer

    return ask
