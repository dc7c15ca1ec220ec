"""Settings that are misspelt or of a wrong type, a call each. Type checkers refuse every line: of
one that they do not, the comment is unused, which is an error too. ``test_typed.py`` runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import finetune_gateway as gateway
from finetune_gateway import (
    Dataset,
    Estimate,
    FakeBackend,
    Gateway,
    Job,
    LocalBackend,
    ModelHandle,
    OpenAIBackend,
    Report,
    TrainingSpec,
    evaluation,
    migration,
)
from finetune_gateway.backend import Capabilities, ChatReply, Checkpoint, Event, Result, Snapshot

Calls = list[tuple[str, Callable[[], object]]]  # each with the name that was meant

# fmt: off


def settings(g: Gateway) -> Calls:
    """Of what is to be done, and of where."""
    return [
        ("learning_rate", lambda: gateway.submit("x", model="m", learningrate=1)),  # type: ignore[call-arg]
        ("n_epochs", lambda: gateway.submit("x", model="m", epochs=3)),  # type: ignore[call-arg]
        ("lora_r", lambda: g.submit("x", model="m", lorar=3)),  # type: ignore[call-arg]
        ("max_cost_usd", lambda: g.submit("x", model="m", max_cost=3)),  # type: ignore[call-arg]
        ("n_epochs", lambda: gateway.estimate("x", model="m", epochs=3)),  # type: ignore[call-overload]
        ("backend", lambda: g.estimate("x", model="m", backnd="local")),  # type: ignore[call-overload]
        ("batch_size", lambda: g.plan("x", model="m", batchsize=1)),  # type: ignore[call-arg]
        ("learning_rate", lambda: g.options("x", [("m", None)], lr=1e-4)),  # type: ignore[call-arg]
        ("method", lambda: gateway.validate("x", mehtod="dpo")),  # type: ignore[call-arg]
        ("against", lambda: g.validate("x", agianst="y")),  # type: ignore[call-arg]
        ("max_length", lambda: gateway.preview("x", model="m", max_seq_length=1)),  # type: ignore[call-overload]
        ("train_on", lambda: g.preview("x", model="m", trainon="all")),  # type: ignore[call-arg]
        ("columns", lambda: gateway.advise("x", colums={})),  # type: ignore[call-arg]
        ("preferences", lambda: g.advise("x", preference="y")),  # type: ignore[call-arg]
        ("rows", lambda: gateway.compare([], row=3)),  # type: ignore[call-arg]
        ("checks", lambda: g.compare([], check="x")),  # type: ignore[call-arg]
        ("max_drop", lambda: gateway.migrate("m", "local", maxdrop={})),  # type: ignore[call-arg]
        ("at_least", lambda: g.migrate("m", "local", atleast={})),  # type: ignore[call-arg]
        ("n_epochs", lambda: TrainingSpec(model="m", n_epoch=3)),  # type: ignore[call-arg]
        ("n_epochs", lambda: TrainingSpec.build(model="m", n_epoch=3)),  # type: ignore[call-arg]
        ("keys", lambda: Gateway(key={})),  # type: ignore[call-arg]
        ("timeout", lambda: g.use(time_out=3)),  # type: ignore[call-arg]
        ("base_url", lambda: OpenAIBackend(baseurl="https://gpu/v1")),  # type: ignore[call-arg]
        ("gpu", lambda: LocalBackend(gpus="H200")),  # type: ignore[call-arg]
        ("answer", lambda: FakeBackend(answr="Yes.")),  # type: ignore[call-arg]
        ("samples", lambda: evaluation.record("m", sampels=3)),  # type: ignore[call-arg]
        ("judge", lambda: evaluation.check("m", "guide.yaml", juge="m")),  # type: ignore[call-arg]
        ("stored", lambda: migration.fetch(["m"], stord=True)),  # type: ignore[call-arg]
        ("home", lambda: migration.remove("m", hom="x")),  # type: ignore[call-arg]
    ]


def calls(g: Gateway, job: Job, handle: ModelHandle, data: Dataset, report: Report) -> Calls:
    """Of what is done with jobs, models and data."""
    return [
        ("backend", lambda: gateway.get_job("latest", backnd="local")),  # type: ignore[call-arg]
        ("backend", lambda: g.job("latest", backnd="local")),  # type: ignore[call-arg]
        ("status", lambda: gateway.list_jobs(state="running")),  # type: ignore[call-arg]
        ("metadata", lambda: g.jobs(metdata={})),  # type: ignore[call-arg]
        ("timeout", lambda: gateway.wait_for_jobs([], time_out=1)),  # type: ignore[call-arg]
        ("on_event", lambda: g.wait([], onevent=print)),  # type: ignore[call-arg]
        ("remote", lambda: gateway.prune(remot=True)),  # type: ignore[call-arg]
        ("older_than_days", lambda: g.prune(older_than=3)),  # type: ignore[call-arg]
        ("since", lambda: gateway.costs(sinc=None)),  # type: ignore[call-arg]
        ("until", lambda: g.costs(untill=None)),  # type: ignore[call-arg]
        ("timeout", lambda: job.wait(time_out=1)),  # type: ignore[call-arg]
        ("stop", lambda: job.watch(stopp=None)),  # type: ignore[call-arg]
        ("step", lambda: job.result(at_step="best")),  # type: ignore[call-arg]
        ("step", lambda: job.resume(steps=3)),  # type: ignore[call-arg]
        ("on_wait", lambda: job.cancel(onwait=print)),  # type: ignore[call-arg]
        ("created", lambda: job.settle(create=None)),  # type: ignore[call-arg]
        ("after", lambda: job.events(aftr=3)),  # type: ignore[call-arg]
        ("no_rows", lambda: job.report(norows=True)),  # type: ignore[call-arg]
        ("force", lambda: job.to_html("x", forc=True)),  # type: ignore[call-arg]
        ("system", lambda: handle.score([], sytem="x")),  # type: ignore[call-arg]
        ("private", lambda: handle.save("x", privat=True)),  # type: ignore[call-arg]
        ("allow_changed_base", lambda: handle.connect(allow_changed=True)),  # type: ignore[call-arg]
        ("columns", lambda: Dataset.open("x", column={})),  # type: ignore[call-arg]
        ("stratify", lambda: data.split(0.1, folder=Path(), stratfy=True)),  # type: ignore[call-arg]
        ("drop", lambda: data.convert("trl", "x", drp=["id"])),  # type: ignore[call-arg]
        ("model", lambda: data.validate(modle="m")),  # type: ignore[call-arg]
        ("method", lambda: data.fix("x", methd="sft")),  # type: ignore[call-arg]
        ("model", lambda: report.to_html("x", "y", modl="m")),  # type: ignore[call-arg]
    ]


def parts(done: dict[str, Any]) -> Calls:
    """Of what the author of a backend returns."""
    return [
        ("events", lambda: Snapshot(status=gateway.JobStatus.RUNNING, event=[])),  # type: ignore[call-arg]
        ("message", lambda: Event(id="1", mesage="x")),  # type: ignore[call-arg]
        ("metrics", lambda: Checkpoint(id="1", step=1, model="m", metric={})),  # type: ignore[call-arg]
        ("base_revision", lambda: Result(kind="hosted", model="m", base_revison="x")),  # type: ignore[call-arg]
        ("settle_seconds", lambda: Capabilities(hosted=True, methods=frozenset(), settle_secs=1)),  # type: ignore[call-arg]
        ("reasoning", lambda: ChatReply(text="x", resoning="y")),  # type: ignore[call-arg]
        ("warnings", lambda: Estimate(**done, warning=["x"])),  # type: ignore[call-arg]
    ]


def values(g: Gateway, job: Job) -> Calls:
    """Of a wrong type."""
    return [
        ("n_epochs", lambda: gateway.submit("x", model="m", backend="fake", n_epochs="abc")),  # type: ignore[arg-type]
        ("method", lambda: gateway.submit("x", model="m", backend="fake", method="sftt")),  # type: ignore[arg-type]
        ("continue_from", lambda: gateway.submit("x", continue_from=3)),  # type: ignore[arg-type]
        ("lora_alpha", lambda: g.estimate("x", model="m", lora_alpha="much")),  # type: ignore[call-overload]
        ("batch_size", lambda: g.plan("x", model="m", batch_size=1.5)),  # type: ignore[arg-type]
        ("train_on", lambda: g.preview([{"text": "x"}], model="m", train_on="nobody")),  # type: ignore[arg-type]
        ("seed", lambda: TrainingSpec.build(model="m", seed="x")),  # type: ignore[arg-type]
        ("timeout", lambda: Gateway(timeout="soon")),  # type: ignore[arg-type]
        ("keys", lambda: Gateway(keys="sk")),  # type: ignore[arg-type]
        ("timeout", lambda: job.wait("soon")),  # type: ignore[arg-type]
        ("metadata", lambda: g.submit("x", model="m", metadata=3)),  # type: ignore[arg-type]
    ]
