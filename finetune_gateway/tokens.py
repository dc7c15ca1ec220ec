"""Tokens of training rows: counted exactly where a rule is known, labelled where it is not.

Knows encodings and counting rules; knows nothing of files, prices or job APIs. The
vocabularies are in the wheel of splintr, so nothing here needs a network.

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

import importlib
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol, cast

from pydantic import BaseModel, ConfigDict

from finetune_gateway import turns
from finetune_gateway.dataset import kind_of
from finetune_gateway.turns import Json

APPROXIMATE = "approximation (UTF-8 bytes / 4)"

# First match wins. tiktoken 0.14 resolves "ft:gpt-4.1-..." to cl100k_base by its prefix
# "ft:gpt-4"; hence our own table, asked with the base name.
_ENCODINGS = (
    (re.compile(r"gpt-oss-.+"), "o200k_harmony"),
    (re.compile(r"(chatgpt-4o|gpt-4o|gpt-4\.1|gpt-4\.5|gpt-5|o1|o3|o4)([-.].+)?"), "o200k_base"),
    (re.compile(r"(gpt-4|gpt-3\.5|gpt-35)(-.+)?"), "cl100k_base"),
    (re.compile(r"(davinci|babbage)-002"), "cl100k_base"),
)

# A repeated system prompt is counted once: 3.2x faster on rows with one 6 kB prompt, no cost
# on others (measured). Bounded in entries and in characters, so memory stays flat.
_CACHE_ENTRIES = 20_000
_CACHE_CHARS = 16_000_000

_PER_MESSAGE, _PER_NAME, _PER_ROW = 3, 1, 3  # the documented prompt rule
_BILLED_PER_MESSAGE, _BILLED_PER_ROW = 4, 1  # fits both published bills

# An image at low detail; the most a 2048 x 4096 one takes (OpenAI's vision guide).
_IMAGE_LOW, _IMAGE_HIGH = 85, 1105


class _Engine(Protocol):
    def encode_ordinary(self, text: str) -> list[int]: ...


def base_model(model: str) -> str:
    """The base behind a fine-tuned name, or the name itself.

    ``ft:gpt-4.1-mini-2025-04-14:org::id`` (OpenAI), ``gpt-4.1-mini-2025-04-14.ft-0a1b``
    (Azure).
    """
    name = model.split(":")[1] if model.startswith("ft:") else model
    return name.split(".ft-")[0]


def encoding_for(model: str) -> str | None:
    """The tiktoken name of a hosted model's encoding, or None when it is not known."""
    name = re.sub(r"^openai[/.]", "", base_model(model))
    for pattern, encoding in _ENCODINGS:
        if pattern.fullmatch(name):
            return encoding
    return None


def approximate_tokens(text: str) -> int:
    """UTF-8 bytes / 4: an approximation for models whose encoding is not known.

    Off by -29 % to +30 % per row on mixed text (5th and 95th percentile), and by -54 % on
    chemical formulas (measured against o200k_base). Never called exact.
    """
    return (len(text.encode("utf-8", "surrogatepass")) + 3) // 4


@cache
def _engine(encoding: str) -> _Engine:
    """The encoder of an encoding; its vocabulary comes from splintr's wheel, 0.05 s."""
    splintr = importlib.import_module("splintr")
    # o200k_harmony adds special tokens only; ordinary text is the same as in o200k_base.
    vocabulary = encoding.replace("o200k_harmony", "o200k_base")
    return cast(_Engine, splintr.Tokenizer.from_pretrained(vocabulary))


class TextCounter:
    """Counts the tokens of single texts in one encoding; None means the approximation.

    ``exact`` turns False once a text could not be counted exactly, and stays so until it is
    set to True again.
    """

    def __init__(self, encoding: str | None) -> None:
        self.encoding = encoding or APPROXIMATE
        self.exact = encoding is not None
        self._engine = _engine(encoding) if encoding else None
        self._cache: dict[str, int] = {}
        self._cached_chars = 0

    def __call__(self, text: str) -> int:
        """Tokens of ``text``; what looks like a special token in it counts as plain text."""
        known = self._cache.get(text)
        return known if known is not None else self._count(text)

    def _count(self, text: str) -> int:
        if self._engine is None:
            self.exact = False
            return approximate_tokens(text)
        try:
            count = len(self._engine.encode_ordinary(text))
        except UnicodeEncodeError:
            return self._count_repaired(self._engine, text)
        self._remember(text, count)
        return count

    def _count_repaired(self, engine: _Engine, text: str) -> int:
        # Lone surrogates have no UTF-8; the same replacement as tiktoken's encode_ordinary.
        self.exact = False
        repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return len(engine.encode_ordinary(repaired))

    def _remember(self, text: str, count: int) -> None:
        if len(self._cache) >= _CACHE_ENTRIES or self._cached_chars > _CACHE_CHARS:
            self._cache.clear()
            self._cached_chars = 0
        self._cache[text] = count
        self._cached_chars += len(text)


@dataclass(frozen=True, slots=True)
class RowTokens:
    """The tokens of one row. ``exact`` is False where a rule had to be guessed."""

    total: int
    trained: int
    messages: int
    exact: bool
    billed: int = 0
    billed_low: int = 0
    billed_high: int = 0
    longest: int = 0  # billed tokens of the longest sequence in it; a DPO row holds two
    sequences: int = 1

    def cut(self, max_context: int | None) -> RowTokens:
        """The same row, billed only as far as ``max_context`` tokens per sequence."""
        if max_context is None:
            return self
        cap = max_context * self.sequences
        return replace(
            self,
            billed=min(self.billed, cap),
            billed_low=min(self.billed_low, cap),
            billed_high=min(self.billed_high, cap),
        )


class TokenStats(BaseModel):
    """The tokens of a file. min, median, p95 and max are of ``total`` per row."""

    model_config = ConfigDict(frozen=True)

    encoding: str
    exact: bool
    rows: int = 0
    total: int = 0
    trained: int = 0
    billed: int = 0
    billed_low: int = 0
    billed_high: int = 0
    min: int = 0
    median: int = 0
    p95: int = 0
    max: int = 0
    truncated_rows: int = 0  # longer than the model's context; cut at the end by the provider
    truncated_tokens: int = 0

    @property
    def approximate(self) -> bool:
        """True when the encoding is unknown and bytes were counted instead."""
        return self.encoding == APPROXIMATE

    def summary(self) -> Json:
        """The ``tokens`` part of a validation report."""
        fields = ("encoding", "exact", "total", "trained", "min", "median", "p95", "max")
        return {name: getattr(self, name) for name in fields}


class Histogram:
    """Whole numbers with their counts; memory grows with distinct values, not with rows."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.size = 0

    def add(self, value: int) -> None:
        self.counts[value] = self.counts.get(value, 0) + 1
        self.size += 1

    def quantile(self, q: float) -> int:
        """The q-th quantile between neighbours, as numpy's default, rounded; 0 when empty."""
        if not self.size:
            return 0
        place = q * (self.size - 1)
        below, above = self._at(int(place)), self._at(min(int(place) + 1, self.size - 1))
        return round(below + (above - below) * (place - int(place)))

    def _at(self, index: int) -> int:
        seen = 0
        for value in sorted(self.counts):
            seen += self.counts[value]
            if seen > index:
                return value
        raise IndexError(index)


class RowCounter(Protocol):
    """What a backend counts rows with."""

    def add(self, row: Json) -> RowTokens: ...

    def stats(self) -> TokenStats: ...


class TokenCounter(ABC):
    """Adds up rows under one rule. ``add`` counts a row, ``stats`` tells the sum so far."""

    def __init__(self, encoding: str, max_context: int | None = None) -> None:
        self.encoding = encoding
        self.max_context = max_context
        self._lengths = Histogram()
        self._exact = True
        self._sums = dict.fromkeys(("total", "trained", "billed", "billed_low", "billed_high"), 0)
        self._cut_rows = self._cut_tokens = 0

    @abstractmethod
    def measure(self, row: Json) -> RowTokens:
        """The tokens of one row, not added to the sum. Any JSON object gives an answer."""

    def add(self, row: Json) -> RowTokens:
        """Count one row and add it to the sum."""
        counted = self.measure(row).cut(self.max_context)
        self._lengths.add(counted.total)
        self._exact = self._exact and counted.exact
        for name in self._sums:
            self._sums[name] += getattr(counted, name)
        over = max(0, counted.longest - (self.max_context or counted.longest))
        self._cut_rows += over > 0
        self._cut_tokens += over
        return counted

    def stats(self) -> TokenStats:
        """The figures of all rows added so far."""
        lengths = self._lengths
        return TokenStats(
            encoding=self.encoding,
            exact=self._exact and self.encoding != APPROXIMATE,
            rows=lengths.size,
            **self._sums,
            min=lengths.quantile(0),
            median=lengths.quantile(0.5),
            p95=lengths.quantile(0.95),
            max=lengths.quantile(1),
            truncated_rows=self._cut_rows,
            truncated_tokens=self._cut_tokens,
        )


class LocalCounter(TokenCounter):
    """Counts with the model's own template: ``encode(row)`` gives (total, trained) tokens."""

    def __init__(
        self,
        encode: Callable[[Json], tuple[int, int]],
        *,
        encoding: str = "chat template",
        max_context: int | None = None,
    ) -> None:
        super().__init__(encoding, max_context)
        self._encode = encode

    def measure(self, row: Json) -> RowTokens:
        """As the template renders it; ``billed`` is ``total``, since nobody sends a bill."""
        total, trained = self._encode(row)
        count = len(turns.messages_of(row.get("messages")))
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

    @property
    def prompt(self) -> int:
        return self.content + self.roles + _PER_MESSAGE * self.messages

    @property
    def billed(self) -> int:
        return self.content + _BILLED_PER_MESSAGE * self.messages


class HostedCounter(TokenCounter):
    """Counts as OpenAI's chat models do. An unknown model is counted by approximation; no
    model at all as those that can still be trained on OpenAI, in o200k_base.

    ``max_context``: tokens per example; what is longer is cut at its end by the provider and
    is not billed.
    """

    def __init__(self, model: str | None, max_context: int | None = None) -> None:
        self.text = TextCounter("o200k_base" if model is None else encoding_for(model))
        super().__init__(self.text.encoding, max_context)

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
        found = self._sum(turns.messages_of(row.get("messages")))
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
            total, found.trained, found.messages, exact, billed, low, high, longest=billed
        )

    def _pair(self, row: Json) -> RowTokens:
        """A preference row: the prompt and both answers. How a pair is billed is not settled:
        from the contents alone to the prompt charged once with each answer."""
        source = {**row, **turns.as_dict(row.get("input"))}
        asked = self._sum(turns.messages_of(turns.first(source, "messages", "prompt")))
        good, bad = (
            self._sum(turns.messages_of(turns.first(row, *keys), "assistant"))
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
        )

    def _plain(self, row: Json) -> RowTokens:
        """prompt/completion and text rows: the contents; high as if sent as two chat turns."""
        asked = self._sum(turns.messages_of(row.get("prompt")))
        answer = self._sum(turns.messages_of(turns.first(row, "completion", "text"), "assistant"))
        content = asked.content + answer.content
        messages = asked.messages + answer.messages
        high = content + _BILLED_PER_MESSAGE * messages + _PER_ROW
        exact = messages > 0 and self.text.exact and asked.exact and answer.exact
        return RowTokens(
            content, answer.content, messages, exact, content, content, high, longest=content
        )

    def _sum(self, messages: Iterable[Json]) -> _Sum:
        found = _Sum()
        for message in messages:
            self._add_message(message, found)
        return found

    def _add_message(self, message: Json, found: _Sum) -> None:
        images = sum(1 for part in turns.parts_of(message.get("content")) if turns.is_image(part))
        content = sum(self.text(text) for text in turns.texts_of(message)) + images * _IMAGE_LOW
        role, name = str(message.get("role", "")), message.get("name")
        found.messages += 1
        found.content += content
        found.images += images
        found.roles += self.text(role)
        if isinstance(name, str):
            found.roles += self.text(name) + _PER_NAME
        if role == "assistant" and message.get("weight") == 0:
            found.unweighted += content
        elif role == "assistant":
            found.trained += content
        found.exact = found.exact and not images and not turns.calls_of(message)

    def _tools(self, row: Json) -> tuple[int, int]:
        """Tokens of the tool definitions: by the cookbook's rule, and as plain JSON. Real
        renderings differ by a factor of 1.9 and none is proven for training."""
        tools = turns.tools_of(row)
        if not tools:
            return 0, 0
        rule = sum(self._tool(tool) for tool in tools) + _FUNC_END
        offered = [row.get("tools"), row.get("functions")]
        return rule, max(rule, self.text(json.dumps(offered, ensure_ascii=False)))

    def _tool(self, tool: Json) -> int:
        line = f"{tool.get('name', '')}:{_no_dot(tool.get('description', ''))}"
        count = self.text(line) + _FUNC_INIT.get(self.encoding, 7)
        properties = turns.as_dict(turns.as_dict(tool.get("parameters")).get("properties"))
        count += _PROP_INIT if properties else 0
        return count + sum(
            self._property(key, turns.as_dict(value)) for key, value in properties.items()
        )

    def _property(self, key: str, value: Json) -> int:
        line = f"{key}:{value.get('type', '')}:{_no_dot(value.get('description', ''))}"
        listed = sum(_ENUM_ITEM + self.text(str(item)) for item in turns.as_list(value.get("enum")))
        return _PROP_KEY + self.text(line) + (_ENUM_INIT + listed if "enum" in value else 0)


# openai-cookbook, How_to_count_tokens_with_tiktoken, section 7.
_FUNC_INIT = {"o200k_base": 7, "o200k_harmony": 7, "cl100k_base": 10}
_PROP_INIT, _PROP_KEY, _ENUM_INIT, _ENUM_ITEM, _FUNC_END = 3, 3, -3, 3, 12


def _no_dot(text: object) -> str:
    return str(text).removesuffix(".")
