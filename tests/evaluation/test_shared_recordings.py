"""Recordings that two processes ask for, or that somebody has changed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.provider import Provider
from support.recordings import asked, recorded, rows

from finetune_gateway import SpecError
from finetune_gateway.evaluation import Recording
from finetune_gateway.evaluation.planning import RecordPlan


def test_a_name_that_was_taken_meanwhile_is_left_alone(home: Path) -> None:
    """Two are asked for at once, under the name that both have by default: the rows of the one that
    began are not replaced by those of the other."""
    with Provider() as provider:

        def answer_late(plan: RecordPlan) -> bool:
            recorded(provider, rows(3), name="x")
            return True

        with pytest.raises(SpecError, match="has been made meanwhile"):
            recorded(provider, rows(5)[3:], name="x", confirm=answer_late)
        assert asked(provider) == {1: 3}
    kept = Recording.load("x")
    assert {one.row for one in kept.answers()} == {one.id for one in kept.prompts()}
