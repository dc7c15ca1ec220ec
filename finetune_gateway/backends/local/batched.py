"""Answer many conversations at once, each as it would be answered alone. Imports torch.

Prompts are padded on the left, masked, and keep their own positions. A row that has ended leaves
the batch, so that short answers do not pay for long ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from transformers import PreTrainedModel

from finetune_gateway.backends.local.answering import Answering

AT_ONCE = {"cpu": 8, "cuda": 32}  # rows of a batch
# Positions of these depend on the longest row of a batch, beyond a length that they were made for.
ROPE_OF_BATCH = ("dynamic", "longrope")


@dataclass(eq=False)
class PendingAnswer:
    """One conversation of a batch."""

    index: int  # among all that were given
    ids: list[int]  # of its prompt
    answering: Answering
    most: int  # tokens that its answer may have
    generator: torch.Generator | None = None  # draws its tokens; None: as torch draws
    seconds: float = 0.0  # until it was answered

    @property
    def length(self) -> int:
        return len(self.ids) + self.most

    def take(self, token: int) -> bool:
        """Add a token to the answer; return True if that ends it."""
        self.answering.add([token])
        answering = self.answering
        return answering.ended or answering.abandoned or answering.tokens >= self.most

    def restart(self) -> None:
        """Begin again, with the same draws."""
        self.answering.restart()
        if self.generator is not None:
            self.generator.manual_seed(self.generator.initial_seed())


class Long(Protocol):
    """A row of a batch."""

    @property
    def ids(self) -> list[int]: ...

    @property
    def length(self) -> int:
        """Return how many tokens it may come to."""
        ...


R = TypeVar("R", bound=Long)
Using = Callable[[], AbstractContextManager[PreTrainedModel]]  # lets a block use the model


def answer_all(using: Using, asked: Sequence[PendingAnswer], options: dict[str, Any]) -> None:
    """Answer all rows; ``options``: of ``generate``."""
    began = time.perf_counter()
    run_in_batches(using, asked, lambda model, batch: _answer(model, batch, options, began))


def run_in_batches(
    using: Using, rows: Sequence[R], work: Callable[[PreTrainedModel, list[R]], None]
) -> None:
    """Work through all rows; those of like length go together, and others may use the model between
    two batches. A batch for which a GPU has no memory is halved."""
    with using() as model:
        at_once = AT_ONCE.get(model.device.type, AT_ONCE["cpu"])
        limit = _shared_limit(model)
    apart = [row for row in rows if limit and row.length > limit]
    shared = sorted((row for row in rows if row not in apart), key=lambda row: len(row.ids))
    batches = [shared[at : at + at_once] for at in range(0, len(shared), at_once)]
    for batch in (*([row] for row in apart), *batches):
        _within_memory(using, batch, work)


def _within_memory(
    using: Using, batch: list[R], work: Callable[[PreTrainedModel, list[R]], None]
) -> None:
    try:
        with using() as model:
            return work(model, batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(batch) // 2
    _within_memory(using, batch[:half], work)
    _within_memory(using, batch[half:], work)


def _shared_limit(model: PreTrainedModel) -> int | None:
    """Return the tokens up to which a row's positions do not depend on the others of its batch;
    None: they never do."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if rope.get("rope_type", rope.get("type")) not in ROPE_OF_BATCH:
        return None
    original = rope.get("original_max_position_embeddings")
    original = original or getattr(config, "original_max_position_embeddings", None)
    return int(original or config.max_position_embeddings)


def _answer(
    model: PreTrainedModel, batch: list[PendingAnswer], options: dict[str, Any], began: float
) -> None:
    for one in batch:
        one.restart()
    ids, mask = padded([one.ids for one in batch], model.device)
    with torch.inference_mode():
        model.generate(  # type: ignore[operator]  # typed as a tensor or a module
            ids,
            attention_mask=mask,
            max_new_tokens=max(one.most for one in batch),
            custom_generate=_decode,
            rows=batch,
            began=began,
            **options,
        )


def padded(rows: Sequence[list[int]], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the ids and the attention mask of rows that end together, both (rows, tokens).

    A row is padded with its own first token: what looks at all tokens of a row, such as a penalty
    for repeated ones, sees none that is not in it.
    """
    width = max(map(len, rows))
    ids = [[row[0]] * (width - len(row)) + row for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _decode(
    model: Any,
    input_ids: torch.Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    rows: list[PendingAnswer],
    began: float,
    **inputs: Any,
) -> torch.Tensor:
    """Write one token of each row after the other, until all rows have ended: the loop of
    ``generate``, which would carry rows along that have ended."""
    last: int | None = None  # tokens to read: at first all
    while True:
        given = model.prepare_inputs_for_generation(
            input_ids, next_sequence_length=last, is_first_iteration=last is None, **inputs
        )
        outputs = model(**given, return_dict=True)
        inputs = model._update_model_kwargs_for_generation(outputs, inputs)
        last = 1 if inputs.get("use_cache") else None
        scores = logits_processor(input_ids, outputs.logits[:, -1].float())
        del outputs
        tokens = _choose(scores, rows) if generation_config.do_sample else scores.argmax(-1)
        input_ids = torch.cat([input_ids, tokens[:, None]], dim=-1)
        ended = [row.take(token) for row, token in zip(rows, tokens.tolist(), strict=True)]
        if not any(ended):
            continue
        for row, ends in zip(rows, ended, strict=True):
            row.seconds = time.perf_counter() - began if ends else 0.0
        keep = [at for at, ends in enumerate(ended) if not ends]
        if not keep:
            return input_ids
        rows = [rows[at] for at in keep]
        chosen = torch.tensor(keep, device=input_ids.device)
        input_ids = input_ids[chosen]
        inputs = {name: _kept(value, chosen, len(ended)) for name, value in inputs.items()}


def _choose(scores: torch.Tensor, rows: list[PendingAnswer]) -> torch.Tensor:
    """Draw a token of each row, by its own generator: the same as if it was alone."""
    shares = torch.softmax(scores, dim=-1)
    drawn = [
        torch.multinomial(share[None], 1, generator=row.generator)
        for share, row in zip(shares, rows, strict=True)
    ]
    return torch.cat(drawn)[:, 0]


def _kept(value: Any, chosen: torch.Tensor, of: int) -> Any:
    """Return what a model is given, for the chosen rows alone."""
    if hasattr(value, "reorder_cache"):
        value.reorder_cache(chosen)  # batch_select_indices is not there for all kinds of layers
        return value
    if not isinstance(value, torch.Tensor) or value.dim() < 2:
        return value
    # Rows come first; positions of models that see pictures have three or four axes before them.
    return value.index_select(0 if value.shape[0] == of and value.dim() == 2 else -2, chosen)
