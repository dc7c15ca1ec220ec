"""The size of a decoder-only language model, dense or with experts, from its ``config.json``."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel, ConfigDict

# Families whose MLP has two matrices; others gate it with a third.
_UNGATED = frozenset(
    ("apertus", "arcee", "biogpt", "bloom", "codegen", "falcon", "fuyu", "gpt2", "gpt_bigcode")
    + ("gpt_neo", "gpt_neox", "gpt_neox_japanese", "gptj", "jais2", "mpt", "nanochat", "nemotron")
    + ("openai-gpt", "opt", "persimmon", "phi", "starcoder2")
)
QK_NORM = frozenset({"qwen3", "qwen3_moe", "qwen3_next", "gemma3", "gemma3_text", "olmo2"})
# Families whose shared experts have a gate of their own, a linear map to one number.
GATES_SHARED = ("qwen2_moe", "qwen3_5_moe", "qwen3_next")
EXPERT_COPIES = 3


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
    # Keys and values of all heads made from one vector of kv_rank numbers (multi-head latent
    # attention, DeepSeek-V2, arXiv 2405.04434), beside which rope_dim numbers carry the position;
    # then head_dim is of queries and keys. Queries come from q_rank numbers, if it is not 0.
    kv_rank: int = 0
    q_rank: int = 0
    rope_dim: int = 0
    value_dim: int = 0
    uncached_layers: int = 0  # blocks whose state does not grow with the text, as of Mamba
    # Whether PEFT adapts experts that are stored as one tensor, and the router, by their former
    # names; it leaves the MLPs beside them alone then (transformers_weight_conversion.py).
    adapts_experts: bool = False
    # Parameters of the file beyond those that are counted here, below 0 where it has fewer.
    other_parameters: int = 0

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """Return inputs and outputs of each linear map in one block, with one expert."""
        hidden, inner = self.hidden_size, self.intermediate_size
        return self._attention | {name: (hidden, inner) for name in self.mlp_names}

    @property
    def _attention(self) -> dict[str, tuple[int, int]]:
        hidden, rank, heads = self.hidden_size, self.kv_rank, self.heads
        queries, keys = heads * self.head_dim, self.kv_heads * self.head_dim
        if not rank:
            return {
                "q_proj": (hidden, queries),
                "k_proj": (hidden, keys),
                "v_proj": (hidden, keys),
                "o_proj": (queries, hidden),
            }
        without_position = self.head_dim - self.rope_dim
        to_queries = {"q_proj": (hidden, queries)}
        if self.q_rank:
            to_queries = {"q_a_proj": (hidden, self.q_rank), "q_b_proj": (self.q_rank, queries)}
        return to_queries | {
            "kv_a_proj_with_mqa": (hidden, rank + self.rope_dim),
            "kv_b_proj": (rank, heads * (without_position + self.value_dim)),
            "o_proj": (heads * self.value_dim, hidden),
        }

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
        numbers = self.kv_rank + self.rope_dim or 2 * self.kv_heads * self.head_dim
        return 2 * (self.layers - self.uncached_layers) * numbers

    @property
    def block_parameters(self) -> int:
        """Return the parameters of all blocks, with every expert and the norms."""
        return max(self._blocks(self.experts) + min(0, self.other_parameters), 0)

    @property
    def expert_parameters(self) -> int:
        """Return the parameters of all experts; 0 if there is one MLP for all tokens."""
        each = len(self.mlp_names) * self.hidden_size * self.intermediate_size
        counted = self.sparse_layers * self.experts * each if self.experts > 1 else 0
        return min(counted, self.block_parameters)

    @property
    def active_block_parameters(self) -> int:
        """Return the parameters of the blocks that one token uses."""
        return min(self._blocks(self.active_experts), self.block_parameters)

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
        counted = self.layers * sum(dense) + beside
        return counted if self.other_parameters >= 0 else min(counted, self.block_parameters)

    @property
    def embedding_parameters(self) -> int:
        """Return the parameters of the embedding, and of the head if it is a matrix of its own."""
        return self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """Return all parameters but biases, which are below 0.1 % in the families that have
        them."""
        counted = self.block_parameters + self.embedding_parameters + self.hidden_size
        return counted + max(0, self.other_parameters)


def lora_parameters(
    shape: ModelShape, r: int, targets: str | tuple[str, ...] = "all-linear"
) -> int:
    """Return the parameters of LoRA adapters of rank ``r``: r x (inputs + outputs) per adapted map.

    Experts stored as one tensor are not linear modules, and get an adapter in some families alone
    (``adapts_experts``): of rank r for each expert, and 2 r for the two maps in one tensor.
    """
    in_blocks = shape.layers * sum(a + b for a, b in _adapted(shape, targets).values())
    beside = sum(a + b for a, b in _adapted_beside(shape, targets))
    return r * (in_blocks + beside + _of_experts(shape, targets))


def _of_experts(shape: ModelShape, targets: str | tuple[str, ...]) -> int:
    """Return the parameters of the adapters of experts and routers, for each of the rank."""
    if not shape.adapts_experts or shape.experts == 1:
        return 0
    chosen, hidden, inner = _chosen(targets), shape.hidden_size, shape.intermediate_size
    sizes = 0
    if chosen is None or chosen.issuperset(("gate_proj", "up_proj")):
        sizes += shape.experts * 2 * (hidden + 2 * inner)
    if chosen is None or "down_proj" in chosen:
        sizes += shape.experts * (inner + hidden)
    if chosen is None or "gate" in chosen:
        sizes += hidden + shape.experts
    return shape.sparse_layers * sizes


def expert_copies(
    shape: ModelShape, targets: str | tuple[str, ...] = "all-linear", *, kept: bool
) -> int:
    """Return the numbers that PEFT makes of the experts of a layer that it adapts: what is added to
    them, the sum, and its gradient (ParamWrapper of PEFT 0.21); ``kept``: the sums of all
    layers are kept for the backward pass. A job on 50 million parameters of experts had its peak at
    1,127 MB on a CPU, where 1,100 are expected with these, and 949 without."""
    if not _of_experts(shape, targets):
        return 0
    layer = shape.expert_parameters // shape.sparse_layers
    return layer * (EXPERT_COPIES + (shape.sparse_layers - 1 if kept else 0))


def adapted_outputs(shape: ModelShape, targets: str | tuple[str, ...] = "all-linear") -> int:
    """Return the outputs of all adapted maps, each of which has a magnitude in DoRA."""
    in_blocks = shape.layers * sum(outputs for _, outputs in _adapted(shape, targets).values())
    return in_blocks + sum(outputs for _, outputs in _adapted_beside(shape, targets))


def _chosen(targets: str | tuple[str, ...]) -> set[str] | None:
    return None if isinstance(targets, str) else {name.rpartition(".")[2] for name in targets}


def _adapted_beside(shape: ModelShape, targets: str | tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Yield inputs and outputs of the adapted maps of all MLPs that stand beside experts."""
    chosen, hidden = _chosen(targets), shape.hidden_size
    if shape.adapts_experts:
        return
    for size, blocks in shape.beside_experts.items():
        maps = {"gate_proj": (hidden, size), "up_proj": (hidden, size), "down_proj": (size, hidden)}
        for name in shape.mlp_names:
            if chosen is None or name in chosen:
                inputs, outputs = maps[name]
                yield inputs * blocks, outputs * blocks
    gated = shape.shared_size and shape.model_type.startswith(GATES_SHARED)
    if gated and (chosen is None or "shared_expert_gate" in chosen):
        yield hidden * shape.sparse_layers, shape.sparse_layers


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
