"""Count the tokens of rows by a local model's template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate, messages_of


class RowCount:
    """Counts (tokens, trained tokens) of a row, cut after ``limit`` tokens, as the trainer does.

    It is pickled as its arguments, so that several processes can count one file.
    """

    def __init__(
        self, folder: Path, chat_template: str | Path | None, train_on: TrainOn, limit: int
    ) -> None:
        self._arguments = (folder, chat_template, train_on, limit)
        self._train_on, self._limit = train_on, limit
        self._template = ChatTemplate.load(folder, chat_template)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowCount, self._arguments

    def __call__(self, row: dict[str, Any]) -> tuple[int, int]:
        encoded = self._template.encode(row, train_on=self._train_on, max_length=self._limit)
        # The first token is never trained: nothing comes before it.
        first = bool(encoded.labels) and encoded.labels[0] != IGNORED
        return encoded.length, encoded.trained - first

    def text(self, row: dict[str, Any]) -> str:
        """Return the row as the template renders it."""
        messages, tools = messages_of(row)
        return self._template.text(messages, tools)
