"""Defects of rows in other formats than chat: pairs, prompt/completion, Alpaca, ShareGPT, text."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from finetune_gateway.data import formats
from finetune_gateway.data.canonical_row import CanonicalRow
from finetune_gateway.data.formats import Format
from finetune_gateway.data.sharegpt import with_string_arguments
from finetune_gateway.findings import Defect, wrong_type
from finetune_gateway.text.quoting import json_type, quoted
from finetune_gateway.validation.rows.chat import (
    blank,
    calls_tools,
    conversation_defects,
    ending_defects,
    image_files,
    is_conversation,
    media_defects,
    media_keys,
    messages_defects,
    order_defects,
    unknown_keys,
)
from finetune_gateway.validation.rows.tools import exchange_defects, offered_defects, tools_defects

Json = dict[str, Any]
Defects = Iterator[Defect]

_PAIR_KEYS = frozenset({"input", "preferred_output", "non_preferred_output"})
_PROMPTS = ("prompt", "conversations", "messages", "instruction")
_SIDES = {
    "preferred_output": "missing_preferred",
    "non_preferred_output": "missing_non_preferred",
    "chosen": "missing_preferred",
    "rejected": "missing_non_preferred",
}


def format_defects(row: Json, row_format: Format) -> Defects:
    """Yield all defects of a row in a format other than chat."""
    return _CHECKS[row_format.name](row)


def not_object(value: Any) -> Defect:
    """Return the defect of a line that holds another value than an object."""
    if not isinstance(value, list) or not value or not all(isinstance(x, dict) for x in value):
        return Defect("row_not_object", detail=f"the line is {json_type(value)}, not an object")
    if "role" in value[0]:
        return Defect("row_not_object", detail="the line is a bare list of messages")
    return Defect("json_array_not_jsonl", detail=f"the line is an array of {len(value)} objects")


def unknown_format(row: Json, expected: Format | None) -> Defect:
    """Return the defect of a row of no known format."""
    keys = formats.quoted_keys(row)
    for key in row:
        if key.strip().lower() == "messages":
            return Defect("missing_messages", "messages", f"no 'messages', but {quoted(key)}")
    if expected is formats.CHAT:
        row_keys = f"the keys are {keys}" if keys else "the row is an empty object"
        return Defect("missing_messages", "messages", f"no 'messages'; {row_keys}")
    if "custom_id" in row and "body" in row:
        fix = "Take body.messages of each line and add the answer."
        return Defect("unknown_format", detail="this is a file for the Batch API", fix=fix)
    return Defect("unknown_format", detail=formats.no_format_text(row))


def sent_defects(sent: CanonicalRow) -> Defects:
    """Yield the defects that a row of another format than OpenAI's has as it is sent, with the
    paths of the user's row."""
    for error in sent.errors:
        yield Defect("not_convertible", error.path, f"{error.reason} (as it would be sent)")
    if not sent.errors and "text" not in sent.row:
        judge = _preference if "preferred_output" in sent.row else conversation_defects
        for defect in judge(sent.row):
            yield replace(defect, path=sent.origin(defect.path))
    if sent.others:
        yield Defect("not_sent", "", _not_sent(sent.others))


def _not_sent(keys: tuple[str, ...]) -> str:
    shown = ", ".join(quoted(key) for key in keys[: formats.MAX_KEYS])
    more = len(keys) - formats.MAX_KEYS
    return f"keys that are not part of the example: {shown}{f' and {more} more' * (more > 0)}"


def _prompt_completion(row: Json) -> Defects:
    for key in ("prompt", "completion"):
        if row.get(key) is None:
            yield Defect(f"missing_{key}", key)
        elif isinstance(row[key], list):
            yield from _messages(row[key], key)
        elif not isinstance(row[key], str):
            yield wrong_type(key, row[key], "a string or a list of messages")
    if isinstance(row.get("prompt"), str) and blank(row["prompt"]):
        yield Defect("empty_content", "prompt", "a prompt without content")
    yield from _answer(row.get("completion"), "completion")
    if is_conversation(row.get("completion")):
        yield from ending_defects(row["completion"], "completion")


def _messages(messages: list[Any], path: str) -> Defects:
    """Check messages as they are sent: with the arguments of calls as strings."""
    sent = [with_string_arguments(one) if isinstance(one, dict) else one for one in messages]
    yield from messages_defects(sent, path)


def _answer(text: Any, path: str) -> Defects:
    if isinstance(text, str) and blank(text):
        yield Defect("empty_assistant", path, "an answer without content")


def _alpaca(row: Json) -> Defects:
    yield from media_defects(media_keys(row))
    for key in ("instruction", "input", "output"):
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            yield wrong_type(key, value, "a string")
    asked = isinstance(row.get("input"), str) and not blank(row["input"])
    if isinstance(row["instruction"], str) and blank(row["instruction"]) and not asked:
        yield Defect("missing_prompt", "instruction", "an instruction without content")
    if row["instruction"] is None and not asked:
        yield Defect("missing_prompt", "instruction", "'instruction' is null")
    if row.get("output") is None:
        yield Defect("missing_output", "output", _missing_detail(row, "output"))
    yield from _answer(row.get("output"), "output")
    yield from image_files(row)


def _missing_detail(row: Json, key: str) -> str:
    names = [str(name)[:40] for name in list(row)[:50]]
    close = [name for name in difflib.get_close_matches(key, names, n=1) if name != key]
    return f"there is no {key!r}, but {quoted(close[0])}" if close else ""


def _text(row: Json) -> Defects:
    if not isinstance(row["text"], str):
        yield wrong_type("text", row["text"], "a string")
    elif blank(row["text"]):
        yield Defect("empty_text", "text")


def _sharegpt(row: Json) -> Defects:
    yield from media_defects(media_keys(row))
    turns = row["conversations"]
    if not turns:
        yield Defect("empty_messages", "conversations", "'conversations' is empty")
    yield from _turns(turns)
    yield from image_files(row)


def _turns(turns: list[Any]) -> Defects:
    for index, turn in enumerate(turns):
        path = f"conversations[{index}]"
        if isinstance(turn, dict):
            yield from _turn(turn, path)
        else:
            yield wrong_type(path, turn, "an object with from and value")


def _rename_hint(turn: Json) -> str:
    chat = "role" in turn and "content" in turn
    return "These are chat messages: rename 'conversations' to 'messages'." if chat else ""


def _turn(turn: Json, path: str) -> Defects:
    speaker, value = turn.get("from"), turn.get("value")
    if not isinstance(speaker, str):
        yield Defect("missing_role", f"{path}.from", "a turn without 'from'", _rename_hint(turn))
    elif speaker not in formats.SHAREGPT_ROLES:
        close = difflib.get_close_matches(speaker.strip().lower()[:40], formats.SHAREGPT_ROLES, 1)
        fix = f'Did you mean "{close[0]}"?' if close else "Write human, gpt or system."
        yield Defect("unknown_role", f"{path}.from", f"there is no speaker {quoted(speaker)}", fix)
    if value is None:
        yield Defect("missing_content", f"{path}.value", "a turn without 'value'")
    elif not isinstance(value, str):
        yield wrong_type(f"{path}.value", value, "a string")
    elif formats.SHAREGPT_ROLES.get(str(speaker)) == "assistant":
        yield from _answer(value, f"{path}.value")


def _preference(row: Json) -> Defects:
    if not _PAIR_KEYS.issuperset(row):
        yield from unknown_keys(_without_old_keys(row), _PAIR_KEYS, "")
    yield from _input(row)
    for side in ("preferred_output", "non_preferred_output"):
        old = side.replace("output", "completion")
        if old in row and side not in row:
            yield Defect("preference_key", old, f"the key {old!r} is outdated")
        else:
            yield from _side(row, side)
            yield from _side_calls(row, side)
    good, bad = row.get("preferred_output"), row.get("non_preferred_output")
    if good and _plain(good) == _plain(bad):
        yield Defect("preference_identical", "non_preferred_output")
    elif good and _plain(good, _without_whitespace) == _plain(bad, _without_whitespace):
        yield Defect("preference_whitespace", "non_preferred_output")


def _without_old_keys(row: Json) -> Json:
    return {key: value for key, value in row.items() if not key.endswith("preferred_completion")}


def _input(row: Json) -> Defects:
    pair_input = row.get("input")
    if pair_input is None:
        yield Defect("missing_input", "input")
    elif not isinstance(pair_input, dict):
        yield wrong_type("input", pair_input, "an object with messages")
    elif "messages" not in pair_input:
        yield Defect("missing_messages", "input.messages")
    else:
        yield from _input_messages(pair_input)


def _input_messages(pair_input: Json) -> Defects:
    messages, path = pair_input["messages"], "input.messages"
    yield from messages_defects(messages, path)
    yield from tools_defects(pair_input, "input.")
    if not is_conversation(messages):
        return
    yield from _no_images(messages, path)
    if calls_tools(messages):
        yield from exchange_defects(messages, pair_input, path)
    yield from order_defects(messages, path)
    if messages[-1]["role"] == "assistant":
        yield Defect("preference_input_end", f"{path}[{len(messages) - 1}]")


def _side(row: Json, side: str) -> Defects:
    answers = row.get(side)
    if answers is None or answers == []:
        yield Defect(_SIDES[side], side, f"{side!r} is {'empty' if answers == [] else 'missing'}")
    elif not isinstance(answers, list):
        yield wrong_type(side, answers, "a list of one assistant message")
    else:
        yield from _answers(answers, side)


def _side_calls(row: Json, side: str) -> Defects:
    """Check the calls of an answer against the tools of the input."""
    answers = row.get(side)
    if isinstance(row.get("input"), dict) and is_conversation(answers) and calls_tools(answers):
        yield from offered_defects(answers, row["input"], side, "input.tools")


def _answers(answers: list[Any], side: str) -> Defects:
    if len(answers) > 1:
        yield Defect("preference_turns", side, f"{len(answers)} messages in {side!r}")
    yield from messages_defects(answers, side)
    for index, answer in enumerate(answers):
        role = answer.get("role") if isinstance(answer, dict) else None
        if isinstance(role, str) and role != "assistant":
            detail = f"the role is {quoted(role)}, not assistant"
            yield Defect("preference_role", f"{side}[{index}].role", detail)
    yield from _no_images([answer for answer in answers if isinstance(answer, dict)], side)


def _no_images(messages: list[Json], path: str) -> Defects:
    for index, message in enumerate(messages):
        parts = message.get("content")
        if not isinstance(parts, list):
            continue
        for at, part in enumerate(parts):
            if isinstance(part, dict) and part.get("type") == "image_url":
                yield Defect("preference_text_only", f"{path}[{index}].content[{at}]")


def _plain(answer: Any, text: Callable[[str], str] = str.strip) -> Any:
    """Return an answer without what makes no difference: spaces around its texts (or what ``text``
    leaves of these), null keys, and whether the text is a string or parts."""
    if isinstance(answer, str):
        return text(answer)
    if isinstance(answer, list):
        return [_plain(item, text) for item in answer]
    if not isinstance(answer, dict):
        return answer
    content = answer.get("content")
    if isinstance(content, list) and all(_is_text(part) for part in content):
        content = "".join(part["text"] for part in content)
    bare = {key: value for key, value in answer.items() if value is not None}
    return {**bare, "content": _plain(content, text)} if content else bare


def _without_whitespace(text: str) -> str:
    return "".join(text.split())


def _is_text(part: Any) -> bool:
    return (
        isinstance(part, dict) and part.keys() == {"type", "text"} and isinstance(part["text"], str)
    )


def _trl_preference(row: Json) -> Defects:
    for side in ("chosen", "rejected"):
        yield from _trl_side(row, side)
    yield from _pair_prompt(row)


def _trl_side(row: Json, side: str) -> Defects:
    value = row.get(side)
    if value is None or value == []:
        yield Defect(_SIDES[side], side, f"{side!r} is {'empty' if value == [] else 'missing'}")
    elif isinstance(value, list):
        yield from _messages(value, side)
        last = value[-1].get("role") if isinstance(value[-1], dict) else None
        if isinstance(last, str) and last != "assistant":
            detail = f"the role is {quoted(last)}, not assistant"
            yield Defect("preference_role", f"{side}[{len(value) - 1}].role", detail)
    elif isinstance(value, str | dict):
        yield from _answer(_text_of(value), side)
    else:
        yield wrong_type(side, value, "a string or a list of messages")


def _text_of(value: Any) -> Any:
    return value.get("value", value.get("content")) if isinstance(value, dict) else value


def _pair_prompt(row: Json) -> Defects:
    """Check the prompt, which is given separately or repeated by both sides."""
    if any(row.get(key) for key in _PROMPTS) or isinstance(row.get("input"), str):
        yield from _prompt(row.get("prompt"))
        return
    good, bad = row.get("chosen"), row.get("rejected")
    if isinstance(good, list) and isinstance(bad, list) and good and bad:
        if good[:-1] != bad[:-1]:
            yield Defect("preference_prompt_differs", "rejected", _difference(good, bad))
        elif len(good) == 1:
            yield Defect("missing_prompt", "prompt")
    elif isinstance(good, str | dict):
        yield Defect("missing_prompt", "prompt")


def _prompt(prompt: Any) -> Defects:
    if isinstance(prompt, list):
        yield from _messages(prompt, "prompt")
    elif not isinstance(prompt, str | dict | None):
        yield wrong_type("prompt", prompt, "a string or a list of messages")


def _difference(good: list[Any], bad: list[Any]) -> str:
    at = next((i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b), 0)
    return f"chosen and rejected differ from message {at} on, before the answer"


def _unpaired(row: Json) -> Defects:
    if not isinstance(row.get("label"), bool):
        yield Defect("label", "label", f"the label is {quoted(row.get('label'))}")
    if "messages" in row:
        yield from conversation_defects(row)
    else:
        yield from _prompt_completion(row)


_CHECKS: dict[str, Callable[[Json], Defects]] = {
    "prompt-completion": _prompt_completion,
    "alpaca": _alpaca,
    "text": _text,
    "sharegpt": _sharegpt,
    "openai-preference": _preference,
    "trl-preference": _trl_preference,
    "unpaired-preference": _unpaired,
}
