"""A local model's own rendering of a conversation: token ids, and which of them are trained.

One function, ``ChatTemplate.encode``, serves training, counting, previews and the mask tests;
``prompt_ids`` serves chat. Reads tokenizer.json and the template from the model's folder with
``tokenizers`` and ``jinja2``: no torch, no transformers (``AutoTokenizer`` takes 2 s to import).
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
from finetune_gateway.tokens.jinja_sandbox import Span, compiled

if TYPE_CHECKING:
    from tokenizers import Tokenizer

IGNORED = -100  # the label PyTorch's cross entropy leaves out
MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
PRIVATE_USE = range(0xF000, 0xF8FF)  # characters that mean nothing: our marks around typed tokens

Message = dict[str, Any]


@dataclass(frozen=True)
class Encoded:
    """One row as the model sees it. ``labels[i]`` is ``input_ids[i]`` where the token is trained,
    -100 where it is not."""

    input_ids: list[int]
    labels: list[int]
    length: int  # tokens before truncation
    text: str = ""  # as the template renders it
    starts: list[int] = field(default_factory=list)  # the character each token begins at

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
        self._tracker, self._render = compiled(source)
        added = tokenizer.get_added_tokens_decoder().values()
        self._typed = [token.content for token in added if token.special]

    @classmethod
    def load(cls, folder: str | Path, chat_template: str | Path | None = None) -> ChatTemplate:
        """The template of a model folder, or the one in the file ``chat_template``.

        A template without generation markers is replaced by TRL's training template of the
        same family where there is one. Raises NotFoundError, SpecError.
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
        return cls(tokenizer, trainable(source), special, stops)

    @property
    def sha256(self) -> str:
        """Names the template a model was trained with."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    def check(self) -> None:
        """Raise SpecError unless the template marks what the assistant says and an answer's
        stop token is trained: a model that never learns to stop talks for ever."""
        if not MARKERS.search(self.source):
            raise SpecError(
                "The model's chat template does not mark the assistant's turns.",
                hint="Give one with {% generation %} markers: --set chat_template=FILE.",
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
        """A training row as token ids and labels, cut at the end after ``max_length`` tokens.

        Trained is what the assistant says and the token that ends it, in turns whose ``weight``
        is not 0. Raises DataError when the template refuses the row or does not mark it.
        """
        messages, tools = messages_of(row)
        text, spans, typed = self._rendered(messages, tools, answer=False)
        wanted = _wanted(messages, spans, train_on)
        cuts = sorted({edge for span in spans for edge in span})
        ids, starts = self._ids(text, typed, cuts)
        everything = train_on == "all"
        labels = list(ids) if everything else [IGNORED] * len(ids)
        for span in spans:
            if (span in wanted) is not everything:
                own = slice(*(bisect_left(starts, edge) for edge in span))
                labels[own] = ids[own] if span in wanted else [IGNORED] * len(ids[own])
        return Encoded(ids[:max_length], labels[:max_length], len(ids), text, starts[:max_length])

    def prompt_ids(
        self, messages: list[Message], tools: list[dict[str, Any]] | None = None
    ) -> list[int]:
        """The ids a model is asked with: the conversation and the opening of an answer."""
        text, _, typed = self._rendered(messages, tools, answer=True)
        return self._ids(text, typed, [])[0]

    def text(self, messages: list[Message], tools: list[dict[str, Any]] | None = None) -> str:
        """A whole conversation as the template writes it."""
        return self._rendered(messages, tools, answer=False)[0]

    def decode(self, ids: list[int]) -> str:
        """Text of an answer, without special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def _rendered(
        self, messages: list[Message], tools: list[dict[str, Any]] | None, *, answer: bool
    ) -> tuple[str, list[Span], list[Span]]:
        """The text, the spans the assistant says, and the spans of special tokens that
        somebody typed, which must stay text."""
        plain = [for_template(message) for message in messages]
        plain, tools, mark = self._marked(plain, tools)
        blocks: list[str] = []
        spans: list[Span] = []
        try:
            with self._tracker(blocks, spans):
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
                hint="Change the row, or give another template: --set chat_template=FILE.",
            ) from None
        return _unmarked("".join(blocks), _joined(spans), mark)

    def _marked(
        self, messages: list[Message], tools: list[dict[str, Any]] | None
    ) -> tuple[list[Message], list[dict[str, Any]] | None, str]:
        """Put a mark before and after every special token typed in the data."""
        raw = json.dumps([messages, tools], ensure_ascii=False)
        if not any(token in raw for token in self._typed):
            return messages, tools, ""
        mark = next(chr(code) for code in PRIVATE_USE if chr(code) not in raw)
        pattern = re.compile("|".join(re.escape(token) for token in self._typed))

        def marked(text: str) -> str:
            return pattern.sub(lambda match: f"{mark}{match.group()}{mark}", text)

        return _each_string(messages, marked), tools and _each_string(tools, marked), mark

    def _ids(self, text: str, typed: list[Span], cuts: list[int]) -> tuple[list[int], list[int]]:
        """Token ids and the character each begins at.

        Encoded in one go, as any server would, unless a token reaches over the beginning of an
        answer (at inference the answer begins a new token there) or special tokens were typed.
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
        """Special tokens are encoded as the text they look like."""
        self.tokenizer.encode_special_tokens = typed
        try:
            yield
        finally:
            self.tokenizer.encode_special_tokens = False


def row_limit(asked: int | None, context: int | None) -> int:
    """Tokens per row: what was asked, else the model's context but at most 2048, beyond which
    memory surprises (LLaMA-Factory's cutoff_len)."""
    return min(asked or 2048, context or 2048)


# -- rows to messages --------------------------------------------------------------------


def messages_of(row: dict[str, Any]) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """The conversation and tools of a chat or prompt/completion row. Raises DataError."""
    if isinstance(row.get("messages"), list):
        return row["messages"], row.get("tools") or None
    if isinstance(row.get("prompt"), str) and isinstance(row.get("completion"), str):
        asked = {"role": "user", "content": row["prompt"]}
        return [asked, {"role": "assistant", "content": row["completion"]}], None
    raise DataError(
        f"A row with the keys {sorted(row)[:8]} is no conversation.", hint="Run: ftg validate FILE"
    )


def for_template(message: Message) -> Message:
    """A message as Hugging Face templates expect it.

    Arguments of tool calls become objects (OpenAI sends a JSON string, which templates would
    encode once more); developer becomes system; text parts become one string; keys that are
    null are left out, as transformers does.
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
        # "" is how some hosts write "no arguments".
        function["arguments"] = json.loads(arguments) if arguments.strip() else {}
    return {**call, "function": function}


def _wanted(messages: list[Message], spans: list[Span], train_on: TrainOn) -> list[Span]:
    """The spans to train: one per assistant turn, those of weight 0 left out."""
    turns = [message for message in messages if message.get("role") == "assistant"]
    if len(turns) != len(spans):
        raise DataError(
            f"The chat template marks {len(spans)} of {len(turns)} assistant turns.",
            hint="Give a template with {% generation %} around each: --set chat_template=FILE.",
        )
    pairs = [(turn, span) for turn, span in zip(turns, spans, strict=True)]
    if train_on == "last_assistant":
        pairs = pairs[-1:]
    return [span for turn, span in pairs if turn.get("weight") != 0]


def _joined(spans: list[Span]) -> list[Span]:
    """Spans that touch are one turn: some templates mark the text and its end apart."""
    joined: list[Span] = []
    for start, end in spans:
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        elif end > start:
            joined.append((start, end))
    return joined


def _inside(position: int, spans: list[Span]) -> bool:
    return any(start <= position < end for start, end in spans)


def _begins(offsets: list[Span], at: int) -> bool:
    """Whether a token, one with a character in it, begins there."""
    # A span of (at, at) sorts before (at, end): the first from (at, at + 1) on is the one.
    place = bisect_left(offsets, (at, at + 1))
    return place < len(offsets) and offsets[place][0] == at


def _each_string(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_string(item, change) for item in value]
    if isinstance(value, dict):
        return {key: _each_string(item, change) for key, item in value.items()}
    return value


def _unmarked(text: str, spans: list[Span], mark: str) -> tuple[str, list[Span], list[Span]]:
    """Take the marks out again; spans move with the text."""
    if not mark or mark not in text:
        return text, spans, []
    at = [index for index, char in enumerate(text) if char == mark]
    typed = [
        (start - 2 * pair, end - 2 * pair - 1)
        for pair, (start, end) in enumerate(zip(at[::2], at[1::2], strict=False))
    ]

    def moved(position: int) -> int:
        return position - sum(index < position for index in at)

    return text.replace(mark, ""), [(moved(start), moved(end)) for start, end in spans], typed


# -- files of a model folder ---------------------------------------------------------------


def trainable(source: str) -> str:
    """The template itself when it marks the assistant's turns, else TRL's training template of
    the same family (trl/chat_templates/NAME.jinja and NAME_training.jinja), else itself."""
    found = find_spec("trl")
    if MARKERS.search(source) or found is None or found.origin is None:
        return source
    folder = Path(found.origin).parent / "chat_templates"
    for path in sorted(folder.glob("*_training.jinja")):
        plain = path.with_name(path.name.replace("_training", ""))
        if plain.exists() and plain.read_text(encoding="utf-8") == source:
            return path.read_text(encoding="utf-8")
    return source


def _source(folder: Path, config: dict[str, Any], given: str | Path | None) -> str:
    if given is not None and not Path(given).is_file():
        raise NotFoundError(f"There is no chat template {str(given)!r}.", hint="Check the path.")
    beside = Path(given) if given is not None else folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    inline = config.get("chat_template")
    if isinstance(inline, list):  # named variants, as older files have them
        inline = {item["name"]: item["template"] for item in inline}.get("default")
    if isinstance(inline, str):
        return inline
    raise SpecError(
        f"The model folder {folder} has no chat template.",
        hint="Choose the chat (instruct) version of the model, or --set chat_template=FILE.",
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
            f"{path} is not valid JSON: {exc}.", hint="Fetch the model again."
        ) from None
    return data if isinstance(data, dict) else {}


def _content(value: Any) -> str | None:
    """A special token is written as text or as an object with ``content``."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _stop_ids(folder: Path, special: dict[str, str], tokenizer: Tokenizer) -> frozenset[int]:
    declared = _json(folder / "generation_config.json").get("eos_token_id")
    declared = declared or _json(folder / "config.json").get("eos_token_id") or []
    ids = set(declared if isinstance(declared, list) else [declared])
    ids.add(tokenizer.token_to_id(special.get("eos_token", "")))
    return frozenset(ids - {None})
