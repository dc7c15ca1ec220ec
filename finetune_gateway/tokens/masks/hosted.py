"""Rows as a hosted model sees them: by the documented rule; what is inferred is called so."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import cache
from typing import Protocol, cast

from finetune_gateway.data import row_access
from finetune_gateway.data.row_access import Json
from finetune_gateway.errors import UnsupportedError
from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens import token_text
from finetune_gateway.tokens.chat_template import Message
from finetune_gateway.tokens.counter import HostedCounter, encoding_for
from finetune_gateway.tokens.masks.preview import Conversation, Part, PreviewRenderer, Sequence


class _Vocabulary(Protocol):
    def encode_ordinary(self, text: str) -> list[int]: ...

    def decode_token_bytes(self, id: int) -> bytes: ...


@cache
def _vocabulary(encoding: str) -> _Vocabulary:
    """From splintr's wheel: no network, 0.05 s. o200k_harmony adds special tokens only."""
    splintr = importlib.import_module("splintr")
    name = encoding.replace("o200k_harmony", "o200k_base")
    return cast(_Vocabulary, splintr.Tokenizer.from_pretrained(name))


class HostedRenderer(PreviewRenderer):
    """Rows by the rule that OpenAI documents, in the frame that its bills show:
    ``<|im_start|>role<|im_sep|>content<|im_end|>``.

    Raises UnsupportedError for a model whose encoding is not known, or for another ``train_on``
    than ``assistant``.
    """

    def __init__(self, model: str, *, limit: int | None, train_on: TrainOn = "assistant") -> None:
        encoding = encoding_for(model)
        if encoding is None:
            raise UnsupportedError(
                f"The encoding of {model!r} is not known, so its tokens cannot be shown.",
                hint="Name a model of OpenAI's, or a local one: --backend local.",
            )
        if train_on != "assistant":
            raise UnsupportedError(
                f"Hosted models train on what the assistant says; train_on {train_on!r} is local.",
                hint='Leave train_on out, or give messages "weight": 0.',
            )
        super().__init__(model, encoding, limit)
        self._vocabulary = _vocabulary(encoding)
        self._read = cache(self._token)

    def _token(self, id: int) -> str:
        return token_text.text_of(self._vocabulary.decode_token_bytes(id))

    def _ids(self, text: str) -> list[int]:
        try:
            return self._vocabulary.encode_ordinary(text)
        except UnicodeEncodeError:  # a lone surrogate has no UTF-8; as tiktoken replaces it
            return self._ids(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def conversation(self, messages: Conversation, row: Json) -> Sequence:
        sequence = Sequence()
        for message in messages:
            self._message(message, sequence)
        return sequence

    def _message(self, message: Message, sequence: Sequence) -> None:
        role = str(message.get("role", ""))
        trained = role == "assistant" and message.get("weight") != 0
        self._frame("<|im_start|>", role, sequence)
        sequence.add(self._ids(role), self._read, self.limit, False, role, "template")
        self._frame("<|im_sep|>", role, sequence)
        for part, text in _pieces(message):
            sequence.add(self._ids(text), self._read, self.limit, trained, role, part)
        self._frame("<|im_end|>", role, sequence)

    def _frame(self, token: str, role: str, sequence: Sequence) -> None:
        sequence.add([0], lambda _: token, self.limit, False, role, "special", secret=True)

    def text(self, text: str) -> Sequence:
        sequence = Sequence()
        sequence.add(self._ids(text), self._read, self.limit, True)
        return sequence

    def notes(self, messages: Conversation, row: Json) -> list[str]:
        at = f"; what is beyond {self.limit:,} tokens is cut off" if self.limit else ""
        notes = [
            f"Documented: trained is the content of assistant messages whose weight is not 0{at}.",
            "Inferred: the frame <|im_start|>role<|im_sep|>...<|im_end|> fits published bills "
            "(4 tokens a message; 1 more a row, whose place is unknown and which is not shown). "
            "Whether the <|im_end|> of an answer is trained is not published.",
        ]
        if any(row_access.calls_of(message) for message in messages):
            notes.append(
                "Inferred: how calls are written is not published; name and arguments are shown "
                "as they stand in the row."
            )
        return notes + self._unshown(messages, row)

    def _unshown(self, messages: Conversation, row: Json) -> list[str]:
        notes = []
        parts = [
            part for message in messages for part in row_access.parts_of(message.get("content"))
        ]
        if images := sum(map(row_access.is_image, parts)):
            notes.append(f"Not shown: images ({images}), which take 85 to 1,105 tokens each.")
        if names := sum(isinstance(message.get("name"), str) for message in messages):
            notes.append(f"Not shown: names of speakers ({names}); where they go is not published.")
        if row_access.tools_of(row):
            low, high = self._tools(row)
            notes.append(
                f"Not shown: the tools block, {low:,} to {high:,} tokens before the first message; "
                "how it is written is not published."
            )
        return notes

    def _tools(self, row: Json) -> tuple[int, int]:
        """The range of the tools block: what counting says with it, less what it says without."""
        offered = {key: row[key] for key in ("tools", "functions") if key in row}
        one: Json = {"messages": [{"role": "user", "content": ""}]}
        counter = HostedCounter(self.model)
        bare, whole = counter.measure(one), counter.measure(one | offered)
        return whole.billed - bare.billed, whole.billed_high - bare.billed_high


def _pieces(message: Message) -> Iterator[tuple[Part, str]]:
    """The texts of a message in the order ``turns.texts_of`` counts them, calls marked."""
    spoken = {key: value for key, value in message.items() if not key.endswith(("_call", "_calls"))}
    yield from (("content", text) for text in row_access.texts_of(spoken))
    calls = {key: value for key, value in message.items() if key not in ("content", "refusal")}
    yield from (("call", text) for text in row_access.texts_of(calls))
