"""Canonical rows as token ids, and which of them are trained: for training, counts and previews.

===============  ================================================================================
chat             a sequence, or one for each turn where the template shows turns anew
preference       two sequences. Trained is what is compared: the tokens of the answers behind those
                 that both sequences begin with
unpaired (KTO)   a sequence; its last answer is trained, since the label is for that one
text             a sequence with the token that ends a text. All of it is trained except the
                 first token of each piece into which ``text_tokenizer.pieces`` cuts the texts
===============  ================================================================================

A preference row whose sides have nothing to compare has no label on either side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from finetune_gateway.data.dataset import kind_of
from finetune_gateway.errors import DataError
from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate, Encoded
from finetune_gateway.tokens.template_rows import row_of_unpaired, rows_of_pair
from finetune_gateway.tokens.text_tokenizer import TextTokenizer

SIDES = ("chosen", "rejected")


def encode_row(
    source: ChatTemplate | TextTokenizer, row: dict[str, Any], *, train_on: TrainOn = "assistant"
) -> list[Encoded]:
    """Return the sequences of a row, uncut; of a preference row the chosen and the rejected one.

    Raises DataError as ``ChatTemplate.encode`` does; for a pair with an answer of several turns
    that the template cannot show in one sequence; and for a conversation without a template.
    """
    if kind_of(row) == "text":
        return [_text(source, str(row.get("text")))]
    if isinstance(source, TextTokenizer):
        raise DataError(
            "The model has no chat template, so this row cannot be shown to it.",
            hint="Use its chat (instruct) version, or rows with a text alone: method pretrain.",
        )
    if kind_of(row) != "preference":
        [conversation] = conversations_of(row)
        return source.encode(conversation, train_on=train_on)
    sides = [source.encode(one, train_on=train_on) for one in rows_of_pair(row)]
    for name, found in zip(SIDES, sides, strict=True):
        if len(found) > 1:
            raise _several_turns(name, len(found))
    return compared([one for [one] in sides])


def cut_row(sequences: Sequence[Encoded], max_length: int | None, *, pair: bool) -> list[Encoded]:
    """Return the sequences of a row, each with at most so many tokens. A pair whose difference is
    cut off has nothing to compare. Texts are not cut: they are packed."""
    found = [one.cut(max_length) for one in sequences]
    return compared(found) if pair else found


def conversations_of(row: dict[str, Any]) -> Sequence[dict[str, Any]]:
    """Return a row as the conversations that a template renders, with weight 0 on the answers that
    are not trained: two of a preference row, none of a text."""
    kind = kind_of(row)
    if kind == "preference":
        return rows_of_pair(row)
    if kind == "unpaired_preference":
        return (row_of_unpaired(row),)
    return () if kind == "text" else (row,)


def compared(sides: Sequence[Encoded]) -> list[Encoded]:
    """Return both sides of a pair with labels behind the tokens that both begin with alone; without
    any, if one side has none there: equal sides, or one that is cut off before they differ."""
    chosen, rejected = sides
    shared = shared_tokens(chosen.input_ids, rejected.input_ids)
    found = [
        replace(one, labels=[IGNORED] * shared + one.labels[shared:]) for one in (chosen, rejected)
    ]
    if all(one.trained for one in found):
        return found
    return [replace(one, labels=[IGNORED] * len(one.labels)) for one in found]


def shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((at for at, (a, b) in pairs if a != b), min(len(one), len(other)))


def _text(source: ChatTemplate | TextTokenizer, text: str) -> Encoded:
    texts = source if isinstance(source, TextTokenizer) else TextTokenizer(source.files)
    ids = texts.ids(text)
    return Encoded(ids, list(ids), len(ids), text)


def _several_turns(side: str, turns: int) -> DataError:
    return DataError(
        f"The {turns} turns of the {side} answer cannot be compared in one sequence: the model's "
        "chat template shows a turn to later ones in another form than the model must write it in.",
        hint="Make a row of each turn, with the turns before it in the prompt.",
    )
