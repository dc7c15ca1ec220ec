"""Whether a local model's template shows the model all that a row says, in its order.

Templates cut off reasoning of earlier turns, merge or move system prompts, leave out tools; what
is left out is not learnt.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from finetune_gateway.data import formats
from finetune_gateway.data.dataset import Dataset, kind_of
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.data.sharegpt import Unfit
from finetune_gateway.errors import DataError
from finetune_gateway.findings import Defect
from finetune_gateway.validation.dataset.row_text import parsed
from finetune_gateway.validation.dataset.statistics import Placed

Json = dict[str, Any]


def defects(dataset: Dataset, render: Callable[[Json], str], limit: int) -> Iterator[Placed]:
    """What the template drops or moves in the first rows of a dataset. Rows it refuses are left
    out: ``checks`` names them."""
    looked = 0
    for line in dataset.lines():
        row = None if line.cut else conversation(parsed(line.raw) or {})
        if row is None:
            continue
        looked += 1
        if looked > limit:
            return
        try:
            text = render(row)
        except DataError:
            continue
        for defect in lost(row, text):
            yield defect, line.number, 1


def conversation(row: Json) -> Json | None:
    """A row as one conversation; of a pair, with the better answer. None for anything else."""
    try:
        read = formats.canonical(row)
    except Unfit:
        return None
    if kind_of(read) == "preference":
        given = read["input"]
        return {**given, "messages": [*as_list(given.get("messages")), *read["preferred_output"]]}
    return read if "messages" in read else None


def lost(row: Json, text: str) -> Iterator[Defect]:
    """What of a conversation is not in the text it was rendered to, or not in its place."""
    place = 0
    for index, message in enumerate(as_list(row.get("messages"))):
        for path, piece in _said(as_dict(message)):
            where = f"messages[{index}].{path}"
            found = text.find(piece, place)
            if found >= 0:
                place = found + len(piece)
            elif piece in text:
                yield Defect("template_moves", where)
            else:
                yield Defect("template_drops", where)
    for index, tool in enumerate(as_list(row.get("tools"))):
        name = as_dict(as_dict(tool).get("function")).get("name")
        if isinstance(name, str) and name not in text:
            yield Defect("template_drops", f"tools[{index}]", "a tool is not shown to the model")


def _said(message: Json) -> Iterator[tuple[str, str]]:
    """Paths and texts that must be found; templates may trim the space around a text."""
    content = message.get("content")
    if isinstance(content, str) and content.strip():
        yield "content", content.strip()
    for index, part in enumerate(as_list(content)):
        text = as_dict(part).get("text")
        if isinstance(text, str) and text.strip():
            yield f"content[{index}].text", text.strip()
    for index, call in enumerate(as_list(message.get("tool_calls"))):
        function = as_dict(as_dict(call).get("function"))
        path = f"tool_calls[{index}].function"
        if isinstance(function.get("name"), str):
            yield f"{path}.name", function["name"]
        yield from ((f"{path}.arguments", text) for text in _arguments(function.get("arguments")))


def _arguments(written: Any) -> Iterator[str]:
    """The values of a call's arguments that look the same however they are written."""
    try:
        values = json.loads(written) if isinstance(written, str) else written
    except ValueError:
        return
    for value in as_dict(values).values():
        if isinstance(value, str) and value.isalnum():
            yield value
