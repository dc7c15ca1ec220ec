"""A row as it is sent, and the short way to it for rows of texts alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from finetune_gateway.data.sharegpt import ConversionError

Json = dict[str, Any]
Origins = dict[int, tuple[str, str | dict[str, str]]]

# Keys of a canonical row, and of the input of a pair.
TOOL_KEYS = frozenset({"tools", "functions", "parallel_tool_calls"})
CHAT_KEYS = TOOL_KEYS | {"messages"}
PAIR_KEYS = frozenset({"input", "preferred_output", "non_preferred_output"})
MESSAGE_KEYS = frozenset(
    {
        "role", "content", "name", "weight", "refusal", "audio",
        "tool_calls", "tool_call_id", "function_call",
    }
)  # fmt: skip
SIDES = {"preferred_output": "chosen", "non_preferred_output": "rejected"}
_MESSAGE = re.compile(r"(input\.messages|messages|(?:non_)?preferred_output)\[(\d+)\](.*)")
_OPEN = ("[", "{")  # how messages begin that were written as a text
_TURN_FIELDS = {"role": "from", "content": "value", "tool_calls": "value"} | {
    key: key for key in ("weight", "reasoning_content", "thinking", "reasoning")
}


@dataclass(slots=True)
class CanonicalRow:
    """A row as it is sent, and where its parts come from.

    ``errors``: what could not be read without loss. ``others``: keys of the user's row that are
    not part of it. ``plain``: a question and an answer, both texts, and nothing else. ``filled``:
    paths of ids of calls and results that the user's row lacks, and the ids (``call_ids``).
    """

    row: Json
    errors: list[ConversionError] = field(default_factory=list)
    others: tuple[str, ...] = ()
    # Of each message: the path in the user's row, and its form there: message, turn, text, or the
    # paths of its fields.
    _origins: Origins = field(default_factory=dict)
    _lists: dict[str, str] = field(default_factory=dict)
    plain: bool = False
    filled: tuple[tuple[str, str], ...] = ()

    def origin(self, path: str) -> str:
        """Return the path in the user's row of a path in this one."""
        match = _MESSAGE.fullmatch(path)
        if match is None:
            return self._lists.get(path) or self._beside(path.removeprefix("input."))
        holder = self.row["input"] if match[1].startswith("input.") else self.row
        message = holder[match[1].removeprefix("input.")][int(match[2])]
        source, form = self._origins.get(id(message)) or self._in_list(match)
        if isinstance(form, dict):
            return _renamed_path(match[3], form) or source
        if form == "message":
            return source + match[3]
        if form == "turn" and match[3]:
            return f"{source}.{_TURN_FIELDS.get(re.split(r'[.[]', match[3])[1], 'value')}"
        return source

    def _beside(self, path: str) -> str:
        """Return the path of what is beside the messages: tools may be bare functions, or all of
        them one text."""
        if path.startswith("tools") and "tools" in self._lists:
            return self._lists["tools"]
        return (_renamed_path(path, self._lists) if path.startswith("tools") else "") or path

    def _in_list(self, match: re.Match[str]) -> tuple[str, str | dict[str, str]]:
        return f"{self._lists.get(match[1], match[1])}[{match[2]}]", "message"


def _renamed_path(path: str, names: dict[str, str]) -> str:
    """Return a path whose longest known beginning has another name; "" if none is known."""
    start = path
    while start:
        if start in names:
            return names[start] + path[len(start) :]
        start = start[: max(start.rfind("."), start.rfind("["), 0)]
    return ""


def of_texts(row: Json) -> CanonicalRow | None:
    """Return the canonical row of a prompt with a completion, or with a chosen and a rejected
    answer, all texts and nothing else; None for other rows.

    Most rows are such, and a reader takes three times as long to the same end.
    """
    prompt = row.get("prompt")
    if type(prompt) is not str or not prompt:
        return None
    asked = {"role": "user", "content": prompt}
    if prompt.lstrip()[:1] in _OPEN:  # perhaps messages
        return None
    if (
        len(row) == 2
        and type(answer := row.get("completion")) is str
        and answer.lstrip()[:1] not in _OPEN
    ):
        said = {"role": "assistant", "content": answer}
        origins: Origins = {id(asked): ("prompt", "text"), id(said): ("completion", "text")}
        lists = {"messages": "completion"}
        return CanonicalRow({"messages": [asked, said]}, [], (), origins, lists, plain=True)
    good, bad = row.get("chosen"), row.get("rejected")
    if len(row) != 3 or type(good) is not str or type(bad) is not str:
        return None
    if good.lstrip()[:1] in _OPEN or bad.lstrip()[:1] in _OPEN:
        return None
    return _pair(asked, good, bad)


def of_messages(row: Json) -> CanonicalRow | None:
    """Return the canonical row of a chosen and a rejected answer, beside their prompt or each with
    it, as lists of messages with role and content alone; None for other rows. The messages are the
    row's own."""
    good, bad = row.get("chosen"), row.get("rejected")
    if not (_are_texts(good) and _are_texts(bad)):
        return None
    if len(row) == 2 and len(good) > 1 and good[:-1] == bad[:-1]:
        ends = zip((good[-1], bad[-1]), (good, bad), ("chosen", "rejected"), strict=True)
        origins: Origins = {
            id(last): (f"{key}[{len(chat) - 1}]", "message") for last, chat, key in ends
        }
        return _renamed(good[:-1], good[-1:], bad[-1:], {"input.messages": "chosen"}, origins)
    prompt = row.get("prompt")
    if len(row) == 3 and len(good) == 1 == len(bad) and _are_texts(prompt):
        return _renamed(prompt, good, bad, {"input.messages": "prompt"}, {})
    return None


def _are_texts(messages: Any) -> TypeGuard[list[Json]]:
    """Return True for a list of messages with a role and a text, and nothing else."""
    return type(messages) is list and bool(messages) and all(map(_is_text, messages))


def _is_text(message: Any) -> bool:
    return (
        type(message) is dict
        and len(message) == 2
        and type(message.get("role")) is str
        and type(message.get("content")) is str
    )


def _pair(asked: Json, good: str, bad: str) -> CanonicalRow:
    chosen, rejected = ({"role": "assistant", "content": text} for text in (good, bad))
    origins: Origins = {
        id(asked): ("prompt", "text"),
        id(chosen): ("chosen", "text"),
        id(rejected): ("rejected", "text"),
    }
    return _renamed([asked], [chosen], [rejected], {"input.messages": "prompt"}, origins)


def _renamed(
    prompt: list[Json], good: list[Json], bad: list[Json], lists: dict[str, str], origins: Origins
) -> CanonicalRow:
    row = {"input": {"messages": prompt}, "preferred_output": good, "non_preferred_output": bad}
    return CanonicalRow(row, [], (), origins, lists | SIDES)
