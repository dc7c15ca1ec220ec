"""Count the tokens of rows by a local model's template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune_gateway.data.dataset import kind_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import ChatTemplate, Encoded
from finetune_gateway.tokens.local_counter import SequenceTokens
from finetune_gateway.tokens.template_rows import messages_of, rows_of_pair
from finetune_gateway.tokens.template_survey import LOSSES


def template_of(spec: TrainingSpec, folder: Path, now: float | None = None) -> ChatTemplate:
    """Return the chat template of a model folder as this spec wants it."""
    return ChatTemplate.load(
        folder,
        spec.chat_template,
        chat_template_kwargs=spec.chat_template_kwargs,
        call_format=spec.call_format,
        now=now,
    )


class RowCount:
    """Counts the sequences of a row, each cut after ``limit`` tokens, as the trainer does.

    It is pickled as its arguments, so that several processes can count one file.
    """

    def __init__(self, folder: Path, spec: TrainingSpec, limit: int) -> None:
        self._arguments = (folder, spec, limit)
        self._train_on, self._limit = spec.train_on, limit
        self._template = template_of(spec, folder)
        # The row that was counted last, and its sequences: what it loses is asked next.
        self._last: tuple[Any, list[Encoded] | None] = None, None

    def __reduce__(self) -> tuple[Any, ...]:
        return RowCount, self._arguments

    def __call__(self, row: dict[str, Any]) -> list[SequenceTokens]:
        """Return the tokens of each sequence of a row. Raises DataError."""
        if kind_of(row) == "text":
            return [self._plain(str(row.get("text")))]
        found = [
            sequence
            for one in _conversations(row)
            for sequence in self._template.encode(one, train_on=self._train_on)
        ]
        self._last = row, found
        return [self._tokens(one) for one in found]

    def _plain(self, text: str) -> SequenceTokens:
        """Return the tokens of a text, of which all are trained but the first."""
        length = len(self._template.tokenizer.encode(text).ids)
        kept = min(length, self._limit)
        return SequenceTokens(length, max(0, kept - 1), length - kept)

    def _tokens(self, encoded: Encoded) -> SequenceTokens:
        cut = encoded.cut(self._limit)
        return SequenceTokens(encoded.length, cut.trained, encoded.trained - cut.trained)

    def losses(self, row: dict[str, Any]) -> dict[str, str]:
        """Return what the template drops of the row: kinds, each with a sentence."""
        if kind_of(row) == "text":
            return {}
        last, sequences = self._last
        known = sequences if row is last else None
        found = frozenset[str]().union(
            *(self._template.losses(one, self._train_on, known) for one in _conversations(row))
        )
        return {kind: sentence for kind, sentence in LOSSES.items() if kind in found}

    def text(self, row: dict[str, Any]) -> str:
        """Return the row as the template renders it; a text as it is."""
        if kind_of(row) == "text":
            return str(row.get("text"))
        return "\n".join(self._template.text(*messages_of(one)) for one in _conversations(row))


def _conversations(row: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return the row, or the two conversations of a preference pair."""
    return rows_of_pair(row) if kind_of(row) == "preference" else (row,)
