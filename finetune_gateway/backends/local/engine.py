"""Choose how a run computes, each thing by a rule that an event names and a setting can force.

Imports torch.

==================  =========================================================================
engine              ours (``fast``), unless this model's logits are more than ``scoring`` knows
bf16                on a GPU and on a CPU that multiplies in it; qlora on a CPU, and small
                    models, in fp32 (``estimation.engine.computes_in_bf16``)
attention           flash on a GPU where it is installed, else PyTorch's own
micro_batch         on a CPU one row: padding costs more than larger products gain. On a GPU what
                    fits of a batch (``estimation.memory.micro_batch_rows``), without padding where
                    the attention allows it. Fewer once memory has run out (``out_of_memory``)
threads             of a CPU: one for a small model, or while others use the cores
==================  =========================================================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from finetune_gateway.backends.local import lean, models, out_of_memory
from finetune_gateway.backends.local.encoding import EncodedRows
from finetune_gateway.backends.local.loading import Base, max_length_for
from finetune_gateway.backends.local.precision import (
    autocast,
    bf16_reason,
    gpu_has_bf16,
    usable_gpu_memory,
)
from finetune_gateway.backends.local.row_table import RowTable
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.scoring import Scorer
from finetune_gateway.backends.local.step_plan import StepPlan, plan_steps
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.batch_plan import (
    batch_of,
    depends_on_micro_batch,
    largest_divisor,
)
from finetune_gateway.estimation.engine import engine_of
from finetune_gateway.estimation.memory import Setup, least_rows, micro_batch_rows
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.spec import TrainingSpec

CHECKED_TOKENS = 256  # of the row with which our head is compared with the model's


@dataclass(frozen=True)
class Engine:
    """How a run computes."""

    name: str  # fast | trl
    micro_batch: int  # rows, or packs, per forward pass
    bf16: bool
    attention: str
    padding_free: bool
    threads: int | None  # None on a GPU
    warnings: tuple[str, ...] = ()  # to be told with the result

    @property
    def scorer(self) -> Scorer:
        return Scorer(padding_free=self.padding_free)

    def plan(
        self,
        spec: TrainingSpec,
        train: EncodedRows,
        held_out: EncodedRows | None,
        *,
        packs: int | None = None,
    ) -> StepPlan:
        """Return the steps of a run on these rows, or on so many packs of them."""
        return plan_steps(
            spec,
            len(train.rows) if packs is None else packs,
            rows=train.given,
            held_out=held_out.given if held_out else 0,
            engine=self.name,
            micro_batch=self.micro_batch,
        )

    def tell(self, run: Run, why: str = "") -> None:
        """Say it in an event; ``why``: what speaks against our own engine."""
        said = {"fast": "our own engine", "trl": "TRL's own step"}[self.name]
        rows = "one row" if self.micro_batch == 1 else f"{self.micro_batch} rows"
        parts = [
            f"{'bf16' if self.bf16 else 'fp32'} with {self.attention} attention",
            f"{rows} per forward pass{', without padding' if self.padding_free else ''}",
        ]
        if self.threads:
            parts.append("one thread" if self.threads == 1 else f"{self.threads} threads")
        text = f"Training uses {said}: {', '.join(parts)}."
        run.event(f"{text} Ours is not used: {why}." if why else text, data=asdict(self))


def choose(run: Run, base: Base, model: Any, rows: RowTable) -> Engine:
    """Return how a run computes, and tell it. ``rows``: as ``encode_rows`` gives them.

    Raises GatewayError if our engine was asked for and cannot score this model.
    """
    spec, on_gpu = run.spec, torch.cuda.is_available()
    attention = base.model.config._attn_implementation or "eager"
    padding_free = on_gpu and attention.startswith("flash")
    name, why = engine_of(spec), ""
    if name == "fast":
        why = _refusal(base, model, rows[0][_columns(rows)[0]])
        name = "trl" if why else "fast"
    if why and spec.engine == "fast":
        raise GatewayError(
            f"This model cannot be trained with engine=fast: {why}.",
            hint="Leave engine out, or set it to trl.",
        )
    shape = models.shape_in(base.folder)
    setup = replace(Setup.of(spec, "gpu" if on_gpu else "cpu", shape), engine=name, bf16=base.bf16)
    longest = _longest(run, base, rows) if on_gpu else 1
    micro_batch = _micro_batch(run, setup, shape, longest)
    if name == "fast" and not on_gpu and micro_batch == 1:
        lean.slim(model, bf16=base.bf16, recompute=spec.gradient_checkpointing is not True)
    engine = Engine(
        name=name,
        micro_batch=micro_batch,
        bf16=base.bf16,
        attention=attention,
        padding_free=padding_free and name == "fast",
        threads=None if on_gpu else torch.get_num_threads(),
    )
    engine.tell(run, why)
    if spec.training_type != "full" or not on_gpu or model.dtype != torch.float32:
        return engine
    return replace(engine, warnings=_fit_weights(run, model, setup, shape, micro_batch, longest))


def _columns(rows: RowTable) -> list[str]:
    """Return the columns with the token ids of a row."""
    return [
        name for name in ("input_ids", "chosen_ids", "rejected_ids") if name in rows.column_names
    ]


def _longest(run: Run, base: Base, rows: RowTable) -> int:
    """Return the tokens of the longest sequence, or pack."""
    if run.spec.packing:
        return max_length_for(run, base.model)
    return max(rows.longest(column) for column in _columns(rows))


def _micro_batch(run: Run, setup: Setup, shape: ModelShape, longest: int) -> int:
    """Return how many rows, or packs, pass through the model at once, as ``ftg estimate`` computes
    it: fewer than that once memory has run out."""
    usable = usable_gpu_memory() if setup.device == "gpu" else None
    wanted = micro_batch_rows(run.spec, shape, setup, longest, usable)
    wanted = largest_divisor(batch_of(run.spec), wanted)
    if depends_on_micro_batch(run.spec, setup.engine):
        return wanted
    return out_of_memory.micro_batch(run.folder, wanted)


def _fit_weights(
    run: Run, model: Any, setup: Setup, shape: ModelShape, rows: int, longest: int
) -> tuple[str, ...]:
    """Hold the weights of full fine-tuning in bf16 if the GPU has no memory for fp32; return the
    warning about it. They were read in fp32: it is less than half of a step's."""
    fewest = min(rows, least_rows(run.spec))
    reason = bf16_reason(shape, setup, fewest, longest, usable_gpu_memory())
    if not reason or not gpu_has_bf16():
        return ()
    model.to(torch.bfloat16)
    run.event(reason, level="warn")
    return (reason,)


def _refusal(base: Base, model: Any, ids: Sequence[int]) -> str:
    """Return why our head cannot train this model: all tokens of a row's start are scored by both.
    Empty if it can."""
    start = list(ids[:CHECKED_TOKENS])
    with autocast(model.device, enabled=base.bf16):
        return Scorer().refusal(model, [(start, start)])
