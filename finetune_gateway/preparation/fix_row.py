"""What can be mended in one row without a guess: other formats as chat, role words, arguments of
calls that are encoded wrongly, keys that are null."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune_gateway.data import formats, sharegpt
from finetune_gateway.data.formats import canonical, format_of
from finetune_gateway.data.sharegpt import Unfit
from finetune_gateway.validation.json.parsing import BadLine, parse

Json = dict[str, Any]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# Words that other tools use for a role; anything else, such as a typing error, is not guessed.
_WORDS = {
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
}
_LISTS = ("messages", "prompt", "completion", "chosen", "rejected", "preferred_output",
          "non_preferred_output")  # fmt: skip
_NULLABLE = frozenset({"name", "weight", "refusal", "audio", "tool_calls", "function_call",
                       "tool_call_id"})  # fmt: skip
_ROW_NULLABLE = frozenset({"tools", "functions", "parallel_tool_calls"})


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was mended. ``after`` None: it was taken out."""

    code: str
    path: str
    before: Any
    after: Any


def mended(row: Json) -> tuple[Json, list[Change]]:
    """The row with what can be mended, and what was; the row itself when nothing was."""
    made, changes = copy.deepcopy(row), list[Change]()
    changes += _nulls(made, _ROW_NULLABLE, "")
    for messages, path in _conversations(made):
        for index, message in enumerate(messages):
            if isinstance(message, dict):
                changes += _message(message, f"{path}[{index}]")
    changes += _speakers(made)
    made, converted = _converted(made)
    changes += converted
    return (made, changes) if changes else (row, changes)


def _conversations(row: Json) -> Iterator[tuple[list[Any], str]]:
    for key in _LISTS:
        if isinstance(row.get(key), list):
            yield row[key], key
    given = row.get("input")
    if isinstance(given, dict) and isinstance(given.get("messages"), list):
        yield given["messages"], "input.messages"


def _message(message: Json, path: str) -> Iterator[Change]:
    yield from _nulls(message, _NULLABLE, f"{path}.")
    role = message.get("role")
    if isinstance(role, str) and role not in _ROLES:
        word = role.strip().lower()
        meant = word if word in _ROLES else _WORDS.get(word)
        if meant:
            message["role"] = meant
            yield Change("unknown_role", f"{path}.role", role, meant)
    if isinstance(message.get("function_call"), dict):
        yield from _arguments(message["function_call"], f"{path}.function_call")
    calls = message.get("tool_calls")
    for index, call in enumerate(calls if isinstance(calls, list) else []):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            yield from _arguments(function, f"{path}.tool_calls[{index}].function")


def _nulls(value: Json, keys: frozenset[str], prefix: str) -> Iterator[Change]:
    for key in [key for key, inner in value.items() if key in keys and inner is None]:
        del value[key]
        yield Change("null_key", f"{prefix}{key}", "null", None)


def _arguments(function: Json, path: str) -> Iterator[Change]:
    before = function.get("arguments")
    code, after = _wire_arguments(before)
    if code:
        function["arguments"] = after
        yield Change(code, f"{path}.arguments", before, after)


def _wire_arguments(before: Any) -> tuple[str, Any]:
    """The code of what is wrong with arguments and what they should be; "" for nothing."""
    if isinstance(before, dict):
        return "tool_args_type", sharegpt.as_string(before)
    if not isinstance(before, str):
        return "", before
    if not before.strip():
        return "tool_args_json", "{}"
    after = before
    for _ in range(3):  # encoded twice, or more often
        inner = _parsed(after)
        if not isinstance(inner, str):
            break
        after = inner
    whole = isinstance(_parsed(after), dict) and after != before
    return ("tool_args_double_encoded", after) if whole else ("", before)


def _parsed(text: str) -> Any:
    try:
        return parse(text)
    except BadLine:
        return None


def _speakers(row: Json) -> Iterator[Change]:
    """Speakers of ShareGPT with another case or spaces."""
    turns = row.get("conversations")
    for index, turn in enumerate(turns if isinstance(turns, list) else []):
        said = turn.get("from") if isinstance(turn, dict) else None
        if isinstance(said, str) and said not in sharegpt.ROLES:
            meant = said.strip().lower()
            if meant in sharegpt.ROLES:
                turn["from"] = meant
                yield Change("unknown_role", f"conversations[{index}].from", said, meant)


def _converted(row: Json) -> tuple[Json, list[Change]]:
    """The row in its canonical form, where it can be had without loss."""
    found = format_of(row)
    if found is None or found in (formats.CHAT, formats.TEXT):
        return row, []
    try:
        made = canonical(row)
    except Unfit:
        return row, []  # validating the copy says why
    if made == row:
        return row, []
    into = formats.format_of(made)
    code = found.note if found is not into else "preference_key"
    if found is formats.UNPAIRED:
        code = found.note
    return made, [Change(code, "", found.name, into.name if into else "")]
