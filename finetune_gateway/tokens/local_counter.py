"""Counting with a local model's own chat template."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from finetune_gateway.data import row_access
from finetune_gateway.data.dataset import kind_of
from finetune_gateway.data.row_access import Json
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect
from finetune_gateway.tokens.counter import Roles, TokenCounter
from finetune_gateway.tokens.stats import RowTokens, cut_words

_FIXES = {  # of what a template drops, by kind
    "reasoning": "Keep the key. To have it learned by this model, write it into the content before "
    "the answer, as <think>...</think>, or use a model whose template writes reasoning.",
    "think_blocks": "Write the reasoning under 'reasoning_content' beside the answer; if the "
    "template writes that of the last turn alone, make a row of each turn.",
}
_FIX = "Use a model whose template writes it, or change the row; 'ftg preview' shows what is left."
_REFUSED = "ftg submit refuses such rows; with --allow-loss (allow_loss=True) it trains the rest."


class SequenceTokens(NamedTuple):
    """The tokens of one training sequence."""

    length: int  # before it is cut
    trained: int  # after that
    cut: int = 0  # would be trained if they were not cut off


class LocalCounter(TokenCounter):
    """Counts rows by ``encode(row)``, which returns the tokens of each of its sequences.

    ``render(row)`` returns the text the model is shown, ``losses(row)`` what of it is not: kinds,
    each with a sentence.
    """

    def __init__(
        self,
        encode: Callable[[Json], list[SequenceTokens]],
        *,
        render: Callable[[Json], str] | None = None,
        losses: Callable[[Json], dict[str, str]] | None = None,
        encoding: str = "chat template",
        max_context: int | None = None,
    ) -> None:
        super().__init__(encoding, max_context)
        self._encode = encode
        self.render = render
        self._losses = losses
        # Called with what the model is not shown of each row that is added.
        self.tell: Callable[[Defect], object] | None = None

    def fresh(self) -> LocalCounter:
        """Return an empty counter; it can be pickled if ``encode``, ``render`` and ``losses``
        can."""
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
        if self.tell is not None:
            for defect in self._defects(sequences, row):
                self.tell(defect)
        return self._add_sequences(sequences, row)

    def measure(self, row: Json) -> RowTokens:
        """Return the row's tokens as rendered; ``billed`` equals ``total``, since nobody bills."""
        return _row_tokens(self._encode(row), row)

    def add_plain(
        self, roles: Sequence[Roles], texts: Sequence[str], limit: int | None = None
    ) -> int:
        """Add rows of plain messages up to the first that has something to say of it."""
        remaining = iter(texts)
        for number, row_roles in enumerate(roles):
            row = {"messages": [{"role": role, "content": next(remaining)} for role in row_roles]}
            try:
                sequences = self._encode(row)
            except DataError:
                return number
            too_long = limit is not None and _row_tokens(sequences, row).total > limit
            if too_long or next(self._defects(sequences, row), None):
                return number
            self._add_sequences(sequences, row)
        return len(roles)

    def cut_words(self) -> str:
        """Return how much is cut off at the limit, as a sentence without its end."""
        stats = self.stats()
        return cut_words(stats, self.max_context or 0)

    def _add_sequences(self, sequences: list[SequenceTokens], row: Json) -> RowTokens:
        for sequence in sequences:
            self._add_measured(_row_tokens([sequence], row))
            self._totals.truncated_trained += sequence.cut
        is_pair = kind_of(row) == "preference"
        self._totals.pairs += is_pair
        self._totals.split_rows += len(sequences) > 1 and not is_pair
        return _row_tokens(sequences, row)

    def _defects(self, sequences: list[SequenceTokens], row: Json) -> Iterator[Defect]:
        for kind, sentence in (self._losses(row) if self._losses else {}).items():
            fix = f"{_FIXES.get(kind, _FIX)} {_REFUSED}"
            yield Defect("template_drops", detail=sentence, fix=fix, kind=kind)
        kind = kind_of(row)
        limit = None if kind == "text" else self.max_context  # texts are cut into pieces
        if limit and any(one.length > limit for one in sequences):
            yield Defect("row_cut")
        if not any(one.trained for one in sequences):
            yield Defect("nothing_to_compare" if kind == "preference" else "nothing_to_train")


def _row_tokens(sequences: list[SequenceTokens], row: Json) -> RowTokens:
    total = sum(one.length for one in sequences)
    trained = sum(one.trained for one in sequences)
    longest = max(one.length for one in sequences)
    messages = len(row_access.messages_of(row.get("messages")))
    return RowTokens(total, trained, messages, True, total, total, total, longest, len(sequences))
