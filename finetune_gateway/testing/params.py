"""The part of ``BackendContract`` about a backend's own settings, and about what it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_gateway.backend import Backend, SpecError, TrainingSpec, UnsupportedError
from finetune_gateway.backend.params import with_params
from finetune_gateway.testing.deletion import DeletionContract

VALUES: dict[str, Any] = {"suffix": "support", "seed": 7, "n_epochs": 2}


class ParamsContract(DeletionContract):
    """The tests of ``Backend.params`` and of ``Capabilities.refuses``.

    The fixture ``params``: some settings of the backend's own, each at another value than its
    default (default: none).
    """

    @pytest.fixture(scope="class")
    @classmethod
    def params(cls) -> dict[str, Any]:
        """Return settings of the backend's own that it takes."""
        return {}

    def test_own_settings_are_read_and_read_again(
        self, backend: Backend, spec: TrainingSpec, params: dict[str, Any]
    ) -> None:
        """They survive the store, and each is a field of their class."""
        given = {**(spec.backend_params or {}), **params} or None
        asked = with_params(spec.model_copy(update={"backend_params": given}), backend)
        stored = TrainingSpec.model_validate_json(asked.model_dump_json())
        assert with_params(stored, backend).backend_params == asked.backend_params
        if backend.params is not None:
            read = backend.params.of(stored).model_dump(mode="json")
            assert {name: read[name] for name in params} == json.loads(json.dumps(params))

    def test_an_unknown_own_setting_is_refused(self, backend: Backend, spec: TrainingSpec) -> None:
        """In words that name it; so are all of a backend that has none."""
        given = {**(spec.backend_params or {}), "no_such_setting": 1}
        with pytest.raises((SpecError, UnsupportedError), match="no_such_setting"):
            with_params(spec.model_copy(update={"backend_params": given}), backend)

    def test_what_it_refuses_is_refused_in_words(
        self, backend: Backend, spec: TrainingSpec
    ) -> None:
        """Each setting of ``Capabilities.refuses``, and the user's metadata."""
        limits = backend.capabilities(spec.model)
        for name in limits.refuses - {"metadata"}:
            asked = TrainingSpec.build(model=spec.model, method=spec.method, **{name: VALUES[name]})
            with pytest.raises(UnsupportedError, match=name) as error:
                limits.require(backend.name, asked)
            assert error.value.option == name
        if "metadata" in limits.refuses:
            with pytest.raises(UnsupportedError, match="metadata"):
                limits.require_metadata(backend.name, {"team": "support"})
