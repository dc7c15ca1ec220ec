"""What a service that embeds us sees of a job: its log, its events, its errors, its JSON."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.hosted import MODEL, RETRIEVE, connect
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway import BackendError, Event, Gateway, Job, OpenAIBackend, SpecError
from finetune_gateway.backend import JobStatus

KEY = "sk-planted-5f1c09e2a7b84d63"
ROW, PROMPT, SYSTEM = "walnut-in-a-row", "lantern-in-a-prompt", "orchard-in-a-system-text"
CHAT = "POST /chat/completions"
REQUESTS, JOBS = "finetune_gateway.requests", "finetune_gateway.jobs"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(api_key=KEY) as provider:
        yield provider


@pytest.fixture
def gateway(home: Path) -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.store.close()


def hosted(provider: Provider, **options: Any) -> OpenAIBackend:
    given = {"request_timeout": 5.0, "settle_seconds": 0.03, "poll_seconds": 0.005}
    return OpenAIBackend(
        base_url=provider.url, profile="custom", api_key=KEY, **{**given, **options}
    )


def planted() -> list[dict[str, Any]]:
    """Rows that no log may show."""
    rows = chat_rows(12)
    for row in rows:
        row["messages"].insert(0, {"role": "system", "content": SYSTEM})
        row["messages"][1]["content"] += f" {ROW}"
    return rows


# -- the log -----------------------------------------------------------------------------


def test_a_whole_job_logs_no_secret_row_or_answer(
    gateway: Gateway, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """At DEBUG, with the loggers of the SDK and of the client: a hosted job with lost and refused
    requests, a host that says the key, chats whole and streamed."""
    caplog.set_level(logging.DEBUG)
    provider.fault(RETRIEVE, "status", status=500, message=f"No {KEY} {ROW}")
    provider.fault(RETRIEVE, "reset_after")
    provider.fault(CHAT, "status", status=503, message=f"{PROMPT} {KEY}")
    job = gateway.submit(planted(), model=MODEL, backend=hosted(provider))
    handle = job.result()
    assert PROMPT in handle.chat(PROMPT).text
    assert PROMPT in "".join(handle.stream(PROMPT, system=SYSTEM))
    provider.keys.clear()
    with pytest.raises(BackendError):
        handle.chat(PROMPT)
    logged = "\n".join(
        f"{record.name} {record.getMessage()} {sorted(map(repr, vars(record).values()))}"
        for record in caplog.records
    )
    assert len(caplog.records) > 50 and "openai" in logged
    for secret in (KEY, ROW, PROMPT, SYSTEM, "heard:"):
        assert secret not in logged, secret


def test_each_request_is_a_line(
    gateway: Gateway, provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    """With method, address, status, seconds and the host's id of it; nothing after a ``?``."""
    caplog.set_level(logging.INFO, "finetune_gateway")
    job = gateway.submit(planted(), model=MODEL, backend=hosted(provider))
    job.result().chat("Hi")
    lines = [record for record in caplog.records if record.name == REQUESTS]
    assert len(lines) == len(provider.requests) > 8
    form = rf"(GET|POST) {provider.url}/[\w/-]+ 200 in \d+\.\d{{3}} s, req_\d+"
    for record in lines:
        assert re.fullmatch(form, record.getMessage()), record.getMessage()
    fields = vars(lines[0])
    assert (fields["status"], fields["method"]) == (200, "POST") and fields["seconds"] > 0
    ids = {vars(record)["request_id"] for record in lines}
    assert len(ids) == len(lines)


def test_a_request_without_an_answer_is_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """With the kind of its end; what is sent again is logged at DEBUG."""
    caplog.set_level(logging.DEBUG, "finetune_gateway")
    with Provider(api_key=KEY) as provider:
        provider.fault(RETRIEVE, "reset_before", "refuse", "refuse")
        with pytest.raises(BackendError):
            connect(provider).poll("ftjob-1", None)
    lines = [record.getMessage() for record in caplog.records if record.name == REQUESTS]
    assert [re.sub(r" in \d.*", "", line).rpartition(" ")[2] for line in lines[::2]] == [
        *("ReadError", "503", "503")
    ]
    assert [line.partition(";")[0] for line in lines[1::2]] == [
        *("attempt 1: APIConnectionError", "attempt 2: 503")
    ]


@pytest.mark.parametrize("given", [KEY, "a b", "x" * 500, "é", f"id-{KEY}-1", ""])
def test_what_is_no_id_of_a_request_is_left_out(
    given: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A host may put anything into that header, the key too."""
    caplog.set_level(logging.INFO, "finetune_gateway")
    with Provider(api_key=KEY) as provider:
        headers = {"x-request-id": given.encode().decode("latin-1")}
        provider.fault(RETRIEVE, "raw", status=404, body=b"{}", headers=headers)
        handler: Any = provider.server.RequestHandlerClass
        handler.send_header = _once(handler)
        with pytest.raises(BackendError) as caught:
            hosted(provider).poll("ftjob-1", None)
    assert caught.value.request_id is None
    assert not given or given not in caplog.text


def _once(handler: Any) -> Any:
    """Send the provider's own header of this name no more."""
    send = handler.send_header

    def send_header(self: Any, name: str, value: str) -> None:
        if not (name == "x-request-id" and value.startswith("req_")):
            send(self, name, value)

    return send_header


def test_the_jobs_of_a_log(
    gateway: Gateway, train_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """How a job goes on at INFO, each poll at DEBUG."""
    caplog.set_level(logging.DEBUG, JOBS)
    job = gateway.submit(train_file, model="m", backend="fake").wait()
    lines = [(one.levelname, one.getMessage()) for one in caplog.records if one.name == JOBS]
    texts = [text for level, text in lines if level == "INFO"]
    assert texts[0] == f"{job.id} is validating_files at fake (fake-{job.id})"
    assert texts[-1] == f"{job.id} is succeeded at fake (fake-{job.id})"
    assert len(texts) == 4 and len(lines) > 4


def test_nothing_is_printed_until_logging_is_set_up() -> None:
    """Not even a warning, which Python prints where a library has no handler."""
    code = "from finetune_gateway.text import logs; logs.jobs.warning('x'); logs.requests.info('y')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == done.stderr == ""


# -- events ------------------------------------------------------------------------------


def test_on_event_is_called_with_each_event_once(gateway: Gateway, train_file: Path) -> None:
    """By ``wait``, ``result`` and a wait for many; those that are stored come first."""
    seen: list[tuple[str, Event]] = []

    def note(job: Job, event: Event) -> None:
        seen.append((job.id, event))

    first = gateway.submit(train_file, model="m", backend="fake", seed=1).wait(on_event=note)
    assert seen == [(first.id, event) for event in first.events()] and len(seen) > 2
    seen.clear()
    first.result(on_event=note)
    assert seen == [(first.id, event) for event in first.events()]
    seen.clear()
    second = gateway.submit(train_file, model="m", backend="fake", seed=2)
    assert gateway.wait([first, second], on_event=note) == []
    assert sorted(seen, key=lambda one: one[1].number or 0) == [
        (job.id, event) for job in (first, second) for event in job.events()
    ]


def test_an_error_of_on_event_breaks_no_job(
    gateway: Gateway, train_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged by its kind and place, without its words, which may be the event's."""
    calls = []

    def fail(job: Job, event: Event) -> None:
        calls.append(event)
        raise KeyError(event.message)

    job = gateway.submit(train_file, model="m", backend="fake").wait(on_event=fail)
    assert job.status is JobStatus.SUCCEEDED and calls == job.events()
    warnings = [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]
    assert len(warnings) == len(calls) and f"on_event raised KeyError ({__file__}" in warnings[0]
    assert f"event {calls[0].number} of {job.id}" in warnings[0]
    assert all(event.message not in caplog.text for event in calls)


def test_on_event_is_a_function_and_may_be_stopped(gateway: Gateway, train_file: Path) -> None:
    """Ctrl-C in it is Ctrl-C."""

    def stop(job: Job, event: Event) -> None:
        raise KeyboardInterrupt

    job = gateway.submit(train_file, model="m", backend="fake")
    with pytest.raises(SpecError, match="on_event cannot be 5"):
        job.wait(on_event=5)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        job.wait(on_event=stop)


def test_a_stream_goes_on_after_a_number(gateway: Gateway, train_file: Path) -> None:
    """From any process: the rest, and nothing twice."""
    job = gateway.submit(train_file, model="m", backend="fake")
    stream = job.watch()
    first = [next(stream), next(stream)]
    del stream
    rest = [*gateway.job(job.id).watch(after=first[-1].number or 0)]
    assert first + rest == job.events()
    numbers = [event.number or 0 for event in job.events()]
    assert numbers == sorted(set(numbers)) and numbers[0] > 0
    assert job.events(after=numbers[1]) == rest


def test_the_command_line_numbers_events(home: Path, train_file: Path, ftg: Ftg) -> None:
    """In JSON: a program can go on after one."""
    job = Gateway().submit(train_file, model="m", backend="fake").wait()
    lines = [json.loads(line) for line in ftg("events", job.id, "--json").stdout.splitlines()]
    assert [line["number"] for line in lines] == [event.number for event in job.events()]


# -- errors and JSON ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["status", "html", "html_ok", "truncated", "error_after"])
def test_an_error_has_the_hosts_id_of_the_request(kind: str) -> None:
    """A refusal, a page of a server in between, half a JSON: whatever came with an id."""
    with Provider() as provider:
        provider.fault(RETRIEVE, *[kind] * 3, status=400)
        with pytest.raises(BackendError) as caught:
            connect(provider).poll("ftjob-1", None)
        assert caught.value.request_id == f"req_{len(provider.requests)}"


def test_an_error_without_an_answer_has_none() -> None:
    """Not that of the request before it either."""
    with Provider() as provider:
        backend = connect(provider)
        with pytest.raises(BackendError, match="404"):
            backend.poll("ftjob-1", None)
        provider.fault(RETRIEVE, *["reset_before"] * 3)
        with pytest.raises(BackendError) as caught:
            backend.poll("ftjob-1", None)
        assert caught.value.request_id is None


def test_an_error_in_other_words_keeps_its_id(gateway: Gateway, train_file: Path) -> None:
    """A job that its host has lost."""
    with Provider(api_key=KEY) as provider:
        job = gateway.submit(train_file, model=MODEL, backend=hosted(provider))
        provider.world.jobs.clear()
        with pytest.raises(BackendError, match="ended|settle") as caught:
            job.refresh()
        assert caught.value.not_there
        assert caught.value.request_id == f"req_{len(provider.requests)}"


def test_a_job_as_json_is_what_the_command_prints(home: Path, train_file: Path, ftg: Ftg) -> None:
    """One writer: plain JSON, without what only the store uses."""
    job = Gateway().submit(train_file, model="m", backend="fake", metadata={"team": "a"}).wait()
    document = job.to_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["id"] == job.id and document["status"] == "succeeded" and document["final"]
    assert document["metadata"] == {"team": "a"} and document["last_metrics"]["step"]
    printed = json.loads(ftg("status", job.id, "--json").stdout)
    assert printed == document
