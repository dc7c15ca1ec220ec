"""The size of a decoder-only language model, dense or with experts, from its ``config.json``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from finetune_gateway.errors import SpecError

# Families whose MLP has two matrices; others gate it with a third.
_UNGATED = frozenset(
    ("bloom", "codegen", "falcon", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox", "gptj", "opt")
    + ("phi", "starcoder2")
)
_HALF = frozenset({"bfloat16", "float16"})  # types of stored weights in config.json
QK_NORM = frozenset({"qwen3", "qwen3_moe", "qwen3_next", "gemma3", "gemma3_text", "olmo2"})


MOST = 10**8  # of any size in a config.json: far beyond all models


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
        return attention | {name: (hidden, inner) for name in self._mlp}

    @property
    def gated(self) -> bool:
        """Return whether the MLP multiplies two maps of its input."""
        return self.model_type not in _UNGATED

    @property
    def _mlp(self) -> tuple[str, ...]:
        return ("gate_proj", "up_proj", "down_proj") if self.gated else ("up_proj", "down_proj")

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
        each = len(self._mlp) * self.hidden_size * self.intermediate_size
        return self.layers * self.experts * each if self.experts > 1 else 0

    @property
    def active_block_parameters(self) -> int:
        """Return the parameters of the blocks that one token uses."""
        return self._blocks(self.active_experts)

    def _blocks(self, experts: int) -> int:
        mlp = len(self._mlp) * self.hidden_size * self.intermediate_size
        attention = sum(a * b for name, (a, b) in self.linears.items() if name not in self._mlp)
        router = self.hidden_size * self.experts if self.experts > 1 else 0
        norms = 2 * self.hidden_size + (2 * self.head_dim if self.model_type in QK_NORM else 0)
        return self.layers * (attention + experts * mlp + router + norms)

    @property
    def linear_parameters(self) -> int:
        """Return the parameters of the linear modules in all blocks, which QLoRA quantises. Experts
        stored as one tensor are not linear modules (transformers 5.23)."""
        dense = (
            inputs * outputs
            for name, (inputs, outputs) in self.linears.items()
            if self.experts == 1 or name not in self._mlp
        )
        return self.layers * sum(dense)

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
    experts = _number(flat, "num_local_experts", "num_experts", "n_routed_experts", default=1)
    inner = _number(flat, "intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    return ModelShape(
        model_type=str(flat.get("model_type", "")),
        hidden_size=hidden,
        layers=_number(flat, "num_hidden_layers", "n_layer"),
        heads=heads,
        kv_heads=_number(flat, "num_key_value_heads", default=heads),
        head_dim=_number(flat, "head_dim", default=hidden // heads),
        intermediate_size=_number(flat, "moe_intermediate_size", default=inner)
        if experts > 1
        else inner,
        vocab_size=_number(flat, "vocab_size"),
        tied=bool(flat.get("tie_word_embeddings", config.get("tie_word_embeddings", True))),
        experts=experts,
        active_experts=min(experts, _number(flat, "num_experts_per_tok", default=1)),
        stored_bytes=2 if str(flat.get("dtype", flat.get("torch_dtype"))) in _HALF else 4,
    )


def _number(config: dict[str, Any], *names: str, default: int | None = None) -> int:
    for name in names:
        value = config.get(name)
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
    return shape.layers * r * sum(a + b for a, b in _adapted(shape, targets).values())


def adapted_outputs(shape: ModelShape, targets: str | tuple[str, ...] = "all-linear") -> int:
    """Return the outputs of all adapted maps, each of which has a magnitude in DoRA."""
    return shape.layers * sum(outputs for _, outputs in _adapted(shape, targets).values())


def _adapted(shape: ModelShape, targets: str | tuple[str, ...]) -> dict[str, tuple[int, int]]:
    chosen = None if isinstance(targets, str) else {name.rpartition(".")[2] for name in targets}
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
