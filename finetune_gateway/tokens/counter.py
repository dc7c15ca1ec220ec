"""Tokens of training rows: counted exactly where a rule is known, labelled where it is not.

Knows counting rules; knows nothing of files, prices or job APIs. Single texts are counted in
``encodings``, without a network.

Three figures are kept apart, because they answer three questions:

=============  =================================================================================
``total``      content plus OpenAI's documented prompt overhead: 3 per message, the role, 1 for
               a name, 3 to prime the reply (openai-cookbook, How_to_count_tokens)
``trained``    content of the assistant turns that carry a loss (``weight`` other than 0)
``billed``     what training is charged for: content + 4 per message + 1 per row, which
               reproduces two published bills to the token; ``billed_low`` and ``billed_high``
               span what the evidence leaves open (tools, DPO, rows of other lengths)
=============  =================================================================================
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Protocol

from finetune_gateway.data import row_access
from finetune_gateway.data.dataset import kind_of
from finetune_gateway.data.row_access import Json
from finetune_gateway.errors import DataError
from finetune_gateway.tokens.encodings import (
    APPROXIMATE,
    USUAL,
    TextCounter,
    approximate_tokens,
    base_model,
    encoding_for,
)
from finetune_gateway.tokens.stats import Histogram, RowTokens, Said, Tally, TokenStats

__all__ = [
    "APPROXIMATE", "Histogram", "HostedCounter", "LocalCounter", "RowCounter", "RowTokens",
    "Tally", "TextCounter", "TokenCounter", "TokenStats", "approximate_tokens", "base_model",
    "encoding_for",
]  # fmt: skip

Roles = tuple[str, ...]

_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))

_PER_MESSAGE, _PER_NAME, _PER_ROW = 3, 1, 3  # the documented prompt rule
_BILLED_PER_MESSAGE, _BILLED_PER_ROW = 4, 1  # fits both published bills

# An image at low detail; the most a 2048 x 4096 one takes (OpenAI's vision guide).
_IMAGE_LOW, _IMAGE_HIGH = 85, 1105


class RowCounter(Protocol):
    """What a backend counts rows with."""

    def add(self, row: Json) -> RowTokens: ...

    def stats(self) -> TokenStats: ...


class TokenCounter(ABC):
    """Adds up rows under one rule. ``add`` counts a row, ``stats`` tells the sum so far."""

    def __init__(self, encoding: str, max_context: int | None = None) -> None:
        self.encoding = encoding
        self.max_context = max_context
        self.tally = Tally()

    @abstractmethod
    def measure(self, row: Json) -> RowTokens:
        """The tokens of one row, not added to the sum. Any JSON object gives an answer."""

    @abstractmethod
    def fresh(self) -> TokenCounter:
        """A counter with the same rule that has counted nothing; can be pickled."""

    def add(self, row: Json) -> RowTokens:
        """Count one row and add it to the sum."""
        return self._added(self.measure(row))

    def add_plain(
        self, roles: Sequence[Roles], texts: Sequence[str], limit: int | None = None
    ) -> int:
        """``add`` for rows of plain system, user and assistant messages.

        ``roles``: those of each row; ``texts``: of all rows, one after another, such as
        TextCounter.each takes. How many rows were added: those before the first that is longer
        than ``limit``, or cannot be counted.
        """
        left = iter(texts)
        for number, said in enumerate(roles):
            row = {"messages": [{"role": role, "content": next(left)} for role in said]}
            try:
                measured = self.measure(row)
            except DataError:
                return number
            if limit is not None and measured.total > limit:
                return number
            self._added(measured)
        return len(roles)

    def summed(self) -> Tally:
        """The sums of all rows added so far."""
        return self.tally

    def _added(self, measured: RowTokens) -> RowTokens:
        tally = self.tally
        counted = measured.cut(self.max_context)
        tally.capped = tally.capped or counted.billed_high < measured.billed_high
        tally.lengths.add(counted.total)
        if not counted.trained:
            tally.idle.add(counted.total)
        tally.exact = tally.exact and counted.exact
        for name in tally.sums:
            tally.sums[name] += getattr(counted, name)
        for role, said in counted.roles.items():
            tally.say(role, *said)
        over = max(0, counted.longest - (self.max_context or counted.longest))
        tally.cut_rows += over > 0
        tally.cut_tokens += over
        return counted

    def stats(self) -> TokenStats:
        """The figures of all rows added so far."""
        tally = self.summed()
        lengths = tally.lengths
        return TokenStats(
            encoding=self.encoding,
            exact=tally.exact and self.encoding != APPROXIMATE,
            rows=lengths.size,
            **tally.sums,
            min=lengths.quantile(0),
            median=lengths.quantile(0.5),
            p95=lengths.quantile(0.95),
            max=lengths.quantile(1),
            truncated_rows=tally.cut_rows,
            truncated_tokens=tally.cut_tokens,
            roles=tally.roles,
            histogram=lengths.bins(),
            lengths=dict(lengths.counts),
            idle=dict(tally.idle.counts),
        )


class LocalCounter(TokenCounter):
    """Counts with the model's own template: ``encode(row)`` gives (total, trained) tokens,
    ``render(row)`` the text the model is shown."""

    def __init__(
        self,
        encode: Callable[[Json], tuple[int, int]],
        *,
        render: Callable[[Json], str] | None = None,
        encoding: str = "chat template",
        max_context: int | None = None,
    ) -> None:
        super().__init__(encoding, max_context)
        self._encode = encode
        self.render = render

    def fresh(self) -> LocalCounter:
        """Can be pickled where ``encode`` and ``render`` can."""
        return LocalCounter(
            self._encode, render=self.render, encoding=self.encoding, max_context=self.max_context
        )

    def measure(self, row: Json) -> RowTokens:
        """As the template renders it; ``billed`` is ``total``, since nobody sends a bill."""
        total, trained = self._encode(row)
        count = len(row_access.messages_of(row.get("messages")))
        return RowTokens(total, trained, count, True, total, total, total, total)


@dataclass(slots=True)
class _Sum:
    """Tokens of some messages: what they hold, before any overhead is added."""

    messages: int = 0
    content: int = 0
    roles: int = 0  # role words and names, as the prompt rule counts them
    trained: int = 0
    unweighted: int = 0  # content of turns with weight 0; whether it is billed is not settled
    images: int = 0
    exact: bool = True
    said: dict[str, Said] = field(default_factory=dict)

    @property
    def prompt(self) -> int:
        return self.content + self.roles + _PER_MESSAGE * self.messages

    @property
    def billed(self) -> int:
        return self.content + _BILLED_PER_MESSAGE * self.messages


class _Frame:
    """What is around the texts of rows with the same roles, and the sums of these rows."""

    def __init__(self, roles: Roles, words: int) -> None:
        size = len(roles)
        self.roles, self.asked = roles, roles[0] == "system"
        self.own = size - self.asked  # texts but for the system prompt
        self.prompt = words + _PER_MESSAGE * size + _PER_ROW
        self.billed = _BILLED_PER_MESSAGE * size + _BILLED_PER_ROW
        other = 2 * size + 7  # as in _chat
        self.low, self.high = min(self.billed, other), max(self.billed, other, self.prompt)
        self._answers = [role == "assistant" for role in roles[self.asked :]]
        self.trains = any(self._answers)
        self._rows = self._content = self._system = self._trained = 0

    def add(self, content: int, system: int, own: list[int]) -> None:
        self._rows += 1
        self._content += content
        self._system += system
        self._trained += sum(compress(own, self._answers))

    def settle(self, tally: Tally) -> None:
        rows, content, sums = self._rows, self._content, tally.sums
        if not rows:
            return
        tally.lengths.size += rows
        sums["total"] += content + rows * self.prompt
        sums["trained"] += self._trained
        sums["billed"] += content + rows * self.billed
        sums["billed_low"] += content + rows * self.low
        sums["billed_high"] += content + rows * self.high
        asked = content - self._trained - self._system
        parts = {"system": self._system, "user": asked, "assistant": self._trained}
        for role, count in Counter(self.roles).items():
            tally.say(role, rows * count, parts[role])


class HostedCounter(TokenCounter):
    """Counts as OpenAI's chat models do. An unknown model is counted by approximation; no
    model at all as those that can still be trained on OpenAI, in o200k_base.

    ``max_context``: tokens per example; what is longer is cut at its end by the provider and
    is not billed.
    """

    def __init__(self, model: str | None, max_context: int | None = None) -> None:
        self.model = model
        self.text = TextCounter(USUAL if model is None else encoding_for(model))
        self._roles = {role: self.text(role) for role in ("system", "user", "assistant")}
        self._frames: dict[Roles, _Frame] = {}
        super().__init__(self.text.encoding, max_context)

    def __reduce__(self) -> tuple[type[HostedCounter], tuple[str | None, int | None]]:
        return HostedCounter, (self.model, self.max_context)  # the tables are too large to send

    def fresh(self) -> HostedCounter:
        return HostedCounter(self.model, self.max_context)

    def add_plain(
        self,
        roles: Sequence[Roles],
        texts: Sequence[str],
        limit: int | None = None,
    ) -> int:
        """In a fourth of the time; also ends before the first row longer than ``max_context``."""
        prompts, others = _apart(roles, texts)
        # Rows share their system prompt; other texts are seldom seen twice, and looking them up
        # takes an eighth of the whole check.
        asked = map(self.text, prompts)
        counts, place, tally = self.text.each(others), 0, self.tally
        for number, said in enumerate(roles):
            frame = self._frames.get(said) or self._frame(said)
            own = counts[place : place + frame.own]
            place += frame.own
            system = next(asked) if frame.asked else 0
            content = system + sum(own)
            total = content + frame.prompt
            if (limit is not None and total > limit) or (
                self.max_context is not None and content + frame.high > self.max_context
            ):
                return number
            tally.lengths.counts[total] += 1
            if not frame.trains:
                tally.idle.add(total)
            frame.add(content, system, own)
        return len(roles)

    def _frame(self, roles: Roles) -> _Frame:
        if len(self._frames) > 1000:  # conversations of very many lengths
            self.summed()
        words = sum(self._roles[role] for role in roles)
        made = self._frames[roles] = _Frame(roles, words)
        return made

    def summed(self) -> Tally:
        """With what ``add_plain`` has counted."""
        for frame in self._frames.values():
            frame.settle(self.tally)
        self._frames.clear()
        return self.tally

    def measure(self, row: Json) -> RowTokens:
        """Tokens of a row of any kind; ``total`` is the prompt rule, ``billed`` the bill's."""
        self.text.exact = True
        kind = kind_of(row)
        if kind == "preference":
            return self._pair(row)
        if kind == "chat" or isinstance(row.get("messages"), list):
            return self._chat(row)
        return self._plain(row)

    def _chat(self, row: Json) -> RowTokens:
        found = self._sum(row_access.messages_of(row.get("messages")))
        tools, tools_high = self._tools(row)
        billed = found.billed + _BILLED_PER_ROW + tools
        # With 3 messages the bills prove 13 per row; 4m+1, 3m+4 and 2m+7 all fit that, so
        # rows of other lengths get the span of the three.
        other = found.content + 2 * found.messages + 7
        total = found.prompt + _PER_ROW + tools
        images = found.images * (_IMAGE_HIGH - _IMAGE_LOW)
        high = max(billed, other + tools, total) + tools_high - tools + images
        low = min(billed - tools, other) - found.unweighted
        exact = found.exact and self.text.exact and not tools_high
        return RowTokens(
            total, found.trained, found.messages, exact, billed, low, high, longest=billed,
            roles=found.said,
        )  # fmt: skip

    def _pair(self, row: Json) -> RowTokens:
        """A preference row: the prompt and both answers. How a pair is billed is not settled:
        from the contents alone to the prompt charged once with each answer."""
        source = {**row, **row_access.as_dict(row.get("input"))}
        asked = self._sum(row_access.messages_of(row_access.first(source, "messages", "prompt")))
        good, bad = (
            self._sum(row_access.messages_of(row_access.first(row, *keys), "assistant"))
            for keys in (("preferred_output", "chosen"), ("non_preferred_output", "rejected"))
        )
        tools, tools_high = self._tools(source)
        billed = asked.billed + good.billed + bad.billed + _BILLED_PER_ROW + tools
        twice = 2 * (asked.prompt + _PER_ROW + tools_high) + good.prompt + bad.prompt
        return RowTokens(
            asked.prompt + good.prompt + bad.prompt + _PER_ROW + tools,
            good.trained + bad.trained,
            asked.messages + good.messages + bad.messages,
            False,
            billed,
            asked.content + good.content + bad.content,
            max(billed, twice),
            longest=billed - min(good.billed, bad.billed),
            sequences=2,
            roles=_joined(asked.said, good.said, bad.said),
        )

    def _plain(self, row: Json) -> RowTokens:
        """prompt/completion and text rows: the contents; high as if sent as two chat turns."""
        asked = self._sum(row_access.messages_of(row.get("prompt")))
        answer = self._sum(
            row_access.messages_of(row_access.first(row, "completion", "text"), "assistant")
        )
        content = asked.content + answer.content
        messages = asked.messages + answer.messages
        high = content + _BILLED_PER_MESSAGE * messages + _PER_ROW
        exact = messages > 0 and self.text.exact and asked.exact and answer.exact
        return RowTokens(
            content, answer.content, messages, exact, content, content, high, longest=content,
            roles=_joined(asked.said, answer.said),
        )  # fmt: skip

    def _sum(self, messages: Iterable[Json]) -> _Sum:
        found = _Sum()
        for message in messages:
            self._add_message(message, found)
        return found

    def _add_message(self, message: Json, found: _Sum) -> None:
        images = sum(
            1 for part in row_access.parts_of(message.get("content")) if row_access.is_image(part)
        )
        content = (
            sum(self.text(text) for text in row_access.texts_of(message)) + images * _IMAGE_LOW
        )
        role, name = str(message.get("role", "")), message.get("name")
        found.messages += 1
        found.content += content
        found.images += images
        found.roles += self.text(role)
        if isinstance(name, str):
            found.roles += self.text(name) + _PER_NAME
        known = role if role in _ROLES else "other"  # what the data may call itself is no key
        before = found.said.get(known, Said(0, 0))
        found.said[known] = Said(before.messages + 1, before.tokens + content)
        if role == "assistant" and message.get("weight") == 0:
            found.unweighted += content
        elif role == "assistant":
            found.trained += content
        found.exact = found.exact and not images and not row_access.calls_of(message)

    def _tools(self, row: Json) -> tuple[int, int]:
        """Tokens of the tool definitions: by the cookbook's rule, and as plain JSON. Real
        renderings differ by a factor of 1.9 and none is proven for training."""
        tools = row_access.tools_of(row)
        if not tools:
            return 0, 0
        rule = sum(self._tool(tool) for tool in tools) + _FUNC_END
        offered = [row.get("tools"), row.get("functions")]
        return rule, max(rule, self.text(json.dumps(offered, ensure_ascii=False)))

    def _tool(self, tool: Json) -> int:
        line = f"{tool.get('name', '')}:{_no_dot(tool.get('description', ''))}"
        count = self.text(line) + _FUNC_INIT.get(self.encoding, 7)
        properties = row_access.as_dict(
            row_access.as_dict(tool.get("parameters")).get("properties")
        )
        count += _PROP_INIT if properties else 0
        return count + sum(
            self._property(key, row_access.as_dict(value)) for key, value in properties.items()
        )

    def _property(self, key: str, value: Json) -> int:
        line = f"{key}:{value.get('type', '')}:{_no_dot(value.get('description', ''))}"
        listed = sum(
            _ENUM_ITEM + self.text(str(item)) for item in row_access.as_list(value.get("enum"))
        )
        return _PROP_KEY + self.text(line) + (_ENUM_INIT + listed if "enum" in value else 0)


def _apart(roles: Sequence[Roles], texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """The system prompts of some rows, and their other texts."""
    prompts: list[str] = []
    others: list[str] = []
    place = 0
    for said in roles:
        end = place + len(said)
        if said[0] == "system":
            prompts.append(texts[place])
            place += 1
        others += texts[place:end]
        place = end
    return prompts, others


def _joined(*parts: Mapping[str, Said]) -> dict[str, Said]:
    """What each role has said in all of these."""
    sums = Tally()
    for part in parts:
        for role, said in part.items():
            sums.say(role, *said)
    return sums.roles


# openai-cookbook, How_to_count_tokens_with_tiktoken, section 7.
_FUNC_INIT = {"o200k_base": 7, "o200k_harmony": 7, "cl100k_base": 10}
_PROP_INIT, _PROP_KEY, _ENUM_INIT, _ENUM_ITEM, _FUNC_END = 3, 3, -3, 3, 12


def _no_dot(text: object) -> str:
    return str(text).removesuffix(".")
