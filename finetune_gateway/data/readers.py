"""What rows of the field's own formats say: OpenAI's, TRL's, Alpaca, ShareGPT, labelled rows, text.

A reader makes the canonical form (``canonical``) of a row that ``formats`` has recognised.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from typing import Any

from finetune_gateway.data.canonical_row import CHAT_KEYS, SIDES
from finetune_gateway.data.row_reader import SYSTEM_KEYS, Reader
from finetune_gateway.data.sharegpt import TurnReader
from finetune_gateway.text.quoting import quoted

Json = dict[str, Any]

# -- OpenAI's own formats ------------------------------------------------------------------


def chat(reader: Reader, row: Json | None = None, prefix: str = "") -> Json:
    """Read OpenAI's chat row, or the part of a row at ``prefix`` that is one. A system text beside
    the messages becomes the first of them, tools in a text become a list."""
    row = reader.row if row is None else row
    read = dict(row)
    read["messages"] = reader.messages(row.get("messages"), f"{prefix}messages")
    if not prefix:
        read["messages"] = reader.with_system(read["messages"])
        read = {key: value for key, value in read.items() if key not in SYSTEM_KEYS}
        reader.used |= CHAT_KEYS & row.keys()
    if isinstance(row.get("tools"), str):
        del read["tools"]
        reader.lists["tools"] = f"{prefix}tools"
        if tools := TurnReader(reader.errors).tools(row["tools"], f"{prefix}tools"):
            read["tools"] = tools
    elif not isinstance(row.get("tools"), list | None):
        reader.refuse_type(f"{prefix}tools", row["tools"], "a list of tools")
    return read


def preference(reader: Reader) -> Json:
    """Read OpenAI's pair, also with the keys of older guides, with texts or single messages in
    place of lists, and with a system text or tools beside the messages or the input."""
    row = reader.row
    held = _pair_input(reader)
    if "tools" in row and "tools" not in held:
        held |= reader.tools()
    read: Json = {"input": {key: value for key, value in held.items() if key not in SYSTEM_KEYS}}
    reader.used.add("input")
    for side in ("preferred_output", "non_preferred_output"):
        old = side.replace("output", "completion")
        key = old if side not in row and old in row else side
        if isinstance(row.get(key), str | dict):
            read[side] = reader.spoken(key, "assistant")
        else:
            read[side] = reader.messages(row.get(key), key)
        reader.used.add(key)
    return read


def _pair_input(reader: Reader) -> Json:
    """Return the input of OpenAI's pair, with its messages as they are sent."""
    given: Any = reader.row.get("input")
    if isinstance(given, str | list):  # the messages alone
        reader.lists["input.messages"] = "input"
        return {"messages": reader.with_system(reader.spoken("input", "user"))}
    if not isinstance(given, dict):
        reader.refuse_type("input", given, "an object with messages")
        given = {}
    held = chat(reader, given, "input.")
    messages = reader.with_system(held["messages"], given, "input.")
    return {**held, "messages": reader.with_system(messages)}


# -- one conversation ------------------------------------------------------------------------


def prompt_completion(reader: Reader, answer_key: str = "completion") -> Json:
    """Read a prompt and its completion, each a text or a list of messages."""
    prompt, answer = _prompt_and_answer(reader, answer_key)
    if isinstance(reader.row.get("prompt"), list):
        # TRL trains only the completion, so the answers of the prompt get weight 0.
        untrain(prompt)
    return {"messages": reader.with_system([*prompt, *answer]), **reader.tools()}


def _prompt_and_answer(reader: Reader, answer_key: str) -> tuple[list[Json], list[Json]]:
    missing = [key for key in ("prompt", answer_key) if reader.row.get(key) is None]
    for key in missing:
        code = "missing_prompt" if key == "prompt" else "missing_completion"
        given = {name: value for name, value in reader.row.items() if value is not None}
        others = {name: given[name] for name in given if name not in ("prompt", answer_key)}
        reader.refuse(key, _missing(others, key), code)
    reader.used |= {"prompt", answer_key}
    prompt = [] if "prompt" in missing else reader.spoken("prompt", "user")
    answer = [] if answer_key in missing else reader.spoken(answer_key, "assistant")
    reader.lists["messages"] = answer_key
    return prompt, answer


def untrain(messages: list[Json]) -> None:
    """Give earlier answers of a conversation weight 0, in place."""
    for message in messages:
        if message.get("role") == "assistant":
            message.setdefault("weight", 0)


def unpaired(reader: Reader) -> Json:
    """Read an answer with a label: a chat row, or a prompt and its completion."""
    row = reader.row
    if "messages" in row:
        reader.used.add("label")
        read = chat(reader)
        return {key: value for key, value in read.items() if key in {*CHAT_KEYS, "label"}}
    prompt, answer = _prompt_and_answer(reader, "completion")
    reader.used.add("label")
    if len(answer) > 1:
        reader.refuse("completion", "a label is for one answer, not for several messages")
    messages = reader.with_system([*prompt, *answer])
    return {"messages": messages, **reader.tools(), "label": row["label"]}


def alpaca(reader: Reader) -> Json:
    """Read an instruction with its input and output."""
    return question_answer(reader, ("instruction", "input"), "output", "missing_output")


def question_answer(
    reader: Reader, asked: tuple[str, ...], answer_key: str, missing: str = "missing_completion"
) -> Json:
    """Read a question, whose parts are in several keys, and its answer, all texts. ``missing``: the
    code of a missing answer."""
    output = reader.row.get(answer_key)
    reader.used.add(answer_key)
    prompt = reader.with_system(question(reader, asked))
    answer = []
    if output is None:
        reader.refuse(answer_key, _missing(reader.row, answer_key), missing)
    elif isinstance(output, str):
        answer = [reader.said("assistant", output, answer_key)]
    else:
        reader.refuse_text(answer_key, output)
    reader.lists["messages"] = answer_key
    return {"messages": [*prompt, *answer], **reader.tools()}


_OTHER_NAMES = {
    "prompt": ("question", "query", "instruction", "input", "user", "problem", "context", "text"),
    "answer": ("answer", "response", "completion", "output", "target", "reply", "solution"),
}


def _missing(row: Json, key: str) -> str:
    """Return that a key is missing, and which other one may be meant: of a similar name, or of
    another one for the same."""
    names = [str(name)[:40] for name in list(row)[:50]]
    alike = difflib.get_close_matches(key, names, n=1)
    known = _OTHER_NAMES["prompt" if key in ("prompt", "instruction") else "answer"]
    others = [name for name in names if name.lower() in known and isinstance(row.get(name), str)]
    meant = [name for name in (*alike, *others) if name != key]
    return f"there is no {key!r}, but {quoted(meant[0])}" if meant else f"a row without {key!r}"


def question(reader: Reader, keys: tuple[str, ...]) -> list[Json]:
    """Return the messages of a question in several keys, after those of ``history``."""
    row, parts = reader.row, []
    reader.used |= {*keys, "history"}
    for key in keys:
        if not isinstance(row.get(key), str | None):
            reader.refuse_text(key, row[key])
            parts.append("")
        elif not reader.is_empty(key):
            parts.append(key)
    if not parts:
        null = f"{keys[0]!r} is null" if row.get(keys[0], "") is None else ""
        what = "an" if keys[0][0] in "aeiou" else "a"
        reader.refuse(keys[0], null or f"{what} {keys[0]} without content", "missing_prompt")
    texts = [key for key in parts if key]
    asked = [reader.said("user", "\n\n".join(row[key] for key in texts), texts[0])] if texts else []
    return [*_history(reader), *asked]


def _history(reader: Reader) -> Iterator[Json]:
    """Yield earlier turns, given as pairs of question and answer."""
    history = reader.row.get("history")
    for index, pair in enumerate(history if isinstance(history, list) else []):
        if not isinstance(pair, list) or len(pair) != 2:
            reader.refuse_type(f"history[{index}]", pair, "a question and its answer")
            continue
        for at, (role, text) in enumerate(zip(("user", "assistant"), pair, strict=True)):
            yield reader.said(role, text, f"history[{index}][{at}]")
    if not isinstance(history, list) and not reader.is_empty("history"):
        reader.refuse_type("history", history, "a list of pairs")


_TURNS = ("messages", "conversations", "conversation")


def sharegpt(reader: Reader) -> Json:
    """Read a conversation of turns, or of messages under a key of ShareGPT's."""
    key = next(key for key in _TURNS if isinstance(reader.row.get(key), list))
    reader.used.add(key)
    reader.lists["messages"] = key
    if reader.row[key] == []:
        reader.refuse(key, f"{key!r} is empty", "empty_messages")
    messages = reader.turns_or_messages(reader.row[key], key)
    return {"messages": reader.with_system(messages), **reader.tools()}


def text(reader: Reader) -> Json:
    """Read a text."""
    reader.used.add("text")
    if not isinstance(reader.row["text"], str):
        reader.refuse_text("text", reader.row["text"])
    return {"text": reader.row["text"]}


# -- pairs as chosen and rejected --------------------------------------------------------------

_MISSING = {"chosen": "missing_preferred", "rejected": "missing_non_preferred"}
_EACH_ANSWER = "Write a pair for each of them; --fix does: ftg validate old.jsonl --fix new.jsonl"


def trl_preference(reader: Reader) -> Json:
    """Read a pair as TRL has it: the prompt beside both answers, or in both of them."""
    return pair_of(reader, _side(reader, "chosen"), _side(reader, "rejected"), pair_prompt(reader))


def _side(reader: Reader, key: str) -> list[Json]:
    value = reader.row.get(key)
    if value is None or value == []:
        reader.used.add(key)
        reader.refuse(key, f"{key!r} is {'empty' if value == [] else 'missing'}", _MISSING[key])
        return []
    if are_answers(value):
        reader.used.add(key)
        fix = _EACH_ANSWER if several_answers(reader.row) == key else ""
        reader.refuse(key, f"{key!r} is a list of answers: {len(value)} texts", fix=fix)
        return []
    return reader.spoken(key, "assistant")


def are_answers(value: Any) -> bool:
    """Return True for a list of texts."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) for one in value)


def several_answers(row: Json) -> str:
    """Return which side of a pair is a list of answers, each of which makes a pair with the other;
    "" if none is, or both are."""
    sides = [key for key in ("chosen", "rejected") if are_answers(row.get(key))]
    return sides[0] if len(sides) == 1 and {"chosen", "rejected"} <= row.keys() else ""


def pair_of(reader: Reader, good: list[Json], bad: list[Json], prompt: list[Json]) -> Json:
    """Return the canonical row of two answers and their prompt, which both may repeat."""
    _use_repeated_chat(reader, prompt, good)
    shared = len(good) > 1 and good[:-1] == bad[:-1]
    if shared and (not prompt or _repeats(prompt, good[:-1])):
        prompt, good, bad = good[:-1], good[-1:], bad[-1:]
        reader.lists["input.messages"] = "chosen"
    if not prompt and not reader.errors:
        _refuse_without_prompt(reader, good, bad)
    reader.lists |= SIDES
    reader.used.add("parallel_tool_calls")
    parallel = {key: reader.row[key] for key in ("parallel_tool_calls",) if key in reader.row}
    pair_input = {"messages": reader.with_system(prompt), **reader.tools(), **parallel}
    return {"input": pair_input, "preferred_output": good, "non_preferred_output": bad}


def _refuse_without_prompt(reader: Reader, good: list[Json], bad: list[Json]) -> None:
    if len(good) == 1 == len(bad):
        why = f"{_no_prompt(reader)}, and the two sides do not start with one"
        reader.refuse("prompt", why, "missing_prompt")
        return
    at = next((i for i, (a, b) in enumerate(zip(good, bad, strict=False)) if a != b), 0)
    why = f"chosen and rejected differ from message {at} on, before the answer"
    reader.refuse("rejected", why, "preference_prompt_differs")


def _no_prompt(reader: Reader) -> str:
    given = {key: value for key, value in reader.row.items() if key not in reader.used}
    why = _missing(given, "prompt")
    return why if " but " in why else "there is no prompt"


def pair_prompt(reader: Reader) -> list[Json]:
    """Return the prompt that is given beside the two answers, from the first key that has one."""
    given = [key for key in _PROMPTS if reader.row.get(key)]
    key = next((key for key in given if not reader.is_empty(key)), given[0] if given else "")
    if not key:
        return []
    reader.lists["input.messages"] = key
    return _PROMPTS[key](reader)


def _instruction(reader: Reader) -> list[Json]:
    blank = not isinstance(reader.row.get("input"), str) or reader.is_empty("input")
    reader.lists["input.messages"] = "instruction"
    if blank and not reader.row.get("instruction"):
        return []
    return question(reader, ("instruction", "input"))


def _listed(key: str) -> Callable[[Reader], list[Json]]:
    def read(reader: Reader) -> list[Json]:
        reader.used.add(key)
        return reader.turns_or_messages(reader.row[key], key)

    return read


# In order of precedence: ``messages`` beside a prompt is the conversation with the chosen answer.
_PROMPTS: dict[str, Callable[[Reader], list[Json]]] = {
    "prompt": lambda reader: reader.spoken("prompt", "user"),
    "conversations": _listed("conversations"),
    "conversation": _listed("conversation"),
    "messages": _listed("messages"),
    "instruction": _instruction,
    "input": _instruction,
    "question": lambda reader: reader.spoken("question", "user"),
    "query": lambda reader: reader.spoken("query", "user"),
}


def _use_repeated_chat(reader: Reader, prompt: list[Json], good: list[Json]) -> None:
    """Note ``messages`` as used if it only repeats the prompt and the chosen answer."""
    if "messages" in reader.row and reader.row["messages"] in (good, [*prompt, *good]):
        reader.used.add("messages")


def _repeats(prompt: list[Json], start: list[Json]) -> bool:
    """Return True if both sides start with the prompt, which is also given separately."""
    last = start[-1].get("content")
    return start == prompt or (len(prompt) == 1 and last == prompt[0].get("content"))
