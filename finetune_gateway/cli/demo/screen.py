"""What ``ftg demo`` prints while it runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from textwrap import wrap

from finetune_gateway.cli.demo.answers import Answer, Score
from finetune_gateway.cli.demo.result import GOAL, DemoResult, Folders
from finetune_gateway.events import Event
from finetune_gateway.reports.output import (
    apply_style,
    format_duration,
    print_message,
    print_result,
    terminal_width,
    wrap_text,
)

STEPS = (
    "Check the data",
    "Compare the cost of every option",
    "Ask the base model, before training",
    "Train on this machine",
    "Ask both the held-out questions, and compare",
    "Results",
)


@dataclass(frozen=True)
class Printer:
    """Prints progress on stdout, on stderr with --json, or not at all."""

    json: bool
    quiet: bool

    def print(self, text: str = "") -> None:
        """Print a line of progress."""
        if self.quiet:
            return
        if self.json:
            print_message(text)
        else:
            print_result(text)
            sys.stdout.flush()  # a pipe too gets each line at once

    def print_step(self, number: int) -> None:
        """Print the heading of a step, counted from 1."""
        gap = "" if number == 1 else "\n"
        self.print(f"{gap}{apply_style(f'[{number}/{len(STEPS)}] {STEPS[number - 1]}', 'bold')}")

    @property
    def live(self) -> bool:
        """Return True if there is a terminal to draw on."""
        return not (self.json or self.quiet) and sys.stdout.isatty()


def labelled_text(label: str, text: str) -> str:
    """Return a wrapped text with a label in front."""
    return wrap_text(text, " " * 12, f"  {label:<10}")


def score_text(name: str, score: Score) -> str:
    """Return how many answers of a model are as taught."""
    return wrap_text(
        f"{name}: {score.kept} of {score.prompts} answers are as taught (one JSON object, its "
        f"three keys, allowed values), {score.intents_right} with the right intent."
    )


def event_line(event: Event, train_loss: Sequence[float]) -> str:
    """Return a line for an evaluation or a message; empty for other events."""
    if event.type == "metrics":
        if "valid_loss" not in event.data or not train_loss:
            return ""
        step, total = event.data["step"], event.data["total_steps"]
        losses = f"train_loss {train_loss[-1]:.3f}  valid_loss {event.data['valid_loss']:.3f}"
        return f"  step {step:>3}/{total}  {losses}"
    if event.type == "checkpoint":
        return ""
    return wrap_text(" ".join(event.message.split()), "    ", "  ")


def side_by_side(before: Answer, after: Answer) -> str:
    """Return a question, and below it both answers side by side."""
    room = (terminal_width() - 4) // 2
    columns = [
        [name, *wrap(one.text, room)] for name, one in (("before", before), ("after", after))
    ]
    lines = [f"  {left:<{room}}  {right}" for left, right in zip_longest(*columns, fillvalue="")]
    lines[0] = apply_style(lines[0], "dim")
    return "\n".join([labelled_text("question", before.question.prompt), *lines])


def print_ending(result: DemoResult, folders: Folders, printer: Printer) -> None:
    """Print what the model has learned, where the files are, and what to do next."""
    job = result.trained.job
    score = _before_and_after(result)
    if result.ok:
        verdict = apply_style(f"It learned: {score}.", "ok")
    else:
        failed = apply_style("It did not learn what it should:", "error")
        verdict = f"{failed} {score}; expected {GOAL:.0%} after and few before."
    printer.print(f"{verdict} The demo took {format_duration(result.seconds)}.\n")
    printer.print(f"report      {_shortest(folders.report)}")
    printer.print(f"run folder  {_shortest(folders.run(job))}")
    printer.print("\nNext:")
    if folders.own_home:
        printer.print(f"  export FTG_HOME={shlex.quote(str(folders.home))}")
    question = result.answers[0][0].question.prompt
    printer.print(f"  ftg chat {job.id} {shlex.quote(question)}")
    shown = f"report {result.comparison.id} --explain"
    for command in (shown, f"watch {job.id}", f"metrics {job.id} --plot", "list"):
        printer.print(f"  ftg {command}")
    if printer.quiet and not printer.json:
        print_result(f"{score}\n{folders.report}\n{folders.run(job)}")
    if printer.quiet and not result.ok:
        print_message(verdict)


def _before_and_after(result: DemoResult) -> str:
    before, after = result.before, result.after
    return f"{before.kept} of {before.prompts} before, {after.kept} of {after.prompts} after"


def _shortest(path: Path) -> str:
    """Return the path relative to the current folder, if it is below."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
