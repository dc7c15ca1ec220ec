"""What a chat template writes for each turn of an assistant: the prompt that serving asks with, and
the label, which is what the model must write then, its stop token included.

The prompt is the conversation before the turn, with the opening of an answer. The label is the
difference to the conversation with the turn; a template may also write the turn in another way than
it asks for it, and then the label is cut from the turn.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from finetune_gateway.errors import DataError
from finetune_gateway.tokens.special_text import Span, SpecialText, find_typed
from finetune_gateway.tokens.template_process import Rendering, TemplateProcess
from finetune_gateway.tokens.template_rows import (
    Arguments,
    Content,
    Message,
    Tools,
    for_template,
    reasoning_of,
)

# How the label was found. difference: the turn continues its prompt. cut: the template writes the
# conversation before it in another form, or the prompt holds a block that the turn lacks. closed:
# the prompt opens a think block, which the label closes.
LabelOrigin = Literal["difference", "cut", "closed"]

PRIVATE_USE = range(0xF000, 0xF8FF)  # characters without a meaning, to mark typed special tokens
# What opens and closes a think block.
THINK = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<mm:think>", "</mm:think>"),
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought\n", "<channel|>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
HINT = "Change the row, or use another template: --chat-template FILE."
TOOLS_HINT = (
    "Use a model whose template writes such calls (Qwen3, Llama 3.1, gpt-oss), or have calls "
    "written as text: --set call_format=hermes; or another template: --chat-template FILE."
)
OTHER = "\uf8ffother"  # an answer that nobody gives, nor begins with


@dataclass(frozen=True)
class Rendered:
    """A conversation as the template writes it."""

    text: str
    marked: tuple[Span, ...] = ()  # spans of generation blocks
    typed: tuple[Span, ...] = ()  # spans of special tokens that somebody typed

    def part(self, start: int, end: int | None = None) -> Rendered:
        """Return a part of it, from one index to another."""
        stop = len(self.text) if end is None else end
        inside = [
            tuple(
                (max(one, start) - start, min(other, stop) - start)
                for one, other in spans
                if one < stop and other > start
            )
            for spans in (self.marked, self.typed)
        ]
        return Rendered(self.text[start:stop], *inside)

    def __add__(self, other: Rendered) -> Rendered:
        by = len(self.text)
        return Rendered(
            self.text + other.text,
            (*self.marked, *((start + by, end + by) for start, end in other.marked)),
            (*self.typed, *((start + by, end + by) for start, end in other.typed)),
        )


@dataclass(frozen=True)
class Turn:
    """One turn of an assistant: ``prompt`` asks for it, ``label`` is what the model must write."""

    index: int  # of the message
    prompt: Rendered
    label: Rendered
    origin: LabelOrigin
    says: bool = True  # False if the template writes nothing of it
    stops: bool = True  # False if the label holds no stop token


class TurnRenderer:
    """Renders conversations, whole and up to each turn, by one template."""

    def __init__(
        self,
        process: TemplateProcess,
        special: SpecialText,
        stops: Collection[str],
        variables: dict[str, Any],
    ) -> None:
        """Render by the template of ``process``.

        ``stops``: texts of the tokens that end an answer. ``variables``: what the template sees
        beside the conversation, such as ``bos_token`` and ``enable_thinking``.
        """
        self.process = process
        self.special = special
        self.stops = frozenset(stops)
        self.variables = variables
        self.arguments: Arguments = "object"
        self.content: Content = "text"
        self.turn_ends: dict[str, str] = {}  # "text" and "call" -> the token to add at their end
        # What opens and closes a think block, if the template looks for its end in a text.
        self._read = {
            text for pair in THINK if any(pair[1] in one for one in process.markup) for text in pair
        }

    # -- rendering -----------------------------------------------------------------------

    def render(
        self, messages: list[Message], tools: Tools, wanted: Sequence[tuple[int, bool]]
    ) -> list[Rendered | str]:
        """Return the first n messages, with the opening of an answer or without, for each wanted
        pair; or what the template says when it refuses them."""
        plain = [for_template(message, self.arguments, self.content) for message in messages]
        marked, marked_tools, opened, closed = self._mark(plain, tools)
        asked = [(list(range(count)), answer) for count, answer in wanted]
        found = self.process.render(marked, marked_tools, asked, self.variables)
        made = [one if isinstance(one, str) else _unmarked(one, opened, closed) for one in found]
        if opened:  # serving renders without marks: they must change nothing
            served = self.process.render(plain, tools, asked, self.variables)
            made = [_as_served(one, other) for one, other in zip(made, served, strict=True)]
        return made

    def whole(self, messages: list[Message], tools: Tools) -> Rendered:
        """Return the whole conversation. Raises DataError."""
        [found] = self.render(messages, tools, [(len(messages), False)])
        return _require(found, _has_tools(messages, tools))

    def prompt(self, messages: list[Message], tools: Tools) -> Rendered:
        """Return the conversation with the opening of an answer. Raises DataError."""
        [found] = self.render(messages, tools, [(len(messages), True)])
        return _require(found, _has_tools(messages, tools))

    def _mark(self, messages: list[Message], tools: Tools) -> tuple[list[Message], Tools, str, str]:
        """Put a mark before and after every special token that is typed in the data, but in answers
        not around those of a think block that the template reads."""
        raw = "\n".join(_strings([messages, tools]))
        typed = self.special.typed_in(raw)
        if not typed:
            return messages, tools, "", ""
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in raw)
        opened, closed = next(free), next(free)
        read = {token for token in typed if any(token in text for text in self._read)}

        def change(value: Any, tokens: set[str]) -> Any:
            if not tokens:
                return value
            pattern = re.compile("|".join(map(re.escape, sorted(tokens, key=len)[::-1])))
            return map_strings(
                value, lambda text: pattern.sub(lambda one: f"{opened}{one.group()}{closed}", text)
            )

        marked = [
            change(one, typed - read if one.get("role") == "assistant" else typed)
            for one in messages
        ]
        return marked, tools and change(tools, typed), opened, closed

    # -- turns ---------------------------------------------------------------------------

    def turns(
        self, messages: list[Message], tools: Tools, indices: Sequence[int]
    ) -> tuple[list[Turn], Rendered | None]:
        """Return the turns at these indices, and the whole conversation, if the template writes it.

        Raises DataError for a turn whose label cannot be found, with both texts.
        """
        wanted = [pair for index in indices for pair in ((index, True), (index + 1, False))]
        last = (len(messages), False)
        if last not in wanted:
            wanted.append(last)
        found = dict(zip(wanted, self.render(messages, tools, wanted), strict=True))
        calls = _has_tools(messages, tools)
        turns = [
            self._turn(messages, tools, index, _require(found[index, True], calls),
                       _require(found[index + 1, False], calls))
            for index in indices
        ]  # fmt: skip
        whole = found[last]
        return turns, None if isinstance(whole, str) else whole

    def _turn(
        self, messages: list[Message], tools: Tools, index: int, prompt: Rendered, after: Rendered
    ) -> Turn:
        origin: LabelOrigin = "difference"
        if after.text.startswith(prompt.text):
            label = after.part(len(prompt.text))
        else:
            origin, label = self._cut(messages, tools, index, prompt, after)
        end = self._stop_in(label)
        blank = str(messages[index].get("content") or "").isspace()  # an answer of spaces is one
        if end is None:
            kind = "call" if messages[index].get("tool_calls") else "text"
            added = self.turn_ends.get(kind, "")
            says = blank or bool(label.text.strip())
            label += Rendered(added, marked=((0, len(added)),) if label.marked else ())
            return Turn(index, prompt, _trained(label), origin, says, stops=bool(added))
        says = blank or bool(label.text[: end[0]].strip())
        return Turn(index, prompt, _trained(label.part(0, end[1])), origin, says)

    def _stop_in(self, label: Rendered) -> Span | None:
        """Return the span of the first stop token in a label."""
        for match in self.special.pattern.finditer(label.text):
            typed = any(start < match.end() and match.start() < end for start, end in label.typed)
            if not typed and match.group() in self.stops:
                return match.span()
        return None

    def _cut(
        self, messages: list[Message], tools: Tools, index: int, prompt: Rendered, after: Rendered
    ) -> tuple[LabelOrigin, Rendered]:
        """Return the label where the turn does not continue its prompt: what stands behind the
        words with which the prompt ends. Raises DataError."""
        block = last_block(prompt.text)
        content = self._where_answers_differ(messages[:index], tools, after)
        start = self._start(messages[:index], tools, prompt, block, after.text[:content])
        if start is None:
            raise _no_label(prompt, after)
        label = after.part(start)
        opens = block is not None and label.text.lstrip().startswith(block.opened)
        if block is not None and opens and not block.is_open:
            raise _no_label(prompt, after)  # reasoning, behind a prompt that says there is none
        if block is None or not block.is_open or label.text.lstrip().startswith(block.closed):
            return "cut", label
        if opens:
            return "cut", _behind_opening(label, block)
        return self._closed(messages[index], label, block)

    def _closed(
        self, message: Message, label: Rendered, block: Block
    ) -> tuple[LabelOrigin, Rendered]:
        """Return the label behind the end of the block that its prompt opens. The reasoning that
        the template leaves out is what the model writes in that block."""
        message = for_template(message)
        reasoning = (reasoning_of(message) or inline_reasoning(message, block)).strip()
        end = self._stop_in(label)
        if not reasoning and not label.text[: end[0] if end else None].strip():
            return "cut", label  # it says nothing
        spaces = "" if label.text[:1].isspace() else block.spaces
        closing = f"{reasoning}{block.before}{block.closed}{spaces}"
        marked = ((0, len(closing)),) if label.marked else ()
        return "closed", Rendered(closing, marked) + label

    def _start(
        self,
        messages: list[Message],
        tools: Tools,
        prompt: Rendered,
        block: Block | None,
        written: str,
    ) -> int | None:
        """Return where a turn begins in ``written``, which ends where its own text does: behind the
        last text of the prompt and what opens an answer, or one of the two if it has no other."""
        text = prompt.text.removesuffix(block.text) if block else prompt.text
        before = self.render(messages, tools, [(len(messages), False)])[0]
        continued = isinstance(before, Rendered) and text.startswith(before.text)
        end = len(before.text) if isinstance(before, Rendered) and continued else len(text)
        said = str(for_template(messages[-1])["content"]).strip() if messages else ""
        last = text.rfind(said, 0, end) if said else -1
        opening = text[end:]
        for ending in (text[last:], text[last:end]) if last >= 0 else ():
            start = written.rfind(ending) + len(ending)
            # Without what opens an answer only where the answer itself begins.
            follows = ending.endswith(opening) or not written[start:].strip()
            if ending in written and follows:
                return start
        start = written.rfind(opening) + len(opening)
        found = bool(opening.strip()) and opening in written
        return start if found and not (said and said in written[start:]) else None

    def _where_answers_differ(self, messages: list[Message], tools: Tools, after: Rendered) -> int:
        """Return the index from which a conversation differs from one with another last answer."""
        other = [*messages, {"role": "assistant", "content": OTHER}]
        elsewhere = self.render(other, tools, [(len(other), False)])[0]
        if isinstance(elsewhere, str):
            return len(after.text)
        return common_prefix(after.text, elsewhere.text)


@dataclass(frozen=True)
class Block:
    """The think block at the end of a prompt."""

    text: str
    opened: str
    closed: str

    @property
    def is_open(self) -> bool:
        return self.closed not in self.text

    @property
    def before(self) -> str:
        """Return the space before the end of the block."""
        return "\n" if self.text.endswith("\n") else ""

    @property
    def spaces(self) -> str:
        """Return the space behind it."""
        return self.before * 2


def last_block(prompt: str) -> Block | None:
    """Return the think block at the end of a prompt, open or closed with nothing in it."""
    for opened, closed in THINK:
        first, last = re.escape(opened), re.escape(closed)
        found = re.search(rf"{first}\s*({last}\s*)?\Z|{last}\s*\Z", prompt)
        if found:
            return Block(found.group(), opened, closed)
    return None


def inline_reasoning(message: Message, block: Block) -> str:
    """Return the reasoning at the beginning of a text; "" if there is none."""
    head, closed, _ = str(message["content"]).lstrip().partition(block.closed)
    return head.removeprefix(block.opened) if closed and head.startswith(block.opened) else ""


def _trained(label: Rendered) -> Rendered:
    """Return a label without its generation blocks, unless they hold its first token and its last:
    all of it is trained then."""
    ends = (0, len(label.text) - 1)
    if all(any(start <= end < stop for start, stop in label.marked) for end in ends):
        return label
    return Rendered(label.text, typed=label.typed)


def _behind_opening(label: Rendered, block: Block) -> Rendered:
    """Return a label without the opening of a block, which stands in the prompt."""
    at = label.text.find(block.opened)
    if label.text[at:].startswith(block.text):
        return label.part(at + len(block.text))
    rest = label.text[at + len(block.opened) :]
    spaces = len(rest) - len(rest.lstrip()) if block.text[-1].isspace() else 0
    return label.part(at + len(block.opened) + spaces)


def common_prefix(one: str, other: str) -> int:
    """Return how many characters two texts begin with alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def map_strings(value: Any, change: Callable[[str], str]) -> Any:
    """Return JSON with each of its texts changed, and of its keys those that are no names: a
    template reads ``role``, and writes the keys of arguments."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {
            key if key.isidentifier() else change(key): map_strings(item, change)
            for key, item in value.items()
        }
    return value


def _strings(value: Any) -> Iterator[str]:
    """Yield the texts in JSON, and those of its keys that ``map_strings`` changes."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from () if key.isidentifier() else (key,)
            yield from _strings(item)


def _unmarked(rendering: Rendering, opened: str, closed: str) -> Rendered:
    if not opened:
        return Rendered(rendering.text, rendering.marked)
    text, typed, marks = find_typed(rendering.text, opened, closed)
    marked = tuple(
        (start - bisect_left(marks, start), end - bisect_left(marks, end))
        for start, end in rendering.marked
    )
    return Rendered(text, marked, tuple(typed))


def _as_served(made: Rendered | str, served: Rendering | str) -> Rendered | str:
    """Return a rendering, or words if the template reads the special tokens typed in its texts."""
    if isinstance(served, str) or isinstance(made, str):
        return served if isinstance(served, str) else made
    return made if made.text == served.text else "it reads special tokens that are typed in texts"


def _require(rendered: Rendered | str, tools: bool) -> Rendered:
    if isinstance(rendered, str):
        raise DataError(
            f"The model's chat template refuses this conversation: {rendered}.",
            hint=TOOLS_HINT if tools else HINT,
        )
    return rendered


def _has_tools(messages: list[Message], tools: Tools) -> bool:
    return bool(tools) or any(
        one.get("tool_calls") or one.get("role") == "tool" for one in messages
    )


def _no_label(prompt: Rendered, after: Rendered) -> DataError:
    at = common_prefix(prompt.text, after.text)
    asked, written = (text[max(0, at - 20) : at + 60] for text in (prompt.text, after.text))
    return DataError(
        "The model's chat template asks for an answer in another form than it writes one: it asks "
        f"with {asked!r}, and writes {written!r}.",
        hint="Use another template: --chat-template FILE.",
    )
