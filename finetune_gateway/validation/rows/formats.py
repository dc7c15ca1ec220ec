"""Defects of rows in other formats than chat: pairs, prompt/completion, Alpaca, ShareGPT, text."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

from finetune_gateway.data import formats
from finetune_gateway.data.formats import Format
from finetune_gateway.findings import Defect, wrong_type
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation.rows.chat import (
    blank,
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
_SIDES = {
    "preferred_output": "missing_preferred",
    "non_preferred_output": "missing_non_preferred",
    "chosen": "missing_preferred",
    "rejected": "missing_non_preferred",
}


def format_defects(row: Json, row_format: Format) -> Defects:
    """Yield all defects of a row in a format other than chat."""
    return _CHECKS[row_format.name](row)


def _prompt_completion(row: Json) -> Defects:
    for key in ("prompt", "completion"):
        if row.get(key) is None:
            yield Defect(f"missing_{key}", key)
        elif isinstance(row[key], list):
            yield from messages_defects(row[key], key)
        elif not isinstance(row[key], str):
            yield wrong_type(key, row[key], "a string or a list of messages")
    if isinstance(row.get("prompt"), str) and blank(row["prompt"]):
        yield Defect("empty_content", "prompt", "a prompt without content")
    yield from _answer(row.get("completion"), "completion")
    if is_conversation(row.get("completion")):
        yield from ending_defects(row["completion"], "completion")


def _answer(text: Any, path: str) -> Defects:
    if isinstance(text, str) and blank(text):
        yield Defect("empty_assistant", path, "an answer without content")


def _alpaca(row: Json) -> Defects:
    yield from media_defects(media_keys(row))
    for key in ("instruction", "input", "output"):
        value = row.get(key)
        if value is not None and not isinstance(value, str):
            yield wrong_type(key, value, "a string")
    if isinstance(row["instruction"], str) and blank(row["instruction"]):
        yield Defect("empty_content", "instruction", "an instruction without content")
    if row["instruction"] is None:
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
    defects = list(_turns(turns))
    yield from defects
    yield from image_files(row)
    messages = formats.as_chat({"conversations": turns})["messages"]
    if not defects and is_conversation(messages):
        yield from order_defects(messages, "conversations")
        yield from ending_defects(messages, "conversations")


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
    yield from unknown_keys(_without_old_keys(row), _PAIR_KEYS, "")
    yield from _input(row)
    for side in ("preferred_output", "non_preferred_output"):
        old = side.replace("output", "completion")
        if old in row and side not in row:
            yield Defect("preference_key", old, f"the key {old!r} is outdated")
        else:
            yield from _side(row, side)
            yield from _side_calls(row, side)
    if row.get("preferred_output") and _is_same(row, "preferred_output", "non_preferred_output"):
        yield Defect("preference_identical", "non_preferred_output")


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
    if isinstance(row.get("input"), dict) and is_conversation(row.get(side)):
        yield from offered_defects(row[side], row["input"], side, "input.tools")


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
        for at, part in enumerate(parts if isinstance(parts, list) else []):
            if isinstance(part, dict) and part.get("type") == "image_url":
                yield Defect("preference_text_only", f"{path}[{index}].content[{at}]")


def _is_same(row: Json, one: str, other: str) -> bool:
    return bool(_stripped(row.get(one)) == _stripped(row.get(other)))


def _stripped(answer: Any) -> Any:
    """Return an answer without the spaces around its texts, which make no difference."""
    if isinstance(answer, str):
        return answer.strip()
    if isinstance(answer, list):
        return [_stripped(item) for item in answer]
    if isinstance(answer, dict) and isinstance(answer.get("content"), str):
        return {**answer, "content": answer["content"].strip()}
    return answer


def _trl_preference(row: Json) -> Defects:
    for side in ("chosen", "rejected"):
        yield from _trl_side(row, side)
    if row.get("chosen") and _is_same(row, "chosen", "rejected"):
        yield Defect("preference_identical", "rejected")
    yield from _pair_prompt(row)


def _trl_side(row: Json, side: str) -> Defects:
    value = row.get(side)
    if value is None or value == []:
        yield Defect(_SIDES[side], side, f"{side!r} is {'empty' if value == [] else 'missing'}")
    elif isinstance(value, list):
        yield from messages_defects(value, side)
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
    if any(row.get(key) for key in ("prompt", "conversations", "instruction", "messages")):
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
        yield from messages_defects(prompt, "prompt")
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
