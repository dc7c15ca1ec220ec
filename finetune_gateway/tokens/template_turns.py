"""What a chat template writes for each turn of an assistant: the prompt that serving asks with, and
the label, which is what the model must write then, its stop token included.

The prompt is the conversation before the turn, with the opening of an answer. The label is the
difference to the conversation with the turn; a template may also write the turn in another way than
it asks for it, and then the label is cut from the turn.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
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
# What opens and closes a think block, in templates that do not write one in a planted turn.
THINK = (
    ("<think>", "</think>"),
    ("<|channel>thought\n", "<channel|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)
HEADER = 400  # characters of a turn's header, at most
OTHER = "Zq7other"  # an answer that nobody gives
ALIKE = 4  # characters that show that a turn stands where its prompt ends


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
        *,
        arguments: Arguments = "object",
    ) -> None:
        """Render by the template of ``process``.

        ``stops``: texts of the tokens that end an answer. ``variables``: what the template sees
        beside the conversation, such as ``bos_token`` and ``enable_thinking``.
        """
        self.process = process
        self.special = special
        self.stops = frozenset(stops)
        self.variables = variables
        self.arguments = arguments
        self.content: Content = "text"
        self.turn_ends: dict[str, str] = {}  # "text" and "call" -> the token to add at their end
        self._markup = set(process.markup)

    # -- rendering -----------------------------------------------------------------------

    def render(
        self, messages: list[Message], tools: Tools, wanted: Sequence[tuple[int, bool]]
    ) -> list[Rendered | str]:
        """Return the first n messages, with the opening of an answer or without, for each wanted
        pair; or what the template says when it refuses them."""
        plain = [for_template(message, self.arguments, self.content) for message in messages]
        plain, tools, opened, closed = self._mark(plain, tools)
        asked = [(list(range(count)), answer) for count, answer in wanted]
        found = self.process.render(plain, tools, asked, self.variables)
        return [one if isinstance(one, str) else _unmarked(one, opened, closed) for one in found]

    def whole(self, messages: list[Message], tools: Tools) -> Rendered:
        """Return the whole conversation. Raises DataError."""
        return _require(self.render(messages, tools, [(len(messages), False)])[0])

    def prompt(self, messages: list[Message], tools: Tools) -> Rendered:
        """Return the conversation with the opening of an answer. Raises DataError."""
        return _require(self.render(messages, tools, [(len(messages), True)])[0])

    def _mark(self, messages: list[Message], tools: Tools) -> tuple[list[Message], Tools, str, str]:
        """Put a mark before and after every special token that is typed in the data, but not around
        those that the template itself looks for there, such as ``</think>``."""
        raw = json.dumps([messages, tools], ensure_ascii=False)
        found = {match for match in self.special.pattern.findall(raw) if match}
        typed = [token for token in found if not any(token in text for text in self._markup)]
        if not typed:
            return messages, tools, "", ""
        free = (chr(code) for code in PRIVATE_USE if chr(code) not in raw)
        opened, closed = next(free), next(free)
        pattern = re.compile("|".join(re.escape(token) for token in sorted(typed, key=len)[::-1]))

        def change(text: str) -> str:
            return pattern.sub(lambda match: f"{opened}{match.group()}{closed}", text)

        return map_strings(messages, change), tools and map_strings(tools, change), opened, closed

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
        turns = [
            self._turn(messages, tools, index, _require(found[index, True]),
                       _require(found[index + 1, False]))
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
            if label.marked:
                label += Rendered(added, marked=((0, len(added)),))
            else:
                label += Rendered(added)
            return Turn(index, prompt, label, origin, says, stops=bool(added))
        says = blank or bool(label.text[: end[0]].strip())
        return Turn(index, prompt, label.part(0, end[1]), origin, says)

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
        """Return the label where the turn does not continue its prompt. Raises DataError."""
        other = [*messages[:index], {"role": "assistant", "content": OTHER}]
        elsewhere = self.render(other, tools, [(len(other), False)])[0]
        content = (
            common_prefix(after.text, elsewhere.text)
            if isinstance(elsewhere, Rendered)
            else len(after.text)
        )
        opening = opened_block(prompt.text)
        if opening is None:
            start = _where_prompt_ends(prompt.text, after.text, content)
            if start is not None:
                return "cut", after.part(start)
            raise _no_label(prompt, after)
        block, close = opening
        before = prompt.text[: len(prompt.text) - len(block)]
        start = (
            len(before)
            if after.text.startswith(before)
            else _where_prompt_ends(before, after.text, content)
        )
        if start is None or start > content:
            raise _no_label(prompt, after)
        label = after.part(start)
        if close == "":  # the prompt has closed its block
            return "cut", label
        if label.text.lstrip().startswith(block.strip()):
            raise _no_label(prompt, after)
        # The reasoning, which the template leaves out, is what the model writes in that block.
        reasoning = reasoning_of(for_template(messages[index])).strip("\n")
        closing = f"{reasoning}{close}"
        marked = ((0, len(closing)),) if label.marked else ()
        return "closed", Rendered(closing, marked) + label


def opened_block(prompt: str) -> tuple[str, str] | None:
    """Return the think block at the end of a prompt, and the text that closes it: "" if the prompt
    has closed it. None if there is none."""
    for opened, closed in THINK:
        start, stripped = prompt.rfind(opened.strip()), prompt.rstrip()
        if start < 0:
            continue
        block = prompt[start:]
        if stripped.endswith(closed) and not block.replace(opened, "").replace(closed, "").strip():
            return block, ""
        if stripped.endswith(opened.strip()):
            return block, f"\n{closed}\n\n" if block.endswith("\n") else closed
    return None


def _where_prompt_ends(prompt: str, text: str, content: int) -> int | None:
    """Return the index in ``text``, at most ``content``, before which it has most in common with
    the end of the prompt."""
    best, found = 0, None
    for index in range(content, max(-1, content - HEADER), -1):
        alike = common_prefix(prompt[::-1][:HEADER], text[max(0, index - HEADER) : index][::-1])
        if alike > best:
            best, found = alike, index
    return found if best >= ALIKE else None


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
    """Return JSON with each of its texts changed."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {key: map_strings(item, change) for key, item in value.items()}
    return value


def _unmarked(rendering: Rendering, opened: str, closed: str) -> Rendered:
    if not opened:
        return Rendered(rendering.text, rendering.marked)
    text, typed, marks = find_typed(rendering.text, opened, closed)
    marked = tuple(
        (start - bisect_left(marks, start), end - bisect_left(marks, end))
        for start, end in rendering.marked
    )
    return Rendered(text, marked, tuple(typed))


def _require(rendered: Rendered | str) -> Rendered:
    if isinstance(rendered, str):
        raise DataError(
            f"The model's chat template refuses this conversation: {rendered}.",
            hint="Change the row, or use another template: --chat-template FILE.",
        )
    return rendered


def _no_label(prompt: Rendered, after: Rendered) -> DataError:
    at = common_prefix(prompt.text, after.text)
    asked, written = (text[max(0, at - 20) : at + 60] for text in (prompt.text, after.text))
    return DataError(
        "The model's chat template asks for an answer in another form than it writes one: it asks "
        f"with {asked!r}, and writes {written!r}.",
        hint="Use another template: --chat-template FILE.",
    )
