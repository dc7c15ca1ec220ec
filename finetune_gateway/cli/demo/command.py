"""``ftg demo``: the whole way of a job on this machine, with a real model and real answers."""

from __future__ import annotations

import json as jsonlib
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, zip_longest
from pathlib import Path
from statistics import median
from textwrap import wrap
from typing import Annotated

import typer

from finetune_gateway.backends.local import builtin, models
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.cli.demo.answers import Answer, Question, Score, ask, questions, samples
from finetune_gateway.cli.demo.page import page
from finetune_gateway.cli.demo.result import (
    GOAL,
    MODEL,
    SETTINGS,
    SHOWN,
    Outcome,
    Place,
    Trained,
    document,
    price_table,
    summary,
)
from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.estimation import profiles
from finetune_gateway.events import Event
from finetune_gateway.findings import Report
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports import output, validation_text
from finetune_gateway.reports.output import (
    apply_style,
    format_duration,
    format_table,
    print_message,
    print_result,
    wrap_text,
)
from finetune_gateway.settings import clock
from finetune_gateway.spec import TrainingSpec

NO_ANSWER, CUT = 7, 12  # lines of the broken copy
STEPS = (
    "Check the data",
    "Price every option",
    "Ask the base model, before training",
    "Train on this machine",
    "Ask again, after training",
    "What is left of it",
)


@dataclass(frozen=True)
class Voice:
    """Tells what happens: on stdout, on stderr beside --json, or not at all."""

    json: bool
    quiet: bool

    def tell(self, text: str = "") -> None:
        if self.quiet:
            return
        if self.json:
            print_message(text)
        else:
            print_result(text)
            sys.stdout.flush()  # through a pipe too it is a report of what happens now

    def step(self, number: int) -> None:
        """The heading of a step, counted from 1."""
        gap = "" if number == 1 else "\n"
        self.tell(f"{gap}{apply_style(f'[{number}/{len(STEPS)}] {STEPS[number - 1]}', 'bold')}")

    @property
    def live(self) -> bool:
        """Whether there is a screen to draw on."""
        return not (self.json or self.quiet) and sys.stdout.isatty()


def demo(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where all of it is written.")] = Path(
        "demo-output"
    ),
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """The whole way in a few minutes, with a real model on this machine: check a dataset, price
    it, ask a small model, fine-tune it, ask again. No key, no GPU, no network.

    The model, builtin/tiny, is made from scratch the first time, in about a minute. The job is
    kept in DIR/home, or in FTG_HOME when that is set; DIR/summary.html shows what came of it.
    Ends with 1 when the fine-tune does not answer as taught.

    Examples:
      ftg demo
      ftg demo --out /tmp/demo --json
    """
    voice, place = Voice(json, quiet), Place.under(out)
    found = run(Gateway(place.home), place, voice)
    place.summary.write_text(page(summary(found)), encoding="utf-8")
    if json:
        output.print_json(document(found, place))
    voice.step(len(STEPS))
    _ending(found, place, voice)
    return 0 if found.ok else 1


def run(gateway: Gateway, place: Place, voice: Voice) -> Outcome:
    """Every step but the last. Raises MissingDependency before the first when torch is not
    there, JobFailed."""
    started = time.perf_counter()
    local = LocalBackend()
    local.bind(gateway.settings)
    local.check(TrainingSpec.build(model=MODEL, **SETTINGS))
    voice.step(1)
    report, faults = _checked(gateway, place, voice)
    voice.step(2)
    options = _priced(gateway, voice)
    voice.step(3)
    base, built = _opened(local, voice)
    asked = questions()
    first, before = _asked(base, asked, voice)
    for number in samples(asked, SHOWN):
        voice.tell(f"\n{_labelled('asked', asked[number].prompt)}")
        voice.tell(_labelled("answer", first[number].text))
    voice.step(4)
    trained = _trained(gateway, place, voice)
    voice.step(5)
    second, after = _asked(trained.handle, asked, voice)
    answers = list(zip(first, second, strict=True))
    for number in samples(asked, SHOWN):
        voice.tell(f"\n{beside(*answers[number])}")
    seconds = time.perf_counter() - started
    return Outcome(report, faults, options, built, answers, before, after, trained, seconds)


# ----------------------------------------------------------------- 1. data, 2. prices


def _checked(gateway: Gateway, place: Place, voice: Voice) -> tuple[Report, Report]:
    data = builtin.demo_path("train")
    report = gateway.validate(data)
    row = jsonlib.loads(data.read_text("utf-8").splitlines()[1])["messages"]
    voice.tell("It teaches a shop's assistant to answer with one JSON object. A row:\n")
    voice.tell(_labelled("user", row[-2]["content"]))
    voice.tell(f"{_labelled('answer', row[-1]['content'])}\n")
    voice.tell(validation_text.report_text(data, report))
    broken = place.out / "broken.jsonl"
    broken.write_text(spoilt(data.read_text("utf-8")), encoding="utf-8")
    voice.tell("\nThe same file with two faults planted:\n")
    faults = gateway.validate(broken)
    voice.tell(validation_text.report_text(broken, faults))
    return report, faults


def spoilt(text: str) -> str:
    """The data with two faults: a row that ends with the customer, and one that is cut off."""
    lines = text.splitlines()
    row = jsonlib.loads(lines[NO_ANSWER - 1])
    row["messages"].pop()
    lines[NO_ANSWER - 1] = jsonlib.dumps(row)
    lines[CUT - 1] = lines[CUT - 1][: len(lines[CUT - 1]) // 2]
    return "\n".join(lines) + "\n"


def _priced(gateway: Gateway, voice: Voice) -> list[Option]:
    chosen = {"n_epochs": SETTINGS["n_epochs"]}
    hosted = profiles.load_profile("openai").trainable("sft", clock.today())
    wanted = [*((model, "openai") for model in hosted), (MODEL, "local")]
    data = builtin.demo_path("train")
    options = gateway.options(data, wanted, **chosen)
    prices = price_table(options)
    voice.tell(format_table(prices.head, prices.rows))
    for note in prices.notes:
        voice.tell(wrap_text(note))
    return options


# ------------------------------------------------------- 3. the base, 4. training, 5. again


def _opened(local: LocalBackend, voice: Voice) -> tuple[ModelHandle, float | None]:
    """The base model, made now when it is missing, and the seconds that took."""
    started = time.perf_counter()
    there = builtin.is_built(local.settings.models / builtin.folder_name())
    if not there:
        voice.tell(f"{MODEL} is made from scratch, once: about a minute.")
        models.whole(MODEL, local.settings, lambda text: voice.tell(f"  {text}"))
    handle = local.base(MODEL)
    handle.attach(local)
    built = None if there else time.perf_counter() - started
    voice.tell(
        f"{MODEL} was there already." if there else f"Made in {format_duration(built or 0)}."
    )
    return handle, built


def _asked(
    handle: ModelHandle, asked: Sequence[Question], voice: Voice
) -> tuple[list[Answer], Score]:
    voice.tell(f"Asking {len(asked)} questions that are in no training data ...")
    answers, score = ask(handle, asked)
    told = (
        f"{score.kept} of {score.prompts} answers are as taught (one JSON object, its three keys, "
        f"allowed values), {score.intents_right} with the right intent."
    )
    voice.tell(wrap_text(f"{told} {format_duration(score.seconds)}."))
    return answers, score


def _trained(gateway: Gateway, place: Place, voice: Voice) -> Trained:
    """A new job each time, followed to its end. Raises JobFailed, JobCancelled."""
    started = time.perf_counter()
    job = gateway.submit(
        builtin.demo_path("train"),
        model=MODEL,
        backend="local",
        validation=builtin.demo_path("validation"),
        again=True,
        **SETTINGS,
    )
    voice.tell(f"{job.id}: a process of its own; it would survive this terminal.")
    try:
        _follow(job, voice)
    except KeyboardInterrupt:
        print_message(
            f"\nJob {job.id} goes on. To stop it: {_prefix(place)}ftg cancel {job.id} --yes"
        )
        raise
    handle = job.result()
    seconds = time.perf_counter() - started
    each = _step_seconds(job.events())
    voice.tell(
        f"Trained in {format_duration(seconds)}, {each:.2g} s a step; the model has answered once."
    )
    return Trained(job, handle, seconds, each)


def _follow(job: Job, voice: Voice) -> None:
    # Imported here: rich takes 0.1 s, and only these screens need it.
    from finetune_gateway.reports import live

    if voice.live:
        live.follow_on_screen(job)
        return
    view = live.View(job)
    for event in job.watch():
        view.add(event)
        if line := event_line(event, view.values("train_loss")):
            voice.tell(line)
    for name in ("train_loss", "valid_loss"):
        if curve := live.curve(name, view.values(name)):
            voice.tell(curve.plain)


def event_line(event: Event, train_loss: Sequence[float]) -> str:
    """A line for each evaluation, with the training loss of then, and for each message; not one
    for each step."""
    if event.type == "metrics":
        if "valid_loss" not in event.data or not train_loss:
            return ""
        step, total = event.data["step"], event.data["total_steps"]
        figures = f"train_loss {train_loss[-1]:.3f}  valid_loss {event.data['valid_loss']:.3f}"
        return f"  step {step:>3}/{total}  {figures}"
    if event.type == "checkpoint":
        return ""
    return wrap_text(" ".join(event.message.split()), "    ", "  ")


def _step_seconds(events: Sequence[Event]) -> float:
    """The median: it leaves out the steps that an evaluation made longer."""
    seen = [(e.data["step"], e.created_at) for e in events if "train_loss" in e.data]
    gaps = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in pairwise(seen) if b[0] > a[0]]
    return median(gaps) if gaps else 0.0


# ----------------------------------------------------------------------- 6. what is left


def _ending(found: Outcome, place: Place, voice: Voice) -> None:
    job, before, after = found.trained.job, found.before, found.after
    result = f"{before.kept} of {before.prompts} before, {after.kept} of {after.prompts} after"
    words = (
        apply_style(f"It learned: {result}.", "ok")
        if found.ok
        else f"{apply_style('It did not learn what it should:', 'error')} {result}; "
        f"{GOAL:.0%} after, and few before, were expected."
    )
    run_folder = place.home / "runs" / job.id
    voice.tell(f"{words} {format_duration(found.seconds)} in all.\n")
    voice.tell(f"summary     {_near(place.summary)}")
    voice.tell(f"run folder  {_near(run_folder)}")
    voice.tell("\nGo on with:")
    if place.own_home:
        voice.tell(f"  export FTG_HOME={shlex.quote(str(place.home))}")
    question = found.answers[0][0].question.prompt
    voice.tell(f"  ftg chat {job.id} {shlex.quote(question)}")
    for call in (f"watch {job.id}", f"metrics {job.id} --csv", "list"):
        voice.tell(f"  ftg {call}")
    if voice.quiet and not voice.json:
        print_result(f"{result}\n{place.summary}\n{run_folder}")
    if not found.ok and voice.quiet:
        print_message(words)


def _near(path: Path) -> str:
    """A path from here where it is below, which is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def _prefix(place: Place) -> str:
    return f"FTG_HOME={shlex.quote(str(place.home))} " if place.own_home else ""


def _labelled(label: str, text: str) -> str:
    return wrap_text(text, " " * 10, f"  {label:<8}")


def beside(before: Answer, after: Answer) -> str:
    """A question, and under it both answers side by side."""
    room = (output.terminal_width() - 4) // 2
    columns = [
        [name, *wrap(one.text, room)] for name, one in (("before", before), ("after", after))
    ]
    lines = [f"  {left:<{room}}  {right}" for left, right in zip_longest(*columns, fillvalue="")]
    lines[0] = apply_style(lines[0], "dim")
    return "\n".join([_labelled("asked", before.question.prompt), *lines])
