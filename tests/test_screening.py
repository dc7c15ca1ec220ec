"""The short way for clean rows lets nothing private through."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from finetune_gateway.checks.screening import Screen
from finetune_gateway.quality.private import found

VALUES = Path(__file__).parent / "data" / "personal.tsv"


def test_no_row_with_personal_data_is_taken_as_clean() -> None:
    """Whatever the patterns find in a text, the screen hands to the long way."""
    with VALUES.open(encoding="utf-8", newline="") as file:
        values = [row[1] for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    screen, seen = Screen("sft"), 0
    for value in values:
        for text in (value, f"Please use {value} for this, thanks.", f"{value}, {value}."):
            for ascii_only in (True, False):
                messages = [
                    {"role": "user", "content": text},
                    {"role": "assistant", "content": "Noted."},
                ]
                raw = json.dumps({"messages": messages}, ensure_ascii=ascii_only).encode()
                if list(found(text)):
                    seen += 1
                    assert screen.take(raw) is None, text
    assert seen > 4 * len(values)
