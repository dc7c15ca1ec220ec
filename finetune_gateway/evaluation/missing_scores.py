"""What has no score, and whom it keeps from being called better: one that leaves out what is hard
is right in the rest, and a judge that fails on many pairs has said something of the others."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from finetune_gateway.evaluation.results import UNDECIDED, Difference, MeasureFigure

UNANSWERED = 0.05  # share of requests without an answer, from which on no figure of a model counts
# Share of the answers that a check or the judge has not judged, from which on it decides nothing.
UNJUDGED = 0.5
FAILED = 0.1  # of them those of which something went wrong: an answer can bring that about
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")  # 900, 1,024 and 0.5 are a number each


@dataclass(frozen=True)
class Unjudged:
    """The answers of a model that a check or the judge has said nothing of: ``count`` of all
    ``answers``. ``failed``: those of which something went wrong; the others show neither.
    ``why``: the most frequent reason."""

    count: int = 0
    failed: int = 0
    answers: int = 0
    why: str = ""

    @classmethod
    def of(cls, measure: str, figure: MeasureFigure, never: tuple[str, ...] = ()) -> Unjudged:
        """Return those of a figure. Of other measures there are none: what has no score there has
        no answer, or no reference. ``never``: begin reasons that do not count here."""
        if not measure.startswith(("check", "judge:")):
            return cls()
        counted = {
            why: count for why, count in figure.unjudged.items() if not why.startswith(never)
        }
        count = sum(counted.values())
        undecided = sum(n for why, n in counted.items() if why.startswith(UNDECIDED))
        judged = figure.answers - sum(figure.unjudged.values())
        why = max(counted, key=lambda one: counted[one], default="")
        return cls(count, count - undecided, judged + count, why)

    @property
    def too_many(self) -> bool:
        """True for so many that the others decide nothing."""
        return self.count > UNJUDGED * self.answers or self.failed > FAILED * self.answers

    @property
    def many(self) -> bool:
        """True for so many that they have to be named."""
        return self.too_many or self.failed > UNANSWERED * self.answers

    def __str__(self) -> str:
        why = self.why.rstrip(".")
        return f"{self.count:,} of {self.answers:,} answers were not judged ({why})"


def alike(reasons: Counter[str]) -> Counter[str]:
    """Return the reasons, those that differ in their numbers alone as one, with … in the place of
    each number that differs."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text in reasons:
        groups[NUMBER.sub("0", text)].append(text)
    return Counter(
        {_common(texts): sum(reasons[one] for one in texts) for texts in groups.values()}
    )


def _common(texts: Sequence[str]) -> str:
    numbers = zip(*(NUMBER.findall(text) for text in texts), strict=True)
    shown = iter([one[0] if len(set(one)) == 1 else "…" for one in numbers])
    return NUMBER.sub(lambda _: next(shown), texts[0])


def choosers(left: Mapping[str, tuple[int, int]]) -> set[str]:
    """Return the models that have left so much unanswered that they chose what they answer.
    ``left``: requests without an answer, and all, by the key of the model."""
    return {key for key, (none, asked) in left.items() if none > UNANSWERED * max(asked, 1)}


def untold(
    pairs: Iterable[Difference],
    left: Mapping[str, tuple[int, int]],
    silent: Mapping[str, Mapping[str, Unjudged]],
) -> list[Difference]:
    """Return the pairs, none better in them that chose what it answers, or that the measure has
    left too many answers of unjudged. ``silent``: by measure and model."""
    choosy = choosers(left)
    return [
        one.model_copy(update={"better": "", "blocked": True})
        if one.better in choosy | _silent(silent.get(one.measure, {}))
        else one
        for one in pairs
    ]


def _silent(of_measure: Mapping[str, Unjudged]) -> set[str]:
    return {key for key, one in of_measure.items() if one.too_many}
