"""Submit and what comes after, over the fake backend and over the wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.provider import CREATE, Provider
from support.records import write_down

import finetune_gateway as gateway
from finetune_gateway import (
    BackendError,
    BudgetError,
    DataError,
    FakeBackend,
    Gateway,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    JobStatus,
    ModelHandle,
    NotFoundError,
    OpenAIBackend,
    Plan,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.backend import Intent

MODEL = "gpt-4.1-mini-2025-04-14"
Rows = Callable[[int], list[dict[str, Any]]]


def wire(provider: Provider, **options: Any) -> OpenAIBackend:
    """A hosted backend that settles quickly."""
    given = {"request_timeout": 1.0, "settle_seconds": 0.2, "poll_seconds": 0.05}
    return OpenAIBackend(
        base_url=provider.url, profile="custom", api_key=provider.api_key, **given | options
    )


# -- the fake ----------------------------------------------------------------------------


def test_submit_watch_result_chat(home: Path, train_file: Path) -> None:
    """The product's main line, on the module's own functions."""
    job = gateway.submit(train_file, model="m", backend="fake")
    messages = [event.message for event in job.watch()]
    assert messages and job.status is JobStatus.SUCCEEDED
    losses = [metric.train_loss for metric in job.metrics() if metric.train_loss is not None]
    assert losses == sorted(losses, reverse=True) and len(losses) > 2
    handle = job.result()
    assert handle.ready and handle.first_answer and "Hi" in handle.chat("Hi").text
    assert "".join(handle.stream("Hi")) == handle.chat("Hi").text
    assert gateway.get_job("latest").id == job.id
    assert [j.id for j in gateway.list_jobs(status="succeeded")] == [job.id]


def test_a_handle_travels_as_json(home: Path, train_file: Path, tmp_path: Path) -> None:
    """Any process can load it and chat; nothing secret is in it."""
    handle = gateway.submit(train_file, model="m", backend="fake").result()
    path = handle.save(tmp_path / "handle.json")
    again = ModelHandle.load(path)
    assert again.model_dump() == handle.model_dump()
    assert again.chat("Hi").text == handle.chat("Hi").text
    with pytest.raises(NotFoundError):
        ModelHandle.load(tmp_path / "none.json")
    path.write_text("{}")
    with pytest.raises(SpecError, match="not a model handle"):
        ModelHandle.load(path)


def test_the_system_prompt_of_the_training_data_goes_along(home: Path, rows: Rows) -> None:
    """A plain prompt is asked the way the model was trained; "" asks without."""
    data = rows(10)
    for row in data:
        row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    handle = gateway.submit(data, model="m", backend="fake").result()
    assert handle.system_prompt == "Be brief."
    assert handle.as_messages("Hi")[0] == {"role": "system", "content": "Be brief."}
    assert handle.as_messages("Hi", "") == [{"role": "user", "content": "Hi"}]


def test_another_process_can_go_on(home: Path, train_file: Path) -> None:
    """A second gateway on the same home sees the job and finishes it."""
    job = Gateway().submit(train_file, model="m", backend="fake").refresh()
    other = Gateway().job(job.id)
    assert other.wait().status is JobStatus.SUCCEEDED
    seen = [event.id for event in other.events()]
    assert len(seen) == len(set(seen))
    assert job.refresh().status is JobStatus.SUCCEEDED


def test_the_same_submit_twice_is_one_job(home: Path, train_file: Path) -> None:
    """Same data, spec and backend: the job comes back, also when it has succeeded, unless another
    is asked for."""
    backend, g = FakeBackend(), Gateway()
    first = g.submit(train_file, model="m", backend=backend)
    assert g.submit(train_file, model="m", backend=backend, method="supervised").id == first.id
    assert g.submit(train_file, model="m", backend=backend, seed=1).id != first.id
    assert g.submit(train_file, validation=train_file, model="m", backend=backend).id != first.id
    assert g.submit(train_file, model="m", backend=backend, again=True).id != first.id
    first.wait()
    assert g.submit(train_file, model="m", backend=backend).id == first.id
    assert g.submit(train_file, model="m", backend=backend, again=True).id != first.id
    assert len(backend.started) == 5


def test_an_equal_job_is_found_by_what_a_submit_would_send(home: Path, train_file: Path) -> None:
    """By the plan that it confirms; that of ``plan`` has no files to send, and is refused."""
    gateway, found = Gateway(home), []
    job = gateway.submit(train_file, model="m", backend=FakeBackend())

    def confirm(plan: Plan) -> bool:
        found.append(gateway.equal_job(plan))
        return True

    gateway.submit(train_file, model="m", backend=FakeBackend(), again=True, confirm=confirm)
    assert [one and one.id for one in found] == [job.id]
    with pytest.raises(SpecError, match="confirm="):
        gateway.equal_job(gateway.plan(train_file, model="m", backend=FakeBackend()))


def test_fifty_submitters_at_once_start_one_job(home: Path, train_file: Path) -> None:
    """The intent row decides, not luck."""
    backend, g = FakeBackend(), Gateway()
    ids: list[str] = []

    def submit() -> None:
        ids.append(g.submit(train_file, model="m", backend=backend).id)
        g.store.close()

    threads = [threading.Thread(target=submit) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 50 and len(set(ids)) == 1 and len(backend.started) == 1


def test_nothing_is_written_down_when_a_guard_says_no(home: Path, train_file: Path) -> None:
    """Bad data, an unknown setting, no confirmation: no job, nothing started."""
    backend, g = FakeBackend(), Gateway()
    bad = train_file.with_name("bad.jsonl")
    bad.write_text('{"messages": [{"role": "user", "content": "a"}]}\n' * 10)
    with pytest.raises(DataError) as caught:
        g.submit(bad, model="m", backend=backend)
    assert caught.value.report is not None and caught.value.report.findings[0].line == 1
    with pytest.raises(SpecError, match="n_epoch.*n_epochs"):
        wrong: Any = {"n_epoch": 3}
        g.submit(train_file, model="m", backend=backend, **wrong)
    with pytest.raises(UnsupportedError, match="method"):
        g.submit(train_file, model="m", backend=backend, method="reinforcement")
    with pytest.raises(BudgetError):
        g.submit(train_file, model="m", backend=backend, confirm=lambda plan: False)
    with pytest.raises(NotFoundError, match="no-such"):
        g.submit(train_file, model="m", backend="no-such")
    with pytest.raises(NotFoundError, match="no file"):
        g.submit("none.jsonl", model="m", backend=backend)
    assert g.jobs() == [] and backend.started == []


def test_failed_and_cancelled_jobs_say_so(home: Path, train_file: Path) -> None:
    """``wait`` returns however it ended; ``result`` raises with the reason."""
    script = [{"status": "running", "cursor": "1"}, {"status": "failed", "error": "bad file"}]
    job = Gateway().submit(train_file, model="m", backend=FakeBackend(script=script))
    assert job.wait().status is JobStatus.FAILED
    with pytest.raises(JobFailed, match="bad file"):
        job.result()
    slow = FakeBackend(script=[{"status": "running"}])
    job = Gateway().submit(train_file, model="m", backend=slow)
    with pytest.raises(JobNotFinished, match="still running"):
        job.wait(timeout=0.05)
    assert job.cancel().wait().status is JobStatus.CANCELLED
    with pytest.raises(JobCancelled):
        job.result()


def test_an_unknown_status_is_kept_and_not_final(home: Path, train_file: Path) -> None:
    """The provider's own word stays in ``raw_status``."""
    script: list[dict[str, Any]] = [
        {"status": "running"},
        {"status": "unknown", "raw_status": "paused_by_moon"},
        {"status": "succeeded", "result": {"kind": "hosted", "model": "x"}},
    ]
    job = Gateway().submit(train_file, model="m", backend=FakeBackend(script=script))
    job.refresh().refresh()
    assert job.status is JobStatus.RUNNING and job.record.raw_status == "paused_by_moon"
    assert job.wait().status is JobStatus.SUCCEEDED


def test_other_formats_are_trained_as_chat(home: Path) -> None:
    """Alpaca, ShareGPT and prompt/completion rows become chat rows in the job's own copy."""
    forms: list[Callable[[int], dict[str, Any]]] = [
        lambda n: {"instruction": f"Say {n}", "input": "now", "output": f"{n}"},
        lambda n: {
            "conversations": [
                {"from": "human", "value": f"Say {n}\n\nnow"},
                {"from": "gpt", "value": f"{n}"},
            ]
        },
        lambda n: {"prompt": f"Say {n}\n\nnow", "completion": f"{n}"},
    ]
    copies = set()
    for form in forms:
        job = Gateway().submit([form(n) for n in range(12)], model="m", backend="fake")
        rows = Path(job.record.train.path).read_text("utf-8").splitlines()
        assert json.loads(rows[3])["messages"] == [
            {"role": "user", "content": "Say 3\n\nnow"},
            {"role": "assistant", "content": "3"},
        ]
        copies.add(job.record.train.sha256)
    assert len(copies) == 1


# -- doubt -------------------------------------------------------------------------------


def test_a_create_in_doubt_is_looked_for_before_it_is_sent_again(
    home: Path, train_file: Path
) -> None:
    """It had taken effect: found, not sent again."""
    backend = FakeBackend(faults={"start": [BackendError("reset", maybe_applied=True)]})
    job = Gateway().submit(train_file, model="m", backend=backend)
    assert job.provider_id is None and "not confirmed" in job.phase
    assert job.wait().status is JobStatus.SUCCEEDED
    assert len(backend.started) == 1


def test_a_create_turned_away_for_now_is_sent_again(home: Path, train_file: Path) -> None:
    """429: not applied, so sending again buys nothing twice."""
    backend = FakeBackend(
        faults={"start": [BackendError("busy", status_code=429, retryable=True)] * 2}
    )
    job = Gateway().submit(train_file, model="m", backend=backend)
    assert job.wait().status is JobStatus.SUCCEEDED and len(backend.started) == 1


def test_a_refusal_is_final_and_raised(home: Path, train_file: Path) -> None:
    """The caller gets the reason; so does whoever looks at the job later."""
    backend = FakeBackend(faults={"start": [BackendError("no such model")]})
    with pytest.raises(BackendError, match="no such model"):
        Gateway().submit(train_file, model="m", backend=backend)
    [job] = Gateway().jobs()
    assert job.status is JobStatus.FAILED and "no such model" in str(job.error)


def test_a_look_that_fails_decides_nothing(home: Path, train_file: Path) -> None:
    """While the provider cannot be asked the job is neither failed nor sent again."""
    faults = {
        "start": [BackendError("reset", maybe_applied=True)],
        "find": [BackendError("forbidden"), BackendError("down", retryable=True)],
    }
    backend = FakeBackend(faults=faults)
    job = Gateway().submit(train_file, model="m", backend=backend)
    for _ in range(2):
        with pytest.raises(BackendError):
            job.refresh()
        assert job.status is JobStatus.VALIDATING_FILES
    assert job.wait().status is JobStatus.SUCCEEDED and len(backend.started) == 1


def test_endless_doubt_ends(home: Path, train_file: Path) -> None:
    """Ten requests that may change something are enough for one job."""

    class Lost(FakeBackend):
        def find(self, intent: Intent) -> str | None:
            return None

    backend = Lost(faults={"start": [BackendError("reset", maybe_applied=True)] * 99})
    job = Gateway().submit(train_file, model="m", backend=backend)
    assert job.wait(timeout=30).status is JobStatus.FAILED
    assert len(backend.started) == 10


# -- over the wire -----------------------------------------------------------------------


def test_hosted_from_file_to_chat(home: Path, train_file: Path) -> None:
    """Upload, create with our id in the metadata, follow, chat through a slow start."""
    with Provider(warm_up=2) as provider:
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider), suffix="demo")
        handle = job.result(timeout=30)
        assert handle.ready and handle.chat("Hi").text and "".join(handle.stream("Hi"))
        assert provider.posts["/files"] == 1 and provider.posts["/fine_tuning/jobs"] == 1
        assert provider.jobs[0]["request"]["metadata"] == {"ftg_job_id": job.id}
        assert job.record.trained_tokens and job.metrics()[-1].train_loss is not None
        database = Path(home / "gateway.sqlite3").read_bytes()
        assert provider.api_key.encode() not in database
        assert provider.api_key not in handle.model_dump_json()


def test_the_same_content_is_uploaded_once(home: Path, train_file: Path) -> None:
    """A second job on the same data, and the same rows as validation, send no file again."""
    with Provider() as provider:
        g, backend = Gateway(), wire(provider)
        g.submit(train_file, model=MODEL, backend=backend, validation=train_file).wait(30)
        g.submit(train_file, model=MODEL, backend=backend, seed=7).wait(30)
        assert provider.posts["/files"] == 1 and len(provider.jobs) == 2


@pytest.mark.parametrize("kind", ["reset_after", "error_after", "late", "html_ok", "truncated"])
def test_a_job_is_bought_once_whatever_the_answer(home: Path, train_file: Path, kind: str) -> None:
    """The request took effect and its answer was lost: one POST, one job, followed to the end."""
    with Provider() as provider:
        provider.fault(CREATE, kind, seconds=2.0)
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
        assert len(provider.jobs) == 1 and provider.posts["/fine_tuning/jobs"] == 1


@pytest.mark.parametrize("kind", ["refuse", "reset_before", "html", "slow"])
def test_a_create_that_was_lost_is_sent_again_and_once(
    home: Path, train_file: Path, kind: str
) -> None:
    """Nothing, or something very late, came of the first request: one job in the end."""
    with Provider() as provider:
        provider.fault(CREATE, kind, seconds=1.5)
        backend = wire(provider, settle_seconds=1.5)
        job = Gateway().submit(train_file, model=MODEL, backend=backend)
        assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
        assert len(provider.jobs) == 1


def test_a_lost_answer_to_an_upload_sends_no_second_file(home: Path, train_file: Path) -> None:
    """The file is found again by its name."""
    with Provider() as provider:
        provider.fault("POST /files", "reset_after")
        job = Gateway().submit(train_file, model=MODEL, backend=wire(provider))
        assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
        assert provider.posts["/files"] == 1 and len(provider.jobs) == 1


def test_a_file_the_host_has_deleted_is_sent_again(home: Path, train_file: Path) -> None:
    """The first submit after that is refused with the reason, the next one works."""
    with Provider() as provider:
        g, backend = Gateway(), wire(provider)
        g.submit(train_file, model=MODEL, backend=backend).wait(30)
        provider.world.delete_file(next(iter(provider.world.files)))
        with pytest.raises(BackendError):
            g.submit(train_file, model=MODEL, backend=backend, again=True)
        assert g.submit(train_file, model=MODEL, backend=backend, again=True).wait(30).status.final
        assert g.job("latest").status is JobStatus.SUCCEEDED


def test_a_job_no_provider_has_can_be_cancelled(home: Path, train_file: Path) -> None:
    """It ends here; one that may be with the provider is not called cancelled."""
    busy = BackendError("busy", status_code=429, retryable=True)
    backend = FakeBackend(faults={"start": [busy] * 2})
    job = Gateway().submit(train_file, model="m", backend=backend)
    assert job.cancel().status is JobStatus.CANCELLED and backend.started == []
    reset = BackendError("reset", maybe_applied=True)
    backend = FakeBackend(faults={"start": [reset], "find": [BackendError("down")]})
    job = Gateway().submit(train_file, model="m", backend=backend, again=True)
    with pytest.raises(BackendError, match="down"):
        job.cancel()
    assert job.cancel().wait().status is JobStatus.CANCELLED


def test_a_doubt_about_the_job_outlives_a_second_upload(home: Path, train_file: Path) -> None:
    """The job was bought and its answer lost; another job's refusal makes the file forgotten,
    and the second upload is lost too: still one job."""
    with Provider() as provider:
        g, backend = Gateway(), wire(provider)
        provider.fault(CREATE, "reset_after")
        job = g.submit(train_file, model=MODEL, backend=backend)
        provider.fault(CREATE, "status", status=400)
        with pytest.raises(BackendError):
            g.submit(train_file, model=MODEL, backend=backend, seed=7)
        provider.fault("POST /files", "reset_after")
        assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
        assert len(provider.jobs) == 1


def test_time_outs_make_no_other_job(home: Path, train_file: Path) -> None:
    """The same submit through the same host and key is the same job, whatever the patience."""
    with Provider(pace=60) as provider:
        g = Gateway()
        first = g.submit(train_file, model=MODEL, backend=wire(provider))
        again = g.submit(train_file, model=MODEL, backend=wire(provider, request_timeout=9.0))
        assert first.id == again.id and len(provider.jobs) == 1 and provider.posts["/files"] == 1


def test_a_submit_again_sends_what_its_first_process_could_not(
    home: Path, train_file: Path
) -> None:
    """The first process died after the intent: the same command is enough."""
    with Provider() as provider:
        g = Gateway()
        write_down(g, train_file, model=MODEL, backend=wire(provider))
        job = g.submit(train_file, model=MODEL, backend=wire(provider))
        assert job.provider_id == provider.jobs[0]["id"] and len(g.jobs()) == 1


def test_a_server_that_is_down_and_a_missing_key(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One plain message each; the job that could not be sent is failed, not lost."""
    with Provider() as provider:
        gone = wire(provider)
    with pytest.raises(BackendError, match="127.0.0.1"):
        Gateway().submit(train_file, model=MODEL, backend=gone)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(gateway.AuthenticationError, match="OPENAI_API_KEY"):
        Gateway().submit(train_file, model=MODEL, backend="openai")
    assert [job.status for job in Gateway().jobs()] == [JobStatus.FAILED]


def test_the_limit_is_kept(home: Path, train_file: Path) -> None:
    """Above it, or without a price, nothing is sent."""
    with Provider() as provider:
        for limit, model in ((0.00001, MODEL), (10.0, "a-model-without-a-price")):
            with pytest.raises(BudgetError):
                backend = OpenAIBackend(base_url=provider.url, api_key="k", profile="custom")
                Gateway().submit(train_file, model=model, backend=backend, max_cost_usd=limit)
        assert provider.requests == []


def test_settings_a_hosted_service_cannot_honour_are_refused(home: Path, train_file: Path) -> None:
    """Never ignored, and never sent."""
    with pytest.raises(UnsupportedError, match="lora_r"):
        Gateway().estimate(train_file, model=MODEL, backend="openai", lora_r=8)


def test_personal_data_leaves_only_when_allowed(home: Path, rows: Rows) -> None:
    """A hosted submit stops before the first byte; a local one and an allowed one go on."""
    data = rows(12)
    data[4]["messages"][0]["content"] = "Write to jo.doe@acme-shop.com please."
    with Provider() as provider:
        with pytest.raises(DataError, match="line 5.*allow-pii"):
            Gateway().submit(data, model=MODEL, backend=wire(provider))
        assert provider.requests == [] and Gateway().jobs() == []
        assert Gateway().submit(data, model="m", backend="fake").wait().status.final
        job = Gateway().submit(data, model=MODEL, backend=wire(provider), allow_pii=True)
        assert job.wait(30).status is JobStatus.SUCCEEDED
    assert "jo.doe" not in str(job.record.estimate)


def test_real_data_sets_go_over_the_wire(home: Path, shared: Path) -> None:
    """Chat, SQL, tool calls and long turns of other people, from file to chat."""
    names = (
        "foundry_gsm8k_chat/chat_train.jsonl",
        "fireworks_text2sql/text2sql_dataset.jsonl",
        "foundry_stock_toolcall/stock_toolcall_training.jsonl",
        "together_coqa/small_coqa_10.jsonl",
    )
    with Provider() as provider:
        for name in names:
            path = shared / "data" / name
            job = Gateway().submit(path, model=MODEL, backend=wire(provider), validation_split=0)
            assert job.result(timeout=30).chat("Hi").text, name
        stored = {file["bytes"] for file in provider.world.files.values()}
        assert stored >= {(shared / "data" / name).stat().st_size for name in names}


def test_validate_and_estimate_write_nothing(home: Path, train_file: Path) -> None:
    """They need no home folder, no key and no network."""
    report = gateway.validate(train_file, model=MODEL)
    assert report.ok and report.rows == 12 and json.loads(report.model_dump_json())["tokens"]
    estimate = gateway.estimate(train_file, model=MODEL)
    assert estimate.cost_usd is not None and estimate.data_leaves_machine
    assert not home.exists()


@pytest.mark.parametrize("backend", [None, "openai", "azure"])
def test_without_a_model_counts_are_those_of_what_openai_still_trains(
    tmp_path: Path, backend: str | None
) -> None:
    """Exact, in o200k_base, whether the host is named or not."""
    answer = {"role": "assistant", "content": "Yes."}
    rows = [
        {"messages": [{"role": "user", "content": f"Question {number}?"}, answer]}
        for number in range(12)
    ]
    tokens = Gateway(home=tmp_path).validate(rows, backend=backend).tokens
    assert tokens is not None
    assert (tokens["encoding"], tokens["exact"], tokens["total"]) == ("o200k_base", True, 204)
