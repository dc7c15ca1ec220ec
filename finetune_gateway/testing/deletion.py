"""The part of ``BackendContract`` about what is deleted, here and at the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_gateway.backend import Backend, JobStatus, UnsupportedError
from finetune_gateway.testing.finished_job import FinishedJob, data_file
from finetune_gateway.testing.resumption import ResumeContract


class DeletionContract(ResumeContract):
    """The tests of ``kept_files``, ``delete_file`` and ``delete_model``."""

    def test_a_deleted_upload_is_not_found(self, backend: Backend, tmp_path: Path) -> None:
        """Deleting it again, after an answer that was lost, is no error. A backend that cannot
        says so."""
        path = tmp_path / "deleted.jsonl"
        path.write_text('{"messages": [{"role": "user", "content": "Delete me."}]}\n', "utf-8")
        file = data_file(path, 1)
        if "file" not in backend.capabilities().deletes:
            return self._refuses(backend.delete_file)
        remote_id = backend.upload(file)
        assert remote_id is not None
        for _ in range(2):
            backend.delete_file(remote_id)
            assert backend.find_upload(dataclasses.replace(file, remote_id=None)) is None
        return None

    def test_a_model_that_is_not_there_is_deleted(self, backend: Backend) -> None:
        """It is no error. A backend that deletes no models says so."""
        if "model" not in backend.capabilities().deletes:
            return self._refuses(backend.delete_model)
        return backend.delete_model("no-such-model")

    def test_kept_files_are_there(self, backend: Backend, finished: FinishedJob) -> None:
        """All that a job left on this machine, and without its model what the model does not
        need. A job that is not there has left nothing."""
        assert backend.kept_files("no-such-job") == []
        kept = backend.kept_files(finished.provider_id)
        assert all(path.exists() for path in kept)
        result = finished.last.result
        if finished.last.status is not JobStatus.SUCCEEDED or result is None or not kept:
            return
        model = Path(result.model)
        for path in backend.kept_files(finished.provider_id, model=False):
            assert any(path.is_relative_to(one) for one in kept)
            assert not (model.is_relative_to(path) or path.is_relative_to(model))

    def _refuses(self, delete: Callable[[str], None]) -> None:
        with pytest.raises(UnsupportedError):
            delete("no-such-thing")
