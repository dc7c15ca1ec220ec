"""Rows in the form of another format but for a part: a worse answer beside it, which makes it a
pair, or calls and results of tools with roles of their own."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.readers import pair_of
from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.sharegpt import ROLES

Json = dict[str, Any]

# -- pairs ---------------------------------------------------------------------------------------

WORSE = ("rejected_response", "rejected_messages")


def pair(reader: Reader, made: Json) -> Json:
    """Return the pair of a conversation that was read, whose last answer is the better one, and of
    the worse answer beside it.

    https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
    """
    prompt, good = made["messages"][:-1], made["messages"][-1:]
    for message in prompt:
        message.pop("weight", None)  # of a prompt nothing is trained
    place = reader.lists.get("messages", "messages")
    return _pair(reader, prompt, good, place, made)


def two_responses(reader: Reader) -> Json:
    """Read a prompt with ``chosen_response`` and ``rejected_response``."""
    prompt = reader.spoken("prompt", "user")
    good = reader.spoken("chosen_response", "assistant")
    return _pair(reader, prompt, good, "chosen_response", {})


def _pair(reader: Reader, prompt: list[Json], good: list[Json], place: str, made: Json) -> Json:
    key = next(key for key in WORSE if key in reader.row)
    bad = reader.spoken(key, "assistant")
    if len(bad) > 1 and bad[:-1] != prompt:
        reader.refuse(key, "it begins otherwise than the messages", "preference_prompt_differs")
    reader.lists["input.messages"] = place
    pair = pair_of(reader, good, bad[-1:], prompt)
    reader.lists |= {"preferred_output": place, "non_preferred_output": key}
    if "tools" in made:
        pair["input"]["tools"] = made["tools"]
    return pair


# -- roles of calls ----------------------------------------------------------------------------

CALL_ROLES = ("tool_call", "function_call", "tool_response", "observation")


def is_tool_turns(row: Json) -> bool:
    """Return True for messages in which calls and results have roles of their own."""
    messages = row["messages"]
    return isinstance(messages, list) and any(
        isinstance(one, dict) and one.get("role") in CALL_ROLES for one in messages
    )


def tool_turns(reader: Reader) -> Json:
    """Read messages whose calls are of the role ``tool_call`` and results of ``tool_response``.

    https://swift.readthedocs.io/en/latest/Instruction/Agent-support.html
    """
    reader.used.add("messages")
    reader.lists["messages"] = "messages"
    turns = [
        {_TURN.get(key, key): value for key, value in one.items()} if _is_plain(one) else one
        for one in reader.row["messages"]
    ]
    messages = reader.turns(turns, "messages")
    for message in messages:
        path, form = reader.origins[id(message)]
        if form == "turn":
            reader.noted(message, path, {key: f"{path}{name}" for key, name in _FIELDS.items()})
    for error in reader.errors:
        error.path = error.path.replace("].value", "].content").replace("].from", "].role")
    return {"messages": reader.with_system(messages), **reader.tools()}


_TURN = {"role": "from", "content": "value"}
_FIELDS = {
    ".role": ".role", ".content": ".content", ".tool_calls": ".content", ".weight": ".weight",
}  # fmt: skip


def _is_plain(message: Any) -> bool:
    return isinstance(message, dict) and str(message.get("role", "user")) in ROLES
