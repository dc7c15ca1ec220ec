"""What a local training does with its held-out rows: the best checkpoint is the result, it ends
early, overfitting is named; the same after a stop at any moment. By real trainings of a tiny model
that learns its rows by heart."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.chaos import until
from support.training import a_run, events_of, metrics_of, train_run

from finetune_gateway import FakeBackend, Gateway, NotFoundError, SpecError, UnsupportedError
from finetune_gateway.backends.local import checkpoints, finishing
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.local.run import Cancelled, Run
from finetune_gateway.events import Checkpoint, Event, JobStatus
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

Train = Callable[..., Run]
WORDS = [
    "red",
    "blue",
    "parcel",
    "order",
    "shop",
    "refund",
    "water",
    "letter",
    "table",
    "seven",
    "nine",
    "stone",
    "river",
    "green",
]


def planted(count: int, seed: int) -> list[dict[str, Any]]:
    """Rows whose answers do not follow from their questions: they can only be learned by heart."""
    drawn = [WORDS[(seed * 7 + at * at * 3 + at) % len(WORDS)] for at in range(count * 4)]
    return [
        {
            "messages": [
                {"role": "user", "content": f"Case {seed}-{at}?"},
                {"role": "assistant", "content": " ".join(drawn[at * 4 : at * 4 + 4])},
            ]
        }
        for at in range(count)
    ]


class StoppedRun(Run):
    """A run that is asked to stop when it reports a step."""

    stop_at: int = -1

    def event(self, message: str, **about: Any) -> None:
        super().event(message, **about)
        if (about.get("data") or {}).get("step") == self.stop_at:
            self.stop.set()


def watched_run(home: Path, base: Path, held_out: int = 4, **options: Any) -> Run:
    """A run on few rows with others held out, not trained yet."""
    given: dict[str, Any] = {"seed": 3, "batch_size": 4, "max_steps": 40}
    given |= {"eval_steps": 2, "save_steps": 5}
    given |= {"training_type": "full", "learning_rate": 1e-2, **options}
    spec = TrainingSpec.build(model=str(base), **given)
    return a_run(home, spec, planted(8, 1), validation=planted(held_out, 2))


@pytest.fixture
def train(home: Path, tiny_folder: Path) -> Train:
    """``train(**options)``: such a run, trained. ``stop_at``: it is stopped after that step.
    ``name``: a run that goes on."""

    def trained(name: str = "", stop_at: int = -1, **options: Any) -> Run:
        name = name or watched_run(home, tiny_folder, **options).id
        run = StoppedRun(Settings(home), name, 0)
        run.stop_at = stop_at
        run.claim(status="running")
        if stop_at < 0:
            return train_run(run)
        with pytest.raises(Cancelled):
            train_run(run)
        return run

    return trained


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Run:
    """A run that ends early. Nothing is changed in it."""
    return train_run(watched_run(tmp_path_factory.mktemp("whole"), tiny_folder))


def events(run: Run) -> list[Event]:
    return [Event.model_validate(event) for event in events_of(run)]


def manifest(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.model / "manifest.json").read_text())
    return found


def evaluations(run: Run) -> dict[int, float]:
    return {one["step"]: one["valid_loss"] for one in metrics_of(run) if "valid_loss" in one}


def weights(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def kept(run: Run) -> list[int]:
    return sorted(int(path.name.partition("-")[2]) for path in run.checkpoints.glob("c*-*"))


def test_the_best_checkpoint_is_the_result_and_the_end_comes_early(whole: Run) -> None:
    """Three evaluations no better than the best end it; the model is that of the best step, which
    no save_steps names; both losses and steps, and the overfitting, are said."""
    run = whole
    losses = evaluations(run)
    step = min(losses, key=lambda at: losses[at])
    last = max(losses)
    assert step >= 2 and last == step + 3 * 2 < 40, losses
    assert step in kept(run) and kept(run)[-1] == last and len(kept(run)) == 3
    assert weights(run.model) == weights(run.checkpoints / f"checkpoint-{step}")
    assert weights(run.model) != weights(run.checkpoints / f"checkpoint-{last}")

    metrics = manifest(run)["metrics"]
    assert (metrics["step"], metrics["last_step"]) == (step, last)
    assert (metrics["valid_loss"], metrics["last_valid_loss"]) == (losses[step], losses[last])
    assert metrics["last_train_loss"] < metrics["train_loss"]
    said = " ".join(event.message for event in events(run))
    assert "Training starts: step 0 of 40, effective batch size 4, learning rate 0.01." in said
    assert f"Training ends early, at step {last} of 40: 3 evaluations were no better" in said
    assert f"Result: best at step {step} (validation loss " in said
    [named] = manifest(run)["warnings"]
    assert f"overfits from step {step} on" in named and f"Result: best at step {step}" in named
    warned = [event for event in events(run) if event.level == "warn"]
    assert [event.data["step"] for event in warned] == [step], "once"


def test_a_stop_at_any_moment_changes_nothing(train: Train, whole: Run) -> None:
    """Before and after the best step, and when all is trained and nothing saved: the same end at
    the same step, the same bytes."""
    last, step = max(evaluations(whole)), manifest(whole)["metrics"]["step"]
    for stop_at in (step - 1, step + 3):
        begun = train(stop_at=stop_at)
        assert not begun.model.exists() and kept(begun)[-1] - stop_at in (0, 1)
        run = train(name=begun.id)
        assert weights(run.model) == weights(whole.model)
        assert (
            max(evaluations(run)) == last and manifest(run)["metrics"] == manifest(whole)["metrics"]
        )
        assert manifest(run)["warnings"] == manifest(whole)["warnings"]
    shutil.rmtree(run.model)
    before = len(events(run))
    train(name=run.id)
    assert weights(run.model) == weights(whole.model)
    assert not any(event.type == "metrics" for event in events(run)[before:]), "no step is taken"


def test_a_best_checkpoint_that_is_damaged_is_not_the_result(train: Train, whole: Run) -> None:
    """It is set aside, and said with the result, which is the next best one."""
    losses, step = evaluations(whole), manifest(whole)["metrics"]["step"]
    begun = train(stop_at=step + 3)
    [path] = (begun.checkpoints / f"checkpoint-{step}").glob("*.safetensors")
    raw = bytearray(path.read_bytes())
    raw[-9] ^= 1
    path.write_bytes(raw)
    run = Run(begun.settings, begun.id, begun.fence)
    result, _ = finishing.train(run)
    then = min(set(kept(run)) & losses.keys(), key=lambda at: losses[at])
    assert result.metrics["step"] == then != step
    assert weights(run.model) == weights(run.checkpoints / f"checkpoint-{then}")
    said = f"The best model, that of step {step} ("
    assert any(said in text for text in result.warnings)
    [aside] = [event for event in events(run) if event.data.get("kept")]
    assert (run.checkpoints / str(aside.data["kept"]) / path.name).read_bytes() == raw


def test_the_last_step_is_the_result_where_that_is_wanted(train: Train) -> None:
    """Without an early end and without the best: all steps, the last model, and the warning says
    what it is."""
    run = train(load_best_model_at_end=False, max_steps=14)
    metrics = manifest(run)["metrics"]
    assert metrics["step"] == 14 == max(evaluations(run)) and "last_step" not in metrics
    assert weights(run.model) == weights(run.checkpoints / "checkpoint-14")
    assert "overfits" in manifest(run)["warnings"][0]
    assert "Result: step 14, the last" in manifest(run)["warnings"][0]
    # With the best, and no early end.
    run = train(early_stopping_patience=0, max_steps=14)
    assert max(evaluations(run)) == 14 > manifest(run)["metrics"]["step"]
    # More patience than there are evaluations is named.
    run = train(early_stopping_patience=7, max_steps=4)
    said = "early_stopping_patience=7 cannot end this run early: it evaluates 2 times"
    assert any(said in event.message for event in events(run) if event.level == "warn")
    # A patience of one, and the last model all the same.
    run = train(early_stopping_patience=1, load_best_model_at_end=False)
    metrics = manifest(run)["metrics"]
    assert metrics["step"] == max(evaluations(run)) < 40 and "last_step" not in metrics
    assert weights(run.model) == weights(run.checkpoints / f"checkpoint-{metrics['step']}")


def test_speed_memory_and_time_left_are_in_the_metrics(train: Train) -> None:
    """At each logged step, beside the norm of the gradient; without held-out rows the metrics of
    the result are those of the last step."""
    run = train(held_out=0, max_steps=4, training_type="lora", lora_r=4)
    logged = [event.data for event in events(run) if event.type == "metrics"]
    assert [one["step"] for one in logged] == [1, 2, 3, 4]
    for one in logged:
        assert one["trained_tokens_per_second"] > 0 and one["grad_norm"] > 0
        assert 10_000_000 < one["memory_bytes"] < 1 << 40
    left = [one["seconds_left"] for one in logged]
    assert left[0] > left[-1] == 0
    assert manifest(run)["metrics"] == {"step": 4, "train_loss": logged[-1]["train_loss"]}
    assert manifest(run)["warnings"] == [] and kept(run) == [4]


@pytest.mark.parametrize(
    "options",
    [{"early_stopping_patience": 2}, {"load_best_model_at_end": True}, {"eval_steps": 2}],
)
def test_what_goes_by_held_out_rows_needs_some(
    home: Path, tiny_folder: Path, options: dict[str, Any]
) -> None:
    """Refused before there is a job, with what helps; with rows held out it is planned."""
    gateway, [name] = Gateway(home), options
    with pytest.raises(SpecError, match=f"{name} goes by the loss on held-out rows") as caught:
        gateway.submit(planted(12, 1), model=str(tiny_folder), **options)
    assert "--validation-split 0.1" in caught.value.hint and gateway.jobs() == []
    gateway.plan(planted(12, 1), model=str(tiny_folder), validation=planted(4, 2), **options)
    never: dict[str, Any] = {"early_stopping_patience": 0, "load_best_model_at_end": False}
    gateway.plan(planted(12, 1), model=str(tiny_folder), **never)


# -- going on from a checkpoint ------------------------------------------------------------


def test_a_run_is_rewound_to_a_whole_checkpoint(home: Path) -> None:
    """Later ones are gone, earlier ones stay; one that is not whole changes nothing."""
    backend = LocalBackend()
    backend.bind(Settings(home).create())
    folder = backend.queue.folder("ftg-7kq3") / "checkpoints"
    for step in (5, 10, 15, 20):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        for name in (*checkpoints.STATE_FILES, "adapter_model.safetensors"):
            (folder / f"checkpoint-{step}" / name).touch()
        checkpoints.finish(folder / f"checkpoint-{step}", {})
    (folder / "checkpoint-15" / checkpoints.PROGRESS).unlink()
    with pytest.raises(UnsupportedError, match="checkpoint-15 of ftg-7kq3 is not whole"):
        backend.rewind("ftg-7kq3", Checkpoint(id="checkpoint-15", step=15, model=""))
    damaged = folder / "checkpoint-5"
    (damaged / "optimizer.pt").write_bytes(b"1")
    with pytest.raises(UnsupportedError, match="as it was saved: optimizer.pt has 1 bytes; saved"):
        backend.rewind("ftg-7kq3", Checkpoint(id="c", step=5, model=str(damaged)))
    whole = folder / "checkpoint-10"
    backend.rewind("ftg-7kq3", Checkpoint(id="checkpoint-10", step=10, model=str(whole)))
    assert [one.step for one in checkpoints.whole(folder)] == [5, 10]


def test_a_step_that_cannot_be_gone_back_to_leaves_the_job_ended(home: Path) -> None:
    """One that is not there, and a backend that lets no job choose: nothing has changed."""
    saved = {"id": "c", "step": 3, "model": "m-3"}
    told = {"status": "running", "checkpoints": [saved]}
    backend = FakeBackend(script=[told, told])
    job = Gateway(home).submit(planted(12, 1), model="m", backend=backend)
    job.refresh()
    assert job.cancel().wait().status is JobStatus.CANCELLED
    with pytest.raises(NotFoundError, match="no checkpoint at step 4"):
        job.resume(step=4)
    with pytest.raises(UnsupportedError, match="checkpoint of its choice"):
        job.resume(step=3)
    assert job.reload().status is JobStatus.CANCELLED and job.resumable


@pytest.mark.chaos
def test_a_job_goes_on_from_a_checkpoint_to_the_same_result(home: Path, tiny_folder: Path) -> None:
    """A cancelled one, from its best step: the steps after it are trained again, to the same bytes
    as without a break."""
    options: dict[str, Any] = {"max_steps": 60, "save_steps": 5, "eval_steps": 5, "seed": 3}
    options |= {"batch_size": 4, "lora_r": 4, "early_stopping_patience": 0, "logging_steps": 1}
    gateway = Gateway(home)

    def submit() -> Any:
        return gateway.submit(
            planted(8, 1), model=str(tiny_folder), validation=planted(4, 2), again=True, **options
        )

    whole = submit()
    assert whole.wait(timeout=300).error is None
    job = submit()
    until(lambda: [one for one in job.refresh().checkpoints() if one.step >= 20], 300)
    job.cancel()
    assert job.wait(timeout=60).status is JobStatus.CANCELLED
    at = job.checkpoints()[0].step
    assert job.resume(step=at).wait(timeout=300).error is None
    assert any(f"Continuing from checkpoint-{at}." == one.message for one in job.events())
    results = [home / "runs" / one.id / "model" for one in (whole, job)]
    assert weights(results[0]) == weights(results[1])
