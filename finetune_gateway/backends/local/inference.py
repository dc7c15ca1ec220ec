"""Chat with a local model, a base with or without an adapter, through the template it was trained
with. Imports torch."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Generator
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from finetune_gateway.backend import ChatReply, HandleData
from finetune_gateway.backends.local import models
from finetune_gateway.backends.local.answering import Answering, answer_reader
from finetune_gateway.backends.local.loading import load_model
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.sampling import read_sampling
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.events import Result
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.template_answers import AnswerReader
from finetune_gateway.tokens.template_rows import messages_of

PROBE_TOKENS = 32
PROMPT_END = 64  # tokens of a prompt that show whether it opens a block
GREEDY = 1e-5  # temperatures up to here leave the most likely token alone; smaller ones overflow
MANY = 8  # times that a token occurs in a row in no good answer


class LocalModel:
    """A model in this process. Decodes greedily unless a temperature is given."""

    def __init__(self, model: PreTrainedModel, template: ChatTemplate) -> None:
        self.model = model.eval()
        self.template = template

    @classmethod
    def load(cls, handle: HandleData, settings: Settings) -> Self:
        """Load the base and adapter of a handle. The handle names the base, never the adapter's own
        file; only safetensors are read."""
        folder = Path(handle.model)
        if not folder.is_dir():
            raise GatewayError(f"The model folder {folder} is gone.", hint="Run: ftg list")
        template = ChatTemplate.load(folder, chat_template_kwargs=handle.chat_template_kwargs)
        if handle.kind == "adapter":
            # In 4 bits if it was trained in 4 bits: the adapter has learned to make up for their
            # loss, and there may be no memory for more. (A merge needs the full-precision base.)
            base = load_model(models.base_of(handle, settings, _quietly), handle.base_quantization)
            with warnings.catch_warnings():
                # peft 0.21 reads a property that transformers 5.23 has renamed.
                warnings.simplefilter("ignore", FutureWarning)
                adapted = PeftModel.from_pretrained(base, str(folder), use_safetensors=True)
            return cls(cast(PreTrainedModel, adapted), template)
        return cls(load_model(folder), template)

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        """Return one answer. ``max_tokens`` (512), ``temperature`` (0), ``top_p``, ``seed``,
        ``stop``, ``tools`` as in OpenAI's chat completions. Raises SpecError for other options, and
        for values that cannot be honoured."""
        prompt, options, answering = self._prepare(messages, sampling)
        with torch.inference_mode():
            self.model.generate(prompt, **options)
        return answering.reply()

    def stream(
        self, messages: list[dict[str, Any]], **sampling: Any
    ) -> Generator[str, None, ChatReply]:
        """Yield the text of an answer in pieces, as it is generated, and return the whole."""
        prompt, options, answering = self._prepare(messages, sampling)
        thread = threading.Thread(
            target=self._generate, args=(prompt, options, answering), daemon=True
        )
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

    def _generate(
        self, prompt: torch.Tensor, options: dict[str, Any], answering: Answering
    ) -> None:
        try:
            with torch.inference_mode():
                self.model.generate(prompt, **options)
        except Exception as exc:  # raised where the pieces are read
            answering.error = exc
        finally:
            answering.pieces.put(None)

    def _prepare(
        self, messages: list[dict[str, Any]], given: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, Any], Answering]:
        """Return the prompt's ids (1, n), the arguments of ``generate``, and what follows it."""
        sampling = read_sampling(given)
        messages, tools = messages_of({"messages": messages, "tools": sampling.tools})
        ids = self.template.prompt_ids(messages, tools)
        prompt = torch.tensor([ids], device=self.model.device)
        if sampling.seed is not None:
            torch.manual_seed(sampling.seed)
        written = str(self.template.tokenizer.decode(ids[-PROMPT_END:], skip_special_tokens=False))
        answering = Answering(self.reader, self.template, sampling, len(ids), written)
        options: dict[str, Any] = {
            "attention_mask": torch.ones_like(prompt),
            "max_new_tokens": min(sampling.max_tokens, self._room(len(ids))),
            "do_sample": sampling.temperature > GREEDY,
            "eos_token_id": sorted(self.template.stop_ids),
            "pad_token_id": min(self.template.stop_ids),
            "stopping_criteria": [answering],
        }
        if sampling.temperature > GREEDY:
            # transformers would cut the choice to 50 tokens, which nobody asked for.
            wanted = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
            options |= wanted
        return prompt, options, answering

    @cached_property
    def reader(self) -> AnswerReader:
        """What takes its answers apart."""
        return answer_reader(self.template)

    def _room(self, used: int) -> int:
        """Return how many tokens an answer may have. Raises SpecError if there is no room."""
        most = getattr(self.model.config, "max_position_embeddings", None)
        if not most:
            return sys.maxsize
        if used >= most:
            raise SpecError(
                f"The conversation has {used:,} tokens; this model reads at most {most:,}.",
                hint="Ask something shorter, or begin a new conversation.",
            )
        return int(most) - used


def first_answer(run: Run, result: Result) -> ChatReply:
    """Load the saved model anew and return its answer to the prompt of the first row."""
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
    messages, tools = messages_of(next(run.train.rows()).data)
    answers = [i for i, message in enumerate(messages) if message.get("role") == "assistant"]
    model = LocalModel.load(handle, run.settings)
    return model.chat(messages[: answers[0]] or messages[:1], tools=tools, max_tokens=PROBE_TOKENS)


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


def _quietly(message: str) -> None:
    logging.getLogger(__name__).info(message)
