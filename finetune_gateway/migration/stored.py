"""Stored completions of a model: what was asked in production, and what it answered.

Each is written down as it comes, as one line of ``stored.raw.jsonl``; the conversations are made
from these lines. A process that is killed goes on after the last whole line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from finetune_gateway.backends.openai import archive, wire
from finetune_gateway.errors import BackendError
from finetune_gateway.migration.keys import Key
from finetune_gateway.settings import files

# What a message of a training file has; a stored one has empty fields of other uses too.
FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", "refusal")


class StoredLog:
    """The stored completions of one model in one file. ``rows``: its conversations. ``others``:
    what was listed of other models, and left out."""

    def __init__(self, path: Path) -> None:
        self.rows = self.others = 0
        self._path = path
        self._ids: set[str] = set()
        self._last: dict[str, str] = {}  # by key: the id after which its list goes on
        if path.exists():
            self._read()

    def _read(self) -> None:
        """Learn what is there, and cut off what follows the last whole line: half of one, which a
        killed process may have left, or what a power cut has made of it."""
        whole = 0
        with self._path.open("rb") as file:
            for line in file:
                try:
                    record = json.loads(line if line.endswith(b"\n") else b"")
                    name, key = record["completion"]["id"], record["key"]
                except (ValueError, TypeError, KeyError):
                    break
                whole += len(line)
                self._ids.add(name)
                self._last[key] = name
        if whole < self._path.stat().st_size:
            os.truncate(self._path, whole)

    def fetch(self, key: Key, model: str) -> None:
        """Add what this key sees and is not there yet. Raises BackendError."""
        try:
            key.ask("stored", partial(self._add_pages, key, model))
        except BackendError as exc:
            if key.variable not in self._last or exc.status_code not in (400, 404):
                raise
            del self._last[key.variable]  # it was deleted at the host: from the beginning
            key.ask("stored", partial(self._add_pages, key, model))

    def _add_pages(self, key: Key, model: str) -> None:
        start = self._last.get(key.variable)
        for page in archive.stored_completions(key.host, model, start):
            for completion in page:
                name = wire.usable_id(completion)
                ours = completion.get("model") == model
                self.others += not ours
                if ours and name and name not in self._ids:
                    self._add(key, name, completion)

    def _add(self, key: Key, name: str, completion: wire.Json) -> None:
        messages = archive.stored_messages(key.host, name)
        record = {"key": key.variable, "completion": completion, "messages": messages}
        with files.storing("Stored completions cannot be written down", self._path.parent):
            files.append(self._path, json.dumps(record).encode() + b"\n")
        self._ids.add(name)
        self._last[key.variable] = name

    def conversations(self) -> Iterator[bytes]:
        """Yield each as a line of chat, as a training file has it."""
        self.rows = 0
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            for line in file:
                if row := _conversation(json.loads(line)):
                    self.rows += 1
                    yield json.dumps(row, ensure_ascii=False).encode() + b"\n"


def _conversation(record: wire.Json) -> wire.Json | None:
    """Return the messages with the answer; None where one of them is missing."""
    completion = wire.object_of(record.get("completion"))
    choices = wire.list_of(completion.get("choices"))
    answer = wire.object_of(wire.object_of(choices[0]).get("message")) if choices else {}
    asked = [_message(one) for one in wire.list_of(record.get("messages"))]
    if not asked or not answer:
        return None
    row: wire.Json = {"messages": [*asked, _message({"role": "assistant", **answer})]}
    tools = wire.list_of(completion.get("tools"))
    return {**row, "tools": tools} if tools else row


def _message(given: Any) -> wire.Json:
    stored = wire.object_of(given)
    content = stored.get("content")
    content = wire.list_of(stored.get("content_parts")) if content is None else content
    message = {name: stored[name] for name in FIELDS if stored.get(name)}
    return {**message, "content": content or (None if message.get("tool_calls") else "")}
