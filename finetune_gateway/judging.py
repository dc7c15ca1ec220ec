"""The whole judgement of a dataset: every row by the rules, then all of them together.

Apart from ``gateway``, so that ``ftg validate`` loads nothing of jobs and prices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from finetune_gateway.checks import gate
from finetune_gateway.checks.findings import Report
from finetune_gateway.dataset import Dataset
from finetune_gateway.quality import survey
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens import HostedCounter, LocalCounter, RowCounter

if TYPE_CHECKING:
    from finetune_gateway.backends.base import Backend


def validate(
    dataset: Dataset,
    *,
    model: str | None = None,
    runner: Backend | None = None,
    method: str = "sft",
    asked: survey.Asked | None = None,
    ignored: frozenset[str] = frozenset(),
    on_progress: Callable[[int, int], None] | None = None,
) -> Report:
    """A report on a dataset for one backend, or for all that are known.

    ``asked``: what of a survey is wanted; ``ignored``: codes of rules that do not count;
    ``on_progress`` is told the bytes read and all there are. Raises SpecError for a method that
    there is not.
    """
    spec = TrainingSpec.build(model=model or "unnamed", method=method)
    judged = (runner.called,) if runner else None
    limit = runner.capabilities(spec.model).max_context if runner else None
    counter = _counter(runner, spec, model, limit)
    report = gate.validate(
        dataset,
        method=spec.method,
        model=model,
        backends=judged,
        counter=counter,
        max_context=limit,
        on_progress=on_progress,
    )
    whole = survey.joined(
        report,
        dataset,
        asked or survey.Asked(),
        backends=judged,
        method=spec.method,
        render=counter.render if isinstance(counter, LocalCounter) else None,
    )
    return whole.without(ignored)


def _counter(
    runner: Backend | None, spec: TrainingSpec, model: str | None, limit: int | None
) -> RowCounter:
    if runner is None:
        return HostedCounter(model)
    if model is None and runner.called in ("openai", "azure"):
        return HostedCounter(None, limit)
    return runner.counter(spec)
