"""Counting with a local model's own chat template."""

from __future__ import annotations

from collections.abc import Callable

from finetune_gateway.data import row_access
from finetune_gateway.data.row_access import Json
from finetune_gateway.tokens.counter import TokenCounter
from finetune_gateway.tokens.stats import RowTokens


class LocalCounter(TokenCounter):
    """Counts rows by ``encode(row)``, which returns (total, trained) tokens of each sequence.

    ``render(row)`` returns the text the model is shown, ``losses(row)`` what of it is not.
    """

    def __init__(
        self,
        encode: Callable[[Json], list[tuple[int, int]]],
        *,
        render: Callable[[Json], str] | None = None,
        losses: Callable[[Json], frozenset[str]] | None = None,
        encoding: str = "chat template",
        max_context: int | None = None,
    ) -> None:
        super().__init__(encoding, max_context)
        self._encode = encode
        self.render = render
        self._losses = losses

    def fresh(self) -> LocalCounter:
        """Return an empty counter; it can be pickled if ``encode`` and ``render`` can."""
        return LocalCounter(
            self._encode,
            render=self.render,
            losses=self._losses,
            encoding=self.encoding,
            max_context=self.max_context,
        )

    def add(self, row: Json) -> RowTokens:
        """Count one row and return its tokens. Of a row with a sequence for each turn, every
        sequence counts as a row: so they are trained."""
        sequences = self._encode(row)
        for sequence in sequences:
            self._add_measured(_row_tokens([sequence], row))
        return _row_tokens(sequences, row)

    def measure(self, row: Json) -> RowTokens:
        """Return the row's tokens as rendered; ``billed`` equals ``total``, since nobody bills."""
        return _row_tokens(self._encode(row), row)

    def losses(self, row: Json) -> frozenset[str]:
        return self._losses(row) if self._losses else frozenset()


def _row_tokens(sequences: list[tuple[int, int]], row: Json) -> RowTokens:
    total = sum(length for length, _ in sequences)
    trained = sum(count for _, count in sequences)
    longest = max(length for length, _ in sequences)
    messages = len(row_access.messages_of(row.get("messages")))
    return RowTokens(total, trained, messages, True, total, total, total, longest, len(sequences))
