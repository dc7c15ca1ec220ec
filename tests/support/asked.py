"""What the tests of answers share: models that are asked at a provider, prompts, and a plan."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from support.hosted import connect
from support.provider import Provider
from support.recordings import rows

from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.evaluation.answers import AskHow, AskPlan, AskResult, Limit, ask, plan
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, prompt_of
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings

RUN = "compare:cmp-00000001"
BASES = ("gpt-4.1-mini-2025-04-14", "gpt-4o-2024-08-06")


def prompts(count: int, **row: Any) -> list[Prompt]:
    """Different questions, with answers in the data."""
    found = [prompt_of({**one, **row}, line) for line, one in enumerate(rows(count), 1)]
    return [one for one in found if one is not None]


def hosted(
    provider: Provider, model: str = BASES[0], backend: OpenAIBackend | None = None, **fields: Any
) -> EvaluatedModel:
    """A model of the provider, as it is compared."""
    host = backend or connect(provider, profile="openai")
    host.bind(Settings.load().create())
    given: dict[str, Any] = {
        "key": model,
        "name": model,
        "title": model,
        "kind": "hosted",
        "way": "base",
    }
    given |= {"model": model, "base_model": model, "host": host.host, "account": host.account()}
    return EvaluatedModel(**{**given, "backend": host, **fields})


def planned(
    models: Sequence[EvaluatedModel],
    rows: Sequence[Prompt],
    limit: Limit | str | None = None,
    **how: Any,
) -> AskPlan:
    """The plan of asking each of the models all rows."""
    most = Limit(Decimal(limit)) if isinstance(limit, str) else (limit or Limit(None))
    store = Store(Settings.load())
    chosen = AskHow(**{"name": RUN, "limit": most, **how})
    return plan(store, models, {model.key: rows for model in models}, chosen)


def answers(
    models: Sequence[EvaluatedModel],
    rows: Sequence[Prompt],
    limit: Limit | str | None = None,
    **how: Any,
) -> AskResult:
    """What came of asking them."""
    return ask(planned(models, rows, limit, **how))
