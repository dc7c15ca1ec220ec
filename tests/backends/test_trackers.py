"""``report_to``: a tracker gets the metrics too. Refused where it is not there; what leaves the
machine is said; the submit's environment counts for all attempts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import pytest

from finetune_gateway import Gateway, SpecError
from finetune_gateway.backends.local import trackers
from finetune_gateway.backends.local.trackers import (
    TRACKERS,
    MissingTracker,
    chosen_variables,
    leaving,
    logs_text,
    prepare,
    require,
    variables,
)
from finetune_gateway.spec import Tracker

Rows = Callable[[int], list[dict[str, Any]]]
RUN = Path("/home/me/.ftg/runs/ftg-7kq3")
PLACES: list[tuple[str, dict[str, str], str]] = [
    ("none", {"WANDB_PROJECT": "x"}, ""),
    ("tensorboard", {}, ""),
    ("trackio", {}, ""),
    ("trackio", {"TRACKIO_SPACE_ID": "me/runs"}, "the Hugging Face Space me/runs"),
    ("wandb", {}, "https://api.wandb.ai"),
    ("wandb", {"WANDB_BASE_URL": "https://wandb.example"}, "https://wandb.example"),
    ("wandb", {"WANDB_MODE": "offline"}, ""),
    ("wandb", {"WANDB_MODE": "disabled"}, ""),
    ("mlflow", {}, ""),
    ("mlflow", {"MLFLOW_TRACKING_URI": "/srv/mlruns"}, ""),
    ("mlflow", {"MLFLOW_TRACKING_URI": "sqlite:////srv/mlflow.db"}, ""),
    ("mlflow", {"MLFLOW_TRACKING_URI": "https://mlflow.example"}, "https://mlflow.example"),
    ("mlflow", {"MLFLOW_TRACKING_URI": "databricks"}, "databricks"),
    ("mlflow", {"MLFLOW_TRACKING_URI": "databricks-uc"}, "databricks-uc"),
]


@pytest.mark.parametrize(("name", "environment", "place"), PLACES)
def test_what_leaves_the_machine_is_said(
    name: str, environment: dict[str, str], place: str
) -> None:
    """Which host gets losses and settings, by the tracker's own variables; nothing else does."""
    said = leaving(name, environment)
    assert bool(said) == bool(place) and place in said
    assert not said or "and no rows, are sent to" in said
    if name != "none":
        found = variables(name, RUN, "ftg-7kq3", chosen_variables(name, environment))
        text = logs_text(name, RUN, "ftg-7kq3", found)
        assert (place or "this machine" if name == "trackio" else place) in text
        assert "ftg-7kq3" in text and trackers.TRACKERS[name].title in text


@pytest.mark.parametrize(
    ("name", "variable", "value"),
    [
        ("wandb", "WANDB_LOG_MODEL", "end"),
        ("wandb", "WANDB_WATCH", "all"),
        ("mlflow", "HF_MLFLOW_LOG_ARTIFACTS", "1"),
    ],
)
def test_a_model_that_is_sent_is_said(name: str, variable: str, value: str) -> None:
    """A tracker takes it where its variable says so, at the submit and not at a later worker."""
    there = {"MLFLOW_TRACKING_URI": "https://mlflow.example"}
    assert f"Sent too: {'how' if 'WATCH' in variable else 'the model'}" in leaving(
        name, there | {variable: value}
    )
    assert variable not in leaving(name, there | {variable: "false"})
    assert chosen_variables(name, {variable: value}) == {variable: value}


SECRETS = [
    ("mlflow", "MLFLOW_TRACKING_URI", "https://me:s3cret@mlflow.example"),
    ("mlflow", "MLFLOW_TRACKING_URI", "https://s3cret@mlflow.example"),
    ("mlflow", "MLFLOW_TRACKING_URI", "postgresql://me:s3cret@db.example/runs"),
    ("mlflow", "MLFLOW_TRACKING_URI", "postgresql://db.example/runs?user=me&password=s3cret"),
    ("mlflow", "MLFLOW_TRACKING_URI", "https://mlflow.example/?access_token=s3cret"),
    ("wandb", "WANDB_BASE_URL", "https://me:s3cret@wandb.example"),
]


@pytest.mark.parametrize(("name", "variable", "address"), SECRETS)
def test_an_address_with_a_secret_is_neither_shown_nor_kept(
    name: str, variable: str, address: str, home: Path, tiny_folder: Path, rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Wherever the secret stands in it: an estimate would show it, and a job's folder keep it."""
    monkeypatch.setenv(variable, address)
    given: dict[str, Any] = {"model": str(tiny_folder), "backend": "local", "report_to": name}
    with pytest.raises(SpecError, match=f"{variable} holds a password or a token") as refused:
        Gateway(home).plan(rows(12), **given)
    assert "s3cret" not in str(refused.value) + refused.value.hint


def test_an_address_that_is_none_is_refused_in_words() -> None:
    """Before a job exists; a database's user without a password is no secret."""
    with pytest.raises(SpecError, match="MLFLOW_TRACKING_URI is no address"):
        leaving("mlflow", {"MLFLOW_TRACKING_URI": "http://[mlflow.example"})
    assert leaving("mlflow", {"MLFLOW_TRACKING_URI": "postgresql://me@db.example/runs"})


def test_logs_lie_with_the_run_and_say_nothing_of_this_folder() -> None:
    """Unless the user has set a place; no diff, code or screen is taken, and nobody is counted."""
    found = variables("wandb", RUN, "ftg-7kq3", {"WANDB_PROJECT": "mine"})
    assert (found["WANDB_DIR"], found["WANDB_PROJECT"]) == (str(RUN), "mine")
    assert found["WANDB_DISABLE_GIT"] == found["WANDB_DISABLE_CODE"] == "true"
    assert (found["WANDB_RUN_ID"], found["WANDB_RESUME"]) == ("ftg-7kq3", "allow")
    assert found["MLFLOW_DISABLE_TELEMETRY"] == "true"
    found = variables("mlflow", RUN, "ftg-7kq3", {})
    assert found["MLFLOW_TRACKING_URI"] == f"sqlite:///{RUN}/mlflow.db"
    kept = chosen_variables("wandb", {"WANDB_API_KEY": "secret", "WANDB_MODE": "offline"})
    assert kept == {"WANDB_MODE": "offline"}, "never a key"


def test_a_worker_goes_by_the_variables_of_the_submit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by those of whoever has started it: a run that stays here would be sent elsewhere."""
    for name in TRACKERS["wandb"].variables:
        monkeypatch.setenv(name, "of the starter")
    for name in variables("wandb", RUN, "ftg-7kq3", {}):
        monkeypatch.setenv(name, "of the starter")
    text = prepare("wandb", RUN, "ftg-7kq3", {"WANDB_MODE": "offline"})
    assert "keeps run ftg-7kq3 in" in text and os.environ["WANDB_MODE"] == "offline"
    assert "WANDB_ENTITY" not in os.environ and "WANDB_BASE_URL" not in os.environ


def test_what_could_not_begin_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that is not there, a key that is not there, a password that would be kept."""
    nowhere = {"NETRC": str(tmp_path / "netrc")}
    for name, tracker in trackers.TRACKERS.items():
        if find_spec(tracker.package) is None:
            with pytest.raises(MissingTracker, match=tracker.title) as missing:
                require(name, {})
            assert f"pip install {tracker.package}" in missing.value.hint
        (tmp_path / "site" / tracker.package).mkdir(parents=True)
        (tmp_path / "site" / tracker.package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    require("none", {})
    for name in ("tensorboard", "trackio", "mlflow"):
        require(name, nowhere)
    with pytest.raises(SpecError, match="no key of Weights & Biases"):
        require("wandb", nowhere)
    require("wandb", {**nowhere, "WANDB_MODE": "offline"})
    require("wandb", {**nowhere, "WANDB_API_KEY": "k"})
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password k")
    require("wandb", nowhere)
    with pytest.raises(SpecError, match="MLFLOW_TRACKING_URI holds a password"):
        require("mlflow", {"MLFLOW_TRACKING_URI": "https://me:pw@mlflow.example"})
    with pytest.raises(SpecError, match="MLFLOW_TAGS is no JSON object"):
        require("mlflow", {"MLFLOW_TAGS": "team=support"})


def test_no_job_is_made_for_a_tracker_that_is_not_there(
    home: Path, tiny_folder: Path, rows: Rows
) -> None:
    """In words, with the command that installs it."""
    missing: list[Any] = [
        name for name, one in trackers.TRACKERS.items() if find_spec(one.package) is None
    ]
    if not missing:
        pytest.skip("every tracker is installed")
    gateway = Gateway(home)
    with pytest.raises(MissingTracker, match="is not installed"):
        gateway.submit(rows(12), model=str(tiny_folder), report_to=missing[0])
    assert gateway.jobs() == []


def test_transformers_has_a_callback_for_each() -> None:
    """The names are those of its integrations."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert set(trackers.TRACKERS) == {*get_args(Tracker)} - {"none"} <= set(INTEGRATION_TO_CALLBACK)


@pytest.mark.slow
def test_tensorboard_gets_the_metrics_of_a_job(home: Path, tiny_folder: Path, rows: Rows) -> None:
    """Losses of both kinds, speed and memory, in the run's folder, which an event names; the job's
    own metrics are as ever."""
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    steps: dict[str, Any] = {"max_steps": 4, "eval_steps": 2, "lora_r": 4, "logging_steps": 1}
    job = Gateway(home).submit(
        rows(16), model=str(tiny_folder), backend="local", validation=rows(20)[16:],
        report_to="tensorboard", **steps,
    )  # fmt: skip
    assert job.wait(timeout=180).error is None
    logs = home / "runs" / job.id / "tensorboard"
    assert any(str(logs) in event.message for event in job.events())
    read = (
        "import json, sys\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "seen = EventAccumulator(sys.argv[1])\nseen.Reload()\n"
        "tags = seen.Tags()['scalars']\n"
        "print(json.dumps({tag: len(seen.Scalars(tag)) for tag in tags}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", read, str(logs)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["train/loss"] == 4 and found["eval/loss"] == 2
    assert found["train/trained_tokens_per_second"] == found["train/memory_bytes"] == 4
    assert [metric.step for metric in job.metrics()] == [1, 2, 3, 4]
    assert os.environ.get("TENSORBOARD_LOGGING_DIR") is None
