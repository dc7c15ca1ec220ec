"""The part of ``BackendContract`` that runs first: its spec and its rows are accepted."""

from __future__ import annotations

from typing import Any

from finetune_gateway.backend import Backend, Dataset, TrainingSpec
from finetune_gateway.validation import run
from finetune_gateway.validation.collector import rules_for


class RulesContract:
    """The first tests: of ``check``, without which no other one runs, and of
    ``Capabilities.rules``."""

    def test_check_accepts_the_spec(self, backend: Backend, spec: TrainingSpec) -> None:
        """The spec that other tests run is allowed; if not, override the fixture ``spec``."""
        backend.check_model(spec)
        backend.check(spec)

    def test_the_rules_it_declares_accept_its_rows(
        self, keyless: Backend, spec: TrainingSpec, rows: list[dict[str, Any]]
    ) -> None:
        """They are a family, or severities over one, and refuse none of the rows that the other
        tests train on."""
        declared = keyless.capabilities(spec.model).rules
        rules = rules_for(keyless.display_name, declared)
        report = run.validate(Dataset.open(rows), method=spec.method, backends=rules)
        assert report.errors == []
