"""Defects of preference pairs in OpenAI's form, in which the pairs of all formats are judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from finetune_gateway.data.canonical_row import CHAT_KEYS, PAIR_KEYS
from finetune_gateway.findings import Defect, wrong_type
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation.rows.chat import (
    calls_tools,
    is_conversation,
    messages_defects,
    order_defects,
    unknown_keys,
)
from finetune_gateway.validation.rows.tools import exchange_defects, offered_defects, tools_defects

Json = dict[str, Any]
Defects = Iterator[Defect]

_REPEATED = 12  # characters of a question that both answers begin with by no chance
_BEGIN = 200  # characters of two answers that are compared first
_SIDES = {
    "preferred_output": "missing_preferred",
    "non_preferred_output": "missing_non_preferred",
}


def pair_defects(row: Json) -> Defects:
    """Yield all defects of a pair."""
    if not PAIR_KEYS.issuperset(row):
        yield from unknown_keys(_without_old_keys(row), PAIR_KEYS, "")
    yield from _input(row)
    for side in ("preferred_output", "non_preferred_output"):
        old = side.replace("output", "completion")
        if old in row and side not in row:
            yield Defect("preference_key", old, f"the key {old!r} is outdated")
        else:
            yield from _side(row, side)
            yield from _side_calls(row, side)
    good, bad = row.get("preferred_output"), row.get("non_preferred_output")
    if good and _are_equal(good, bad, str.strip):
        yield Defect("preference_identical", "non_preferred_output")
    elif good and _are_equal(good, bad, _without_whitespace):
        yield Defect("preference_whitespace", "non_preferred_output")
    elif good and bad and _repeats_prompt(row, good, bad):
        yield Defect("prompt_in_answers", "preferred_output")


def _repeats_prompt(row: Json, *sides: Any) -> bool:
    """Return True if both answers begin with the text of the question."""
    pair_input = row.get("input")
    messages = pair_input.get("messages") if isinstance(pair_input, dict) else None
    asked, *said = map(_last_text, (messages, *sides))
    return len(asked) >= _REPEATED and all(text.startswith(asked) for text in said)


def _last_text(messages: Any) -> str:
    last = messages[-1] if isinstance(messages, list) and messages else None
    content = last.get("content") if isinstance(last, dict) else None
    return content.strip() if isinstance(content, str) else ""


def _are_equal(good: Any, bad: Any, text: Callable[[str], str]) -> bool:
    """Return True for answers that are equal except for what makes no difference (``_plain``)."""
    one, other = _lone_text(good), _lone_text(bad)
    if one is None or other is None:
        return bool(_plain(good, text) == _plain(bad, text))
    begins = _without_whitespace(one[:_BEGIN]), _without_whitespace(other[:_BEGIN])
    shorter = min(map(len, begins))
    if begins[0][:shorter] != begins[1][:shorter]:
        return False  # most pairs
    return text(one) == text(other)


def _lone_text(answer: Any) -> str | None:
    """Return the text of an answer of one assistant message with nothing else."""
    if not isinstance(answer, list) or len(answer) != 1 or not isinstance(answer[0], dict):
        return None
    text = answer[0].get("content")
    is_plain = len(answer[0]) == 2 and answer[0].get("role") == "assistant"
    return text if is_plain and isinstance(text, str) else None


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
    if not CHAT_KEYS.issuperset(pair_input):
        yield from unknown_keys(pair_input, CHAT_KEYS, "input")
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


def _plain(answer: Any, text: Callable[[str], str]) -> Any:
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
