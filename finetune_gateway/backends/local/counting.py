"""Count the tokens of rows by a local model's template, or its tokenizer alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_gateway.data.dataset import kind_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import ChatTemplate, Encoded, ways_in_words
from finetune_gateway.tokens.local_counter import SequenceTokens
from finetune_gateway.tokens.stats import TokenStats
from finetune_gateway.tokens.template_rows import messages_of
from finetune_gateway.tokens.template_survey import LOSSES
from finetune_gateway.tokens.text_tokenizer import TextTokenizer
from finetune_gateway.tokens.training_rows import conversations_of, cut_row, encode_row


def template_of(spec: TrainingSpec, folder: Path, now: float | None = None) -> ChatTemplate:
    """Return the chat template of a model folder as this spec wants it."""
    return ChatTemplate.load(
        folder,
        spec.chat_template,
        chat_template_kwargs=spec.chat_template_kwargs,
        call_format=spec.call_format,
        now=now,
    )


def row_source(
    spec: TrainingSpec, folder: Path, now: float | None = None
) -> ChatTemplate | TextTokenizer:
    """Return what makes token ids of the rows of this spec: the chat template, and for texts the
    tokenizer alone. Raises NotFoundError, SpecError."""
    if spec.method == "pretrain":
        return TextTokenizer.load(folder)
    return template_of(spec, folder, now)


class RowCount:
    """Counts the sequences of a row, each cut after ``limit`` tokens, as the trainer does.

    It is pickled as its arguments, so that several processes can count one file.
    """

    def __init__(self, folder: Path, spec: TrainingSpec, limit: int) -> None:
        self._arguments = (folder, spec, limit)
        self._train_on, self._limit = spec.train_on, limit
        self._source = row_source(spec, folder)
        # The row that was counted last, and its sequences: what it loses is asked next.
        self._last: tuple[Any, list[Encoded]] = None, []

    def __reduce__(self) -> tuple[Any, ...]:
        return RowCount, self._arguments

    def __call__(self, row: dict[str, Any]) -> list[SequenceTokens]:
        """Return the tokens of each sequence of a row. Raises DataError."""
        kind = kind_of(row)
        found = encode_row(self._source, row, train_on=self._train_on)
        self._last = row, found
        limit = None if kind == "text" else self._limit
        cut = cut_row(found, limit, pair=kind == "preference")
        return [
            SequenceTokens(whole.length, one.trained, whole.trained - one.trained)
            for whole, one in zip(found, cut, strict=True)
        ]

    def losses(self, row: dict[str, Any]) -> dict[str, str]:
        """Return what the template drops of the row: kinds, each with a sentence."""
        template = self._source
        conversations = conversations_of(row)
        if not conversations or isinstance(template, TextTokenizer):
            return {}
        last, sequences = self._last
        if row is not last:
            sequences = encode_row(template, row, train_on=self._train_on)
        each = [sequences] if len(conversations) == 1 else [[one] for one in sequences]
        found = frozenset[str]().union(
            *(
                template.losses(conversation, self._train_on, known)
                for conversation, known in zip(conversations, each, strict=True)
            )
        )
        return {kind: sentence for kind, sentence in LOSSES.items() if kind in found}

    def text(self, row: dict[str, Any]) -> str:
        """Return the row as the template renders it; a text as it is."""
        if kind_of(row) == "text" or isinstance(self._source, TextTokenizer):
            return str(row.get("text"))
        return "\n".join(self._source.text(*messages_of(one)) for one in conversations_of(row))


def ways_of_training(spec: TrainingSpec, tokens: TokenStats) -> list[str]:
    """Return what the chat template needs for these rows, in words."""
    notes = ways_in_words([], spec.chat_template_kwargs or {})
    if not tokens.split_rows:
        return notes
    apart = (
        f"In {tokens.split_rows:,} rows each turn is trained as a sequence of its own, behind "
        "the prompt that asks for it: the template shows it to later turns in another form. "
        f"That makes {tokens.rows:,} sequences."
    )
    return [apart, *notes]
