"""How a move has ended, as data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_gateway.evaluation.comparison import Comparison
from finetune_gateway.evaluation.thresholds import Decision


@dataclass(frozen=True)
class Migration:
    """What came of it: the new model's job, the comparison with the old one, and the decision."""

    model: str
    destination: str
    job_id: str
    against: str
    trained_rows: int
    left_out: int
    comparison: Comparison
    decision: Decision

    @property
    def go(self) -> bool:
        """True if every threshold holds."""
        return self.decision.go

    def document(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "model": self.model,
            "to": self.destination,
            "job": self.job_id,
            "against": self.against,
            "trained_rows": self.trained_rows,
            "left_out": self.left_out,
            **self.decision.document(),
            "comparison": self.comparison.data.model_dump(mode="json"),
        }
