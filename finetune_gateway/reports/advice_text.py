"""Advice on a data set, on the screen: in at most ten lines, and with all that it rests on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune_gateway.errors import UnsupportedError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.evaluation.advice.advice import Advice, Point
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import (
    fit_text,
    new_jobs_until_text,
    retires_on_text,
)
from finetune_gateway.reports.estimate_table import rough_duration
from finetune_gateway.reports.output import (
    apply_style,
    elide,
    format_count,
    terminal_width,
    wrap_text,
)
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

LABEL = 9  # columns of the names
NAMES = {"approach": "do", "method": "method", "rows": "rows", "place": "where"}
LINES = {"approach": 2, "method": 1, "rows": 1, "place": 1}  # of the brief answer
MODEL = 20  # columns of a base
OPTIONS = 3  # lines of options in it
KINDS = {
    "chat": "chat rows",
    "prompt_completion": "prompts with an answer",
    "preference": "preference pairs",
    "unpaired_preference": "answers with a label",
    "text": "plain texts",
    "mixed": "rows and preference pairs",
    "unknown": "rows that cannot be read",
}


def brief_text(advice: Advice) -> str:
    """Return the advice in at most ten lines."""
    lines = [apply_style(elide(headline(advice), terminal_width()), "bold")]
    options = option_lines(advice)[:OPTIONS]
    for name, point in advice.points.items():
        most = LINES[name] + (OPTIONS - len(options) if name == "approach" else 0)
        lines += _lines(NAMES[name], [point.text, *point.evidence], most)
    lines += [f"  {_cut(line, terminal_width() - 2)}" for line in options]
    if advice.next_steps:
        more = len(advice.next_steps) - 1
        step = visible(advice.next_steps[0]) + f" ({more} more: --explain)" * (more > 0)
        lines.append(wrap_text(step, " " * LABEL, f"{'next':<{LABEL}}"))
    return "\n".join(lines)


def headline(advice: Advice) -> str:
    """Return ``train.jsonl: 400 chat rows``."""
    prompts_alone = "no_answers" in advice.approach.rules
    kind = "prompts without answers" if prompts_alone else KINDS[advice.kind]
    return f"{visible(advice.data)}: {advice.rows_read:,} {kind}"


def _lines(label: str, texts: Sequence[str], most: int) -> list[str]:
    """Return a sentence with as much of what follows it as fits into so many lines."""
    wrapped: list[str] = []
    for count in range(len(texts), 0, -1):
        first, more = visible(texts[0]), "; ".join(map(visible, texts[1:count]))
        text = f"{first} ({more})" if more else first
        wrapped = wrap_text(text, " " * LABEL, f"{label:<{LABEL}}").split("\n")
        if len(wrapped) <= most:
            return wrapped
    rest = " ".join(line[LABEL:] for line in wrapped[most - 1 :])
    head = f"{label if most == 1 else '':<{LABEL}}"
    return [*wrapped[: most - 1], head + _cut(rest, terminal_width() - LABEL)]


def _cut(text: str, room: int) -> str:
    """Return as many words as there is room for, and dots."""
    return text if len(text) <= room else f"{text[: room - 4].rsplit(' ', 1)[0]} ..."


# -- options -----------------------------------------------------------------------------------


def option_lines(advice: Advice) -> list[str]:
    """Return a line for each option: place, base, cost, time, does it fit or until when."""
    cells = [_cells(option) for option in advice.options]
    widths = [max((len(row[at]) for row in cells), default=0) for at in range(3)]
    return [
        "  ".join(
            [*(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=False)), row[3]]
        ).rstrip()
        for row in cells
    ]


def _cells(option: Option) -> tuple[str, str, str, str]:
    estimate = option.estimate
    if estimate is None:
        return option.backend, elide(option.model, MODEL), "no figure", _why(option)
    cost = format_usd(estimate.cost_usd.expected) if estimate.cost_usd else "no price"
    facts = [rough_duration(estimate.seconds.expected)] if estimate.seconds else []
    if not estimate.data_leaves_machine:
        facts += [fit_text(estimate)]
    else:
        ends = retires_on_text(estimate)
        facts += [_until(estimate)]
        facts += [f"ends {ends}"] if ends[:1].isdigit() else []
    return option.backend, elide(option.model, MODEL), cost, ", ".join(filter(None, facts))


def _until(estimate: Estimate) -> str:
    """Return ``jobs to 2027-04-13+``, ``closed 2027-01-06``, or an empty string."""
    until = new_jobs_until_text(estimate).replace(" or later", "+")
    return f"jobs to {until}" if until[:1].isdigit() else until.replace("not known", "")


def _why(option: Option) -> str:
    """Return the end of why there is no figure: ``not on this machine``."""
    message = option.error.message if option.error else ""
    if "not on this machine" in message:
        return "not on this machine yet"
    if isinstance(option.error, UnsupportedError) and option.error.option == "method":
        return "this method is not trained there"
    return visible(message.split(". ")[0].rstrip("."))


# -- all of it -----------------------------------------------------------------------------------


def full_text(advice: Advice) -> str:
    """Return the advice with all that was counted, the rules behind it and their sources."""
    lines = [apply_style(headline(advice), "bold")]
    lines += [f"{advice.distinct:,} of them are different."] if advice.distinct else []
    for name, point in advice.points.items():
        lines += ["", *_section(NAMES[name], point)]
    if advice.options:
        lines += ["", apply_style("options", "bold")]
        lines += [wrap_text(line, "      ", "  ") for line in option_lines(advice)]
        lines += [*_errors(advice.options)]
    if advice.next_steps:
        lines += ["", apply_style("next", "bold")]
        lines += [wrap_text(visible(step), "    ", "  ") for step in advice.next_steps]
    if advice.warnings:
        lines += ["", apply_style("warnings", "warning")]
        lines += [wrap_text(visible(text), "    ", "  ") for text in advice.warnings]
    return "\n".join(lines)


def _section(label: str, point: Point) -> Iterator[str]:
    yield apply_style(label, "bold")
    yield wrap_text(visible(point.text), "  ", "  ")
    for one in point.evidence:
        yield wrap_text(visible(one), "    ", "  - ")
    for code, rule in zip(point.rules, point.reasons, strict=True):
        yield wrap_text(f"{code}: {rule.when} -> {rule.says}. {rule.note}", "      ", "    ")
        yield from (f"      {source.url} ({source.read})" for source in rule.sources)


def _errors(options: Sequence[Option]) -> Iterator[str]:
    for option in options:
        if option.error:
            why = str(option.error)
            yield wrap_text(visible(f"{option.backend} / {option.model}: {why}"), "    ", "  ")


def footer(advice: Advice) -> str:
    """Return the line below a brief answer."""
    count = len(advice.warnings)
    more = f"; {format_count(count, 'warning')} on the data" if count else ""
    return f"Rules of thumb and estimates; nothing was sent{more}. Why: --explain"
