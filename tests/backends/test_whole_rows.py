"""Rows of which a local model would learn only a part: named before anything starts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg

import finetune_gateway as gateway
from finetune_gateway.backends.local import builtin
from finetune_gateway.errors import DataError, SpecError

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def template(tmp_path: Path, home: Path) -> str:
    """A template without tools, for the built-in model."""
    path = tmp_path / "plain.jinja"
    path.write_text(PLAIN)
    return str(path)


def rows(count: int = 12, answer: str = "It is here.") -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"Where is parcel {number}?"},
                {"role": "assistant", "content": answer},
            ]
        }
        for number in range(count)
    ]


def with_calls(count: int = 12) -> list[dict[str, Any]]:
    call = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    answer = {"role": "assistant", "content": None, "tool_calls": [call]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "In Bonn."}
    made = rows(count)
    for row in made:
        row["messages"][1:1] = [answer, result]
    return made


def test_lost_calls_stop_a_submit(template: str) -> None:
    """With the rows and the two ways out, in either file; validate and estimate say it too."""
    options: dict[str, Any] = {"model": builtin.NAME, "chat_template": template}
    with pytest.raises(DataError, match=r"calls of tools are not written \(12 rows: lines 1") as it:
        gateway.submit(with_calls(), **options)
    assert "a model whose template has tools" in str(it.value) and "--allow-loss" in str(it.value)
    with pytest.raises(DataError, match="calls of tools are not written"):
        gateway.submit(rows(), validation=with_calls(), **options)
    report = gateway.validate(with_calls(), **options)
    [lost] = [one for one in report.findings if one.code == "template_drops" and one.kind]
    assert (lost.kind, lost.count) == ("calls", 12)
    assert not gateway.Gateway().jobs()


def test_the_screen_says_what_is_lost_and_the_ways_out(
    template: str, tmp_path: Path, ftg: Ftg
) -> None:
    """No line of the data is wrong, so the message is not that of wrong lines."""
    path = tmp_path / "calls.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in with_calls()))
    judged = ftg("validate", str(path), "--model", builtin.NAME, "--chat-template", template)
    said = " ".join(judged.stdout.split())
    assert judged.returncode == 0 and "ftg submit refuses such rows; with --allow-loss" in said
    assert f"Next: ftg preview {path} --model {builtin.NAME}" in judged.stderr
    command = ("submit", str(path), "--model", builtin.NAME, "--chat-template", template)
    done = ftg(*command)
    assert done.returncode == 3 and "calls of tools are not written (12 rows" in done.stderr
    assert "--set call_format=hermes" in done.stderr and "--allow-loss" in done.stderr
    assert "Fix these lines" not in done.stderr
    done = ftg(*command, "--allow-loss", "--set", "max_length=8")
    assert "None of 12 rows has a to" in done.stderr


def test_rows_that_are_cut_are_counted_alike(template: str) -> None:
    """By validate, estimate and submit: rows, the share of trained tokens, the limit."""
    data = rows(answer="It is here, in the depot of the town, on the second shelf from above.")
    data[0]["messages"][1]["content"] = "Here."
    options: dict[str, Any] = {"model": builtin.NAME, "chat_template": template, "max_length": 24}
    report = gateway.validate(data, **options)
    [cut] = [one for one in report.findings if one.code == "row_cut"]
    assert cut.count == 11 and "11 of 12 rows are longer than 24 tokens" in cut.message
    warnings = gateway.estimate(data, **options).warnings
    assert any("11 of 12 rows are longer than 24 tokens" in text for text in warnings)


PAIR = {
    "input": {"messages": rows(1)[0]["messages"][:1]},
    "preferred_output": [{"role": "assistant", "content": "In Bonn."}],
    "non_preferred_output": [{"role": "assistant", "content": "No idea."}],
}


@pytest.mark.parametrize(
    ("row", "method"), [(PAIR, "dpo"), ({"text": "It is in Bonn. " * 9}, "pretrain")]
)
def test_a_row_of_another_kind_is_counted_as_a_preview_shows_it(
    row: dict[str, Any], method: Any, home: Path, tmp_path: Path
) -> None:
    """A pair is two conversations, of which a strict template refuses none; a text is a text."""
    path = tmp_path / "strict.jinja"
    strict = "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('No.') }}"
    path.write_text(PLAIN.replace("messages %}", f"messages %}}{strict}{{% endif %}}", 1))
    options: dict[str, Any] = {"model": builtin.NAME, "max_length": 32}
    if method == "dpo":  # a text has no template
        options["chat_template"] = str(path)
    report = gateway.validate([row] * 10, method=method, **options)
    assert report.tokens is not None and "template_refuses" not in report.model_dump_json()
    shown = gateway.preview(row, **options)
    counted = (report.tokens["total"], report.tokens["trained"])
    assert counted == (10 * shown.total, 10 * shown.trained)
    assert sum("train_on" in note for note in shown.notes) == (method == "dpo")


def test_nothing_to_learn_is_an_error_before_the_queue(template: str) -> None:
    """All rows are cut before their answers."""
    data = rows()
    for row in data:
        row["messages"][0]["content"] *= 9
    with pytest.raises(DataError, match="None of 12 rows has a to"):
        gateway.submit(data, model=builtin.NAME, chat_template=template, max_length=8)
    assert not gateway.Gateway().jobs()


def test_what_cannot_be_is_refused_unless_allowed(template: str) -> None:
    """Rows above the context, with the figures and the option that allows them."""
    with pytest.raises(SpecError, match=r"max_length 9,999 is above .*--allow-longer"):
        gateway.submit(rows(), model=builtin.NAME, max_length=9999)
    estimate = gateway.estimate(rows(), model=builtin.NAME, max_length=9999)
    assert list(estimate.refused) == ["longer"]
    assert estimate.refused["longer"] in estimate.warnings  # the screen says it too
    assert not gateway.Gateway().jobs()
