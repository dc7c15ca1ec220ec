"""The hosted backend through the real SDK, over a real socket: a job from file to answer."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from support.hosted import (
    EVENTS,
    MODEL,
    ROW,
    SPEC,
    begin,
    connect,
    data_file,
    handle_of,
    ids,
    intent,
    poll_until,
    sent,
    wait_for,
)
from support.paths import TEST_PATH
from support.provider import Provider

from finetune_gateway.backend import JOB_TAG, DataFile
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import BackendError, NotFoundError, SpecError, UnsupportedError
from finetune_gateway.events import JobStatus
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats


@pytest.fixture(autouse=True)
def no_ambient_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "NEBIUS_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def backend(provider: Provider) -> OpenAIBackend:
    return connect(provider)


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    return data_file(tmp_path / "train.jsonl", rows=10)


# The whole way


def test_life_cycle(provider: Provider, backend: OpenAIBackend, tmp_path: Path) -> None:
    """A file becomes a job, the job a model, and the model chats and streams."""
    train = sent(backend, data_file(tmp_path / "t.jsonl"))
    held_out = sent(backend, data_file(tmp_path / "v.jsonl", rows=11))
    spec = TrainingSpec(model=MODEL, n_epochs=2, seed=7, suffix="parcels", batch_size=4)
    provider_id = backend.start("job-1", spec, train, held_out)
    shots = poll_until(backend, provider_id, JobStatus.SUCCEEDED)
    last = shots[-1]
    assert {shot.status.value for shot in shots} == {
        "validating_files",
        "queued",
        "running",
        "succeeded",
    }
    assert last.result and last.result.kind == "hosted"
    assert last.result.model.startswith(f"ft:{MODEL}:test-org:parcels:")
    assert last.trained_tokens == train.bytes // 4 * 2
    assert [point.step for point in last.checkpoints] == [1, 2, 3]
    assert not any(shot.error for shot in shots)  # the provider sends error: {} all the way
    metrics = [e.data for shot in shots for e in shot.events if e.type == "metrics"]
    assert [m["step"] for m in metrics] == [1, 2, 3]
    losses = [m["train_loss"] for m in metrics]
    assert losses == sorted(losses, reverse=True) and all("valid_loss" in m for m in metrics)
    handle = ModelHandle(
        kind="hosted",
        model=last.result.model,
        base_model=MODEL,
        backend="openai",
        backend_options=backend.options(),
    )
    model = backend.open(handle)
    reply = model.chat([{"role": "user", "content": "Where is my parcel?"}], max_tokens=9)
    assert reply.text.endswith("heard: Where is my parcel?") and reply.finish_reason == "stop"
    assert reply.usage.completion_tokens > 0
    pieces = list(model.stream([{"role": "user", "content": "Where is my parcel?"}]))
    assert len(pieces) > 3 and "".join(pieces).strip() == reply.text


def test_only_what_was_chosen_is_sent(provider: Provider, backend: OpenAIBackend) -> None:
    """Defaults are left to the host; a chosen setting is in the method block."""
    path = Path(__file__)
    stub = DataFile(path, "0" * 64, 1, 1, remote_id=None)
    provider.world.files["file-1"] = {"content": json.dumps(ROW), "bytes": 1, "id": "file-1"}
    train = dataclasses.replace(stub, remote_id="file-1")
    backend.start("a", SPEC, train, None)
    options: dict[str, Any] = {"n_epochs": 1, "learning_rate_multiplier": "auto", "beta": 0.3}
    tuned = TrainingSpec(model=MODEL, method="dpo", **options)
    backend.start("b", tuned, train, train)
    plain, chosen = (job["request"] for job in provider.jobs)
    assert plain == {
        "model": MODEL,
        "training_file": "file-1",
        "method": {"type": "supervised"},
        "metadata": {JOB_TAG: "a"},
    }
    assert chosen["method"] == {"type": "dpo", "dpo": {"hyperparameters": options}}
    assert chosen["validation_file"] == "file-1"


def test_tool_calls_pass_through(backend: OpenAIBackend) -> None:
    """Tools go out and tool calls come back."""
    tool = {"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}
    model = backend.open(handle_of(MODEL))
    reply = model.chat([{"role": "user", "content": "go"}], tools=[tool])
    assert reply.finish_reason == "tool_calls" and reply.text == ""
    assert reply.tool_calls[0]["function"]["name"] == "track"


def test_a_new_model_is_not_found_at_first(provider: Provider, backend: OpenAIBackend) -> None:
    """Until a new model is up the chat is a 404, which the caller can wait out."""
    with pytest.raises(BackendError) as caught:
        backend.open(handle_of("ft:nothing")).chat([{"role": "user", "content": "hi"}])
    assert (caught.value.status_code, caught.value.code) == (404, "model_not_found")


def test_sampling_cannot_name_another_model(backend: OpenAIBackend) -> None:
    """The handle says which model answers."""
    with pytest.raises(SpecError, match="'model' is not a sampling option"):
        backend.open(handle_of(MODEL)).chat([{"role": "user", "content": "x"}], model="other")


@pytest.mark.parametrize(("kind", "said"), [("body", "broke off"), ("cut", "broke")])
def test_a_broken_stream_is_an_error(
    provider: Provider, backend: OpenAIBackend, kind: str, said: str
) -> None:
    """A stream that ends without its end is an error, not a short answer."""
    provider.fault("POST /chat/completions", kind, body={})
    with pytest.raises(BackendError, match=said) as caught:
        list(backend.open(handle_of(MODEL)).stream([{"role": "user", "content": "x"}]))
    assert caught.value.retryable


# Files


def test_upload_is_found_again(provider: Provider, backend: OpenAIBackend, file: DataFile) -> None:
    """A file is named by its content, so that an upload in doubt can be looked up."""
    assert backend.find_upload(file) is None
    provider.fault("POST /files", "reset_after")
    with pytest.raises(BackendError) as caught:
        backend.upload(file)
    assert caught.value.maybe_applied and provider.posts["/files"] == 1
    found = backend.find_upload(file)
    assert found in provider.world.files
    assert provider.world.content(found) == file.path.read_bytes()
    provider.world.files[found]["status"] = "error"
    assert backend.find_upload(file) is None


@pytest.mark.parametrize("profile", ["openai", "azure"])
def test_byte_order_mark(provider: Provider, tmp_path: Path, profile: str) -> None:
    """OpenAI gets the file without a BOM, Azure with one, whatever the file had."""
    backend = connect(provider, profile=profile)
    mark = b"\xef\xbb\xbf"
    for name, start in (("with", mark), ("without", b"")):
        remote = backend.upload(data_file(tmp_path / name, start=start))
        assert provider.world.content(remote).startswith(mark) == (profile == "azure")
        assert provider.world.content(remote).removeprefix(mark).startswith(b'{"messages"')


# What a job says


def test_poll_is_repeatable(provider: Provider, backend: OpenAIBackend, file: DataFile) -> None:
    """The same cursor gives the same events, and nothing is said twice along the cursors."""
    provider.world.steps = 130  # more than a page of events
    provider_id = begin(backend, file)
    provider.jobs[0]["stage"] = 60
    first = backend.poll(provider_id, None)
    provider.jobs[0]["stage"] = 200
    second = backend.poll(provider_id, first.cursor)
    again = backend.poll(provider_id, first.cursor)
    assert second.events == again.events and second.cursor == again.cursor
    assert backend.poll(provider_id, second.cursor).events == []
    assert backend.poll(provider_id, second.cursor).cursor == second.cursor
    told = ids([first, second])
    assert told == ids([backend.poll(provider_id, None)]) and len(told) == len(set(told)) == 133
    assert [e.created_at for e in second.events] == sorted(e.created_at for e in second.events)


def test_events_of_a_host_that_lists_oldest_first(file: DataFile) -> None:
    """The order of a list is recognised by its times."""
    with Provider(newest_first=False, steps=130) as provider:
        backend = connect(provider)
        provider_id = begin(backend, file)
        provider.jobs[0]["stage"] = 60
        first = backend.poll(provider_id, None)
        provider.jobs[0]["stage"] = 200
        second = backend.poll(provider_id, first.cursor)
        assert ids([first, second]) == ids([backend.poll(provider_id, None)])


STATES = [
    ("paused_by_moon", JobStatus.UNKNOWN),
    ("pending", JobStatus.QUEUED),
    ("canceling", JobStatus.CANCELLING),
    ("canceled", JobStatus.CANCELLED),
    ("pausing", JobStatus.RUNNING),
    ("paused", JobStatus.PAUSED),
]


@pytest.mark.parametrize(("raw", "status"), STATES)
def test_states(
    provider: Provider, backend: OpenAIBackend, file: DataFile, raw: str, status: JobStatus
) -> None:
    """Other hosts' words are understood; a word nobody knows is kept and never final."""
    provider_id = begin(backend, file)
    provider.world.extra = {"status": raw, "hyperparameters": None, "organization_id": None}
    shot = backend.poll(provider_id, None)
    assert (shot.status, shot.raw_status) == (status, raw)


def test_a_status_that_is_none_is_no_answer(
    provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """A job without a status is an error to try again, not a state."""
    provider_id = begin(backend, file)
    provider.world.extra = {"status": None}
    with pytest.raises(BackendError) as caught:
        backend.poll(provider_id, None)
    assert caught.value.retryable


def test_success_without_a_model_is_not_yet_success(
    provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """Succeeded but no model id: still running, and the phase says what is missing."""
    provider_id = begin(backend, file)
    provider.jobs[0]["stage"] = 99
    provider.world.extra = {"fine_tuned_model": None}
    shot = backend.poll(provider_id, None)
    assert (shot.status, shot.raw_status) == (JobStatus.RUNNING, "succeeded")
    assert shot.phase == "waiting for the model id" and shot.result is None


def test_a_failed_job_says_why(provider: Provider, backend: OpenAIBackend, tmp_path: Path) -> None:
    """The provider finds a bad file only after the upload; its reason is kept."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"not json\n")
    bad = DataFile(path, "0" * 64, 1, path.stat().st_size)
    shots = poll_until(backend, begin(backend, bad), JobStatus.FAILED)
    assert shots[-1].error and "invalid_training_file" in shots[-1].error
    assert "Line 1 is not valid JSON" in shots[-1].error


def test_figures_are_read_from_the_text(
    provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """An event whose data is empty still yields its step and losses."""
    message = "Step 300/300: training loss=0.15, validation loss=0.27, full validation loss=0.40"
    event = {"id": "e1", "created_at": 5, "level": "warning", "message": message, "data": {}}
    provider.fault(EVENTS, "body", body={"data": [event, {"message": "no id"}], "has_more": False})
    by_id = {e.id: e for e in backend.poll(begin(backend, file), None).events}
    assert by_id["e1"].type == "metrics" and by_id["e1"].level == "warn"
    assert by_id["e1"].data == {
        "step": 300,
        "total_steps": 300,
        "train_loss": 0.15,
        "valid_loss": 0.27,
        "full_valid_loss": 0.40,
    }
    assert len(by_id) == 2


def test_a_host_without_events_or_checkpoints(
    provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """Hosts that lack those two lists still show where a job stands."""
    provider_id = begin(backend, file)
    provider.jobs[0]["stage"] = 3
    provider.fault(EVENTS, "status", status=404)
    provider.fault("GET /fine_tuning/jobs/*/checkpoints", "status", status=404)
    shot = backend.poll(provider_id, None)
    assert shot.status is JobStatus.RUNNING and not shot.events and not shot.checkpoints


def test_cancel(provider: Provider, backend: OpenAIBackend, file: DataFile) -> None:
    """A running job is cancelled; an ended one stays as it is; an unknown one is an error."""
    provider_id = begin(backend, file)
    backend.cancel(provider_id)
    assert backend.poll(provider_id, None).status is JobStatus.CANCELLED
    backend.cancel(provider_id)
    with pytest.raises(BackendError) as caught:
        backend.cancel("ftjob-unknown")
    assert caught.value.status_code == 404


def test_a_provider_outlives_its_process(tmp_path: Path, file: DataFile) -> None:
    """The provider as a process keeps its jobs over a kill -9, so both sides can crash."""
    port_file, state = tmp_path / "port", tmp_path / "state.json"

    def run(port: int = 0) -> tuple[subprocess.Popen[bytes], OpenAIBackend]:
        port_file.unlink(missing_ok=True)
        script = ["-m", "support.provider"]
        arguments = ["--port-file", str(port_file), "--state-file", str(state), "--port", str(port)]
        process = subprocess.Popen(
            [sys.executable, *script, *arguments], env={**os.environ, "PYTHONPATH": TEST_PATH}
        )
        wait_for(lambda: "up" if port_file.exists() else None)
        url = f"http://127.0.0.1:{port_file.read_text()}/v1"
        return process, OpenAIBackend(base_url=url, api_key="sk-test-0123456789abcdef")

    process, backend = run()
    try:
        provider_id = begin(backend, file)
        process.kill()
        process.wait()
        process, backend = run(int(port_file.read_text()))
        assert backend.find(intent("job-1")) == provider_id
        assert poll_until(backend, provider_id, JobStatus.SUCCEEDED)[-1].result
    finally:
        process.kill()
        process.wait()


# Before anything is sent


class OnDay(OpenAIBackend):
    """OpenAI as of a day: its dates are facts, not the clock of the machine that tests."""

    day = date(2026, 12, 1)

    def today(self) -> date:
        return self.day


class AfterTheEnd(OnDay):
    day = date(2027, 1, 6)


def test_models_that_cannot_be_trained_are_refused() -> None:
    """Retired bases, a closed platform and unknown names are refused before any upload."""
    openai = OnDay(api_key="sk-test-123456")
    openai.check(SPEC)
    openai.check(TrainingSpec(model="gpt-4.1-mini"))  # an alias
    openai.check(TrainingSpec(model=f"ft:{MODEL}:org::abc"))  # train on
    with pytest.raises(UnsupportedError, match="2026-10"):
        openai.check(TrainingSpec(model="gpt-4.1-nano-2025-04-14"))
    with pytest.raises(NotFoundError, match=MODEL):
        openai.check(TrainingSpec(model="gpt-7"))
    with pytest.raises(UnsupportedError, match="no new fine-tuning jobs since 2027-01-06"):
        AfterTheEnd(api_key="sk-test-123456").check(SPEC)


def test_another_host_may_train_what_it_likes() -> None:
    """Nothing is known of a custom host, so nothing is refused in its name."""
    custom = OpenAIBackend(base_url="http://127.0.0.1:9/v1", api_key="sk-test-123456")
    custom.check(TrainingSpec(model="Qwen/Qwen3-4B"))
    assert custom.profile_name == "custom"


def test_azure_has_its_own_rules(provider: Provider) -> None:
    """Short suffixes without a dot; how it trains is in test_azure_training."""
    azure = connect(provider, profile="azure")
    for suffix in ("x" * 19, "a.b"):
        with pytest.raises(SpecError, match="suffix"):
            azure.check(TrainingSpec(model=MODEL, suffix=suffix))


def test_an_absolute_rate_where_the_host_takes_one(provider: Provider, file: DataFile) -> None:
    """Nebius takes learning_rate; OpenAI's backend refuses it rather than dropping it."""
    nebius = connect(provider, profile="nebius")
    spec = TrainingSpec(model=MODEL, learning_rate=2e-5)
    nebius.capabilities().require("openai", spec)
    nebius.start("job-1", spec, sent(nebius, file), None)
    request = provider.jobs[0]["request"]
    assert request["hyperparameters"] == {"learning_rate": 2e-5} and "method" not in request
    with pytest.raises(UnsupportedError, match="learning_rate"):
        connect(provider, profile="openai").capabilities().require("openai", spec)


def test_a_method_of_this_machine_alone_is_refused_with_the_way_out(provider: Provider) -> None:
    """A host does not train by it; the error says where it is done."""
    able = connect(provider, profile="openai").capabilities()
    with pytest.raises(UnsupportedError, match="it does: dpo, sft") as caught:
        able.require("openai", TrainingSpec(model=MODEL, method="orpo"))
    assert caught.value.hint == "Use --backend local."


@pytest.mark.parametrize(
    ("host", "spec", "sent_as"),
    [
        ("nebius", {}, {}),
        ("nebius", {"training_type": "lora"}, {"lora": True}),
        ("nebius", {"training_type": "full", "n_epochs": 2}, {"lora": False, "n_epochs": 2}),
        ("nebius", {"lora_r": 16, "lora_alpha": 8}, {"lora": True, "lora_r": 16, "lora_alpha": 8}),
        ("nebius", {"packing": True, "max_length": 4096},
         {"packing": True, "context_length": 4096}),
        ("crusoe", {"lora_r": 8, "learning_rate": 1e-4, "lr_scheduler_type": "cosine"},
         {"lora_rank": 8, "learning_rate": 1e-4, "lr_scheduler": "cosine"}),
        ("crusoe", {"training_type": "lora", "learning_rate_multiplier": 2.0},
         {"learning_rate_multiplier": 2.0}),
        ("openai", {"n_epochs": "auto", "batch_size": 4}, {"batch_size": 4}),
    ],
)  # fmt: skip
def test_settings_go_under_the_hosts_names(
    provider: Provider, file: DataFile, host: str, spec: dict[str, Any], sent_as: dict[str, Any]
) -> None:
    """LoRA is asked for where a host needs that, and nothing is sent that was not chosen."""
    backend, asked = connect(provider, profile=host), TrainingSpec(model=MODEL, **spec)
    backend.capabilities().require(host, asked)
    backend.start("job-1", asked, sent(backend, file), None)
    request = provider.jobs[0]["request"]
    method = request.get("method", {}).get("supervised", {})
    assert request.get("hyperparameters", method.get("hyperparameters", {})) == sent_as
    assert ("method" in request) == (host != "nebius")
    assert request.get("tags") == (["ftg_job_id:job-1"] if host == "nebius" else None)


def test_what_a_host_lacks_is_refused() -> None:
    """Full training at Crusoe, adapters at OpenAI, a multiplier at Nebius."""
    for host, spec in (
        ("crusoe", {"training_type": "full"}),
        ("crusoe", {"packing": True}),
        ("openai", {"lora_r": 8}),
        ("azure", {"training_type": "lora"}),
        ("nebius", {"learning_rate_multiplier": 1.0}),
        ("nebius", {"training_type": "full", "lora_r": 8}),
        ("openai", {"method": "dpo", "loss_type": "ipo"}),
        ("azure", {"method": "dpo", "loss_type": "robust", "label_smoothing": 0.1}),
    ):
        with pytest.raises(UnsupportedError):
            can = OpenAIBackend(profile=host).capabilities()
            can.require(host, TrainingSpec(model=MODEL, **spec))


@pytest.mark.parametrize("host", ["openai", "azure", "custom"])
def test_beta_is_taken_as_far_as_the_contract_goes(provider: Provider, host: str) -> None:
    """FineTuneDPOHyperparameters: above 0, at most 2."""
    backend = connect(provider, profile=host)
    for beta in (0.1, 2.0):
        spec = TrainingSpec(model=MODEL, method="dpo", beta=beta)
        backend.capabilities().require(host, spec)
        backend.check(spec)
    with pytest.raises(SpecError, match="beta has to be at most 2"):
        backend.check(TrainingSpec(model=MODEL, method="dpo", beta=2.5))


def test_a_tag_in_a_list_is_a_tag(provider: Provider, file: DataFile) -> None:
    """Of a host without metadata; jobs of others have tags of their own."""
    nebius = connect(provider, profile="nebius")
    found = nebius.start("job-1", SPEC, sent(nebius, file), None)
    for job in provider.jobs:
        job["metadata"], job["tags"] = None, ["mine", "ftg_job_id:job-1"]
    assert nebius.find(intent("job-1", file)) == found


def test_where_it_talks_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The argument goes before OPENAI_BASE_URL, that before the profile's address; a named
    host is not replaced by OPENAI_BASE_URL, so that its key stays with it."""
    assert OpenAIBackend().base_url == "https://api.openai.com/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://proxy.example/v1/")
    assert OpenAIBackend().base_url == "https://proxy.example/v1"
    assert OpenAIBackend(base_url="http://127.0.0.1:1/v1").base_url == "http://127.0.0.1:1/v1"
    nebius = OpenAIBackend(profile="nebius")
    assert "nebius" in nebius.base_url and nebius.api_key_env == "NEBIUS_API_KEY"
    for wrong in ("api.openai.com", "ftp://x/v1", "https://user:sk-secret99@x/v1"):
        with pytest.raises(SpecError) as caught:
            OpenAIBackend(base_url=wrong)
        assert "secret99" not in str(caught.value)
    azure = OpenAIBackend(profile="azure", api_key="k-123")  # enough to price, not to send
    assert azure.capabilities(MODEL).hosted and azure.options()["base_url"] is None
    with pytest.raises(SpecError, match="address of their own") as missing:
        azure.check(TrainingSpec(model=MODEL))
    assert "https://RESOURCE.openai.azure.com/openai/v1/" in missing.value.hint


def test_capabilities_and_estimate_need_no_key() -> None:
    """What a host can do and what it would cost is known offline."""
    openai = OnDay()
    known = openai.capabilities(MODEL)
    assert known.hosted and known.min_rows == 10 and known.max_context == 65536
    assert known.settle_seconds == 70.0 and known.no_new_jobs_after == date(2027, 1, 5)
    assert OpenAIBackend(settle_seconds=0.0).capabilities().settle_seconds == 0.0
    tokens = TokenStats(
        encoding="o200k_base", exact=True, rows=100, billed=10, billed_low=10, billed_high=10
    )
    estimate = openai.estimate(SPEC, tokens)
    assert estimate.data_leaves_machine and estimate.cost_usd is not None
