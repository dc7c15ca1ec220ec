"""Count the tokens of rows by a local model's template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate
from finetune_gateway.tokens.template_rows import messages_of


class RowCount:
    """Counts the sequences of a row, each cut after ``limit`` tokens, as the trainer does.

    It is pickled as its arguments, so that several processes can count one file.
    """

    def __init__(
        self,
        folder: Path,
        chat_template: str | Path | None,
        train_on: TrainOn,
        limit: int,
        switches: Mapping[str, Any],
    ) -> None:
        self._arguments = (folder, chat_template, train_on, limit, dict(switches))
        self._train_on, self._limit = train_on, limit
        self._template = ChatTemplate.load(folder, chat_template, chat_template_kwargs=switches)

    def __reduce__(self) -> tuple[Any, ...]:
        return RowCount, self._arguments

    def __call__(self, row: dict[str, Any]) -> list[tuple[int, int]]:
        """Return (tokens before the cut, trained tokens after it) of each sequence."""
        encoded = self._template.encode(row, train_on=self._train_on, max_length=self._limit)
        # The first token is never trained: nothing comes before it.
        return [
            (one.length, one.trained - (bool(one.labels) and one.labels[0] != IGNORED))
            for one in encoded
        ]

    def losses(self, row: dict[str, Any]) -> frozenset[str]:
        """Return what the template drops of the row: keys of ``template_survey.LOSSES``."""
        return self._template.losses(row, self._train_on)

    def text(self, row: dict[str, Any]) -> str:
        """Return the row as the template renders it."""
        messages, tools = messages_of(row)
        return self._template.text(messages, tools)
