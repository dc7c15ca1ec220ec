"""Which models are the best by a measure, as far as one can tell: the verdict, as a paragraph."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from finetune_gateway.evaluation.assessing import CHECKS
from finetune_gateway.evaluation.missing_scores import UNANSWERED, Unjudged, choosers
from finetune_gateway.evaluation.results import (
    ComparedFacts,
    Difference,
    Measure,
    MeasureFigure,
    Verdict,
)

MANY = 1000  # scores from which a tenth of a percent says something
SMALL = 0.01  # difference of shares of which tenths of a point are said
FORM = ("json_valid", "json_schema")  # measures that say nothing of what stands in an answer
OF_MODELS = "judge:"  # begins the measures of a judge, which may be wrong
NAMED = 3  # models with their figures, where one cannot tell which is best


def verdict(
    measure: Measure,
    models: Sequence[ComparedFacts],
    found: Mapping[str, MeasureFigure],
    pairs: Sequence[Difference],
    money: Mapping[str, str],
    left: Mapping[str, tuple[int, int]],
    matches: Mapping[str, MeasureFigure] | None = None,
    silent: Mapping[str, Unjudged] | None = None,
    doubts: Sequence[str] = (),
    right: Measure | None = None,
    others: Sequence[tuple[Measure, Sequence[Difference]]] = (),
) -> Verdict:
    """Return which models are best by a measure, as far as one can tell. ``pairs``: as ``untold``
    leaves them. ``money``: a clause on the cost of a model's answers, by its key; ``left``: what it
    has left unanswered. ``right``, ``matches``: which answers are right, if that can be said, with
    its figures. ``others``: measures that may tell what this one cannot, the first that does is
    named. ``silent``: what the measure has not judged of a model. ``doubts``: how far the judge can
    be trusted, if it decides, as clauses that begin with "it"."""
    silent = silent or {}
    titles = {model.key: model.title for model in models}
    ranked = _ranked(measure, found)
    if not ranked:
        none = f"Can't tell: no model has a figure for {measure.title.lower()}"
        reasons = dict.fromkeys(one.empty.rstrip(".") for one in found.values() if one.empty)
        return Verdict(text=f"{'; '.join([none, *reasons])}.", measure=measure.name)
    choosy = choosers(left)
    worse = {_other(pair) for pair in pairs if pair.better}
    unbeaten = [key for key in ranked if key not in worse] or ranked
    top = unbeaten[0]
    rivals = [pair for pair in pairs if top in (pair.first, pair.second) and not pair.better]
    like_top = {key for pair in rivals for key in (pair.first, pair.second)}
    best = [key for key in ranked if key in unbeaten or key in like_top]
    decided = len(ranked) > 1 and len(best) == 1
    chosen = choosy | {key for key, one in silent.items() if one.too_many}
    unknown = [] if top in chosen else [pair.rows_needed or 0 for pair in rivals]
    needed = max(unknown, default=0) or None  # more rows do not help one that leaves them out
    headline, short = _headline(measure, top, best, titles, found, decided=decided)
    opposite = _opposite(measure, top, pairs, others, titles, headline if decided else "")
    headline, short = (opposite, opposite) if opposite else (headline, short)
    subject = "It" if len(best) == 1 and not opposite else titles[top]
    silences = [
        *_left_out({key: left[key] for key in ranked if key in choosy}, titles),
        *_not_judged(silent, titles),
    ]
    sentences = [
        # First why one can't tell, then what else tells: a short screen keeps what stands first.
        *([] if decided else silences),
        *([] if opposite else _elsewhere(best, others, titles)),
        *_right(measure, best, titles, right, matches or {}),
        *_against(measure, top, ranked, pairs, titles, subject),
        *(f"But of the judge: {doubt}." for doubt in doubts),
        *([_rows_text(needed, rivals, titles)] if needed else []),
        *_without(found, titles),
        *(silences if decided else []),
        *_costs(best, money, titles),
    ]
    return Verdict(
        text=" ".join([headline, *sentences]),
        short=" ".join([short, *sentences]),
        measure=measure.name,
        best=tuple(best),
        decided=decided,
        rows_needed=None if decided else needed,
    )


def with_opposites(
    pairs: Sequence[Difference],
    measure: Measure,
    others: Sequence[tuple[Measure, Sequence[Difference]]],
    *,
    named: bool,
) -> list[Difference]:
    """Return the pairs; those of which another measure of the right answers says the opposite name
    it. A judge alone then calls neither better, unless the user has ``named`` its measure."""
    said = {
        (one.first, one.second, one.better): other.name
        for other, found in reversed(others)  # the first one stays
        if other.better == measure.better == "higher" and other.name not in FORM
        for one in found
        if one.better
    }
    said |= {(second, first, better): name for (first, second, better), name in said.items()}
    by_judge = measure.name.startswith(OF_MODELS) and not named
    marked = []
    for pair in pairs:
        by = said.get((pair.first, pair.second, _other(pair)), "") if pair.better else ""
        if pair.measure == measure.name and by:
            better = "" if by_judge else pair.better
            pair = pair.model_copy(update={"opposite_by": by, "better": better})
        marked.append(pair)
    return marked


def _ranked(measure: Measure, found: Mapping[str, MeasureFigure]) -> list[str]:
    """Return the models with a figure, the best mean first."""
    means = {key: one.interval.mean for key, one in found.items() if one.interval}
    return sorted(means, key=lambda key: means[key], reverse=measure.better != "lower")


def _other(pair: Difference) -> str:
    return pair.second if pair.better == pair.first else pair.first


def _headline(
    measure: Measure,
    top: str,
    best: Sequence[str],
    titles: Mapping[str, str],
    found: Mapping[str, MeasureFigure],
    *,
    decided: bool,
) -> tuple[str, str]:
    """Return the first sentence, and the same without the figures of several models."""
    by = f"by {measure.words}"
    what = f"{figure_text(measure, found[top])} {by}"
    lower = ", where lower is better" if measure.better == "lower" else ""
    if decided:
        text = f"{titles[top]} is the best: {what}{lower}."
        return text, text
    if len(best) == 1:
        text = f"{titles[top]}: {what}{lower}. There is nothing to compare it with."
        return text, text
    named = [f"{titles[key]} {figure_text(measure, found[key])}" for key in best[:NAMED]]
    named += [f"{len(best) - NAMED} more"] if len(best) > NAMED else []
    which = "better" if sum(one.interval is not None for one in found.values()) == 2 else "best"
    text = f"Can't tell which is {which} {by}{lower}"
    return f"{text}: {', '.join(named)}.", f"{text}."


def _opposite(
    measure: Measure,
    top: str,
    pairs: Sequence[Difference],
    others: Sequence[tuple[Measure, Sequence[Difference]]],
    titles: Mapping[str, str],
    headline: str,
) -> str:
    """Return the headline where another measure calls a model better than the top one, which is
    worse than it by this one: both in one sentence, so that no screen has only half of it."""
    pair = next((one for one in pairs if one.opposite_by and top in (one.first, one.second)), None)
    if pair is None:
        return ""
    other, found = next(one for one in others if one[0].name == pair.opposite_by)
    theirs = next(one for one in found if {one.first, one.second} == {pair.first, pair.second})
    winner, loser = _other(theirs), theirs.better  # by the measure that decides
    difference = difference_text(other, theirs, loser)
    if headline:
        than = " than it" if len(titles) > 2 else ""
        better = f"{titles[loser]} is better{than} ({difference})"
        return f"{headline[:-1]}; but by {other.words} the opposite holds: {better}."
    return (
        f"Can't tell which is {'better' if len(titles) == 2 else 'best'}: by {measure.words} "
        f"{titles[winner]} is better than {titles[loser]} "
        f"({difference_text(measure, pair, winner)}), by {other.words} the opposite holds "
        f"({difference}). --by {measure.name} or --by {other.name} chooses between them."
    )


def _right(
    measure: Measure,
    best: Sequence[str],
    titles: Mapping[str, str],
    right: Measure | None,
    matches: Mapping[str, MeasureFigure],
) -> list[str]:
    """Return a sentence on the answers that are right, where what decides says nothing of it: a
    loss if none is, what is asked of the form, and checks."""
    shares = {key: one.interval for key, one in matches.items() if one.interval}
    if not measure.share and shares and not any(one.mean for one in shares.values()):
        return ["But no answer of any model matches its reference."]
    alike = len({one.n for one in shares.values()}) == 1
    shown = [
        f"{share_text(one.mean)} of {titles[key]}{'' if alike else f' (n {one.n:,})'}"
        for key in best
        if (one := shares.get(key))
    ]
    named = ", ".join(shown[:NAMED])
    if measure.name in FORM and named:
        return [f"'{measure.title}' is about their form alone: {named} match the reference."]
    return [f"{right.title}: {named}."] if measure.name == CHECKS.name and right and named else []


def _rows_text(needed: int, rivals: Sequence[Difference], titles: Mapping[str, str]) -> str:
    """Return how many rows would do, and for which models if there are several pairs: of models
    that are alike in all rows, for 5 points."""
    alike = all(pair.interval is not None and pair.interval.mean == 0 for pair in rivals)
    if alike:
        return f"About {needed:,} rows would show a small difference."
    if len(rivals) == 1:
        return f"About {needed:,} rows would do."
    most = next(pair for pair in rivals if pair.rows_needed == needed)
    return (
        f"About {needed:,} rows would tell {titles[most.first]} from {titles[most.second]}, and "
        "fewer the others."
    )


def _costs(best: Sequence[str], money: Mapping[str, str], titles: Mapping[str, str]) -> list[str]:
    """Return one sentence on what the best of them cost, so that no screen names the price of one
    model and leaves out that of another."""
    clauses = [f"{titles[key]} {money[key]}" for key in best[:NAMED] if key in money]
    return [f"Cost: {'; '.join(clauses)}."] if clauses else []


def _elsewhere(
    best: Sequence[str],
    others: Sequence[tuple[Measure, Sequence[Difference]]],
    titles: Mapping[str, str],
) -> list[str]:
    """Return a sentence on which of several models is the best by another measure; if none is, on
    which are better than others."""
    partly = ""
    for measure, pairs in others if len(best) > 1 else ():
        above = {key: {_other(pair) for pair in pairs if pair.better == key} for key in best}
        first = next((key for key in best if above[key] >= {*best} - {key}), None)
        if first is not None:
            return [
                f"By {measure.words} {titles[first]} is the best of them (--by {measure.name})."
            ]
        beaten = {key for keys in above.values() for key in keys if key in best}
        over = [key for key in best if beaten and above[key] >= beaten and key not in beaten]
        if over and not partly:
            are = "is" if len(over) == 1 else "are"
            partly = (
                f"By {measure.words} {_listed(over, titles)} {are} better than "
                f"{_listed([key for key in best if key in beaten], titles)} (--by {measure.name})."
            )
    return [partly] if partly else []


def _listed(keys: Sequence[str], titles: Mapping[str, str]) -> str:
    """Return ``a, b and c``."""
    *most, last = [titles[key] for key in keys]
    return f"{', '.join(most)} and {last}" if most else last


def _against(
    measure: Measure,
    top: str,
    ranked: Sequence[str],
    pairs: Sequence[Difference],
    titles: Mapping[str, str],
    subject: str,
) -> list[str]:
    """Return a sentence for each model that the top one, ``subject``, is better than."""
    found = []
    for key in ranked:
        pair = next((one for one in pairs if {one.first, one.second} == {top, key}), None)
        if pair is not None and pair.better == top and pair.interval is not None:
            found.append(f"{titles[key]} ({difference_text(measure, pair, top)})")
    return [f"{subject} is better than {', '.join(found)}."] if found else []


def _without(found: Mapping[str, MeasureFigure], titles: Mapping[str, str]) -> list[str]:
    """Return a sentence for each model without a figure."""
    empty = [(titles[key], one.empty) for key, one in found.items() if one.interval is None]
    return [f"{title} has no figure: {why.rstrip('.')}." for title, why in empty]


def _left_out(left: Mapping[str, tuple[int, int]], titles: Mapping[str, str]) -> list[str]:
    """Return a sentence for each number of requests without an answer, with whose they are."""
    having: dict[tuple[int, int], list[str]] = defaultdict(list)
    for key, counts in left.items():
        having[counts].append(titles[key])
    return [
        f"Of {none:,} of {asked:,} requests to {' and as many to '.join(names)} there is no "
        "answer, and the figures are of the others alone: a model with more than "
        f"{UNANSWERED:.0%} missing is not called better."
        for (none, asked), names in having.items()
    ]


def _not_judged(silent: Mapping[str, Unjudged], titles: Mapping[str, str]) -> list[str]:
    """Return a sentence for each number of answers that were not judged, with whose they are."""
    having: dict[Unjudged, list[str]] = defaultdict(list)
    for key, one in silent.items():
        if one.many:
            having[one].append(titles[key])
    return [f"Of {' and of '.join(names)} {one}." for one, names in having.items()]


def share_text(value: float, n: int = 0) -> str:
    """Return ``81%`` of so many scores; ``99.7%`` where 100% would say that it is all of them."""
    near = value not in (0.0, 1.0) and not 0.005 <= value < 0.995
    return f"{value:.{1 if near or n >= MANY else 0}%}"


def number_text(value: float) -> str:
    """Return a number in three digits, or all of its whole ones."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def figure_text(measure: Measure, figure: MeasureFigure) -> str:
    """Return ``81% (72 to 88%, n 104)``; ``n 104 in 60 conversations`` if those are fewer."""
    interval = figure.interval
    if interval is None:
        return figure.empty
    n, unit = interval.n, "" if measure.share else f" {measure.unit}".rstrip()
    mean, low, high = (
        share_text(end, n) if measure.share else number_text(end)
        for end in (interval.mean, interval.low, interval.high)
    )
    several = "" if interval.clusters == 1 else "s"
    of = "" if interval.clusters == n else f" in {interval.clusters:,} conversation{several}"
    return f"{mean}{unit} ({low.removesuffix('%')} to {high}, n {n:,}{of})"


def points_text(share: float, digits: int) -> str:
    """Return a share in points; of one that would read as 0, and is none, a digit that counts."""
    points = 100 * share
    text = f"{points:.{digits}f}"
    return f"{points:.1g}" if points and not float(text) else text


def difference_text(measure: Measure, pair: Difference, top: str) -> str:
    """Return ``+12 points, 4 to 20``, from the side of ``top``."""
    interval = pair.interval
    if interval is None:
        return ""
    turn = 1 if pair.first == top else -1
    mean, low, high = turn * interval.mean, *sorted((turn * interval.low, turn * interval.high))
    sign = "+" if mean >= 0 else ""
    if not measure.share:
        unit = f" {measure.unit}".rstrip()
        return f"{sign}{number_text(mean)}{unit}, {number_text(low)} to {number_text(high)}"
    small = any(0 < abs(end) < SMALL for end in (mean, low, high))
    digits = 1 if small or interval.n >= MANY else 0
    shown = [points_text(end, digits) for end in (mean, low, high)]
    return f"{sign}{shown[0]} points, {shown[1]} to {shown[2]}"
