"""What a host sends is no more than bytes: strange ones end in typed errors or notes, never in a
crash, and no job gets out of reach."""

from __future__ import annotations

import json
import os
import pty
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.hosted import (
    EVENTS,
    LIST,
    MODEL,
    RETRIEVE,
    SPEC,
    begin,
    connect,
    data_file,
    handle_of,
    intent,
    no_crash,
    sent,
)
from support.provider import CREATE, Provider

from finetune_gateway import Gateway, JobNotFinished, NotFoundError, OpenAIBackend
from finetune_gateway.backend import DataFile
from finetune_gateway.errors import BackendError, GatewayError, SpecError
from finetune_gateway.events import Event, JobStatus, Snapshot
from finetune_gateway.jobs.job import Job
from finetune_gateway.jobs.store import Store
from finetune_gateway.spec import TrainingSpec

CHECKPOINTS = "GET /fine_tuning/jobs/*/checkpoints"
CHAT = "POST /chat/completions"
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
HALF = "half \ud83d of it"
STOP, HOUR = {"x-should-retry": "false"}, {"Retry-After": "3600"}
STEERING = "\x1b[2J\u202ereversed\x9b1m"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def backend(provider: Provider) -> OpenAIBackend:
    return connect(provider, poll_seconds=0.01, profile="custom")


@pytest.fixture
def file(tmp_path: Path) -> DataFile:
    return data_file(tmp_path / "train.jsonl")


def submitted(backend: OpenAIBackend, train_file: Path) -> Job:
    return Gateway().submit(train_file, model=MODEL, backend=backend)


@pytest.fixture
def ftg(ftg: Ftg, monkeypatch: pytest.MonkeyPatch, provider: Provider) -> Ftg:
    """Command lines that have the key."""
    monkeypatch.setenv("OPENAI_API_KEY", provider.api_key)
    return ftg


def in_reach(ftg: Ftg, job: Job) -> str:
    """What the commands about a job print; each of them works, as text and as JSON."""
    printed = ""
    for command in ("status", "events", "logs", "metrics", "checkpoints", "list"):
        for more in ([], ["--json"]):
            name = [] if command == "list" else [job.id]
            done = ftg(command, *name, *more)
            assert done.returncode == 0, (command, done)
            printed += done.stdout + done.stderr
    done = ftg("watch", job.id)
    assert done.returncode in (0, 100, 101), done
    return printed + done.stdout + done.stderr


# What comes in


EVENT: dict[str, Any] = {
    "id": "e1", "object": "fine_tuning.job.event", "created_at": 1700000000, "level": "info",
    "message": "Step 1", "type": "metrics", "data": {"step": 1, "train_loss": 0.5},
}  # fmt: skip
POINT: dict[str, Any] = {
    "id": "c1", "created_at": 1700000000, "fine_tuned_model_checkpoint": "ft:m", "step_number": 1,
    "metrics": {"step": 1},
}  # fmt: skip
REPORTS: list[tuple[str, dict[str, Any]]] = [
    (EVENTS, {"data": [{**EVENT, "message": HALF}]}),
    (EVENTS, {"data": [{**EVENT, "id": HALF, "type": HALF, "level": 5}]}),
    (EVENTS, {"data": [{**EVENT, "id": 7, "created_at": "now"}, {**EVENT, "created_at": 2**70}]}),
    (EVENTS, {"data": [{**EVENT, "created_at": 1e300}]}),
    (EVENTS, {"data": [{**EVENT, "data": {"step": 1, "train_loss": "not yet"}}]}),
    (EVENTS, {"data": [{**EVENT, "data": {"step": 2**80, "train_loss": [1], HALF: HALF}}]}),
    (EVENTS, {"data": [None, 3, "plain", [], {}]}),
    (EVENTS, {"data": [{**EVENT, "data": json.loads("[" * 400 + "]" * 400)}]}),
    (EVENTS, {"data": [{**EVENT, "data": json.loads('{"a":' * 400 + "1" + "}" * 400)}]}),
    (EVENTS, {"data": [{**EVENT, "message": f"Step {'9' * 5000}/3: training loss=1e999"}]}),
    (EVENTS, {"data": None}),
    (CHECKPOINTS, {"data": [{**POINT, "step_number": 2**70}, {**POINT, "step_number": True}]}),
    (CHECKPOINTS, {"data": [{**POINT, "step_number": "1"}, {**POINT, "id": "c2"}]}),
    (CHECKPOINTS, {"data": [{**POINT, "fine_tuned_model_checkpoint": HALF, "metrics": [1]}]}),
    (CHECKPOINTS, {"data": {"c": POINT}}),
    (RETRIEVE, {"fine_tuned_model": f"ft:{HALF}"}),
    (RETRIEVE, {"trained_tokens": 2**70, "finished_at": 2**70, "created_at": -1}),
    (RETRIEVE, {"trained_tokens": "many", "created_at": 1e300, "finished_at": 1e301}),
    (RETRIEVE, {"trained_tokens": 1.5, "error": [HALF], "created_at": None}),
    (RETRIEVE, {"error": {"code": HALF, "message": {"a": HALF}}, "status": "failed"}),
    (RETRIEVE, {"status": HALF}),
]


@pytest.mark.parametrize(("endpoint", "body"), REPORTS)
def test_no_report_puts_a_job_out_of_reach(
    provider: Provider,
    backend: OpenAIBackend,
    home: Path,
    train_file: Path,
    ftg: Ftg,
    endpoint: str,
    body: dict[str, Any],
) -> None:
    """Half a character, 2^70, words for figures, lists for objects: kept as far as they can be."""
    job = submitted(backend, train_file)
    provider.world.jobs[job.provider_id or ""]["stage"] = 9
    provider.fault(endpoint, "overlay", body=body)
    with no_crash():
        job.refresh()
        shown = in_reach(ftg, job)
        shown.encode()
    assert job.id in shown and "Traceback" not in shown


BODIES: list[bytes] = [
    b"<html>Welcome</html>", b"", b"null", b"[]", b"3", b'"text"', b"\xff\xfe\x00", b"[" * 100000,
    b'{"id": ' + b"9" * 5000 + b"}", b'{"data": null}', b'{"data": 3}', b'{"data": [null]}',
    b'{"status": null}', b'{"status": 7}', b'{"error": "\\ud83d"}', b'{"error": [1], "data": {}}',
    b'{"choices": [null]}', b'{"choices": null}', b'{"choices": [3], "usage": 3}',
    b'{"id": "../x", "choices": {}}', b'{"id": "\\ud83d"}', b'{"id": ".."}', b'{"id": ["x"]}',
]  # fmt: skip


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:24].decode("latin-1"))
def test_every_answer_is_read_or_is_a_typed_error(
    provider: Provider, backend: OpenAIBackend, file: DataFile, body: bytes
) -> None:
    """200 with anything: an upload and a create stay in doubt, nothing but our errors comes out."""
    provider_id, train = begin(backend, file), sent(backend, file)
    faults = ("POST /files", "GET /files", CREATE, RETRIEVE, CHAT, CHAT)
    for endpoint in faults:
        provider.fault(endpoint, "body", body=body)
    doubtful: list[Callable[[], object]] = [
        lambda: backend.upload(file),
        lambda: backend.start("job-2", SPEC, train, None),
    ]
    for send in doubtful:
        with no_crash(), pytest.raises(BackendError) as caught:
            send()
        assert caught.value.maybe_applied
    model = backend.open(handle_of(MODEL))
    reads: list[Callable[[], object]] = [
        lambda: backend.find_upload(file),
        lambda: backend.poll(provider_id, None),
        lambda: model.chat(HELLO),
        lambda: [*model.stream(HELLO)],
    ]
    for call in reads:
        with no_crash():
            try:
                call()
            except BackendError as exc:
                str(exc).encode()


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body[:24].decode("latin-1"))
def test_a_search_takes_no_strange_answer_for_a_job(
    provider: Provider, backend: OpenAIBackend, file: DataFile, body: bytes
) -> None:
    """Lists of anything: a typed error, or nothing found."""
    begin(backend, file)
    provider.fault(LIST, "body", "body", body=body)
    with no_crash(), suppress(BackendError):
        assert backend.find(intent("job-1")) is None


@pytest.mark.parametrize("wait", ["²", "٣", "9" * 5000, "-1", "1.5s", "\x1b", "Fri, 31 Dec 1999"])
def test_retry_after_is_a_number_or_nothing(
    provider: Provider, backend: OpenAIBackend, wait: str
) -> None:
    """A wait that is no short number of seconds is no reason to crash."""
    headers = {"Retry-After": wait.encode().decode("latin-1")}
    provider.fault(RETRIEVE, "status", status=429, headers=headers)
    with no_crash(), pytest.raises(BackendError) as caught:
        backend.poll("ftjob-1", None)
    assert caught.value.retryable and caught.value.status_code == 429


@pytest.mark.parametrize(
    "error",
    [
        {"message": HALF, "code": ["a"], "param": {"b": 1}},
        {"message": {"deep": [HALF]}, "code": HALF, "param": HALF},
        HALF,
        [HALF],
        None,
    ],
)
def test_refusals_in_any_shape(provider: Provider, backend: OpenAIBackend, error: Any) -> None:
    """The error of a refusal may hold anything; our message can be written and stored."""
    provider.fault(RETRIEVE, "overlay", body={"error": error})
    with no_crash(), pytest.raises(BackendError) as caught:
        backend.poll("ftjob-none", None)
    assert caught.value.status_code == 404
    with no_crash():
        str(caught.value).encode()
        json.dumps([caught.value.code], ensure_ascii=False).encode()


def test_a_job_without_a_usable_id_is_no_answer(
    provider: Provider, file: DataFile, home: Path
) -> None:
    """A listed job with our tag and no id leaves the doubt: we do not make up an id for it."""
    provider.fault(CREATE, "reset_after")
    hosted = connect(provider, profile="custom", settle_seconds=0.1)
    job = Gateway(home).submit(file.path, model=MODEL, backend=hosted)
    tagged = {"metadata": {"ftg_job_id": job.id}, "status": "running"}
    for wrong in ({}, {"id": 7}, {"id": ".."}, {"id": None}):
        provider.fault(LIST, *["overlay"] * 2, body={"data": [{**tagged, **wrong}]})
        with no_crash(), suppress(BackendError):
            job.refresh()
        assert Gateway(home).job(job.id).provider_id is None
        provider.faults.clear()
    assert job.refresh().provider_id == provider.jobs[0]["id"]


@pytest.mark.parametrize("strange", [["file-1"], {}, 7, None])
def test_a_listed_job_with_a_strange_file(
    provider: Provider, file: DataFile, home: Path, strange: object
) -> None:
    """It is not known what that job is: the doubt stays, and is said."""
    provider.world.metadata = "null"
    provider.fault(CREATE, "reset_after")
    hosted = connect(provider, profile="custom", settle_seconds=0.03, poll_seconds=0.005)
    job = Gateway(home).submit(file.path, model=MODEL, backend=hosted)
    time.sleep(0.05)
    provider.world.extra = {"training_file": strange}
    with no_crash(), pytest.raises(BackendError, match=f"ftg settle {job.id}"):
        job.wait(10)
    provider.world.extra = {}
    assert job.wait(20).status is JobStatus.SUCCEEDED and len(provider.jobs) == 1


# Chat


def reply(**choice: Any) -> dict[str, Any]:
    return {"choices": [{"finish_reason": "stop", "message": {}, **choice}]}


def test_a_key_that_a_host_echoes_is_kept_nowhere(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, ftg: Ftg
) -> None:
    """In events, their data, errors, words for a status, the model: not in the store, and not on
    the screen. A key of a form that nothing tells, and one with escapes."""
    key = "0a1b2c3d4e5f60718293a4b5c6d7e8f9"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    escaped = "".join(f"\\u{ord(char):04x}" for char in key)
    event = '{"id": "e1", "message": "%s", "type": "x", "data": {"sent": {"%s": ["%s"]}}}'
    body = '{"data": [%s], "has_more": false}' % (event % (key, key, escaped))
    with Provider(api_key=key) as provider:
        provider.world.fail_with = {"code": "bad", "message": f"failed with {key}"}
        provider.fault(EVENTS, *["body"] * 9, body=body.encode())
        backend = connect(provider, api_key=None, profile="custom", poll_seconds=0.01)
        job = Gateway().submit(train_file, model=MODEL, backend=backend)
        assert job.wait(20).error == "bad: failed with [key]"
        shown = [ftg("logs", job.id), ftg("status", job.id, "--json")]
        assert all(key not in done.stdout and "[key]" in done.stdout for done in shown)
    assert job.events()[0].data == {"sent": {"[key]": ["[key]"]}}
    assert not [
        path for path in home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()
    ]


@pytest.mark.parametrize(
    "options",
    [
        {"api_key_env": "sk-proj-0123456789abcdef"},
        {"api_key_env": "0123456789abcdef", "api_key": "0123456789abcdef"},
        {"base_url": "https://host.test/v1?api-key=0123456789abcdef"},
        {"base_url": "https://host.test/v1#0123456789abcdef"},
    ],
)
def test_a_key_in_the_wrong_place_is_refused_and_not_shown(options: dict[str, str]) -> None:
    """Given as the name of its variable, or in the address: both are stored and shown."""
    with pytest.raises(SpecError, match="api_key_env") as caught:
        OpenAIBackend(**options)  # type: ignore[arg-type]
    assert "0123456789abcdef" not in str(caught.value)


def test_answers_in_other_shapes(provider: Provider, backend: OpenAIBackend) -> None:
    """Content as a list of parts is joined; odd counts are 0; what is no call is left out."""
    parts = [{"type": "text", "text": "In "}, None, {"type": "image"}, {"text": "Utrecht"}]
    calls = [None, {"id": "c1"}, "x"]
    usage = {"prompt_tokens": 1.5, "completion_tokens": None}
    body = {**reply(message={"content": parts, "tool_calls": calls}), "usage": usage}
    provider.fault(CHAT, "body", body=body)
    with no_crash():
        answer = backend.open(handle_of(MODEL)).chat(HELLO)
    assert (answer.text, answer.tool_calls) == ("In Utrecht", [{"id": "c1"}])
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (0, 0)
    for odd in (reply(message=None, finish_reason=3), reply(message={"content": 5}, usage=7)):
        provider.fault(CHAT, "body", body=odd)
        assert backend.open(handle_of(MODEL)).chat(HELLO).text == ""


def test_halves_of_a_character_meet_in_a_stream(provider: Provider, backend: OpenAIBackend) -> None:
    """Two pieces with half an emoji each are one emoji; a half alone is an escape."""
    pieces = [["a \ud83d", "\ude00 b"], ["a \ud83d", " b \ude00"]]
    for one, other in pieces:
        chunks = [{"choices": [{"delta": {"content": text}}]} for text in (one, other)]
        end: list[Any] = [{"choices": None}, {"choices": [None]}, None]
        end.append({"choices": [{"delta": None, "finish_reason": "stop"}]})
        lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in [*chunks, *end]]
        provider.fault(CHAT, "body", body="".join(lines).encode())
        with no_crash():
            text = "".join(backend.open(handle_of(MODEL)).stream(HELLO))
        assert text == ("a \U0001f600 b" if one + other == "a \ud83d\ude00 b" else
                        "a \\ud83d b \\ude00")  # fmt: skip


def test_chat_is_exact_in_a_pipe_and_harmless_on_a_terminal(
    provider: Provider, backend: OpenAIBackend, home: Path, train_file: Path, ftg: Ftg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """A pipe and --json get the model's words; a terminal sees escapes."""
    job = submitted(backend, train_file)
    job.result()
    provider.fault(CHAT, "body", "body", body=reply(message={"content": STEERING}))
    assert ftg("chat", job.id, "Hello").stdout == f"{STEERING}\n"
    assert json.loads(ftg("chat", job.id, "Hello", "--json").stdout)["text"] == STEERING
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr("sys.stdout", terminal)
        from finetune_gateway.chat import ChatStream  # both later than the commit before
        from finetune_gateway.cli.conversation import print_stream

        print_stream(ChatStream(iter([STEERING])), [])
    assert os.read(ours, 1000).decode().strip() == "\\u001b[2J\\u202ereversed\\u009b1m"


def test_words_of_hosts_steer_nothing(
    provider: Provider, backend: OpenAIBackend, home: Path, train_file: Path, ftg: Ftg
) -> None:
    """Events, errors, models and states are shown with escapes in all our texts, also in a pipe."""
    job = submitted(backend, train_file)
    provider.world.extra = {
        "status": "failed", "error": {"code": "x", "message": STEERING}, "fine_tuned_model": None,
    }  # fmt: skip
    provider.fault(EVENTS, "overlay", body={"data": [{**EVENT, "type": "x", "message": STEERING}]})
    point = {**POINT, "fine_tuned_model_checkpoint": f"ft:{STEERING}"}
    provider.fault(CHECKPOINTS, "overlay", body={"data": [point]})
    job.refresh()
    text = in_reach(ftg, job)
    assert "\\u001b[2J\\u202ereversed" in text
    assert not any(char in text for char in "\x1b\x9b\u202e")
    with pytest.raises(GatewayError) as caught:
        job.result()
    assert "\\u001b" in str(caught.value) and "\x1b" not in str(caught.value)


# A status depends on the job alone


@pytest.mark.parametrize(
    ("endpoint", "kind", "settings"),
    [
        *[(one, "status", {"status": 403}) for one in (EVENTS, CHECKPOINTS)],
        *[(one, "status", {"status": 500, "headers": STOP}) for one in (EVENTS, CHECKPOINTS)],
        *[(one, "status", {"status": 429, "headers": HOUR}) for one in (EVENTS, CHECKPOINTS)],
        *[(one, "html_ok", {}) for one in (EVENTS, CHECKPOINTS)],
        *[(one, "truncated", {}) for one in (EVENTS, CHECKPOINTS)],
        *[(one, "body", {"body": b"\xff"}) for one in (EVENTS, CHECKPOINTS)],
        (CHECKPOINTS, "late", {"seconds": 0.2}),
    ],
)
def test_a_status_depends_on_the_job_alone(
    provider: Provider, file: DataFile, endpoint: str, kind: str, settings: dict[str, Any]
) -> None:
    """Whatever events and checkpoints answer, the end of a job is seen, and a note says why
    they are missing; the cursor stays."""
    backend = connect(provider, request_timeout=5.0 if kind != "late" else 0.15)
    provider_id = begin(backend, file)
    cursor = backend.poll(provider_id, None).cursor
    provider.world.jobs[provider_id]["stage"] = 9
    provider.fault(endpoint, *[kind] * (3 if kind == "late" else 1), **settings)
    with no_crash():
        shot = backend.poll(provider_id, cursor)
    assert shot.status is JobStatus.SUCCEEDED and shot.result is not None
    notes = [event for event in shot.events if event.id.startswith("ftg-note-")]
    assert len(notes) == 1 and notes[0].level == "warn" and "could not be read" in notes[0].message
    assert provider.api_key not in notes[0].message
    if endpoint == EVENTS:
        assert shot.cursor == cursor and len(shot.events) == 1


# An end without a model, and one with a word of its own


def test_a_success_without_a_model_ends_the_wait(
    provider: Provider, backend: OpenAIBackend, home: Path, train_file: Path, ftg: Ftg
) -> None:
    """A host that names no model five minutes after the end is believed; then the user can."""
    provider.world.extra = {"fine_tuned_model": None, "finished_at": int(time.time()) - 3600}
    job = submitted(backend, train_file)
    with no_crash():
        job.wait(timeout=3)
    assert job.status is JobStatus.SUCCEEDED
    assert "no name of a model" in job.events()[-1].message
    with pytest.raises(NotFoundError, match="gives no name of a model") as caught:
        job.result()
    assert f"ftg chat {job.id} --model NAME" in caught.value.hint and str(job.provider_id) in (
        caught.value.hint
    )
    in_reach(ftg, job)
    name = provider.world.model_name(provider.jobs[0])
    done = ftg("chat", job.id, "Hello", "--model", name)
    assert done.returncode == 0 and "heard: Hello" in done.stdout, done
    assert "heard: Hello" in ftg("chat", job.id, "Hello").stdout


def test_a_model_named_late_is_taken(
    provider: Provider, backend: OpenAIBackend, home: Path, train_file: Path
) -> None:
    """If the name comes after all, result() takes it from the host."""
    provider.world.extra = {"fine_tuned_model": None, "finished_at": int(time.time()) - 3600}
    job = submitted(backend, train_file)
    with no_crash():
        job.wait(timeout=3)
    provider.world.extra = {}
    assert job.result().model == provider.world.model_name(provider.jobs[0])


def test_the_wait_for_a_model_is_bounded_without_a_time_of_the_host(
    provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """Without finished_at the cursor keeps since when; another process goes on from there."""
    provider.world.extra = {"fine_tuned_model": None, "finished_at": None}
    provider_id = begin(backend, file)
    provider.world.jobs[provider_id]["stage"] = 9
    shot = backend.poll(provider_id, None)
    assert (shot.status, shot.phase) == (JobStatus.RUNNING, "waiting for the model id")
    event, _, since = (shot.cursor or "").rpartition("=")
    assert since.isdigit()
    again = backend.poll(provider_id, f"{event}={int(since) - 600}")
    assert again.status is JobStatus.SUCCEEDED and again.result is None
    assert [event.id for event in again.events] == ["ftg-note-model"]


def test_an_unknown_end_ends_the_wait(
    provider: Provider, backend: OpenAIBackend, home: Path, train_file: Path, ftg: Ftg
) -> None:
    """A word we do not know is kept and shown, never final; with finished_at the wait is over."""
    provider.world.extra = {"status": "expired\x1b[2J", "finished_at": None}
    job = submitted(backend, train_file)
    with pytest.raises(JobNotFinished, match="still validating_files"):
        job.wait(timeout=0.2)
    provider.world.extra["finished_at"] = int(time.time())
    with pytest.raises(JobNotFinished, match="as 'expired") as caught:
        job.wait(timeout=5)
    assert "\x1b" not in str(caught.value) and str(job.provider_id) in caught.value.hint
    assert not job.status.final
    assert "expired\\u001b" in in_reach(ftg, job)
    provider.world.extra = {}
    provider.world.jobs[job.provider_id or ""]["stage"] = 9
    assert job.wait(timeout=5).status is JobStatus.SUCCEEDED


# The last line of defence, and what people give


def test_names_of_files_steer_nothing(ftg: Ftg, train_file: Path) -> None:
    """A name with escapes or without text can be validated, submitted and listed."""
    for name in ("a\u202e\x1b[2J.jsonl", "b\udcff.jsonl"):
        path = train_file.with_name(name)
        path.write_text(train_file.read_text().replace("0", name[0]))
        text = ftg("validate", str(path)).stdout
        done = ftg("submit", str(path), "--model", "m", "--backend", "fake")
        assert done.returncode == 0, done
        text += done.stdout + done.stderr + ftg("list").stdout + ftg("status", "latest").stdout
        assert "\x1b" not in text and "\u202e" not in text


def test_the_store_takes_any_snapshot(
    provider: Provider, backend: OpenAIBackend, home: Path, train_file: Path, ftg: Ftg
) -> None:
    """A plug-in's snapshot may hold what SQLite and JSON cannot; the job stays in reach."""
    job = submitted(backend, train_file)
    loss = {"step": 1, "train_loss": float("nan"), "valid_loss": "x", "n": 2**70, HALF: HALF}
    wrong = Snapshot(
        status=JobStatus.RUNNING,
        raw_status=HALF,
        phase=HALF,
        error=HALF,
        trained_tokens=2**70,
        finished_at=float("inf"),
        events=[Event(id=HALF, created_at=float("nan"), type="metrics", message=HALF, data=loss)],
        checkpoints=[{"id": "c", "step": 2**70, "model": HALF}],  # type: ignore[list-item]  # as a plug-in may
    )
    store = Store(Gateway().settings)
    with no_crash():
        store.apply(job.id, wrong, None)
        store.set_phase(job.id, HALF)
    text = in_reach(ftg, job)
    assert "half \\ud83d of it" in text


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -1, "5", True, 10**400])
@pytest.mark.parametrize("name", ["request_timeout", "settle_seconds", "poll_seconds"])
def test_no_clock_waits_for_ever(name: str, value: Any) -> None:
    """Seconds are finite numbers."""
    with pytest.raises(SpecError, match=name):
        OpenAIBackend(base_url="http://127.0.0.1:9/v1", **{name: value})


def test_a_time_out_of_no_seconds_is_refused() -> None:
    """Each create was in doubt. No pause between polls is one that a test may want."""
    with pytest.raises(SpecError, match="request_timeout cannot be 0"):
        OpenAIBackend(request_timeout=0)
    assert OpenAIBackend(poll_seconds=0, settle_seconds=0).poll_seconds == 0


@pytest.mark.parametrize("host", ["a..b", "x" * 64, "["])
def test_an_address_that_cannot_be_looked_up_is_refused(host: str) -> None:
    """In words, before any request: sockets end in a UnicodeError there."""
    with no_crash(), pytest.raises(SpecError, match="is not a URL"):
        OpenAIBackend(base_url=f"http://{host}/v1")


@pytest.mark.parametrize("name", ["base_url", "api_key", "api_key_env", "profile"])
def test_settings_of_a_host_are_text(name: str) -> None:
    """Refused by name, without the value."""
    wrong: list[Any] = [7, ["sk-secret"], {"a": "sk-secret"}]
    for value in wrong:
        with no_crash(), pytest.raises(SpecError, match=f"{name} must be text") as caught:
            OpenAIBackend(**{name: value})
        assert "sk-secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["request_timeout", "poll_seconds"])
def test_a_time_that_is_needed_is_given(name: str) -> None:
    """None ended in a TypeError later."""
    none: Any = {name: None}
    with no_crash(), pytest.raises(SpecError, match=name):
        OpenAIBackend(**none)


def test_settings_are_finite_and_text() -> None:
    """inf, nan and bytes that are no text are refused in words."""
    endless: list[dict[str, Any]] = [
        {"weight_decay": float("inf")},
        {"learning_rate_multiplier": float("nan")},
    ]
    for options in endless:
        with pytest.raises(SpecError):
            TrainingSpec.build(model=MODEL, **options)
    with pytest.raises(SpecError, match="no text in UTF-8"):
        TrainingSpec.build(model=MODEL, lr_scheduler_type="m\udcff")
