"""The part of ``BackendContract`` about ``Backend.resume``."""

from __future__ import annotations

import pytest

from finetune_gateway.backend import Backend, JobStatus, UnsupportedError
from finetune_gateway.testing.finished_job import FinishedJob
from finetune_gateway.testing.models import ModelContract


class ResumeContract(ModelContract):
    """The tests of ``Backend.resume``, which not every backend has."""

    ends_at_once = False

    @classmethod
    def _follow(cls, backend: Backend, job_id: str, provider_id: str) -> FinishedJob:
        """Poll until the job has ended."""
        raise NotImplementedError

    def test_resume_leaves_an_ended_job(self, backend: Backend, finished: FinishedJob) -> None:
        """A job that has succeeded stays so; a backend without ``resume`` says so."""
        if backend.capabilities().resumes:
            backend.resume(finished.provider_id, 1)
            snapshot = backend.poll(finished.provider_id, finished.last.cursor)
            assert snapshot.status is JobStatus.SUCCEEDED
        else:
            with pytest.raises(UnsupportedError):
                backend.resume(finished.provider_id, 1)

    def test_a_cancelled_job_goes_on(self, backend: Backend, second: tuple[str, str]) -> None:
        """Where it can be resumed: once for each number."""
        if self.ends_at_once or JobStatus.CANCELLED not in backend.capabilities().resumes:
            pytest.skip("what was cancelled stays so")
        job_id, provider_id = second
        self._follow(backend, job_id, provider_id)
        backend.resume(provider_id, 1)
        assert not backend.poll(provider_id, None).status.final
        backend.cancel(provider_id)
        self._follow(backend, job_id, provider_id)
        backend.resume(provider_id, 1)
        assert backend.poll(provider_id, None).status is JobStatus.CANCELLED
