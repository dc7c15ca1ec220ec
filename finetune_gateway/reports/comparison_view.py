"""What a comparison says, in words and figures: what its page, its text and its Markdown share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from string import ascii_uppercase

from finetune_gateway.evaluation.best import number_text, points_text, share_text
from finetune_gateway.evaluation.results import (
    NOT_RECORDED,
    PAIRS,
    AnswerFigures,
    CheckFigure,
    ComparedFacts,
    ComparisonData,
    Difference,
    Interval,
    JudgeFacts,
    Measure,
    MeasureFigure,
    TrainingFacts,
)
from finetune_gateway.evaluation.verdicts import share_with_interval
from finetune_gateway.reports.asking_text import at_most_text, spent_text
from finetune_gateway.reports.comparison_costs import (
    EMPTY,
    Cells,
    seconds_text,
    training_text,
)
from finetune_gateway.reports.loss_chart import overfitting_note
from finetune_gateway.reports.output import elide, format_count, format_duration
from finetune_gateway.settings.money import format_usd

CHECK = "check:"  # how the measures of behaviour checks are named
UNDECIDED = "can't tell"
WHY = 48  # characters of a reason beside a figure
REASONS = 2  # of those beside a figure


# Units that are part of a figure.
WRITTEN: dict[str, Callable[[float], str]] = {"s": seconds_text, "USD": format_usd}


def unit_of(measure: Measure) -> str:
    """Return the unit that is said beside a figure; empty where it is in the figure."""
    return "" if measure.unit in WRITTEN else measure.unit


@dataclass(frozen=True)
class Standing:
    """How a model does in a measure. ``best``: better than every other one; ``above``: the letters
    of those that it is better than, as far as one can tell."""

    best: bool
    above: tuple[str, ...]

    @property
    def text(self) -> str:
        """Return ``best``, ``better than A, B`` or nothing."""
        if self.best:
            return "best"
        return f"better than {', '.join(self.above)}" if self.above else ""


# -- figures -------------------------------------------------------------------------------


def value_text(measure: Measure, value: float, n: int = 0) -> str:
    """Return a score as people read it: ``82%``, ``0.312``, ``41.3``, ``2.4 s``, ``$0.0002``."""
    if measure.unit in WRITTEN:
        return WRITTEN[measure.unit](value)
    return share_text(value, n) if measure.share else number_text(value)


def interval_text(measure: Measure, interval: Interval) -> str:
    """Return ``71 to 90%``."""
    low, high = (value_text(measure, end, interval.n) for end in (interval.low, interval.high))
    return f"{low.removesuffix('%')} to {high}"


def figure_text(measure: Measure, figure: MeasureFigure | None) -> str:
    """Return ``82% (71 to 90%)``, or why there is no figure."""
    if figure is None or figure.interval is None:
        return (figure and figure.empty) or EMPTY
    shown = value_text(measure, figure.interval.mean, figure.interval.n)
    return f"{shown} ({interval_text(measure, figure.interval)})"


def counted_text(measure: Measure, interval: Interval) -> str:
    """Return ``240 rows``, or pairs of answers, with the conversations they are of where those are
    fewer."""
    rows = format_count(interval.n, "pair" if measure.name == PAIRS else "row")
    if interval.clusters == interval.n:
        return rows
    return f"{rows} of {format_count(interval.clusters, 'conversation')}"


def unjudged_text(figure: MeasureFigure) -> str:
    """Return ``3 not scored: timed out (2), refused``; empty if all are."""
    if not figure.unjudged or figure.interval is None:
        return ""
    most = sorted(figure.unjudged.items(), key=lambda one: -one[1])
    reasons = [
        f"{elide(why, WHY)} ({count:,})" if len(most) > 1 else elide(why, WHY)
        for why, count in most[:REASONS]
    ]
    others = len(most) - len(reasons)
    more = f"; {format_count(others, 'other reason')}" if others else ""
    return f"{sum(figure.unjudged.values()):,} not scored: {'; '.join(reasons)}{more}"


# -- which is better -----------------------------------------------------------------------


def deciding_first(data: ComparisonData) -> list[Measure]:
    """Return the measures that are no behaviour checks, that of the verdict first, then the others
    that decide."""
    shown = [one for one in data.measures if not one.name.startswith(CHECK)]
    return sorted(shown, key=lambda one: (one.name != data.verdict.measure, not one.decides))


def figured(data: ComparisonData) -> tuple[list[Measure], list[Measure]]:
    """Return of those the ones that decide, and the others; without those that have no figure."""
    found = [one for one in deciding_first(data) if has_figure(data, one)]
    first = [one for one in found if one.decides or one.name == data.verdict.measure]
    return first, [one for one in found if one not in first]


def has_figure(data: ComparisonData, measure: Measure) -> bool:
    """Return True if any model has a figure in a measure."""
    return any(one.interval for one in data.figures.get(measure.name, {}).values())


def unmeasured(data: ComparisonData) -> list[tuple[str, str]]:
    """Return the measures without a figure, each with the reason."""
    found = []
    for measure in deciding_first(data):
        if not has_figure(data, measure):
            reasons = [one.empty for one in data.figures.get(measure.name, {}).values()]
            found.append((measure.title, next(filter(None, reasons), "no model has a figure")))
    return found


def measure_of(data: ComparisonData, name: str) -> Measure | None:
    """Return a measure by its name."""
    return next((one for one in data.measures if one.name == name), None)


def letters(data: ComparisonData) -> dict[str, str]:
    """Return what models are called in tables, by their keys: A, B, C."""
    return {
        one.key: ascii_uppercase[place] if place < 26 else f"{place + 1}"
        for place, one in enumerate(data.models)
    }


def checks(data: ComparisonData) -> list[Measure]:
    """Return the measures that are behaviour checks."""
    return [one for one in data.measures if one.name.startswith(CHECK)]


def check_measure(data: ComparisonData, check: str) -> Measure | None:
    """Return the measure of a check of behaviour."""
    return measure_of(data, f"{CHECK}{check.removeprefix(CHECK)}")


def titles(data: ComparisonData) -> dict[str, str]:
    """Return the titles of the models by their keys."""
    return {one.key: one.title for one in data.models}


def standing(data: ComparisonData, measure: str, key: str) -> Standing:
    """Return how a model does in a measure."""
    names = letters(data)
    others = [one for one in data.models if one.key != key]
    scored = {
        name
        for name, figure in data.figures.get(measure, {}).items()
        if figure.interval is not None
    }
    above = {
        one.second if one.better == one.first else one.first
        for one in data.differences
        if one.measure == measure and one.better == key
    }
    rivals = {one.key for one in others if one.key in scored}
    return Standing(
        bool(rivals) and rivals <= above,
        tuple(names[one.key] for one in others if one.key in above),
    )


def undecided_text(data: ComparisonData, measure: str) -> str:
    """Return the pairs of which one can't tell, and how many rows would do; empty without any."""
    names = letters(data)
    tested = [one for one in data.differences if one.measure == measure]
    pairs = [one for one in tested if not one.better]
    if not pairs:
        return ""
    needed = [(one.rows_needed, one) for one in pairs if one.rows_needed]
    rows = ""
    if needed:
        least, pair = min(needed, key=itemgetter(0))
        rows = f"; about {least:,} rows would do"
        if len(pairs) > 1:
            rows += f" for {names[pair.first]} and {names[pair.second]}, which need the fewest"
    missing = [f"{names[one.first]} from {names[one.second]}" for one in pairs if one.blocked]
    rows += f"; for want of answers not {', '.join(missing)}" if missing else ""
    for one in pairs:
        if one.opposite_by and (other := measure_of(data, one.opposite_by)) is not None:
            both = f"{names[one.first]} from {names[one.second]}"
            rows += f"; {both}, since by {other.words} the opposite holds"
    if len(pairs) == len(tested) > 1:
        return f"no two of them apart{rows}"
    plain = (one for one in pairs if not one.blocked and not one.opposite_by)
    open_ = [f"{names[one.first]} from {names[one.second]}" for one in plain]
    return (", ".join(open_) + rows).removeprefix("; ")


def difference_text(measure: Measure, one: Difference) -> str:
    """Return ``+11 (+4 to +19) points``, the first model minus the second."""
    if one.interval is None:
        return EMPTY
    scale = 100 if measure.share else 1
    ends = (one.interval.mean, one.interval.low, one.interval.high)
    mean, low, high = (_signed(measure, scale * end) for end in ends)
    unit = " points" if measure.share else f" {unit_of(measure)}".rstrip()
    return f"{mean} ({low} to {high}){unit}"


def _signed(measure: Measure, value: float) -> str:
    sign = "+" if value > 0 else "-" if value < 0 else ""
    size = abs(value)
    return (
        f"{sign}{points_text(size / 100, 1)}"
        if measure.share
        else f"{sign}{value_text(measure, size)}"
    )


# -- what is said above the figures --------------------------------------------------------


def rows_text(data: ComparisonData) -> str:
    """Return ``40 rows of 20 conversations: the held-out rows of ftg-7kq3; 2 of ...``."""
    facts = data.data
    rows = format_count(facts.rows, "row")
    if facts.clusters and facts.clusters != facts.rows:
        rows += f" of {format_count(facts.clusters, 'conversation')}"
    left, note = sum(facts.left_out.values()), f" {facts.note}" if facts.note else ""
    if not left:
        return f"{rows}: {facts.words}.{note}"
    kinds = " and ".join(f"{count:,} {kind}" for kind, count in facts.left_out.items())
    return (
        f"{rows}: {facts.words}; {left:,} of them not asked, since a compared model was trained on "
        f"the same ({kinds}).{note}"
    )


def warnings(data: ComparisonData) -> Iterator[str]:
    """Yield what a reader should know before the figures: failed requests, odd rows, the judge."""
    names = letters(data)
    for model in data.models:
        figures = data.answers.get(model.key)
        if figures and figures.errors:
            yield f"{names[model.key]} {errors_text(model, figures)}"
        if figures and figures.empty:
            yield (
                f"{names[model.key]} {model.title}: {figures.empty:,} of {figures.answers:,} "
                "answers are empty, and are scored like any other."
            )
    yield from data.data.warnings
    if data.judge:
        yield from (f"The judge: {text}" for text in data.judge.warnings)
    for model in data.models:
        if model.training and model.training.metrics and (note := losses_note(model.training)):
            yield f"{names[model.key]} {model.title}: {note}."
    if data.spent_usd is not None and data.unanswered:
        yield at_most_text(data.unanswered, data.at_most_usd)
    yield from data.notes


def losses_note(training: TrainingFacts) -> str:
    """Return what to know of the losses: that they look like overfitting, or why there are none."""
    return training.note or overfitting_note(training.metrics)


def errors_text(model: ComparedFacts, figures: AnswerFigures) -> str:
    """Return how many requests failed, and why; of a recording what it does not have."""
    known = figures.error_kinds.items()
    kinds = "; ".join(f"{why.rstrip('.')} ({count:,})" for why, count in known)
    asked = figures.answers + figures.errors
    if {*figures.error_kinds} == {NOT_RECORDED}:
        return (
            f"{model.title}: {figures.errors:,} of {asked:,} questions are not in the recording, "
            "and count in no figure."
        )
    failed, unsent = figures.errors - figures.not_sent, figures.not_sent
    said = f"{failed:,} of {asked:,} requests got no answer" if failed else ""
    said += f"{' and ' * bool(said)}{unsent:,} of {asked:,} were not sent" if unsent else ""
    return f"{model.title}: {said}, and count in no figure{f': {kinds}' if kinds else ''}."


# -- checks and the judge ------------------------------------------------------------------


def check_text(figure: CheckFigure | None) -> str:
    """Return ``18 passed, 2 failed, 1 not judged``."""
    if figure is None:
        return EMPTY
    parts = [f"{figure.passed:,} passed", f"{figure.failed:,} failed" if figure.failed else ""]
    parts.append(f"{figure.unjudged:,} not judged" if figure.unjudged else "")
    return ", ".join(filter(None, parts))


def judge_rows(judge: JudgeFacts) -> list[tuple[str, str]]:
    """Return what there is to know of a judge, and how far it can be trusted."""
    where = f" at {judge.host}" if judge.host else ", on this machine"
    where = "" if judge.host and judge.host in judge.model else where
    rows = [
        ("judge", f"{judge.model}{where}"),
        ("pairs judged", f"{judge.pairs:,}, each in both orders"),
        ("both orders agree", _share(judge.agreement)),
        ("says the answer shown first", _share(judge.first)),
        ("says the longer answer", _share(judge.longer)),
        ("verdicts that could not be read", f"{judge.unread:,}"),
        ("cost", spent_text(judge.spent_usd, judge.unanswered)),
    ]
    return [(name, text) for name, text in rows if text]


def _share(value: Interval | None) -> str:
    return "" if value is None else share_with_interval(value)


# -- what it rests on ----------------------------------------------------------------------


def variant_text(model: ComparedFacts) -> str:
    """Return what was done to the base, and where it answers: ``fine-tuned, local``."""
    words = {
        "tuned": "fine-tuned",
        "base": "the base as it is",
        "prompt": "the base with the system prompt",
        "few-shot": f"the base with {format_count(len(model.examples), 'example')}",
        "other": "as it is",
    }
    where = {"local": "on this machine", "recorded": "recorded"}.get(model.kind, model.host or "")
    return ", ".join(filter(None, (words[model.variant], where)))


def model_facts(model: ComparedFacts) -> list[tuple[str, str]]:
    """Return what is known of a model, for who repeats the comparison."""
    training = model.training
    settings = training.settings if training else {}
    facts = [
        ("given as", model.name),
        ("model", model.model),
        ("base", model.base_model),
        ("answers", variant_text(model)),
        ("job", f"{model.job_id or ''}{f' at step {model.step:,}' if model.step else ''}"),
        ("system prompt", model.system_prompt or ""),
        ("examples", ", ".join(f"line {line:,}" for line in model.examples)),
        ("parameters", ", ".join(f"{name} {value}" for name, value in model.parameters.items())),
        ("training", training_text(training) if training else ""),
        ("settings", ", ".join(f"{name} {value}" for name, value in settings.items())),
        ("training data", (training.dataset_sha256 or "")[:16] if training else ""),
        ("price of training", "; ".join(training.prices) if training else ""),
        ("fingerprint", model.fingerprint[:16]),
        *(("note", note) for note in model.notes),
    ]
    return [(name, text) for name, text in facts if text]


def run_facts(data: ComparisonData) -> list[tuple[str, str]]:
    """Return how the comparison was made."""
    again = f", {data.asked_again:,} of them again after an end" if data.asked_again else ""
    facts = [
        ("comparison", data.id),
        ("rows", f"{data.data.rows_in_file:,} in the data, {rows_text(data)}"),
        ("fingerprint of the data", (data.data.sha256 or "")[:16]),
        ("seed", f"{data.data.seed}"),
        ("requests", f"{data.asked:,}{again}; {data.kept:,} answers were kept from before"),
        ("spent in all of its runs", spent_text(data.spent_usd, data.unanswered)),
        ("time", format_duration(data.seconds) if data.seconds else ""),
        *(("price", price) for price in data.prices),
        ("finetune-gateway", data.gateway_version),
    ]
    return [(name, text) for name, text in facts if text]


def differences_of(data: ComparisonData, measures: Sequence[Measure]) -> Iterator[Cells]:
    """Yield each tested pair: measure, pair, difference, p, and which is better."""
    names = letters(data)
    for measure in measures:
        for one in data.differences:
            if one.measure == measure.name:
                yield (
                    measure.title,
                    f"{names[one.first]} − {names[one.second]}",
                    difference_text(measure, one),
                    _p_text(one.adjusted_p),
                    names[one.better] if one.better else _rows_needed(one),
                )


def _p_text(p: float | None) -> str:
    if p is None:
        return EMPTY
    return "< 0.001" if p < 0.001 else f"{p:.2g}"


def _rows_needed(one: Difference) -> str:
    return f"{UNDECIDED}; about {one.rows_needed:,} rows would do" if one.rows_needed else UNDECIDED
