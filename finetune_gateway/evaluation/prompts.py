"""What of a data set is asked: of each row all messages up to the answer that is to be given.

A row that ends with an assistant's turn is asked up to there, and the turn is kept as what the data
say; a row of a prompt alone is asked as it is. Tools go along, and so does a row that needs none of
them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import ConfigDict, Field

from finetune_gateway.data.canonical import read
from finetune_gateway.data.columns import offer
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.formats import format_of
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.errors import DataError
from finetune_gateway.model import Model

Json = dict[str, Any]

BESIDE = ("tools", "functions", "parallel_tool_calls")  # keys of a row that are sent with it
TRAINING = frozenset({"weight", "reasoning_content", "reasoning", "thinking"})  # of a message
NAMED = 5  # lines in a message


COUNTED = frozenset({"text", "refusal", "image_url"})  # parts whose tokens are counted offline


class Prompt(Model):
    """What is asked, and where it is from.

    ``id``: its fingerprint, sha256 over the messages and what is sent ``beside`` them, such as
    tools. ``references``: what the data answer. ``lines``: all lines that ask the same.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    id: str
    lines: tuple[int, ...]
    messages: list[Json]
    beside: Json = Field(default_factory=dict)
    references: list[Json] = Field(default_factory=list)

    @property
    def asked(self) -> Json:
        """The messages, with the tools."""
        return {"messages": self.messages, **self.beside}

    @property
    def uncounted(self) -> set[str]:
        """The types of its parts, such as files and sounds, whose tokens nobody can tell before."""
        return {*self._types} - COUNTED

    @property
    def _types(self) -> list[str]:
        contents = (as_list(message.get("content")) for message in self.messages)
        return [str(as_dict(part).get("type")) for content in contents for part in content]


def read_prompts(dataset: Dataset) -> list[Prompt]:
    """Return the prompts of a data set, each once, in the order of their first rows.

    Raises DataError for a line that is no row, and for rows in which there is nothing to ask.
    """
    prompts: dict[str, Prompt] = {}
    empty: list[int] = []
    halves: list[int] = []
    for row in dataset.rows():
        prompt = prompt_of(row.data, row.line)
        if prompt is None:
            empty.append(row.line)
            continue
        if not _is_utf8(prompt):
            halves.append(row.line)
            continue
        same = prompts.get(prompt.id)
        prompts[prompt.id] = prompt if same is None else _joined(same, prompt)
    if halves:
        raise DataError(
            f"{dataset.name}: half of a surrogate pair, which is no text, is in {_lines(halves)}.",
            hint=f"Fix it in an editor. For where it is: ftg validate {dataset.name}",
        )
    if empty:
        first = next(row.data for row in dataset.rows() if row.line == empty[0])
        offered = f"{offer(first)}. " if format_of(first) is None and offer(first) else ""
        raise DataError(
            f"{dataset.name}: there is nothing to ask in {_lines(empty)}: no messages before an "
            "answer.",
            hint=f'{offered}A row is {{"messages": [...]}}, a prompt with a completion, or '
            '{"prompt": "..."}.',
        )
    if not prompts:
        raise DataError(f"{dataset.name} has no rows.", hint="Name a file of prompts.")
    return [*prompts.values()]


def prompt_of(row: Json, line: int) -> Prompt | None:
    """Return what is asked in a row of any known format; None if there is nothing."""
    if isinstance(row.get("prompt"), str) and row.keys() <= {"prompt", "tools", "system"}:
        row = {**row, "completion": ""}
    sent = read(row)
    chat = as_dict(sent.row.get("input")) or sent.row
    messages = [one for one in as_list(chat.get("messages")) if isinstance(one, dict)]
    answers = [one for one in as_list(sent.row.get("preferred_output")) if isinstance(one, dict)]
    while messages and messages[-1].get("role") == "assistant":
        answers = [messages.pop(), *answers]
    if not messages or all(one.get("role") in ("system", "developer") for one in messages):
        return None
    asked = [_untrained(message) for message in messages]
    beside = {key: chat[key] for key in BESIDE if chat.get(key) not in (None, [])}
    if sent.row.get("label") is False:  # of KTO: what a good model does not say
        answers = []
    references = [_untrained(one) for one in answers[:1] if _says_something(one)]
    return Prompt(
        id=fingerprint({"messages": asked, **beside}),
        lines=(line,),
        messages=asked,
        beside=beside,
        references=references,
    )


def _is_utf8(prompt: Prompt) -> bool:
    said = [prompt.asked, prompt.references]
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _untrained(message: Json) -> Json:
    """Return a message without what is for training, which a host refuses in a chat."""
    return {key: value for key, value in message.items() if key not in TRAINING}


def _says_something(message: Json) -> bool:
    said = ("content", "tool_calls", "function_call", "refusal")
    return any(message.get(key) for key in said)


def _joined(first: Prompt, other: Prompt) -> Prompt:
    new = [one for one in other.references if one not in first.references]
    update = {"lines": (*first.lines, *other.lines), "references": [*first.references, *new]}
    return first.model_copy(update=update)


def _lines(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:NAMED]))
    more = f" and {len(numbers) - NAMED} more" if len(numbers) > NAMED else ""
    return f"line {shown}" if len(numbers) == 1 else f"lines {shown}{more}"


def fingerprint(value: Any) -> str:
    """Return the sha256 of a JSON value, in hex, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def drawn(prompts: Sequence[Prompt], count: int | None, seed: int) -> list[Prompt]:
    """Return so many of the prompts in their order, drawn by their content and the seed: whatever
    else is in the file, and in whatever order, moves none of them."""
    if count is None or count >= len(prompts):
        return [*prompts]
    places = sorted(prompts, key=lambda one: fingerprint([seed, one.id]))
    chosen = {one.id for one in places[:count]}
    return [one for one in prompts if one.id in chosen]


def fingerprint_of_all(prompts: Iterable[Prompt]) -> str:
    """Return what a set of prompts is recognised by, in whatever order."""
    return fingerprint(sorted(one.id for one in prompts))
