"""The part of ``BackendContract`` about the files of a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_gateway.backend import (
    Artifact,
    Backend,
    HandleData,
    Result,
    TrainingSpec,
    UnsupportedError,
)
from finetune_gateway.settings.files import sha256_of
from finetune_gateway.testing.data_rules import RulesContract
from finetune_gateway.testing.finished_job import FinishedJob


class ModelFilesContract(RulesContract):
    """The tests of ``Backend.download``, for results that have artifacts."""

    def _handle(self, backend: Backend, spec: TrainingSpec, result: Result) -> HandleData:
        """Return the handle of a result."""
        raise NotImplementedError

    def test_files_are_what_was_said(
        self, backend: Backend, spec: TrainingSpec, finished: FinishedJob, tmp_path: Path
    ) -> None:
        """By size and hash; also where an earlier call was killed in the middle of one. A backend
        without files says so."""
        result = finished.last.result
        assert result is not None
        handle = self._handle(backend, spec, result)
        if not result.artifacts:
            unknown = Artifact(name="adapter_config.json", kind="adapter", bytes=1)
            with pytest.raises(UnsupportedError):
                backend.download(unknown, handle, tmp_path)
        for one in result.artifacts:
            backend.download(one, handle, tmp_path)
            whole = (tmp_path / one.name).read_bytes()
            (tmp_path / one.name).write_bytes(whole[: len(whole) // 2])
            backend.download(one, handle, tmp_path)
            assert (tmp_path / one.name).stat().st_size == one.bytes
            assert sha256_of(tmp_path / one.name) == (one.sha256 or sha256_of(tmp_path / one.name))
        assert {path.name for path in tmp_path.iterdir()} == {one.name for one in result.artifacts}
