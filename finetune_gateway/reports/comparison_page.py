"""The page of a comparison: the verdict, model beside model with intervals, checks, cost, speed,
training, and every row with all its answers. One file; its one script draws the rows."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mode
from typing import TYPE_CHECKING
from urllib.parse import quote

from finetune_gateway.evaluation.comparison import ANSWERS, ScoredAnswer
from finetune_gateway.evaluation.results import (
    CheckFigure,
    ComparedFacts,
    ComparedRow,
    ComparisonData,
    Measure,
)
from finetune_gateway.preparation.convert import whole_file
from finetune_gateway.reports import comparison_rows, withheld
from finetune_gateway.reports import comparison_view as view
from finetune_gateway.reports.charts import COLORS, Key, Picture, range_bar
from finetune_gateway.reports.comparison_costs import EMPTY, Cells, cost_rows, speed_rows
from finetune_gateway.reports.html_text import Piece, short_text
from finetune_gateway.reports.layout import environment, raise_if_foreign, render
from finetune_gateway.reports.loss_chart import loss_chart
from finetune_gateway.reports.output import format_count, format_timestamp
from finetune_gateway.reports.serving_page import ServingView, serving_view
from finetune_gateway.settings.arguments import as_path

if TYPE_CHECKING:
    from finetune_gateway.evaluation.comparison import Comparison

LONG = 4_000  # characters of a verdict, a command or a warning
SHOWS = (
    ("all", "all rows"),
    ("failed", "where one fails"),
    ("passed", "where one passes"),
    ("differ", "where models differ"),
    ("unjudged", "not scored"),
    ("errors", "without an answer"),
    ("leaks", "trained on"),
)

Texts = list[tuple[str, list[Piece]]]


@dataclass(frozen=True)
class ModelView:
    """A model as the heads of columns name it, and what is known of it."""

    letter: str
    title: list[Piece]
    plain: str
    variant: list[Piece]
    color: int
    facts: Texts


@dataclass(frozen=True)
class FigureView:
    """A figure of one model: its interval as text and as a bar, and what it is better than."""

    value: str = ""
    range: str = ""
    bar: Picture | None = None
    best: bool = False
    standing: str = ""
    empty: list[Piece] | None = None
    unjudged: list[Piece] | None = None


@dataclass(frozen=True)
class MeasureView:
    """A measure, model beside model."""

    title: str
    about: str
    counted: str
    cells: list[FigureView]
    undecided: list[Piece]


@dataclass(frozen=True)
class CheckCell:
    """How often one model passed a check, with a link to examples."""

    passed: int = 0
    failed: int = 0
    unjudged: int = 0
    words: str = ""
    range: str = ""
    link: str = ""
    examples: str = ""


@dataclass(frozen=True)
class CheckView:
    """A check of behaviour, model beside model."""

    title: str
    about: str
    cells: list[CheckCell]


@dataclass(frozen=True)
class CurveView:
    """The losses of a trained model."""

    title: list[Piece]
    chart: Picture | None
    note: list[Piece]


@dataclass(frozen=True)
class ComparisonPage:
    """Everything the page shows; ``rows`` is what its script is given."""

    title: str
    heading: list[Piece]
    decided: bool
    verdict: list[Piece]
    rows_text: list[Piece]
    warnings: list[list[Piece]]
    sections: list[tuple[str, str]]
    models: list[ModelView]
    measures: list[MeasureView]
    others: list[MeasureView]  # that decide nothing
    unmeasured: list[tuple[str, list[Piece]]]
    differences: list[tuple[str, ...]]
    checks: list[CheckView]
    costs: list[tuple[str, tuple[str, ...]]]
    serving: ServingView | None
    speed: list[tuple[str, tuple[str, ...]]]
    judge: Texts
    curves: list[CurveView]
    curve_keys: Sequence[Key]
    rows: str  # compressed; empty without any
    row_notes: list[str]
    shows: Sequence[tuple[str, str]]
    measure_options: list[tuple[str, str]]
    model_options: list[tuple[str, str]]
    against_options: list[tuple[str, str]]
    against: str
    command: list[Piece]
    facts: Texts
    folder: str
    script_hash: str


def write(
    comparison: Comparison,
    path: str | os.PathLike[str],
    *,
    force: bool = False,
    no_rows: bool = False,
    private: bool = False,
) -> Path:
    """Write the page and return where it is; ``no_rows``: without any text of the rows and the
    answers; ``private``: for this user alone.

    Raises SpecError when the file exists, is not a page of ours, and ``force`` is not set,
    StoreError when it cannot be written.
    """
    to = as_path(path, "path")
    raise_if_foreign(to, force=force)
    with whole_file(to, private=private) as file:
        file.write(page(comparison, no_rows=no_rows).encode())
    return to


def page(comparison: Comparison, *, no_rows: bool = False) -> str:
    """Return the whole page. ``no_rows``: without any text of the rows and the answers."""
    rows, answers = ([], []) if no_rows else (comparison.rows(), comparison.answers())
    return render(
        "comparison.html", _view(comparison.data, rows, answers, comparison.folder, no_rows)
    )


def _view(
    data: ComparisonData,
    rows: Sequence[ComparedRow],
    answers: Iterable[ScoredAnswer],
    folder: Path,
    no_rows: bool,
) -> ComparisonPage:
    deciding, others = view.figured(data)
    letters = view.letters(data)
    models = [
        _model(one, letters[one.key], place % COLORS, no_rows)
        for place, one in enumerate(data.models)
    ]
    heading = f"{format_count(len(models), 'model')} on {format_count(data.data.rows, 'row')}"
    curves = [*_curves(data)]
    plain = {one.key: shown.plain for one, shown in zip(data.models, models, strict=True)}
    drawn = None if no_rows else comparison_rows.document(data, rows, answers)
    referenced = any(row.reference is not None for row in rows)
    found = ComparisonPage(
        title=f"Comparison {data.id}",
        heading=short_text(f"{heading}, compared"),
        decided=data.verdict.decided,
        verdict=short_text(data.verdict.text, LONG),
        rows_text=short_text(view.rows_text(data), LONG),
        warnings=[short_text(text, LONG) for text in view.warnings(data)],
        sections=[],
        models=models,
        measures=[_measure(data, one) for one in deciding],
        others=[_measure(data, one) for one in others],
        unmeasured=_texts(view.unmeasured(data)),
        differences=[
            tuple(map(_plain, cells)) for cells in view.differences_of(data, data.measures)
        ],
        checks=[_check(data, name) for name in data.checks],
        costs=_shown(cost_rows(data)),
        serving=serving_view(data.serving) if data.serving else None,
        speed=_shown(speed_rows(data)),
        judge=_texts(view.judge_rows(data.judge)) if data.judge else [],
        curves=curves,
        curve_keys=_curve_keys(data),
        rows=comparison_rows.packed(drawn) if drawn else "",
        row_notes=[*_row_notes(len(drawn["rows"]) if drawn else 0, len(rows), no_rows, folder)],
        shows=SHOWS,
        measure_options=[("", "any pass or fail"),
                         *((one.name, _plain(one.title)) for one in (*deciding, *others)),
                         *((one.name, _plain(one.title)) for one in view.checks(data))],
        model_options=[("", "any model"), *plain.items()],
        against_options=[*([("reference", "the reference")] if referenced else []),
                         *((f"model:{key}", title) for key, title in plain.items()),
                         ("", "nothing")],
        against="reference" if referenced else f"model:{data.models[0].key}",
        command=short_text(data.command, LONG),
        facts=[*_texts(view.run_facts(data)),
               ("made", short_text(format_timestamp(data.created_at)))],
        folder=_plain(str(folder)),
        script_hash=script_hash(),
    )  # fmt: skip
    found.sections.extend(_sections(found))
    return found


def _sections(found: ComparisonPage) -> Iterator[tuple[str, str]]:
    for anchor, name, is_there in (
        ("measures", "Answers", True),
        ("checks", "Checks", found.checks),
        ("cost", "Cost", found.costs),
        ("speed", "Speed", found.speed),
        ("judge", "Judge", found.judge),
        ("curves", "Training", found.curves),
        ("rows", "Rows", True),
        ("about", "What it rests on", True),
    ):
        if is_there:
            yield anchor, name


@cache
def script_hash() -> str:
    """Return the hash of the page's script, as its policy names it: another one does not run."""
    script = environment().get_template("comparison_script.html").render()
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


# -- parts ---------------------------------------------------------------------------------


def _plain(text: str) -> str:
    return comparison_rows.shown_text(text, LONG)


def _texts(pairs: Sequence[tuple[str, str]]) -> Texts:
    return [(name, short_text(text, LONG)) for name, text in pairs]


def _shown(rows: Sequence[tuple[str, Cells]]) -> list[tuple[str, tuple[str, ...]]]:
    return [(name, tuple(map(_plain, cells))) for name, cells in rows]


def _model(model: ComparedFacts, letter: str, color: int, no_rows: bool) -> ModelView:
    if no_rows:  # it is of the rows, too
        model = model.model_copy(update={"system_prompt": None})
    return ModelView(
        letter,
        short_text(model.title),
        f"{letter} {_plain(model.title)}",
        short_text(view.variant_text(model)),
        color,
        _texts(view.model_facts(model)),
    )


def _measure(data: ComparisonData, measure: Measure) -> MeasureView:
    figures = data.figures.get(measure.name, {})
    intervals = [one.interval for one in figures.values() if one.interval]
    counted = mode(view.counted_text(measure, one) for one in intervals) if intervals else ""
    top = 1.0 if measure.share else max([one.high for one in intervals], default=0.0)
    return MeasureView(
        title=_plain(measure.title),
        about=_plain(_about(measure)),
        counted=counted,
        cells=[_figure(data, measure, model.key, top, counted) for model in data.models],
        undecided=short_text(view.undecided_text(data, measure.name), LONG),
    )


def _about(measure: Measure) -> str:
    better = {"higher": "", "lower": "Lower is better.", "": "Neither more nor less is better."}
    unit = f"In {view.unit_of(measure)}." if view.unit_of(measure) else ""
    return " ".join(filter(None, (measure.about, unit, better[measure.better])))


def _figure(data: ComparisonData, measure: Measure, key: str, top: float, usual: str) -> FigureView:
    figure = data.figures.get(measure.name, {}).get(key)
    if figure is None or figure.interval is None:
        return FigureView(empty=short_text((figure and figure.empty) or EMPTY))
    interval = figure.interval
    standing = view.standing(data, measure.name, key)
    drawable = top > 0 and interval.low >= 0
    counted = view.counted_text(measure, interval)
    return FigureView(
        value=view.value_text(measure, interval.mean, interval.n),
        range=view.interval_text(measure, interval) + ("" if counted == usual else f", {counted}"),
        bar=range_bar(interval.low, interval.mean, interval.high, top) if drawable else None,
        best=standing.best,
        standing=_plain(standing.text),
        unjudged=short_text(view.unjudged_text(figure)),
    )


def _title(data: ComparisonData, name: str) -> str:
    measure = view.check_measure(data, name)
    return measure.title if measure else name


def _check(data: ComparisonData, name: str) -> CheckView:
    measure = view.check_measure(data, name)
    cells = [
        _check_cell(data, name, model.key, data.checks[name].get(model.key))
        for model in data.models
    ]
    return CheckView(_plain(_title(data, name)), _plain(measure.about if measure else ""), cells)


def _check_cell(data: ComparisonData, name: str, key: str, figure: CheckFigure | None) -> CheckCell:
    if figure is None:
        return CheckCell()
    measure = view.check_measure(data, name)
    measured = data.figures.get(measure.name, {}).get(key) if measure else None
    shown = measured and measure and view.figure_text(measure, measured)
    kind = "failed" if figure.failed else "passed"
    count = len(figure.examples)
    return CheckCell(
        figure.passed,
        figure.failed,
        figure.unjudged,
        view.check_text(figure),
        _plain(shown or ""),
        f"#examples/{quote(measure.name if measure else name, safe='')}/{quote(key, safe='')}"
        if count
        else "",
        f"see {count:,} that {kind}" if count > 1 else f"see one that {kind}",
    )


def _curves(data: ComparisonData) -> Iterator[CurveView]:
    for model in data.models:
        if model.training is None:
            continue
        chart = loss_chart(model.training.metrics)
        note = view.losses_note(model.training)
        if chart or note:
            drawn = chart.pictures()[1] if chart else None
            drawn = drawn and Picture(
                "inline", drawn.width, drawn.height, drawn.shapes, drawn.label
            )
            yield CurveView(short_text(model.title), drawn, short_text(note, LONG))


def _curve_keys(data: ComparisonData) -> list[Key]:
    charts = [loss_chart(one.training.metrics) for one in data.models if one.training]
    lines = {line.name: line for chart in charts if chart for line in chart.lines}
    return [Key.of([line]) for line in lines.values()]


def _row_notes(shown: int, rows: int, no_rows: bool, folder: Path) -> Iterator[str]:
    if no_rows:
        yield withheld.NO_TEXTS
        return
    whole = _plain(str(folder / ANSWERS))
    if shown < rows:
        yield f"Only the first {shown:,} of {rows:,} rows are on this page. All are in {whole}."
    yield f"Long texts are cut; all of each is in {whole}. {withheld.MASKED}"
