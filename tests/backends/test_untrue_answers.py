"""Answers that are in form and not true, or not an answer at all: none is believed."""

from __future__ import annotations

import shutil
from decimal import Decimal
from pathlib import Path

import pytest
from support.hosted import MODEL, RETRIEVE, SPEC, begin, connect, data_file, poll_until, sent
from support.provider import CREATE, Provider

from finetune_gateway import AuthenticationError, BackendError, Gateway, JobStatus
from finetune_gateway.backends.openai.request import file_name

CANCEL, RESUME = "POST /fine_tuning/jobs/*/cancel", "POST /fine_tuning/jobs/*/resume"
PAGE = b"<html>Welcome to the portal</html>"


@pytest.mark.parametrize("body", [PAGE, b'{"id": "ftjob-other"}'])
def test_a_page_is_no_cancel(home: Path, train_file: Path, body: bytes) -> None:
    """A page of a portal with 200, or another job: an error, and the job is not cancelling."""
    with Provider(pace=100) as provider:
        job = Gateway().submit(train_file, model=MODEL, backend=connect(provider))
        provider.fault(CANCEL, "body", body=body)
        try:
            refusal = job.cancel().error
        except BackendError as exc:
            refusal = str(exc)
        assert "answer in OpenAI's format to cancel the job" in (refusal or "")
        assert job.reload().status is JobStatus.VALIDATING_FILES
        assert job.cancel().status is JobStatus.CANCELLED


def test_a_page_is_no_resume(tmp_path: Path) -> None:
    """The job is still paused. A job that goes on, whatever was answered, is no error."""
    with Provider() as provider:
        hosted = connect(provider)
        job = begin(hosted, data_file(tmp_path / "train.jsonl"))
        poll_until(hosted, job, JobStatus.RUNNING)
        provider.world.pause(job)
        provider.fault(RESUME, "body", body=PAGE)
        refusal = ""
        try:
            hosted.resume(job, 1)
        except BackendError as exc:
            refusal = exc.message
        assert "answer in OpenAI's format to resume the job" in refusal
        provider.fault(RESUME, "html_ok")
        hosted.resume(job, 1)
        assert hosted.poll(job, None).status is JobStatus.RUNNING
        assert RETRIEVE not in provider.faults


def test_a_cancel_is_known_by_what_the_job_is(tmp_path: Path) -> None:
    """A page in place of the answer to a cancel that was taken is no error either."""
    with Provider(pace=100) as provider:
        hosted = connect(provider)
        job = begin(hosted, data_file(tmp_path / "train.jsonl"))
        provider.fault(CANCEL, "html_ok")
        hosted.cancel(job)
        assert provider.world.status(provider.jobs[0]) == "cancelled"


@pytest.mark.parametrize("way", ["full", "long"])
def test_what_a_host_keeps_is_no_error_of_a_job(home: Path, train_file: Path, way: str) -> None:
    """A folder that cannot be written when the answer of a create comes, or an address that is
    longer than the name of a file may be: the job was bought, so its id is kept."""
    with Provider(pace=100) as provider:
        prefix = f"/{'x' * 260}" if way == "long" else ""
        host = provider.url.replace("/v1", f"{prefix}/v1")
        serve_below(provider, prefix)
        gateway = Gateway()
        shutil.rmtree(home / "hosts", ignore_errors=True)
        if way == "full":
            home.mkdir(exist_ok=True)
            (home / "hosts").write_text("")  # where a folder should be
        hosted = connect(provider, base_url=host)
        try:
            gateway.submit(train_file, model=MODEL, backend=hosted)
        except OSError as exc:
            print(exc)
        [job] = gateway.jobs()
        assert job.provider_id == provider.jobs[0]["id"]
        hosted.bind(gateway.settings)
        assert hosted.poll(job.provider_id or "", None).status is JobStatus.VALIDATING_FILES


def serve_below(provider: Provider, prefix: str) -> None:
    """Answer at addresses that begin with this, too."""
    handler = provider.server.RequestHandlerClass
    parse = handler.parse_request  # type: ignore[attr-defined]

    def parse_request(self: object) -> bool:
        fine: bool = parse(self)
        self.path = getattr(self, "path", "").removeprefix(prefix)  # type: ignore[attr-defined]
        return fine

    handler.parse_request = parse_request  # type: ignore[attr-defined]


def test_half_an_upload_is_not_taken_for_the_file(home: Path, train_file: Path) -> None:
    """The host keeps what had come before the connection broke, under our name: the job trains on
    the whole file, which is sent anew."""
    with Provider() as provider:
        add = provider.world.add_file

        def add_half(purpose: str, name: str, content: bytes, *rest: object) -> dict[str, object]:
            provider.world.add_file = add  # type: ignore[method-assign]
            return add(purpose, name, content[: len(content) // 2])

        provider.world.add_file = add_half  # type: ignore[assignment,method-assign]
        provider.fault("POST /files", "reset_after")
        options = {"settle_seconds": 0.0, "poll_seconds": 0.02}
        job = Gateway().submit(train_file, model=MODEL, backend=connect(provider, **options))
        job.wait(10)
        held = provider.world.files[provider.jobs[0]["request"]["training_file"]]
        assert held["bytes"] == job.record.train.bytes and len(provider.world.files) == 2


@pytest.mark.parametrize(
    ("extra", "found"),
    [({}, True), ({"bytes": None}, True), ({"bytes": 1}, False), ({"status": "error"}, False)],
)
def test_an_upload_is_known_by_its_size(
    tmp_path: Path, extra: dict[str, object], found: bool
) -> None:
    """A host that shows no size is believed; so is one that counts the byte order mark."""
    with Provider() as provider:
        file = data_file(tmp_path / "train.jsonl")
        content = b"\xef\xbb\xbf" + file.path.read_bytes()
        there = provider.world.add_file("fine-tune", file_name(file), content)
        provider.world.files[there["id"]] |= extra
        assert (connect(provider).find_upload(file) == there["id"]) is found


@pytest.mark.parametrize(("tokens", "believed"), [(0, False), (10**15, False), (3000, True)])
def test_tokens_that_cannot_be_are_not_billed(
    home: Path, train_file: Path, tokens: int, believed: bool
) -> None:
    """A success on no token is not free, and one on 10^15 does not empty the month: such a job
    counts with its high estimate, as one does whose tokens were not reported."""
    with Provider() as provider:
        provider.world.extra = {"trained_tokens": tokens}
        hosted = connect(provider, profile="openai", poll_seconds=0.02)
        gateway = Gateway()
        job = gateway.submit(train_file, model=MODEL, backend=hosted, train_price=5.0, n_epochs=3)
        job.wait(10)
        assert job.actual is not None and job.record.estimate is not None
        cost, high = job.actual.cost_usd, Decimal(job.record.estimate["cost_usd"]["high"])
        assert (cost is not None, job.actual.trained_tokens) == (
            believed,
            tokens if believed else None,
        )
        assert gateway.budget().spent_usd == (cost if believed else high)
        assert believed or f"reported {tokens:,} trained tokens, which" in job.actual.basis


@pytest.mark.parametrize(
    ("status", "code", "headers"),
    [
        (425, None, {}),
        (420, None, {}),
        (403, "rate_limit_exceeded", {}),
        (400, "rate_limit_exceeded", {}),
        (403, None, {"Retry-After": "2"}),
    ],
)
def test_too_many_requests_in_other_numbers(
    tmp_path: Path, status: int, code: str | None, headers: dict[str, str]
) -> None:
    """Such a create is turned away, not refused: it can be sent again, and is not there."""
    error = refused(tmp_path, "status", status, code, headers)
    assert (error.retryable, error.maybe_applied) == (True, False)
    assert not isinstance(error, AuthenticationError)


@pytest.mark.parametrize(("status", "doubt"), [(303, True), (307, False)])
def test_see_other_is_a_doubt(tmp_path: Path, status: int, doubt: bool) -> None:
    """A 303 is the answer to a request that was taken; a 307 passes it on to where we do not go."""
    error = refused(tmp_path, "refused_after", status, None, {"Location": "/v1/elsewhere"})
    assert error.maybe_applied is doubt


@pytest.mark.parametrize("code", ["insufficient_quota", None])
def test_a_refusal_stays_one(tmp_path: Path, code: str | None) -> None:
    """Without a word of too many requests, or where a wait does not help."""
    headers = {"Retry-After": "2"} if code else {}
    assert not refused(tmp_path, "status", 403, code, headers).retryable


def refused(
    tmp_path: Path, kind: str, status: int, code: str | None, headers: dict[str, str]
) -> BackendError:
    with Provider() as provider:
        hosted = connect(provider)
        file = sent(hosted, data_file(tmp_path / "train.jsonl"))
        provider.fault(CREATE, kind, status=status, code=code, headers=headers)
        with pytest.raises(BackendError) as caught:
            hosted.start("job-1", SPEC, file, None)
        return caught.value
