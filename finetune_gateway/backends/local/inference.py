"""Chat with a local model, a base with or without an adapter, through the template it was trained
with. Imports torch."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import torch
from transformers import PreTrainedModel

from finetune_gateway.backend import ChatReply, HandleData
from finetune_gateway.backends.local import models, probe, shared_bases
from finetune_gateway.backends.local.answering import Answering, TextReader, answer_reader
from finetune_gateway.backends.local.batched import PendingAnswer, answer_all
from finetune_gateway.backends.local.likelihood import Answered, encoded, losses_of
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.sampling import Sampling, read_sampling
from finetune_gateway.backends.local.shared_bases import Adapter, LoadedBase
from finetune_gateway.chat import Conversation, parts_of, require_encodable
from finetune_gateway.errors import DataError, GatewayError, SpecError, shown
from finetune_gateway.events import Result
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.settings import config
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.model_folder import has_template, has_tokenizer
from finetune_gateway.tokens.template_answers import AnswerReader
from finetune_gateway.tokens.template_rows import messages_of
from finetune_gateway.tokens.text_tokenizer import TextTokenizer
from finetune_gateway.tokens.training_rows import conversations_of

PROBE_TOKENS = 32
PROMPT_END = 64  # tokens of a prompt that show whether it opens a block
GREEDY = 1e-5  # temperatures up to here leave the most likely token alone; smaller ones overflow
BEGINNING = 64  # characters of a text
MANY = 8  # times that a token occurs in a row in no good answer


class LocalModel:
    """A model in this process. Decodes greedily unless a temperature is given."""

    def __init__(
        self,
        model: PreTrainedModel | LoadedBase,
        source: ChatTemplate | TextTokenizer,
        adapter: Adapter | None = None,
    ) -> None:
        """``source``: the chat template; for a model without one, its tokenizer. ``adapter``: which
        one on a base that others use too."""
        self.base = model if isinstance(model, LoadedBase) else LoadedBase(model)
        self.source = source
        self.adapter = adapter
        with self.using():
            pass  # what is wrong with the adapter is said now

    @property
    def model(self) -> PreTrainedModel:
        """What it computes with, while it is used."""
        return self.base.model

    def using(self) -> AbstractContextManager[PreTrainedModel]:
        """Use the model in this block, with its adapter and no other."""
        return self.base.using(self.adapter)

    @classmethod
    def load(cls, handle: HandleData, settings: Settings) -> Self:
        """Load the base and adapter of a handle; a base that is in memory is used again. The handle
        names the base, never the adapter's own file; only safetensors are read."""
        folder = Path(handle.model)
        if not folder.is_dir():
            raise GatewayError(f"The model folder {folder} is gone.", hint="Run: ftg list")
        # Nothing here may hold the handle: that would keep the model in memory.
        require = partial(_require_as_saved, folder, settings) if handle.job_id else _nothing
        require()
        of_base = models.base_of(handle, settings, _quietly) if handle.kind == "adapter" else None
        # An adapter that a host has made may be its weights alone.
        words = folder if of_base is None or has_tokenizer(folder) else of_base
        template: ChatTemplate | TextTokenizer = (
            ChatTemplate.load(words, chat_template_kwargs=handle.chat_template_kwargs)
            if has_template(words)
            else TextTokenizer.load(words)
        )
        most = adapters_kept(settings)
        if of_base is None:
            return cls(shared_bases.shared(folder, None, most), template)
        # In 4 bits if it was trained in 4 bits: the adapter has learned to make up for their loss,
        # and there may be no memory for more. (A merge needs the full-precision base.)
        if not shared_bases.is_shareable(folder):
            return cls(shared_bases.alone(folder, of_base, handle.base_quantization), template)
        base = shared_bases.shared(of_base, handle.base_quantization, most)
        return cls(base, template, base.adapter(folder, require))

    @property
    def template(self) -> ChatTemplate:
        """Its chat template. Raises SpecError for a model without one."""
        if isinstance(self.source, ChatTemplate):
            return self.source
        raise SpecError(
            "This model has no chat template: it goes on with texts, and was not made for chats.",
            hint="Let it go on with one: handle.complete(TEXT), or ftg chat.",
        )

    @cached_property
    def texts(self) -> TextTokenizer:
        """What makes token ids of texts."""
        return TextTokenizer(self.source.files)

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        """Return one answer. ``max_tokens`` (512), ``temperature`` (0), ``top_p``, ``seed``,
        ``stop``, ``tools`` as in OpenAI's chat completions. Raises SpecError for other options, and
        for values that cannot be honoured."""
        return self._answer(*self._read(messages, sampling))

    def complete(self, text: str, **sampling: Any) -> ChatReply:
        """Return what goes on with a text; ``sampling`` as for ``chat``, without ``tools``."""
        return self._answer(*self._read_text(text, sampling))

    def _answer(self, ids: list[int], answering: Answering) -> ChatReply:
        self._write(self._pending(0, ids, answering))
        return answering.reply()

    def stream(
        self, messages: list[dict[str, Any]], **sampling: Any
    ) -> Generator[str, None, ChatReply]:
        """Yield the text of an answer in pieces, as it is generated, and return the whole."""
        return (yield from self._pieces(*self._read(messages, sampling)))

    def stream_completion(self, text: str, **sampling: Any) -> Generator[str, None, ChatReply]:
        """Yield what goes on with a text in pieces, and return the whole."""
        return (yield from self._pieces(*self._read_text(text, sampling)))

    def _pieces(self, ids: list[int], answering: Answering) -> Generator[str, None, ChatReply]:
        pending = self._pending(0, ids, answering)
        thread = threading.Thread(target=self._generate, args=(pending,), daemon=True)
        thread.start()
        try:
            while (piece := answering.pieces.get()) is not None:
                yield piece
        finally:
            answering.abandoned = True
            thread.join()
        if answering.error is not None:
            raise answering.error
        reply = answering.reply()
        if rest := answering.rest(reply.text):
            yield rest
        return reply

    def chat_many(
        self, conversations: Sequence[Conversation], **sampling: Any
    ) -> list[ChatReply | GatewayError]:
        """Return the answer to each conversation, as ``chat`` gives it, or the error why there is
        none: it is too long, or the template refuses it. Takes the sampling options of ``chat`` but
        ``tools``: each conversation has its own. With a ``seed``, each is drawn by it."""
        if "tools" in sampling:
            raise SpecError(
                "chat_many takes no tools for all conversations.",
                hint='Give each its own: {"messages": [...], "tools": [...]}.',
            )
        read_sampling(sampling)  # a value that cannot be honoured is no matter of one row
        found: list[ChatReply | GatewayError | None] = [None] * len(conversations)
        asked: list[PendingAnswer] = []
        for index, conversation in enumerate(conversations):
            messages, tools = parts_of(conversation)
            try:
                asked.append(self._asked(index, messages, {**sampling, "tools": tools}))
            except (SpecError, DataError) as exc:
                found[index] = exc
        if asked:
            answer_all(self.using, asked, self._options(asked[0].answering.sampling))
        for one in asked:
            found[one.index] = one.answering.reply().model_copy(update={"seconds": one.seconds})
        return [one for one in found if one is not None]

    def reference_losses(self, rows: Sequence[Mapping[str, Any]]) -> list[float | GatewayError]:
        """Return for each row, ``{"messages", "reference", "tools"}``, the loss of training on its
        reference alone, in nats per trained token, or the error why it has none."""
        found: list[float | GatewayError | None] = [None] * len(rows)
        answered: list[Answered] = []
        for index, row in enumerate(rows):
            try:
                answered.append(encoded(self.template, index, row, self._context))
            except (SpecError, DataError) as exc:
                found[index] = exc
        losses = losses_of(self.using, answered)
        return [one if one is not None else losses[index] for index, one in enumerate(found)]

    def _asked(
        self, index: int, messages: list[dict[str, Any]], given: dict[str, Any]
    ) -> PendingAnswer:
        return self._pending(index, *self._read(messages, given))

    def _pending(self, index: int, ids: list[int], answering: Answering) -> PendingAnswer:
        """Return what is asked with what it takes to answer it. Raises SpecError if there is no
        room."""
        seed = answering.sampling.seed
        generator = None if seed is None else torch.Generator(self.base.device).manual_seed(seed)
        most = min(answering.sampling.max_tokens, self._room(len(ids)))
        return PendingAnswer(index, ids, answering, most, generator)

    def _generate(self, asked: PendingAnswer) -> None:
        try:
            self._write(asked)
        except Exception as exc:  # raised where the pieces are read
            asked.answering.error = exc
        finally:
            asked.answering.pieces.put(None)

    def _write(self, asked: PendingAnswer) -> None:
        """Let the model write one answer."""
        options = self._options(asked.answering.sampling)
        if options["do_sample"] and asked.generator is not None:
            # generate draws as all of this process do, so that others would change the answer.
            answer_all(self.using, [asked], options)
            return
        with self.using() as model, torch.inference_mode():
            prompt = torch.tensor([asked.ids], device=model.device)
            model.generate(  # type: ignore[operator]  # typed as a tensor or a module
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=asked.most,
                stopping_criteria=[asked.answering],
                **options,
            )

    def _read(
        self, messages: list[dict[str, Any]], given: dict[str, Any]
    ) -> tuple[list[int], Answering]:
        """Return the ids of a prompt and what follows its answer."""
        sampling = read_sampling(given)
        messages, tools = messages_of({"messages": messages, "tools": sampling.tools})
        ids = self.template.prompt_ids(messages, tools)
        written = str(self.template.tokenizer.decode(ids[-PROMPT_END:], skip_special_tokens=False))
        return ids, Answering(self.reader, self.template, sampling, len(ids), written)

    def _read_text(self, text: str, given: dict[str, Any]) -> tuple[list[int], Answering]:
        """Return the ids of a text and what follows what goes on with it."""
        sampling = read_sampling(given)
        if sampling.tools:
            raise SpecError("A text has no tools.", hint="Leave tools out.")
        if not isinstance(text, str):
            raise SpecError(
                f"A model goes on with a text, not with {shown(text)}.",
                hint="For messages: handle.chat(...)",
            )
        require_encodable(text, "The text")
        ids = self.texts.prompt_ids(text)
        before = ids[-PROMPT_END:]
        reader = TextReader(self.texts.tokenizer, before)
        return ids, Answering(reader, self.texts, sampling, len(ids), "", before)

    def _options(self, sampling: Sampling) -> dict[str, Any]:
        """Return the arguments of ``generate`` that say which token is taken, and which ends."""
        options: dict[str, Any] = {
            "do_sample": sampling.temperature > GREEDY,
            "eos_token_id": sorted(self.source.stop_ids),
            "pad_token_id": min(self.source.stop_ids),
        }
        if sampling.temperature > GREEDY:
            # transformers would cut the choice to 50 tokens, which nobody asked for.
            wanted = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
            options |= wanted
        return options

    @cached_property
    def reader(self) -> AnswerReader:
        """What takes its answers apart."""
        return answer_reader(self.template)

    def _room(self, used: int) -> int:
        """Return how many tokens an answer may have. Raises SpecError if there is no room."""
        most = self._context
        if not most:
            return sys.maxsize
        if used >= most:
            raise SpecError(
                f"The conversation has {used:,} tokens; this model reads at most {most:,}.",
                hint="Ask something shorter, or begin a new conversation.",
            )
        return most - used

    @property
    def _context(self) -> int | None:
        most = getattr(self.model.config, "max_position_embeddings", None)
        return int(most) if most else None


def first_answer(run: Run, result: Result) -> ChatReply:
    """Load the saved model anew and return its answer to the prompt of a row, or what goes on with
    the beginning of a text."""
    handle = ModelHandle(
        kind=result.kind,
        model=result.model,
        base_model=run.spec.model,
        base_revision=result.base_revision,
        base_sha256=result.base_sha256,
        base_quantization=result.base_quantization,
        backend="local",
        system_prompt=run.file.system_prompt,
        chat_template_kwargs=result.chat_template_kwargs,
    )
    model = LocalModel.load(handle, run.settings)
    return model._answer(*_first_prompt(model, run))


def _first_prompt(model: LocalModel, run: Run) -> tuple[list[int], Answering]:
    """Return the prompt of the first row that can be asked, as ids and what follows its answer; a
    plain one if there is none. Raises DataError if the template refuses that too."""
    prompt_of = _prompt_of_text if run.spec.method == "pretrain" else _prompt_of_chat
    most = probe.limit_of(run, model.model.config)
    for row in probe.first_rows(run):
        with suppress(DataError, SpecError):
            ids, answering = prompt_of(model, row)
            if len(ids) < most:
                return ids, answering
    run.event("No prompt of the first rows can be asked: a plain one is.")
    if run.spec.method == "pretrain":
        return prompt_of(model, {"text": probe.PLAIN_TEXT})
    try:
        return prompt_of(model, probe.PLAIN)
    except DataError:
        return prompt_of(model, probe.PLAIN_WITH_TOOLS)


def _prompt_of_text(model: LocalModel, row: dict[str, Any]) -> tuple[list[int], Answering]:
    """Return the beginning of a text. Raises DataError for a row that has none."""
    text = row.get("text")
    if not isinstance(text, str) or not text:
        raise DataError("The row has no text.")
    return model._read_text(text[:BEGINNING], {"max_tokens": PROBE_TOKENS})


def _prompt_of_chat(model: LocalModel, row: dict[str, Any]) -> tuple[list[int], Answering]:
    """Return what stands before the first answer of a row; of a pair, of the preferred one. Raises
    DataError, SpecError for a row that cannot be asked."""
    conversation = next(iter(conversations_of(row)), row)
    messages, tools = messages_of(conversation)
    roles = [message.get("role") for message in messages]
    if "assistant" in roles:
        messages = messages[: roles.index("assistant")] or messages[:1]
    return model._read(messages, {"tools": tools, "max_tokens": PROBE_TOKENS})


def answer_warning(reply: ChatReply) -> list[str]:
    """Return what is wrong with an answer that a trained model hardly gives: none at all, or one
    token over and over. An empty list for any other."""
    text = reply.said.strip()
    if not text:
        return ["The first answer is empty."]
    piece = _repeated(text)
    times = -(-len(text) // len(piece)) if piece else 0
    # The token that ends the answer is counted too, and has no text.
    if times < MANY or times < reply.usage.completion_tokens - 1:
        return []
    return [f"The first answer is {piece.strip() or piece!r} over and over: the model is ruined."]


def _repeated(text: str) -> str:
    """Return the shortest piece of which a text is a repetition, the last of which may be cut off;
    an empty string if there is none."""
    lengths = range(1, len(text) // MANY + 1)
    return next((text[:n] for n in lengths if text[n:] == text[:-n]), "")


def adapters_kept(settings: Settings) -> int:
    """Return how many adapters stay on a base in memory."""
    return int(config.current_value(settings, "local.adapters_in_memory").amount or 1)


def _require_as_saved(folder: Path, settings: Settings) -> None:
    """Raise GatewayError unless the model of a job is as the gateway has saved it."""
    models.require_as_saved(folder, settings)


def _nothing() -> None:
    """Somebody else has saved it."""


def _quietly(message: str) -> None:
    logging.getLogger(__name__).info(message)
