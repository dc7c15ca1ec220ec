"""Previews for local models, by ``ChatTemplate.encode``, the function that training uses."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from finetune_gateway.data import formats, row_access
from finetune_gateway.data.row_access import Json
from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens import token_text
from finetune_gateway.tokens.chat_template import (
    IGNORED,
    ChatTemplate,
    Encoded,
    ways_in_words,
)
from finetune_gateway.tokens.masks.preview import Conversation, Part, PreviewRenderer, Sequence
from finetune_gateway.tokens.template_rows import Message, rows_of_pair
from finetune_gateway.tokens.template_survey import LOSSES
from finetune_gateway.tokens.text_tokenizer import TextTokenizer
from finetune_gateway.tokens.training_rows import cut_row, encode_row

# Characters of the last private plane, which nobody types, mark the messages in a rendered text.
_MARKS, _END = 0x100000, chr(0x10FFFD)
_MARK = re.compile("[\U00100000-\U0010fffd]")
_MOST = 0xF000  # messages that can be marked
_Content = tuple[int, int, str]  # first character, end, role


class LocalRenderer(PreviewRenderer):
    """Renders rows by a local model's own template and tokenizer, or its tokenizer alone."""

    def __init__(
        self,
        source: ChatTemplate | TextTokenizer,
        model: str,
        *,
        train_on: TrainOn,
        limit: int | None,
    ) -> None:
        encoding = "chat template" if isinstance(source, ChatTemplate) else "tokenizer"
        super().__init__(model, encoding, limit)
        self.source = source
        self.train_on = train_on
        self._ways: list[str] = []  # of the row that was rendered last
        self._text = token_text.text_by_id(source.tokenizer)
        added = source.tokenizer.get_added_tokens_decoder()
        self._special = {id for id, token in added.items() if token.special}

    def conversation(self, messages: Conversation, row: Json) -> list[Sequence]:
        found = self._encoded({**row, "messages": messages})
        cut = cut_row(found, self.limit, pair=False)
        sequences = [
            self._sequence(one, kept, messages, row) for one, kept in zip(found, cut, strict=True)
        ]
        for number, sequence in enumerate(sequences if len(sequences) > 1 else (), 1):
            sequence.name = f"turn {number} of {len(sequences)}"
        return sequences

    def pair(self, row: Json) -> list[Sequence]:
        found = self._encoded(row)
        cut = cut_row(found, self.limit, pair=True)
        return [
            self._sequence(one, kept, side["messages"], side)
            for one, kept, side in zip(found, cut, rows_of_pair(row), strict=True)
        ]

    def _encoded(self, row: Json) -> list[Encoded]:
        """Return the sequences of a row, uncut. Raises DataError if the template refuses it."""
        found = encode_row(self.source, row, train_on=self.train_on)
        self._ways = ways_in_words(found, getattr(self.source, "chat_template_kwargs", {}))
        return found

    def _sequence(
        self, encoded: Encoded, cut: Encoded, messages: Conversation, row: Json
    ) -> Sequence:
        """Return a sequence as tokens. ``cut``: what of it is trained, where that fits."""
        tools = row.get("tools") or None
        # A turn of its own stands behind the messages before it.
        shown = messages if len(encoded.turns) != 1 else messages[: encoded.turns[0] + 1]
        spans = self._contents(messages, tools, encoded.text) or self._contents(
            shown, tools, encoded.text
        )
        ends = [*encoded.starts[1:], len(encoded.text)]
        begins = [start for start, _, _ in spans]
        labels = [*cut.labels, *encoded.labels[len(cut.labels) :]]

        def kind(index: int) -> tuple[bool, str | None, Part]:
            trained = labels[index] != IGNORED
            if encoded.input_ids[index] in self._special:
                return trained, "assistant" if trained else None, "special"
            # The last message that begins before the token ends: " W" has the first of "Where".
            start = encoded.starts[index]
            message = bisect_right(begins, max(start, ends[index] - 1)) - 1
            if message >= 0 and start < spans[message][1]:
                return trained, spans[message][2], "content"
            return trained, "assistant" if trained else None, "template"

        sequence = Sequence()
        for (trained, role, part), indices in groupby(range(len(encoded.input_ids)), kind):
            ids = [encoded.input_ids[index] for index in indices]
            sequence.add(ids, self._text, self.limit, trained, role, part)
        return sequence

    def text(self, text: str) -> Sequence:
        sequence = Sequence()
        [encoded] = encode_row(self.source, {"text": text})
        for special, ids in groupby(encoded.input_ids, self._special.__contains__):
            part: Part = "special" if special else "content"
            sequence.add([*ids], self._text, None, trained=True, part=part)
        return sequence

    def text_notes(self) -> list[str]:
        length = f"of {self.limit:,} tokens" if self.limit else "as long as the model reads"
        return [
            "Exact: the texts of a file follow one another, each with the token that ends it, and "
            f"are cut into pieces {length}. All is trained but the first token of a piece.",
        ]

    def pair_notes(self, chosen: Sequence, rejected: Sequence) -> list[str]:
        if not chosen.trained:
            return [
                "There is nothing to compare: as far as they are read both sides are the same "
                "tokens, or one has no answer. The pair is left out.",
            ]
        return [
            "Compared is what differs: the tokens of each answer behind those that both sides "
            "begin with. Training makes the chosen answer more likely than the rejected one."
        ]

    def notes(self, messages: Conversation, row: Json) -> list[str]:
        if isinstance(self.source, TextTokenizer):
            return []
        row_format = formats.format_of(row)
        is_preference = row_format is not None and row_format.kind.endswith("preference")
        lost = self.source.losses({**row, "messages": messages}, self.train_on)
        return [
            "Exact: rendered, tokenised and masked by the function that training uses "
            f"(train_on {self.train_on}, template {self.source.sha256[:12]}).",
            *self._ways,
            *(f"The template drops a part: {LOSSES[kind]}." for kind in LOSSES if kind in lost),
            *(["Answers inside the prompt are not trained."] if is_preference else []),
        ]

    def _contents(self, messages: Conversation, tools: Any, text: str) -> list[_Content]:
        """Return where the content of each message is in the text, and its role, by rendering the
        row once more with marks. Empty if the template reacts to them or drops content."""
        too_many = _MARK.search(text) or len(messages) >= _MOST
        if too_many or isinstance(self.source, TextTokenizer):
            return []
        for strip in (False, True):  # many templates strip content
            marked = [_mark(message, index, strip) for index, message in enumerate(messages)]
            rendered = self.source.text(marked, tools)
            # A label ends with its stop token; the template may write more after it.
            if _MARK.sub("", rendered).startswith(text):
                return list(_read_marks(rendered, messages))
        return []


def _read_marks(rendered: str, messages: Conversation) -> Iterator[_Content]:
    marks_before, start, index = 0, -1, 0
    for mark in _MARK.finditer(rendered):
        position, marks_before = mark.start() - marks_before, marks_before + 1
        if mark.group() != _END:
            start, index = position, ord(mark.group()) - _MARKS
        elif start >= 0:
            yield start, position, str(messages[index].get("role"))
            start = -1


def _mark(message: Message, index: int, strip: bool) -> Message:
    """Return the message with a mark around each text; with ``strip``, inside of its spaces."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _mark_text(content, index, strip)}
    parts = [
        {**part, "text": _mark_text(part["text"], index, strip)}
        if isinstance(part.get("text"), str)
        else part
        for part in row_access.parts_of(content)
    ]
    return {**message, "content": parts} if parts else message


def _mark_text(text: str, index: int, strip: bool) -> str:
    core = text.strip() if strip else text
    before, _, after = text.partition(core) if core else (text, "", "")
    return f"{before}{chr(_MARKS + index)}{core}{_END}{after}" if core else text
