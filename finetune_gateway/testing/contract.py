"""The tests that every backend passes, as one class."""

from __future__ import annotations

import dataclasses
import json
import secrets
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from finetune_gateway.backend import (
    Backend,
    BackendError,
    DataFile,
    Dataset,
    Estimate,
    HandleData,
    Intent,
    JobStatus,
    Result,
    Settings,
    Snapshot,
    SpecError,
    TrainingSpec,
    UnsupportedError,
)
from finetune_gateway.errors import GatewayError
from finetune_gateway.events import later
from finetune_gateway.methods import METHODS
from finetune_gateway.testing.conduct import ConductContract
from finetune_gateway.testing.finished_job import FinishedJob, data_file

Intents = Callable[..., Intent]


class BackendContract(ConductContract):
    """The contract of ``Backend`` as tests. Subclass it and say how the backend is made::

        from finetune_gateway.testing import BackendContract

        class TestAcme(BackendContract):
            @pytest.fixture(scope="class")
            @classmethod
            def backend(cls, settings):
                backend = AcmeBackend(region="eu")
                backend.bind(settings)
                return backend

    Fixtures to override (all of class scope, so that one job serves most tests):

    ==================  ====================================================================
    ``backend``         required: a backend that can run a job, bound to ``settings``
    ``keyless``         the same backend where no key is set (default: ``backend``)
    ``spec``            what to train (default: the model ``any-model``)
    ``refused_spec``    a spec that ``check`` refuses (default: none, the test is skipped)
    ``rows``            rows of the training file (default: 12 chat rows)
    ``secret``          the key in use, which must appear nowhere (default: none)
    ==================  ====================================================================

    ``ends_at_once``: set it to True if a job has ended when ``start`` returns, so that none can be
    cancelled. ``seconds``: the longest a job may take. ``advance`` is called between polls; it
    waits a moment, and may do what brings a test server forward.
    """

    ends_at_once = False
    seconds = 120.0

    # -- what a subclass overrides -------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, settings: Settings) -> Backend:
        """Return a backend that can run a job."""
        pytest.fail("A subclass of BackendContract overrides the fixture 'backend'.")

    @pytest.fixture(scope="class")
    @classmethod
    def keyless(cls, backend: Backend) -> Backend:
        """Return the backend as it is where no key is set."""
        return backend

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> TrainingSpec:
        """Return a spec that the backend can run."""
        return TrainingSpec(model="any-model")

    @pytest.fixture(scope="class")
    @classmethod
    def refused_spec(cls) -> TrainingSpec | None:
        """Return a spec that ``check`` refuses, or None if it refuses nothing."""
        return None

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls) -> list[dict[str, Any]]:
        """Return the rows of the training file."""
        return [
            {
                "messages": [
                    {"role": "user", "content": f"Where is parcel number {number}?"},
                    {"role": "assistant", "content": f"Parcel {number} comes on day {number % 7}."},
                ]
            }
            for number in range(12)
        ]

    @pytest.fixture(scope="class")
    @classmethod
    def secret(cls) -> str:
        """Return the key that the backend uses; empty if it needs none."""
        return ""

    @classmethod
    def advance(cls, backend: Backend) -> None:
        """Wait between two polls."""
        time.sleep(min(0.2, backend.capabilities().poll_seconds[0]))

    # -- what the tests share ------------------------------------------------------------

    @pytest.fixture(scope="class")
    @classmethod
    def settings(cls, tmp_path_factory: pytest.TempPathFactory) -> Settings:
        """Return a home folder of its own."""
        return Settings(home=tmp_path_factory.mktemp("home")).create()

    @pytest.fixture(scope="class")
    @classmethod
    def train(
        cls, rows: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
    ) -> DataFile:
        """Return the training file."""
        path = tmp_path_factory.mktemp("data") / "train.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return data_file(path, len(rows))

    @pytest.fixture(scope="class")
    @classmethod
    def finished(cls, backend: Backend, spec: TrainingSpec, train: DataFile) -> FinishedJob:
        """Run one job to its end and return what its polls returned."""
        return cls._run(backend, spec, train)

    @pytest.fixture(scope="class")
    @classmethod
    def second(
        cls, backend: Backend, spec: TrainingSpec, train: DataFile, finished: FinishedJob
    ) -> tuple[str, str]:
        """Start another job and cancel it at once; return our id, which begins with that of the
        first job, and the provider's."""
        job_id = f"{finished.job_id}2"
        provider_id = cls._start(backend, job_id, spec, train)
        if not cls.ends_at_once:
            backend.cancel(provider_id)
            backend.cancel(provider_id)
        return job_id, provider_id

    @pytest.fixture(scope="class")
    @classmethod
    def intent_of(
        cls, backend: Backend, spec: TrainingSpec, train: DataFile, finished: FinishedJob
    ) -> Intents:
        """Return what makes the intent of a job, by our id, from the file that was sent."""
        sent = dataclasses.replace(train, remote_id=backend.find_upload(train))
        return partial(Intent, spec=spec, train=sent)

    @pytest.fixture
    def offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let every connection fail."""

        def refuse(*_: object, **__: object) -> NoReturn:
            pytest.fail("This call must work without a network.")

        for name in ("connect", "connect_ex"):
            monkeypatch.setattr(socket.socket, name, refuse)
        monkeypatch.setattr(socket, "getaddrinfo", refuse)

    @classmethod
    def _run(cls, backend: Backend, spec: TrainingSpec, train: DataFile) -> FinishedJob:
        """Run a job with an id that no earlier run of these tests has sent to the host."""
        refused = None
        try:
            backend.check_model(spec)
            backend.check(spec)
        except GatewayError as exc:
            refused = (
                f"{backend.name} refuses what these tests are to train, {spec.model!r}: {exc} "
                "Override the fixture 'spec' with one that it accepts."
            )
        if refused is not None:
            pytest.fail(refused, pytrace=False)
        job_id = f"ftg-{secrets.token_hex(4)}1"
        return cls._follow(backend, job_id, cls._start(backend, job_id, spec, train))

    @classmethod
    def _start(cls, backend: Backend, job_id: str, spec: TrainingSpec, train: DataFile) -> str:
        sent = dataclasses.replace(train, remote_id=backend.upload(train))
        return backend.start(job_id, spec, sent, None)

    @classmethod
    def _follow(cls, backend: Backend, job_id: str, provider_id: str) -> FinishedJob:
        """Poll until the job has ended, each time from where the last poll stopped."""
        polls: list[tuple[str | None, Snapshot]] = []
        cursor: str | None = None
        deadline = time.monotonic() + cls.seconds
        while not polls or not polls[-1][1].status.final:
            assert time.monotonic() < deadline, f"Not ended after {cls.seconds:g} s: {polls[-1:]}"
            if polls:
                cls.advance(backend)
            polls.append((cursor, backend.poll(provider_id, cursor)))
            cursor = polls[-1][1].cursor
        return FinishedJob(job_id, provider_id, polls)

    def _rebuild(self, backend: Backend, settings: Settings) -> Backend:
        """Return the backend as another process builds it from the stored options."""
        rebuilt = type(backend)(**json.loads(json.dumps(backend.options())))
        rebuilt.bind(settings)
        return rebuilt

    def _handle(self, backend: Backend, spec: TrainingSpec, result: Result) -> HandleData:
        return HandleData(
            **result.model_dump(
                include=HandleData.model_fields.keys() & Result.model_fields.keys()
            ),
            base_model=spec.model,
            backend=backend.name,
            backend_options=backend.options(),
        )

    # -- before anything is sent ---------------------------------------------------------

    @pytest.mark.usefixtures("offline")
    def test_capabilities_need_no_key_and_no_network(
        self, keyless: Backend, spec: TrainingSpec
    ) -> None:
        """Capabilities are the same each time, and allow the spec."""
        assert keyless.name and keyless.display_name
        assert keyless.capabilities() == keyless.capabilities()
        capabilities = keyless.capabilities(spec.model)
        capabilities.require(keyless.name, spec)
        first, longest = capabilities.poll_seconds
        assert 0 < first <= longest
        assert capabilities.settle_seconds >= 0

    def test_a_method_it_lacks_is_refused(self, backend: Backend, spec: TrainingSpec) -> None:
        """The error names the backend and the setting."""
        capabilities = backend.capabilities()
        lacking = sorted(METHODS.keys() - capabilities.methods - capabilities.priced)
        if not lacking:
            pytest.skip("it has every method")
        given: dict[str, Any] = {"model": spec.model, "method": lacking[0]}
        other = TrainingSpec.build(**given)
        with pytest.raises(UnsupportedError, match=backend.name) as error:
            capabilities.require(backend.name, other)
        assert error.value.option == "method"

    @pytest.mark.usefixtures("offline")
    def test_counter_counts_offline(
        self, keyless: Backend, spec: TrainingSpec, train: DataFile, rows: list[dict[str, Any]]
    ) -> None:
        """Every row has tokens, and some of them are trained."""
        counter = keyless.counter(spec)
        for row in rows:
            counter.add(row)
        stats = counter.stats()
        assert stats.rows == len(rows)
        assert 0 < stats.trained <= stats.total
        assert counter.fresh().stats().rows == 0

    @pytest.mark.usefixtures("offline")
    def test_estimate_is_offline_and_json(
        self, keyless: Backend, spec: TrainingSpec, train: DataFile
    ) -> None:
        """An estimate survives JSON, and says whether the data leave this machine."""
        counter = keyless.counter(spec)
        for row in Dataset(train.path).rows():
            counter.add(row.data)
        estimate = keyless.estimate(spec, counter.stats())
        document = estimate.model_dump_json()
        assert Estimate.model_validate_json(document).model_dump_json() == document
        assert estimate.model == spec.model
        assert estimate.data_leaves_machine == keyless.capabilities().hosted
        if cost := estimate.cost_usd:
            assert 0 <= cost.low <= cost.expected <= cost.high

    def test_check_refuses_in_words(
        self, backend: Backend, refused_spec: TrainingSpec | None
    ) -> None:
        """The error is one of ours, and its message a sentence."""
        if refused_spec is None:
            pytest.skip("it refuses nothing")
        with pytest.raises(GatewayError) as error:
            backend.check(refused_spec)
        assert " " in error.value.message

    # -- options -------------------------------------------------------------------------

    def test_options_build_an_equal_backend(self, backend: Backend, settings: Settings) -> None:
        """Options are plain JSON, enough for another process."""
        rebuilt = self._rebuild(backend, settings)
        assert rebuilt.options() == backend.options()
        assert (rebuilt.identity(), rebuilt.account()) == (backend.identity(), backend.account())
        assert rebuilt.display_name == backend.display_name

    def test_whose_it_is_never_changes(self, backend: Backend) -> None:
        """Identity, place and account are the same each time: with another one each equal submit
        would be bought again, and no job would be its own."""
        for name in ("identity", "place", "account"):
            ask = getattr(backend, name)
            assert ask() == ask(), f"{name}() differs from call to call"

    def test_options_hold_no_secret(self, backend: Backend, secret: str) -> None:
        """Options, identity, account and repr hold no key: all of them are stored or shown."""
        if not secret:
            pytest.skip("it needs no key")
        stored = [backend.options(), backend.identity(), backend.account()]
        assert secret not in json.dumps(stored) + repr(backend) + backend.display_name

    def test_an_unknown_option_is_refused(self, backend: Backend) -> None:
        """A misspelt option is an error, never ignored."""
        unknown: dict[str, Any] = {"no_such_option": 1}
        with pytest.raises((TypeError, SpecError)):
            type(backend)(**unknown)

    # -- files ---------------------------------------------------------------------------

    def test_an_upload_is_found_by_its_content(
        self, backend: Backend, train: DataFile, tmp_path: Path
    ) -> None:
        """Other content is not found. A backend that takes no files finds none."""
        other = tmp_path / "other.jsonl"
        other.write_text('{"messages": []}\n', encoding="utf-8")
        assert backend.find_upload(data_file(other, 1)) is None
        remote_id = backend.upload(train)
        copy = tmp_path / "copy.jsonl"
        copy.write_bytes(train.path.read_bytes())
        assert (backend.find_upload(data_file(copy, train.rows)) is None) == (remote_id is None)

    # -- the job -------------------------------------------------------------------------

    @pytest.mark.parametrize("alike", [False, True])
    def test_an_unknown_job_is_not_found(
        self, backend: Backend, finished: FinishedJob, intent_of: Intents, alike: bool
    ) -> None:
        """``find`` returns None, or raises with ``maybe_applied`` where the backend cannot know;
        never another job, even one whose id begins with this."""
        others = frozenset({finished.provider_id})
        job_id = finished.job_id[:-1] if alike else "ftg-never-sent"
        try:
            assert backend.find(intent_of(job_id, sent_at=time.time(), others=others)) is None
        except BackendError as exc:
            assert exc.message and exc.maybe_applied

    def test_two_jobs_are_told_apart(
        self, backend: Backend, finished: FinishedJob, second: tuple[str, str], intent_of: Intents
    ) -> None:
        """``find`` gives each the id that ``start`` gave, also where one of our ids begins with the
        other."""
        job_id, provider_id = second
        assert provider_id != finished.provider_id
        assert backend.find(intent_of(job_id)) == provider_id
        assert backend.find(intent_of(finished.job_id)) == finished.provider_id

    def test_a_job_ends_with_a_result(self, finished: FinishedJob) -> None:
        """On the way the status is always known, and never goes backwards."""
        assert finished.last.status is JobStatus.SUCCEEDED, finished.last.error
        result = finished.last.result
        assert result is not None and result.model
        assert Result.model_validate_json(result.model_dump_json()) == result
        statuses = [snapshot.status for _, snapshot in finished.polls]
        assert JobStatus.UNKNOWN not in statuses
        for before, after in zip(statuses, statuses[1:], strict=False):
            assert later(before, after) is after

    def test_polls_hold_no_secret(self, finished: FinishedJob, secret: str) -> None:
        """All that a poll gives is stored and shown."""
        if not secret:
            pytest.skip("it needs no key")
        assert not [snap for _, snap in finished.polls if secret in snap.model_dump_json()]

    def test_events_have_ids_of_their_own(self, finished: FinishedJob) -> None:
        """No poll from a later cursor repeats an event."""
        assert len(set(finished.event_ids)) == len(finished.event_ids)

    def test_a_poll_is_repeatable(self, backend: Backend, finished: FinishedJob) -> None:
        """The same cursor gives the same events, or the same and more."""
        for cursor, snapshot in finished.polls:
            again = backend.poll(finished.provider_id, cursor)
            events = [(event.id, event.message) for event in snapshot.events]
            repeated = [(event.id, event.message) for event in again.events]
            assert repeated[: len(events)] == events
            checkpoints = {point.id for point in again.checkpoints}
            assert {point.id for point in snapshot.checkpoints} <= checkpoints
            assert later(snapshot.status, again.status) is again.status
        assert again.status is JobStatus.SUCCEEDED
        assert again.result == finished.last.result

    def test_another_process_goes_on(
        self, backend: Backend, settings: Settings, finished: FinishedJob
    ) -> None:
        """A backend built from the options polls from the stored cursor."""
        rebuilt = self._rebuild(backend, settings)
        snapshot = rebuilt.poll(finished.provider_id, finished.last.cursor)
        assert snapshot.status is JobStatus.SUCCEEDED
        assert snapshot.result == finished.last.result
        assert not {event.id for event in snapshot.events} - set(finished.event_ids)

    def test_statuses_are_those_of_polls(
        self, backend: Backend, finished: FinishedJob, second: tuple[str, str]
    ) -> None:
        """Of many jobs at once: none is further than a poll says, and none was not asked for."""
        asked = [finished.provider_id, second[1]]
        told = backend.statuses(asked)
        assert told.keys() <= {*asked}
        for provider_id, snapshot in told.items():
            now = backend.poll(provider_id, None).status
            assert later(snapshot.status, now) is now
        assert backend.statuses([]) == {}

    def test_a_job_that_is_not_there_hides_no_other(
        self, backend: Backend, finished: FinishedJob
    ) -> None:
        """``statuses`` leaves it out. Where each job is polled, its error is that of the poll."""
        if type(backend).statuses is Backend.statuses:
            pytest.skip("each job is polled")
        told = backend.statuses([finished.provider_id, "no-such-job"])
        assert told.keys() <= {finished.provider_id}

    def test_cancel_leaves_an_ended_job(self, backend: Backend, finished: FinishedJob) -> None:
        """The status stays, and nothing is raised."""
        backend.cancel(finished.provider_id)
        snapshot = backend.poll(finished.provider_id, finished.last.cursor)
        assert snapshot.status is JobStatus.SUCCEEDED

    def test_cancel_ends_a_running_job(self, backend: Backend, second: tuple[str, str]) -> None:
        """After some polls it is cancelled. Cancelling again changes nothing, also afterwards."""
        if self.ends_at_once:
            pytest.skip("its jobs have ended when start returns")
        job_id, provider_id = second
        cancelled = self._follow(backend, job_id, provider_id)
        assert cancelled.last.status is JobStatus.CANCELLED
        backend.cancel(provider_id)
        again = backend.poll(provider_id, cancelled.last.cursor)
        assert again.status is JobStatus.CANCELLED
