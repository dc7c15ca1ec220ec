"""Verdicts of a judge, and how far it can be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ConfigDict

from finetune_gateway.evaluation import statistics
from finetune_gateway.evaluation.judge import SCALE, Better
from finetune_gateway.evaluation.results import ComparedRow, Interval, JudgeFacts
from finetune_gateway.model import Model

FEW = 10  # pairs from which on the judge's own habits are looked at
LIKE_LENGTH = 1.25  # times that the longer of two answers is as long as the other, at most
UNREAD = "the judge's verdict cannot be read"


class Judgement(Model):
    """One verdict. ``better``: of a pair, by the order in which it was shown. ``score``: by a
    rubric. ``problem``: why there is neither. ``asked``: False for what needs no judge."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    row: str
    first: str  # key of the model shown first, or alone
    second: str = ""
    rubric: str = ""  # name of the check
    better: Better | None = None
    score: float | None = None
    scale: tuple[int, int] = SCALE
    lengths: tuple[int, ...] = ()  # of the answers in characters, in their order
    reason: str = ""
    problem: str = ""
    asked: bool = True

    @property
    def winner(self) -> str | None:
        """The key of the better model; an empty text for a tie, None without a verdict."""
        keys: dict[Better, str] = {"first": self.first, "second": self.second, "tie": ""}
        return None if self.better is None else keys[self.better]


@dataclass(frozen=True)
class Pair:
    """Two answers to a row, with the verdicts of both orders."""

    row: str
    one: str  # keys, in their order
    other: str
    verdicts: tuple[Judgement, ...]

    @property
    def judged(self) -> bool:
        """True if both orders have a verdict."""
        return len(self.verdicts) == 2 and all(v.better is not None for v in self.verdicts)

    @property
    def asked(self) -> bool:
        """False if the answers are equal, so that nothing was asked."""
        return any(one.asked for one in self.verdicts)

    @property
    def agree(self) -> bool:
        return self.verdicts[0].winner == self.verdicts[1].winner

    @property
    def wins(self) -> float:
        """Return what the first model gets of it."""
        winner = self.verdicts[0].winner if self.agree else ""
        return {self.one: 1.0, self.other: 0.0}.get(winner or "", 0.5)

    @property
    def of_like_length(self) -> bool:
        """True if neither answer is much longer than the other."""
        lengths = self.verdicts[0].lengths
        return max(lengths) <= LIKE_LENGTH * min(lengths)


def pairs_of(judgements: Iterable[Judgement]) -> list[Pair]:
    found: dict[tuple[str, str, str], list[Judgement]] = defaultdict(list)
    for one in judgements:
        if one.second:
            low, high = sorted((one.first, one.second))
            found[one.row, low, high].append(one)
    return [Pair(*key, tuple(verdicts)) for key, verdicts in found.items()]


# -- how far it can be trusted ---------------------------------------------------------------


def facts(
    judgements: Sequence[Judgement],
    rows: Mapping[str, ComparedRow],
    model: str,
    compared: Sequence[str] = (),
) -> JudgeFacts:
    """Return how a judge judges: how often both orders agree, whether it prefers what is shown
    first or is longer. ``model``: what it is called. ``compared``: those whose answers it judges,
    under the same kind of name."""
    pairs = [pair for pair in pairs_of(judgements) if pair.judged and pair.asked]
    decided = [one for pair in pairs for one in pair.verdicts if one.winner]
    uneven = [one for one in decided if one.lengths[0] != one.lengths[1]]
    found = JudgeFacts(
        model=model,
        pairs=len(pairs),
        agreement=_share([pair.agree for pair in pairs], pairs, rows),
        ties=sum(pair.wins == 0.5 for pair in pairs),
        first=_share([one.better == "first" for one in decided], decided, rows),
        longer=_share([_chose_longer(one) for one in uneven], uneven, rows),
        unread=sum(one.problem == UNREAD for one in judgements),
    )
    warnings = _warnings(found, judgements)
    if model in compared:
        warnings = [*warnings, "it judges its own answers too, and models tend to prefer these"]
    return found.model_copy(update={"warnings": tuple(warnings)})


def _chose_longer(one: Judgement) -> bool:
    return (one.better == "first") == (one.lengths[0] > one.lengths[1])


def _share(
    values: Sequence[bool], of: Sequence[Judgement | Pair], rows: Mapping[str, ComparedRow]
) -> Interval | None:
    if not values:
        return None
    clusters = [rows[one.row].cluster for one in of]
    return statistics.mean([*map(float, values)], clusters, share=True)


def _warnings(found: JudgeFacts, judgements: Sequence[Judgement]) -> list[str]:
    said = []
    if not any(one.better or one.score is not None for one in judgements):
        said.append("nothing was judged: there is no verdict that can be read")
    elif any(one.second for one in judgements) and found.pairs < FEW:
        said.append(f"{found.pairs} pairs are too few to tell what the judge prefers")
    if found.unread:
        said.append(f"{found.unread:,} verdicts could not be read, and are not counted")
    if found.agreement is not None and found.agreement.mean < 0.5 and found.pairs >= FEW:
        said.append(
            f"both orders agree in only {share_with_interval(found.agreement)} of the pairs"
        )
    first = found.first
    if first is not None and (first.low > 0.5 or first.high < 0.5):
        place = "first" if first.low > 0.5 else "second"
        said.append(f"it prefers the answer shown {place}{_of_verdicts(first)}")
    longer = found.longer
    if longer is not None and (longer.low > 0.5 or longer.high < 0.5):
        kind = "longer" if longer.low > 0.5 else "shorter"
        said.append(
            f"it prefers the {kind} answer{_of_verdicts(longer)}; whether for its length or for "
            "what it says, the pairs of like length show"
        )
    return said


def _of_verdicts(share: Interval) -> str:
    """Return ``, in 83% (74 to 90%) of its verdicts``; of the other side if that is more."""
    low, mean, high = share.low, share.mean, share.high
    if mean < 0.5:
        low, mean, high = 1 - high, 1 - mean, 1 - low
    of_more = share.model_copy(update={"low": low, "mean": mean, "high": high})
    return f", in {share_with_interval(of_more)} of its verdicts"


def share_with_interval(share: Interval) -> str:
    """Return ``83% (74 to 90%)``."""
    return f"{share.mean:.0%} ({100 * share.low:.0f} to {share.high:.0%})"
