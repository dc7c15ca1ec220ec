"""Why a comparison has no figure, or no rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_gateway import DataError, Gateway, GatewayError
from finetune_gateway.evaluation.comparing import ComparePlan
from finetune_gateway.reports.compare_text import plan_text


def test_a_loss_that_is_missing_has_the_reason_of_its_row(home: Path, tiny_folder: Path) -> None:
    """A local model tells losses: one that it does not tell is of a reference that is too long."""
    rows = [{"prompt": f"Where is parcel {n}?", "completion": "On its way. " * n} for n in (1, 900)]
    found = Gateway().compare([str(tiny_folder)], rows, max_tokens=1)
    [figure] = found.data.figures["reference_loss"].values()
    [why] = figure.unjudged
    assert figure.interval is not None and figure.interval.n == 1
    assert why.startswith("The conversation and its reference have") and "at most" in why
    assert any(" answers of " in text and "cut at the limit of tokens" in text
               for text in found.data.notes), found.data.notes  # fmt: skip


def test_held_out_texts_are_not_asked(home: Path, tmp_path: Path) -> None:
    """Pretraining holds texts out: the error names the job, and not the file of a copy."""
    path = tmp_path / "texts.jsonl"
    rows = [{"text": f"Parcel {n} came on day {n * 7}."} for n in range(60)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    job = Gateway().submit(path, model="m", backend="fake", method="pretrain", n_epochs=1)
    job.result()
    with pytest.raises(DataError) as caught:
        Gateway().compare([job])
    error = caught.value
    assert error.message.startswith(f"The held-out rows of {job.id} cannot be asked: ")
    assert "--data FILE" in (error.hint or "")


@pytest.mark.parametrize("answered", [True, False])
def test_rows_without_answers_are_warned_of_before(home: Path, answered: bool) -> None:
    """They are paid for, and tell nothing about which model is right."""
    notes: list[str] = []

    def refuse(plan: ComparePlan) -> bool:
        notes.extend(plan.notes)
        return False

    row = {"messages": [{"role": "user", "content": "a"}]}
    answer = {"role": "assistant", "content": "b"}
    data = [{"messages": [*row["messages"], answer]} if answered else row] * 2
    with pytest.raises(GatewayError):
        Gateway().compare(["http://127.0.0.1:9/v1#good"], data, confirm=refuse)
    assert any(one.startswith("No row has an answer") for one in notes) is not answered


def test_the_command_for_a_price_is_said_once(home: Path) -> None:
    """Of other models without one the model alone; nothing is sent."""
    plans: list[ComparePlan] = []

    def refuse(plan: ComparePlan) -> bool:
        plans.append(plan)
        return False

    models = [f"http://127.0.0.1:9/v1#{name}" for name in ("good", "other one")]
    with pytest.raises(GatewayError):
        Gateway().compare(models, [{"prompt": "a", "completion": "b"}] * 2, confirm=refuse)
    text = " ".join(plan_text(plans[0], None).split())
    assert text.count("ftg prices set --backend custom --model good --unit") == 1
    assert text.count("ftg prices set") == 1 and "as above, with --model 'other one'" in text
