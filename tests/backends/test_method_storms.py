"""kill -9 in the trainings and saves of every method: what is there is whole, and a job that goes
on comes to the model of one that nobody has killed, early stopping and best step included."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.chaos import fences, lives, nobody_left, row, until
from support.method_rows import small_rows
from support.storm import Warm
from support.training import DEVIATION, a_run, difference, events_of

from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.saving import manifest_of
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.methods import METHODS
from finetune_gateway.settings.files import try_lock, unlock
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

pytestmark = pytest.mark.chaos

KINDS = ("lora", "qlora", "full")
CASES = [(name, kind) for name, one in METHODS.items() if one.trainer for kind in KINDS]
# What else could differ in a run that goes on: TRL's own step with a reference beside it, numbers
# drawn by lot, the state of another optimiser.
VARIANTS: dict[str, dict[str, Any]] = {
    "trl": {"engine": "trl"},
    "dropout": {"lora_dropout": 0.1},
    "dora": {"use_dora": True, "optim": "adamw_8bit", "gradient_accumulation_steps": 2},
}
VARIED = [
    (name, variant)
    for name, one in METHODS.items()
    for variant in VARIANTS
    if one.trainer and (variant != "trl" or "fast" in one.engines)
]
RATES = {"lora": 1e-2, "qlora": 1e-2, "full": 2e-3}
SAVES = 12  # that are killed in each case: 216 of 18


@dataclass
class Storm:
    """Runs in one home, whose workers come from one warm process."""

    home: Path
    folder: Path
    warm: Warm

    def run(self, method: Any, kind: Any, **options: Any) -> Run:
        """A run that is judged by held-out rows as it goes, and packs its rows if it can."""
        given: dict[str, Any] = {"lora_r": 4} if kind != "full" else {}
        if method == "sft":
            given |= {"packing": True, "max_length": 96, "batch_size": 2}
        if method == "pretrain":
            given |= {"max_length": 64, "batch_size": 2}
        spec = TrainingSpec.build(
            model=str(self.folder),
            method=method,
            training_type=kind,
            learning_rate=RATES[kind],
            n_epochs=8,
            seed=3,
            logging_steps=1,
            eval_steps=2,
            save_steps=3,
            early_stopping_patience=2,
            **{"batch_size": 4, "gradient_accumulation_steps": 1, **given, **options},
        )
        return a_run(self.home, spec, small_rows(method, 14), validation=small_rows(method, 4, 30))

    def start(self, run: Run) -> int:
        """Start a worker; return its number."""
        found = self.warm.ask("train", self.home, run.id)
        until(lambda: row(self.home, run.id).pid, 60)
        return int(found["fence"])

    def step(self, run: Run, fence: int) -> int:
        """The last step that this worker has reported; 0 before its first."""
        path = run.folder / "events.jsonl"
        lines = path.read_text("utf-8").splitlines() if path.exists() else []
        events = [json.loads(line) for line in lines if f"{run.id}-{fence}-" in line[:80]]
        return max((one["data"].get("step") or 0 for one in events), default=0)

    def finish(self, run: Run) -> None:
        until(lambda: self.ended(run), 240, 0.05)
        ended = row(self.home, run.id)
        assert ended.status == "succeeded", (ended.error, log_of(run))

    def kill(self, run: Run, fence: int, step: int, seconds: float) -> bool:
        """kill -9 of the worker, so long after it has reported this step; False if it had ended."""
        until(lambda: self.step(run, fence) >= step or self.ended(run), 240, 0.02)
        time.sleep(seconds)
        found = row(self.home, run.id)
        if found.pid is None or found.status.final or not lives(found.pid):
            return False
        os.kill(found.pid, signal.SIGKILL)
        until(lambda: not lives(found.pid or 0), 20)
        return not self.ended(run)

    def ended(self, run: Run) -> bool:
        return row(self.home, run.id).status.final


def log_of(run: Run) -> str:
    return (run.folder / "worker.log").read_text("utf-8")[-3000:]


@pytest.fixture(scope="module")
def warm() -> Iterator[Warm]:
    with Warm() as found:
        yield found


@pytest.fixture(scope="module")
def figures() -> Iterator[Counter[str]]:
    """Counts over all cases, printed at the end."""
    found: Counter[str] = Counter()
    yield found
    print(f"\nover all methods: {dict(found)}")


@pytest.fixture
def storm(home: Path, tiny_folder: Path, warm: Warm) -> Iterator[Storm]:
    alone = try_lock(Settings(home).create().locks / LOCK)
    assert alone is not None
    yield Storm(home, tiny_folder, warm)
    nobody_left(home)
    unlock(alone)


def seconds_of_training(run: Run) -> float:
    """From the first step to the saved result."""
    at = [event["created_at"] for event in events_of(run) if "Training starts" in event["message"]]
    end = [event["created_at"] for event in events_of(run) if "Saved /" in event["message"]]
    return float(end[0] - at[0])


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_a_job_that_was_killed_comes_to_the_same_model(
    storm: Storm, figures: Counter[str], method: str, kind: str
) -> None:
    """kill -9 once or twice at random moments of its training: the weights, the best step, the step
    at which it ends early and the losses are those of a job that nobody has killed."""
    number = CASES.index((method, kind))
    killed_and_not(storm, figures, number, method, kind)


@pytest.mark.parametrize(("method", "variant"), VARIED)
def test_so_it_does_with_other_settings(
    storm: Storm, figures: Counter[str], method: str, variant: str
) -> None:
    number = VARIED.index((method, variant))
    killed_and_not(storm, figures, number, method, "lora", **VARIANTS[variant])


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_a_job_that_was_killed_while_its_reference_scores(
    storm: Storm, figures: Counter[str], method: str
) -> None:
    """What it has scored counts, half a score does not; the model is the same."""
    whole, run = storm.run(method, "lora"), storm.run(method, "lora")
    storm.start(whole)
    storm.finish(whole)
    storm.start(run)
    scores = run.folder / "reference"
    until(lambda: [one for one in scores.glob("*") if one.stat().st_size], 120, 0.0005)
    pid = row(storm.home, run.id).pid or 0
    os.kill(pid, signal.SIGKILL)
    until(lambda: not lives(pid), 20)
    [file] = scores.glob("train-*")
    before = file.stat().st_size
    with file.open("ab") as half:
        half.write(b"x")  # as if the kill had come while it wrote
    storm.start(run)
    storm.finish(run)
    check(storm, run, 1)
    print(f"\n{method}: killed after {before} bytes of scores of {file.stat().st_size}")
    figures["killed while the reference scores"] += 1
    assert before < file.stat().st_size
    assert difference(whole, run) == 0.0


def killed_and_not(
    storm: Storm, figures: Counter[str], number: int, method: str, kind: str, **options: Any
) -> None:
    """Compare a run that was killed at random moments with one that was not; print the figures."""
    draw = random.Random(number)
    whole = storm.run(method, kind, **options)
    storm.start(whole)
    storm.finish(whole)
    last = storm.step(whole, 1)
    pause = seconds_of_training(whole) / last
    run, killed, step = storm.run(method, kind, **options), 0, 0
    while killed <= number % 2:
        fence = storm.start(run)
        step = draw.randint(step, max(step, last - 2))
        if storm.kill(run, fence, step, draw.random() * 2 * pause):
            killed += 1
        elif storm.ended(run):  # its moment came too late
            run, killed, step = storm.run(method, kind, **options), 0, 0
    storm.start(run)
    storm.finish(run)
    check(storm, run, killed)
    worst = difference(whole, run)
    ends, expected = manifest_of(run.model), manifest_of(whole.model)
    assert ends is not None and expected is not None
    metrics = expected["metrics"]
    early = any("ends early" in event["message"] for event in events_of(whole))
    what = f"{method} {kind} {options or ''}: {killed} killed"
    print(
        f"\n{what}, step {metrics['step']:.0f} of {last} is the result"
        f"{', ended early' if early else ''}, weights differ by at most {worst:g}"
    )
    figures["killed in training"] += killed
    figures["best step before the last"] += "last_step" in metrics
    figures["ended early"] += early
    assert worst <= DEVIATION[kind]
    assert ends["trained_tokens"] == expected["trained_tokens"]
    assert ends["metrics"] == pytest.approx(metrics, rel=0 if kind != "qlora" else 1e-3)


def check(storm: Storm, run: Run, killed: int) -> None:
    """One worker at a time has written, nothing half is left, and it has gone on."""
    written = fences(storm.home, run.id)
    assert written == sorted(written)
    assert not [*run.folder.glob("*.tmp.*")]
    messages = [event["message"] for event in events_of(run)]
    assert sum("The worker died" in text for text in messages) == killed
    assert row(storm.home, run.id).result is not None


@pytest.mark.parametrize(("method", "kind"), CASES)
def test_saves_killed_at_random_are_whole_or_absent(
    storm: Storm, figures: Counter[str], method: str, kind: str
) -> None:
    """Of checkpoints and of results: none is half, no kill takes away the checkpoint before it, and
    those that are whole are the undisturbed ones."""
    run = storm.run(method, kind)
    found = storm.warm.ask("saves", storm.home, run.id, SAVES, CASES.index((method, kind)))
    print(f"\n{method} {kind}: {json.dumps(found)}")
    assert found.pop("saves", 0) >= 3 and found["killed"] == SAVES, found
    figures.update({f"saves {name}": count for name, count in found.items()})
    assert found.get("model absent") or found.get("checkpoint absent")
