"""What ``ftg estimate`` prints: an answer of a few lines, or one line for each of several options;
with ``--explain`` also what the figures rest on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.serving import ServingCosts
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import answer, rows_text
from finetune_gateway.reports.estimate_notes import (
    Ranking,
    count_ages,
    join_runs,
    left_out_reasons,
    name_of,
    refusal,
    sections,
    shown_warnings,
)
from finetune_gateway.reports.estimate_table import table_lines
from finetune_gateway.reports.output import (
    apply_style,
    format_count,
    terminal_height,
    terminal_width,
    wrap_text,
)
from finetune_gateway.reports.serving_text import serving_answer, serving_text

LABEL = 9  # columns of the names beside the figures of one option
NOTES = 3  # lines that are kept for warnings below what serving costs
_ROWS = "rows: "
BELOW = 3  # lines that a screen holds below the answer: a message, and the prompt


def estimates_text(
    options: Sequence[Option], serving: ServingCosts | None = None, *, explain: bool = False
) -> str:
    """Return the answer for these options, and what serving the result costs if that was asked;
    with ``explain`` also what it rests on."""
    ranking = Ranking.of(options)
    if not ranking.possible:
        return "\n".join(_refusals(ranking))
    single = len(options) == 1
    lines = _option_lines(ranking) if single else _options_lines(ranking, explain=explain)
    rows = [] if single else _rows_lines(ranking)
    if explain:
        lines += [wrap_text(text, "  ", "") for text in rows]
        lines += [*_refusals(ranking), *_section_lines(ranking, single=single)]
        return "\n".join(lines if serving is None else [*lines, "", serving_text(serving)])
    left: list[str] = []
    if serving is not None:
        found = serving_answer(serving, _room(lines) - 1 - NOTES)
        lines, left = [*lines, "", *found.lines], found.left_out
    notes = [*rows, *(f"left out: {text}" for text in left_out_reasons(ranking))]
    notes += [f"warning: {text}" for text in shown_warnings(ranking)]
    return "\n".join([*lines, *_fitting(notes, ranking.estimates, _room(lines), left)])


def _option_lines(ranking: Ranking) -> list[str]:
    name = apply_style(name_of(ranking.possible[0]), "bold")
    figures = answer(ranking.estimates[0])
    lines = [wrap_text(f"{name:<{LABEL}}{text}", " " * LABEL, "") for name, text in figures]
    return [name, *lines]


def _options_lines(ranking: Ranking, *, explain: bool) -> list[str]:
    height = None if explain else terminal_height()
    lines = [*table_lines(ranking, numbered=explain, height=height), ""]
    if ranking.left_out and not explain:
        lines.append(_left_out_line(ranking.left_out))
    return [*lines, wrap_text(_data_line(ranking.possible), "  ", "")]


def _rows_lines(ranking: Ranking) -> list[str]:
    """Return how many rows are trained and held out, of several options."""
    texts = dict.fromkeys(filter(None, map(rows_text, ranking.estimates)))
    return [f"{_ROWS}{text}" for text in texts]


def _left_out_line(options: Sequence[Option]) -> str:
    """Return ``3 left out (see --explain): local / gpt-4.1, ...``, cut where the line ends."""
    names = ", ".join(map(name_of, options))
    line, width = f"{len(options)} left out (see --explain): {names}", terminal_width()
    return line if len(line) <= width else f"{line[: width - 3]}..."


def _data_line(options: Sequence[Option]) -> str:
    """Return which backends send the data, and where to."""
    sent, kept = {}, {}
    for option in options:
        estimate = option.estimate
        if estimate and estimate.data_leaves_machine:
            way = estimate.azure_training and f"{estimate.azure_training!r} training"
            where = ", ".join(filter(None, (estimate.host, way)))
            sent[f"{option.backend}{f' ({where})' if where else ''}"] = True
        else:
            kept[option.backend] = True
    parts = [f"sent to {', '.join(sent)}"] if sent else []
    parts += [f"stays here with {', '.join(kept)}"] if kept else []
    return f"data: {'; '.join(parts)}"


def _room(lines: Sequence[str]) -> int:
    """Return the lines of the screen below these and above the last."""
    return terminal_height() - BELOW - _count(lines) - 1


def _fitting(
    notes: Sequence[str], estimates: Sequence[Estimate], room: int, left_out: Sequence[str]
) -> Iterator[str]:
    """Yield the notes that fit the screen, and where the others and all reasons are."""
    left = 0
    mark = apply_style("warning:", "warning")
    for text in notes:
        line = wrap_text(text, "  ", "")
        room -= _count([line])
        if room < 0:
            left += not text.startswith(_ROWS)
        else:
            yield line.replace("warning:", mark, 1) if text.startswith("warning:") else line
    left += count_ages(estimates)
    missing = [*left_out, *([format_count(left, "more warning")] if left else [])]
    more = f" ({', '.join(missing)})" if missing else ""
    yield wrap_text(f"why: --explain{more}", "  ", "")


def _count(texts: Sequence[str]) -> int:
    """Return how many lines these texts take."""
    return sum(text.count("\n") + 1 for text in texts)


# -- what it rests on ----------------------------------------------------------------------


def _refusals(ranking: Ranking) -> Iterator[str]:
    if ranking.left_out:
        yield apply_style("Left out", "bold")
    for option in ranking.left_out:
        yield wrap_text(f"{name_of(option)}: {refusal(option)}", "    ", "  ")


def _section_lines(ranking: Ranking, *, single: bool) -> Iterator[str]:
    for title, notes in sections(ranking, answered=single).items():
        yield apply_style(title, "warning" if title == "Warnings" else "bold")
        for numbers, text in notes:
            about = "" if single else f"{join_runs(numbers)}  "
            yield wrap_text(f"{about}{text}", "    ", "  ")
