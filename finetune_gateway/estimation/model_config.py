"""Read the shape of a model from its ``config.json``, whatever its family calls the sizes."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from importlib import resources
from typing import Any

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.estimation.model_shape import ModelShape

_HALF = frozenset({"bfloat16", "float16"})  # types of stored weights in config.json
OFF = 0.05  # share by which a size may be off, before a person hears of it
HIDDEN = ("hidden_size", "n_embd", "d_model")
LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "attention_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads")
INNER_OF_EXPERT = ("moe_intermediate_size", "expert_ffn_hidden_size")
INNER = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")
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
SHARED_SIZE = ("shared_expert_intermediate_size", "shared_intermediate_size")
STEP = ("decoder_sparse_step", "interleave_moe_layer_step")
STEP_OF_OTHERS = ("moe_layer_interval", "expert_layer_period")
FIRST = ("first_k_dense_replace", "moe_layer_start_index", "num_dense_layers")
LATENT = ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim")
LINEAR = (
    *("linear_num_key_heads", "linear_key_head_dim"),
    *("linear_num_value_heads", "linear_value_head_dim"),
)
CONVOLVED = 4  # tokens that a convolution of linear attention spans
# What each block is, and the words for those whose state does not grow with the text.
KINDS = ("layer_types", "layers_block_type", "block_types")
WITHOUT_CACHE = frozenset(("linear_attention", "mamba", "conv", "recurrent", "mlp", "moe"))
LISTED = ("attn_layer_indices", "full_attn_idxs")  # the blocks with attention
EVERY = ("full_attention_interval", "attn_layer_period")
SAME = (
    HIDDEN,
    LAYERS,
    HEADS,
    KV_HEADS,
    INNER,
    EXPERTS,
    ACTIVE,
    SHARED,
    SHARED_SIZE,
    INNER_OF_EXPERT,
)
# All that is read of a config.
SIZES = (
    *(*HIDDEN, *LAYERS, *HEADS, *KV_HEADS, *INNER, *EXPERTS, *ACTIVE, *SHARED, *SHARED_SIZE),
    *(*STEP, *STEP_OF_OTHERS, *FIRST, *LATENT, *LINEAR, *KINDS, *LISTED, *EVERY),
    *INNER_OF_EXPERT,
    *("intermediate_size_mlp", "mlp_only_layers", "head_dim"),
    *("vocab_size", "tie_word_embeddings", "multi_query", "new_decoder_architecture"),
    *("block_auto_adjust_ff_dim", "block_multiple_of"),
)
# Names of a number of experts, whatever a family calls it.
COUNT = re.compile(r"num_\w*experts?|n_\w*experts|\w+_num_experts|\w*expert_count")
MOST_LISTED = 10_000  # blocks that are counted one by one


def shape_of(config: dict[str, Any]) -> ModelShape:
    """Return the shape in a Hugging Face ``config.json``. Raises SpecError if a number is
    missing."""
    flat = _flat(config)
    hidden = _number(flat, *HIDDEN)
    heads = _number(flat, *HEADS)
    experts = _number(flat, *EXPERTS, default=1)
    if experts == 1:
        _require_no_experts(flat)
    inner = _inner(flat, hidden)
    layers = _number(flat, *LAYERS)
    expert = _number(flat, *INNER_OF_EXPERT, default=inner) if experts > 1 else inner
    dense = _dense_layers(flat, layers) if experts > 1 else 0
    latent = _latent(flat)
    shape = ModelShape(
        model_type=str(flat.get("model_type", "")),
        hidden_size=hidden,
        layers=layers,
        heads=heads,
        kv_heads=heads if latent else _kv_heads(flat, heads),
        head_dim=latent.pop("head_dim", 0) or _number(flat, "head_dim", default=hidden // heads),
        intermediate_size=expert,
        shared_size=_shared_size(flat, expert) if experts > 1 else 0,
        dense_layers=dense,
        dense_size=_number(flat, "intermediate_size_mlp", default=inner) if dense else 0,
        vocab_size=_number(flat, "vocab_size"),
        tied=bool(flat.get("tie_word_embeddings", config.get("tie_word_embeddings", True))),
        experts=experts,
        active_experts=min(experts, _number(flat, *ACTIVE, default=1)),
        stored_bytes=2 if str(flat.get("dtype", flat.get("torch_dtype"))) in _HALF else 4,
        adapts_experts=experts > 1 and flat.get("model_type") in _families()["adapted_experts"],
        uncached_layers=_uncached_layers(flat, layers),
        **latent,
    )
    return shape.model_copy(update={"other_parameters": _linear_attention(flat, shape)})


def is_counted(config: dict[str, Any]) -> bool:
    """Return whether the size of this family, and of the text in it, was compared with that of its
    model in transformers, or with a published one (``scripts/count_families.py``)."""
    kinds = {str(one.get("model_type")) for one in (config, _flat(config))}
    return kinds.issubset(_families()["counted"])


@cache
def _families() -> dict[str, Any]:
    text = resources.files("finetune_gateway.estimation").joinpath("families.toml")
    return tomllib.loads(text.read_text("utf-8"))


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with what is nested in it as the text's. Of that a file has only what differs
    from the defaults of its class (transformers), which are added."""
    text = config.get("text_config")
    if not isinstance(text, dict):
        return config
    families = _families()
    family = text.get("model_type", families["nested"].get(str(config.get("model_type"))))
    own = {**config, "model_type": family, **text}
    missing = families["defaults"].get(str(family), {}).items()
    return {name: value for name, value in missing if not _has(name, own)} | own


def _has(name: str, config: dict[str, Any]) -> bool:
    """Return whether a config has this size, by whatever name."""
    same = next((names for names in SAME if name in names), (name,))
    return not config.keys().isdisjoint(same)


def _latent(config: dict[str, Any]) -> dict[str, int]:
    """Return the sizes of multi-head latent attention, if a model has it."""
    rank = _number(config, "kv_lora_rank", default=0)
    if not rank:
        return {}
    rope, nope = (_number(config, f"qk_{one}_head_dim") for one in ("rope", "nope"))
    return {
        "kv_rank": rank,
        "q_rank": _number(config, "q_lora_rank", default=0),
        "rope_dim": rope,
        "head_dim": rope + nope,
        "value_dim": _number(config, "v_head_dim"),
    }


def _linear_attention(config: dict[str, Any], shape: ModelShape) -> int:
    """Return how many parameters more than plain attention the gated delta rule of Qwen3-Next and
    Qwen3.5 has, and the gate of their full attention (transformers, modeling_qwen3_next.py)."""
    if _number(config, LINEAR[0], default=0) == 0 or not shape.uncached_layers:
        return 0
    key_heads, key_dim, value_heads, value_dim = (_number(config, name) for name in LINEAR)
    keys, values, hidden = key_heads * key_dim, value_heads * value_dim, shape.hidden_size
    linear = hidden * (2 * keys + 3 * values + 2 * value_heads) + CONVOLVED * (2 * keys + values)
    queries = shape.heads * shape.head_dim
    plain = 2 * hidden * (queries + shape.kv_heads * shape.head_dim)
    gates = (shape.layers - shape.uncached_layers) * hidden * queries
    return shape.uncached_layers * (linear - plain) + gates


def _kv_heads(config: dict[str, Any], heads: int) -> int:
    """Return the heads of keys and values. Falcon and StarCoder have one, by a switch that newer
    Falcons ignore."""
    if config.get("multi_query") is True and config.get("new_decoder_architecture") is not True:
        return 1
    return _number(config, *KV_HEADS, default=heads)


def _uncached_layers(config: dict[str, Any], layers: int) -> int:
    """Return the blocks without attention to the tokens before: by the kind of each, by a list of
    those with attention, or by how far apart these are."""
    kinds = _list(config, KINDS)
    if kinds:  # shorter where it is repeated
        without = sum(1 for kind in kinds if str(kind) in WITHOUT_CACHE)
        return min(layers, layers * without // len(kinds))
    if listed := _list(config, LISTED):
        return max(layers - len(listed), 0)
    every = _number(config, *EVERY, default=1)
    return layers - layers // every


def _inner(config: dict[str, Any], hidden: int) -> int:
    """Return the inner size of an MLP. LFM2 takes two thirds of the one that is named, rounded up
    (transformers, modeling_lfm2.py)."""
    named = _number(config, *INNER, default=4 * hidden)
    if config.get("block_auto_adjust_ff_dim") is not True:
        return named
    multiple = _number(config, "block_multiple_of", default=256)
    return -(-(2 * named // 3) // multiple) * multiple


def _shared_size(config: dict[str, Any], expert: int) -> int:
    """Return the inner size of the experts that every token uses: by itself, or as a number of
    experts like the others. Llama 4 has one, which its config does not name."""
    if size := _number(config, *SHARED_SIZE, default=0):
        return size
    one = 1 if str(config.get("model_type", "")).startswith("llama4") else 0
    return expert * _number(config, *SHARED, default=one)


def _dense_layers(config: dict[str, Any], layers: int) -> int:
    """Return how many blocks have one MLP in the place of experts: the first ones, those that are
    listed, or all but each n-th."""
    step = _number(config, *STEP, *STEP_OF_OTHERS, default=1)
    first = _number(config, *FIRST, default=0)
    listed = config.get("mlp_only_layers")
    named = {one for one in listed if type(one) is int} if isinstance(listed, list) else set()
    if layers > MOST_LISTED:
        return min(first, layers)
    sparse = (at for at in range(first, layers) if (at + 1) % step == 0 and at not in named)
    return layers - sum(1 for _ in sparse)


def _require_no_experts(config: dict[str, Any]) -> None:
    """Raise SpecError for a model with a number of experts under a name that is not read here:
    counted as one without, it would be many times too small."""
    inner = config.get("ffn_config")  # none of which is read
    unread = {name: one for name, one in config.items() if name not in (*ACTIVE, *SHARED, *EXPERTS)}
    for name, value in [*unread.items(), *(inner.items() if isinstance(inner, dict) else ())]:
        if COUNT.fullmatch(name) and type(value) is int and value > 1:
            raise SpecError(
                f"The model's config.json has {shown(name)}: experts under a name that is not "
                "read here, so that its size is not known.",
                hint="Its memory and time cannot be estimated.",
            )


def _list(config: dict[str, Any], names: tuple[str, ...]) -> list[Any]:
    """Return the first list of these names; an empty one if there is none."""
    lists = (config[name] for name in names if isinstance(config.get(name), list))
    return next(lists, [])


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
