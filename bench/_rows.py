"""Chat rows of mixed lengths, made on the spot from English that every Python carries.

The words are those of ``pydoc_data.topics``, 460 kB of prose and code. Each text begins
somewhere else, so that hardly any text repeats and a cache of whole texts gains nothing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

Row = dict[str, Any]

SYSTEM_PROMPTS = (
    "You answer the customers of a small web shop. Be brief and friendly.",
    "You are a careful programmer. Explain what you do, then show the code.",
    "Réponds toujours en une phrase. Übersetze nichts. 用中文回答。",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up a topic of the manual.",
        "parameters": {
            "type": "object",
            "properties": {"topic": {"type": "string"}, "limit": {"type": "integer"}},
            "required": ["topic"],
        },
    },
}


def chat_rows(
    count: int, *, words: float = 60, spread: float = 1.0, tools: float = 0.1, seed: int = 0
) -> Iterator[Row]:
    """``count`` rows; texts have a log-normal length with the median ``words``, at most 3000.
    The share ``tools`` of the rows calls a function."""
    text = _Text(seed, words, spread)
    for number in range(count):
        yield text.tool_row(number) if text.random.random() < tools else text.row()


def method_rows(
    method: str, count: int, *, words: float = 60, spread: float = 1.0, seed: int = 0
) -> Iterator[Row]:
    """Return ``count`` rows that a training method takes, of such texts, in one turn."""
    text = _Text(seed, words, spread)
    for number in range(count):
        asked, answer = ({"role": role, "content": text.piece()} for role in ("user", "assistant"))
        if method in ("dpo", "orpo", "reward"):
            other = {"role": "assistant", "content": text.piece()}
            yield {
                "input": {"messages": [asked]},
                "preferred_output": [answer],
                "non_preferred_output": [other],
            }
        elif method == "kto":
            yield {"prompt": [asked], "completion": [answer], "label": number % 2 == 0}
        elif method == "pretrain":
            yield {"text": f"{asked['content']} {answer['content']}"}
        else:
            yield {"messages": [asked, answer]}


def write(path: Path, rows: Iterator[Row]) -> Path:
    """Write rows as JSONL; every other row escapes what is not ASCII, as many tools do."""
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            file.write(json.dumps(row, ensure_ascii=number % 2 == 0) + "\n")
    return path


class _Text:
    """Random pieces of the manual."""

    def __init__(self, seed: int, words: float, spread: float) -> None:
        self.random = random.Random(seed)
        self.words, self.spread = words, spread
        self.source = " ".join(topics.values()).split(" ")

    def piece(self) -> str:
        length = int(self.words * self.random.lognormvariate(0, self.spread))
        length = min(max(length, 2), 3000)
        start = self.random.randrange(len(self.source) - length)
        return " ".join(self.source[start : start + length]).strip() or "Yes."

    def row(self) -> Row:
        messages: list[Row] = []
        if self.random.random() < 0.4:
            prompt = self.random.choice(SYSTEM_PROMPTS)
            messages.append({"role": "system", "content": prompt})
        for _ in range(self.random.choice((1, 1, 1, 2, 3))):
            messages.append({"role": "user", "content": self.piece()})
            messages.append({"role": "assistant", "content": self.piece()})
        return {"messages": messages}

    def tool_row(self, number: int) -> Row:
        given = json.dumps({"topic": self.piece()[:80], "limit": self.random.randrange(10)})
        call = {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": "look_up", "arguments": given},
        }
        messages: list[Row] = [
            {"role": "user", "content": self.piece()},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": call["id"], "content": self.piece()},
            {"role": "assistant", "content": self.piece()},
        ]
        return {"messages": messages, "tools": [TOOL]}
