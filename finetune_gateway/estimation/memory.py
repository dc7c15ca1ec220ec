"""The peak memory of a training step by part, from the numbers in a model's ``config.json``.

What a decoder block keeps for the backward pass is counted tensor by tensor, within 3 % of the
bytes that autograd saved for Llama and Qwen3 models of 2 to 100 million parameters
(docs/memory.md). The rest is measured on a CPU; figures for GPUs are not measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from finetune_gateway.estimation.batch_plan import (
    batch_of,
    batch_rows,
    needs_whole_batch,
)
from finetune_gateway.estimation.engine import (
    BITSANDBYTES,
    TRL,
    Device,
    computes_in_bf16,
    engine_of,
    packages_of,
)
from finetune_gateway.estimation.estimate import MemoryParts
from finetune_gateway.estimation.model_shape import (
    QK_NORM,
    ModelShape,
    adapted_outputs,
    expert_copies,
    lora_parameters,
    saved_parameters,
)
from finetune_gateway.methods import METHODS
from finetune_gateway.spec import TrainingSpec

# Python with torch, transformers and peft imported, before any model: 418 MB measured (torch 2.13
# for CPUs), 55 MB more with the datasets of TRL, 49 MB more with bitsandbytes, 50 MB more once rows
# and a trainer are there.
IMPORTED, STARTED = 420_000_000, 50_000_000
IMPORTED_MORE = {TRL: 55_000_000, BITSANDBYTES: 49_000_000}
# CUDA context and libraries (a figure of unsloth's estimator; not measured here).
CUDA_OVERHEAD = 1_400_000_000

# Freed blocks below 32 MB stay with the process (glibc's heap): a layer's temporaries leave holes
# of 3.5 times what the layer saves (1 to 4 measured), 1.5 times with checkpointing. With rows one
# by one, each of another length, the holes of some do not fit the next: 7 and 6 times (5 to 9
# measured), of one row, which is less in all. Where all weights are trained 2.5 times. On a GPU one
# layer is assumed (not measured).
HOLES, HOLES_CHECKPOINTING, HOLES_GPU = 3.5, 1.5, 1.0
HOLES_OF_ROWS, HOLES_OF_ROWS_CHECKPOINTING, HOLES_FULL = 7.0, 6.2, 2.5
# Our engine on a CPU keeps less (``_lean_bytes``), and what it makes again, in fp32, leaves
# the holes of rows of each sequence; where all weights are trained those of 5 layers.
HOLES_LEAN_FULL = 5.0
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


# Our engine takes logits of so many positions at once (head.py: CPU_BLOCK, GPU_BLOCK): logits,
# their powers, and copies of both, 16 bytes a logit (12 to 24 measured).
BLOCK: dict[Device, int] = {"cpu": 128, "gpu": 512}
LOGIT_BYTES = 16
# TRL's ORPO keeps the logits of all positions, and what it makes of them: 6 times as much as the
# logits themselves (measured on a model of 13 million parameters).
KEPT_LOGITS = 6.0
# Bytes of what optimizers keep of a trained weight; others keep Adam's two moments in fp32.
# Adafactor keeps sums over rows and columns, which are next to nothing, and makes two matrices as
# large as the largest one in each step.
STATES = {
    **dict.fromkeys(("adamw_8bit", "adamw_bnb_8bit", "paged_adamw_8bit"), 2),
    **dict.fromkeys(("adagrad", "rmsprop", "lion_32bit", "paged_lion_32bit"), 4),
    **dict.fromkeys(("lion_8bit", "paged_lion_8bit", "rmsprop_bnb", "rmsprop_bnb_8bit"), 1),
    **dict.fromkeys(("ademamix_8bit", "paged_ademamix_8bit"), 3),
    **dict.fromkeys(("ademamix", "paged_ademamix_32bit"), 12),
    **dict.fromkeys(("sgd", "adafactor"), 0),
    "rmsprop_bnb_32bit": 4,
}
ADAM = 8


@dataclass(frozen=True)
class Setup:
    """How a backend trains: the spec, with what it leaves open decided for a device."""

    device: Device = "cpu"
    engine: str = "fast"  # fast | trl
    method: str = "sft"
    kind: Literal["lora", "qlora", "full"] = "lora"
    r: int = 16
    targets: str | tuple[str, ...] = "all-linear"
    dora: bool = False
    saved_whole: tuple[str, ...] = ()  # modules that are trained beside the adapter
    checkpointing: bool = False
    batch: int = 8  # rows of a step
    flat: bool = False  # packs: no padding, but a mask
    optimizer: str = "adamw_torch_fused"
    imported: int = IMPORTED
    bf16: bool = False  # computed in it
    packages: tuple[str, ...] = ()  # imported beside those of every run
    float32: bool = True  # weights that are trained whole; else bfloat16, for lack of memory

    @classmethod
    def of(
        cls,
        spec: TrainingSpec,
        device: Device,
        shape: ModelShape | None = None,
        imported: int | None = None,
        *,
        gpu_has_bf16: bool = True,
    ) -> Setup:
        """Return how the local backend trains a model of this ``shape``, a large one if None: on a
        GPU with checkpointing unless the spec says otherwise; what is trained is in float32."""
        checkpointing = spec.gradient_checkpointing
        parameters = shape.parameters if shape else 10**9
        return cls(
            device=device,
            engine=engine_of(spec),
            method=spec.method,
            kind=spec.training_type or "lora",
            r=spec.lora_r,
            targets=spec.target_modules,
            dora=spec.use_dora,
            saved_whole=spec.modules_to_save,
            checkpointing=device == "gpu" if checkpointing == "auto" else checkpointing,
            batch=batch_of(spec),
            flat=spec.packing,
            optimizer=spec.optim,
            imported=IMPORTED if imported is None else imported,
            bf16=computes_in_bf16(spec, device, parameters, gpu_has_bf16=gpu_has_bf16),
            packages=packages_of(spec),
        )

    @property
    def width(self) -> int:
        """Return the bytes of a weight outside the adapters."""
        return 4 if self.kind == "full" and self.float32 else self.computed

    @property
    def computed(self) -> int:
        """Return the bytes of a number that a layer computes."""
        return 2 if self.bf16 else 4

    @property
    def sequences(self) -> int:
        """Return the sequences of a row whose activations are there at once."""
        return METHODS[self.method].sequences

    @property
    def has_head(self) -> bool:
        """Return whether tokens are scored by the head of a language model."""
        return self.method != "reward"

    def lean(self, rows: int) -> bool:
        """Return whether norms and gates keep less (``backends/local/lean.py``)."""
        ours = self.device == "cpu" and self.engine == "fast"
        return ours and rows == 1 and not self.checkpointing

    @property
    def tiled(self) -> bool:
        """Return whether TRL takes the logits in tiles. Its ORPO, still experimental, does not."""
        return self.engine == "trl" and self.has_head and self.method != "orpo"

    def together(self, rows: int) -> int:
        """Return the sequences of so many rows that pass through the model at once: of one pair
        ours sends one after the other, and rows of a pack too."""
        return 1 if self.engine == "fast" and rows == 1 else rows * self.sequences

    def masked(self, rows: int) -> bool:
        """Return whether the attention gets a mask."""
        return self.together(rows) > 1 or (self.flat and self.engine == "trl")


def trained_parameters(shape: ModelShape, setup: Setup) -> int:
    """Return how many weights are trained: all, or an adapter and modules beside it."""
    if setup.kind == "full":
        return model_parameters(shape, setup)
    adapters = lora_parameters(shape, setup.r, setup.targets)
    magnitudes = adapted_outputs(shape, setup.targets) if setup.dora else 0
    return adapters + magnitudes + saved_parameters(shape, setup.saved_whole)


def model_parameters(shape: ModelShape, setup: Setup) -> int:
    """Return the weights of the model; a reward model has no head of a vocabulary."""
    head = 0 if setup.has_head or shape.tied else shape.vocab_size * shape.hidden_size
    return shape.parameters - head


def trains_head(shape: ModelShape, setup: Setup) -> bool:
    names = {name.rpartition(".")[2] for name in setup.saved_whole}
    beside = bool(names & ({"lm_head", "embed_tokens"} if shape.tied else {"lm_head"}))
    return setup.has_head and (setup.kind == "full" or beside)


def most_memory(expected: int, device: Device) -> int:
    """Return the most bytes that a run may need by this expected figure: a quarter more on a CPU,
    where the formula was measured, half as much again on a GPU, where figures of others lie 0.8 to
    1.5 times about it (bench/published.py). What is to fit for certain has to fit with it."""
    return expected * 5 // 4 if device == "cpu" else expected * 3 // 2


def least_rows(spec: TrainingSpec) -> int:
    """Return the fewest rows that can pass through the model at once on a GPU."""
    if spec.micro_batch_size != "auto":
        return spec.micro_batch_size
    return batch_of(spec) if needs_whole_batch(spec) else 1


def micro_batch_rows(
    spec: TrainingSpec, shape: ModelShape | None, setup: Setup, length: int, usable: int | None
) -> int:
    """Return how many rows pass through the model at once, the longest of ``length`` tokens.

    As the spec says; all of a step where the loss needs them; one in our engine on a CPU, where
    padding costs more than larger products gain. On a GPU as many as fit its ``usable`` bytes for
    certain (``most_memory``), with the weights of ``float32_or_bfloat16``, and all of a batch if
    those are not known; TRL's engine takes a batch on a CPU.
    """
    fewest = least_rows(spec)
    if spec.micro_batch_size != "auto" or needs_whole_batch(spec):
        return fewest
    if setup.device == "cpu":
        return 1 if setup.engine == "fast" else batch_rows(spec)
    if shape is None or usable is None:
        return batch_rows(spec)
    setup = float32_or_bfloat16(shape, setup, fewest, length, usable)
    found = (rows for rows in range(batch_rows(spec), 1, -1) if not setup.batch % rows)
    fits = (
        rows
        for rows in found
        if most_memory(step_memory(shape, setup, rows, length).total, setup.device) <= usable
    )
    return next(fits, 1)


def float32_or_bfloat16(
    shape: ModelShape, setup: Setup, rows: int, length: int, usable: int | None
) -> Setup:
    """Return the setup, for full fine-tuning on a GPU with bfloat16 weights if a step of so many
    rows, the fewest that there can be, with float32 weights does not fit the ``usable`` bytes for
    certain (``most_memory``); None if they are not known. Not where bfloat16 is not computed in."""
    if setup.device == "cpu" or setup.kind != "full" or usable is None or not setup.bf16:
        return setup
    fits = most_memory(step_memory(shape, setup, rows, length).total, setup.device) <= usable
    return setup if fits else replace(setup, float32=False)


def step_memory(shape: ModelShape, setup: Setup, rows: int, length: int) -> MemoryParts:
    """Return the parts at the worst moment, with ``rows`` at once: in the backward pass of the
    head, with all activations; after that of the blocks, with all gradients; or while a base is
    read."""
    tokens = rows * length * setup.sequences
    full = setup.kind == "full"
    trained = trained_parameters(shape, setup)
    grown = setup.width if full else 4
    gradients = grown * trained
    head_gradient = grown * shape.vocab_size * shape.hidden_size * trains_head(shape, setup)
    layer = saved_bytes(shape, setup, rows, length)
    held = layer * shape.layers
    if setup.checkpointing:  # the inputs of all layers, and one layer recomputed
        held = setup.computed * shape.hidden_size * tokens * shape.layers + layer
    early = gradients if rows < setup.batch else min(gradients, head_gradient)
    at_head = (held, head_memory(shape, setup, tokens), early)
    at_end = (layer, 0, gradients)
    activations, logits, grads = max(at_head, at_end, key=sum)
    # What passes through a layer at once; ours makes it again in fp32, except what DoRA keeps.
    wide = replace(setup, bf16=False, dora=False)
    made = saved_bytes(shape, wide, rows, length) if setup.lean(rows) else layer
    passing = made * setup.together(rows) // (rows * setup.sequences)
    holes = int(_holes(setup, rows) * passing) + _dequantised(shape, setup)
    if not full:
        again = setup.checkpointing or setup.lean(1)
        holes += setup.width * expert_copies(shape, setup.targets, kept=not again)
    step = MemoryParts(
        weights=_weights(shape, setup) + _reference(shape, setup),
        adapters=0 if full else grown * trained,
        gradients=grads,
        optimizer=_states(setup) * trained,
        activations=activations,
        logits=logits,
        overhead=holes + _process_memory(setup) + _updating(shape, setup),
    )
    return max(step, _reading(shape, setup), key=lambda parts: parts.total)


def head_memory(shape: ModelShape, setup: Setup, tokens: int) -> int:
    """Return the bytes of logits, and what is made of them, while their gradient is taken."""
    if not setup.has_head:
        return 0
    if setup.engine == "fast":
        block = min(tokens, BLOCK[setup.device]) * shape.vocab_size * LOGIT_BYTES
        weight = shape.vocab_size * shape.hidden_size
        # Its gradient is added up in fp32, from products of blocks; of a sum (``WeightGradient``)
        # in fp32 on a CPU in place.
        in_place = setup.device == "cpu" and setup.method in ("sft", "pretrain") and setup.float32
        own = 0 if in_place else weight * (4 + setup.computed)
        return block + (own if trains_head(shape, setup) else 0)
    if not setup.tiled:
        return int(KEPT_LOGITS * 4 * tokens * shape.vocab_size)
    tile = min(tokens, TILE_TOKENS) * min(shape.vocab_size, TILE_VOCABULARY) * setup.computed
    return int(TILES[setup.device] * tile)


def _reference(shape: ModelShape, setup: Setup) -> int:
    """Return the bytes of a second model: TRL's reference of a DPO that trains all weights. Ours
    scores the rows before it begins; with an adapter the base is the reference."""
    copied = setup.engine == "trl" and setup.method == "dpo" and setup.kind == "full"
    return setup.width * shape.parameters if copied else 0


def _updating(shape: ModelShape, setup: Setup) -> int:
    if setup.optimizer != "adafactor" or setup.kind != "full":
        return 0
    return 2 * 4 * shape.vocab_size * shape.hidden_size


def _process_memory(setup: Setup) -> int:
    """Return the memory of a process apart from its model and its work."""
    if setup.device == "gpu":
        return CUDA_OVERHEAD
    more = sum(IMPORTED_MORE[name] for name in setup.packages)
    return setup.imported + STARTED + more


def _reading(shape: ModelShape, setup: Setup) -> MemoryParts:
    """Return the parts while a base is converted, to 4 bits or another type: its whole file is
    mapped into memory and counts as resident, though the system could drop it. Not on a GPU, which
    sees one matrix at a time."""
    converted = setup.kind == "qlora" or setup.width != shape.stored_bytes
    read = setup.device == "cpu" and converted
    file = shape.stored_bytes * shape.parameters if read else 0
    none = {"adapters": 0, "gradients": 0, "optimizer": 0, "activations": 0, "logits": 0}
    return MemoryParts(
        weights=_weights(shape, setup) + file, overhead=_process_memory(setup), **none
    )


def _holes(setup: Setup, rows: int) -> float:
    """Return the holes that stay in the heap, in what a layer saves of one forward pass."""
    if setup.device == "gpu":
        return HOLES_GPU
    one_by_one = setup.together(rows) == 1 and setup.kind != "full"
    if setup.lean(rows):
        return HOLES_LEAN_FULL if setup.kind == "full" else HOLES_OF_ROWS * setup.sequences
    if not setup.checkpointing:
        if setup.kind == "full":
            return HOLES_FULL
        return HOLES_OF_ROWS if one_by_one else HOLES
    copies = COPIES_CHECKPOINTING if setup.kind == "qlora" else 0
    return (HOLES_OF_ROWS_CHECKPOINTING if one_by_one else HOLES_CHECKPOINTING) + copies


def _states(setup: Setup) -> int:
    """Return the bytes of what the optimizer keeps per trained weight."""
    bytes_ = STATES.get(setup.optimizer, ADAM)
    # In the type of the weight, but those of bitsandbytes.
    narrow = setup.kind == "full" and setup.width == 2 and bytes_ == ADAM
    return bytes_ // 2 if narrow else bytes_


def _weights(shape: ModelShape, setup: Setup) -> int:
    parameters = model_parameters(shape, setup)
    if setup.kind != "qlora":
        copied = AUTOCAST_COPY if setup.width > setup.computed else 0
        return (setup.width + copied) * parameters
    # The embedding, the head and the norms are not quantised.
    others = parameters - shape.linear_parameters
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
    if setup.lean(rows):
        return _lean_bytes(shape, setup, length)
    masked = setup.device == "cpu" and setup.masked(rows)
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, full = shape.hidden_size, setup.kind == "full"
    # Two norms' inputs and outputs, q, k, v, the attention's output, four of the MLP's: both maps,
    # what the activation gives, and the product; two where nothing is gated.
    numbers = 4 * hidden + 2 * queries + 2 * keys
    inner = 4 if shape.gated else 2
    numbers += inner * shape.mlp_size + shape.heads + 2
    if masked:  # with a mask, keys and values are copied for each query head
        numbers += 2 * (queries - keys)
    if shape.model_type in QK_NORM:
        numbers += queries + keys
    if full:  # a trained norm saves its normed input too
        numbers += 2 * hidden + (queries + keys if shape.model_type in QK_NORM else 0)
    else:
        numbers += len(shape.linears) * setup.r
    if setup.dora:  # what the map and the adapter give, for the gradient of the magnitudes
        numbers += 2 * adapted_outputs(shape, setup.targets) // shape.layers
    flat = rows * length
    each = 4 * numbers * (AUTOCAST if setup.bf16 else 1.0)
    if masked:  # converted to float32 in each layer; a flat batch is one long row
        each += 4 * (flat if setup.flat else length)
    return int(each * flat * setup.sequences)


def _lean_bytes(shape: ModelShape, setup: Setup, length: int) -> int:
    """Return the same of ``Setup.lean``."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden = shape.hidden_size
    # What both norms give, q, k, v and the attention's output, its copy, two of the MLP's.
    numbers = 2 * hidden + 3 * queries + 2 * keys
    numbers += 2 * shape.mlp_size
    if shape.model_type in QK_NORM:
        numbers += queries + keys
    if setup.kind != "full":
        numbers += len(shape.linears) * setup.r
    if setup.dora:
        numbers += 2 * adapted_outputs(shape, setup.targets) // shape.layers
    each = setup.computed * numbers
    each += setup.width * 2 * hidden  # what goes into both norms
    each += 4 * (shape.heads + 2)
    return each * length * setup.sequences
