"""From a data set to the advice on it: read it, judge it, find what was measured, price it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from finetune_gateway.data.column_names import as_argument
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.formats import CHAT, format_of
from finetune_gateway.errors import SpecError
from finetune_gateway.evaluation.advice import deciding, measured, places, signals
from finetune_gateway.evaluation.advice.advice import Advice
from finetune_gateway.evaluation.advice.facts import Facts
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.findings import Report
from finetune_gateway.jobs.planning import Option
from finetune_gateway.methods import usual_method
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings
from finetune_gateway.validation.dataset.row_text import parse_leniently

MOST_BYTES = 64 << 20  # of a larger file near-duplicates and languages are not looked for

Validate = Callable[[Dataset, str], Report]
Estimate = Callable[[Dataset, Sequence[tuple[str, str]], str], Sequence[Option]]


def whole_data(dataset: Dataset) -> bool | None:
    """Return whether a data set is looked at as a whole, near-duplicates among it; None: by its
    size, as validate does."""
    return True if dataset.size <= MOST_BYTES else None


def advise(
    dataset: Dataset,
    preferences: Dataset | None,
    settings: Settings,
    *,
    comparison: str | None,
    models: Sequence[str],
    backends: Sequence[str],
    private: bool,
    validate: Validate,
    estimate: Estimate,
) -> Advice:
    """Return the advice. ``validate`` and ``estimate``: the gateway's, for one method."""
    counted = signals.read(dataset)
    pairs = signals.read(preferences) if preferences else None
    if pairs is not None and not pairs.kinds["preference"]:
        assert preferences is not None  # for the type checker
        raise SpecError(
            f"{preferences.name} has no preference pairs.",
            hint='A pair has "chosen" and "rejected", or "preferred_output" and the other.',
        )
    kind = "chat" if counted.kind in ("mixed", "unknown") else counted.kind
    method = usual_method(kind)
    report = validate(dataset, method)
    found = Comparison.at(settings, comparison) if comparison else measured.find(dataset, settings)
    priced = _imitated(dataset, settings) if counted.kind == "mixed" else dataset
    chosen = places.pairs(models, backends, private=private)
    return deciding.decide(
        dataset.name,
        _typed(dataset, settings),
        Facts(report, counted, pairs),
        measured.read(found.data) if found else None,
        estimate(priced, chosen, method) if chosen else (),
        private=private,
        today=clock.today(),
        comparison=found.id if found else None,
    )


def _typed(dataset: Dataset, settings: Settings) -> str:
    """Return the path of a data set as a command names it."""
    path = dataset.source or dataset.path
    return "DATA" if path.is_relative_to(settings.spool) else as_argument(path)


def _imitated(dataset: Dataset, settings: Settings) -> Dataset:
    """Return the rows of a file without its preference pairs: what can be priced as it is."""
    rows = (parse_leniently(line.raw) for line in dataset.lines() if not line.cut)
    kept = [row for row in rows if row and (format_of(row) or CHAT).kind != "preference"]
    return Dataset.open(kept, spool=settings.spool)
