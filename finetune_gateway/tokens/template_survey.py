"""What a chat template does with each kind of row, found by rendering planted conversations.

Which texts it drops, how it wants the arguments of calls, which token ends a turn. A few dozen
renderings, some hundredths of a second; no weights and no data are needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

from finetune_gateway.errors import DataError
from finetune_gateway.tokens.template_process import TemplateProcess
from finetune_gateway.tokens.template_rows import (
    Arguments,
    Content,
    Message,
    Tools,
    for_template,
    reasoning_of,
)
from finetune_gateway.tokens.template_turns import Rendered, Turn, TurnRenderer

# Planted texts: no template writes them, changes them or looks for them.
SYSTEM, USER, ANSWER, MORE = "Zq1system", "Zq2user", "Zq3answer", "Zq4more"
RESULT, REASONING, BESIDE = "Zq5result", "Zq6reasoning", "Zq8beside"
THINKS = "<think>\n" + REASONING + "\n</think>\n\n"
TOOL, SECOND, VALUE = "zq_find", "zq_count", 'Zq"9'
WRITTEN = ('Zq"9', 'Zq\\"9')  # as itself, or in JSON; with more backslashes it was encoded twice

# What a template may lose. The first word is the kind; the sentence is shown to people.
LOSSES = {
    "system": "a system prompt is not shown to the model",
    "user": "a user's message is not shown to the model",
    "tools": "the list of tools is not shown to the model",
    "answers": "an answer is not written",
    "calls": "calls of tools are not written",
    "arguments": "the arguments of calls are encoded twice",
    "parallel_calls": "of two calls in one turn only one is written",
    "text_beside_calls": "text beside a call is not written",
    "calls_beside_text": "calls beside a text are not written",
    "results": "results of tools are not shown to the model",
    "reasoning": "reasoning is not written",
    "think_blocks": "think blocks in a text are not written",
}
# What is lost with a message of each role that is in no sequence.
_ROLES = {"system": "system", "user": "user", "tool": "results", "assistant": "answers"}
_MODE = re.compile(r"/(no_)?think\b")  # switches in a text, which templates take out of it
_PIECE = 24  # characters


@dataclass(frozen=True)
class Survey:
    """What is known of a template."""

    losses: frozenset[str] = frozenset()  # keys of LOSSES
    turn_ends: dict[str, str] = field(default_factory=dict)  # a token to add after "text", "call"
    stops: frozenset[str] = frozenset()  # texts of the tokens that end an answer
    content: Content = "text"  # the form in which it reads a text
    arguments: Arguments = "object"  # the form of arguments that it writes once


# Of the processes of templates: with these stops, special tokens and variables, what was found.
_Known = dict[tuple[frozenset[str], frozenset[str], str], Survey]
_known: WeakKeyDictionary[TemplateProcess, _Known] = WeakKeyDictionary()


def survey(renderer: TurnRenderer) -> Survey:
    """Return what the template does. Sets what the renderer has to know of that: ``content``,
    ``arguments``, ``stops`` and ``turn_ends``."""
    variables = json.dumps(renderer.variables, sort_keys=True)
    key = (renderer.stops, frozenset(renderer.special.ids), variables)
    known = _known.setdefault(renderer.process, {})
    if key not in known:
        known[key] = _survey(renderer)
    found = known[key]
    renderer.content, renderer.arguments = found.content, found.arguments
    renderer.stops, renderer.turn_ends = found.stops, found.turn_ends
    return found


def _survey(renderer: TurnRenderer) -> Survey:
    planted = _Planted(renderer)
    renderer.content = planted.content()
    renderer.arguments = planted.arguments()
    stops = planted.stops()
    renderer.stops |= frozenset(stops.values())
    ends = planted.turn_ends()
    renderer.turn_ends = ends
    losses = frozenset(planted.losses())
    return Survey(losses, ends, renderer.stops, renderer.content, renderer.arguments)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    """Return a call of a tool, as OpenAI's messages have it, with an object of arguments."""
    identity = f"call_{name[-4:]}0"[:9].ljust(9, "0")  # nine letters: Mistral's templates ask so
    return {
        "id": identity,
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def tool(name: str) -> dict[str, Any]:
    """Return the declaration of a tool."""
    text = {"type": "string", "description": "A text"}
    parameters = {"type": "object", "properties": {"place": text}, "required": ["place"]}
    function = {"name": name, "description": f"Runs {name}", "parameters": parameters}
    return {"type": "function", "function": function}


CALL, OTHER_CALL = call(TOOL, place=VALUE), call(SECOND, place=VALUE)
TOOLS: Tools = [tool(TOOL), tool(SECOND)]
ASK: Message = {"role": "user", "content": USER}
ASK_MORE: Message = {"role": "user", "content": MORE}
REPLY: Message = {"role": "assistant", "content": ANSWER}
CALLS: Message = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RETURNS: Message = {
    "role": "tool", "tool_call_id": CALL["id"], "name": TOOL, "content": RESULT,
}  # fmt: skip
# What a turn is, the turn, and what follows it.
TURNS = (("text", REPLY, ASK_MORE), ("call", CALLS, RETURNS))

_CONTENTS: tuple[Content, ...] = ("text", "parts")
_ARGUMENTS: tuple[Arguments, ...] = ("object", "string")


class _Planted:
    """Planted conversations, and where what was planted is."""

    def __init__(self, renderer: TurnRenderer) -> None:
        self.renderer = renderer

    def content(self) -> Content:
        """Return the form in which the template reads a text; a string if neither is read."""
        for form in _CONTENTS:
            self.renderer.content = form
            found = self.renderer.render([ASK], None, [(1, True)])[0]
            if isinstance(found, Rendered) and USER in found.text:
                return form
        return "text"

    def arguments(self) -> Arguments:
        """Return the form of arguments that is written once; an object if both or none are."""
        for form in _ARGUMENTS:
            self.renderer.arguments = form
            found = self.renderer.render([ASK, CALLS], TOOLS, [(2, False)])[0]
            if isinstance(found, Rendered) and any(one in found.text for one in WRITTEN):
                return form
        return "object"

    def stops(self) -> dict[str, str]:
        """Return the special tokens that the template ends turns with: one that the model's files
        name, else the first after a text, the last after a call."""
        found = {}
        for kind, message, after in TURNS:
            if token := self._end(kind, message, after):
                found[kind] = token
        return found

    def _end(self, kind: str, message: Message, after: Message) -> str:
        tools = TOOLS if kind == "call" else None
        turn = self.turn([ASK, message], tools)
        label = turn.label.text if turn else ""
        answer = next((one for one in (ANSWER, *WRITTEN) if one in label), "")
        if not answer:
            return ""
        tokens = self.renderer.special.pattern.findall(label.rpartition(answer)[2])
        # Some templates end a text, and then the turn. What ends a row alone ends no turn.
        [longer] = self.renderer.render([ASK, message, after], tools, [(3, False)])
        behind = longer.text.rpartition(answer)[2] if isinstance(longer, Rendered) else ""
        behind = behind.partition(after["content"])[0]
        named = [one for one in tokens if one in self.renderer.stops and one in behind]
        planted = tokens[:1] if kind == "text" else tokens[-1:]
        return next(iter((*named, *planted)), "")

    def turn_ends(self) -> dict[str, str]:
        """Return the tokens with which the template begins what follows a turn, for turns that it
        ends with none."""
        ends = {}
        for kind, message, after in TURNS:
            tools = TOOLS if kind == "call" else None
            turn = self.turn([ASK, message], tools)
            if turn is None or turn.stops or not turn.says:
                continue
            short, long = self.renderer.render(
                [ASK, message, after], tools, [(2, False), (3, False)]
            )
            if isinstance(short, str) or isinstance(long, str):
                continue
            if not long.text.startswith(short.text):
                continue
            match = self.renderer.special.pattern.match(long.text[len(short.text) :].lstrip())
            if match:
                ends[kind] = match.group()
        return ends

    def losses(self) -> Iterator[str]:
        """Yield the kinds of LOSSES."""
        prompt = self.prompt([{"role": "system", "content": SYSTEM}, ASK])
        if prompt is not None and SYSTEM not in prompt:
            yield "system"
        prompt = self.prompt([ASK], TOOLS)
        if prompt is not None and (TOOL not in prompt or SECOND not in prompt):
            yield "tools"
        prompt = self.prompt([ASK, CALLS, RETURNS], TOOLS)
        if prompt is not None and RESULT not in prompt:
            yield "results"
        yield from self._lost_in_calls()
        label = self.label([ASK, {**REPLY, "reasoning_content": REASONING}])
        if label is not None and REASONING not in label:
            yield "reasoning"
        label = self.label([ASK, {**REPLY, "content": f"{THINKS}{ANSWER}"}])
        if label is not None and REASONING not in label:
            yield "think_blocks"

    def _lost_in_calls(self) -> Iterator[str]:
        label = self.label([ASK, CALLS], TOOLS)
        if label is None:
            return
        if TOOL not in label:
            yield "calls"
            return
        if not any(one in label for one in WRITTEN):
            yield "arguments"
        both = {**CALLS, "tool_calls": [CALL, OTHER_CALL]}
        label = self.label([ASK, both], TOOLS)
        if label is not None and SECOND not in label:
            yield "parallel_calls"
        label = self.label([ASK, {**CALLS, "content": BESIDE}], TOOLS)
        if label is not None and BESIDE not in label:
            yield "text_beside_calls"
        if label is not None and TOOL not in label:
            yield "calls_beside_text"

    def prompt(self, messages: list[Message], tools: Tools = None) -> str | None:
        """Return the prompt; None if the template refuses it."""
        try:
            return self.renderer.prompt(messages, tools).text
        except DataError:
            return None

    def label(self, messages: list[Message], tools: Tools = None) -> str | None:
        """Return the label of the last turn; None if the template refuses it."""
        turn = self.turn(messages, tools)
        return None if turn is None else turn.label.text

    def turn(self, messages: list[Message], tools: Tools = None) -> Turn | None:
        """Return the last turn; None if the template refuses it."""
        try:
            return self.renderer.turns(messages, tools, [len(messages) - 1])[0][0]
        except DataError:
            return None


def kinds_in(messages: list[Message], tools: Tools, trained: list[int]) -> set[str]:
    """Return the kinds of LOSSES that a row has; of its answers, those that are trained."""
    kinds = {"tools"} if tools else set()
    for index, message in enumerate(messages):
        plain = for_template(message)
        role = plain.get("role")
        if role == "system" and plain["content"]:
            kinds.add("system")
        elif role == "tool":
            kinds.add("results")
        if index not in trained:
            continue
        calls = plain.get("tool_calls") or []
        if calls:
            kinds |= {"calls", "arguments"}
            kinds |= {"parallel_calls"} if len(calls) > 1 else set()
            beside = {"text_beside_calls", "calls_beside_text"}
            kinds |= beside if str(plain["content"]).strip() else set()
        if reasoning_of(plain):
            kinds.add("reasoning")
        if "</think>" in str(plain["content"]):
            kinds.add("think_blocks")
    return kinds


def missing_from(texts: Sequence[str], messages: list[Message], trained: list[int]) -> set[str]:
    """Return the kinds of LOSSES of a row whose messages are in none of ``texts``, its sequences.

    Templates treat messages by their place: many write a system prompt only if it comes first.
    """
    kinds = set()
    for index, message in enumerate(messages[: max(trained, default=-1) + 1]):
        plain = for_template(message)
        kind = _ROLES.get(str(plain.get("role")), "")
        is_answer = kind == "answers"
        if not kind or is_answer and (index not in trained or plain.get("tool_calls")):
            continue
        content = str(plain["content"]).strip()
        if is_answer:  # templates write a think block at its beginning with other spaces
            content = content.rpartition("</think>")[2].strip()
        if not any(content in text or _mostly_in(text, content, is_answer) for text in texts):
            kinds.add(kind)
    return kinds


def _mostly_in(text: str, content: str, is_answer: bool) -> bool:
    """Return True if two of the beginning, middle and end of a message are in a text, also as JSON;
    of an answer its end: reasoning before it may be written elsewhere."""
    content = _MODE.sub("", content).strip()
    middle = max(0, len(content) - _PIECE) // 2
    pieces = [content[-_PIECE:]]
    pieces += [] if is_answer else [content[:_PIECE], content[middle : middle + _PIECE]]
    found = [
        any(one in text for one in (piece, json.dumps(piece, ensure_ascii=False)[1:-1]))
        for piece in map(str.strip, pieces)
    ]
    return sum(found) > len(found) // 2
