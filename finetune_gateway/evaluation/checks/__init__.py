"""A behaviour guide that runs: what it asks, and what the answers show."""

from __future__ import annotations

from finetune_gateway.evaluation.checks.check import Case, Check, Rubric
from finetune_gateway.evaluation.checks.guide import Guide, Skipped
from finetune_gateway.evaluation.checks.rounds import Outcome, Rounds

__all__ = ["Case", "Check", "Guide", "Outcome", "Rounds", "Rubric", "Skipped"]
