"""What the model of a job answers, beside what its base answered: from the newest comparison that
has both, or has the model alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_gateway.errors import StoreError
from finetune_gateway.evaluation import comparison
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.evaluation.results import ComparedFacts, ComparedRow
from finetune_gateway.jobs.job import Job
from finetune_gateway.reports.comparison_rows import said
from finetune_gateway.reports.html_text import Piece, excerpt, short_text

SHOWN = 5  # rows
CHARS = 600  # of a text
BEFORE = ("base", "prompt", "few-shot")  # who stands for the time before, the first that is there


@dataclass(frozen=True)
class Sample:
    """A row with the answers of the base and of the tuned model; None where there is none."""

    prompt: list[Piece]
    reference: list[Piece] | None
    before: list[Piece] | None
    after: list[Piece] | None


@dataclass(frozen=True)
class Samples:
    """The first rows of a comparison, and what it came to."""

    comparison: str
    verdict: list[Piece]
    before: list[Piece]  # the name of the model; empty without one
    after: list[Piece]
    rows: list[Sample]
    left: int


def samples_of(job: Job, *, no_rows: bool = False) -> Samples | None:
    """Return what its model answers in the newest comparison with it, None if there is none;
    ``no_rows``: what that came to, without its texts."""
    settings = job.store.settings
    for name in reversed(comparison.ids(settings)):
        try:
            found = Comparison.at(settings, name)
        except StoreError:  # another one may be whole
            continue
        tuned = next((one for one in found.data.models if _is_of(one, job)), None)
        if tuned:
            return _samples(found, tuned, no_rows)
    return None


def _is_of(model: ComparedFacts, job: Job) -> bool:
    return model.variant == "tuned" and model.job_id == job.id and model.step is None


def _samples(found: Comparison, tuned: ComparedFacts, no_rows: bool) -> Samples:
    others = [one for one in found.data.models if one.base_model == tuned.base_model]
    ranked = sorted(
        (one for one in others if one.variant in BEFORE), key=lambda m: BEFORE.index(m.variant)
    )
    base = ranked[0] if ranked else None
    rows = [] if no_rows else [row for row in found.rows() if not row.check]
    return Samples(
        comparison=found.id,
        verdict=short_text(found.data.verdict.text, 2_000),
        before=short_text(base.title) if base else [],
        after=short_text(tuned.title),
        rows=[*_rows(found, rows[:SHOWN], base, tuned)],
        left=max(0, len(rows) - SHOWN),
    )


def _rows(
    found: Comparison, rows: Sequence[ComparedRow], base: ComparedFacts | None, tuned: ComparedFacts
) -> Iterator[Sample]:
    if not rows:
        return
    texts: dict[tuple[str, str], list[Piece]] = {}
    for one in found.answers():
        answer = one.answer
        text = f"no answer: {answer.error}" if answer.error else said(answer.message)
        texts.setdefault((answer.row, answer.model), excerpt(text, CHARS))
    for row in rows:
        yield Sample(
            excerpt(said(row.prompt.messages[-1]), CHARS),
            excerpt(said(row.reference), CHARS) if row.reference else None,
            texts.get((row.id, base.key)) if base else None,
            texts.get((row.id, tuned.key)),
        )
