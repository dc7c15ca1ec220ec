"""Options in the order of their cost, and what their figures rest on: each note once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from finetune_gateway.errors import NotFoundError, UnsupportedError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.hosted import REFUSED
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import (
    age_warnings,
    answer_unknowns,
    answer_warnings,
    details,
    grounds,
    local_figures,
)

SECTIONS = {
    "warning": "Warnings",
    "figure": "Figures",
    "price": "Prices",
    "dates": "Dates",
    "assumed": "Assumed",
    "not known": "Not known",
}
Numbers = tuple[int, ...]  # of options, counted from 1


@dataclass(frozen=True)
class Ranking:
    """The options that are possible, the cheapest first and those without a price last; and the
    others."""

    possible: list[Option]
    left_out: list[Option]

    @classmethod
    def of(cls, options: Sequence[Option]) -> Ranking:
        """Return the ranking; options of one price stay in their order."""
        possible = sorted((one for one in options if one.estimate), key=_expected_usd)
        return cls(possible, [one for one in options if not one.estimate])

    @property
    def estimates(self) -> list[Estimate]:
        """The estimates, the cheapest first."""
        return [one.estimate for one in self.possible if one.estimate]

    def label(self, chosen: Sequence[Option]) -> str:
        """Return the names of these options, for a note on them; empty for all of them."""
        if len(chosen) == len(self.possible):
            return ""
        names: dict[str, None] = {}
        for one in chosen:
            others = [other for other in self.possible if other.backend == one.backend]
            whole = all(other in chosen for other in others)
            names[one.backend if whole else name_of(one)] = None
        return f"{', '.join(names)}: "


def _expected_usd(option: Option) -> Decimal:
    cost = option.estimate.cost_usd if option.estimate else None
    return cost.expected if cost else Decimal("Infinity")


def name_of(option: Option) -> str:
    """Return ``openai / gpt-4.1-mini-2025-04-14``."""
    return f"{option.backend} / {option.model}"


def refusal(option: Option) -> str:
    """Return why an option has no figures, and what to do about it."""
    error = option.error
    return str(error) if error else ""


def sections(ranking: Ranking, *, answered: bool = False) -> dict[str, list[tuple[Numbers, str]]]:
    """Return everything the figures rest on, by title: each text with its options. ``answered``:
    without the figures of the answer about one option."""
    figures = local_figures if answered else details
    found: dict[str, dict[str, list[int]]] = {title: {} for title in SECTIONS.values()}
    for number, estimate in enumerate(ranking.estimates, start=1):
        for kind, text in (*figures(estimate), *grounds(estimate)):
            title = SECTIONS.get(kind, SECTIONS["figure"])
            shown = text if kind in SECTIONS else f"{kind.strip()}: {text}"
            found[title].setdefault(shown, []).append(number)
    return {
        title: [(tuple(numbers), text) for text, numbers in texts.items()]
        for title, texts in found.items()
        if texts
    }


def left_out_reasons(ranking: Ranking) -> Iterator[str]:
    """Yield why options are left out that one would miss, each reason once: a name that no other
    option has, or an error of the data. That a hosted model cannot be trained here needs no
    words."""
    reasons: list[tuple[Option, str]] = []
    for one in ranking.left_out:
        elsewhere = any(other.model == one.model for other in ranking.possible)
        known = any(other.backend == one.backend for other in ranking.possible)
        mismatch = isinstance(one.error, NotFoundError | UnsupportedError)
        if not (mismatch and elsewhere and known):
            reasons.append((one, refusal(one)))
    for text, options in _once(reasons).items():
        yield f"{', '.join(map(name_of, options))}: {text}"


def shown_warnings(ranking: Ranking) -> Iterator[str]:
    """Yield what may stand in the way of a job, each once with its options: first what does."""
    notes = [
        (option, text)
        for option, estimate in zip(ranking.possible, ranking.estimates, strict=True)
        for text in (*answer_unknowns(estimate), *answer_warnings(estimate))
    ]
    texts = _once(notes)
    for text in sorted(texts, key=lambda text: not text.startswith(REFUSED)):
        yield f"{ranking.label(texts[text])}{text}"


def _once(notes: Sequence[tuple[Option, str]]) -> dict[str, list[Option]]:
    """Return each text once, with its options: what differs by the name of the model alone is said
    of "this model"."""
    groups: dict[str, list[tuple[Option, str]]] = {}
    for option, text in notes:
        alike = text.replace(repr(option.model), "this model")
        groups.setdefault(alike, []).append((option, text))
    return {
        alike if len({text for _, text in group}) > 1 else group[0][1]: [one for one, _ in group]
        for alike, group in groups.items()
    }


def count_ages(estimates: Iterable[Estimate]) -> int:
    """Return how many warnings say that a source is old."""
    return len({text for estimate in estimates for text in age_warnings(estimate)})


def join_runs(numbers: Sequence[int]) -> str:
    """Return ``1-3 7`` for 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)
