"""The canonical row: the one form in which a row is counted, judged and sent.

================  ===============================================================================
chat              OpenAI's: ``messages`` and ``tools``
preference        OpenAI's: ``input`` with the prompt, ``preferred_output``,
                  ``non_preferred_output``
unpaired (KTO)    a chat row with ``label``
text              ``text``
================  ===============================================================================

``read`` makes it of a row of any known format, and remembers which field of the user's row each
message comes from. Rows of OpenAI's own formats are sent as they are; of all others only the keys
above are sent. Counting (``tokens``), judging (``validation``) and sending (``jobs.planning``) all
take their row from here, so none of them can see another row than the one that leaves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from finetune_gateway.data.canonical_row import SIDES, CanonicalRow, of_messages, of_texts
from finetune_gateway.data.formats import (
    ALPACA,
    CHAT,
    PREFERENCE,
    PROMPT_COMPLETION,
    SENT_UNCHANGED,
    SHAREGPT,
    TEXT,
    TRL_PREFERENCE,
    UNPAIRED,
    format_of,
    no_format_text,
)
from finetune_gateway.data.sharegpt import (
    ConversionError,
    TurnReader,
    call_errors,
    with_string_arguments,
)
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

_CHAT_KEYS = frozenset({"messages", "tools", "functions", "parallel_tool_calls", "label"})
_PAIR_KEYS = frozenset({"input", "preferred_output", "non_preferred_output"})
_CALL_KEYS = frozenset({"tool_calls", "function_call"})


def read(row: Json) -> CanonicalRow:
    """Return the canonical row of a row of any known format; malformed fields are read as far as
    possible. A row of OpenAI's own formats, or of none, is returned itself. Never raises."""
    row_format = format_of(row)
    if row_format is None or row_format in SENT_UNCHANGED:
        return CanonicalRow(row)
    short = (of_texts(row) or of_messages(row)) if len(row) <= 3 else None
    if short is not None:
        return short
    reader = _Reader(row)
    converted = _READERS[row_format.name](reader)
    known = {"text"} if row_format is TEXT else _PAIR_KEYS | _CHAT_KEYS
    for key in ("functions", "parallel_tool_calls"):
        if row_format is not TRL_PREFERENCE and row_format is not TEXT and key in row:
            converted[key] = row[key]
            reader.used.add(key)
    if row_format is UNPAIRED:
        _untrain(converted["messages"][:-1])  # the label is for the last answer
    sent = {key: value for key, value in converted.items() if key in known}
    others = tuple(key for key in row if key not in reader.used)
    return CanonicalRow(sent, reader.errors, others, reader.origins, reader.lists)


def as_sent(row: Json) -> Json:
    """Return a row as it is sent. Never raises."""
    return read(row).row


def canonical(row: Json) -> Json:
    """Return a row in the canonical form of its kind, with its other keys: nothing is lost.

    Arguments of calls become a JSON string. Raises ConversionError for a row that cannot be read
    without loss.
    """
    row_format = format_of(row)
    if row_format is None:
        raise ConversionError("", no_format_text(row))
    reader = _Reader(row)
    converted = _READERS[row_format.name](reader)
    if reader.errors:
        raise reader.errors[0]
    for key, value in row.items():
        if key in reader.used or (row_format is CHAT and key in converted):
            continue
        if key in converted:
            reason = f"the key {quoted(key)} means something else in the target format"
            raise ConversionError(key, reason)
        converted[key] = value
    return converted


class _Reader:
    """Reads one row. ``used``: the keys it has read; ``lists``: the key of each list of
    messages."""

    def __init__(self, row: Json) -> None:
        self.row = row
        self.errors: list[ConversionError] = []
        self.origins: dict[int, tuple[str, str]] = {}
        self.lists: dict[str, str] = {}
        self.used: set[str] = set()

    def refuse(self, path: str, reason: str) -> None:
        self.errors.append(ConversionError(path, reason))

    def said(self, role: str, text: Any, path: str) -> Json:
        """Return a message made of a text."""
        return self.noted({"role": role, "content": text}, path, "text")

    def noted(self, message: Json, path: str, form: str) -> Json:
        self.origins[id(message)] = (path, form)
        return message

    def messages(self, messages: Any, path: str) -> list[Json]:
        """Return messages with the arguments of their calls as strings."""
        if not isinstance(messages, list):
            self.refuse(path, "this is not a list of messages")
            return []
        return [self.message(one, f"{path}[{index}]") for index, one in enumerate(messages)]

    def message(self, message: Any, path: str) -> Any:
        if not isinstance(message, dict):
            self.refuse(path, "this is not a message")
            return message
        if not isinstance(message.get("role"), str):
            self.refuse(f"{path}.role", "there is no role")
        elif _CALL_KEYS.isdisjoint(message):  # most messages; a copy, for weights are set in it
            return self.noted(dict(message), path, "message")
        else:
            self.errors += call_errors(message, path)
        return self.noted(with_string_arguments(message), path, "message")

    def turns(self, turns: Any, path: str) -> list[Json]:
        """Return the messages of ShareGPT turns."""
        messages = TurnReader(self.errors).messages(turns, path)
        places = [
            f"{path}[{index}]"
            for index, turn in enumerate(turns if isinstance(turns, list) else [])
            if isinstance(turn, dict)
        ]
        for message, place in zip(messages, places, strict=True):
            self.noted(message, place, "turn")
        return messages

    def spoken(self, key: str, role: str) -> list[Json]:
        """Return the messages of a field: a text by ``role``, TRL's messages, or ShareGPT turns."""
        self.used.add(key)
        value = self.row.get(key)
        if isinstance(value, list):
            by_turns = bool(value) and isinstance(value[0], dict) and "from" in value[0]
            return self.turns(value, key) if by_turns else self.messages(value, key)
        if isinstance(value, dict) and "from" in value:
            return [self.noted(TurnReader(self.errors).message(value, key), key, "turn")]
        if isinstance(value, dict):
            return [self.message(value, key)]
        if not isinstance(value, str):
            self.refuse(key, "this is neither a text nor a list of messages")
        return [self.said(role, value, key)]

    def with_system(self, messages: list[Json]) -> list[Json]:
        """Return a conversation that begins with the row's system prompt, if it has one."""
        key = next((key for key in ("system", "system_prompt") if not self._empty(key)), "")
        self.used |= {name for name in ("system", "system_prompt") if self._empty(name)} | {key}
        if not key:
            return messages
        text = self.row[key]
        if not isinstance(text, str):
            self.refuse(key, "this is not a text")
            return messages
        first = messages[0] if messages and isinstance(messages[0], dict) else {}
        if first.get("role") not in ("system", "developer"):
            return [self.said("system", text, key), *messages]
        if first.get("content") != text:
            self.refuse(key, "the conversation has another system prompt of its own")
        return messages

    def _empty(self, key: str) -> bool:
        value = self.row.get(key)
        return value is None or (isinstance(value, str) and not value.strip())

    def tools(self) -> Json:
        """Return the row's ``tools``, if it has any."""
        self.used.add("tools")
        tools = TurnReader(self.errors).tools(self.row["tools"]) if self.row.get("tools") else []
        return {"tools": tools} if tools else {}


# -- OpenAI's own formats ------------------------------------------------------------------


def _chat(reader: _Reader, row: Json | None = None, prefix: str = "") -> Json:
    row = reader.row if row is None else row
    read = dict(row)
    read["messages"] = reader.messages(row.get("messages"), f"{prefix}messages")
    if isinstance(row.get("tools"), str):
        read["tools"] = TurnReader(reader.errors).tools(row["tools"], f"{prefix}tools")
    elif not isinstance(row.get("tools"), list | None):
        reader.refuse(f"{prefix}tools", "this is not a list of tools")
    return read


def _preference(reader: _Reader) -> Json:
    row = reader.row
    pair_input = row.get("input")
    if not isinstance(pair_input, dict):
        reader.refuse("input", "this is not an object with messages")
        pair_input = {}
    read: Json = {"input": _chat(reader, pair_input, "input.")}
    reader.used.add("input")
    for side in ("preferred_output", "non_preferred_output"):
        old = side.replace("output", "completion")  # the key of older guides
        key = old if side not in row and old in row else side
        read[side] = reader.messages(row.get(key), key)
        reader.used.add(key)
    return read


# -- one conversation ------------------------------------------------------------------------


def _one_sided(reader: _Reader) -> Json:
    prompt = reader.spoken("prompt", "user")
    answer = reader.spoken("completion", "assistant")
    reader.lists["messages"] = "completion"
    if isinstance(reader.row.get("prompt"), list):
        # TRL trains only the completion, so the answers of the prompt get weight 0.
        _untrain(prompt)
    return {"messages": reader.with_system([*prompt, *answer]), **reader.tools()}


def _untrain(messages: list[Json]) -> None:
    """Give earlier answers of a conversation weight 0, in place."""
    for message in messages:
        if isinstance(message, dict) and message.get("role") == "assistant":
            message.setdefault("weight", 0)


def _unpaired(reader: _Reader) -> Json:
    row = reader.row
    if "messages" in row:
        reader.used |= {"messages", "label", "tools"}
        chat = _chat(reader)
        return {"messages": chat["messages"], "label": row["label"]} | (
            {"tools": chat["tools"]} if "tools" in chat else {}
        )
    reader.used.add("label")
    prompt = reader.spoken("prompt", "user")
    answer = reader.spoken("completion", "assistant")
    if len(answer) > 1:
        reader.refuse("completion", "a label is for one answer, not for several messages")
    reader.lists["messages"] = "completion"
    messages = reader.with_system([*prompt, *answer])
    return {"messages": messages, **reader.tools(), "label": row["label"]}


def _alpaca(reader: _Reader) -> Json:
    output = reader.row.get("output")
    reader.used.add("output")
    if not isinstance(output, str):
        reader.refuse("output", "there is no answer")
    prompt = reader.with_system(_alpaca_prompt(reader))
    answer = [] if output is None else [reader.said("assistant", output, "output")]
    reader.lists["messages"] = "output"
    return {"messages": [*prompt, *answer]}


def _alpaca_prompt(reader: _Reader) -> list[Json]:
    row, parts = reader.row, []
    reader.used |= {"instruction", "input", "history"}
    for key in ("instruction", "input"):
        if not isinstance(row.get(key), str | None):
            reader.refuse(key, "this is not a text")
        elif (row.get(key) or "").strip():
            parts.append(key)
    if not parts:
        reader.refuse("instruction", "there is no instruction")
    question = "\n\n".join(row[key] for key in parts)
    asked = [reader.said("user", question, parts[0])] if parts else []
    return [*_history(reader), *asked]


def _history(reader: _Reader) -> Iterator[Json]:
    """Yield earlier turns, given as pairs of question and answer."""
    history = reader.row.get("history")
    for index, pair in enumerate(history if isinstance(history, list) else []):
        if not isinstance(pair, list) or len(pair) != 2:
            reader.refuse(f"history[{index}]", "this is not a question and its answer")
            continue
        for at, (role, text) in enumerate(zip(("user", "assistant"), pair, strict=True)):
            yield reader.said(role, text, f"history[{index}][{at}]")
    if not isinstance(history, list | None):
        reader.refuse("history", "this is not a list of pairs")


def _sharegpt(reader: _Reader) -> Json:
    reader.used.add("conversations")
    reader.lists["messages"] = "conversations"
    messages = reader.turns(reader.row["conversations"], "conversations")
    return {"messages": reader.with_system(messages), **reader.tools()}


def _text(reader: _Reader) -> Json:
    reader.used.add("text")
    if not isinstance(reader.row["text"], str):
        reader.refuse("text", "this is not a text")
    return {"text": reader.row["text"]}


# -- pairs as chosen and rejected --------------------------------------------------------------


def _trl_preference(reader: _Reader) -> Json:
    good = reader.spoken("chosen", "assistant")
    bad = reader.spoken("rejected", "assistant")
    prompt = _pair_prompt(reader)
    _use_repeated_chat(reader, prompt, good)
    shared = len(good) > 1 and good[:-1] == bad[:-1]
    if shared and (not prompt or _repeats(prompt, good[:-1])):
        prompt, good, bad = good[:-1], good[-1:], bad[-1:]
        reader.lists["input.messages"] = "chosen"
    if not prompt:
        reader.refuse("prompt", "there is no prompt, and the two sides do not start with one")
    reader.lists |= SIDES
    reader.used.add("parallel_tool_calls")
    parallel = {key: reader.row[key] for key in ("parallel_tool_calls",) if key in reader.row}
    pair_input = {"messages": reader.with_system(prompt), **reader.tools(), **parallel}
    return {"input": pair_input, "preferred_output": good, "non_preferred_output": bad}


def _pair_prompt(reader: _Reader) -> list[Json]:
    """Return the prompt that is given beside the two answers, from the first key that has one."""
    row = reader.row
    for key, read in _PROMPTS.items():
        if row.get(key):
            reader.lists["input.messages"] = key
            return read(reader)
    return []


def _question(reader: _Reader) -> list[Json]:
    blank = not isinstance(reader.row.get("input"), str) or not reader.row["input"].strip()
    reader.lists["input.messages"] = "instruction"
    return [] if blank and not reader.row.get("instruction") else _alpaca_prompt(reader)


def _turns_of_pair(reader: _Reader) -> list[Json]:
    reader.used.add("conversations")
    return reader.turns(reader.row["conversations"], "conversations")


def _messages_of_pair(reader: _Reader) -> list[Json]:
    reader.used.add("messages")
    return reader.messages(reader.row["messages"], "messages")


# In order of precedence: ``messages`` beside a prompt is the conversation with the chosen answer.
_PROMPTS: dict[str, Callable[[_Reader], list[Json]]] = {
    "prompt": lambda reader: reader.spoken("prompt", "user"),
    "conversations": _turns_of_pair,
    "messages": _messages_of_pair,
    "instruction": _question,
    "input": _question,
}


def _use_repeated_chat(reader: _Reader, prompt: list[Json], good: list[Json]) -> None:
    """Note ``messages`` as used if it only repeats the prompt and the chosen answer."""
    if "messages" in reader.row and reader.row["messages"] in (good, [*prompt, *good]):
        reader.used.add("messages")


def _repeats(prompt: list[Json], start: list[Json]) -> bool:
    """Return True if both sides start with the prompt, which is also given separately."""
    texts = [message.get("content") for message in (*start, *prompt) if isinstance(message, dict)]
    if len(texts) < len(start) + len(prompt):
        return False
    texts = texts[: len(start)]
    return start == prompt or (len(prompt) == 1 and texts[-1] == prompt[0].get("content"))


_READERS: dict[str, Callable[[_Reader], Json]] = {
    CHAT.name: _chat,
    PREFERENCE.name: _preference,
    TRL_PREFERENCE.name: _trl_preference,
    UNPAIRED.name: _unpaired,
    PROMPT_COMPLETION.name: _one_sided,
    ALPACA.name: _alpaca,
    SHAREGPT.name: _sharegpt,
    TEXT.name: _text,
}
