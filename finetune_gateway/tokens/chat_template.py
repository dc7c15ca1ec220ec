"""A local model's own rendering of a conversation: token ids, and which of them are trained.

``ChatTemplate.encode`` serves training, counting, previews and the tests of masks; ``prompt_ids``
serves chat. The tokenizer and the template are read with ``tokenizers`` and ``jinja2``, without
torch and transformers (``AutoTokenizer`` takes 2 s to import).
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from finetune_gateway.errors import DataError, NotFoundError, SpecError
from finetune_gateway.spec import TrainOn
from finetune_gateway.tokens.jinja_sandbox import Span, compile_template

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IGNORED = -100  # the label that PyTorch's cross entropy ignores
MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
PRIVATE_USE = range(0xF000, 0xF8FF)  # characters without a meaning, to mark typed special tokens

Message = dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """One row as the model sees it. ``labels[i]`` is ``input_ids[i]`` if the token is trained, else
    -100."""

    input_ids: list[int]
    labels: list[int]
    length: int  # tokens before truncation
    text: str = ""  # as the template renders it
    starts: list[int] = field(default_factory=list)  # index of the first character of each token

    @property
    def trained(self) -> int:
        return len(self.labels) - self.labels.count(IGNORED)

    @property
    def truncated(self) -> bool:
        return self.length > len(self.input_ids)


class ChatTemplate:
    """The chat template and tokenizer of one local model.

    >>> template = ChatTemplate.load("./Qwen3-4B")
    >>> template.encode({"messages": [...]}).labels
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        source: str,
        special_tokens: dict[str, str],
        stop_ids: frozenset[int],
    ) -> None:
        self.tokenizer = tokenizer
        self.source = source
        self.special_tokens = special_tokens  # bos_token, eos_token, ... as the template sees them
        self.stop_ids = stop_ids  # tokens that end an answer
        self._recording, self._render = compile_template(source)
        added = tokenizer.get_added_tokens_decoder().values()
        self._special_texts = [token.content for token in added if token.special]

    @classmethod
    def load(cls, folder: str | Path, chat_template: str | Path | None = None) -> ChatTemplate:
        """Return the template of a model folder, or the one in the file ``chat_template``.

        A template without generation markers is replaced by TRL's training template of the same
        family if there is one. Raises NotFoundError, SpecError.
        """
        folder = Path(folder)
        config = _json(folder / "tokenizer_config.json")
        source = _source(folder, config, chat_template)
        tokenizer = _tokenizer(folder / "tokenizer.json")
        special = {
            name: token
            for name, value in config.items()
            if name.endswith("_token") and (token := _content(value))
        }
        stops = _stop_ids(folder, special, tokenizer)
        return cls(tokenizer, training_template(source), special, stops)

    @property
    def sha256(self) -> str:
        """Return the hash that identifies the template a model was trained with."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def check(self) -> None:
        """Raise SpecError unless the template marks the assistant's turns and their stop token is
        trained: a model that never learns to stop never ends an answer."""
        if not MARKERS.search(self.source):
            raise SpecError(
                "The model's chat template does not mark the assistant's turns.",
                hint="Use one with {% generation %} markers: --set chat_template=FILE.",
            )
        turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        encoded = self.encode({"messages": turns})
        last = [label for label in encoded.labels if label != IGNORED]
        stops = [label for label in last[-2:] if label in self.stop_ids]
        if not stops:
            raise SpecError(
                "The model's chat template does not train the token that ends an answer.",
                hint="Put the end-of-turn token inside {% generation %}: --set chat_template=FILE.",
            )

    # -- encoding ------------------------------------------------------------------------

    def encode(
        self,
        row: dict[str, Any],
        *,
        train_on: TrainOn = "assistant",
        max_length: int | None = None,
    ) -> Encoded:
        """Return a training row as token ids and labels, truncated to ``max_length`` tokens.

        Assistant turns and the token that ends them are trained unless their ``weight`` is 0.
        Raises DataError if the template refuses the row or does not mark its turns.
        """
        messages, tools = messages_of(row)
        text, spans, typed = self._render_row(messages, tools, answer=False)
        trained = _trained_spans(messages, spans, train_on)
        cuts = sorted({edge for span in spans for edge in span})
        ids, starts = self._encode_text(text, typed, cuts)
        everything = train_on == "all"
        labels = list(ids) if everything else [IGNORED] * len(ids)
        for span in spans:
            if (span in trained) is not everything:
                own = slice(*(bisect_left(starts, edge) for edge in span))
                labels[own] = ids[own] if span in trained else [IGNORED] * len(ids[own])
        return Encoded(ids[:max_length], labels[:max_length], len(ids), text, starts[:max_length])

    def prompt_ids(
        self, messages: list[Message], tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """Return the ids of a prompt: the conversation and the opening of an answer."""
        text, _, typed = self._render_row(messages, tools, answer=True)
        return self._encode_text(text, typed, [])[0]

    def text(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> str:
        """Return a whole conversation as the template renders it."""
        return self._render_row(messages, tools, answer=False)[0]

    def decode(self, ids: list[int]) -> str:
        """Return the text of an answer, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _render_row(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, *, answer: bool
    ) -> tuple[str, list[Span], list[Span]]:
        """Return the text, the spans of the assistant's turns, and the spans of special tokens
        typed in the data, which must stay text."""
        plain = [for_template(message) for message in messages]
        plain, tools, mark = self._mark_special(plain, tools)
        blocks: list[str] = []
        spans: list[Span] = []
        try:
            with self._recording(blocks, spans):
                for block in self._render(
                    messages=plain,
                    tools=tools,
                    add_generation_prompt=answer,
                    **self.special_tokens,
                ):
                    blocks.append(block)
        except jinja2.TemplateError as exc:
            raise DataError(
                f"The model's chat template refuses this conversation: {exc}.",
                hint="Change the row, or use another template: --set chat_template=FILE.",
            ) from None
        return _remove_marks("".join(blocks), _merge_touching(spans), mark)

    def _mark_special(
        self, messages: list[Message], tools: list[dict[str, Any]] | None
    ) -> tuple[list[Message], list[dict[str, Any]] | None, str]:
        """Put a mark before and after every special token typed in the data."""
        raw = json.dumps([messages, tools], ensure_ascii=False)
        if not any(token in raw for token in self._special_texts):
            return messages, tools, ""
        mark = next(chr(code) for code in PRIVATE_USE if chr(code) not in raw)
        pattern = re.compile("|".join(re.escape(token) for token in self._special_texts))

        def add_marks(text: str) -> str:
            return pattern.sub(lambda match: f"{mark}{match.group()}{mark}", text)

        return _map_strings(messages, add_marks), tools and _map_strings(tools, add_marks), mark

    def _encode_text(
        self, text: str, typed: list[Span], cuts: list[int]
    ) -> tuple[list[int], list[int]]:
        """Return token ids and the index of the first character of each.

        The text is encoded at once, as a server does, unless a token spans the beginning of an
        answer (at inference a new token begins there) or special tokens were typed.
        """
        if not typed:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
            offsets = encoding.offsets
            if all(cut in (0, len(text)) or _begins(offsets, cut) for cut in cuts):
                return encoding.ids, [start for start, _ in offsets]
        edges = sorted({0, len(text), *cuts, *(edge for span in typed for edge in span)})
        ids: list[int] = []
        starts: list[int] = []
        for start, end in zip(edges, edges[1:], strict=False):
            with self._as_text(_inside(start, typed)):
                encoding = self.tokenizer.encode(text[start:end], add_special_tokens=False)
            ids += encoding.ids
            starts += [start + offset for offset, _ in encoding.offsets]
        return ids, starts

    @contextmanager
    def _as_text(self, typed: bool) -> Iterator[None]:
        """Encode special tokens as plain text if ``typed``."""
        self.tokenizer.encode_special_tokens = typed
        try:
            yield
        finally:
            self.tokenizer.encode_special_tokens = False


def row_limit(max_length: int | None, context: int | None) -> int:
    """Return the tokens per row: ``max_length``, else the model's context but at most 2048, since
    longer rows take surprisingly much memory (LLaMA-Factory's cutoff_len)."""
    return min(max_length or 2048, context or 2048)


# -- rows to messages --------------------------------------------------------------------


def messages_of(row: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Return the conversation and tools of a chat or prompt/completion row. Raises DataError."""
    if isinstance(row.get("messages"), list):
        return row["messages"], row.get("tools") or None
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        prompt = {"role": "user", "content": row["prompt"]}
        return [prompt, {"role": "assistant", "content": row["completion"]}], None
    raise DataError(
        f"A row with the keys {sorted(row)[:8]} is not a conversation.",
        hint="Run: ftg validate FILE",
    )


def for_template(message: Message) -> Message:
    """Return a message as Hugging Face templates expect it.

    Arguments of tool calls become objects (OpenAI sends a JSON string, which templates would encode
    again); developer becomes system; text parts become one string; null keys are dropped, as in
    transformers.
    """
    plain = {key: value for key, value in message.items() if value is not None and key != "weight"}
    if plain.get("role") == "developer":
        plain["role"] = "system"
    if isinstance(plain.get("content"), list):
        plain["content"] = "".join(str(part.get("text", "")) for part in plain["content"])
    if "function_call" in plain:  # the deprecated single call
        plain["tool_calls"] = [{"type": "function", "function": plain.pop("function_call")}]
    if plain.get("role") == "function":
        plain["role"] = "tool"
    if "tool_calls" in plain:
        plain["tool_calls"] = [_call_for_template(call) for call in plain["tool_calls"]]
        plain.setdefault("content", "")
    return plain


def _call_for_template(call: dict[str, Any]) -> dict[str, Any]:
    function = dict(call["function"])
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        # Some hosts write "" for no arguments.
        function["arguments"] = json.loads(arguments) if arguments.strip() else {}
    return {**call, "function": function}


def _trained_spans(messages: list[Message], spans: list[Span], train_on: TrainOn) -> list[Span]:
    """Return the spans to train: one per assistant turn, without turns of weight 0."""
    turns = [message for message in messages if message.get("role") == "assistant"]
    if len(turns) != len(spans):
        raise DataError(
            f"The chat template marks {len(spans)} of {len(turns)} assistant turns.",
            hint="Use a template with {% generation %} around each: --set chat_template=FILE.",
        )
    pairs = [(turn, span) for turn, span in zip(turns, spans, strict=True)]
    if train_on == "last_assistant":
        pairs = pairs[-1:]
    return [span for turn, span in pairs if turn.get("weight") != 0]


def _merge_touching(spans: list[Span]) -> list[Span]:
    """Merge spans that touch: some templates mark the text of a turn and its end separately."""
    merged: list[Span] = []
    for start, end in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        elif end > start:
            merged.append((start, end))
    return merged


def _inside(position: int, spans: list[Span]) -> bool:
    return any(start <= position < end for start, end in spans)


def _begins(offsets: list[Span], at: int) -> bool:
    """Return True if a token with at least one character begins at this index."""
    # An empty span (at, at) sorts before (at, end), so search from (at, at + 1).
    index = bisect_left(offsets, (at, at + 1))
    return index < len(offsets) and offsets[index][0] == at


def _map_strings(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_map_strings(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _map_strings(item, change) for key, item in value.items()}
    return value


def _remove_marks(text: str, spans: list[Span], mark: str) -> tuple[str, list[Span], list[Span]]:
    """Return the text without marks, the moved spans, and the spans of typed special tokens."""
    if not mark or mark not in text:
        return text, spans, []
    marks = [index for index, char in enumerate(text) if char == mark]
    typed = [
        (start - 2 * pair, end - 2 * pair - 1)
        for pair, (start, end) in enumerate(zip(marks[::2], marks[1::2], strict=False))
    ]

    def move(position: int) -> int:
        return position - sum(index < position for index in marks)

    return text.replace(mark, ""), [(move(start), move(end)) for start, end in spans], typed


# -- files of a model folder ---------------------------------------------------------------


def training_template(source: str) -> str:
    """Return TRL's training template of the same family (trl/chat_templates/NAME.jinja and
    NAME_training.jinja), or the template itself if it marks the assistant's turns or has none."""
    trl = find_spec("trl")
    if MARKERS.search(source) or trl is None or trl.origin is None:
        return source
    folder = Path(trl.origin).parent / "chat_templates"
    for path in sorted(folder.glob("*_training.jinja")):
        plain = path.with_name(path.name.replace("_training", ""))
        if plain.exists() and plain.read_text(encoding="utf-8") == source:
            return path.read_text(encoding="utf-8")
    return source


def _source(folder: Path, config: dict[str, Any], given: str | Path | None) -> str:
    if given is not None and not Path(given).is_file():
        raise NotFoundError(f"There is no chat template {str(given)!r}.", hint="Check the path.")
    path = Path(given) if given is not None else folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    inline = config.get("chat_template")
    if isinstance(inline, list):  # named variants, in older files
        inline = {item["name"]: item["template"] for item in inline}.get("default")
    if isinstance(inline, str):
        return inline
    raise SpecError(
        f"The model folder {folder} has no chat template.",
        hint="Use the chat (instruct) version of the model, or --set chat_template=FILE.",
    )


def _tokenizer(path: Path) -> Tokenizer:
    # Imported here: only local models need it, and it costs 12 ms.
    from tokenizers import Tokenizer

    if not path.is_file():
        raise SpecError(
            f"There is no {path}.",
            hint="Is this a model folder? AutoTokenizer.from_pretrained(...).save_pretrained(...) "
            "writes the file for older models.",
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as exc:
        raise SpecError(
            f"{path} is not valid JSON: {exc}.", hint="Download the model again."
        ) from None
    return data if isinstance(data, dict) else {}


def _content(value: Any) -> str | None:
    """Return the text of a special token, written as text or as an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _stop_ids(folder: Path, special: dict[str, str], tokenizer: Tokenizer) -> frozenset[int]:
    declared = _json(folder / "generation_config.json").get("eos_token_id")
    declared = declared or _json(folder / "config.json").get("eos_token_id") or []
    ids = set(declared if isinstance(declared, list) else [declared])
    ids.add(tokenizer.token_to_id(special.get("eos_token", "")))
    return frozenset(ids - {None})
