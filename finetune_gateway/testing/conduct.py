"""The part of ``BackendContract`` about how a backend behaves: one start, answers that can be kept,
no call that takes long."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from typing import Any

import pytest

from finetune_gateway.backend import (
    Backend,
    BackendError,
    DataFile,
    Dataset,
    Intent,
    JobStatus,
    TrainingSpec,
)
from finetune_gateway.backend.seam import within_time
from finetune_gateway.jobs.plugins import check_restorable
from finetune_gateway.testing.finished_job import FinishedJob
from finetune_gateway.testing.reach import ReachContract


class ConductContract(ReachContract):
    """The tests of one start, of options there and back, and of how long a call takes.

    ``call_seconds``: the longest that a call may take; ``upload``, ``start`` and ``open`` may take
    longer. ``lost_id``: an id of a job that the provider does not have, in the form of its ids. The
    fixture ``odd_job``: the provider's id of a job whose state is a word that nobody knows
    (default: none, the test is skipped).
    """

    call_seconds = 20.0
    lost_id = "no-such-job"

    @pytest.fixture(scope="class")
    @classmethod
    def odd_job(cls) -> str | None:
        """Return the provider's id of a job in a state that nobody knows."""
        return None

    def test_what_is_stored_builds_it_again(self, backend: Backend) -> None:
        """What the gateway asks before it stores a job: options without a key, that another process
        builds the same backend from, and from a host the time that a create may take effect."""
        check_restorable(backend)

    def test_a_job_that_is_not_there_is_said_to_be(self, backend: Backend) -> None:
        """A host says so with a status code of 404 or 410, and of no other failure: else a job that
        it has lost, or one of another account, would be waited for without end."""
        if not backend.capabilities().hosted:
            pytest.skip("its jobs lie on this machine")
        with pytest.raises(BackendError) as lost:
            backend.poll(self.lost_id, None)
        assert lost.value.not_there and not lost.value.retryable

    def test_a_job_is_started_once(
        self, backend: Backend, finished: FinishedJob, intent_of: Callable[..., Intent]
    ) -> None:
        """No second job has the tag of the first: not even where the first is ruled out."""
        try:
            found = backend.find(
                intent_of(finished.job_id, others=frozenset({finished.provider_id}))
            )
        except BackendError as exc:
            assert exc.maybe_applied
        else:
            assert found in (None, finished.provider_id)

    def test_an_unknown_state_is_no_end(self, backend: Backend, odd_job: str | None) -> None:
        """It is ``unknown``, with the word of the host, and the job goes on."""
        if odd_job is None:
            pytest.skip("no job in an odd state is given (the fixture odd_job)")
        snapshot = backend.poll(odd_job, None)
        assert snapshot.status is JobStatus.UNKNOWN and snapshot.raw_status

    def test_events_are_plain_json(self, backend: Backend, finished: FinishedJob) -> None:
        """Their data, as the backend gives them: the gateway leaves out what no JSON has."""
        poll = inspect.unwrap(type(backend).poll)
        for cursor in {cursor for cursor, _ in finished.polls}:
            snapshot = poll(backend, finished.provider_id, cursor)
            for one in (*snapshot.events, *snapshot.checkpoints):
                document = one.model_dump()
                assert json.loads(json.dumps(document, allow_nan=False)) == document

    def test_figures_are_in_bounds(self, backend: Backend, finished: FinishedJob) -> None:
        """A cost from 0, a progress from 0 to 1, a place in line from 1: the gateway leaves others
        out. What a job has cost becomes no less."""
        poll = inspect.unwrap(type(backend).poll)
        for cursor, _ in finished.polls:
            seen = poll(backend, finished.provider_id, cursor)
            assert seen.progress is None or 0 <= seen.progress <= 1
            assert seen.place_in_line is None or seen.place_in_line >= 1
            assert seen.cost_usd is None or (seen.cost_usd.is_finite() and seen.cost_usd >= 0)
        costs = [one.cost_usd for _, one in finished.polls if one.cost_usd is not None]
        assert costs == sorted(costs)

    def test_no_call_takes_long(
        self,
        backend: Backend,
        spec: TrainingSpec,
        train: DataFile,
        finished: FinishedJob,
        intent_of: Callable[..., Intent],
    ) -> None:
        """Waiting is the gateway's: a call asks once and returns."""
        counter = backend.counter(spec)
        for row in Dataset(train.path).rows():
            counter.add(row.data)
        intent, sent = intent_of(finished.job_id), finished.provider_id
        calls: dict[str, Callable[[], Any]] = {
            "capabilities": lambda: backend.capabilities(spec.model),
            "options": backend.options,
            "check": lambda: backend.check(spec),
            "estimate": lambda: backend.estimate(spec, counter.stats()),
            "find_upload": lambda: backend.find_upload(train),
            "find": lambda: backend.find(intent),
            "poll": lambda: backend.poll(sent, finished.last.cursor),
            "statuses": lambda: backend.statuses([sent]),
        }
        for name, call in calls.items():
            within_time(f"{name}() of {backend.name!r}", call, self.call_seconds)
