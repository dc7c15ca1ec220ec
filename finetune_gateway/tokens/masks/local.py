"""Rows as a local model sees them: by ``ChatTemplate.encode``, the very function training uses."""

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
from finetune_gateway.tokens.chat_template import IGNORED, ChatTemplate, Message
from finetune_gateway.tokens.masks.preview import Conversation, Part, PreviewRenderer, Sequence

# Characters nobody types (the last private plane): they find the messages in a rendered text.
_MARKS, _END = 0x100000, chr(0x10FFFD)
_MARK = re.compile("[\U00100000-\U0010fffd]")
_MOST = 0xF000  # messages that can be told apart
_Content = tuple[int, int, str]  # from character, to character, whose


class LocalRenderer(PreviewRenderer):
    """Rows through a local model's own template and tokenizer."""

    def __init__(
        self, template: ChatTemplate, model: str, *, train_on: TrainOn, limit: int | None
    ) -> None:
        super().__init__(model, "chat template", limit)
        self.template = template
        self.train_on = train_on
        self._text = token_text.reader(template.tokenizer)
        added = template.tokenizer.get_added_tokens_decoder()
        self._special = {id for id, token in added.items() if token.special}

    def conversation(self, messages: Conversation, row: Json) -> Sequence:
        tools = row.get("tools") or None
        encoded = self.template.encode(
            {"messages": messages, "tools": tools}, train_on=self.train_on
        )
        spans = self._contents(messages, tools, encoded.text)
        ends = [*encoded.starts[1:], len(encoded.text)]
        begins = [start for start, _, _ in spans]

        def kind(index: int) -> tuple[bool, str | None, Part]:
            trained = encoded.labels[index] != IGNORED
            if encoded.input_ids[index] in self._special:
                return trained, "assistant" if trained else None, "special"
            # The last message that begins before the token ends: " W" holds the first of "Where".
            start = encoded.starts[index]
            place = bisect_right(begins, max(start, ends[index] - 1)) - 1
            if place >= 0 and start < spans[place][1]:
                return trained, spans[place][2], "content"
            return trained, "assistant" if trained else None, "template"

        sequence = Sequence()
        for (trained, role, part), places in groupby(range(len(encoded.input_ids)), kind):
            ids = [encoded.input_ids[place] for place in places]
            sequence.add(ids, self._text, self.limit, trained, role, part)
        return sequence

    def text(self, text: str) -> Sequence:
        sequence = Sequence()
        ids = self.template.tokenizer.encode(text).ids
        sequence.add(ids, self._text, self.limit, True)
        return sequence

    def notes(self, messages: Conversation, row: Json) -> list[str]:
        del messages
        found = formats.format_of(row)
        judged = found is not None and found.kind.endswith("preference")
        return [
            "Exact: rendered, tokenised and marked by the function that training uses "
            f"(train_on {self.train_on}, template {self.template.sha256[:12]}).",
            *(["Answers inside the prompt are not trained."] if judged else []),
        ]

    def _contents(self, messages: Conversation, tools: Any, text: str) -> list[_Content]:
        """Where the content of each message stands in the text, and whose it is: the row is
        rendered once more with marks. Empty when the template reacts to them or drops content."""
        if _MARK.search(text) or len(messages) >= _MOST:
            return []
        for strip in (False, True):  # many templates strip what is said
            marked = [_marked(message, place, strip) for place, message in enumerate(messages)]
            rendered = self.template.text(marked, tools)
            if _MARK.sub("", rendered) == text:
                return list(_contents(rendered, messages))
        return []


def _contents(rendered: str, messages: Conversation) -> Iterator[_Content]:
    taken, opened, who = 0, -1, 0
    for mark in _MARK.finditer(rendered):
        at, taken = mark.start() - taken, taken + 1
        if mark.group() != _END:
            opened, who = at, ord(mark.group()) - _MARKS
        elif opened >= 0:
            yield opened, at, str(messages[who].get("role"))
            opened = -1


def _marked(message: Message, place: int, strip: bool) -> Message:
    """The message with a mark before and after each text, inside of its spaces with ``strip``."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _between(content, place, strip)}
    parts = [
        {**part, "text": _between(part["text"], place, strip)}
        if isinstance(part.get("text"), str)
        else part
        for part in row_access.parts_of(content)
    ]
    return {**message, "content": parts} if parts else message


def _between(text: str, place: int, strip: bool) -> str:
    core = text.strip() if strip else text
    before, _, after = text.partition(core) if core else (text, "", "")
    return f"{before}{chr(_MARKS + place)}{core}{_END}{after}" if core else text
