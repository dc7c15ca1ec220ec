"""Count the tokens of training rows: exactly where a rule is known, as a range where it is not.

Three figures are kept apart, because they answer three questions:

=============  =================================================================================
``total``      content plus OpenAI's documented prompt overhead: 3 per message, the role, 1 for
               a name, 3 to prime the reply (openai-cookbook, How_to_count_tokens)
``trained``    content of the assistant turns that carry a loss (``weight`` other than 0)
``billed``     what training is charged for: content + 4 per message + 1 per row, which
               reproduces seven published bills; ``billed_low`` and ``billed_high``
               span what the evidence leaves open (tools, DPO, rows of other lengths)
=============  =================================================================================

Single texts are counted in ``encodings``; a local model's rows in ``local_counter``.
"""

from __future__ import annotations

import json
import marshal
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import compress
from typing import Any, Protocol

from finetune_gateway.data import formats, row_access
from finetune_gateway.data.canonical import as_sent
from finetune_gateway.data.dataset import kind_of
from finetune_gateway.data.row_access import Json
from finetune_gateway.errors import DataError
from finetune_gateway.tokens.encodings import (
    APPROXIMATE,
    DEFAULT_ENCODING,
    TextCounter,
    encoding_for,
)
from finetune_gateway.tokens.stats import RoleCount, RowTokens, TokenStats, TokenTotals

Roles = tuple[str, ...]

_ROLES = frozenset(("system", "developer", "user", "assistant", "tool", "function"))

_PER_MESSAGE, _PER_NAME, _PER_ROW = 3, 1, 3  # the documented prompt rule
_BILLED_PER_MESSAGE, _BILLED_PER_ROW = 4, 1  # fits seven published bills

_CACHED_TOOLS = 1024  # lists of tools: the rows of a file usually offer the same


class RowCounter(Protocol):
    """What a backend counts rows with."""

    def add(self, row: Json) -> RowTokens: ...

    def stats(self) -> TokenStats: ...


class TokenCounter(ABC):
    """Counts rows by one rule: ``add`` counts a row, ``stats`` returns the figures so far."""

    def __init__(self, encoding: str, max_context: int | None = None) -> None:
        self.encoding = encoding
        self.max_context = max_context
        self._totals = TokenTotals()

    @abstractmethod
    def measure(self, row: Json) -> RowTokens:
        """Return the tokens of one row without adding them. Accepts any JSON object."""

    @abstractmethod
    def fresh(self) -> TokenCounter:
        """Return an empty counter with the same rule; it can be pickled."""

    def add(self, row: Json) -> RowTokens:
        """Count one row, add it to the totals and return its tokens."""
        return self._add_measured(self.measure(row))

    def add_plain(
        self, roles: Sequence[Roles], texts: Sequence[str], limit: int | None = None
    ) -> int:
        """Add rows of plain system, user and assistant messages and return how many were added:
        those before the first that is longer than ``limit`` or cannot be counted.

        ``roles``: one tuple per row; ``texts``: of all rows, one after another, such as
        TextCounter.count_each accepts.
        """
        remaining = iter(texts)
        for number, row_roles in enumerate(roles):
            row = {"messages": [{"role": role, "content": next(remaining)} for role in row_roles]}
            try:
                measured = self.measure(row)
            except DataError:
                return number
            if limit is not None and measured.total > limit:
                return number
            self._add_measured(measured)
        return len(roles)

    def totals(self) -> TokenTotals:
        """Return the sums of all rows added so far."""
        return self._totals

    def _add_measured(self, measured: RowTokens) -> RowTokens:
        totals = self._totals
        row = measured.truncated(self.max_context)
        totals.truncated = totals.truncated or row.billed_high < measured.billed_high
        totals.lengths.add(row.total)
        if not row.trained:
            totals.untrained_lengths.add(row.total)
        totals.exact = totals.exact and row.exact
        for name in totals.sums:
            totals.sums[name] += getattr(row, name)
        for role, count in row.roles.items():
            totals.add_role(role, *count)
        totals.images += row.images
        over = max(0, row.longest - (self.max_context or row.longest))
        totals.truncated_rows += over > 0
        totals.truncated_tokens += over
        return row

    def stats(self) -> TokenStats:
        """Return the figures of all rows added so far."""
        totals = self.totals()
        lengths = totals.lengths
        # Not validated: the values are ours, and the first schema of a process takes 40 ms.
        return TokenStats.model_construct(
            _fields_set=None,
            encoding=self.encoding,
            exact=totals.exact and self.encoding != APPROXIMATE,
            rows=lengths.size,
            **totals.sums,
            min=lengths.quantile(0),
            median=lengths.quantile(0.5),
            p95=lengths.quantile(0.95),
            max=lengths.quantile(1),
            truncated_rows=totals.truncated_rows,
            truncated_trained=totals.truncated_trained,
            split_rows=totals.split_rows,
            pairs=totals.pairs,
            images=totals.images,
            truncated_tokens=totals.truncated_tokens,
            roles={**totals.roles},
            histogram=lengths.bins(),
            lengths=dict(lengths.counts),
            untrained_lengths=dict(totals.untrained_lengths.counts),
        )


_NONE = RoleCount(0, 0)


@dataclass(slots=True)
class _MessageSums:
    """Tokens of some messages, before any overhead is added."""

    messages: int = 0
    content: int = 0
    roles: int = 0  # role words and names, as the prompt rule counts them
    trained: int = 0
    unweighted: int = 0  # content of turns with weight 0; whether it is billed is not known
    images: int = 0
    images_below: int = 0  # tokens they may have less than expected, and more
    images_above: int = 0
    exact: bool = True
    by_role: dict[str, RoleCount] = field(default_factory=dict)

    @property
    def prompt(self) -> int:
        return self.content + self.roles + _PER_MESSAGE * self.messages

    @property
    def billed(self) -> int:
        return self.content + _BILLED_PER_MESSAGE * self.messages


class _RolePattern:
    """Rows with the same sequence of roles: their common overhead, and their sums."""

    def __init__(self, roles: Roles, role_tokens: int) -> None:
        size = len(roles)
        self.roles, self.has_system = roles, roles[0] == "system"
        self.turns = size - self.has_system  # messages without the system prompt
        self.prompt = role_tokens + _PER_MESSAGE * size + _PER_ROW
        self.billed = _BILLED_PER_MESSAGE * size + _BILLED_PER_ROW
        other = 2 * size + 7  # as in _chat
        self.low, self.high = min(self.billed, other), max(self.billed, other, self.prompt)
        self._is_answer = [role == "assistant" for role in roles[self.has_system :]]
        self.trains = any(self._is_answer)
        self._rows = self._content = self._system = self._trained = 0

    def add(self, content: int, system: int, turns: list[int]) -> None:
        """Add one row: all its tokens, those of its system prompt and of each other message."""
        self._rows += 1
        self._content += content
        self._system += system
        self._trained += sum(compress(turns, self._is_answer))

    def add_to(self, totals: TokenTotals) -> None:
        rows, content, sums = self._rows, self._content, totals.sums
        if not rows:
            return
        totals.lengths.size += rows
        sums["total"] += content + rows * self.prompt
        sums["trained"] += self._trained
        sums["billed"] += content + rows * self.billed
        sums["billed_low"] += content + rows * self.low
        sums["billed_high"] += content + rows * self.high
        tokens = {"system": self._system, "assistant": self._trained}
        tokens["user"] = content - self._trained - self._system
        for role, count in Counter(self.roles).items():
            totals.add_role(role, rows * count, tokens[role])


class HostedCounter(TokenCounter):
    """Counts as OpenAI's chat models do.

    An unknown model is counted by approximation; no model at all in o200k_base, the encoding of
    those that can still be trained on OpenAI. ``max_context``: tokens per example; the provider
    cuts a longer one at its end and does not bill the rest.
    """

    def __init__(self, model: str | None, max_context: int | None = None) -> None:
        self.model = model
        self.text = TextCounter(DEFAULT_ENCODING if model is None else encoding_for(model))
        self._role_tokens = {role: self.text(role) for role in ("system", "user", "assistant")}
        self._patterns: dict[Roles, _RolePattern] = {}
        self._tool_counts: dict[bytes, tuple[int, int]] = {}
        super().__init__(self.text.encoding, max_context)

    def __reduce__(self) -> tuple[type[HostedCounter], tuple[str | None, int | None]]:
        return HostedCounter, (self.model, self.max_context)  # the vocabulary is too large to send

    def fresh(self) -> HostedCounter:
        """Return an empty counter of the same model."""
        return HostedCounter(self.model, self.max_context)

    def add_plain(
        self, roles: Sequence[Roles], texts: Sequence[str], limit: int | None = None
    ) -> int:
        """Do the same in a quarter of the time; also stop before a row longer than
        ``max_context``."""
        system_prompts, others = _split_system_prompts(roles, texts)
        # Rows share their system prompt. Other texts rarely repeat, and looking them up takes an
        # eighth of the whole validation.
        system_counts = map(self.text, system_prompts)
        counts, place, totals = self.text.count_each(others), 0, self._totals
        for number, row_roles in enumerate(roles):
            pattern = self._patterns.get(row_roles) or self._pattern(row_roles)
            turns = counts[place : place + pattern.turns]
            place += pattern.turns
            system = next(system_counts) if pattern.has_system else 0
            content = system + sum(turns)
            total = content + pattern.prompt
            if (limit is not None and total > limit) or (
                self.max_context is not None and content + pattern.high > self.max_context
            ):
                return number
            totals.lengths.counts[total] += 1
            if not pattern.trains:
                totals.untrained_lengths.add(total)
            pattern.add(content, system, turns)
        return len(roles)

    def _pattern(self, roles: Roles) -> _RolePattern:
        if len(self._patterns) > 1000:  # conversations of very many lengths
            self.totals()
        role_tokens = sum(self._role_tokens[role] for role in roles)
        pattern = self._patterns[roles] = _RolePattern(roles, role_tokens)
        return pattern

    def totals(self) -> TokenTotals:
        """Return the sums, those of ``add_plain`` included."""
        for pattern in self._patterns.values():
            pattern.add_to(self._totals)
        self._patterns.clear()
        return self._totals

    def measure(self, row: Json) -> RowTokens:
        """Return the tokens of a row of any format, as it is sent: ``total`` by the prompt rule,
        ``billed`` by the bill's."""
        unchanged = formats.is_unchanged(row, formats.format_of(row))
        return self._measure_sent(row if unchanged else as_sent(row))

    def add_sent(self, row: Json) -> RowTokens:
        """Count a row as ``add`` does that is in the form in which it is sent."""
        return self._add_measured(self._measure_sent(row))

    def _measure_sent(self, row: Json) -> RowTokens:
        self.text.exact = True
        if kind_of(row) == "preference":
            return self._preference(row)
        return self._chat(row) if "messages" in row else self._text(row)

    def _chat(self, row: Json) -> RowTokens:
        sums = self._sum(row_access.messages_of(row.get("messages")))
        tools, tools_high = self._tools(row)
        billed = sums.billed + _BILLED_PER_ROW + tools
        # The bills prove 13 for rows of 3 messages; 4m+1, 3m+4 and 2m+7 all fit that, so rows of
        # other lengths get the span of the three.
        other = sums.content + 2 * sums.messages + 7
        total = sums.prompt + _PER_ROW + tools
        high = max(billed, other + tools, total) + tools_high - tools + sums.images_above
        low = min(billed - tools, other) - sums.unweighted - sums.images_below
        exact = sums.exact and sums.messages > 0 and self.text.exact and not tools_high
        return RowTokens(
            total, sums.trained, sums.messages, exact, billed, low, high, longest=billed,
            roles=sums.by_role, images=sums.images,
        )  # fmt: skip

    def _preference(self, row: Json) -> RowTokens:
        """Count a prompt and its two answers. How a pair is billed is not known: from the contents
        alone to the prompt charged once with each answer."""
        pair_input = row_access.as_dict(row.get("input"))
        roles: dict[str, RoleCount] = {}
        prompt = self._sum(row_access.messages_of(pair_input.get("messages")), roles)
        chosen, rejected = (
            self._sum(row_access.messages_of(row.get(side), "assistant"), roles)
            for side in ("preferred_output", "non_preferred_output")
        )
        tools, tools_high = self._tools(pair_input)
        billed = prompt.billed + chosen.billed + rejected.billed + _BILLED_PER_ROW + tools
        twice = 2 * (prompt.prompt + _PER_ROW + tools_high) + chosen.prompt + rejected.prompt
        total = prompt.prompt + chosen.prompt + rejected.prompt + _PER_ROW + tools
        messages = prompt.messages + chosen.messages + rejected.messages
        low = prompt.content + chosen.content + rejected.content
        return RowTokens(
            total, chosen.trained + rejected.trained, messages, False, billed, low,
            max(billed, twice), longest=billed - min(chosen.billed, rejected.billed), sequences=2,
            roles=roles, images=prompt.images,
        )  # fmt: skip

    def _text(self, row: Json) -> RowTokens:
        """Count a text row; high as if sent as one turn."""
        text = self._sum(row_access.messages_of(row.get("text"), "assistant"))
        content = text.content
        high = content + _BILLED_PER_MESSAGE * text.messages + _PER_ROW
        exact = text.messages > 0 and self.text.exact and text.exact
        return RowTokens(
            content, content, text.messages, exact, content, content, high, longest=content,
            roles=text.by_role,
        )  # fmt: skip

    def _sum(
        self, messages: Iterable[Json], by_role: dict[str, RoleCount] | None = None
    ) -> _MessageSums:
        """Return the sums of messages. ``by_role``: counts that theirs are added to."""
        sums = _MessageSums() if by_role is None else _MessageSums(by_role=by_role)
        for message in messages:
            role, text = message.get("role"), message.get("content")
            if len(message) == 2 and type(role) is str and type(text) is str:
                self._add_turn(role, self.text(text), sums)  # most messages
            else:
                self._add_message(message, sums)
        return sums

    def _add_turn(self, role: str, content: int, sums: _MessageSums) -> None:
        """Add a message of a role and so many tokens of content."""
        sums.messages += 1
        sums.content += content
        sums.roles += self.text(role)
        known = role if role in _ROLES else "other"  # an invented role must not become a key
        before = sums.by_role.get(known, _NONE)
        sums.by_role[known] = RoleCount(before.messages + 1, before.tokens + content)
        if role == "assistant":
            sums.trained += content

    def _add_message(self, message: Json, sums: _MessageSums) -> None:
        content = sum(self.text(text) for text in row_access.texts_of(message))
        parts = row_access.parts_of(message.get("content"))
        if images := [*filter(row_access.is_image, parts)]:
            from finetune_gateway.tokens.images import tokens_of  # here: few files have images

            low, expected, high = tokens_of(self.model, images)
            content += expected
            sums.images += len(images)
            sums.images_below += expected - low
            sums.images_above += high - expected
        role, name = str(message.get("role", "")), message.get("name")
        self._add_turn(role, content, sums)
        if isinstance(name, str):
            sums.roles += self.text(name) + _PER_NAME
        if role == "assistant" and message.get("weight") == 0:
            sums.trained -= content
            sums.unweighted += content
        sums.exact = sums.exact and not images and not row_access.calls_of(message)

    def _tools(self, row: Json) -> tuple[int, int]:
        """Return the tokens of the tool definitions by the cookbook's rule, and as plain JSON. Real
        renderings differ by a factor of 1.9, and none is proven for training."""
        tools = row_access.tools_of(row) if "tools" in row or "functions" in row else []
        if not tools:
            return 0, 0
        definitions = [row.get("tools"), row.get("functions")]
        try:
            key = blake2b(marshal.dumps(definitions, 2)).digest()  # a tenth of the time of json
        except ValueError:  # too deep for marshal
            return self._count_tools(tools, definitions)
        counts = self._tool_counts.get(key) or self._count_tools(tools, definitions)
        if len(self._tool_counts) < _CACHED_TOOLS:
            self._tool_counts[key] = counts
        return counts

    def _count_tools(self, tools: list[Json], definitions: list[Any]) -> tuple[int, int]:
        by_rule = sum(self._tool(tool) for tool in tools) + _FUNC_END
        return by_rule, max(by_rule, self.text(json.dumps(definitions, ensure_ascii=False)))

    def _tool(self, tool: Json) -> int:
        line = f"{tool.get('name', '')}:{_no_dot(tool)}"
        count = self.text(line) + _FUNC_INIT.get(self.encoding, 7)
        parameters = row_access.as_dict(tool.get("parameters"))
        properties = row_access.as_dict(parameters.get("properties"))
        count += _PROP_INIT if properties else 0
        return count + sum(
            self._property(key, row_access.as_dict(value)) for key, value in properties.items()
        )

    def _property(self, key: str, value: Json) -> int:
        line = f"{key}:{value.get('type', '')}:{_no_dot(value)}"
        values = sum(
            _ENUM_ITEM + self.text(str(item)) for item in row_access.as_list(value.get("enum"))
        )
        return _PROP_KEY + self.text(line) + (_ENUM_INIT + values if "enum" in value else 0)


def _split_system_prompts(
    roles: Sequence[Roles], texts: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return the system prompts of some rows, and their other texts."""
    system_prompts: list[str] = []
    others: list[str] = []
    place = 0
    for row_roles in roles:
        end = place + len(row_roles)
        if row_roles[0] == "system":
            system_prompts.append(texts[place])
            place += 1
        others += texts[place:end]
        place = end
    return system_prompts, others


# openai-cookbook, How_to_count_tokens_with_tiktoken, section 7.
_FUNC_INIT = {"o200k_base": 7, "o200k_harmony": 7, "cl100k_base": 10}
_PROP_INIT, _PROP_KEY, _ENUM_INIT, _ENUM_ITEM, _FUNC_END = 3, 3, -3, 3, 12


def _no_dot(one: Json) -> str:
    return str(one.get("description", "")).removesuffix(".")
