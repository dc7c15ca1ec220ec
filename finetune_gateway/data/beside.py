"""Rows in the form of another format, with one part more: a worse answer beside it, which makes it
a pair; answers of a pair under other names; calls and results of tools with roles of their own."""

from __future__ import annotations

from typing import Any

from finetune_gateway.data.readers import pair_of, pair_prompt
from finetune_gateway.data.row_reader import Reader
from finetune_gateway.data.sharegpt import ROLES
from finetune_gateway.text.quoting import quoted

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


# -- pairs under other names --------------------------------------------------------------------

_SIDES = (("preferred", "dispreferred"), ("accepted", "rejected"))
_ANSWERS = tuple(
    (f"{name}{first}", f"{name}{second}")
    for name in ("response", "answer", "completion", "output")
    for first, second in (("_0", "_1"), ("_1", "_2"), ("_a", "_b"), ("1", "2"))
)
FIRST = tuple(first for first, _ in _ANSWERS)
_CHOICES = (
    "better_response_id", "safer_response_id", "better_response", "better", "preference", "winner",
    "choice", "chosen_id",
)  # fmt: skip
_WORDS = ("true", "false", "yes", "no", "0", "1", "0.0", "1.0")
_ANSWER_KEYS = frozenset(
    {"completion", "messages", "conversations", "conversation", "response", "output", "answer"}
)
_WRITE = (
    "Write the better answer as chosen and the other one as rejected; two that are equally good "
    "make no pair."
)


def is_named_pair(row: Json) -> bool:
    """Return True for a better and a worse answer under names other than chosen and rejected."""
    return "chosen" not in row and bool(_sides(row))


def is_side(row: Json) -> bool:
    """Return False where chosen or rejected alone marks the answer beside it: true, false, a number
    or a word for one of them."""
    values = [row[key] for key in ("chosen", "rejected") if key in row]
    return len(values) > 1 or not is_mark(values[0]) or _ANSWER_KEYS.isdisjoint(row)


def is_mark(value: Any) -> bool:
    """Return True for a value that says yes or no of an answer, or how good it is."""
    is_word = isinstance(value, str) and value.strip().lower() in _WORDS
    return is_word or isinstance(value, bool | int | float)


def named_pair(reader: Reader) -> Json:
    """Read an answer that is preferred or accepted, and one that is not."""
    better, worse = _sides(reader.row)
    return _pair_of(reader, better, worse)


def _sides(row: Json) -> tuple[str, ...]:
    for sides in _SIDES:
        if all(isinstance(row.get(key), str | list | dict) for key in sides):
            return sides
    return ()


def is_choice(row: Json) -> bool:
    """Return True for a prompt with two answers that are numbered."""
    return bool(_answers(row)) and any(row.get(key) for key in ("prompt", "question", "query"))


def is_choice_beside(row: Json) -> bool:
    """Return True for messages that wait for an answer, with two that are numbered and a key that
    names the better one beside them."""
    messages = row.get("messages")
    if not _answers(row) or all(row.get(key) is None for key in _CHOICES):
        return False
    last = messages[-1] if isinstance(messages, list) and messages else None
    return isinstance(last, dict) and last.get("role", last.get("from")) in ("user", "human")


def choice(reader: Reader) -> Json:
    """Read two answers, of which a key names the better one.

    https://huggingface.co/datasets/PKU-Alignment/PKU-SafeRLHF (better_response_id)
    """
    row, answers = reader.row, _answers(reader.row)
    given = [key for key in _CHOICES if row.get(key) is not None]
    reader.used |= {*given}
    better = {key: _chosen(row[key], answers) for key in given}
    first = next(iter(better.values()), "")
    if not given:
        what = f"nothing says which of {quoted(answers[0])} and {quoted(answers[1])} is the better"
        reader.refuse(answers[0], what, fix=_WRITE)
    elif not all(better.values()):
        key = next(key for key in given if not better[key])
        reader.refuse(key, f"{quoted(row[key])} names none of the two answers", fix=_WRITE)
    elif len({*better.values()}) > 1:
        names = " and ".join(quoted(key) for key in given[:3])
        fix = "Leave out the key that is not to count."
        reader.refuse(given[0], f"{names} name different answers", fix=fix)
    good = first or answers[0]
    return _pair_of(reader, good, answers[1] if good == answers[0] else answers[0])


def _answers(row: Json) -> tuple[str, ...]:
    for both in _ANSWERS:
        if all(isinstance(row.get(key), str | list) for key in both):
            return both
    return ()


def _chosen(value: Any, answers: tuple[str, ...]) -> str:
    """Return the answer that a value names: by its number, its letter or its key; "" for none."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        return ""
    word = str(value).strip().lower()
    for key in answers:
        if word == key or word.removeprefix("model_") == key[-1]:
            return key
    return ""


def _pair_of(reader: Reader, better: str, worse: str) -> Json:
    good, bad = (reader.spoken(key, "assistant") for key in (better, worse))
    pair = pair_of(reader, good, bad, pair_prompt(reader))
    reader.lists |= {"preferred_output": better, "non_preferred_output": worse}
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
