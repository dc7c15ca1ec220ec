"""Rows of each kind in which every text is a word that stands nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

Json = dict[str, Any]


@dataclass
class Row:
    """A planted row. Words are those that a template may write; ``said`` are to be trained."""

    kind: str
    messages: list[Json] = field(default_factory=list)
    tools: list[Json] | None = None
    said: dict[int, list[str]] = field(default_factory=dict)  # by turn: answers, calls, reasoning
    heard: list[str] = field(default_factory=list)  # of everybody else, or of weight 0
    _numbers: count[int] = field(default_factory=lambda: count(1))

    @property
    def row(self) -> Json:
        """Return it as a line of a data file."""
        return {"messages": self.messages, **({"tools": self.tools} if self.tools else {})}

    @property
    def reasons(self) -> bool:
        """Return True if an answer has reasoning: the switches of the template depend on it."""
        return any("zqreason" in str(message) for message in self.messages)

    def word(self, what: str) -> str:
        return f"zq{what}{next(self._numbers)}x"

    def hears(self, role: str, **more: Any) -> Row:
        """Add a message that is not trained."""
        text = self.word(role)
        self.heard.append(text)
        self.messages.append({"role": role, "content": text, **more})
        return self

    def says(
        self,
        *,
        text: bool = True,
        calls: int = 0,
        reasoning: bool = False,
        inline: bool = False,
        content: str | None = "",
        weight: int | None = None,
    ) -> Row:
        """Add a turn. ``content`` is that of a turn without a text; ``inline``: the reasoning is a
        think block in the content."""
        words: list[str] = []
        message: Json = {"role": "assistant", "content": content}
        if text:
            message["content"] = self.word("answer")
            words.append(message["content"])
        if reasoning:
            words.append(self.word("reason"))
            if inline:
                message["content"] = f"<think>\n{words[-1]}\n</think>\n\n{message['content']}"
            else:
                message["reasoning_content"] = words[-1]
        if calls:
            message["tool_calls"] = [self._call(words) for _ in range(calls)]
        if weight is not None:
            message["weight"] = weight
        if weight == 0:
            self.heard += words
        else:
            self.said[len(self.messages)] = words
        self.messages.append(message)
        return self

    def returns(self) -> Row:
        """Add the result of each call of the last turn."""
        for call in self.messages[-1]["tool_calls"]:
            name = call["function"]["name"]
            self.hears("tool", tool_call_id=call["id"], name=name)
        return self

    def _call(self, words: list[str]) -> Json:
        number = next(self._numbers)
        name, value = f"zqcall{number}x", self.word("value")
        words += [name, value]
        arguments = f'{{"place": "{value} \\"north\\""}}'
        self.tools = [*(self.tools or []), _tool(name, self.word("tells"))]
        self.heard.append(self.tools[-1]["function"]["description"])
        return {
            "id": f"zqid{number:05d}",  # nine letters, as Mistral's templates ask
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }


def _tool(name: str, description: str) -> Json:
    place = {"type": "string", "description": "A place"}
    parameters = {"type": "object", "properties": {"place": place}, "required": ["place"]}
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


ESCAPED = (' "north"', ' \\"north\\"')  # behind a value: as itself, or in JSON

# What each kind of row is.
KINDS = {
    "plain": "a question and its answer",
    "system": "a system prompt, two questions and answers",
    "turns": "three questions and answers",
    "developer": "a developer message in place of the system prompt",
    "weight": "an answer of weight 0 before one that is trained",
    "tools": "a call, its result, an answer",
    "call": "ends with a call",
    "parallel": "two calls in one turn, two results, an answer",
    "null": "as tools, and the content beside the call is null",
    "beside": "as tools, with a text beside the call",
    "reasoning": "two answers, reasoning in the last",
    "reasonings": "reasoning in both answers",
    "inline": "the same, in think blocks in the texts",
}
PLAIN = ("plain", "system", "turns", "developer", "weight")
TOOLS = ("tools", "call", "parallel", "null", "beside")


def planted(kind: str) -> Row:
    """Return a row of a kind of KINDS."""
    return ROWS[kind](Row(kind))


def _system(row: Row) -> Row:
    return row.hears(row.kind).hears("user").says().hears("user").says()


def _turns(row: Row) -> Row:
    return row.hears("user").says().hears("user").says().hears("user").says()


def _tools(row: Row) -> Row:
    content = None if row.kind == "null" else ""
    calls = 2 if row.kind == "parallel" else 1
    row.hears("user").says(text=row.kind == "beside", calls=calls, content=content)
    return row.returns().says()


def _reasonings(row: Row) -> Row:
    inline = row.kind == "inline"
    row.hears("user").says(reasoning=True, inline=inline)
    return row.hears("user").says(reasoning=True, inline=inline)


ROWS: dict[str, Callable[[Row], Row]] = {
    "plain": lambda row: row.hears("user").says(),
    "system": _system,
    "turns": _turns,
    "developer": _system,
    "weight": lambda row: row.hears("user").says(weight=0).hears("user").says(weight=1),
    "tools": _tools,
    "call": lambda row: row.hears("user").says(text=False, calls=1),
    "parallel": _tools,
    "null": _tools,
    "beside": _tools,
    "reasoning": lambda row: row.hears("user").says().hears("user").says(reasoning=True),
    "reasonings": _reasonings,
    "inline": _reasonings,
}
