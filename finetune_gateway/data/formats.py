"""Training formats of rows, recognized by their keys, and the chat form of each.

Reads rows and does not judge them; ``validation`` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from finetune_gateway.data import sharegpt
from finetune_gateway.data.dataset import Kind
from finetune_gateway.data.sharegpt import ConversionError, TurnReader, as_string
from finetune_gateway.methods import methods_for
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

MAX_KEYS = 8  # keys of an unknown row that are shown


@dataclass(frozen=True, slots=True)
class Format:
    """A known format.

    ``name``: as in reports. ``kind``: of its rows. ``note``: the code of its note, if any.
    ``methods``: the training methods it suits.
    """

    name: str
    kind: Kind
    note: str
    methods: frozenset[str]


def _format(name: str, kind: Kind, note: str = "") -> Format:
    methods = frozenset(methods_for(kind))
    # Reinforcement takes OpenAI's chat rows only, and those have no note.
    return Format(name, kind, note, methods - {"reinforcement"} if note else methods)


CHAT = _format("openai-chat", "chat")
PREFERENCE = _format("openai-preference", "preference", "format_preference")
TRL_PREFERENCE = _format("trl-preference", "preference", "format_trl_preference")
UNPAIRED = _format("unpaired-preference", "unpaired_preference", "format_unpaired_preference")
PROMPT_COMPLETION = _format("prompt-completion", "prompt_completion", "format_prompt_completion")
ALPACA = _format("alpaca", "prompt_completion", "format_alpaca")
SHAREGPT = _format("sharegpt", "chat", "format_sharegpt")
TEXT = _format("text", "text", "format_text")

FORMATS = (
    CHAT, PREFERENCE, TRL_PREFERENCE, UNPAIRED, PROMPT_COMPLETION, ALPACA, SHAREGPT, TEXT,
)  # fmt: skip

SHAREGPT_ROLES = sharegpt.ROLES

_OPENAI_PAIR = (
    "preferred_output",
    "non_preferred_output",
    "preferred_completion",
    "non_preferred_completion",
)


def format_of(row: Json) -> Format | None:
    """Return the format of a row, or None if it is unknown."""
    if any(key in row for key in _OPENAI_PAIR):
        return PREFERENCE
    if "chosen" in row or "rejected" in row:
        return TRL_PREFERENCE
    if "messages" in row:
        return UNPAIRED if "label" in row else CHAT
    if isinstance(row.get("conversations"), list):
        return SHAREGPT
    return _single_turn(row)


def _single_turn(row: Json) -> Format | None:
    if "instruction" in row:
        return ALPACA
    if "prompt" in row and "completion" in row:
        return UNPAIRED if "label" in row else PROMPT_COMPLETION
    if isinstance(row.get("input"), dict) and "messages" in row["input"]:
        return PREFERENCE
    if isinstance(row.get("prompt"), str) or isinstance(row.get("completion"), str):
        return PROMPT_COMPLETION
    return TEXT if "text" in row else None


def as_chat(row: Json) -> Json:
    """Return a row of one conversation as OpenAI's chat, without keys that OpenAI does not know;
    a pair, a text or a chat unchanged. Never raises: malformed fields are read as far as
    possible."""
    row_format = format_of(row)
    if row_format not in (PROMPT_COMPLETION, ALPACA, SHAREGPT):
        return row
    return _READERS[row_format.name](row, [])


def canonical(row: Json) -> Json:
    """Return a row in the canonical form of its kind: OpenAI's chat (with ``label`` in a KTO
    row), OpenAI's preference pair, or a text.

    Arguments of calls become a JSON string. Keys that no format knows are kept. Raises
    ConversionError for a row that cannot be read without loss.
    """
    row_format = format_of(row)
    if row_format is None:
        raise ConversionError("", no_format_text(row))
    errors: list[ConversionError] = []
    converted = _READERS[row_format.name](row, errors)
    if errors:
        raise errors[0]
    used = _used_keys(row, row_format)
    for key, value in row.items():
        if key in used or (row_format is CHAT and key in converted):
            continue
        if key in converted:
            reason = f"the key {quoted(key)} means something else in the target format"
            raise ConversionError(key, reason)
        converted[key] = value
    return converted


def _chat(row: Json, errors: list[ConversionError]) -> Json:
    read = dict(row)
    read["messages"] = _messages(row.get("messages"), "messages", errors)
    if isinstance(row.get("tools"), str):
        read["tools"] = TurnReader(errors).tools(row["tools"])
    elif not isinstance(row.get("tools"), list | None):
        errors.append(ConversionError("tools", "this is not a list of tools"))
    return read


def _messages(messages: Any, path: str, errors: list[ConversionError]) -> list[Json]:
    """Return messages with the arguments of their calls as strings."""
    if not isinstance(messages, list):
        errors.append(ConversionError(path, "this is not a list of messages"))
        return []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            errors.append(ConversionError(f"{path}[{index}]", "this is not a message"))
        elif not isinstance(message.get("role"), str):
            errors.append(ConversionError(f"{path}[{index}].role", "there is no role"))
        else:
            errors += _call_errors(message, f"{path}[{index}]")
    return [
        _with_string_arguments(message) if isinstance(message, dict) else message
        for message in messages
    ]


def _call_errors(message: Json, path: str) -> Iterator[ConversionError]:
    """Yield errors of malformed calls, which no format could represent."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        yield ConversionError(f"{path}.tool_calls", "this is not a list of calls")
        return
    for index, call in enumerate(calls or []):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not {"name", "arguments"} <= function.keys():
            yield ConversionError(
                f"{path}.tool_calls[{index}]", "a call has a function with its arguments"
            )
    if not isinstance(message.get("function_call"), dict | None):
        yield ConversionError(f"{path}.function_call", "this is not a call")


def _with_string_arguments(message: Json) -> Json:
    converted = dict(message)
    if isinstance(message.get("function_call"), dict):
        converted["function_call"] = _string_arguments(message["function_call"])
    if isinstance(message.get("tool_calls"), list):
        converted["tool_calls"] = [_string_call(call) for call in message["tool_calls"]]
    return converted


def _string_call(call: Any) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    return {**call, "function": _string_arguments(call["function"])}


def _string_arguments(function: Json) -> Json:
    if not isinstance(function.get("arguments"), dict):
        return function
    return {**function, "arguments": as_string(function["arguments"])}


def _one_sided(row: Json, errors: list[ConversionError]) -> Json:
    prompt = _read_messages(row.get("prompt"), "user", "prompt", errors)
    answer = _read_messages(row.get("completion"), "assistant", "completion", errors)
    if isinstance(row.get("prompt"), list):
        # TRL trains only the completion, so the answers of the prompt get weight 0.
        prompt = [_untrained(message) for message in prompt]
    return {"messages": [*prompt, *answer], **_tools(row, errors)}


def _untrained(message: Json) -> Json:
    answer = isinstance(message, dict) and message.get("role") == "assistant"
    return {"weight": 0, **message} if answer else message


def _read_messages(value: Any, role: str, path: str, errors: list[ConversionError]) -> list[Json]:
    """Return the messages of TRL's conversational form, of ShareGPT turns, or of a plain text."""
    turns = [value] if isinstance(value, dict) else value
    if isinstance(turns, list):
        if turns and isinstance(turns[0], dict) and "from" in turns[0]:
            return TurnReader(errors).messages(turns, path)
        return _messages(turns, path, errors)
    if not isinstance(value, str):
        errors.append(ConversionError(path, "this is neither a text nor a list of messages"))
    return [{"role": role, "content": value}]


def _tools(row: Json, errors: list[ConversionError]) -> Json:
    tools = TurnReader(errors).tools(row["tools"]) if row.get("tools") else []
    return {"tools": tools} if tools else {}


def _alpaca(row: Json, errors: list[ConversionError]) -> Json:
    messages = _alpaca_prompt(row, errors)
    output = row.get("output")
    if not isinstance(output, str):
        errors.append(ConversionError("output", "there is no answer"))
    answer = [] if output is None else [{"role": "assistant", "content": output}]
    return {"messages": [*messages, *answer]}


def _alpaca_prompt(row: Json, errors: list[ConversionError]) -> list[Json]:
    for key in ("instruction", "input", "system"):
        if not isinstance(row.get(key), str | None):
            errors.append(ConversionError(key, "this is not a text"))
    if not row.get("instruction"):
        errors.append(ConversionError("instruction", "there is no instruction"))
    question = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    system = row.get("system")
    return [
        *([{"role": "system", "content": system}] if system else []),
        *_history(row.get("history"), errors),
        *([{"role": "user", "content": question}] if question else []),
    ]


def _history(history: Any, errors: list[ConversionError]) -> Iterator[Json]:
    """Yield earlier turns, given as pairs of question and answer."""
    for index, pair in enumerate(history if isinstance(history, list) else []):
        if not isinstance(pair, list) or len(pair) != 2:
            errors.append(
                ConversionError(f"history[{index}]", "this is not a question and its answer")
            )
            continue
        for role, text in zip(("user", "assistant"), pair, strict=True):
            yield {"role": role, "content": text}
    if not isinstance(history, list | None):
        errors.append(ConversionError("history", "this is not a list of pairs"))


def _sharegpt(row: Json, errors: list[ConversionError]) -> Json:
    reader = TurnReader(errors)
    messages = reader.messages(row["conversations"], "conversations")
    system = row.get("system")
    if not isinstance(system, str | None):
        errors.append(ConversionError("system", "this is not a text"))
    if system:
        messages.insert(0, {"role": "system", "content": system})
    tools = reader.tools(row.get("tools"))
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _preference(row: Json, errors: list[ConversionError]) -> Json:
    pair_input = row.get("input")
    if not isinstance(pair_input, dict):
        errors.append(ConversionError("input", "this is not an object with messages"))
        pair_input = {}
    read: Json = {"input": _chat(pair_input, errors)}
    for side in ("preferred_output", "non_preferred_output"):
        old = side.replace("output", "completion")  # the key of older guides
        key = old if side not in row and old in row else side
        read[side] = _messages(row.get(key), key, errors)
    return read


def _trl_preference(row: Json, errors: list[ConversionError]) -> Json:
    good = _read_messages(row.get("chosen"), "assistant", "chosen", errors)
    bad = _read_messages(row.get("rejected"), "assistant", "rejected", errors)
    prompt = _pair_prompt(row, errors)
    shared = len(good) > 1 and good[:-1] == bad[:-1]
    if not prompt and shared or prompt and shared and _repeats(prompt, good[:-1]):
        prompt, good, bad = good[:-1], good[-1:], bad[-1:]
    if not prompt:
        errors.append(
            ConversionError("prompt", "there is no prompt, and the two sides do not start with one")
        )
    parallel = "parallel_tool_calls"
    more = {parallel: row[parallel]} if parallel in row else {}
    pair_input = {"messages": prompt, **_tools(row, errors), **more}
    return {"input": pair_input, "preferred_output": good, "non_preferred_output": bad}


def _pair_prompt(row: Json, errors: list[ConversionError]) -> list[Json]:
    if row.get("conversations"):
        messages: list[Json] = _sharegpt(row, errors)["messages"]
        return messages
    if row.get("messages"):
        return _messages(row["messages"], "messages", errors)
    if row.get("instruction"):
        return _alpaca_prompt(row, errors)
    return _read_messages(row["prompt"], "user", "prompt", errors) if row.get("prompt") else []


def _repeats(prompt: list[Json], start: list[Json]) -> bool:
    """Return True if both sides start with the prompt, which is also given separately."""
    texts = [message.get("content") for message in (*start, *prompt) if isinstance(message, dict)]
    if len(texts) < len(start) + len(prompt):
        return False
    texts = texts[: len(start)]
    return start == prompt or (len(prompt) == 1 and texts[-1] == prompt[0].get("content"))


def _unpaired(row: Json, errors: list[ConversionError]) -> Json:
    if "messages" in row:
        return {**_chat(row, errors), "label": row["label"]}
    prompt = _read_messages(row.get("prompt"), "user", "prompt", errors)
    answer = _read_messages(row.get("completion"), "assistant", "completion", errors)
    if len(answer) > 1:
        errors.append(
            ConversionError("completion", "a label is for one answer, not for several messages")
        )
    return {"messages": [*prompt, *answer], **_tools(row, errors), "label": row["label"]}


def _text(row: Json, errors: list[ConversionError]) -> Json:
    if not isinstance(row["text"], str):
        errors.append(ConversionError("text", "this is not a text"))
    return dict(row)


_READERS: dict[str, Callable[[Json, list[ConversionError]], Json]] = {
    CHAT.name: _chat,
    PREFERENCE.name: _preference,
    TRL_PREFERENCE.name: _trl_preference,
    UNPAIRED.name: _unpaired,
    PROMPT_COMPLETION.name: _one_sided,
    ALPACA.name: _alpaca,
    SHAREGPT.name: _sharegpt,
    TEXT.name: _text,
}
_ALPACA_PROMPT = frozenset({"instruction", "input", "system", "history"})
_PAIR = frozenset({"chosen", "rejected", "tools", "parallel_tool_calls"})
# The keys that may hold the prompt of a chosen/rejected row, in order of precedence.
_PROMPTS = {
    "conversations": frozenset({"conversations", "system"}),
    "messages": frozenset({"messages"}),
    "instruction": _ALPACA_PROMPT,
    "prompt": frozenset({"prompt"}),
}
_USED = {
    CHAT.name: frozenset({"messages", "tools"}),
    PROMPT_COMPLETION.name: frozenset({"prompt", "completion", "tools"}),
    ALPACA.name: _ALPACA_PROMPT | {"output"},
    SHAREGPT.name: frozenset({"conversations", "system", "tools"}),
    TEXT.name: frozenset({"text"}),
}


def _used_keys(row: Json, row_format: Format) -> frozenset[str]:
    """Return the keys of a row that its reader reads; all others are kept unchanged."""
    if row_format is TRL_PREFERENCE:
        return _PAIR | next((keys for key, keys in _PROMPTS.items() if row.get(key)), frozenset())
    if row_format is PREFERENCE:
        sides = ("preferred", "non_preferred")
        newest = [
            f"{side}_{'output' if f'{side}_output' in row else 'completion'}" for side in sides
        ]
        return frozenset({"input", *newest})
    if row_format is UNPAIRED:
        own = frozenset(row) if "messages" in row else frozenset({"prompt", "completion"})
        return own | {"label", "tools"}
    return _USED[row_format.name]


def no_format_text(row: Json) -> str:
    """Return why the format of a row is not known."""
    keys = quoted_keys(row)
    return f"no known training format has the keys {keys}" if keys else "the row is an empty object"


def quoted_keys(row: Json) -> str:
    """Return the keys of a row, quoted, bounded in number and length."""
    shown = ", ".join(quoted(key) for key in list(row)[:MAX_KEYS])
    more = len(row) - MAX_KEYS
    return f"{shown} and {more} more" if more > 0 else shown
