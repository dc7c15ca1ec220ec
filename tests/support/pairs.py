"""Preference rows of a small web shop: what is preferred says when a parcel comes."""

from __future__ import annotations

from typing import Any


def pair_rows(count: int) -> list[dict[str, Any]]:
    """Different pairs; every third begins with words that both answers have, in one answer is the
    longer, in the next the shorter one."""
    rows = []
    for number in range(count):
        good = f"Parcel {number} comes on day {number % 7}."
        bad = ("No idea.", f"Parcel {number} is late, I fear.", "Ask somebody else, please.")
        rows.append(
            {
                "input": {
                    "messages": [{"role": "user", "content": f"Where is parcel number {number}?"}]
                },
                "preferred_output": [{"role": "assistant", "content": good}],
                "non_preferred_output": [{"role": "assistant", "content": bad[number % 3]}],
            }
        )
    return rows
