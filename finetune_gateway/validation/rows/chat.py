"""Defects of a conversation: fields, roles and their order, weights.

Each check yields a ``Defect`` per error and never raises, whatever a row holds. Tools are checked
in ``tools``, content parts in ``parts``.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeGuard

from finetune_gateway.data.canonical_row import CHAT_KEYS, MESSAGE_KEYS, TOOL_KEYS
from finetune_gateway.data.cells import listed
from finetune_gateway.data.column_names import as_option, is_plain, normalized
from finetune_gateway.data.row_access import blank
from finetune_gateway.data.sharegpt import text_way
from finetune_gateway.findings import Defect, child, wrong_type
from finetune_gateway.text.quoting import quoted
from finetune_gateway.tokens.template_rows import REASONING
from finetune_gateway.validation.json.parsing import BadLine, parse
from finetune_gateway.validation.rows.parts import part_defects
from finetune_gateway.validation.rows.tools import (
    call_defects,
    exchange_defects,
    missing_id,
    tools_defects,
)

Json = dict[str, Any]
Defects = Iterator[Defect]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SYSTEM = ("system", "developer")
_RESULT_AS_TEXT = (
    "Write it as JSON in a string (json.dumps); --fix does: ftg validate old.jsonl --fix new.jsonl"
)
_RENAME = "Rename {!r} to 'content'; --fix does: ftg validate old.jsonl --fix new.jsonl"
_AS_LIST = "Write it as a list; --fix does: ftg validate old.jsonl --fix new.jsonl"
MAX_IMAGES = {"image_count": 10, "image_count_azure": 64}  # per row; sources in rules.toml

_FOREIGN_ROLES = {
    "human": "user", "customer": "user", "prompter": "user", "client": "user",
    "bot": "assistant", "gpt": "assistant", "ai": "assistant", "model": "assistant",
    "agent": "assistant", "chatgpt": "assistant", "observation": "tool", "ipython": "tool",
}  # fmt: skip
_ROW_KEYS = CHAT_KEYS | {"images", "label"}
MEDIA = ("videos", "video", "audios", "audio")  # as LLaMA-Factory and TRL list them
# Texts beside the conversation that by their names are meant to be a part of it.
_MEANT = {
    "reasoning_beside": (
        "reasoning", "reasoning_content", "reasoning_text", "thinking", "thought", "thoughts",
        "think", "cot", "chain_of_thought", "complex_cot", "rationale", "reasoning_trace",
        "thinking_trajectory",
    ),
    "system_unread": (
        "persona", "sys", "sys_prompt", "system", "system_prompt", "system_message", "system_text",
        "system_instruction", "systeminstruction", "preprompt", "pre_prompt",
    ),
}  # fmt: skip
_MEANT_FOR = {name: code for code, names in _MEANT.items() for name in names}
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_MAX_UNKNOWN = 20  # unknown keys reported for one object
_TOOLS = "Use tools, tool_calls and role tool; --fix does: ftg validate old.jsonl --fix new.jsonl"
_MAX_DROPPED = 8  # keys in a command


def chat_defects(row: Json, *, reinforcement: bool = False) -> Defects:
    """Yield all defects of a chat row.

    ``reinforcement``: rows may end with the user and have further keys for the grader.
    """
    media = media_keys(row)
    yield from media_defects(media)
    if media:
        row = {key: value for key, value in row.items() if key not in media}
    yield from conversation_defects(row, reinforcement=reinforcement)
    if "label" in row and not reinforcement:  # one that is no label of KTO
        yield from unknown_keys({"label": row["label"]}, frozenset(), "")


def media_keys(row: Json) -> list[str]:
    """Return the keys that hold paths of sound or video files."""
    return [key for key in MEDIA if row.get(key) and isinstance(row[key], str | list)]


def media_defects(keys: list[str]) -> Defects:
    """Yield a defect for each of these keys."""
    for key in keys:
        yield Defect("media_beside", key, f"{key!r} is next to the text")


def conversation_defects(row: Json, *, reinforcement: bool = False) -> Defects:
    """Yield all defects of the messages and tools of a row."""
    if not reinforcement:
        yield from unknown_keys(row, _ROW_KEYS, "")
    yield from image_files(row)
    messages = row.get("messages")
    for defect in _old_form_once(row, messages_defects(messages, "messages")):
        if not (reinforcement and defect.code == "developer_role"):  # its schema has that role
            yield defect
        if reinforcement and defect.code == "image_local":
            yield Defect("image_reinforcement", defect.path)
    if not TOOL_KEYS.isdisjoint(row):
        yield from _old_form_once(row, tools_defects(row, ""))
    if is_conversation(messages):
        yield from order_defects(messages, "messages")
        if calls_tools(messages):
            yield from exchange_defects(messages, row, "messages")
        if not reinforcement:
            yield from ending_defects(messages, "messages")


def _old_form_once(row: Json, defects: Defects) -> Defects:
    """Yield defects; that a row is in the deprecated form once, wherever else that stands in it."""
    met = False
    for defect in defects:
        if defect.code != "deprecated_functions":
            yield defect
        elif not met and (defect.path == "functions" or "functions" not in row):
            from finetune_gateway.data.deprecated_functions import with_tools  # few rows have it

            met = True
            yield defect if with_tools(row) is None else replace(defect, fix=_TOOLS)


def is_conversation(messages: Any) -> TypeGuard[list[Json]]:
    """Return True for a list of objects that all have a known role: their order can be checked."""
    return (
        isinstance(messages, list)
        and bool(messages)
        and all(isinstance(item, dict) and item.get("role") in ROLES for item in messages)
    )


def calls_tools(messages: list[Json]) -> bool:
    """Return True if a message of a conversation calls a tool, or is a tool's result."""
    return any(item["role"] == "tool" or item.get("tool_calls") for item in messages)


def _text_for_list(path: str, text: str) -> Defect:
    """Return the defect of a text where a list of messages should be."""
    plain = wrong_type(path, text, "a list of messages")
    if not text.lstrip().startswith("["):
        return plain
    value, is_python = listed(text)
    if isinstance(value, list):
        what = "a list as Python prints it" if is_python else "JSON: the list was encoded twice"
        return replace(plain, detail=f"{plain.detail} (it holds {what})", fix=_AS_LIST)
    try:
        parse(text)
    except BadLine as exc:
        reason = exc.defect.detail or exc.defect.code
        detail = f"{plain.detail}: it begins like a list in JSON, but {reason}"
        return replace(plain, detail=detail, fix="Correct the JSON, or export it again.")
    return plain


def messages_defects(messages: Any, path: str) -> Defects:
    """Yield the defects of each message by itself."""
    if not isinstance(messages, list):
        is_text = isinstance(messages, str)
        yield (
            _text_for_list(path, messages)
            if is_text
            else wrong_type(path, messages, "a list of messages")
        )
        return
    if not messages:
        yield Defect("empty_messages", path)
    images = 0
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            yield wrong_type(f"{path}[{index}]", message, "an object with role and content")
        elif not _is_plain(message):
            for defect in _message_defects(message, f"{path}[{index}]"):
                is_result = defect.code == "tool_id_missing" and message.get("role") == "tool"
                yield replace(defect, detail=missing_id(messages, index)) if is_result else defect
            images += _count_images(message)
    if images:
        too_many = [code for code, most in MAX_IMAGES.items() if images > most]
        yield from (Defect(code, path, f"{images} images in one row") for code in too_many)


def _is_plain(message: Json) -> bool:
    """Return True for a usual message, which needs no further checks, as in ``fast_path``: rules
    about its text are in ``leftovers`` and ``detectors``."""
    content = message.get("content")
    return (
        len(message) == 2
        and message.get("role") in ("system", "user", "assistant")
        and isinstance(content, str)
        and not blank(content)
    )


def _count_images(message: Json) -> int:
    """Return the number of images in a message."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    return sum(1 for part in parts if isinstance(part, dict) and "image_url" in part)


def _message_defects(message: Json, path: str) -> Defects:
    yield from unknown_keys(message, MESSAGE_KEYS, path)
    role = message.get("role")
    if "role" not in message:
        yield Defect("missing_role", f"{path}.role", _role_hint(message))
    elif not isinstance(role, str):
        yield wrong_type(f"{path}.role", role, "a string")
    elif role not in ROLES:
        yield _unknown_role(role, f"{path}.role")
    elif role == "developer":
        yield Defect("developer_role", path)
    yield from _content_defects(message, path)
    yield from _field_defects(message, path)
    yield from _weight_defects(message, path)
    yield from call_defects(message, path)


def _role_hint(message: Json) -> str:
    for key in message:
        if key.lower() in ("role", "from"):
            return f"a message without 'role' (there is {quoted(key)})"
    return ""


def _unknown_role(role: str, path: str) -> Defect:
    folded = role.strip().lower()
    if folded in ROLES:
        meant = folded
    else:
        close = difflib.get_close_matches(folded[:40], ROLES, n=1)
        meant = _FOREIGN_ROLES.get(folded, close[0] if close else "")
    fix = f'Did you mean "{meant}"?' if meant else ""
    return Defect("unknown_role", path, f"there is no role {quoted(role)}", fix)


def _content_defects(message: Json, path: str) -> Defects:
    content, role = message.get("content"), message.get("role")
    here = f"{path}.content"
    if isinstance(content, str):
        if blank(content) and not _has_other_content(message):
            yield from _blank_text(role, content, here)
    elif isinstance(content, list):
        if content or not _has_other_content(message):
            yield from part_defects(content, role, here)
        if role == "tool" and content:
            yield Defect("tool_parts", here)
        if content and not any(map(_is_visible, content)) and not _has_other_content(message):
            yield from _blank_text(role, "", here)
    elif role == "tool" and isinstance(content, dict):
        found = wrong_type(here, content, "a string or a list of parts")
        yield replace(found, fix=_RESULT_AS_TEXT)
    elif content is not None:
        found = wrong_type(here, content, "a string or a list of parts")
        yield replace(found, fix=text_way(content))
    elif not _has_other_content(message) and role != "function":
        yield _no_content(message, here)


def _blank_text(role: Any, content: str, path: str) -> Defects:
    what = "empty" if not content else "only white space or invisible characters"
    if role == "assistant":
        yield Defect("empty_assistant", path, f"an assistant message that is {what}")
    elif role in ("user", *SYSTEM):
        yield Defect("empty_content", path, f"a {role} message that is {what}")


def _is_visible(part: Any) -> bool:
    """Return True if a part has visible content. Malformed parts are reported elsewhere."""
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get(kind) if kind in ("text", "refusal") else None
    return not isinstance(text, str) or not blank(text)


def _no_content(message: Json, path: str) -> Defect:
    if "content" not in message:
        other = next((key for key in ("value", "text") if isinstance(message.get(key), str)), "")
        if not other:
            return Defect("missing_content", path)
        detail = f"a message without 'content' (there is {other!r})"
        return Defect("missing_content", path, detail, _RENAME.format(other))
    if message.get("role") == "assistant":
        return Defect("empty_assistant", path, "content is null and there are no tool calls")
    return Defect("missing_content", path, "content is null")


def _has_other_content(message: Json) -> bool:
    """Return True if an assistant message calls tools or refuses instead of having content."""
    return message.get("role") == "assistant" and any(
        message.get(key) for key in ("tool_calls", "function_call", "refusal", "audio")
    )


def _field_defects(message: Json, path: str) -> Defects:
    name, refusal = message.get("name"), message.get("refusal")
    if isinstance(name, str):
        if not _NAME.fullmatch(name):
            yield Defect("name_chars", f"{path}.name", f"the name {quoted(name)}")
    elif "name" in message:
        yield _null_or_wrong(name, f"{path}.name", "a string")
    if refusal is not None and not isinstance(refusal, str):
        yield wrong_type(f"{path}.refusal", refusal, "a string")
    elif refusal is not None and message.get("role") in ROLES and message["role"] != "assistant":
        detail = f"a {message['role']} message has no refusal"
        yield Defect("unknown_key", f"{path}.refusal", detail)


def _null_or_wrong(value: Any, path: str, expected: str) -> Defect:
    return Defect("null_key", path) if value is None else wrong_type(path, value, expected)


def _weight_defects(message: Json, path: str) -> Defects:
    if "weight" not in message:
        return
    weight, here = message["weight"], f"{path}.weight"
    if message.get("role") != "assistant":
        yield Defect("weight_role", here)
    elif isinstance(weight, bool) or not isinstance(weight, int | float) or weight not in (0, 1):
        yield Defect("weight_value", here, f"the weight {quoted(weight)}")


def order_defects(messages: list[Json], path: str) -> Defects:
    """Yield defects in the order of roles, except at the end and for tools."""
    roles = [message["role"] for message in messages]
    turns = [(index, role) for index, role in enumerate(roles) if role not in SYSTEM]
    for index, role in enumerate(roles):
        if index and role in SYSTEM:
            yield Defect("system_not_first", f"{path}[{index}]")
        elif index and role == roles[index - 1] and role in ("user", "assistant"):
            yield Defect("same_role_twice", f"{path}[{index}]", f"two {role} messages in a row")
    if "user" not in roles:
        yield Defect("no_user", path)
    elif turns and turns[0][1] == "assistant":
        yield Defect("assistant_first", f"{path}[{turns[0][0]}]")


def ending_defects(messages: list[Json], path: str) -> Defects:
    """Yield a defect if there is no answer to learn, or the row does not end with one."""
    answers = [message for message in messages if message["role"] == "assistant"]
    last = len(messages) - 1
    if not answers:
        yield Defect("no_assistant", path)
    elif messages[last]["role"] != "assistant":
        detail = f"the last message is from {quoted(messages[last]['role'])}, not the assistant"
        yield Defect("last_not_assistant", f"{path}[{last}]", detail)
    if answers and all(_has_weight_0(message) for message in answers):
        yield Defect("nothing_to_learn", path)


def _has_weight_0(message: Json) -> bool:
    weight = message.get("weight", 1)
    return isinstance(weight, int | float) and not isinstance(weight, bool) and weight == 0


def image_files(row: Json) -> Defects:
    """Yield defects of images given as paths next to the messages (LLaMA-Factory, LLaVA)."""
    for key in ("images", "image"):
        listed = row.get(key)
        if isinstance(listed, str):
            yield Defect("image_path", key, f"the image {quoted(listed)} is given as a path")
        elif isinstance(listed, list) and listed:
            detail = f"the image {quoted(listed[0])} is next to the messages"
            yield Defect("image_path", f"{key}[0]", detail)


def unknown_keys(value: Json, known: frozenset[str], path: str) -> Defects:
    """Yield a defect for each unknown key, 20 at most."""
    unknown = [key for key in value if key not in known]
    for index, key in enumerate(unknown[:_MAX_UNKNOWN]):
        if not path and (meant := meant_for(key, value[key])):
            yield meant_defect(key, meant)
            continue
        close = [name for name in known if name == key.strip().lower()]
        fix = f"Did you mean {close[0]!r}?" if close else ""
        if not (fix or path or index):
            fix = _left_out(tuple(unknown))
        code = "reasoning_key" if key in REASONING and path else "unknown_key"
        yield Defect(code, child(path, key), f"the key {quoted(key)} is not known", fix)


@lru_cache(maxsize=64)  # the same few keys in thousands of rows
def _left_out(keys: tuple[str, ...]) -> str:
    """Return what to do about keys of a row, with the command that leaves all of them out; "" if
    they can't be shown as they are."""
    named = [key for key in keys if not _rule_of(key)]
    if len(named) > _MAX_DROPPED or not all(map(is_plain, named)):
        return ""
    drops = " ".join(f"--drop {shlex.quote(key)}" for key in named)
    command = f"ftg convert old.jsonl --to openai {drops} -o new.jsonl"
    return (
        "Check whether it is a known key misspelt or belongs into a message; else leave it out: "
        f"{command}"
    )


def meant_for(key: str, value: Any) -> str:
    """Return the rule that a key beside the conversation breaks if its text is meant to be a part
    of that; "" for other keys."""
    if len(key) > 40 or not isinstance(value, str):
        return ""
    code = _rule_of(key)
    return code if code and not blank(value) else ""


@lru_cache(maxsize=256)  # the same few keys in thousands of rows
def _rule_of(key: str) -> str:
    return _MEANT_FOR.get(normalized(key), "")


def meant_defect(key: str, code: str) -> Defect:
    """Return the defect of such a key."""
    if code == "reasoning_beside":
        return Defect(code, key, f"reasoning in {quoted(key)}, beside the conversation")
    fix = f"Rename it to system, or read it as that: {as_option({key: 'system'})}"
    return Defect(code, key, f"a system text in {quoted(key)}, beside the conversation", fix)
