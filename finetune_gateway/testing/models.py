"""The part of ``BackendContract`` about a model: its answers, its deployments, its files."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_gateway.backend import (
    BY_FTG,
    Artifact,
    Backend,
    BackendError,
    ChatModel,
    ChatReply,
    HandleData,
    Result,
    TrainingSpec,
    UnsupportedError,
)
from finetune_gateway.backend.snapshots import NO_FILES
from finetune_gateway.settings.files import sha256_of
from finetune_gateway.testing.data_rules import RulesContract
from finetune_gateway.testing.finished_job import FinishedJob

NAME = f"ftg-{secrets.token_hex(4)}"  # of a deployment, in this run
QUESTION = [{"role": "user", "content": "Where is parcel number 3?"}]


class ModelContract(RulesContract):
    """The tests of ``open``, of ``deploy`` and ``end_deployment`` where a result needs them, and of
    ``download`` where it has artifacts."""

    seconds = 120.0

    def _handle(self, backend: Backend, spec: TrainingSpec, result: Result) -> HandleData:
        """Return the handle of a result."""
        raise NotImplementedError

    def test_the_model_answers(
        self, backend: Backend, spec: TrainingSpec, finished: FinishedJob
    ) -> None:
        """The model gives a whole reply, and one in pieces. One that needs a deployment has one for
        so long; a second call for it makes no second."""
        assert finished.last.result is not None
        handle = self._handle(backend, spec, finished.last.result)
        with self._deployed(backend, handle) as model:
            reply = model.chat(QUESTION, max_tokens=8)
            assert isinstance(reply, ChatReply) and reply.text
            stream = model.stream(QUESTION, max_tokens=8)
            assert isinstance(stream, Iterator)
            assert "".join(stream)

    @contextmanager
    def _deployed(self, backend: Backend, handle: HandleData) -> Iterator[ChatModel]:
        """Yield the model of a handle, once it answers."""
        if handle.deploy != BY_FTG:
            yield backend.open(handle)
            return
        price = backend.deployment_price(handle)
        assert price is None or price.usd >= 0
        asked = backend.deploy(handle, NAME)
        try:
            assert backend.deploy(handle, NAME) == asked
            model = backend.open(handle.model_copy(update={"model": asked, "deploy": None}))
            self._wait_for(model)
            yield model
        finally:
            assert backend.end_deployment(handle, NAME) is True
        assert backend.end_deployment(handle, NAME) is False
        with pytest.raises(BackendError):
            model.chat(QUESTION, max_tokens=8)

    def _wait_for(self, model: ChatModel) -> None:
        """Wait until a new deployment answers: before, errors can be tried again, or are 404."""
        deadline = time.monotonic() + self.seconds
        while True:
            try:
                model.chat(QUESTION, max_tokens=8)
                return
            except BackendError as exc:
                assert exc.retryable or exc.status_code == 404, exc
                assert time.monotonic() < deadline, exc
                time.sleep(0.2)

    def test_a_backend_without_deployments_says_so(
        self, backend: Backend, spec: TrainingSpec, finished: FinishedJob
    ) -> None:
        """With the defaults of the contract."""
        if type(backend).deploy is not Backend.deploy:
            pytest.skip("it makes deployments")
        assert finished.last.result is not None
        handle = self._handle(backend, spec, finished.last.result)
        assert handle.deploy != BY_FTG and backend.deployment_price(handle) is None
        for call in (backend.deploy, backend.end_deployment):
            with pytest.raises(UnsupportedError):
                call(handle, NAME)

    def test_files_are_what_was_said(
        self, backend: Backend, spec: TrainingSpec, finished: FinishedJob, tmp_path: Path
    ) -> None:
        """By size and hash; also where an earlier call was killed in the middle of one. A backend
        without files says so."""
        result = finished.last.result
        assert result is not None
        assert not [text for text in result.warnings if text.startswith(NO_FILES)]
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
