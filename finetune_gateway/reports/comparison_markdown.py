"""A comparison as Markdown, to paste into a pull request."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from finetune_gateway.evaluation.results import ComparisonData, Measure
from finetune_gateway.reports import comparison_view as view
from finetune_gateway.reports.comparison_costs import Cells, cost_rows, speed_rows
from finetune_gateway.reports.html_text import short_text
from finetune_gateway.reports.output import format_count

LONG = 4_000

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def comparison_markdown(data: ComparisonData) -> str:
    """Return the verdict, the figures with intervals, checks, cost and speed as tables."""
    return "\n\n".join(_parts(data)) + "\n"


def _parts(data: ComparisonData) -> Iterator[str]:
    yield f"### {format_count(len(data.models), 'model')} on {format_count(data.data.rows, 'row')}"
    yield _plain(data.verdict.text)
    yield _plain(view.rows_text(data))
    if warnings := [f"- {_plain(text)}" for text in view.warnings(data)]:
        yield "\n".join(warnings)
    measures, others = view.figured(data)
    checks = view.checks(data)
    yield _table(data, "", [_measure(data, one) for one in [*measures, *checks, *others]])
    told = [
        f"- {_plain(one.title)}: {text}"
        for one in measures
        if (text := view.undecided_text(data, one.name))
    ]
    if told:
        yield "What one can't tell:\n\n" + "\n".join(told)
    if data.checks:
        yield _table(
            data,
            "check",
            [
                (_check_title(data, name), tuple(
                    view.check_text(figures.get(model.key)) for model in data.models
                ))
                for name, figures in data.checks.items()
            ],
        )  # fmt: skip
    yield _table(data, "", [*cost_rows(data), *speed_rows(data)])
    if data.command:
        yield f"{data.id}, to repeat it:\n\n    {_line(data.command)}"


def _check_title(data: ComparisonData, name: str) -> str:
    measure = view.check_measure(data, name)
    return _plain(measure.title if measure else name)


def _measure(data: ComparisonData, measure: Measure) -> tuple[str, Cells]:
    figures = data.figures.get(measure.name, {})
    cells = []
    for model in data.models:
        figure = figures.get(model.key)
        standing = view.standing(data, measure.name, model.key)
        text = _plain(view.figure_text(measure, figure))
        n = f", n {figure.interval.n:,}" if figure and figure.interval else ""
        cells.append(f"**{text}{n}, best**" if standing.best else f"{text}{n}")
    unit = f" ({view.unit_of(measure)})" if view.unit_of(measure) else ""
    return f"{_plain(measure.title)}{unit}", tuple(cells)


def _table(data: ComparisonData, corner: str, rows: Sequence[tuple[str, Cells]]) -> str:
    names = [
        f"{letter} {_plain(model.title)}"
        for model, letter in zip(data.models, view.letters(data).values(), strict=True)
    ]
    lines = [(corner, *names), ("---", *("---" for _ in names))]
    lines += [(name, *cells) for name, cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Return a text of which Markdown makes nothing."""
    return _MARKS.sub(r"\\\1", _line(text))


def _line(text: str) -> str:
    return " ".join("".join(piece.text for piece in short_text(text, LONG)).split())
