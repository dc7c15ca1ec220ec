"""Rows that every backend accepts."""

from __future__ import annotations

from typing import Any


def chat_rows(count: int) -> list[dict[str, Any]]:
    """Different rows of one question and one answer each."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Where is parcel number {number}?"},
                {"role": "assistant", "content": f"Parcel {number} comes on day {number % 7}."},
            ]
        }
        for number in range(count)
    ]
