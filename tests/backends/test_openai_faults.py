"""The hosted backend against a provider with faults: one create, no lost job, no leaked key."""

from __future__ import annotations

import dataclasses
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
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
    sent,
    wait_for,
)
from support.provider import CREATE, Provider, Recorder

from finetune_gateway import registry
from finetune_gateway.backend import JOB_TAG, DataFile
from finetune_gateway.backends.openai import finding
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import AuthenticationError, BackendError
from finetune_gateway.events import JobStatus


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


# One create, whatever happens

CREATES = [
    # fault, settings, may the job exist?, does it?, retryable
    ("refuse", {}, True, False, True),
    ("error_after", {}, True, True, True),
    ("reset_before", {}, True, False, True),
    ("reset_after", {}, True, True, True),
    ("late", {"seconds": 1.0}, True, True, True),
    ("slow", {"seconds": 1.0}, True, True, True),
    ("truncated", {}, True, True, True),
    ("html_ok", {}, True, True, True),
    ("html", {}, True, False, True),
    ("body", {"body": {"error": {"message": "odd"}}}, True, False, True),
    ("body", {"body": [1, 2]}, True, False, True),
    ("body", {"body": None}, True, False, True),
    ("body", {"body": {"id": 7}}, True, False, True),
    ("status", {"status": 400}, False, False, False),
    ("status", {"status": 401}, False, False, False),
    ("status", {"status": 403}, False, False, False),
    ("status", {"status": 404}, False, False, False),
    ("status", {"status": 408}, True, False, True),
    ("status", {"status": 409}, True, False, True),
    ("status", {"status": 413}, False, False, False),
    ("status", {"status": 422}, False, False, False),
    ("status", {"status": 429, "headers": {"Retry-After": "30"}}, False, False, True),
    ("status", {"status": 429, "code": "insufficient_quota"}, False, False, False),
    ("redirect", {"location": "http://localhost:9/v1"}, False, False, False),
]


@pytest.mark.parametrize(("kind", "settings", "doubt", "exists", "retryable"), CREATES)
def test_create_is_sent_once(
    provider: Provider,
    file: DataFile,
    kind: str,
    settings: dict[str, Any],
    doubt: bool,
    exists: bool,
    retryable: bool,
) -> None:
    """Under every fault there is one POST, and ``maybe_applied`` is true where it must be."""
    backend = connect(provider, request_timeout=0.5)
    train = sent(backend, file)
    provider.fault(CREATE, kind, **settings)
    with pytest.raises(BackendError) as caught:
        backend.start("job-1", SPEC, train, None)
    error = caught.value
    assert provider.posts["/fine_tuning/jobs"] == 1
    assert (error.maybe_applied, error.retryable) == (doubt, retryable), str(error)
    assert error.hint and provider.api_key not in str(error) and "<html" not in str(error)
    assert error.__cause__ is None and error.__context__ is None  # it holds the request
    if exists:
        assert wait_for(lambda: backend.find(intent("job-1"))) == provider.jobs[0]["id"]
    else:
        assert backend.find(intent("job-1")) is None and not provider.jobs


def test_never_sent_is_not_doubtful(file: DataFile) -> None:
    """A refused connection and an unknown host applied nothing, and the error names the host."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    for url in (f"http://127.0.0.1:{port}/v1", "http://no-such-host.invalid/v1"):
        backend = OpenAIBackend(base_url=url, api_key="sk-test-123456", allow_http=True)
        with pytest.raises(BackendError, match="Could not reach") as caught:
            backend.start("job-1", SPEC, dataclasses.replace(file, remote_id="file-1"), None)
        assert not caught.value.maybe_applied and caught.value.retryable
        assert url.split("/")[2] in str(caught.value)


def test_a_refusal_carries_the_hosts_words(provider: Provider, backend: OpenAIBackend) -> None:
    """A 400 says what the host said and which field it meant."""
    ghost = DataFile(Path("x"), "0" * 64, 1, 1, remote_id="file-gone")
    with pytest.raises(BackendError) as caught:
        backend.start("job-1", SPEC, ghost, None)
    assert "invalid training_file: file-gone (field training_file)" in str(caught.value)
    assert not caught.value.maybe_applied


def test_a_closed_platform_says_what_to_do(
    provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """403 training_not_available names the other hosts and the own GPU."""
    train = sent(backend, file)
    provider.fault(CREATE, "status", status=403, code="training_not_available", message="No.")
    with pytest.raises(AuthenticationError) as caught:
        backend.start("job-1", SPEC, train, None)
    text = str(caught.value)
    assert "can no longer create" in text and "--backend local" in text and "base_url" in text


def test_a_long_retry_after_does_not_block(
    provider: Provider, backend: OpenAIBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poll that is asked to wait a minute sends one request, sleeps not at all and says so."""
    provider.fault(RETRIEVE, "status", status=429, headers={"Retry-After": "60"})
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    with pytest.raises(BackendError, match="asks to wait 60 s") as caught:
        backend.poll("ftjob-1", None)
    assert caught.value.retryable and sleeps == [] and len(provider.requests) == 1


@pytest.mark.parametrize("wait", ["\u00b2", "9" * 5000, "-1", "1e9", "soon"])
def test_an_odd_retry_after_gets_no_retry(
    provider: Provider, backend: OpenAIBackend, wait: str
) -> None:
    """What is no number of seconds is an error of ours, not of Python's."""
    provider.fault(RETRIEVE, "status", status=429, headers={"Retry-After": wait})
    with pytest.raises(BackendError):
        backend.poll("ftjob-1", None)
    assert len(provider.requests) == 1


def test_reads_ride_out_a_short_fault(
    provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """One 503 and one reset on a read are retried below the surface."""
    provider_id = begin(backend, file)
    provider.fault(RETRIEVE, "refuse")
    provider.fault(EVENTS, "reset_before")
    assert backend.poll(provider_id, None).status is JobStatus.VALIDATING_FILES


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_reads_are_repeated_after_a_passing_refusal(
    status: int, provider: Provider, backend: OpenAIBackend, file: DataFile
) -> None:
    """The statuses that OpenAI's SDK repeats."""
    provider_id = begin(backend, file)
    provider.fault(RETRIEVE, "status", status=status)
    assert backend.poll(provider_id, None).status is JobStatus.VALIDATING_FILES


# Looking for what may exist


@pytest.mark.parametrize("honours_filter", [True, False])
def test_find(file: DataFile, honours_filter: bool) -> None:
    """The right job is found among 150 others, whether or not the host filters by metadata."""
    with Provider(honours_filter=honours_filter) as provider:
        backend = connect(provider)
        train = sent(backend, file)
        mine = backend.start("mine", SPEC, train, None)
        for number in range(150):
            provider.world.create({"model": MODEL, "training_file": train.remote_id})
            provider.jobs[-1]["request"]["metadata"] = {JOB_TAG: f"other-{number}"}
        assert backend.find(intent("mine")) == mine
        assert backend.find(intent("nobody")) is None


def test_a_host_that_ignores_after_does_not_hang(file: DataFile) -> None:
    """has_more for ever and ``after`` ignored: every list still ends, and is no proof."""
    with Provider(honours_after=False, honours_filter=False) as provider:
        backend = connect(provider)
        provider_id = begin(backend, file)
        with pytest.raises(BackendError, match="ftg settle nobody"):
            backend.find(intent("nobody"))
        assert backend.poll(provider_id, None).events
        stranger = dataclasses.replace(file, sha256="f" * 64)
        assert backend.find_upload(stranger) is None
        assert len(provider.requests) < 20


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("file-1", True),
        ("https://host/v1/files/file-1/content", True),
        ("azureml://data/file-1.jsonl?sv=2", True),
        ("file-12", False),
        ("my-file-1", False),
        ("https://host/v1/files/file-1_b", False),
    ],
)
def test_a_file_is_told_by_its_whole_id(name: str, found: bool) -> None:
    """Alone, or in an address; an id may be the beginning or the end of another one."""
    assert bool(finding.with_file([{"training_file": name}], ["file-1"])) is found


def test_a_host_without_metadata_is_not_trusted(file: DataFile) -> None:
    """Where jobs carry no metadata, their files tell; without these, it is an error."""
    with Provider(keeps_metadata=False, honours_filter=False) as provider:
        backend = connect(provider)
        train = sent(backend, file)
        mine = backend.start("job-1", SPEC, train, None)
        assert backend.find(intent("job-1", train)) == mine
        assert backend.find(intent("job-2", train, others=frozenset({mine}))) is None
        other = str(train.remote_id)[:-1]  # the beginning of the other one's id
        assert backend.find(intent("job-2", dataclasses.replace(train, remote_id=other))) is None
        provider.world.hides = ("training_file",)
        with pytest.raises(BackendError, match="cannot tell") as caught:
            backend.find(intent("job-1", train))
        assert caught.value.maybe_applied and caught.value.code == "not_settled"


@pytest.mark.parametrize("fault", [{"status": 401}, {"status": 404}, {"status": 400}])
def test_a_failed_look_leaves_the_doubt(
    provider: Provider, backend: OpenAIBackend, fault: dict[str, Any]
) -> None:
    """When the list cannot be read, the job may still exist, whatever the status."""
    provider.fault(LIST, "status", "status", **fault)  # by our tag, and all
    with pytest.raises(BackendError) as caught:
        backend.find(intent("job-1"))
    assert caught.value.maybe_applied


def test_a_look_without_a_key_leaves_the_doubt(provider: Provider) -> None:
    """A missing key does not prove that there is no job."""
    with pytest.raises(AuthenticationError) as caught:
        OpenAIBackend(base_url=provider.url).find(intent("job-1"))
    assert caught.value.maybe_applied


def test_list_lag(file: DataFile) -> None:
    """A new job may be missing from the lists for a while; then it is there."""
    with Provider(list_lag=0.5) as provider:
        backend = connect(provider)
        provider_id = begin(backend, file)
        assert backend.find(intent("job-1")) is None
        assert wait_for(lambda: backend.find(intent("job-1"))) == provider_id


# The key


def test_a_wrong_key(provider: Provider) -> None:
    """401 is an authentication error, and the key the host echoes is taken out."""
    backend = connect(provider, api_key="wrong-key-abcdefgh12345678")
    echo = "Incorrect API key: wrong-key-abcdefgh12345678, Bearer abc, sk-proj-abcd****wxyz."
    provider.fault(RETRIEVE, "status", status=401, message=echo)
    with pytest.raises(AuthenticationError) as caught:
        backend.poll("ftjob-1", None)
    text = str(caught.value)
    assert caught.value.exit_code == 5 and "Incorrect API key" in text
    assert not any(part in text for part in ("abcdefgh", "Bearer abc", "wxyz"))


def test_the_key_is_in_no_text(provider: Provider, backend: OpenAIBackend) -> None:
    """repr, options and handle hold the name of the variable, never the key."""
    backend.find(intent("job-1"))
    shown = repr(backend) + json.dumps(backend.options()) + str(vars(backend.open(handle_of("m"))))
    assert provider.api_key not in shown
    again = registry.load("openai", backend.options())
    assert again.options() == backend.options()


def test_a_missing_key_is_named() -> None:
    """Building needs no key; checking does, and the error names the variable."""
    backend = OpenAIBackend(base_url="http://127.0.0.1:9/v1", api_key_env="MY_KEY")
    with pytest.raises(AuthenticationError, match="MY_KEY is not set") as caught:
        backend.check(SPEC)
    assert not caught.value.maybe_applied and "export MY_KEY" in caught.value.hint


@pytest.mark.parametrize("key", ["sk-a b", "sk-\u00e9", "sk-a\nb"])
def test_a_malformed_key_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """A key that cannot be a header is told apart from a wrong one, and is not shown."""
    monkeypatch.setenv("MY_KEY", key)
    backend = OpenAIBackend(base_url="http://127.0.0.1:9/v1", api_key_env="MY_KEY")
    with pytest.raises(AuthenticationError, match="MY_KEY has spaces") as caught:
        backend.check(SPEC)
    assert key not in str(caught.value)


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address alone gets no OPENAI_API_KEY, unless it is OpenAI's or that of OPENAI_BASE_URL."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-real-123456")
    with pytest.raises(AuthenticationError, match="is not sent to evil.example"):
        OpenAIBackend(base_url="https://evil.example/v1").check(SPEC)
    OpenAIBackend(base_url="https://eu.api.openai.com/v1").check(SPEC)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://proxy.example/v1")
    OpenAIBackend().check(SPEC)
    with pytest.raises(AuthenticationError):
        OpenAIBackend(base_url="https://proxy.example.evil.example/v1").check(SPEC)


@pytest.mark.parametrize(
    "endpoint", [CREATE, LIST, RETRIEVE, "POST /files", "GET /files", "POST /chat/completions"]
)
def test_a_redirect_leaks_nothing(provider: Provider, file: DataFile, endpoint: str) -> None:
    """No request follows a redirect to another origin, with or without the key."""
    with Recorder() as stranger:
        backend = connect(provider)
        train = dataclasses.replace(file, remote_id="file-1")
        provider.fault(endpoint, "redirect", location=f"{stranger.url}/anything")
        calls: dict[str, Callable[[], Any]] = {
            CREATE: lambda: backend.start("job-1", SPEC, train, None),
            LIST: lambda: backend.find(intent("job-1")),
            RETRIEVE: lambda: backend.poll("ftjob-1", None),
            "POST /files": lambda: backend.upload(file),
            "GET /files": lambda: backend.find_upload(file),
            "POST /chat/completions": lambda: backend.open(handle_of(MODEL)).chat(
                [{"role": "user", "content": "x"}]
            ),
        }
        with pytest.raises(BackendError, match="redirects to 'localhost"):
            calls[endpoint]()
        assert stranger.seen == []


def test_the_organisation_is_openais_business(
    provider: Provider, file: DataFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OPENAI_ORG_ID and OPENAI_PROJECT_ID are not told to another host."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org-secret")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-secret")
    backend = connect(provider)
    backend.find(intent("job-1"))
    backend.poll(begin(backend, file), None)
    assert "secret" not in str(provider.requests)
    assert "authorization" in provider.requests[0][2]
