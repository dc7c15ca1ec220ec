"""Text to token ids, where special tokens that somebody typed stay text.

``<|im_end|>`` written by a template ends a turn; the same letters in a user's message must not.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Span = tuple[int, int]

# Characters of the private planes, which nobody types: one stands for each special token.
FIRST = 0xF0000
TAIL = 400  # characters in which the last special token of a prompt is looked for


class SpecialText:
    """Encodes rendered conversations with one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self.ids = {token.content: id for id, token in added.items() if token.special}
        by_length = sorted(self.ids, key=len, reverse=True)
        # Looking at the first letter alone is what makes hundreds of tokens fast to look for.
        first = re.escape("".join(sorted({token[0] for token in by_length if token})))
        choices = "|".join(re.escape(token) for token in by_length if token)
        self.pattern = re.compile(f"(?=[{first}])(?:{choices})" if choices else "(?!)")

    def encode(self, text: str, typed: tuple[Span, ...] = ()) -> tuple[list[int], list[int]]:
        """Return token ids, and the index of the first character of each. ``typed``: the spans of
        special tokens that are text."""
        if not typed:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
            return encoding.ids, [start for start, _ in encoding.offsets]
        return self._with_typed(text, typed)

    def typed_in(self, text: str) -> set[str]:
        """Return the special tokens that occur in a text."""
        return set(self.pattern.findall(text))

    def begins_with(
        self, ids: list[int], starts: list[int], text: str, typed: tuple[Span, ...], count: int
    ) -> bool:
        """Return True if the first ``count`` ids are those of ``text``; ``ids`` and ``starts`` are
        those of a longer text that begins with it.

        What stands before a special token is encoded without what stands behind it, so it is enough
        to encode the text from its last one on.
        """
        last = None
        for match in self.pattern.finditer(text, max(0, len(text) - TAIL)):
            if not any(start < match.end() and match.start() < stop for start, stop in typed):
                last = match
        index = bisect_left(starts, last.start(), 0, count) if last else count
        if last is None or index >= count or ids[index] != self.ids[last.group()]:
            return self.encode(text, typed)[0] == ids[:count]
        tail, at = text[last.start() :], last.start()
        inside = tuple((start - at, stop - at) for start, stop in typed if start >= at)
        return self.encode(tail, inside)[0] == ids[index:count]

    def _with_typed(self, text: str, typed: tuple[Span, ...]) -> tuple[list[int], list[int]]:
        """Encode at once, so that what is around a token is encoded as it is without it: each real
        special token is one character, which the twin knows; the twin knows no other."""
        parts, moves = [], []  # moves: (index in the short text, characters it is shorter there)
        end = shorter = 0
        for match in self.pattern.finditer(text):
            if any(start < match.end() and match.start() < stop for start, stop in typed):
                continue
            parts += [text[end : match.start()], self._stand_ins[match.group()]]
            shorter += len(match.group()) - 1
            moves.append((match.start() - shorter + len(match.group()) - 1, shorter))
            end = match.end()
        encoding = self._twin.encode("".join([*parts, text[end:]]), add_special_tokens=False)
        ids = [self._twin_ids.get(id, id) for id in encoding.ids]
        starts, passed, shorter = [], 0, 0
        for start, _ in encoding.offsets:
            while passed < len(moves) and moves[passed][0] < start:
                shorter = moves[passed][1]
                passed += 1
            starts.append(start + shorter)
        return ids, starts

    @cached_property
    def _stand_ins(self) -> dict[str, str]:
        return {content: chr(FIRST + index) for index, content in enumerate(self.ids)}

    @cached_property
    def _twin(self) -> Tokenizer:
        """A copy that reads special tokens as text, and one character for each of them."""
        from tokenizers import AddedToken
        from tokenizers import Tokenizer as Copied

        twin = Copied.from_str(self.tokenizer.to_str())
        flags = {token.content: token for token in twin.get_added_tokens_decoder().values()}
        twin.add_tokens(
            [
                AddedToken(
                    stand_in,
                    special=False,
                    normalized=False,
                    lstrip=flags[content].lstrip,
                    rstrip=flags[content].rstrip,
                )
                for content, stand_in in self._stand_ins.items()
            ]
        )
        twin.encode_special_tokens = True
        return twin

    @cached_property
    def _twin_ids(self) -> dict[int, int]:
        found = ((self._twin.token_to_id(one), content) for content, one in self._stand_ins.items())
        return {id: self.ids[content] for id, content in found if id is not None}


def find_typed(text: str, opened: str, closed: str) -> tuple[str, list[Span], list[int]]:
    """Return a text without the marks around typed tokens, the spans of these tokens, and the
    indices of the characters that were marks.

    A template may cut between two marks: a mark alone is only removed. It may also write them as
    JSON escapes.
    """
    spans: list[Span] = []
    marks: list[int] = []
    parts: list[str] = []
    end = length = 0
    begun: int | None = None
    escaped = {f"\\u{ord(mark):04x}": mark for mark in (opened, closed)}
    for match in re.finditer("|".join(map(re.escape, (opened, closed, *escaped))), text):
        parts.append(text[end : match.start()])
        length += len(parts[-1])
        marks += range(*match.span())
        if escaped.get(match.group(), match.group()) == opened:
            begun = length
        elif begun is not None:
            spans.append((begun, length))
            begun = None
        end = match.end()
    parts.append(text[end:])
    return "".join(parts), spans, marks
