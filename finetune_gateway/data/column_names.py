"""Names of columns that training sets use, as tables and exports write them, and in commands."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from finetune_gateway.text.quoting import MAX_QUOTE, hidden

# Each of these names tells what a row is; the others stand beside them. All columns of formats
# (``formats``) whose values may be texts are here, which tests/data/test_shapes.py holds.
MAIN = frozenset({
    "messages", "conversations", "conversation", "prompt", "completion", "instruction", "output",
    "text", "chosen", "rejected", "preferred_output", "non_preferred_output", "question", "answer",
    "response", "query", "input", "inputs", "targets", "input_text", "output_text", "text_input",
    "rejected_response", "chosen_response", "answers", "request_body", "response_body",
})  # fmt: skip
# Those of them that hold answers: a label beside one says whether it is good (KTO), else it is what
# a classifier is to say.
ANSWERS = MAIN - {
    "prompt", "instruction", "text", "question", "query", "input", "inputs", "input_text",
    "text_input", "request_body",
}  # fmt: skip
_BESIDE = frozenset({
    "system", "system_prompt", "context", "history", "label", "tools", "functions", "user",
    "assistant", "role", "content", "from", "value", "conversation_id", "human", "gpt", "bot",
    "source", "target", "category", "reference", "reference_answer", "ground_truth", "weight",
    "kto_tag", "preferred", "dispreferred", "accepted", "better_response_id", "safer_response_id",
    "better_response", "better", "preference", "winner", "choice", "chosen_id",
})  # fmt: skip
_NUMBERED = frozenset(
    f"{name}{number}"
    for name in ("response", "answer", "completion", "output")
    for number in ("_0", "_1", "_2", "_a", "_b", "1", "2")
)
KNOWN = MAIN | _BESIDE | _NUMBERED

# The column that tells which conversation a message belongs to, the surest first.
CONVERSATIONS = (
    "conversation_id", "chat_id", "dialog_id", "dialogue_id", "session_id", "thread_id", "conv_id",
    "conversation", "chat", "dialog", "dialogue", "session", "thread", "group_id", "id",
)  # fmt: skip
_MAPPED = re.compile(r"--map (\w+)=messages")  # in what is advised about such a column
_COMMAND = re.compile(r"\bftg (?:validate|convert) old\.jsonl")  # in what rules advise
_SPACES = re.compile(r"[\s\-]+")


def normalized(name: str) -> str:
    """Return a name in lower case, without a byte order mark and spaces around it, with _ for those
    inside; é is one character, however it is written."""
    name = name if name.isascii() else unicodedata.normalize("NFC", name)
    return _SPACES.sub("_", name.strip("\ufeff \t\r\n\xa0").lower())


def is_known(name: str) -> bool:
    """Return True for the normalized name of a known column."""
    return name in KNOWN


def is_plain(name: str) -> bool:
    """Return True for a name that can be shown as it is: short, printable, and no key of a service
    or personal data."""
    return len(name) <= MAX_QUOTE and name.isprintable() and hidden(name) == name


def is_turn(value: object) -> bool:
    """Return True for a message, a turn of a conversation, or a tool: not for a row."""
    if not isinstance(value, dict):
        return False
    keys = value.keys()
    tool = {"type", "function"} <= keys or {"name", "parameters"} <= keys
    return tool or not {"role", "from", "speaker", "author"}.isdisjoint(keys)


def as_option(columns: Mapping[str, str]) -> str:
    """Return ``--map question=prompt,answer=completion``, as a shell takes it."""
    pairs = ",".join(f"{_word(column)}={key}" for column, key in columns.items())
    return f"--map {shlex.quote(pairs)}"


def as_argument(path: Path | str) -> str:
    """Return a path as a shell takes it, also one that would be an option."""
    return shlex.quote(f"./{path}" if str(path).startswith("-") else str(path))


def _word(column: str) -> str:
    """Return a column as an option of the command line has it: one with a comma in quotes."""
    return f'"{column}"' if "," in column else column


def with_path(advice: str, source: Path | None, columns: Mapping[str, str]) -> str:
    """Return advice whose commands name the user's file and map, as a shell takes them; for rows in
    memory, and a name that cannot be shown as it is, the advice."""
    if "old.jsonl" not in advice or source is None or not str(source).isprintable():
        return advice
    if columns and (own := _MAPPED.search(advice)):
        known = {key: column for column, key in columns.items()}
        mapped = {**{known[key]: key for key in known if key != own[1]}}
        mapped[known.get(own[1], own[1])] = "messages"
        advice, columns = advice.replace(own[0], as_option(mapped)), {}
    given = as_argument(source) + (f" {as_option(columns)}" if columns else "")
    return _COMMAND.sub(lambda match: match[0].replace("old.jsonl", given), advice)
