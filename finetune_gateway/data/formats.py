"""Which training format a row is written in, told by its keys, and the chat it stands for.

Knows the formats people bring; judges nothing (``checks`` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from finetune_gateway.data import sharegpt
from finetune_gateway.data.dataset import Kind
from finetune_gateway.data.sharegpt import Reader, Unfit, as_string
from finetune_gateway.methods import methods_for
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

MAX_KEYS = 8  # keys of an unknown row that are shown


@dataclass(frozen=True, slots=True)
class Format:
    """A known format: its name in the report, the kind of its rows, its note's code, and the
    methods it can be used for."""

    name: str
    kind: Kind
    note: str
    methods: frozenset[str]


def _format(name: str, kind: Kind, note: str = "") -> Format:
    fitting = frozenset(methods_for(kind))
    # Reinforcement takes OpenAI's chat rows alone, and those need no note.
    return Format(name, kind, note, fitting - {"reinforcement"} if note else fitting)


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
    """The format of a row, or None when no known one fits."""
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
    """A row of one conversation as OpenAI's chat, with no other keys than the wire knows; a
    pair, a text or a chat as it is. Never raises: what has no place is read as well as can be."""
    found = format_of(row)
    if found not in (PROMPT_COMPLETION, ALPACA, SHAREGPT):
        return row
    return _READERS[found.name](row, [])


def canonical(row: Json) -> Json:
    """A row in the one form of its kind: OpenAI's chat (with ``label`` in a KTO row), OpenAI's
    preference pair, or a text. Arguments of calls are a JSON string. Keys that no format knows
    are carried along. Raises Unfit for what cannot be read without loss.
    """
    found = format_of(row)
    if found is None:
        raise Unfit("", f"no known training format has the keys {keys_seen(row)}")
    faults: list[Unfit] = []
    read = _READERS[found.name](row, faults)
    if faults:
        raise faults[0]
    used = _used(row, found)
    for key, value in row.items():
        if key in used or (found is CHAT and key in read):
            continue
        if key in read:
            raise Unfit(key, f"the key {quoted(key)} is taken by the form it is converted to")
        read[key] = value
    return read


def _chat(row: Json, faults: list[Unfit]) -> Json:
    read = dict(row)
    read["messages"] = _messages(row.get("messages"), "messages", faults)
    if isinstance(row.get("tools"), str):
        read["tools"] = Reader(faults).tools(row["tools"])
    elif not isinstance(row.get("tools"), list | None):
        faults.append(Unfit("tools", "this is not a list of tools"))
    return read


def _messages(messages: Any, path: str, faults: list[Unfit]) -> list[Json]:
    """Messages with the arguments of their calls as strings."""
    if not isinstance(messages, list):
        faults.append(Unfit(path, "this is not a list of messages"))
        return []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            faults.append(Unfit(f"{path}[{index}]", "this is not a message"))
        elif not isinstance(message.get("role"), str):
            faults.append(Unfit(f"{path}[{index}].role", "there is no role"))
        else:
            faults += _call_faults(message, f"{path}[{index}]")
    return [_wired(message) if isinstance(message, dict) else message for message in messages]


def _call_faults(message: Json, path: str) -> Iterator[Unfit]:
    """Calls that are no calls, which no writer could take apart."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list | None):
        yield Unfit(f"{path}.tool_calls", "this is not a list of calls")
        return
    for index, call in enumerate(calls or []):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not {"name", "arguments"} <= function.keys():
            yield Unfit(f"{path}.tool_calls[{index}]", "a call has a function with its arguments")
    if not isinstance(message.get("function_call"), dict | None):
        yield Unfit(f"{path}.function_call", "this is not a call")


def _wired(message: Json) -> Json:
    wired = dict(message)
    if isinstance(message.get("function_call"), dict):
        wired["function_call"] = _wired_function(message["function_call"])
    if isinstance(message.get("tool_calls"), list):
        wired["tool_calls"] = [_wired_call(call) for call in message["tool_calls"]]
    return wired


def _wired_call(call: Any) -> Any:
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    return {**call, "function": _wired_function(call["function"])}


def _wired_function(function: Json) -> Json:
    if not isinstance(function.get("arguments"), dict):
        return function
    return {**function, "arguments": as_string(function["arguments"])}


def _one_sided(row: Json, faults: list[Unfit]) -> Json:
    asked = _said(row.get("prompt"), "user", "prompt", faults)
    answer = _said(row.get("completion"), "assistant", "completion", faults)
    if isinstance(row.get("prompt"), list):
        # Only the completion is learnt (TRL's rule), so the answers of the prompt are not.
        asked = [_unlearnt(message) for message in asked]
    return {"messages": [*asked, *answer], **_tools(row, faults)}


def _unlearnt(message: Json) -> Json:
    answer = isinstance(message, dict) and message.get("role") == "assistant"
    return {"weight": 0, **message} if answer else message


def _said(said: Any, role: str, path: str, faults: list[Unfit]) -> list[Json]:
    """Messages from TRL's conversational form, ShareGPT's turn, or a plain text."""
    if isinstance(said, dict):
        one = [said]
        return (
            Reader(faults).messages(one, path) if "from" in said else _messages(one, path, faults)
        )
    if isinstance(said, list):
        if said and isinstance(said[0], dict) and "from" in said[0]:
            return Reader(faults).messages(said, path)
        return _messages(said, path, faults)
    if not isinstance(said, str):
        faults.append(Unfit(path, "this is neither a text nor a list of messages"))
    return [{"role": role, "content": said}]


def _tools(row: Json, faults: list[Unfit]) -> Json:
    tools = Reader(faults).tools(row["tools"]) if row.get("tools") else []
    return {"tools": tools} if tools else {}


def _alpaca(row: Json, faults: list[Unfit]) -> Json:
    messages = _alpaca_prompt(row, faults)
    output = row.get("output")
    if not isinstance(output, str):
        faults.append(Unfit("output", "there is no answer"))
    answer = [] if output is None else [{"role": "assistant", "content": output}]
    return {"messages": [*messages, *answer]}


def _alpaca_prompt(row: Json, faults: list[Unfit]) -> list[Json]:
    for key in ("instruction", "input", "system"):
        if not isinstance(row.get(key), str | None):
            faults.append(Unfit(key, "this is not a text"))
    if not row.get("instruction"):
        faults.append(Unfit("instruction", "there is no instruction"))
    asked = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
    system = row.get("system")
    return [
        *([{"role": "system", "content": system}] if system else []),
        *_history(row.get("history"), faults),
        *([{"role": "user", "content": asked}] if asked else []),
    ]


def _history(history: Any, faults: list[Unfit]) -> Iterator[Json]:
    """Earlier turns, as pairs of question and answer."""
    for index, pair in enumerate(history if isinstance(history, list) else []):
        if not isinstance(pair, list) or len(pair) != 2:
            faults.append(Unfit(f"history[{index}]", "this is not a question and its answer"))
            continue
        for role, text in zip(("user", "assistant"), pair, strict=True):
            yield {"role": role, "content": text}
    if not isinstance(history, list | None):
        faults.append(Unfit("history", "this is not a list of pairs"))


def _sharegpt(row: Json, faults: list[Unfit]) -> Json:
    reader = Reader(faults)
    messages = reader.messages(row["conversations"], "conversations")
    system = row.get("system")
    if not isinstance(system, str | None):
        faults.append(Unfit("system", "this is not a text"))
    if system:
        messages.insert(0, {"role": "system", "content": system})
    tools = reader.tools(row.get("tools"))
    return {"messages": messages, **({"tools": tools} if tools else {})}


def _preference(row: Json, faults: list[Unfit]) -> Json:
    given = row.get("input")
    if not isinstance(given, dict):
        faults.append(Unfit("input", "this is not an object with messages"))
        given = {}
    read: Json = {"input": _chat(given, faults)}
    for side in ("preferred_output", "non_preferred_output"):
        old = side.replace("output", "completion")  # the key of older guides
        key = old if side not in row and old in row else side
        read[side] = _messages(row.get(key), key, faults)
    return read


def _trl_preference(row: Json, faults: list[Unfit]) -> Json:
    good = _said(row.get("chosen"), "assistant", "chosen", faults)
    bad = _said(row.get("rejected"), "assistant", "rejected", faults)
    prompt = _pair_prompt(row, faults)
    shared = len(good) > 1 and good[:-1] == bad[:-1]
    if not prompt and shared or prompt and shared and _repeats(prompt, good[:-1]):
        prompt, good, bad = good[:-1], good[-1:], bad[-1:]
    if not prompt:
        faults.append(Unfit("prompt", "there is no prompt, and both sides do not begin with one"))
    parallel = "parallel_tool_calls"
    more = {parallel: row[parallel]} if parallel in row else {}
    given = {"messages": prompt, **_tools(row, faults), **more}
    return {"input": given, "preferred_output": good, "non_preferred_output": bad}


def _pair_prompt(row: Json, faults: list[Unfit]) -> list[Json]:
    if row.get("conversations"):
        messages: list[Json] = _sharegpt(row, faults)["messages"]
        return messages
    if row.get("messages"):
        return _messages(row["messages"], "messages", faults)
    if row.get("instruction"):
        return _alpaca_prompt(row, faults)
    return _said(row["prompt"], "user", "prompt", faults) if row.get("prompt") else []


def _repeats(prompt: list[Json], start: list[Json]) -> bool:
    """Whether both sides begin with the prompt that is also given by itself."""
    texts = [message.get("content") for message in (*start, *prompt) if isinstance(message, dict)]
    if len(texts) < len(start) + len(prompt):
        return False
    texts = texts[: len(start)]
    return start == prompt or (len(prompt) == 1 and texts[-1] == prompt[0].get("content"))


def _unpaired(row: Json, faults: list[Unfit]) -> Json:
    if "messages" in row:
        return {**_chat(row, faults), "label": row["label"]}
    asked = _said(row.get("prompt"), "user", "prompt", faults)
    answer = _said(row.get("completion"), "assistant", "completion", faults)
    if len(answer) > 1:
        faults.append(Unfit("completion", "a label judges one answer, not several messages"))
    return {"messages": [*asked, *answer], **_tools(row, faults), "label": row["label"]}


def _text(row: Json, faults: list[Unfit]) -> Json:
    if not isinstance(row["text"], str):
        faults.append(Unfit("text", "this is not a text"))
    return dict(row)


_READERS: dict[str, Callable[[Json, list[Unfit]], Json]] = {
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
# Where the prompt of a chosen/rejected row is looked for, in this order.
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


def _used(row: Json, found: Format) -> frozenset[str]:
    """The keys of a row that its reader has read; all others are carried along."""
    if found is TRL_PREFERENCE:
        return _PAIR | next((keys for key, keys in _PROMPTS.items() if row.get(key)), frozenset())
    if found is PREFERENCE:
        sides = ("preferred", "non_preferred")
        newest = [
            f"{side}_{'output' if f'{side}_output' in row else 'completion'}" for side in sides
        ]
        return frozenset({"input", *newest})
    if found is UNPAIRED:
        own = frozenset(row) if "messages" in row else frozenset({"prompt", "completion"})
        return own | {"label", "tools"}
    return _USED[found.name]


def keys_seen(row: Json) -> str:
    """The keys of a row, quoted, bounded in number and length."""
    shown = ", ".join(quoted(key) for key in list(row)[:MAX_KEYS])
    more = len(row) - MAX_KEYS
    return f"{shown} and {more} more" if more > 0 else shown or "none"
