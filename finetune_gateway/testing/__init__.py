"""For authors of backends: the tests that every backend passes.

Needs pytest; nothing else in the package imports this module.
"""

from __future__ import annotations

import pytest

# Before they are imported, so that a failure shows the values that were compared.
PARTS = (
    *("conduct", "contract", "data_rules", "deletion", "gateway_options", "models", "params"),
    *("reach", "resumption"),
)
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in PARTS))

from finetune_gateway.testing.contract import BackendContract  # noqa: E402
from finetune_gateway.testing.finished_job import FinishedJob  # noqa: E402

__all__ = ["BackendContract", "FinishedJob"]
