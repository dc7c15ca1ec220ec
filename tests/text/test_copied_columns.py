"""Private data that stands in several columns of a row is named once."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from finetune_gateway.validation.detectors import text_defects

ASKED = "Write to maria@acme-shop.com, please."
TURNS = [{"role": "user", "content": ASKED}, {"role": "assistant", "content": "I will."}]


def places(row: dict[str, Any]) -> list[tuple[str, str]]:
    """The kinds of private data that are found in a row, with their paths."""
    found = text_defects(json.dumps(row), row)
    return [(one.kind, one.path) for one in found if one.code in ("pii", "secret", "pii_reserved")]


@pytest.mark.parametrize(
    "copy",
    [
        {"prompt": ASKED},
        {"text": f"### Instruction:\n{ASKED}\n### Response:\nI will."},
        {"chosen": TURNS, "rejected": TURNS},
        {"meta": {"encoded": base64.b64encode(ASKED.encode()).decode()}},
    ],
)
def test_a_copy_of_a_column_is_not_reported_again(copy: dict[str, Any]) -> None:
    """Whole, as a part of a longer text, or encoded."""
    kind = "an e-mail address"
    assert places({"messages": TURNS, **copy}) == [(kind, "messages[0].content")]


def test_what_is_not_a_copy_is_found_beside_one() -> None:
    """Another address in the copied column, and the same one in a later message."""
    kind = "an e-mail address"
    again = {"role": "user", "content": f"Again: {ASKED}"}
    row = {"messages": [*TURNS, again], "text": f"{ASKED} Or to kai@hafen-bau.de."}
    assert places(row) == [
        (kind, "messages[0].content"), (kind, "messages[2].content"), (kind, "text"),
    ]  # fmt: skip
    reserved = {"prompt": "ann@example.com", "completion": "ann@example.com, not kai@hafen-bau.de"}
    assert places(reserved) == [(kind, "prompt"), (kind, "completion")]
