"""Texts of a row that are JSON themselves: what is decoded is judged as well."""

import json
from pathlib import Path
from typing import Any

import pytest

import finetune_gateway as gateway

TURNS = [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "There."}]
HALF = '{"x": "\\ud83d"}'


def _tool(inner: str) -> str:
    function = f'{{"name": "find", "parameters": {inner}}}'
    return f'[{{"type": "function", "function": {function}}}]'


def _nested(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": TURNS, "tools": _tool(HALF)},
        {"conversations": json.dumps(TURNS).replace("There.", "\\ud83d")},
        {
            "conversations": [
                TURNS[0],
                {"from": "function_call", "value": f'{{"name": "find", "arguments": {HALF}}}'},
            ]
        },
    ],
)
def test_half_a_surrogate_pair_in_a_text_that_is_json(row: dict[str, Any]) -> None:
    """It cannot be sent as UTF-8, however often it was escaped: submit ended with a bug."""
    report = gateway.validate([row] * 10, backend="fake")
    assert "lone_surrogate" in [finding.code for finding in report.errors]


@pytest.mark.parametrize("levels", [98, 300, 900])
def test_what_is_sent_is_no_deeper_than_what_is_read(levels: int, tmp_path: Path) -> None:
    """Tools in a text may hold more levels than a line may; walking them ended with a bug."""
    dataset = gateway.Dataset.open([{"conversations": TURNS, "tools": _tool(_nested(levels))}] * 10)
    assert {finding.code for finding in dataset.validate(backend="fake").errors} & {
        "json_too_deep",
        "type_error",
    }
    if levels > 98:
        with pytest.raises(gateway.DataError):
            dataset.convert("openai", tmp_path / "chat.jsonl")


def test_a_deep_line_is_refused_by_convert_too(tmp_path: Path) -> None:
    """Not only by validate."""
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "Where?", "completion": "There.", "x": {_nested(700)}}}\n')
    with pytest.raises(gateway.DataError, match="deeper than 100 levels"):
        gateway.Dataset.open(path).convert("openai", tmp_path / "chat.jsonl")
