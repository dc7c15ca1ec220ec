"""A comparison on the screen: the answer in six lines, with ``explain`` all of its figures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from textwrap import wrap

from finetune_gateway.evaluation.results import (
    NOT_RECORDED,
    ComparisonData,
    Measure,
    MeasureFigure,
    Verdict,
)
from finetune_gateway.reports import comparison_view as view
from finetune_gateway.reports.asking_text import spent_text
from finetune_gateway.reports.comparison_costs import EMPTY, Cells, cost_rows, speed_rows
from finetune_gateway.reports.output import (
    apply_style,
    display_width,
    elide,
    format_count,
    format_table,
    terminal_width,
    wrap_text,
)
from finetune_gateway.reports.serving_text import serving_text
from finetune_gateway.text.cleaning import visible

LINES = 6  # of the answer, at 80 columns
VERDICT_LINES = 4  # of its first sentence, at most
ALL_LINES = 10_000
FIGURE_LINES = 2  # of the figures, with their intervals


def comparison_text(data: ComparisonData, *, explain: bool = False) -> str:
    """Return the answer, in six lines at 80 columns; with ``explain`` what it rests on too."""
    answer = "\n".join(_answer(data, whole=explain))
    return "\n\n".join([answer, *_explanation(data)]) if explain else answer


def _answer(data: ComparisonData, *, whole: bool) -> Iterator[str]:
    below = wrap_text(_beside(data, whole=whole), "  ", "")
    over = max(0, below.count("\n") + 1 - _room(1))
    room = _room(LINES - 1) - over
    figures = _figures(data, ALL_LINES if whole else _room(FIGURE_LINES))
    verdict = _verdict(data.verdict, None if whole else room - len(figures))
    yield apply_style("\n".join(verdict), "bold")
    yield from figures if whole else _figures(data, max(1, room - len(verdict)))
    yield below


def _verdict(verdict: Verdict, most: int | None) -> list[str]:
    """Return the verdict; in ``most`` lines as many of its sentences as fit, without the figures
    that stand below if it does not fit with them. The first sentence may take more."""
    lines = _lines(visible(verdict.text))
    if most is None or len(lines) <= most:
        return lines
    sentences = re.split(r"(?<=[.?!]) ", visible(verdict.short or verdict.text))
    while len(sentences) > 1 and len(_lines(" ".join(sentences))) > most:
        sentences.pop()
    return _lines(" ".join(sentences))[: max(most, _room(VERDICT_LINES))]


def _room(lines: int) -> int:
    """Return how many lines of this terminal hold what so many of 80 columns do."""
    return lines * 80 // min(80, terminal_width())


def _lines(text: str) -> list[str]:
    return wrap(text, terminal_width(), subsequent_indent="  ", break_on_hyphens=False)


def _figures(data: ComparisonData, room: int) -> list[str]:
    """Return the figures of the deciding measure, the best first, with their intervals: of as many
    models as fit in so many lines, with whole names if these fit, and never one name for two."""
    measure = view.measure_of(data, data.verdict.measure)
    figures = data.figures.get(data.verdict.measure, {})
    found = {key: one.interval for key, one in figures.items() if one.interval}
    if measure is None or not found:
        return []
    ranked = sorted(found, key=lambda key: found[key].mean, reverse=measure.better != "lower")
    names = view.titles(data)
    lines: list[str] = []
    parts: list[str] = []
    for name in (200, 60, 24, 14):
        short = {key: elide(visible(names[key]), name) for key in ranked}
        if len({*short.values()}) < len(ranked):
            break
        parts = [f"{short[key]} {view.figure_text(measure, figures[key])}" for key in ranked]
        lines = _lines(f"{measure.title}: {', '.join(parts)}")
        if len(lines) <= room:
            return lines
    while len(parts) > 1 and len(lines) > room:  # no name without its figure
        parts.pop()
        lines = _lines(f"{measure.title}: {', '.join(parts)}, ...")
    return lines[:room]


def _beside(data: ComparisonData, *, whole: bool) -> str:
    """Return what stands beside the answer: rows, those left out, failed requests, money."""
    left = sum(data.data.left_out.values())
    missing = sum(one.errors for one in data.answers.values())
    unrecorded = sum(one.error_kinds.get(NOT_RECORDED, 0) for one in data.answers.values())
    unsent = sum(one.not_sent for one in data.answers.values())
    failed = missing - unrecorded - unsent
    empty = sum(one.empty for one in data.answers.values())
    answers = sum(one.answers for one in data.answers.values())
    spent = f"{spent_text(data.spent_usd, data.unanswered)} spent" if data.spent_usd else ""
    if data.spent_usd is None and any(one.kind == "hosted" for one in data.models):
        spent = "at a cost that is not known"
    said = (
        format_count(data.data.rows, "row") + (f" ({left:,} left out)" if left else ""),
        f"{format_count(failed, 'request')} failed" if failed else "",
        f"{empty:,} of {format_count(answers, 'answer')} empty" if empty else "",
        f"{format_count(unsent, 'request')} not sent" if unsent else "",
        f"{format_count(unrecorded, 'answer')} not recorded" if unrecorded else "",
        spent,
        "no verdict of the judge" if judge_is_silent(data) else "",
    )
    if whole:
        return f"{', '.join(filter(None, said))}."
    warnings = sum(1 for _ in view.warnings(data))
    told = format_count(warnings, "warning") if warnings else "All figures"
    return f"{', '.join(filter(None, said))}. {told}: --explain"


def judge_is_silent(data: ComparisonData) -> bool:
    """Return True if a judge was asked, and there is no figure of it."""
    figures = [
        figure
        for name, of in data.figures.items()
        if name.startswith("judge:")
        for figure in of.values()
    ]
    return bool(figures) and not any(one.interval for one in figures)


# -- what it rests on ----------------------------------------------------------------------


def _explanation(data: ComparisonData) -> Iterator[str]:
    yield _legend(data)
    yield wrap_text(visible(view.rows_text(data)))
    if warnings := [_noted("warning", text) for text in view.warnings(data)]:
        yield "\n".join(warnings)
    checks = view.checks(data)
    deciding, others = view.figured(data)
    yield from (_measure_text(data, one) for one in [*deciding, *checks, *others])
    if unmeasured := view.unmeasured(data):
        yield _pairs("Not measured", unmeasured)
    for title, rows in (("Cost", cost_rows(data)), ("Speed", speed_rows(data))):
        if rows:
            yield f"{apply_style(title, 'bold')}\n{_by_model(data, rows)}"
    if data.serving:
        yield serving_text(data.serving)
    if data.judge:
        yield _pairs("The judge", view.judge_rows(data.judge))
    yield _pairs("The comparison", view.run_facts(data))
    if data.command:
        yield f"To repeat it:\n  {visible(data.command)}"


def _legend(data: ComparisonData) -> str:
    return "\n".join(
        wrap_text(
            f"{visible(model.title)}, {visible(view.variant_text(model))}", "    ", f"  {letter} "
        )
        for model, letter in zip(data.models, view.letters(data).values(), strict=True)
    )


def _noted(kind: str, text: str) -> str:
    line = wrap_text(f"{kind}: {visible(text)}", "  ", "")
    return line.replace(f"{kind}:", f"{apply_style(kind, kind)}:", 1)


def _measure_text(data: ComparisonData, measure: Measure) -> str:
    """Return a measure: what it is, a line per model, and what one can't tell."""
    figures, letters = data.figures.get(measure.name, {}), view.letters(data)
    about = f"{measure.title}: {measure.about}" if measure.about else measure.title
    lower = {"lower": " Lower is better.", "higher": ""}.get(measure.better, " Neither is better.")
    lines = [apply_style(wrap_text(visible(f"{about}{lower}"), "  ", ""), "bold")]
    lines += [
        _figure_line(data, measure, letters[model.key], model.key, figures.get(model.key))
        for model in data.models
    ]
    if told := view.undecided_text(data, measure.name):
        lines.append(wrap_text(f"can't tell: {told}", "    ", "  "))
    return "\n".join(lines)


def _figure_line(
    data: ComparisonData, measure: Measure, letter: str, key: str, figure: MeasureFigure | None
) -> str:
    if figure is None or figure.interval is None:
        return wrap_text(f"{letter} {visible(view.figure_text(measure, figure))}", "    ", "  ")
    unit = f" {view.unit_of(measure)}".rstrip()
    told = ", ".join(
        filter(
            None,
            (
                view.counted_text(measure, figure.interval),
                view.standing(data, measure.name, key).text,
                visible(view.unjudged_text(figure)),
            ),
        )
    )
    return wrap_text(f"{letter} {view.figure_text(measure, figure)}{unit}, {told}", "    ", "  ")


def _by_model(data: ComparisonData, rows: Sequence[tuple[str, Cells]]) -> str:
    """Return a table with a line per figure and a column per model; where that is too wide, a
    block per figure."""
    letters = [*view.letters(data).values()]
    shown = [(name, *map(visible, cells)) for name, cells in rows]
    table = format_table(("", *letters), shown)
    if max(map(display_width, table.split("\n"))) <= terminal_width():
        return table
    return "\n".join(_block(name, letters, cells) for name, cells in rows)


def _block(name: str, letters: Sequence[str], cells: Cells) -> str:
    """Return ``per answer: A, B $0.0002; C $0.0003``, models with the same figure together."""
    same: dict[str, list[str]] = {}
    for letter, cell in zip(letters, cells, strict=True):
        if cell != EMPTY:
            same.setdefault(visible(cell), []).append(letter)
    said = "; ".join(f"{', '.join(of)} {cell}" for cell, of in same.items())
    return wrap_text(f"{name}: {said}", "    ", "  ")


def _pairs(title: str, pairs: Sequence[tuple[str, str]]) -> str:
    lines = [wrap_text(f"{name}: {visible(text)}".rstrip(), "    ", "  ") for name, text in pairs]
    return "\n".join([apply_style(title, "bold"), *lines])
