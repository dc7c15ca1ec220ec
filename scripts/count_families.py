"""Write ``families.toml``: which families of models are counted right, and the defaults of configs.

    python -m scripts.count_families > finetune_gateway/estimation/families.toml

Each family of transformers is built without memory (torch's meta device) from the defaults of its
config, and from a changed one; its parameters are compared with those that ``shape_of`` counts.
Takes about two minutes.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from peft.utils.transformers_weight_conversion import (  # type: ignore[attr-defined]
    _MODEL_TO_CONVERSION_PATTERN,
    _MOE_TARGET_MODULE_MAPPING,
)
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)

from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.model_config import OFF, SIZES, shape_of

# Families whose code comes with the model, of a size that was published.
PUBLISHED = ("kimi_k2",)
# What families need that have no usable defaults.
NEEDED: dict[str, dict[str, Any]] = {
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128, "num_experts": 16, "num_shared_expert": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 16},
    "ministral": {"head_dim": 128},
    "nemotron": {"num_key_value_heads": 8},
}
# Where a config has one of these sizes, the changed one has another.
CHANGED: dict[str, int] = {"vocab_size": 1_000, "intermediate_size": 3_072, "head_dim": 96}


def main() -> None:
    """Print the file."""
    logging.disable(logging.WARNING)
    counted = [*(name for name in sorted(CAUSAL) if is_counted(name))]
    print(f"# Made by scripts/count_families.py, with transformers {transformers.__version__}.\n")
    print(f"# Families whose size is counted from config.json within {OFF:.0%}.")
    print("counted = [")
    for name in sorted({*counted, *PUBLISHED}):
        print(f'  "{name}",')
    print("]\n")
    print("# Families in which PEFT adapts experts that are stored as one tensor.")
    print("adapted_experts = [")
    for name in adapted_experts():
        print(f'  "{name}",')
    print("]\n")
    nested = {outer: text.model_type for outer, text in texts()}
    print("# The family of the text in a config with several parts.")
    print("[nested]")
    for outer, family in sorted(nested.items()):
        print(f'"{outer}" = "{family}"')
    defaults = {text.model_type: sizes_of(text) for _, text in texts()}
    for family, sizes in sorted(defaults.items()):
        print(f'\n[defaults."{family}"]')
        for name, value in sorted(sizes.items()):
            print(f"{name} = {json.dumps(value)}")


def adapted_experts() -> list[str]:
    """Return the families of which PEFT has the former names of experts, by the list that it looks
    in itself; it is not a public one."""
    like = _MODEL_TO_CONVERSION_PATTERN
    return sorted(one for one in like if like[one] in _MOE_TARGET_MODULE_MAPPING)


def is_counted(family: str) -> bool:
    """Return whether all configs of a family that can be built here are counted right."""
    ratios = [*ratios_of(family)]
    print(f"{family:28} {' '.join(f'{one:.3f}' for one in ratios) or '-'}", file=sys.stderr)
    return bool(ratios) and all(abs(one - 1) <= OFF for one in ratios)


def ratios_of(family: str) -> Iterator[float]:
    """Yield the counted size of the default config and of a changed one, as a share of the real;
    nothing if it can't be built, and 0.0 if it can't be counted."""
    for changed in ({}, CHANGED):
        try:
            config = AutoConfig.for_model(family, **NEEDED.get(family, {}))
            text = config.get_text_config()
            for name, value in changed.items():
                if isinstance(getattr(text, name, None), int):
                    setattr(text, name, value)
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
            model.tie_weights()
        except Exception as exc:  # whatever a family's code raises for its own defaults
            print(f"{family}: {type(exc).__name__}: {str(exc)[:80]}", file=sys.stderr)
            continue
        real = sum(one.numel() for one in model.parameters())
        try:
            shape = shape_of(json.loads(config.to_json_string(use_diff=True)))
        except SpecError as exc:
            print(f"{family}: {exc}", file=sys.stderr)
            yield 0.0
        else:
            yield shape.parameters / real


def texts() -> Iterator[tuple[str, Any]]:
    """Yield each family with a text config of its own, and the default of that config's class."""
    for family in sorted({*CAUSAL, *MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES}):
        try:
            text = getattr(AutoConfig.for_model(family), "text_config", None)
        except Exception as exc:  # as above
            print(f"{family}: {type(exc).__name__}: {str(exc)[:80]}", file=sys.stderr)
            continue
        if isinstance(text, PreTrainedConfig) and hasattr(text, "num_hidden_layers"):
            yield family, type(text)()


def sizes_of(text: Any) -> dict[str, Any]:
    """Return what ``shape_of`` reads of a config."""
    values = text.to_dict()
    return {name: values[name] for name in SIZES if type(values.get(name)) in (int, bool)}


if __name__ == "__main__":
    main()
