"""The peak memory of a training step by part, from the numbers in a model's ``config.json``.

What a decoder block keeps for the backward pass is counted tensor by tensor, within 3 % of the
bytes that autograd saved for Llama and Qwen3 models of 2 to 100 million parameters
(docs/memory.md). The rest is measured on a CPU; figures for GPUs are not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from finetune_gateway.estimation.estimate import MemoryParts
from finetune_gateway.estimation.model_shape import QK_NORM, ModelShape, lora_parameters
from finetune_gateway.methods import METHODS
from finetune_gateway.spec import TrainingSpec

Device = Literal["cpu", "gpu"]
Optimizer = Literal["adamw", "adamw_8bit"]

# Python with torch, transformers, peft and trl imported, before any model: 459 MB measured (torch
# 2.13 for CPUs), 49 MB more with bitsandbytes, 40 MB more after a trainer's first step.
IMPORTED, BITSANDBYTES, STARTED = 460_000_000, 49_000_000, 40_000_000
# CUDA context and libraries (a figure of unsloth's estimator; not measured here).
CUDA_OVERHEAD = 1_400_000_000

# Freed blocks below 32 MB stay with the process (glibc's heap): a layer's temporaries leave holes
# of 3.5 times what the layer saves (1 to 4 measured), 1.5 times with checkpointing. On a GPU one
# layer is assumed (not measured).
HOLES, HOLES_CHECKPOINTING, HOLES_GPU = 3.5, 1.5, 1.0
# Full fine-tuning on a GPU keeps float32 weights, of which autocast makes bfloat16 copies for a
# step: 6 bytes a weight, 4 of its gradient and 8 of Adam's moments, 18 in all. So counts Hugging
# Face (docs/transformers/model_memory_anatomy), and LLaMA-Factory's table (18 GB a billion).
AUTOCAST_COPY = 2
# bfloat16 under autocast saves 28.0 of the 40.5 kB of float32 per token and layer (measured).
AUTOCAST = 28.0 / 40.5
# TRL computes the logits in tiles of 4,096 tokens x 32,768 entries (kernels/chunked_logprob.py).
# Without Triton 8.25 of them live at once in the backward pass (slope of the peak over tiles of 14
# to 125 MB, measured); with it one is reused, and two are assumed.
TILE_TOKENS, TILE_VOCABULARY = 4_096, 32_768
TILES: dict[Device, float] = {"cpu": 8.25, "gpu": 2.0}
# NF4 with double quantisation: half a byte a weight, a byte for the scale of 64, and float32 for
# the scale of 256 scales (the QLoRA paper has 0.127 bits for both together, 0.0159 bytes).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# Matrices are dequantised for each multiplication, and their outputs copied. This leaves in the
# heap the matrices of one layer several times, except those too large for glibc's heap, and with
# checkpointing some layers of activations more (fitted to the peaks of QLoRA and LoRA on models of
# 2 to 98 million parameters).
DEQUANTISED, IN_HEAP, COPIES_CHECKPOINTING = 7, 32 << 20, 1.5


@dataclass(frozen=True)
class Setup:
    """How a backend trains: the spec, with what it leaves open decided for a device."""

    device: Device = "cpu"
    kind: Literal["lora", "qlora", "full"] = "lora"
    r: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    checkpointing: bool = False
    accumulated: bool = False  # gradients accumulate over several batches
    flat: bool = False  # packs: no padding, but a mask
    paired: bool = False
    optimizer: Optimizer = "adamw"
    imported: int = IMPORTED
    float32: bool = True  # weights that are trained whole; else bfloat16, for lack of memory

    @classmethod
    def of(cls, spec: TrainingSpec, device: Device, imported: int | None = None) -> Setup:
        """Return how the local backend trains: float32 on a CPU; on a GPU bfloat16 under autocast
        and with checkpointing unless the spec says otherwise; what is trained is in float32."""
        checkpointing = spec.gradient_checkpointing
        return cls(
            device=device,
            kind=spec.training_type or "lora",
            r=spec.lora_r,
            targets=spec.target_modules,
            checkpointing=device == "gpu" if checkpointing == "auto" else checkpointing,
            accumulated=spec.gradient_accumulation_steps > 1,
            flat=spec.packing,
            paired=METHODS[spec.method].sequences > 1,
            imported=IMPORTED if imported is None else imported,
        )

    @property
    def width(self) -> int:
        """Return the bytes of a weight outside the adapters."""
        return 4 if self.kind == "full" and self.float32 else self.computed

    @property
    def computed(self) -> int:
        """Return the bytes of a number that a layer computes."""
        return 4 if self.device == "cpu" else 2


def float32_or_bfloat16(
    shape: ModelShape, setup: Setup, rows: int, length: int, usable: int | None
) -> Setup:
    """Return the setup, for full fine-tuning on a GPU with bfloat16 weights if a step with float32
    weights needs more than the ``usable`` bytes; None if they are not known."""
    if setup.device == "cpu" or setup.kind != "full" or usable is None:
        return setup
    fits = step_memory(shape, setup, rows, length).total <= usable
    return setup if fits else replace(setup, float32=False)


def step_memory(shape: ModelShape, setup: Setup, rows: int, length: int) -> MemoryParts:
    """Return the parts at the worst moment: in the backward pass of the head, with all activations;
    after that of the blocks, with all gradients; or while a base is read to be quantised."""
    padded_tokens = rows * length * (2 if setup.paired else 1)
    full = setup.kind == "full"
    adapters = 0 if full else lora_parameters(shape, setup.r, setup.targets)
    trained = shape.parameters if full else adapters
    grown = setup.width if full else 4
    gradients = grown * trained
    head_gradient = setup.width * shape.vocab_size * shape.hidden_size if full else 0
    layer = saved_bytes(shape, setup, rows, length)
    held = layer * shape.layers
    if setup.checkpointing:  # the inputs of all layers, and one layer recomputed
        held = setup.computed * shape.hidden_size * padded_tokens * shape.layers + layer
    tile = min(padded_tokens, TILE_TOKENS) * min(shape.vocab_size, TILE_VOCABULARY) * setup.computed
    logits = int(TILES[setup.device] * tile)
    early = gradients if setup.accumulated else min(gradients, head_gradient)
    at_head, at_end = (held, logits, early), (layer, 0, gradients)
    activations, tiles, grads = max(at_head, at_end, key=sum)
    holes = int(_holes(setup) * layer) + _dequantised(shape, setup)
    step = MemoryParts(
        weights=_weights(shape, setup),
        adapters=grown * adapters,
        gradients=grads,
        optimizer=_moments(setup) * trained,
        activations=activations,
        logits=tiles,
        overhead=holes + _process_memory(setup),
    )
    return max(step, _reading(shape, setup), key=lambda parts: parts.total)


def _process_memory(setup: Setup) -> int:
    """Return the memory of a process apart from its model and its work."""
    if setup.device == "gpu":
        return CUDA_OVERHEAD
    return setup.imported + STARTED + (BITSANDBYTES if setup.kind == "qlora" else 0)


def _reading(shape: ModelShape, setup: Setup) -> MemoryParts:
    """Return the parts while a base is quantised: its whole file is mapped into memory and counts
    as resident, though the system could drop it. Not on a GPU, which sees one matrix at a time."""
    read = setup.device == "cpu" and setup.kind == "qlora"
    file = shape.stored_bytes * shape.parameters if read else 0
    none = {"adapters": 0, "gradients": 0, "optimizer": 0, "activations": 0, "logits": 0}
    return MemoryParts(
        weights=_weights(shape, setup) + file, overhead=_process_memory(setup), **none
    )


def _holes(setup: Setup) -> float:
    if setup.device == "gpu":
        return HOLES_GPU
    if not setup.checkpointing:
        return HOLES
    return HOLES_CHECKPOINTING + (COPIES_CHECKPOINTING if setup.kind == "qlora" else 0)


def _moments(setup: Setup) -> int:
    """Return the bytes of Adam's two moments per trained weight."""
    if setup.optimizer == "adamw_8bit":
        return 2
    return 2 * (setup.width if setup.kind == "full" else 4)


def _weights(shape: ModelShape, setup: Setup) -> int:
    if setup.kind != "qlora":
        copied = AUTOCAST_COPY if setup.width > setup.computed else 0
        return (setup.width + copied) * shape.parameters
    # The embedding, the head and the norms are not quantised.
    others = shape.parameters - shape.linear_parameters
    return int(NF4_BYTES * shape.linear_parameters) + setup.width * others


def _dequantised(shape: ModelShape, setup: Setup) -> int:
    if setup.kind != "qlora":
        return 0
    sizes = [setup.width * inputs * outputs for inputs, outputs in shape.linears.values()]
    if setup.device == "gpu":
        return max(sizes)
    return max(max(sizes), DEQUANTISED * sum(size for size in sizes if size < IN_HEAP))


def saved_bytes(shape: ModelShape, setup: Setup, rows: int, length: int) -> int:
    """Return the bytes one layer saves for its backward pass."""
    masked = setup.device == "cpu" and (rows > 1 or setup.flat)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, full = shape.hidden_size, setup.kind == "full"
    # Two norms' inputs and outputs, q, k, v, the attention's output, four of the MLP's.
    numbers = 4 * hidden + 2 * queries + 2 * keys
    numbers += 4 * shape.intermediate_size * shape.active_experts + shape.heads + 2
    if masked:  # with a mask, keys and values are copied for each query head
        numbers += 2 * (queries - keys)
    if shape.model_type in QK_NORM:
        numbers += queries + keys
    if full:  # a trained norm saves its normed input too
        numbers += 2 * hidden + (queries + keys if shape.model_type in QK_NORM else 0)
    else:
        numbers += len(shape.linears) * setup.r
    flat = rows * length
    padded_tokens = flat * (2 if setup.paired else 1)
    each = 4 * numbers * (AUTOCAST if setup.device == "gpu" else 1.0)
    if masked:  # converted to float32 in each layer; a flat batch is one long row
        each += 4 * (flat if setup.flat else length)
    return int(each * padded_tokens)
