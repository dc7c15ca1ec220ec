"""A row as the model will see it: its tokens, and which of them are trained.

What a preview is, and what all kinds of rows have in common; how a model sees a conversation
is said in ``local_mask`` and ``hosted_mask``. Knows one row; which rows of a file are looked
at is said in ``picking``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from finetune_gateway.data import formats, row_access
from finetune_gateway.data.formats import PREFERENCE, TEXT, TRL_PREFERENCE, UNPAIRED
from finetune_gateway.data.row_access import Json
from finetune_gateway.findings import Finding
from finetune_gateway.renderers import Shown
from finetune_gateway.tokens import token_text
from finetune_gateway.tokens.chat_template import Message

Part = Literal["special", "template", "content", "call"]
Conversation = list[Message]

MAX_TOKENS = 200_000  # tokens kept per sequence, more than any training context; all are counted


class Token(NamedTuple):
    """One token. ``text`` has bytes that are no whole character as ``<0xE2>``; ``visible`` also
    shows whitespace and control characters."""

    id: int | None  # None: the host does not publish it
    text: str
    trained: bool  # carries a loss; False once it is cut off
    truncated: bool  # beyond the limit: the model never sees it
    role: str | None  # whose message it belongs to, where that is known
    part: Part  # special token, text of the template, content, tool call

    @property
    def visible(self) -> str:
        return token_text.visible(self.text)


@dataclass(repr=False)
class Sequence(Shown):
    """What goes into the model at once; a preference pair is two, ``chosen`` and ``rejected``.

    The counts are of all tokens, also of those beyond the first 200,000, which are not kept.
    """

    name: str = ""
    tokens: list[Token] = field(default_factory=list)
    total: int = 0
    trained: int = 0
    truncated: int = 0
    truncated_trained: int = 0  # would have been trained, had they not been cut off
    prompt: int = 0  # leading tokens both answers of a pair share

    @property
    def left_out(self) -> int:
        """Tokens that are counted but not in ``tokens``."""
        return self.total - len(self.tokens)

    def add(
        self,
        ids: list[int],
        text: Callable[[int], str],
        cut: int | None,
        trained: bool = False,
        role: str | None = None,
        part: Part = "content",
        secret: bool = False,
    ) -> None:
        """Append tokens of one kind; ``cut``: tokens that fit; ``secret``: ids are not known."""
        start, self.total = self.total, self.total + len(ids)
        fits = len(ids) if cut is None else max(0, min(len(ids), cut - start))
        over = len(ids) - fits
        self.truncated += over
        self.trained += fits * trained
        self.truncated_trained += over * trained
        room = max(0, MAX_TOKENS - len(self.tokens))
        for place, id in enumerate(ids[:room]):
            shown = None if secret else id
            inside = place < fits
            self.tokens.append(Token(shown, text(id), trained and inside, not inside, role, part))

    def as_json(self) -> Json:
        """The sequence as plain JSON."""
        figures = ("name", "total", "trained", "truncated", "truncated_trained", "left_out")
        listed = [token._asdict() | {"visible": token.visible} for token in self.tokens]
        return {name: getattr(self, name) for name in figures} | {"tokens": listed}


@dataclass(repr=False)
class Preview(Shown):
    """One row as tokens; ``findings`` is what ``validate`` says of the line. A row with an error
    has no sequences."""

    line: int
    format: str = "unknown"
    model: str = ""
    encoding: str = ""
    limit: int | None = None  # tokens per sequence; what is beyond is cut off at the end
    sequences: list[Sequence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is documented, inferred, left out
    findings: list[Finding] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return bool(self.sequences)

    @property
    def tokens(self) -> list[Token]:
        """The tokens of all sequences, one after another."""
        return [token for sequence in self.sequences for token in sequence.tokens]

    @property
    def total(self) -> int:
        return sum(sequence.total for sequence in self.sequences)

    @property
    def trained(self) -> int:
        return sum(sequence.trained for sequence in self.sequences)

    @property
    def truncated(self) -> int:
        return sum(sequence.truncated for sequence in self.sequences)

    def as_json(self) -> Json:
        """The preview as plain JSON."""
        figures = ("line", "ok", "format", "model", "encoding", "limit")
        return {
            name: getattr(self, name) for name in (*figures, "total", "trained", "truncated")
        } | {
            "sequences": [sequence.as_json() for sequence in self.sequences],
            "notes": self.notes,
            "findings": [found.model_dump(mode="json") for found in self.findings],
        }


class PreviewRenderer(ABC):
    """Shows rows of any format as one model sees them."""

    def __init__(self, model: str, encoding: str, limit: int | None) -> None:
        self.model = model
        self.encoding = encoding
        self.limit = limit

    def preview(self, row: Json, line: int = 1) -> Preview:
        """The tokens of a row that ``validate`` found no error in.

        Raises DataError when the model's template refuses it.
        """
        found = formats.format_of(row)
        name = found.name if found else "unknown"
        made = Preview(line, name, self.model, self.encoding, self.limit)
        if found in (PREFERENCE, TRL_PREFERENCE):
            self._pair(row, made)
        elif found is TEXT:
            made.sequences.append(self.text(str(row["text"])))
            made.notes.append("Text rows are trained from the first token to the last.")
        elif found is UNPAIRED:
            self._judged(row, made)
        else:
            chat = formats.as_chat(row)
            self._chat(row_access.messages_of(chat.get("messages")), chat, made)
        return made

    def _chat(self, messages: Conversation, row: Json, made: Preview) -> None:
        made.sequences.append(self.conversation(messages, row))
        made.notes += self.notes(messages, row)

    def _judged(self, row: Json, made: Preview) -> None:
        """A row with a label (KTO): one answer, judged good or bad."""
        asked = _unlearnt(row_access.messages_of(row.get("prompt")))
        answer = row_access.messages_of(
            row_access.first(row, "messages", "completion"), "assistant"
        )
        self._chat([*asked, *answer], row, made)
        judged = "good, to be made likelier" if row.get("label") else "bad, to be made less likely"
        made.notes.append(f"The answer is labelled {judged}.")

    def _pair(self, row: Json, made: Preview) -> None:
        asked, good, bad, source = pair_of(row)
        for name, answer in (("chosen", good), ("rejected", bad)):
            made.sequences.append(self.conversation([*asked, *answer], source))
            made.sequences[-1].name = name
        _note_prompt(*made.sequences)
        made.notes += self.notes([*asked, *good, *bad], source)
        made.notes.append("The chosen answer is made likelier than the rejected one.")

    @abstractmethod
    def conversation(self, messages: Conversation, row: Json) -> Sequence:
        """Messages and the tools of ``row`` as tokens."""

    @abstractmethod
    def text(self, text: str) -> Sequence:
        """Plain text, all of it trained."""

    @abstractmethod
    def notes(self, messages: Conversation, row: Json) -> list[str]:
        """What a reader has to know to trust the tokens."""


def pair_of(row: Json) -> tuple[Conversation, Conversation, Conversation, Json]:
    """The prompt, the two answers and what holds the tools of a preference row, in OpenAI's form
    or TRL's; answers in the prompt are not trained. Without a prompt it is what both share."""
    source = {**row, **row_access.as_dict(row.get("input"))}
    asked = row_access.messages_of(row_access.first(source, "messages", "prompt"))
    good, bad = (
        row_access.messages_of(row_access.first(row, *keys), "assistant")
        for keys in (("preferred_output", "chosen"), ("non_preferred_output", "rejected"))
    )
    if not asked:
        same = [a == b for a, b in zip(good[:-1], bad[:-1], strict=False)]
        shared = same.index(False) if False in same else len(same)
        asked, good, bad = good[:shared], good[shared:], bad[shared:]
    return _unlearnt(asked), good, bad, source


def _unlearnt(messages: Iterable[Message]) -> Conversation:
    return [
        {**message, "weight": 0} if message.get("role") == "assistant" else message
        for message in messages
    ]


def _note_prompt(chosen: Sequence, rejected: Sequence) -> None:
    """Count the tokens the two begin with alike, none of them trained."""
    shared = 0
    for one, other in zip(chosen.tokens, rejected.tokens, strict=False):
        if one != other or one.trained or (one.truncated and one.role == "assistant"):
            break
        shared += 1
    chosen.prompt = rejected.prompt = shared
