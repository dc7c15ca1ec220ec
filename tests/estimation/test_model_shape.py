"""The size of models with experts, from their config.json, against their model cards."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.estimation.model_shape import lora_parameters


def test_experts_that_every_token_uses_and_blocks_without_experts_are_counted() -> None:
    """Published: Qwen2-57B-A14B 57.4 billion and 14.2 for a token, DeepSeek-V2-Lite 15.7 and 2.4
    (2.7 with its embedding and head), Llama 4 Maverick 400 and 17 (their model cards)."""
    qwen: dict[str, Any] = {
        "model_type": "qwen2_moe", "hidden_size": 3584, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "intermediate_size": 18944,
        "moe_intermediate_size": 2560, "shared_expert_intermediate_size": 20480,
        "num_experts": 64, "num_experts_per_tok": 8, "vocab_size": 151936,
        "tie_word_embeddings": False,
    }  # fmt: skip
    deepseek = {
        "model_type": "deepseek_v2", "hidden_size": 2048, "num_hidden_layers": 27,
        "num_attention_heads": 16, "intermediate_size": 10944, "moe_intermediate_size": 1408,
        "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "first_k_dense_replace": 1, "vocab_size": 102400, "tie_word_embeddings": False,
    }  # fmt: skip
    maverick = {
        "model_type": "llama4_text", "hidden_size": 5120, "num_hidden_layers": 48,
        "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "intermediate_size": 8192, "intermediate_size_mlp": 16384, "num_local_experts": 128,
        "num_experts_per_tok": 1, "interleave_moe_layer_step": 2, "vocab_size": 202048,
        "tie_word_embeddings": False,
    }  # fmt: skip
    llama = {name: value for name, value in maverick.items() if "expert" not in name}
    for config, all_of_it, used in ((qwen, 57.4, 14.2), (deepseek, 15.7, 2.7), (maverick, 400, 17)):
        shape = shape_of(config)
        assert shape.parameters / 1e9 == pytest.approx(all_of_it, rel=0.01)
        active = shape.active_block_parameters + shape.embedding_parameters
        assert active / 1e9 == pytest.approx(used, rel=0.02)
    ernie = {**deepseek, "model_type": "ernie4_5_moe", "moe_num_experts": 64, "moe_k": 6}
    del ernie["n_routed_experts"], ernie["num_experts_per_tok"]
    assert shape_of(ernie).parameters == shape_of(deepseek).parameters
    lists = {**deepseek, "num_experts": 64, "moe_topk": [6] * 27, "num_shared_expert": [2] * 27}
    del lists["n_routed_experts"], lists["num_experts_per_tok"], lists["n_shared_experts"]
    assert shape_of(lists) == shape_of(deepseek)
    with pytest.raises(SpecError, match="'mlp_expert_count': experts under a name"):
        shape_of({**llama, "mlp_expert_count": 16})
    with pytest.raises(SpecError, match="several values of moe_num_experts"):
        shape_of({**ernie, "moe_num_experts": [64, 32]})
    dense = {**llama, "num_experts": 1, "expert_layer_period": 2, "n_expert_groups": 4}
    assert shape_of(dense) == shape_of(llama)
    # PEFT adapts the experts of Qwen3 and the router, no MLP beside them; of Granite only these,
    # and of Qwen2 these and their gate.
    shape = shape_of({**qwen, "model_type": "qwen3_moe"})
    attention = 2 * (3584 + 3584) + 2 * (3584 + 512)
    experts = 64 * (2 * (3584 + 2 * 2560) + 2560 + 3584) + 3584 + 64
    assert lora_parameters(shape, 1) == 28 * (attention + experts)
    granite = shape_of({**qwen, "model_type": "granitemoeshared"})
    shared = 3 * (3584 + 20480)
    assert lora_parameters(granite, 1) == 28 * (attention + shared)
    assert lora_parameters(shape_of(qwen), 1) == 28 * (attention + shared + 3584 + 1)
    assert lora_parameters(shape, 1, ("q_proj",)) == 28 * 2 * 3584
    assert shape.linear_parameters == 28 * (2 * 3584 * (3584 + 512) + 3 * 3584 * 20480)
    only = shape_of({**qwen, "mlp_only_layers": [0, 3], "decoder_sparse_step": 2})
    assert only.dense_layers == 15  # of the odd ones 3 has none


def test_keys_and_values_of_one_vector_are_counted_as_that() -> None:
    """DeepSeek-V3 has 671 billion parameters, 37 for a token, and keeps 576 numbers of a token in
    each of 61 blocks (arXiv 2412.19437): 70 kB, where 128 heads would have 1,750."""
    deepseek: dict[str, Any] = {
        "model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,
        "moe_intermediate_size": 2048, "num_hidden_layers": 61, "num_attention_heads": 128,
        "vocab_size": 129280, "n_routed_experts": 256, "n_shared_experts": 1,
        "num_experts_per_tok": 8, "first_k_dense_replace": 3, "kv_lora_rank": 512,
        "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
        "tie_word_embeddings": False,
    }  # fmt: skip
    shape = shape_of(deepseek)
    assert shape.parameters / 1e9 == pytest.approx(671.0, rel=0.001)
    active = shape.active_block_parameters + shape.embedding_parameters
    assert active / 1e9 == pytest.approx(37, rel=0.02)
    assert shape.cache_bytes == 61 * 576 * 2
    assert shape.linears["kv_a_proj_with_mqa"] == (7168, 576)
    assert lora_parameters(shape, 1, ("q_a_proj",)) == 61 * (7168 + 1536)
    lite = shape_of({**deepseek, "q_lora_rank": None})
    assert lite.linears["q_proj"] == (7168, 128 * 192)
    with pytest.raises(SpecError, match="no usable 'qk_rope_head_dim'"):
        shape_of({**deepseek, "qk_rope_head_dim": None})


def test_blocks_without_attention_keep_nothing_of_a_token() -> None:
    plain: dict[str, Any] = {
        "model_type": "x", "hidden_size": 64, "num_hidden_layers": 8, "num_attention_heads": 4,
        "vocab_size": 100,
    }  # fmt: skip
    whole = shape_of(plain).cache_bytes
    for said, share in (
        ({"layer_types": ["linear_attention", "full_attention"] * 4}, 2),
        ({"layer_types": ["mamba"] * 6 + ["attention"] * 2}, 4),
        ({"layer_types": ["sliding_attention"] * 8}, 1),
        ({"layer_types": [["mamba"], None] * 4}, 1),
        ({"layers_block_type": ["conv", "full_attention"]}, 2),
        ({"full_attention_interval": 4}, 4),
        ({"attn_layer_period": 8}, 8),
        ({"attn_layer_indices": [1, 5]}, 4),
    ):
        assert shape_of({**plain, **said}).cache_bytes * share == whole, said


def test_experts_in_a_part_of_the_config_are_not_left_out() -> None:
    """So has DBRX its own, and is refused rather than counted as 25 of 132 billion."""
    dbrx = {
        "model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "vocab_size": 100352,
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    }  # fmt: skip
    with pytest.raises(SpecError, match="'moe_num_experts'"):
        shape_of(dbrx)
