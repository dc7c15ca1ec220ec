"""Bases that are stored quantised: which of them can be trained here, and what to do about the
others. Imports nothing heavy."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from finetune_gateway.backends.local import fourbit
from finetune_gateway.errors import SpecError

FOUR_BITS, EIGHT_BITS = "bitsandbytes, 4 bits", "bitsandbytes, 8 bits"
MLX, MXFP4 = "MLX", "mxfp4"
# What transformers 5.23 loads and trains adapters on, and the packages that it needs for that.
LOADED_BY = {"gptq": ("gptqmodel", "optimum"), "awq": ("gptqmodel",)}
FULL_PRECISION = "Use the full-precision model; QLoRA quantises it to 4 bits while loading it."


def stored_method(config: dict[str, Any]) -> str | None:
    """Return how the weights of a model are quantised, by its config.json; None if they are not."""
    text = config.get("text_config")
    places = [config, *([text] if isinstance(text, dict) else [])]
    for place in places:
        for key in ("quantization_config", "compression_config", "quantization"):
            if place.get(key):
                return _method(place[key])
    return None


def _method(stored: Any) -> str:
    if not isinstance(stored, dict):
        return "by an unnamed method"
    method = stored.get("quant_method")
    if method == fourbit.PACKAGE or stored.get("load_in_4bit") or stored.get("load_in_8bit"):
        return FOUR_BITS if stored.get("load_in_4bit") else EIGHT_BITS
    if method is None and {"bits", "group_size"} <= stored.keys():
        return MLX
    return str(method or stored.get("quant_algo") or "by an unnamed method")


def check_base(name: str, config: dict[str, Any], training_type: str | None) -> None:
    """Raise SpecError for a base that is stored quantised, unless this training type can be run on
    top of it."""
    method = stored_method(config)
    if method is None:
        return
    if method == FOUR_BITS:
        if training_type != "qlora":
            raise SpecError(
                f"The base {name} is stored in 4 bits, which only QLoRA can train.",
                hint="Use training_type='qlora', or the model's full-precision folder.",
            )
        return
    if method == MXFP4 and training_type != "qlora":
        return  # unpacked when it is loaded
    packages = LOADED_BY.get(method)
    if packages is None or training_type not in (None, "lora"):
        known = packages is not None or method == MXFP4
        what = f"it cannot be trained {f'by {training_type}' if known else 'here'}"
        raise SpecError(
            f"The base {name} is stored quantised ({method}); {what}.", hint=FULL_PRECISION
        )
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise SpecError(
            f"The base {name} is stored quantised ({method}), which takes packages that are not "
            f"installed: {', '.join(missing)}.",
            hint=f"Run: pip install {' '.join(packages)}. Or use the full-precision model.",
        )
