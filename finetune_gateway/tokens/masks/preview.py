"""A row as the model sees it: its tokens, and which of them are trained.

Previews as data, and what is common to all kinds of rows; ``local`` and ``hosted`` render a
conversation. ``validation.select`` chooses the rows of a file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Self

from finetune_gateway.data import formats, row_access
from finetune_gateway.data.canonical import as_sent
from finetune_gateway.data.row_access import Json
from finetune_gateway.findings import Finding
from finetune_gateway.model import reading_document
from finetune_gateway.renderers import Shown
from finetune_gateway.tokens import token_text
from finetune_gateway.tokens.template_rows import Message, row_of_unpaired, rows_of_pair

Part = Literal["special", "template", "content", "call"]
Conversation = list[Message]

REJECTED = "rejected"
MAX_TOKENS = (
    200_000  # tokens kept per sequence, above any training context; the rest is only counted
)


class Token(NamedTuple):
    """One token. ``text`` has ``<0xE2>`` for bytes that are not a whole character; ``visible`` also
    shows whitespace and control characters."""

    id: int | None  # None: the host does not publish it
    text: str
    trained: bool  # carries a loss; False if it is truncated
    truncated: bool  # beyond the limit: the model never sees it
    role: str | None  # of its message, if known
    part: Part  # special token, template text, content, tool call

    @property
    def visible(self) -> str:
        return token_text.visible(self.text)


@dataclass(repr=False)
class Sequence(Shown):
    """The tokens of one training example; a preference pair has two, ``chosen`` and ``rejected``.

    The counts include the tokens beyond the first 200,000, which are not kept.
    """

    name: str = ""
    tokens: list[Token] = field(default_factory=list)
    total: int = 0
    trained: int = 0
    truncated: int = 0
    truncated_trained: int = 0  # would be trained if they were not truncated
    prompt: int = 0  # leading tokens shared by both answers of a pair
    later: Json = field(default_factory=dict)  # of its JSON: fields of a later version
    later_of_tokens: dict[int, Json] = field(default_factory=dict)  # and those of its tokens

    @property
    def left_out(self) -> int:
        """Return how many tokens are counted but not in ``tokens``."""
        return self.total - len(self.tokens)

    def add(
        self,
        ids: list[int],
        text: Callable[[int], str],
        limit: int | None,
        trained: bool = False,
        role: str | None = None,
        part: Part = "content",
        secret: bool = False,
    ) -> None:
        """Append tokens of one kind. ``limit``: tokens that fit; ``secret``: ids are not known."""
        start, self.total = self.total, self.total + len(ids)
        fits = len(ids) if limit is None else max(0, min(len(ids), limit - start))
        over = len(ids) - fits
        self.truncated += over
        self.trained += fits * trained
        self.truncated_trained += over * trained
        room = max(0, MAX_TOKENS - len(self.tokens))
        for index, id in enumerate(ids[:room]):
            known_id = None if secret else id
            fit = index < fits
            self.tokens.append(Token(known_id, text(id), trained and fit, not fit, role, part))

    def as_json(self) -> Json:
        """Return the sequence as plain JSON."""
        figures = (
            "name",
            "total",
            "trained",
            "truncated",
            "truncated_trained",
            "prompt",
            "left_out",
        )
        tokens = [
            token._asdict() | {"visible": token.visible} | self.later_of_tokens.get(index, {})
            for index, token in enumerate(self.tokens)
        ]
        return {name: getattr(self, name) for name in figures} | {"tokens": tokens} | self.later

    @classmethod
    def from_json(cls, document: Json) -> Self:
        """Return the sequence of its JSON, of this version or another."""
        names = cls.__dataclass_fields__.keys() - {"later", "later_of_tokens"}
        with reading_document(document, "a sequence of a preview"):
            given = {name: document[name] for name in names & document.keys()}
            given["tokens"] = [
                Token(*(token[name] for name in Token._fields)) for token in document["tokens"]
            ]
            rest = (_without(token, {*Token._fields, "visible"}) for token in document["tokens"])
            given["later_of_tokens"] = {index: later for index, later in enumerate(rest) if later}
            return cls(**given, later=_without(document, {*names, "left_out"}))


@dataclass(repr=False)
class Preview(Shown):
    """One row as tokens, with the ``findings`` of ``validate`` on its line. A row with an error has
    no sequences."""

    line: int
    format: str = "unknown"
    model: str = ""
    encoding: str = ""
    limit: int | None = None  # tokens per sequence; the rest is truncated
    sequences: list[Sequence] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what is documented, inferred, not shown
    findings: list[Finding] = field(default_factory=list)
    later: Json = field(default_factory=dict)  # of its JSON: fields of a later version

    @property
    def ok(self) -> bool:
        return bool(self.sequences)

    @property
    def is_pair(self) -> bool:
        """Return True if the sequences are a chosen and a rejected answer to one prompt."""
        return bool(self.sequences) and self.sequences[-1].name == REJECTED

    @property
    def tokens(self) -> list[Token]:
        """Return the tokens of all sequences, one after another."""
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
        """Return the preview as plain JSON."""
        figures = ("line", "ok", "format", "model", "encoding", "limit")
        return {
            name: getattr(self, name) for name in (*figures, "total", "trained", "truncated")
        } | {
            "sequences": [sequence.as_json() for sequence in self.sequences],
            "notes": self.notes,
            "findings": [finding.model_dump(mode="json") for finding in self.findings],
            **self.later,
        }

    @classmethod
    def from_json(cls, document: Json) -> Self:
        """Return the preview of its JSON, of this version or another."""
        names = cls.__dataclass_fields__.keys() - {"later"}
        known = {*names, "ok", "total", "trained", "truncated"}
        with reading_document(document, "a preview"):
            given = {name: document[name] for name in names & document.keys()}
            given["sequences"] = [Sequence.from_json(one) for one in document["sequences"]]
            given["findings"] = [Finding.model_validate(one) for one in document["findings"]]
            return cls(**given, later=_without(document, known))


def _without(document: Json, known: set[str]) -> Json:
    """Return the fields of a later version."""
    return {name: value for name, value in document.items() if name not in known}


class PreviewRenderer(ABC):
    """Renders rows of any format as one model sees them."""

    def __init__(self, model: str, encoding: str, limit: int | None) -> None:
        self.model = model
        self.encoding = encoding
        self.limit = limit

    def preview(self, row: Json, line: int = 1) -> Preview:
        """Return the tokens of a row without errors.

        Raises DataError if the model's template refuses it.
        """
        row_format = formats.format_of(row)
        name = row_format.name if row_format else "unknown"
        preview = Preview(line, name, self.model, self.encoding, self.limit)
        sent = as_sent(row)
        if "preferred_output" in sent:
            self._pair(sent, preview)
        elif "text" in sent:
            preview.sequences.append(self.text(str(sent["text"])))
            preview.notes += self.text_notes()
        else:
            sent = row_of_unpaired(sent) if "label" in sent else sent
            self._chat(row_access.messages_of(sent.get("messages")), sent, preview)
        if "label" in sent:
            label, effect = ("good", "more") if sent["label"] else ("bad", "less")
            note = f"The answer is labelled {label}; training makes it {effect} likely."
            preview.notes.append(note)
            for sequence in preview.sequences:
                sequence.name = f"labelled {label}"
        return preview

    def _chat(self, messages: Conversation, row: Json, preview: Preview) -> None:
        preview.sequences += self.conversation(messages, row)
        preview.notes += self.notes(messages, row)

    def _pair(self, row: Json, preview: Preview) -> None:
        notes: dict[str, None] = {}  # each once, in their order
        preview.sequences += self.pair(row)
        for name, sequence, one in zip(
            ("chosen", REJECTED), preview.sequences, rows_of_pair(row), strict=True
        ):
            sequence.name = name
            notes |= dict.fromkeys(self.notes(one["messages"], one))
        _count_shared_prompt(*preview.sequences)
        preview.notes += [*notes, *self.pair_notes(*preview.sequences)]

    @abstractmethod
    def conversation(self, messages: Conversation, row: Json) -> list[Sequence]:
        """Return messages and the tools of ``row`` as tokens: one sequence, or several where each
        turn is trained on its own."""

    @abstractmethod
    def pair(self, row: Json) -> list[Sequence]:
        """Return the two sides of a pair as tokens: with its chosen answer, and its rejected
        one."""

    @abstractmethod
    def pair_notes(self, chosen: Sequence, rejected: Sequence) -> list[str]:
        """Return what of a pair is trained, and to which end."""

    @abstractmethod
    def text_notes(self) -> list[str]:
        """Return what of a text is trained."""

    @abstractmethod
    def text(self, text: str) -> Sequence:
        """Return plain text as tokens, all of them trained."""

    @abstractmethod
    def notes(self, messages: Conversation, row: Json) -> list[str]:
        """Return what is exact, documented, inferred or not shown."""


def _count_shared_prompt(chosen: Sequence, rejected: Sequence) -> None:
    """Set ``prompt`` to the number of untrained tokens that both begin with."""
    shared = 0
    for one, other in zip(chosen.tokens, rejected.tokens, strict=False):
        if one != other or one.trained or (one.truncated and one.role == "assistant"):
            break
        shared += 1
    chosen.prompt = rejected.prompt = shared
