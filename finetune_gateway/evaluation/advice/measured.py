"""What a comparison says about training: is the tuned model better than a prompt or examples."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import GatewayError
from finetune_gateway.evaluation import comparison as kept
from finetune_gateway.evaluation.advice.rules import ENOUGH
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.evaluation.missing_scores import Unjudged, choosers
from finetune_gateway.evaluation.prompts import prompt_of
from finetune_gateway.evaluation.results import ComparedFacts, ComparisonData, Difference
from finetune_gateway.settings.home import Settings
from finetune_gateway.validation.dataset.row_text import parse_leniently

UNTUNED = ("base", "prompt", "few-shot")
OF_THE_DATA = 0.5  # share of the compared rows that are rows of the data


@dataclass(frozen=True)
class Measured:
    """What was measured, as the rules have it. ``rule``: not_measured if no prompt was compared.
    ``text``: in words."""

    rule: str
    text: str


def find(dataset: Dataset, settings: Settings) -> Comparison | None:
    """Return the newest comparison of this data set: on its rows, or of a model trained on it."""
    names = kept.ids(settings)
    if not names:
        return None
    fingerprint = dataset.fingerprint
    prompts: set[str] | None = None
    for name in reversed(names):
        try:
            found = Comparison.at(settings, name)
            if fingerprint in _fingerprints(found.data):
                return found
            prompts = _prompts(dataset) if prompts is None else prompts
            rows = [row.id for row in found.rows() if not row.check]
        except GatewayError:  # half removed, or of another version: an older one may do
            continue
        if rows and sum(row in prompts for row in rows) >= OF_THE_DATA * len(rows):
            return found
    return None


def _fingerprints(data: ComparisonData) -> set[str | None]:
    trained = {one.training.dataset_sha256 for one in data.models if one.training}
    return {data.data.sha256, *trained} - {None}


def _prompts(dataset: Dataset) -> set[str]:
    rows = (parse_leniently(line.raw) for line in dataset.lines() if not line.cut)
    return {prompt.id for row in rows if row and (prompt := prompt_of(row, 1))}


def read(data: ComparisonData) -> Measured:
    """Return what a comparison says of training, by the measure of its verdict."""
    tuned = [one for one in data.models if one.variant == "tuned"]
    untuned = [one for one in data.models if one.variant in UNTUNED]
    measure = data.verdict.measure
    if not untuned or not measure:
        return Measured("not_measured", f"{data.id} has no prompt and no examples in it.")
    if not tuned:
        return _of_prompts(data, untuned, measure)
    pairs = [_difference(data, one, other, measure) for one in tuned for other in untuned]
    if any(_is_better(pair, {one.key for one in untuned}) for pair in pairs):
        return Measured("prompt_does", f"{data.id}: {_title(data, pairs)} is better, untrained.")
    best = [one for one in tuned if _beats_all(data, one, untuned, measure)]
    if best:
        return Measured(
            "tuned_better",
            f"{data.id}: {best[0].title} is better than {_listed(untuned)} by {measure}.",
        )
    return Measured("measured_undecided", _undecided(data, pairs, measure))


def _of_prompts(data: ComparisonData, untuned: list[ComparedFacts], measure: str) -> Measured:
    """Return what is left to gain over the best prompt, by a measure that has a top."""
    shares = [one.name for one in data.measures if one.share and one.better == "higher"]
    if measure not in shares and not shares:
        return Measured(
            "prompts_alone", f"{data.id}: prompts were compared, by {measure}, which has no top."
        )
    measure = measure if measure in shares else shares[0]
    figures = data.figures.get(measure, {})
    reached = {
        one.title: interval
        for one in untuned
        if (figure := figures.get(one.key)) and (interval := figure.interval)
        if not (_chose(data, one) or Unjudged.of(measure, figure).too_many)
    }
    if not reached:
        return Measured("prompts_alone", f"{data.id}: too few answers were judged by {measure}.")
    title, best = max(reached.items(), key=lambda pair: pair[1].mean)
    said = f"{data.id}: {title} reaches {best.mean:.0%} ({best.low:.0%} to {best.high:.0%})"
    if best.low >= ENOUGH:
        return Measured("prompt_does", f"{said} by {measure}, untrained.")
    return Measured("room_left", f"{said} by {measure}: there is something to gain.")


def _chose(data: ComparisonData, one: ComparedFacts) -> bool:
    """Return True for a model that has left so much unanswered that the rest says little."""
    figures = data.answers.get(one.key)
    none, answers = (figures.errors, figures.answers) if figures else (0, 0)
    return bool(choosers({one.key: (none, none + answers)}))


def _difference(
    data: ComparisonData, one: ComparedFacts, other: ComparedFacts, measure: str
) -> Difference | None:
    both = {one.key, other.key}
    return next(
        (
            found
            for found in data.differences
            if found.measure == measure and {found.first, found.second} == both
        ),
        None,
    )


def _is_better(pair: Difference | None, keys: set[str]) -> bool:
    return pair is not None and pair.better in keys


def _beats_all(
    data: ComparisonData, tuned: ComparedFacts, untuned: list[ComparedFacts], measure: str
) -> bool:
    pairs = (_difference(data, tuned, other, measure) for other in untuned)
    return all(_is_better(pair, {tuned.key}) for pair in pairs)


def _title(data: ComparisonData, pairs: list[Difference | None]) -> str:
    titles = {one.key: one.title for one in data.models if one.variant in UNTUNED}
    return next(titles[pair.better] for pair in pairs if pair and pair.better in titles)


def _listed(models: list[ComparedFacts]) -> str:
    return " and ".join(one.title for one in models)


def _undecided(data: ComparisonData, pairs: list[Difference | None], measure: str) -> str:
    needed = [pair.rows_needed for pair in pairs if pair and pair.rows_needed]
    about = f"; about {max(needed):,} rows would do" if needed else ""
    return f"{data.id}: by {measure} one can't tell the tuned model from a prompt{about}."
