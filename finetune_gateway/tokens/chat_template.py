"""A local model's own rendering of a conversation: token ids, and which of them are trained.

``ChatTemplate.encode`` serves training, counting, previews and the tests of masks; ``prompt_ids``
serves chat. For every turn that is trained holds: the prompt that serving asks with is a prefix of
what is trained, and the label is what the model must write, its stop token included.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens import template_survey
from finetune_gateway.tokens.answer_survey import reads_planted, template_reader
from finetune_gateway.tokens.model_folder import ModelFiles, read_model_files
from finetune_gateway.tokens.special_text import SpecialText
from finetune_gateway.tokens.template_answers import AnswerReader, TemplateReader
from finetune_gateway.tokens.template_process import template_process
from finetune_gateway.tokens.template_rows import Message, Tools, messages_of
from finetune_gateway.tokens.template_survey import ASK, ASK_MORE, REPLY, Survey, survey
from finetune_gateway.tokens.template_turns import LabelOrigin, Rendered, Turn, TurnRenderer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IGNORED = -100  # the label that PyTorch's cross entropy ignores

# Switches by which templates write reasoning or leave it out. The first that serves is taken.
SWITCHES: tuple[tuple[str, bool | str], ...] = (
    ("preserve_thinking", True),
    ("clear_thinking", False),
    ("truncate_history_thinking", False),
    ("enable_thinking", False),
    ("enable_thinking", True),
    ("thinking", False),
    ("thinking", True),
    ("reasoning_effort", "high"),
)


@dataclass(frozen=True)
class Encoded:
    """One sequence as the model sees it. ``labels[i]`` is ``input_ids[i]`` if the token is trained,
    else -100."""

    input_ids: list[int]
    labels: list[int]
    length: int  # tokens before truncation
    text: str = ""  # as the template renders it
    starts: list[int] = field(default_factory=list)  # index of the first character of each token
    turns: tuple[int, ...] = ()  # indices of the messages that are trained in it
    origins: frozenset[LabelOrigin] = frozenset()  # how their labels were found
    of: int = 1  # sequences of its row

    @property
    def trained(self) -> int:
        return len(self.labels) - self.labels.count(IGNORED)

    @property
    def truncated(self) -> bool:
        return self.length > len(self.input_ids)

    def cut(self, max_length: int | None) -> Encoded:
        """Return it with at most so many tokens."""
        if max_length is None or len(self.input_ids) <= max_length:
            return self
        ids, labels = self.input_ids[:max_length], self.labels[:max_length]
        return replace(self, input_ids=ids, labels=labels, starts=self.starts[:max_length])


class ChatTemplate:
    """The chat template and tokenizer of one local model.

    >>> template = ChatTemplate.load("./Qwen3-4B")
    >>> [sequence.labels for sequence in template.encode({"messages": [...]})]
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        now: float | None = None,
    ) -> None:
        """``chat_template_kwargs``: switches of the template, as serving must send them too.
        ``now``: the day that it may write, in seconds since the epoch; None is today."""
        self.files = files
        self.chat_template_kwargs = dict(chat_template_kwargs or {})
        self._now = now
        self._special = SpecialText(files.tokenizer)
        process = template_process(files.source, now)
        by_id = {id: text for text, id in self._special.ids.items()}
        stops = [by_id[id] for id in files.stop_ids if id in by_id]
        variables = {**files.special_tokens, **self.chat_template_kwargs}
        self._renderer = TurnRenderer(process, self._special, stops, variables)
        self.survey: Survey = survey(self._renderer)

    @classmethod
    def load(
        cls,
        folder: str | Path,
        chat_template: str | Path | None = None,
        *,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        call_format: str | None = None,
        now: float | None = None,
    ) -> ChatTemplate:
        """Return the template of a model folder, or the one in the file ``chat_template``; with a
        ``call_format`` it writes calls of tools as text.

        Raises NotFoundError, SpecError.
        """
        files = read_model_files(folder, chat_template, call_format)
        return cls(files, chat_template_kwargs=chat_template_kwargs, now=now)

    @property
    def tokenizer(self) -> Tokenizer:
        return self.files.tokenizer

    @property
    def source(self) -> str:
        return self.files.source

    @property
    def stop_ids(self) -> frozenset[int]:
        """Return the tokens that end an answer: those of the model's configuration, and those with
        which its template ends a turn."""
        ends = self.survey.stops | set(self.survey.turn_ends.values())
        return self.files.stop_ids | {self._special.ids[text] for text in ends}

    @property
    def sha256(self) -> str:
        """Return the hash that identifies the template a model was trained with."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def with_switches(self, chat_template_kwargs: Mapping[str, Any]) -> ChatTemplate:
        """Return it with other switches."""
        return ChatTemplate(self.files, chat_template_kwargs=chat_template_kwargs, now=self._now)

    def check(self) -> None:
        """Raise SpecError unless a question and its answer can be trained as they are asked, and
        the answer ends with a token that stops it."""
        try:
            self._example()
        except DataError as exc:
            raise SpecError(exc.message, hint=exc.hint) from None

    def _example(self) -> list[Encoded]:
        """Return a planted question and its answer; with tools, if the template wants some."""
        try:
            return self.encode({"messages": [ASK, REPLY]})
        except DataError:
            if "tools" not in self._renderer.process.variables:
                raise
            said = self._renderer.render([ASK], None, [(1, True)])[0]
            if not isinstance(said, str):
                raise
        return self.encode({"messages": [ASK, REPLY], "tools": template_survey.TOOLS})

    @cached_property
    def answers(self) -> TemplateReader:
        """Return what takes apart the answers that it asks for: text, reasoning, calls."""
        return template_reader(self._renderer, self.survey)

    def parses(self, reader: AnswerReader) -> bool:
        """Return True if a reader of another origin reads a planted call as it was."""
        return reads_planted(reader, self._renderer, self.survey)

    # -- encoding ------------------------------------------------------------------------

    def encode(
        self,
        row: dict[str, Any],
        *,
        train_on: TrainOn = "assistant",
        max_length: int | None = None,
    ) -> list[Encoded]:
        """Return a training row as sequences of token ids and labels, each truncated to
        ``max_length`` tokens. Most rows are one sequence.

        Assistant turns and the token that ends them are trained unless their ``weight`` is 0. Where
        a template shows a turn to later ones in another form than the model must write it in
        (without its reasoning), each turn is a sequence of its own.

        Raises DataError if the template refuses the row, asks for an answer in another form than it
        writes one, or ends one with no token that stops it.
        """
        messages, tools = messages_of(row)
        trained = _trained_turns(messages, train_on)
        # With "all" the others count too: a turn of weight 0 is left out.
        left_out = _answers(messages) if train_on == "all" else trained
        turns, whole = self._renderer.turns(messages, tools, left_out)
        if not all(turn.stops for turn in turns if turn.says):
            raise DataError(
                "The model's chat template does not write a token that ends an answer.",
                hint="Use another template: --chat-template FILE.",
            )
        if train_on == "all":
            sequences = [self._all(turns, whole, set(trained))]
        else:
            sequences = self._sequences([turn for turn in turns if turn.says], whole)
        if not sequences:
            text = whole or self._renderer.whole(messages, tools)
            ids, starts = self._special.encode(text.text, text.typed)
            sequences = [Encoded(ids, [IGNORED] * len(ids), len(ids), text.text, starts)]
        found = map(_without_first, sequences)
        return [replace(one, of=len(sequences)).cut(max_length) for one in found]

    def _sequences(self, turns: Sequence[Turn], whole: Rendered | None) -> list[Encoded]:
        made: list[Encoded] = []
        ids: list[int] = []
        starts: list[int] = []
        if whole is not None and turns and whole.text.startswith(turns[0].prompt.text):
            ids, starts = self._special.encode(whole.text, whole.typed)
        for turn in turns:
            text = turn.prompt + turn.label
            prompt = turn.prompt
            own = _range(starts, len(prompt.text), len(text.text))
            if (
                whole is not None
                and own is not None
                and whole.text.startswith(text.text)
                and (not made or made[-1].text == whole.text)
                and self._special.begins_with(ids, starts, prompt.text, prompt.typed, own.start)
            ):
                if not made:
                    made.append(Encoded(ids, [IGNORED] * len(ids), len(ids), whole.text, starts))
                made[-1] = self._trained(made[-1], turn, own)
                continue
            asked, asked_starts = self._special.encode(prompt.text, prompt.typed)
            sequence = self._behind(asked, asked_starts, turn, text)
            earlier = made[-1] if made else None
            end = _end_of_labels(earlier) if earlier else 0
            if earlier and asked[:end] == earlier.input_ids[:end]:
                labels = [*earlier.labels[:end], *sequence.labels[end:]]
                made[-1] = replace(
                    sequence,
                    labels=labels,
                    turns=(*earlier.turns, turn.index),
                    origins=earlier.origins | {turn.origin},
                )
                continue
            made.append(sequence)
        return made

    def _trained(self, sequence: Encoded, turn: Turn, own: range) -> Encoded:
        """Return the sequence with the label of a turn."""
        labels = list(sequence.labels)
        base = len(turn.prompt.text)
        for index in own:
            if self._is_marked(turn, sequence.starts[index] - base):
                labels[index] = sequence.input_ids[index]
        return replace(
            sequence, labels=labels, turns=(*sequence.turns, turn.index),
            origins=sequence.origins | {turn.origin},
        )  # fmt: skip

    def _behind(
        self, prompt: list[int], prompt_starts: list[int], turn: Turn, text: Rendered
    ) -> Encoded:
        """Return a turn as a sequence of its own: the ids of its prompt, as serving has them, and
        those of its label behind them."""
        ids, starts = self._special.encode(text.text, text.typed)
        base = len(turn.prompt.text)
        if ids[: len(prompt)] != prompt:  # a token spans the beginning of the label
            label, label_starts = self._label_ids(turn.label)
            ids = [*prompt, *label]
            starts = [*prompt_starts, *(start + base for start in label_starts)]
        sequence = Encoded(ids, [IGNORED] * len(ids), len(ids), text.text, starts)
        return self._trained(sequence, turn, range(len(prompt), len(ids)))

    def _label_ids(self, label: Rendered) -> tuple[list[int], list[int]]:
        """Encode a label as what goes on, not as the beginning of a text: SentencePiece would put a
        mark before it. A line break is before it, and is no part of any other token there."""
        for before in ("\n", "\x00", ""):
            text = Rendered(before) + label
            ids, starts = self._special.encode(text.text, text.typed)
            first = bisect_left(starts, len(before))
            if first < len(starts) and starts[first] == len(before):
                break
        return ids[first:], [start - len(before) for start in starts[first:]]

    def _is_marked(self, turn: Turn, start: int) -> bool:
        """Return True if the token that begins here in a label is trained: all are, unless the
        template has generation blocks that leave it out."""
        if not turn.label.marked:
            return True
        return any(first <= start < end for first, end in turn.label.marked)

    def _all(self, turns: list[Turn], whole: Rendered | None, trained: set[int]) -> Encoded:
        """Return the whole row with every token trained but those of turns that are left out."""
        if whole is None or not all(
            whole.text.startswith(turn.prompt.text + turn.label.text) for turn in turns
        ):
            raise DataError(
                "The model's chat template shows a turn to later ones in another form than the "
                "model must write it in, so not all tokens of the row can be trained at once.",
                hint="Use train_on=assistant.",
            )
        ids, starts = self._special.encode(whole.text, whole.typed)
        labels = list(ids)
        for turn in turns:
            base = len(turn.prompt.text)
            own = _range(starts, base, base + len(turn.label.text))
            for index in own or ():
                if turn.index not in trained:
                    labels[index] = IGNORED
        return Encoded(ids, labels, len(ids), whole.text, starts, tuple(sorted(trained)))

    def prompt_ids(self, messages: list[Message], tools: Tools = None) -> list[int]:
        """Return the ids of a prompt: the conversation and the opening of an answer."""
        prompt = self._renderer.prompt(messages, tools)
        return self._special.encode(prompt.text, prompt.typed)[0]

    def text(self, messages: list[Message], tools: Tools = None) -> str:
        """Return a whole conversation as the template renders it."""
        return self._renderer.whole(messages, tools).text

    def decode(self, ids: list[int]) -> str:
        """Return the text of an answer, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def losses(
        self,
        row: dict[str, Any],
        train_on: TrainOn = "assistant",
        sequences: Sequence[Encoded] | None = None,
    ) -> frozenset[str]:
        """Return what the template drops of a row: keys of ``template_survey.LOSSES``.

        ``sequences``: what ``encode`` returned for the row, if it was encoded before.
        """
        messages, tools = messages_of(row)
        trained = _trained_turns(messages, train_on)
        planted = self.survey.losses & template_survey.kinds_in(messages, tools, trained)
        if sequences is None:
            sequences = self.encode(row, train_on=train_on)
        texts = [sequence.text for sequence in sequences]
        return planted | template_survey.missing_from(texts, messages, trained)


def row_limit(max_length: int | None, context: int | None) -> int:
    """Return the tokens per row: ``max_length``, else the model's context but at most 2048, since
    longer rows take surprisingly much memory (LLaMA-Factory's cutoff_len)."""
    return max_length or min(2048, context or 2048)


# -- switches ------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _cost(template: ChatTemplate, reasoning: bool) -> tuple[int, ...]:
    """Return what it costs to train planted rows: refused, without their reasoning, in ways that
    are less exact, and sequences."""
    thinks = {**REPLY, "reasoning_content": template_survey.REASONING}
    row = [ASK, thinks, ASK_MORE, thinks] if reasoning else [ASK, REPLY, ASK_MORE, REPLY]
    try:
        sequences = template.encode({"messages": row})
    except DataError:
        return (1, 0, 0, 0, 0)
    lost = reasoning and "reasoning" in template.survey.losses
    origins = [origin for sequence in sequences for origin in sequence.origins]
    return (0, int(lost), origins.count("closed"), origins.count("cut"), len(sequences))


def choose_switches(template: ChatTemplate, reasoning: bool) -> dict[str, Any]:
    """Return the switches with which rows (with reasoning or without) are trained best: none, or
    one that the template knows. Serving must send them too."""
    known = template._renderer.process.variables
    best, chosen = _cost(template, reasoning), dict[str, Any]()
    for name, value in SWITCHES:
        if name not in known or best <= (0, 0, 0, 0, 1):
            continue
        if not reasoning and best[:4] == (0, 0, 0, 0):
            break  # more sequences are no reason to ask in another mode
        cost = _cost(template.with_switches({name: value}), reasoning)
        if cost < best:
            best, chosen = cost, {name: value}
    return chosen


def ways_in_words(sequences: Sequence[Encoded], switches: Mapping[str, Any]) -> list[str]:
    """Return what these rows need of their template beyond one rendering, as sentences."""
    origins = {origin for sequence in sequences for origin in sequence.origins}
    notes = []
    if any(sequence.of > 1 for sequence in sequences):
        notes.append(
            "Each turn is trained as a sequence of its own, behind the prompt that asks for it: "
            "the template shows it to later turns in another form."
        )
    if "cut" in origins:
        notes.append(
            "The label is cut from the turn as the template writes it: the prompt that asks for it "
            "is written in another form."
        )
    if "closed" in origins:
        notes.append(
            "The prompt opens a think block, which the label closes first: the template writes no "
            "reasoning."
        )
    if switches:
        words = ", ".join(f"{name}={value}" for name, value in switches.items())
        notes.append(f"The chat template is used with {words}, in training and at serving.")
    return notes


# -- turns ---------------------------------------------------------------------------------


def _answers(messages: list[Message]) -> list[int]:
    return [index for index, one in enumerate(messages) if one.get("role") == "assistant"]


def _trained_turns(messages: list[Message], train_on: TrainOn) -> list[int]:
    """Return the indices of the turns to train, without those of weight 0."""
    turns = _answers(messages)
    if train_on == "last_assistant":
        turns = turns[-1:]
    return [index for index in turns if messages[index].get("weight") != 0]


def _without_first(sequence: Encoded) -> Encoded:
    """Return it without a label of its first token: nothing comes before it, so it has no loss."""
    if not sequence.labels or sequence.labels[0] == IGNORED:
        return sequence
    return replace(sequence, labels=[IGNORED, *sequence.labels[1:]])


def _end_of_labels(sequence: Encoded) -> int:
    """Return the index after the last token that is trained."""
    behind = (index for index, label in enumerate(reversed(sequence.labels)) if label != IGNORED)
    return len(sequence.labels) - next(behind, len(sequence.labels))


def _range(starts: list[int], start: int, end: int) -> range | None:
    """Return the indices of the tokens of a span; None if a token spans its beginning or end."""
    first = bisect_left(starts, start)
    if first >= len(starts) or starts[first] != start:
        return None
    last = bisect_left(starts, end)
    if last < len(starts) and starts[last] != end:
        return None
    return range(first, last)
