"""Is what training labels what serving asks for and what the template writes?

``faults`` compares the sequences of a planted row with renderings by transformers. It knows the
package's answer (ids, labels, which turns) and nothing of how it was found.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from families.planted import ESCAPED, Json, Row
from families.serving import Refused, Serving

IGNORED = -100
Outcome = Literal["right", "lost", "refused", "wrong"]

# How templates open a block for reasoning at the end of a prompt, and how it is closed.
BLOCKS = (
    ("<think>", "</think>"),
    ("<|channel>thought", "<channel|>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<thinking>", "</thinking>"),
    ("<mm:think>", "</mm:think>"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
    ("<|inner_prefix|>", "<|inner_suffix|>"),
)


@dataclass(frozen=True)
class Trained:
    """A sequence that is trained; ``turns`` are the indices of the messages that it labels."""

    input_ids: list[int]
    labels: list[int]
    turns: tuple[int, ...]


@dataclass(frozen=True)
class Expected:
    """What the model must write for a turn."""

    prompt: str
    prompt_ids: list[int]
    label: str
    written: str  # the turn as the template writes it last
    opened: tuple[str, str] | None = None  # a block that the prompt leaves open, and its closing


class Judge:
    """Judges the sequences of one row."""

    def __init__(
        self,
        serving: Serving,
        row: Row,
        sequences: Sequence[Trained],
        stop_ids: Collection[int],
        losses: Collection[str] = (),
    ) -> None:
        self.serving, self.row = serving, row
        self.sequences = sequences
        self.stop_ids, self.losses = frozenset(stop_ids), frozenset(losses)
        self.stops = [text for text, id in serving.special.items() if id in self.stop_ids]
        self.published = [text for text, id in serving.special.items() if id in serving.published]

    def faults(self) -> Iterator[str]:
        """Yield what is wrong, each in words."""
        yield from self._shapes()
        trained: dict[int, set[int]] = {number: set() for number in range(len(self.sequences))}
        for turn in self.row.said:
            yield from self._turn(turn, trained)
        for number, sequence in enumerate(self.sequences):
            labelled = {i for i, label in enumerate(sequence.labels) if label != IGNORED}
            if stray := sorted(labelled - trained[number]):
                text = self.serving.written([sequence.input_ids[i] for i in stray])
                yield f"labelled, but no label of a turn: {_short(text)}"
            text = self.serving.written([sequence.input_ids[i] for i in sorted(labelled)])
            yield from (f"trains {word} of another" for word in self.row.heard if word in text)
        yield from self._losses()

    def _shapes(self) -> Iterator[str]:
        for sequence in self.sequences:
            if len(sequence.labels) != len(sequence.input_ids):
                yield "not as many labels as tokens"
            pairs = zip(sequence.input_ids, sequence.labels, strict=False)
            if any(label not in (IGNORED, token) for token, label in pairs):
                yield "a label is not its token"
            if strange := set(sequence.turns) - set(self.row.said):
                yield f"trains the turns {sorted(strange)}, which are not to be trained"

    # -- one turn ------------------------------------------------------------------------

    def _turn(self, turn: int, trained: dict[int, set[int]]) -> Iterator[str]:
        holding = [n for n, one in enumerate(self.sequences) if turn in one.turns]
        try:
            expected = self.expected(turn)
        except Refused as exc:
            yield f"turn {turn} is trained, but transformers refuses it: {exc}"
            return
        if not holding:
            if words := [word for word in self.row.said[turn] if word in expected.label]:
                yield f"turn {turn} is not trained, but the template writes {words[0]}"
            return
        if len(holding) > 1:
            yield f"turn {turn} is trained {len(holding)} times"
        for number in holding:
            yield from self._label(turn, expected, self.sequences[number], trained[number])

    def _label(
        self, turn: int, expected: Expected, sequence: Trained, trained: set[int]
    ) -> Iterator[str]:
        ids, labels = sequence.input_ids, sequence.labels
        start = len(expected.prompt_ids)
        if ids[:start] != expected.prompt_ids:
            yield f"turn {turn}: asked with another prompt than trained: " + _difference(
                expected.prompt, self.serving.written(ids[:start])
            )
            start = self._own_start(turn, sequence)
        if start >= len(labels) or labels[start] == IGNORED:
            yield f"turn {turn}: its first token is not trained"
            start = next((i for i in range(start, len(ids)) if labels[i] != IGNORED), len(ids))
        limit = self._next_start(turn, sequence)
        end = next((i for i in range(start, limit) if labels[i] == IGNORED), limit)
        trained |= set(range(start, end))
        label = ids[start:end]
        yield from self._text(turn, expected, ids[:start], label)
        if not label or label[-1] not in self.stop_ids:
            yield f"turn {turn}: the label does not end with a stop token"
        elif not self._is_stop(turn, label[-1], expected):
            token = self.serving.written(label[-1:])
            yield f"turn {turn}: {token!r} ends the label, but no answer of this family"

    def _next_start(self, turn: int, sequence: Trained) -> int:
        """Return where the next label of a sequence can begin."""
        later = [other for other in sequence.turns if other > turn]
        if not later:
            return len(sequence.labels)
        return len(self.expected(min(later)).prompt_ids)

    def _own_start(self, turn: int, sequence: Trained) -> int:
        """Return where the labels of a turn begin whose prompt is not as expected."""
        runs = [
            i
            for i, label in enumerate(sequence.labels)
            if label != IGNORED and (i == 0 or sequence.labels[i - 1] == IGNORED)
        ]
        position = sequence.turns.index(turn)
        return runs[position] if position < len(runs) else len(sequence.labels)

    def _text(
        self, turn: int, expected: Expected, prompt: list[int], label: list[int]
    ) -> Iterator[str]:
        """Compare a label with what the template writes."""
        whole = self.serving.encode(expected.prompt + expected.label)
        if whole == [*prompt, *label]:
            return
        text = self.serving.written(label)
        if text == expected.label:
            return
        closed = expected.opened and text.endswith(expected.label)
        if closed and self._closes(turn, text.removesuffix(expected.label), expected):
            return
        yield f"turn {turn}: another label than the template writes: " + _difference(
            expected.label, text
        )

    def _closes(self, turn: int, closing: str, expected: Expected) -> bool:
        """Return True for what ends the block that the prompt opened: reasoning that the template
        did not write, and its closing."""
        assert expected.opened is not None
        reasoning, close, after = closing.partition(expected.opened[1])
        reasons = [word for word in self.row.said[turn] if word.startswith("zqreason")]
        return bool(close) and not after.strip() and reasoning.strip() in ("", *reasons)

    def _is_stop(self, turn: int, token: int, expected: Expected) -> bool:
        if token in self.serving.published:
            return True
        text = self.serving.written([token])
        following = self._next_token(turn, expected.written)[1]
        return text == following or text in _ends(expected.written, self.serving)

    # -- what is expected ----------------------------------------------------------------

    def expected(self, turn: int) -> Expected:
        """Return the prompt and the label of a turn by transformers. Raises Refused."""
        messages, tools = self.row.messages, self.row.tools
        prompt = self.serving.text(messages[:turn], tools, ask=True)
        ids = self.serving.ids(messages[:turn], tools, ask=True)
        written = self.serving.text(messages[: turn + 1], tools)
        opened = None
        if written.startswith(prompt):
            label = written[len(prompt) :]
        else:
            label, opened = self._cut(turn, prompt, written)
        end = self._stop_in(label)
        if end is not None:
            label = label[:end]
        else:
            label += "".join(self._next_token(turn, written))
        return Expected(prompt, ids, label, written, opened)

    def _stop_in(self, text: str) -> int | None:
        """Return where a label ends: behind the first stop token that the family publishes, else
        the first of the package's."""
        for stops in (self.published, self.stops):
            ends = [(at, at + len(stop)) for stop in stops if (at := text.find(stop)) >= 0]
            if ends:
                return min(ends)[1]
        return None

    def _cut(self, turn: int, prompt: str, written: str) -> tuple[str, tuple[str, str] | None]:
        """Return what the template writes for a turn behind the words with which it opens one."""
        block, opened = _block(prompt)
        label = written[self._start(turn, prompt.removesuffix(block), written) :]
        tag = opened[0] if opened else block.partition("</")[0].strip()
        if not block or not (tag and label.lstrip().startswith(tag)):
            return label, opened
        if not opened:
            raise Refused("the prompt has closed the reasoning that the template writes")
        label = label.lstrip().removeprefix(tag)
        spaces = block.partition(tag)[2]
        return label.removeprefix(spaces) if label.startswith(spaces) else label.lstrip(), None

    def _start(self, turn: int, prompt: str, written: str) -> int:
        """Return where a turn begins in what the template writes: between its header, or the last
        word of another where an answer has none, and its first own word."""
        header = self._header(turn, prompt)
        heard = max(prompt.rfind(word) for word in self.row.heard)
        own = [at for word in self.row.said[turn] if (at := written.rfind(word)) >= 0]
        before = written[: min(own)] if own else written
        heads = [token for token in self.serving.special if token in header]
        for opening in (header, prompt[heard:], prompt[heard:].removesuffix(header or " ")):
            start = before.rfind(opening) + len(opening)
            gap = before[start:]
            strange = own and (re.search(r"zq[a-z]+\d+x", gap) or self._stop_in(gap))
            strange = strange or any(token in gap for token in heads)
            if opening and opening in before and not strange:
                return start
        raise Refused(f"it opens an answer with {header!r}, and writes none behind that")

    def _header(self, turn: int, prompt: str) -> str:
        """Return what a prompt adds to the conversation."""
        try:
            before = self.serving.text(self.row.messages[:turn], self.row.tools)
        except Refused:
            return ""
        return prompt.removeprefix(before) if prompt.startswith(before) else ""

    def _next_token(self, turn: int, written: str) -> tuple[str, str]:
        """Return the special token with which what follows a turn begins, and the space before it;
        two empty texts if there is none."""
        after = self.row.messages[: turn + 1] + self._follows(turn)
        try:
            longer = self.serving.text(after, self.row.tools)
        except Refused:
            return "", ""
        # Behind the turn, of which its reasoning may be cut now: what follows its last word.
        at = max((written.rfind(word) for word in self.row.said[turn]), default=-1)
        behind = written[max(at, 0) :]
        start = longer.rfind(behind)
        if at < 0 or start < 0:
            return "", ""
        rest = longer[start + len(behind) :]
        token = next((t for t in self.serving.by_length if rest.lstrip().startswith(t)), "")
        return (rest[: len(rest) - len(rest.lstrip())], token) if token else ("", "")

    def _follows(self, turn: int) -> list[Json]:
        calls = self.row.messages[turn].get("tool_calls")
        if not calls:
            return [{"role": "user", "content": "zqmorex"}]
        return [
            {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"],
             "content": "zqmorex"}
            for call in calls
        ]  # fmt: skip

    # -- what is lost --------------------------------------------------------------------

    def _losses(self) -> Iterator[str]:
        """Yield what is lost and not said."""
        lost = self.lost()
        if unsaid := sorted(set(lost) - self.losses):
            yield "not said to be lost: " + ", ".join(f"{one} ({lost[one]})" for one in unsaid)

    def lost(self) -> dict[str, str]:
        """Return the kinds of loss in the row, each with a word that is lost. Raises Refused."""
        lost: dict[str, str] = {}
        for turn in self.row.said:
            expected = self.expected(turn)
            lost |= self._lost_of_others(turn, expected.prompt)
            lost |= self._lost_of_turn(turn, expected)
        return lost

    def _lost_of_others(self, turn: int, prompt: str) -> dict[str, str]:
        lost = {}
        kinds = {"system": "system", "developer": "system", "tool": "results", "user": "user"}
        for message in self.row.messages[:turn]:
            kind = kinds.get(message["role"])
            if kind and message["content"] not in prompt:
                lost[kind] = message["content"]
        for tool in self.row.tools or ():
            if tool["function"]["name"] not in prompt:
                lost["tools"] = tool["function"]["name"]
        return lost

    def _lost_of_turn(self, turn: int, expected: Expected) -> dict[str, str]:
        missing = [word for word in self.row.said[turn] if word not in expected.label]
        message = self.row.messages[turn]
        calls = message.get("tool_calls") or []
        lost = {}
        names = [call["function"]["name"] for call in calls]
        if calls and names[0] in missing:
            beside = bool(message["content"]) and "calls" not in self.losses
            lost["calls_beside_text" if beside else "calls"] = names[0]
        elif len(calls) > 1 and names[1] in missing:
            lost["parallel_calls"] = names[1]
        for word in self.row.said[turn]:
            once = any(word + form in expected.label for form in ESCAPED)
            if word.startswith("zqvalue") and word not in missing and not once:
                lost["arguments"] = word
        for word in missing:
            if word.startswith("zqanswer"):
                lost["text_beside_calls" if calls else "answers"] = word
            elif word.startswith("zqreason") and word not in self._label_text(turn):
                inline = word in str(message["content"])
                lost["think_blocks" if inline else "reasoning"] = word
            elif word.startswith("zqvalue") and not lost:
                lost["arguments"] = word
        return lost

    def _label_text(self, turn: int) -> str:
        """Return the labels of the sequences that train a turn."""
        return "".join(
            self.serving.written([label for label in one.labels if label != IGNORED])
            for one in self.sequences
            if turn in one.turns
        )


def _block(prompt: str) -> tuple[str, tuple[str, str] | None]:
    """Return the block for reasoning at the end of a prompt, and its two words if it is open."""
    for opening, closing in BLOCKS:
        found = re.search(
            rf"({re.escape(opening)}\s*)?{re.escape(closing)}\s*$|{re.escape(opening)}\s*$", prompt
        )
        if found:
            is_open = closing not in found.group()
            return found.group(), (opening, closing) if is_open else None
    return "", None


def _ends(written: str, serving: Serving) -> list[str]:
    """Return the special tokens behind the last planted word."""
    at = max((match.end() for match in re.finditer(r"zq[a-z]+\d+x", written)), default=0)
    return [token for token in serving.special if token in written[at:]]


def _difference(expected: str, found: str) -> str:
    """Return where two texts begin to differ."""
    at = next(
        (i for i, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other),
        min(len(expected), len(found)),
    )
    return f"{_short(expected[max(0, at - 25) :])} expected, {_short(found[max(0, at - 25) :])}"


def _short(text: str, most: int = 90) -> str:
    return repr(text if len(text) <= most else f"{text[:most]}...")
