"""The size of a decoder-only language model, dense or with experts, from its ``config.json``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from finetune_gateway.errors import SpecError, shown

# Families whose MLP has two matrices; others gate it with a third.
_UNGATED = frozenset(
    ("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt")
    + ("phi", "starcoder2")
)
_HALF = frozenset({"bfloat16", "float16"})  # types of stored weights in config.json
QK_NORM = frozenset({"qwen3", "qwen3_moe", "qwen3_next", "gemma3", "gemma3_text", "olmo2"})


MOST = 10**8  # of any size in a config.json: far beyond all models
# What families call their experts: how many there are, for one token, and for every token.
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
ACTIVE = (
    *("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk", "moe_top_k"),
    "top_k_experts",
)
SHARED = (
    *("n_shared_experts", "moe_num_shared_experts", "num_shared_experts", "num_shared_expert"),
)
OF_BLOCKS = (*EXPERTS, *ACTIVE, *SHARED, "moe_intermediate_size")  # of which there may be lists
# Names of a number of experts, whatever a family calls it.
COUNT = re.compile(r"num_\w*experts?|n_\w*experts|\w+_num_experts|\w*expert_count")
MOST_LISTED = 10_000  # blocks that are counted one by one


class ModelShape(BaseModel):
    """The sizes of a decoder that determine its memory and speed."""

    model_config = ConfigDict(frozen=True, defer_build=True, protected_namespaces=())

    model_type: str = ""
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int  # of one expert, if there are several
    shared_size: int = 0  # of the experts that every token uses, together
    dense_layers: int = 0  # blocks with one MLP of dense_size in the place of experts
    dense_size: int = 0
    vocab_size: int
    tied: bool = True
    experts: int = 1
    active_experts: int = 1
    stored_bytes: int = 4  # per weight in the model's file

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of each linear map in one block, with one expert."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = {
            "q_proj": (hidden, queries),
            "k_proj": (hidden, keys),
            "v_proj": (hidden, keys),
            "o_proj": (queries, hidden),
        }
        return attention | {name: (hidden, inner) for name in self.mlp_names}

    @property
    def gated(self) -> bool:
        """Return whether the MLP multiplies two maps of its input."""
        return self.model_type not in _UNGATED

    @property
    def mlp_names(self) -> tuple[str, ...]:
        """Return the linear maps of an MLP."""
        return ("gate_proj", "up_proj", "down_proj") if self.gated else ("up_proj", "down_proj")

    @property
    def beside_experts(self) -> dict[int, int]:
        """Return the inner sizes of the MLPs that stand beside experts, and in how many blocks:
        those of shared experts, and of blocks without experts. They are linear modules."""
        found = {self.shared_size: self.sparse_layers} if self.experts > 1 else {}
        if self.dense_layers:
            found[self.dense_size] = found.get(self.dense_size, 0) + self.dense_layers
        return {size: blocks for size, blocks in found.items() if size}

    @property
    def sparse_layers(self) -> int:
        """Return the blocks with experts, or all if there are none."""
        return self.layers - self.dense_layers

    @property
    def mlp_size(self) -> int:
        """Return the inner size of all that a token passes through in one block."""
        return self.intermediate_size * self.active_experts + self.shared_size

    @property
    def cache_bytes(self) -> int:
        """Return the bytes that keys and values of one token take in 16 bits."""
        return 2 * 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def block_parameters(self) -> int:
        """Return the parameters of all blocks, with every expert and the norms."""
        return self._blocks(self.experts)

    @property
    def expert_parameters(self) -> int:
        """Return the parameters of all experts; 0 if there is one MLP for all tokens."""
        each = len(self.mlp_names) * self.hidden_size * self.intermediate_size
        return self.sparse_layers * self.experts * each if self.experts > 1 else 0

    @property
    def active_block_parameters(self) -> int:
        """Return the parameters of the blocks that one token uses."""
        return self._blocks(self.active_experts)

    def _blocks(self, experts: int) -> int:
        mlp = len(self.mlp_names) * self.hidden_size * self.intermediate_size
        attention = sum(
            a * b for name, (a, b) in self.linears.items() if name not in self.mlp_names
        )
        router = self.hidden_size * self.experts if self.experts > 1 else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.model_type in QK_NORM else 0)
        beside = len(self.mlp_names) * self.hidden_size * self._beside
        return (
            self.layers * (attention + norms)
            + self.sparse_layers * (experts * mlp + router)
            + beside
        )

    @property
    def _beside(self) -> int:
        """Return the inner sizes of all MLPs that stand beside experts, added up."""
        return sum(size * blocks for size, blocks in self.beside_experts.items())

    @property
    def linear_parameters(self) -> int:
        """Return the parameters of the linear modules in all blocks, which QLoRA quantises. Experts
        stored as one tensor are not linear modules (transformers 5.23)."""
        dense = (
            inputs * outputs
            for name, (inputs, outputs) in self.linears.items()
            if self.experts == 1 or name not in self.mlp_names
        )
        beside = len(self.mlp_names) * self.hidden_size * self._beside
        return self.layers * sum(dense) + beside

    @property
    def embedding_parameters(self) -> int:
        """Return the parameters of the embedding, and of the head if it is a matrix of its own."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Return all parameters but biases, which are below 0.1 % in the families that have
        them."""
        return self.block_parameters + self.embedding_parameters + self.hidden_size


def shape_of(config: dict[str, Any]) -> ModelShape:
    """Return the shape in a Hugging Face ``config.json``. Raises SpecError if a number is
    missing."""
    text = config.get("text_config")
    flat = {**config, **text} if isinstance(text, dict) else config
    hidden = _number(flat, "hidden_size", "n_embd", "d_model")
    heads = _number(flat, "num_attention_heads", "n_head")
    experts = _number(flat, *EXPERTS, default=1)
    if experts == 1:
        _require_no_experts(flat)
    inner = _number(flat, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    layers = _number(flat, "num_hidden_layers", "n_layer")
    expert = _number(flat, "moe_intermediate_size", default=inner) if experts > 1 else inner
    dense = _dense_layers(flat, layers) if experts > 1 else 0
    return ModelShape(
        model_type=str(flat.get("model_type", "")),
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=_number(flat, "num_key_value_heads", default=heads),
        head_dim=_number(flat, "head_dim", default=hidden // heads),
        intermediate_size=expert,
        shared_size=_shared_size(flat, expert) if experts > 1 else 0,
        dense_layers=dense,
        dense_size=_number(flat, "intermediate_size_mlp", default=inner) if dense else 0,
        vocab_size=_number(flat, "vocab_size"),
        tied=bool(flat.get("tie_word_embeddings", config.get("tie_word_embeddings", True))),
        experts=experts,
        active_experts=min(experts, _number(flat, *ACTIVE, default=1)),
        stored_bytes=2 if str(flat.get("dtype", flat.get("torch_dtype"))) in _HALF else 4,
    )


def _shared_size(config: dict[str, Any], expert: int) -> int:
    """Return the inner size of the experts that every token uses: by itself, or as a number of
    experts like the others. Llama 4 has one, which its config does not name."""
    own = ("shared_expert_intermediate_size", "shared_intermediate_size")
    if size := _number(config, *own, default=0):
        return size
    one = 1 if str(config.get("model_type", "")).startswith("llama4") else 0
    return expert * _number(config, *SHARED, default=one)


def _dense_layers(config: dict[str, Any], layers: int) -> int:
    """Return how many blocks have one MLP in the place of experts: the first ones, those that are
    listed, or all but each n-th."""
    step = _number(config, "decoder_sparse_step", "interleave_moe_layer_step", default=1)
    first = _number(config, "first_k_dense_replace", "moe_layer_start_index", default=0)
    step = _number(config, "moe_layer_interval", default=step)
    listed = config.get("mlp_only_layers")
    named = {one for one in listed if type(one) is int} if isinstance(listed, list) else set()
    if layers > MOST_LISTED:
        return min(first, layers)
    sparse = (at for at in range(first, layers) if (at + 1) % step == 0 and at not in named)
    return layers - sum(1 for _ in sparse)


def _require_no_experts(config: dict[str, Any]) -> None:
    """Raise SpecError for a model with a number of experts under a name that is not read here:
    counted as one without, it would be many times too small."""
    for name, value in config.items():
        read = name in (*ACTIVE, *SHARED, *EXPERTS) or not COUNT.fullmatch(name)
        if not read and type(value) is int and value > 1:
            raise SpecError(
                f"The model's config.json has {shown(name)}: experts under a name that is not "
                "read here, so that its size is not known.",
                hint="Its memory and time cannot be estimated.",
            )


def _number(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
        if isinstance(value, list) and value and name in OF_BLOCKS:  # one for each block
            if value != value[:1] * len(value):
                raise SpecError(
                    f"The model's config.json has several values of {name}: blocks, or kinds of "
                    "experts, of different sizes are not counted here.",
                    hint="Its memory and time cannot be estimated.",
                )
            value = value[0]
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            if value > MOST:
                raise SpecError(
                    f"The model's config.json has a {name} above {MOST:,}: no model is that large.",
                    hint="Compare it with the file of the original model.",
                )
            return value
    if default is not None:
        return default
    raise SpecError(
        f"The model's config.json has no usable {names[0]!r} "
        f"(model_type {config.get('model_type')!r}).",
        hint="Memory and time can be estimated for decoder-only language models.",
    )


def lora_parameters(
    shape: ModelShape, r: int, targets: str | tuple[str, ...] = "all-linear"
) -> int:
    """Return the parameters of LoRA adapters of rank ``r``: r x (inputs + outputs) per adapted map.

    Experts stored as one tensor are not linear modules and get no adapter.
    """
    in_blocks = shape.layers * sum(a + b for a, b in _adapted(shape, targets).values())
    return r * (in_blocks + sum(a + b for a, b in _adapted_beside(shape, targets)))


def adapted_outputs(shape: ModelShape, targets: str | tuple[str, ...] = "all-linear") -> int:
    """Return the outputs of all adapted maps, each of which has a magnitude in DoRA."""
    in_blocks = shape.layers * sum(outputs for _, outputs in _adapted(shape, targets).values())
    return in_blocks + sum(outputs for _, outputs in _adapted_beside(shape, targets))


def _chosen(targets: str | tuple[str, ...]) -> set[str] | None:
    return None if isinstance(targets, str) else {name.rpartition(".")[2] for name in targets}


def _adapted_beside(shape: ModelShape, targets: str | tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Yield inputs and outputs of the adapted maps of all MLPs that stand beside experts."""
    chosen, hidden = _chosen(targets), shape.hidden_size
    for size, blocks in shape.beside_experts.items():
        maps = {"gate_proj": (hidden, size), "up_proj": (hidden, size), "down_proj": (size, hidden)}
        for name in shape.mlp_names:
            if chosen is None or name in chosen:
                inputs, outputs = maps[name]
                yield inputs * blocks, outputs * blocks


def _adapted(shape: ModelShape, targets: str | tuple[str, ...]) -> dict[str, tuple[int, int]]:
    chosen = _chosen(targets)
    return {
        name: sizes
        for name, sizes in shape.linears.items()
        if (chosen is None or name in chosen)
        and (shape.experts == 1 or not name.endswith(("gate_proj", "up_proj", "down_proj")))
    }


def saved_parameters(shape: ModelShape, modules: tuple[str, ...]) -> int:
    """Return the parameters of modules that are trained whole beside an adapter; those of a name
    that ``linears`` does not have, such as a norm's, are left out. A head that shares the
    embedding's weight is trained with it as one."""
    names = {name.rpartition(".")[2] for name in modules}
    embeddings = len(names & {"lm_head", "embed_tokens"})
    embeddings = min(embeddings, 1) if shape.tied else embeddings
    maps = [a * b for name, (a, b) in shape.linears.items() if name in names]
    return embeddings * shape.vocab_size * shape.hidden_size + shape.layers * sum(maps)
