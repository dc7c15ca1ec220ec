"""Conversations in one text, as a chat template writes them: ### Human, [INST], <|im_start|>, ...

A text is read if all of it is one conversation in one template. A mark that somebody only mentions
makes it another text: turns would begin in the middle of what is said. Such a text is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from finetune_gateway.data.row_reader import Reader
from finetune_gateway.text.regex import LazyPattern

Json = dict[str, Any]
Turns = list[tuple[str, str]]  # the role and the text of each

_ROLES = {
    "system": "system", "user": "user", "assistant": "assistant", "model": "assistant",
    "human": "user", "instruction": "user", "response": "assistant",
}  # fmt: skip
_KEYS = ("messages", "conversations", "conversation")
# What Alpaca's template writes before each instruction: a part of it, not of what is said.
# https://github.com/tatsu-lab/stanford_alpaca#data-release
_ALPACA = LazyPattern(
    r"Below is an instruction that describes a task(?:, paired with an input that provides further "
    r"context)?\. Write a response that appropriately completes the request\."
)
_QUOTES = "\"'`“‘«(>"  # before a mark that is only mentioned


@dataclass(frozen=True, slots=True)
class Template:
    """``name``: whose it is. ``begins``: what its texts begin with. ``turns``: the turns of such a
    text, with their outer spaces; raises ValueError, which says why, for a text that is not one
    conversation."""

    name: str
    begins: LazyPattern
    turns: Callable[[str], Turns]


def template_of(text: Any) -> Template | None:
    """Return the template that a text begins in; None for another value."""
    if not isinstance(text, str):
        return None
    return next((one for one in _TEMPLATES if one.begins.match(text)), None)


def is_whole(text: Any) -> bool:
    """Return True for a text that is one conversation in a template, with its last answer."""
    return _last(text) not in ("", None)


def is_open(text: Any) -> bool:
    """Return True for a text that is one conversation in a template up to its last answer."""
    return _last(text) == ""


def _last(text: Any) -> str | None:
    said = texts_of(text)
    return said[-1] if said else None


def texts_of(text: Any) -> list[str]:
    """Return what is said in a text that is one conversation in a template, turn by turn; empty for
    another text."""
    template = template_of(text)
    try:
        return [said for _, said in _turns(template, text)] if template else []
    except ValueError:
        return []


def in_words(text: str) -> str:
    """Return what a text in a template is."""
    template = template_of(text)
    name = template.name if template else ""
    return f"each text is a whole conversation in the template of {name}"


def way(column: str) -> str:
    """Return how the texts of a column are read as messages."""
    return (
        "To train on the answers alone, in the template of the model, write the turns as messages: "
        f"ftg convert old.jsonl --map {column}=messages --to openai -o new.jsonl"
    )


def is_in_text(row: Json) -> bool:
    """Return True for a conversation as a text in a template."""
    return any(template_of(row.get(key)) for key in _KEYS)


def read(reader: Reader) -> Json:
    """Read a conversation as a text in a template, whose last answer may be under completion."""
    key = next(key for key in _KEYS if template_of(reader.row.get(key)))
    reader.used.add(key)
    reader.lists["messages"] = key
    text, template = reader.row[key], template_of(reader.row[key])
    try:
        turns = _turns(template, text) if template else []
    except ValueError as error:
        name = template.name if template else ""
        reader.refuse(key, f"the text is not one conversation in the template of {name}: {error}")
        return {"messages": []}
    messages = [reader.said(role, said, key) for role, said in turns]
    if messages[-1]["role"] == "assistant" and not messages[-1]["content"]:
        answer = reader.row.get("completion")
        if isinstance(answer, str):
            reader.used.add("completion")
            messages[-1] = reader.said("assistant", answer.strip(), "completion")
    return {"messages": reader.with_system(messages), **reader.tools()}


def _turns(template: Template, text: str) -> Turns:
    """Return the turns of a text. Raises ValueError."""
    turns = [(role, said.strip()) for role, said in template.turns(text)]
    asked = turns[1:] if turns and turns[0][0] == "system" else turns
    for at, (role, said) in enumerate(asked):
        if role != ("assistant" if at % 2 else "user"):
            raise ValueError("user and assistant do not take turns, or a mark is only mentioned")
        if not said and at < len(asked) - 1:
            raise ValueError(f"turn {at + 1} says nothing")
    if len(asked) < 2:
        raise ValueError("there is no answer")
    return turns


# -- marks that are nothing else ---------------------------------------------------------------


def _tagged(turn: str, marks: str) -> Callable[[str], Turns]:
    """Return what reads turns of a pattern with role and said, one after another. ``marks``: what
    may not be in what is said."""
    whole, inside = LazyPattern(turn, re.DOTALL), LazyPattern(marks)

    def read_turns(text: str) -> Turns:
        turns, at = Turns(), _start(text)
        while text[at:].strip():
            match = whole.match(text, at)
            if match is None:
                raise ValueError(f"no turn begins or ends rightly after character {at}")
            if inside.search(match["said"]):
                raise ValueError("a mark of the template is inside a turn")
            turns.append((_ROLES[match["role"]], match["said"]))
            at = match.end()
        return turns

    return read_turns


_BEGIN = LazyPattern(r"\s*(?:<\|begin_of_text\|>|<bos>|<s>)?\s*")


def _start(text: str) -> int:
    match = _BEGIN.match(text)
    return match.end() if match else 0


_LLAMA_2 = LazyPattern(r"\s*(?:<s>)?\s*\[INST\](.*?)\[/INST\](.*?)(?:</s>|\Z)", re.DOTALL)
_SYSTEM = LazyPattern(r"\s*<<SYS>>(.*?)<</SYS>>(.*)", re.DOTALL)
_LLAMA_2_MARKS = LazyPattern(r"</?s>|\[/?INST\]|<</?SYS>>")


def _llama_2(text: str) -> Turns:
    turns, at = Turns(), 0
    while text[at:].strip():
        match = _LLAMA_2.match(text, at)
        if match is None:
            raise ValueError(f"no turn begins or ends rightly after character {at}")
        asked = match[1]
        if not turns and (system := _SYSTEM.match(asked)):
            turns.append(("system", system[1]))
            asked = system[2]
        turns += [("user", asked), ("assistant", match[2])]
        at = match.end()
    if any(_LLAMA_2_MARKS.search(said) for _, said in turns):
        raise ValueError("a mark of the template is inside a turn")
    return turns


# -- words as marks ----------------------------------------------------------------------------


def _worded(mark: str, end: str = "", by_paragraph: bool = False) -> Callable[[str], Turns]:
    """Return what reads turns that begin with a word, the role. All of a text begin alike: behind a
    line break or not. ``end``: what may end an answer; ``by_paragraph``: an empty line is before
    each."""
    words = LazyPattern(mark)

    def read_turns(text: str) -> Turns:
        matches = [*words.finditer(text)]
        before = text[: matches[0].start()].replace("<s>", "").strip()
        if by_paragraph and before:
            raise ValueError("it does not begin with a turn")
        breaks = {_break_before(text, one.start(), end) for one in matches[1:]}
        if len(breaks) > 1 or by_paragraph and breaks != {"\n\n"}:
            raise ValueError("a mark is only mentioned, or turns begin in different ways")
        turns = [("system", before)] if before and not _ALPACA.fullmatch(before) else Turns()
        return [*turns, *_between(text, matches, end)]

    return read_turns


def _break_before(text: str, at: int, end: str) -> str:
    """Return how a turn is set off: by an empty line, a line break, or nothing."""
    rest = text[:at].rstrip(" ")
    if end and rest.endswith(end):
        return ""
    if rest[-1:] in tuple(_QUOTES):
        raise ValueError("a mark is only quoted")
    return "\n\n" if rest.endswith("\n\n") else "\n" if rest.endswith("\n") else ""


def _between(text: str, matches: list[re.Match[str]], end: str) -> Iterator[tuple[str, str]]:
    stops = [*(one.start() for one in matches[1:]), len(text)]
    for match, stop in zip(matches, stops, strict=True):
        said = text[match.end() : stop].strip()
        said = said.removesuffix(end) if end else said
        if said.count("```") % 2:
            raise ValueError("a mark is inside a block of code")
        if end and end in said:
            raise ValueError(f"{end} is inside a turn")
        yield _ROLES[match[1].lower()], said


def _alpaca(text: str) -> Turns:
    """Read Alpaca's prompt: what is under Input stands below the instruction, as in its rows."""
    if "### Input:" not in text:
        return _words_of_alpaca(text)
    parts = re.split(r"\n\n### Input:\n?", text)
    if len(parts) != 2 or "### Response:" in parts[0]:
        raise ValueError("there is more than one input")
    return _words_of_alpaca(f"{parts[0].rstrip()}\n\n{parts[1].lstrip()}")


_words_of_alpaca = _worded(r"(?:(?<=\n)|\A)### (Instruction|Response):", "</s>")

_TEMPLATES = (
    Template(
        "ChatML",
        LazyPattern(r"\s*(?:<s>)?\s*<\|im_start\|>(?:system|user)\n"),
        _tagged(
            r"\s*<\|im_start\|>(?P<role>system|user|assistant)\n"
            r"(?P<said>.*?)(?:<\|im_end\|>\s*(?:<\|endoftext\|>\s*\Z)?|(?<=>assistant\n)\Z)",
            r"<\|(?:im_start|im_end|endoftext)\|>",
        ),
    ),
    Template(
        "Llama 3",
        LazyPattern(r"\s*(?:<\|begin_of_text\|>)?<\|start_header_id\|>(?:system|user)<"),
        _tagged(
            r"\s*<\|start_header_id\|>(?P<role>system|user|assistant)<\|end_header_id\|>\n\n"
            r"(?P<said>.*?)(?:<\|eot_id\|>\s*(?:<\|end_of_text\|>\s*\Z)?|(?<=id\|>\n\n)\Z)",
            r"<\|(?:start_header_id|end_header_id|eot_id|begin_of_text|end_of_text)\|>",
        ),
    ),
    Template(
        "Gemma",
        LazyPattern(r"\s*(?:<bos>)?<start_of_turn>user\n"),
        _tagged(
            r"\s*<start_of_turn>(?P<role>user|model)\n"
            r"(?P<said>.*?)(?:<end_of_turn>\s*(?:<eos>\s*\Z)?|(?<=>model\n)\Z)",
            r"<(?:start_of_turn|end_of_turn|bos|eos)>",
        ),
    ),
    Template(
        "Zephyr or Phi-3",
        LazyPattern(r"\s*(?:<s>)?\s*<\|(?:system|user)\|>\n"),
        _tagged(
            r"\s*<\|(?P<role>system|user|assistant)\|>\n"
            r"(?P<said>.*?)(?:(?:</s>|<\|end\|>)\s*(?:<\|endoftext\|>\s*\Z)?"
            r"|(?<=assistant\|>\n)\Z)",
            r"</?s>|<\|(?:system|user|assistant|end|endoftext)\|>",
        ),
    ),
    Template("Llama 2 or Mistral", LazyPattern(r"\s*(?:<s>)?\s*\[INST\]"), _llama_2),
    Template(
        "Guanaco",
        LazyPattern(r"\s*### Human:"),
        _worded(r"### (Human|Assistant):"),
    ),
    Template(
        "Claude 2",
        LazyPattern(r"\n*Human: .*?\n\nAssistant:", re.DOTALL),
        _worded(r"(?:(?<=\n)|\A)(Human|Assistant):", by_paragraph=True),
    ),
    Template(
        "Vicuna",
        LazyPattern(r"\s*(?:A chat between [^\n]*?\s)?USER: .*?\sASSISTANT:", re.DOTALL),
        _worded(r"\b(USER|ASSISTANT):", "</s>"),
    ),
    Template(
        "Alpaca",
        LazyPattern(r"\s*(?:Below is an instruction [^\n]*\s+)?### Instruction:.*?### Response:",
                    re.DOTALL),
        _alpaca,
    ),
)  # fmt: skip
