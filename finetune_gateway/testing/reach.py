"""The part of ``BackendContract`` about a backend's models, its health and its quotes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from finetune_gateway.backend import (
    Backend,
    BackendError,
    DataFile,
    GatewayError,
    Health,
    Intent,
    TrainingSpec,
)
from finetune_gateway.testing.finished_job import FinishedJob
from finetune_gateway.testing.gateway_options import GatewayOptionsContract


class ReachContract(GatewayOptionsContract):
    """The tests of ``Backend.models``, ``health`` and ``quote``, which not every backend has."""

    def test_models_are_names_that_can_be_asked_for(self, backend: Backend) -> None:
        """Each is a model that its capabilities know, and the list is the same each time."""
        models = backend.models()
        assert backend.models() == models
        for model in models:
            assert not backend.capabilities(model).unknown_model_reason

    def test_a_quote_creates_nothing(
        self,
        backend: Backend,
        spec: TrainingSpec,
        train: DataFile,
        finished: FinishedJob,
        intent_of: Callable[..., Intent],
    ) -> None:
        """It is the same each time, and afterwards there is no other job on these files."""
        sent = replace(train, remote_id=backend.upload(train))
        quoted = backend.quote(spec, sent, None)
        assert quoted is None or quoted >= 0
        assert backend.quote(spec, sent, None) == quoted
        try:
            others = frozenset({finished.provider_id})
            assert backend.find(intent_of("ftg-quoted", others=others)) is None
        except BackendError as exc:
            assert exc.maybe_applied

    def test_health_says_how_it_is(self, backend: Backend, secret: str) -> None:
        """With its key it is well; the sentence holds no key, and goes through JSON."""
        health = backend.health()
        if health is None:
            pytest.skip("there is nothing to ask")
        assert health.ok, health.detail
        assert Health.model_validate_json(health.model_dump_json()) == health
        assert not secret or secret not in health.detail

    def test_health_without_a_key_is_no_health(
        self, backend: Backend, keyless: Backend, secret: str
    ) -> None:
        """It says so, or raises one of our errors: with a hint, and without the key."""
        if keyless is backend or not secret or backend.health() is None:
            pytest.skip("there is nothing to ask, or no fixture keyless without a key")
        try:
            health = keyless.health()
        except GatewayError as exc:
            assert exc.message and secret not in str(exc)
        else:
            assert health is not None and not health.ok
