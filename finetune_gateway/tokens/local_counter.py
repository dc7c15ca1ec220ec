"""Counting with a local model's own chat template."""

from __future__ import annotations

from collections.abc import Callable

from finetune_gateway.data import row_access
from finetune_gateway.data.row_access import Json
from finetune_gateway.tokens.counter import TokenCounter
from finetune_gateway.tokens.stats import RowTokens


class LocalCounter(TokenCounter):
    """Counts rows by ``encode(row)``, which returns (total, trained) tokens.

    ``render(row)`` returns the text the model is shown.
    """

    def __init__(
        self,
        encode: Callable[[Json], tuple[int, int]],
        *,
        render: Callable[[Json], str] | None = None,
        encoding: str = "chat template",
        max_context: int | None = None,
    ) -> None:
        super().__init__(encoding, max_context)
        self._encode = encode
        self.render = render

    def fresh(self) -> LocalCounter:
        """Return an empty counter; it can be pickled if ``encode`` and ``render`` can."""
        return LocalCounter(
            self._encode, render=self.render, encoding=self.encoding, max_context=self.max_context
        )

    def measure(self, row: Json) -> RowTokens:
        """Return the row's tokens as rendered; ``billed`` equals ``total``, since nobody bills."""
        total, trained = self._encode(row)
        count = len(row_access.messages_of(row.get("messages")))
        return RowTokens(total, trained, count, True, total, total, total, total)
