"""What ``ftg compare`` shows before it asks: who is asked what, at what price."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from finetune_gateway.jobs.budget import Budget
from finetune_gateway.reports.asking_text import cost_text, sending_lines
from finetune_gateway.reports.output import format_count, wrap_text
from finetune_gateway.text.cleaning import visible

if TYPE_CHECKING:
    # The type checker alone: it brings the SDK of hosts.
    from finetune_gateway.evaluation.comparing import ComparePlan
    from finetune_gateway.evaluation.models import EvaluatedModel

MODEL_OPTION = re.compile(r" --model ('[^']*'|\S+)")


def plan_text(plan: ComparePlan, budget: Budget | None) -> str:
    """Return what is about to happen: which rows, which models, what that costs."""
    return "\n".join(wrap_text(line, "  ", "") for line in _plan_lines(plan, budget))


def _plan_lines(plan: ComparePlan, budget: Budget | None) -> Iterator[str]:
    data = plan.data
    yield f"{plan.id}: {format_count(data.rows, 'row')} of {data.words}{_left_out(plan)}"
    for model in plan.models:
        yield f"{visible(model.key)}: {_titled(model)}"
    if plan.judge is not None:
        yield f"Judge: {_titled(plan.judge)}"
    kept = f", {plan.kept:,} answered before" if plan.kept else ""
    yield f"{format_count(plan.left, 'request')} to send{kept}."
    yield from sending_lines(plan, budget, _prices(plan))


def _titled(model: EvaluatedModel) -> str:
    """Return what a model is called, with its host once."""
    where = f" at {model.host}" if model.host and model.host not in model.title else ""
    return f"{visible(model.title)}{where}"


def _left_out(plan: ComparePlan) -> str:
    count = sum(plan.data.left_out.values())
    if not count:
        return ""
    return f"; {count:,} of them, on which a model was trained, are not asked"


def _prices(plan: ComparePlan) -> Iterator[str]:
    """Yield what each hosted model costs, in all rounds, and at which prices."""
    titles = {model.key: model.title for model in plan.models}
    said = set[str]()
    for title, asked in plan.rounds:
        for key, cost in asked.costs.items():
            if asked.left.get(key):
                name = visible(titles.get(key, "the judge"))
                add = _new_part(asked.add_price.get(key, ""), said)
                yield f"{name}, {title}: {cost_text(cost, add)}"


def _new_part(add: str, said: set[str]) -> str:
    """Return the command that adds a price; empty if it was ``said``, and its model alone where
    one was that differs in the model."""
    model = MODEL_OPTION.search(add)
    shape = MODEL_OPTION.sub("", add)
    if not model or add in said:
        return ""
    again = shape in said
    said.update((add, shape))
    return f"as above, with{model[0]}" if again else add


def plan_document(plan: ComparePlan) -> dict[str, Any]:
    """Return a dry run as JSON."""
    cost = plan.cost
    return {
        "dry_run": True,
        "comparison": plan.id,
        "data": plan.data.model_dump(mode="json"),
        "models": [model.facts().model_dump(mode="json") for model in plan.models],
        "judge": plan.judge.name if plan.judge else None,
        "left": plan.left,
        "kept": plan.kept,
        "cost_usd": cost.model_dump(mode="json") if cost else None,
        "rounds": [
            {
                "title": title,
                "left": asked.left,
                "cost_usd": {
                    key: one.model_dump(mode="json") if one else None
                    for key, one in asked.costs.items()
                },
            }
            for title, asked in plan.rounds
        ],
        "notes": [*plan.notes],
    }
