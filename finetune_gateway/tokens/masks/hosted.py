"""Previews for hosted models, by OpenAI's documented rule; notes say what is inferred."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from finetune_gateway.data import row_access
from finetune_gateway.data.row_access import Json
from finetune_gateway.errors import UnsupportedError
from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens import token_text
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.tokens.encodings import encoding_for, load_vocabulary
from finetune_gateway.tokens.images import tokens_of
from finetune_gateway.tokens.masks.preview import Conversation, Part, PreviewRenderer, Sequence
from finetune_gateway.tokens.template_rows import Message, rows_of_pair


class HostedRenderer(PreviewRenderer):
    """Renders rows by OpenAI's documented rule, in the frame that its bills imply:
    ``<|im_start|>role<|im_sep|>content<|im_end|>``.

    Raises UnsupportedError for a model whose encoding is not known, or if ``train_on`` is not
    ``assistant``.
    """

    def __init__(self, model: str, *, limit: int | None, train_on: TrainOn = "assistant") -> None:
        encoding = encoding_for(model)
        if encoding is None:
            raise UnsupportedError(
                f"The encoding of {model!r} is not known, so its tokens cannot be shown.",
                hint="Name one of OpenAI's models, or preview for a local one: --backend local.",
            )
        if train_on != "assistant":
            raise UnsupportedError(
                f"Hosted models train on assistant messages; train_on {train_on!r} is local only.",
                hint='Leave train_on out, or give messages "weight": 0.',
            )
        super().__init__(model, encoding, limit)
        self._vocabulary = load_vocabulary(encoding)
        self._token_text = cache(self._decode)

    def _decode(self, id: int) -> str:
        return token_text.decode_bytes(self._vocabulary.decode_token_bytes(id))

    def _ids(self, text: str) -> list[int]:
        try:
            return self._vocabulary.encode_ordinary(text)
        except UnicodeEncodeError:  # lone surrogates: replace them as tiktoken does
            return self._ids(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def conversation(self, messages: Conversation, row: Json) -> list[Sequence]:
        sequence = Sequence()
        for message in messages:
            self._message(message, sequence)
        return [sequence]

    def _message(self, message: Message, sequence: Sequence) -> None:
        role = str(message.get("role", ""))
        trained = role == "assistant" and message.get("weight") != 0
        self._frame("<|im_start|>", role, sequence)
        sequence.add(self._ids(role), self._token_text, self.limit, False, role, "template")
        self._frame("<|im_sep|>", role, sequence)
        for part, text in _pieces(message):
            sequence.add(self._ids(text), self._token_text, self.limit, trained, role, part)
        self._frame("<|im_end|>", role, sequence)

    def _frame(self, token: str, role: str, sequence: Sequence) -> None:
        sequence.add([0], lambda _: token, self.limit, False, role, "special", secret=True)

    def pair(self, row: Json) -> list[Sequence]:
        sides = rows_of_pair(row)
        return [one for side in sides for one in self.conversation(side["messages"], side)]

    def pair_notes(self, chosen: Sequence, rejected: Sequence) -> list[str]:
        return ["Training makes the chosen answer more likely than the rejected one."]

    def text_notes(self) -> list[str]:
        return ["Text rows are trained from the first token to the last."]

    def text(self, text: str) -> Sequence:
        sequence = Sequence()
        sequence.add(self._ids(text), self._token_text, self.limit, True)
        return sequence

    def notes(self, messages: Conversation, row: Json) -> list[str]:
        cut = f"; tokens beyond {self.limit:,} are cut off" if self.limit else ""
        notes = [
            "Documented: the content of assistant messages is trained unless their weight is "
            f"0{cut}.",
            "Inferred: the frame <|im_start|>role<|im_sep|>...<|im_end|> fits published bills "
            "(4 tokens per message, and 1 per row that is not shown because its place is unknown). "
            "Whether the <|im_end|> of an answer is trained is not published.",
        ]
        if any(row_access.calls_of(message) for message in messages):
            notes.append(
                "Inferred: the format of tool calls is not published; name and arguments are shown "
                "as in the row."
            )
        return notes + self._notes_on_omissions(messages, row)

    def _notes_on_omissions(self, messages: Conversation, row: Json) -> list[str]:
        notes = []
        parts = [
            part for message in messages for part in row_access.parts_of(message.get("content"))
        ]
        if images := [*filter(row_access.is_image, parts)]:
            low, _, high = tokens_of(self.model, images)
            notes.append(f"Not shown: images ({len(images)}), {low:,} to {high:,} tokens.")
        if names := sum(isinstance(message.get("name"), str) for message in messages):
            notes.append(f"Not shown: names of speakers ({names}); their place is not published.")
        if row_access.tools_of(row):
            low, high = self._tools(row)
            notes.append(
                f"Not shown: the tools block, {low:,} to {high:,} tokens before the first message; "
                "its format is not published."
            )
        return notes

    def _tools(self, row: Json) -> tuple[int, int]:
        """Return the least and most tokens of the tools block: a count with it less one without."""
        definitions = {key: row[key] for key in ("tools", "functions") if key in row}
        bare_row: Json = {"messages": [{"role": "user", "content": ""}]}
        counter = HostedCounter(self.model)
        bare, whole = counter.measure(bare_row), counter.measure(bare_row | definitions)
        return whole.billed - bare.billed, whole.billed_high - bare.billed_high


def _pieces(message: Message) -> Iterator[tuple[Part, str]]:
    """Yield the texts of a message, in the order they are counted, each as content or call."""
    spoken = {key: value for key, value in message.items() if not key.endswith(("_call", "_calls"))}
    yield from (("content", text) for text in row_access.texts_of(spoken))
    calls = {key: value for key, value in message.items() if key not in ("content", "refusal")}
    yield from (("call", text) for text in row_access.texts_of(calls))
