"""Fix what needs no guess in a row: other formats than chat, names of roles, wrongly encoded
arguments of calls, null keys."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_gateway.data import call_ids, formats, sharegpt
from finetune_gateway.data.call_turns import with_tool_calls, with_turns
from finetune_gateway.data.canonical import canonical, read, read_as, rows_within
from finetune_gateway.data.canonical_row import CHAT_KEYS, PAIR_KEYS, TOOL_KEYS
from finetune_gateway.data.cells import EITHER, LABELS, MESSAGES, holds_messages, listed
from finetune_gateway.data.deprecated_functions import is_deprecated, with_tools
from finetune_gateway.data.formats import format_of
from finetune_gateway.data.readers import several_answers
from finetune_gateway.data.row_access import dumped
from finetune_gateway.data.row_reader import FAILED, SYSTEM_KEYS, is_marked
from finetune_gateway.data.sharegpt import ConversionError
from finetune_gateway.validation.json.parsing import BadLine, parse

Json = dict[str, Any]

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
# Names that other tools use for a role; anything else, such as a typo, is not guessed.
_ROLE_NAMES = {
    **{role: role for role in _ROLES},
    "human": "user",
    "gpt": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "model": "assistant",
    "chatbot": "assistant",
}
_TEXTS = ("content", "value", "text")  # names of what is said
_STEPS = re.compile(r"([^.\[\]]+)|\[(\d+)\]")
_LISTS = ("messages", "conversations", "conversation", "prompt", "completion", "chosen", "rejected",
          "preferred_output", "non_preferred_output")  # fmt: skip
_MAX_BESIDE = 20  # keys beside the example that are named
_NULLABLE = frozenset({"name", "weight", "refusal", "audio", "tool_calls", "function_call",
                       "tool_call_id"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One fix. ``after`` None: it was removed."""

    code: str
    path: str
    before: Any
    after: Any


@dataclass(slots=True)
class Formats:
    """The formats of the rows of a file so far.

    ``convert``: write chat rows and pairs. ``partly``: of a row that cannot be converted, or has
    keys that are not part of the example. One would be of another format than the rest, the other
    be warned of.
    """

    convert: bool = True
    names: set[str] = field(default_factory=set)
    partly: bool = False
    # Labels of numbers are written as true and false: of a file that has other numbers none is.
    write_labels: bool = True
    classes: bool = False
    # Keys that are not part of the example: True for one of the row, False for one within another.
    beside: dict[str, bool] = field(default_factory=dict)
    refused: bool = False  # a row cannot be converted

    @property
    def is_wrong(self) -> bool:
        """Return True if the file shows that rows are better left as they are in some way."""
        return self.kept or self.has_wrong_labels

    def corrected(self) -> Formats:
        """Return what a pass from the start begins with."""
        return Formats(
            convert=self.convert and not self.kept,
            write_labels=self.write_labels and not self.has_wrong_labels,
            beside=self.beside,
            refused=self.refused,
        )

    @property
    def has_wrong_labels(self) -> bool:
        """Return True if labels were written as true and false that are classes, by other rows."""
        return self.write_labels and self.classes

    @property
    def kept(self) -> bool:
        """Return True if a file of one format is better not converted."""
        return self.convert and self.partly and len(self.names) == 1


def fix_row(row: Json, seen: Formats | None = None) -> tuple[Json, list[Change]]:
    """Return the fixed row and the changes; the row itself if there are none. Its format is noted
    in ``seen``."""
    seen = seen or Formats()
    fixed, changes = copy.deepcopy(row), list[Change]()
    changes += _without_nulls(fixed)
    changes += _read_lists(fixed)
    changes += _write_numbers(fixed)
    changes += _fix_tools(fixed)
    seen.classes = seen.classes or _is_class(row.get("label", True), seen)
    changes += _fix_label(fixed) if seen.write_labels else ()
    names = {} if _has_own_roles(fixed) else _ROLE_NAMES
    for messages, path in _conversations(fixed):
        for index, message in enumerate(messages):
            if isinstance(message, dict):
                changes += _fix_message(message, f"{path}[{index}]", names)
        for at, where, own in call_ids.fill(messages):
            changes.append(Change("tool_id_missing", f"{path}[{at}]{where}", None, own))
    changes += _fix_speakers(fixed)
    if made := with_turns(fixed):
        changes.append(Change("call_as_text", "", fixed, made))
        fixed = made
    fixed, converted = _convert(fixed, seen)
    changes += converted
    fixed, written = _with_tools(fixed)
    changes += written
    if called := with_tool_calls(fixed):
        changes.append(Change("call_as_text", "", fixed, called))
        fixed = called
    return (fixed, changes) if changes else (row, changes)


def _with_tools(row: Json) -> tuple[Json, list[Change]]:
    """Write the deprecated form of calls with tools, where nothing else changes."""
    made = with_tools(row) if is_deprecated(row) else None
    if made is None or format_of(row) is not formats.CHAT:
        return row, []
    return made, [Change("deprecated_functions", "", row, made)]


def _read_lists(row: Json) -> Iterator[Change]:
    """Read lists of messages that were written as a text, as JSON or as Python prints them."""
    for key in (MESSAGES | EITHER) & row.keys():
        before = row[key]
        if not isinstance(before, str) or before.lstrip()[:1] not in ("[", "{"):
            continue
        after = listed(before)[0]
        if _is_wrong(row, key, after) if key in EITHER else isinstance(after, list):
            row[key] = after
            yield Change("type_error", key, before, after)


def _write_numbers(row: Json) -> Iterator[Change]:
    """Write numbers that stand for a text, such as a class, as the text."""
    for error in read(row).errors if format_of(row) else ():
        if error.fix == sharegpt.NUMBER_AS_TEXT:
            holder: Any = row
            *steps, last = (int(at) if at else key for key, at in _STEPS.findall(error.path))
            for step in steps:
                holder = holder[step]
            before, holder[last] = holder[last], dumped(holder[last])
            yield Change("type_error", error.path, before, holder[last])


def _is_wrong(row: Json, key: str, value: Any) -> bool:
    """Return True if a text that holds messages is an error there: in some formats it is a text."""
    if not holds_messages(value):
        return False
    if key == "input":
        return "preferred_output" in row
    return any(error.path == key for error in read(row).errors)


def _conversations(row: Json) -> Iterator[tuple[list[Any], str]]:
    for key in _LISTS:
        if isinstance(row.get(key), list):
            yield row[key], key
    pair_input = row.get("input")
    if isinstance(pair_input, dict) and isinstance(pair_input.get("messages"), list):
        yield pair_input["messages"], "input.messages"


def _has_own_roles(row: Json) -> bool:
    """Return True for a row that is read with the names of roles that it has: it is converted as a
    whole, or not at all."""
    row_format = format_of(row)
    if row_format is None or row_format in formats.SENT_UNCHANGED:
        return False
    return not read_as(row, row_format).errors


def _fix_message(message: Json, path: str, names: Mapping[str, str]) -> Iterator[Change]:
    yield from _remove_nulls(message, _NULLABLE, f"{path}.")
    yield from _rename_text(message, path)
    said = message.get("content")
    if "role" in message and isinstance(said, int | float) and not isinstance(said, bool):
        message["content"] = dumped(said)
        yield Change("type_error", f"{path}.content", said, message["content"])
    role = message.get("role")
    if isinstance(role, str) and role not in _ROLES:
        word = role.strip().lower()
        meant = names.get(word)
        if meant:
            message["role"] = meant
            yield Change("unknown_role", f"{path}.role", role, meant)
    yield from _fix_result(message, f"{path}.content")
    if isinstance(message.get("function_call"), dict):
        yield from _fix_arguments(message["function_call"], f"{path}.function_call")
    given = message.get("tool_calls")
    calls: list[Any] = given if isinstance(given, list) else []
    for index, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if isinstance(function, dict):
            if "type" not in call:  # as Mistral writes it
                calls[index] = call = {"type": "function", **call}
                yield Change("tool_type", f"{path}.tool_calls[{index}].type", None, "function")
            yield from _fix_arguments(function, f"{path}.tool_calls[{index}].function")


def _rename_text(message: Json, path: str) -> Iterator[Change]:
    """Give the text of a message, or of a turn, its name."""
    name = "value" if "from" in message else "content"
    others = [key for key in _TEXTS if isinstance(message.get(key), str)]
    speaks = "from" in message or "role" in message
    if speaks and len(others) == 1 and name not in message and "tool_calls" not in message:
        message[name] = message.pop(others[0])
        yield Change("missing_content", f"{path}.{name}", others[0], name)


def _fix_tools(row: Json) -> Iterator[Change]:
    """Wrap bare functions in a list of tools, and write the type of a tool."""
    pair_input = row.get("input")
    for holder, prefix in ((row, ""), (pair_input, "input.")):
        tools: Any = holder.get("tools") if isinstance(holder, dict) else None
        for at, tool in enumerate(tools if isinstance(tools, list) else []):
            if isinstance(tool, dict) and (made := _whole_tool(tool)) != tool:
                code = "tool_type" if "function" in tool else "type_error"
                yield Change(code, f"{prefix}tools[{at}]", dict(tool), made)
                tools[at] = made


def _whole_tool(tool: Json) -> Json:
    if isinstance(tool.get("function"), dict):
        return tool if "type" in tool else {"type": "function", **tool}
    is_bare = isinstance(tool.get("name"), str) and "function" not in tool
    is_function = is_bare and tool.get("type", "function") == "function"
    return sharegpt.wrapped(tool) if is_function else tool


def _is_class(label: Any, seen: Formats) -> bool:
    """Return True for a label that KTO does not have, or that is neither true nor false and the
    first one in a file of rows without: those are no rows of KTO."""
    alone = bool(seen.names) and formats.UNPAIRED.name not in seen.names
    return not isinstance(label, bool) and (alone or not formats.is_label(label))


def _fix_label(row: Json) -> Iterator[Change]:
    """Write a label as true or false, where it is a number or a text that says so."""
    before = row.get("label")
    if isinstance(before, bool) or not isinstance(before, str | int):
        return
    after = LABELS.get(str(before).strip().lower())
    if after is not None and format_of(row) is formats.UNPAIRED:
        row["label"] = after
        yield Change("label", "label", before, after)


def _fix_result(message: Json, path: str) -> Iterator[Change]:
    """Write the result of a tool as a text, as OpenAI's schema has it."""
    before = message.get("content")
    if message.get("role") != "tool":
        return
    if isinstance(before, dict):
        message["content"] = sharegpt.as_string(before)
        yield Change("type_error", path, before, message["content"])
    elif isinstance(before, list) and before and all(map(_is_text_part, before)):
        message["content"] = "".join(part["text"] for part in before)
        yield Change("tool_parts", path, before, message["content"])


def _is_text_part(part: Any) -> bool:
    is_text = isinstance(part, dict) and part.get("type") == "text" and len(part) == 2
    return is_text and isinstance(part.get("text"), str)


def _without_nulls(row: Json) -> list[Change]:
    """Remove keys of tools that are null, unless the row is of another format without them."""
    rest = dict(row)
    changes = list(_remove_nulls(rest, TOOL_KEYS, ""))
    if not changes or format_of(rest) is not format_of(row):
        return []
    for change in changes:
        del row[change.path]
    return changes


def _remove_nulls(value: Json, keys: frozenset[str], prefix: str) -> Iterator[Change]:
    for key in [key for key, inner in value.items() if key in keys and inner is None]:
        del value[key]
        yield Change("null_key", f"{prefix}{key}", "null", None)


def _fix_arguments(function: Json, path: str) -> Iterator[Change]:
    before = function.get("arguments")
    code, after = _fixed_arguments(before)
    if code:
        function["arguments"] = after
        yield Change(code, f"{path}.arguments", before, after)


def _fixed_arguments(before: Any) -> tuple[str, Any]:
    """Return the code of the defect and the fixed arguments; "" if there is none."""
    if isinstance(before, dict):
        return "tool_args_type", sharegpt.as_string(before)
    if not isinstance(before, str):
        return "", before
    if not before.strip():
        return "tool_args_json", "{}"
    value, is_python = listed(before)
    if is_python and isinstance(value, dict):
        return "tool_args_json", sharegpt.as_string(value)
    after = before
    for _ in range(3):  # may be encoded more than twice
        inner = _parsed(after)
        if not isinstance(inner, str):
            break
        after = inner
    is_double = isinstance(_parsed(after), dict) and after != before
    return ("tool_args_double_encoded", after) if is_double else ("", before)


def _parsed(text: str) -> Any:
    try:
        return parse(text)
    except BadLine:
        return None


def _fix_speakers(row: Json) -> Iterator[Change]:
    """Fix case and spaces of ShareGPT's speakers."""
    for key in _LISTS:
        value = row.get(key)
        turns = value if isinstance(value, list) else [value]
        for index, turn in enumerate(turns):
            speaker = turn.get("from") if isinstance(turn, dict) else None
            if isinstance(speaker, str) and speaker not in sharegpt.ROLES:
                meant = speaker.strip().lower()
                if meant in sharegpt.ROLES:
                    turn["from"] = meant
                    path = f"{key}[{index}].from" if turns is value else f"{key}.from"
                    yield Change("unknown_role", path, speaker, meant)


def _convert(row: Json, seen: Formats) -> tuple[Json, list[Change]]:
    """Return the row in its canonical form, if nothing is lost."""
    before = format_of(row)
    if before is None:
        return row, []
    seen.names.add(before.name)
    rewritten = before in formats.SENT_UNCHANGED and not formats.is_unchanged(row, before)
    if before is formats.TEXT or (before is formats.CHAT and not rewritten):
        return row, []
    # Some backends refuse keys of older guides, tools in a text, and other keys than weight.
    needed = _is_refused(row) if rewritten else before is formats.PREFERENCE
    if not (seen.convert or needed):
        return row, []
    try:
        converted = canonical(row, rename=True)
    except ConversionError:
        seen.partly = seen.refused = True
        return row, []  # the report on the copy says why
    if converted == row:
        return row, []
    after = formats.format_of(converted)
    known = PAIR_KEYS if before.kind == "preference" else CHAT_KEYS
    if before.kind == "unpaired_preference":
        known |= {"label"}
    dropped = [key for key in read_as(row, before).others if key not in row]  # keys of turns
    if not needed and (dropped or not converted.keys() <= known):
        seen.partly = True
        if len(seen.beside) < _MAX_BESIDE:
            seen.beside |= {key: key in row for key in read_as(row, before).others}
    if rewritten:
        return converted, [Change(_why_rewritten(row), "", row, converted)]
    unchanged = before is after and before is not formats.UNPAIRED
    code = "preference_key" if unchanged else before.note
    return converted, [Change(code, "", before.name, after.name if after else "")]


def failure_of(row: Json) -> str:
    """Return the field of a logged request that says that it failed, which leaves nothing to learn;
    empty for another row."""
    row_format = format_of(row)
    if row_format is None or not row_format.note or row_format.kind != "chat":
        return ""
    errors = read_as(row, row_format).errors
    return next((one.path for one in errors if one.fix == FAILED), "")


def _is_refused(row: Json) -> bool:
    given = row.get("input")
    holders = [row, given] if isinstance(given, dict) else [row]
    is_text = any(isinstance(holder.get("tools"), str) for holder in holders)
    return is_text or (_is_marked(row) and row.keys() <= CHAT_KEYS)


def _is_marked(row: Json) -> bool:
    messages = row.get("messages")
    return isinstance(messages, list) and any(map(is_marked, messages))


def _why_rewritten(row: Json) -> str:
    """Return the rule that a row of OpenAI's own formats breaks, so that it is not sent as it
    is."""
    given = row.get("input")
    holders = [row, given] if isinstance(given, dict) else [row]
    if any(key in holder for holder in holders for key in SYSTEM_KEYS):
        return "system_beside"
    is_text = any(isinstance(holder.get("tools"), str) for holder in holders)
    if not is_text and _is_marked(row):
        return "weight_key"
    return "tools_json" if is_text or "tools" not in row else "tools_beside"


def unwrapped(row: Json) -> list[Json]:
    """Return the rows that a row of no known format holds in one of its keys; empty if it holds
    none, or if a key beside them would be lost."""
    key, rows = rows_within(row) if format_of(row) is None else ("", [])
    beside = {name: one for name, one in row.items() if name != key}
    lost = any(beside.keys() & one.keys() for one in rows)
    return [] if lost else [{**one, **beside} for one in rows]


def pairs_of(row: Json) -> list[Json]:
    """Return a pair for each answer of a row with a list of them on one side; empty for another
    row."""
    side = several_answers(row)
    return [{**row, side: answer} for answer in row[side]] if side else []
