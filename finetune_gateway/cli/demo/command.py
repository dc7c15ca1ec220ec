"""``ftg demo``: a whole job on this machine, with a real model and real answers."""

from __future__ import annotations

import json as jsonlib
import shlex
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Annotated

import typer

from finetune_gateway.backends.local import builtin, models
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.cli.demo.answers import (
    LONGEST,
    answers_of,
    ask,
    guide_text,
    load_questions,
    pick_samples,
)
from finetune_gateway.cli.demo.result import (
    MODEL,
    SETTINGS,
    SHOWN,
    DemoResult,
    Folders,
    Trained,
    document,
    price_table,
)
from finetune_gateway.cli.demo.screen import (
    STEPS,
    Printer,
    event_line,
    labelled_text,
    print_ending,
    score_text,
    side_by_side,
)
from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.estimation import profiles
from finetune_gateway.evaluation import statistics
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.events import Event
from finetune_gateway.findings import Report
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.comparison_page import page
from finetune_gateway.reports.comparison_text import comparison_text
from finetune_gateway.reports.leaving import LINE, shows_the_end
from finetune_gateway.reports.output import (
    format_duration,
    format_table,
    print_json,
    print_message,
    wrap_text,
)
from finetune_gateway.reports.validation_text import report_text
from finetune_gateway.settings import clock
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.spec import TrainingSpec

NO_ANSWER, TRUNCATED = 7, 12  # lines of the broken copy
EXAMPLES = 2  # training rows that the base is shown; more do not fit its context


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")] = Path(
        "demo-output"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Run a whole job in a few minutes, with a real model on this machine: check a dataset,
    compare costs, ask a small model, fine-tune it, ask again. No key, no GPU, no network.

    The model, builtin/tiny, is built from scratch the first time, in about a minute. The job is
    kept in DIR/home, or in FTG_HOME if that is set. DIR/report.html compares the base, the base
    with examples, and the fine-tuned model on questions that are in no training data. Exit code
    1 if the fine-tuned model does not answer as taught.

    Examples:
      ftg demo
      ftg demo --out /tmp/demo --json
    """
    printer, folders = Printer(json, quiet), Folders.create(out)
    result = run(Gateway(folders.home), folders, printer)
    write_atomic(folders.report, page(result.comparison))
    if json:
        print_json(document(result, folders))
    printer.print_step(len(STEPS))
    print_ending(result, folders, printer)
    return 0 if result.ok else 1


def run(gateway: Gateway, folders: Folders, printer: Printer) -> DemoResult:
    """Run all steps and return their results.

    Raises MissingDependency before the first step without torch or scipy, and JobFailed.
    """
    started = time.perf_counter()
    local = LocalBackend()
    local.bind(gateway.settings)
    local.check(TrainingSpec.build(model=MODEL, **SETTINGS))
    statistics.require()
    printer.print_step(1)
    report, broken_report = _check(gateway, folders, printer)
    printer.print_step(2)
    options = _estimate(gateway, printer)
    printer.print_step(3)
    base, build_seconds = _open_base(local, printer)
    questions = load_questions()
    samples = pick_samples(questions, SHOWN)
    for index in samples:
        printer.print(f"\n{labelled_text('question', questions[index].prompt)}")
        printer.print(labelled_text("answer", ask(base, questions[index]).text))
    printer.print_step(4)
    trained = _train(gateway, folders, printer)
    printer.print_step(5)
    comparison = _compare(gateway, trained, printer)
    first, before = answers_of(comparison, "base", questions)
    second, after = answers_of(comparison, "tuned", questions)
    answers = list(zip(first, second, strict=True))
    for index in samples:
        printer.print(f"\n{side_by_side(*answers[index])}")
    printer.print(f"\n{score_text('before', before)}")
    printer.print(score_text("after", after))
    printer.print(f"\n{comparison_text(comparison.data)}")
    seconds = time.perf_counter() - started
    return DemoResult(
        report=report,
        broken_report=broken_report,
        options=options,
        build_seconds=build_seconds,
        answers=answers,
        before=before,
        after=after,
        trained=trained,
        comparison=comparison,
        seconds=seconds,
    )


# -- 1. data, 2. prices --------------------------------------------------------------------


def _check(gateway: Gateway, folders: Folders, printer: Printer) -> tuple[Report, Report]:
    data = builtin.demo_path("train")
    report = gateway.validate(data)
    row = jsonlib.loads(data.read_text("utf-8").splitlines()[1])["messages"]
    printer.print("It teaches a shop's assistant to answer with one JSON object. A row:\n")
    printer.print(labelled_text("user", row[-2]["content"]))
    printer.print(f"{labelled_text('answer', row[-1]['content'])}\n")
    printer.print(report_text(data, report))
    broken = folders.out / "broken.jsonl"
    broken.write_text(break_rows(data.read_text("utf-8")), encoding="utf-8")
    printer.print("\nA copy of the file with two errors:\n")
    broken_report = gateway.validate(broken)
    printer.print(report_text(broken, broken_report))
    return report, broken_report


def break_rows(text: str) -> str:
    """Return the data with two errors: a row without an answer, and a truncated one."""
    lines = text.splitlines()
    row = jsonlib.loads(lines[NO_ANSWER - 1])
    row["messages"].pop()
    lines[NO_ANSWER - 1] = jsonlib.dumps(row)
    lines[TRUNCATED - 1] = lines[TRUNCATED - 1][: len(lines[TRUNCATED - 1]) // 2]
    return "\n".join(lines) + "\n"


def _estimate(gateway: Gateway, printer: Printer) -> list[Option]:
    hosted = profiles.load_profile("openai").trainable("sft", clock.today())
    pairs = [*((model, "openai") for model in hosted), (MODEL, "local")]
    data = builtin.demo_path("train")
    # All rows are trained: the demo has a validation file of its own.
    options = gateway.options(data, pairs, n_epochs=SETTINGS["n_epochs"], validation_split=0)
    prices = price_table(options)
    printer.print(format_table(prices.head, prices.rows))
    if shows_the_end(str(prices.rows)):
        printer.print(f"  {LINE}")
    for note in prices.notes:
        printer.print(wrap_text(note))
    return options


# -- 3. the base model, 4. training, 5. answers --------------------------------------------


def _open_base(local: LocalBackend, printer: Printer) -> tuple[ModelHandle, float | None]:
    """Return the base model, and the seconds it took to build; None if it was built before."""
    started = time.perf_counter()
    is_built = builtin.is_built(local.settings.models / builtin.folder_name())
    if not is_built:
        printer.print(f"Building {MODEL} from scratch, once; this takes about a minute.")
        models.with_weights(MODEL, local.settings, lambda text: printer.print(f"  {text}"))
    handle = local.base(MODEL)
    handle.attach(local)
    if is_built:
        printer.print(f"{MODEL} was built before.")
        return handle, None
    seconds = time.perf_counter() - started
    printer.print(f"Built in {format_duration(seconds)}.")
    return handle, seconds


def _compare(gateway: Gateway, trained: Trained, printer: Printer) -> Comparison:
    """Ask the base, the base with examples of the data, and the fine-tuned model every held-out
    question."""
    job = trained.job.id
    names = [f"base:{job}", f"few-shot:{EXAMPLES}:{job}", job]
    printer.print("The base, the base with examples, and the fine-tuned model; 36 questions each.")
    return gateway.compare(
        names,
        builtin.demo_path("held_out"),
        checks=Guide.loads(guide_text()),
        max_tokens=LONGEST,
        seed=SETTINGS["seed"],
    )


def _train(gateway: Gateway, folders: Folders, printer: Printer) -> Trained:
    """Start a new job and follow it to its end. Raises JobFailed, JobCancelled."""
    started = time.perf_counter()
    job = gateway.submit(
        builtin.demo_path("train"),
        model=MODEL,
        backend="local",
        validation=builtin.demo_path("validation"),
        again=True,
        **SETTINGS,
    )
    printer.print(f"{job.id} runs in its own process; it would survive closing this terminal.")
    try:
        _follow(job, printer)
    except KeyboardInterrupt:
        home = f"FTG_HOME={shlex.quote(str(folders.home))} " if folders.own_home else ""
        print_message(
            f"\nJob {job.id} is still running. To stop it: {home}ftg cancel {job.id} --yes"
        )
        raise
    handle = job.result()
    seconds = time.perf_counter() - started
    per_step = _median_step_seconds(job.events())
    printer.print(f"Trained in {format_duration(seconds)}, {per_step:.2g} s per step.")
    return Trained(job, handle, seconds, per_step)


def _follow(job: Job, printer: Printer) -> None:
    # Imported here: rich takes 0.1 s, and only these screens need it.
    from finetune_gateway.reports import live

    if printer.live:
        live.follow_on_screen(job)
        return
    view = live.View(job)
    for event in job.watch():
        view.add(event)
        if line := event_line(event, view.values("train_loss")):
            printer.print(line)
    for name in ("train_loss", "valid_loss"):
        if curve := live.loss_curve(name, view.series(name)):
            printer.print(curve.plain)


def _median_step_seconds(events: Sequence[Event]) -> float:
    """Return the median, which leaves out steps with an evaluation."""
    steps = [
        (event.data["step"], event.created_at) for event in events if "train_loss" in event.data
    ]
    gaps = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(steps) if b[0] > a[0]]
    return median(gaps) if gaps else 0.0
