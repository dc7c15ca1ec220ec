"""Texts of a row that a local model's template drops or moves.

Templates cut texts, merge or move system prompts; a model does not learn what it is not shown.
What they do with calls, tools and reasoning is known of every row (``tokens.template_survey``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from finetune_gateway.data.canonical import readable
from finetune_gateway.data.dataset import Dataset, kind_of
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.row_text import parse_leniently
from finetune_gateway.validation.dataset.statistics import CountedDefect

Json = dict[str, Any]


def defects(dataset: Dataset, render: Callable[[Json], str], limit: int) -> Iterator[CountedDefect]:
    """Yield what the template drops or moves in the first rows of a dataset. Rows it refuses are
    skipped: the rules about rows report them."""
    rendered = 0
    for line in dataset.lines():
        row = None if line.cut else conversation(parse_leniently(line.raw) or {})
        if row is None:
            continue
        rendered += 1
        if rendered > limit:
            return
        try:
            text = render(row)
        except DataError:
            continue
        for defect in lost_texts(row, text):
            yield defect, line.number, 1


def conversation(row: Json) -> Json | None:
    """Return a row as one conversation, a pair with its better answer; None for other rows."""
    read = readable(row)
    if read is None:
        return None
    if kind_of(read) == "preference":
        prompt = read["input"]
        messages = [*as_list(prompt.get("messages")), *read["preferred_output"]]
        return {**prompt, "messages": messages}
    return read if "messages" in read else None


def lost_texts(row: Json, text: str) -> Iterator[Defect]:
    """Yield what is missing, or out of order, in the text a conversation was rendered to."""
    end = 0
    for index, message in enumerate(as_list(row.get("messages"))):
        for path, piece in _expected_texts(as_dict(message)):
            where = f"messages[{index}].{path}"
            start = text.find(piece, end)
            if start >= 0:
                end = start + len(piece)
            elif piece in text:
                yield Defect("template_moves", where)
            else:
                yield Defect("template_drops", where)


def _expected_texts(message: Json) -> Iterator[tuple[str, str]]:
    """Yield the path and text of what must be rendered; templates may trim spaces around it."""
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        yield "content", content.strip()
    for index, part in enumerate(as_list(content)):
        text = as_dict(part).get("text")
        if isinstance(text, str) and text.strip():
            yield f"content[{index}].text", text.strip()
