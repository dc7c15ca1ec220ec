"""Where the training of a run begins, and what dpo and kto compare it with. Imports torch.

=================  ===============================================================================
a base             a new adapter, which changes nothing yet; trained whole, the base itself
an adapter         of an earlier job (``continue_from``): its weights begin the new adapter, on the
                   same base. Trained whole, it is merged into the base in full precision first
a whole model      of an earlier job: its folder is the base (``origin.resolved``)
=================  ===============================================================================

The reference is the model as it was then, so never the bare base where an adapter was continued.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model, load_peft_weights, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, set_seed

from finetune_gateway.backends.local import peft_warnings
from finetune_gateway.backends.local.configuration import lora_config, train_in_float32
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.step_plan import seed_of
from finetune_gateway.errors import GatewayError

DEFAULT, REFERENCE = "default", "ref"  # PEFT's and TRL's names of the two adapters


def begin(run: Run, model: PreTrainedModel) -> Any:
    """Return the model that is trained: with its adapter in fp32, or whole. Raises GatewayError for
    an adapter that does not fit on it."""
    lora = lora_config(run.spec, model)
    if lora is None:
        return _merged(run, model) if run.start_adapter else model
    set_seed(seed_of(run.spec))  # a new adapter is drawn by lot, as TRL does it
    with peft_warnings.ignored():
        try:
            adapted: Any = get_peft_model(model, lora)
        except (ValueError, TypeError) as exc:  # of what submit could not see: no weights were here
            raise GatewayError(
                f"This model cannot have such an adapter: {exc}",
                hint="Submit it again without target_modules and modules_to_save, or with others.",
            ) from None
    restore(run, adapted)
    return adapted


def restore(run: Run, model: Any) -> None:
    """Hold the adapter, and the reference, in fp32; give them the weights of the continued one, if
    there is one. TRL rounds those on a quantised base to bf16: call this behind it there.

    Raises GatewayError if they are those of another kind of adapter.
    """
    train_in_float32(model)
    if run.start_adapter is None:
        return
    weights = load_peft_weights(str(run.start_adapter), device="cpu")
    for name in (DEFAULT, REFERENCE):
        if name in model.peft_config:
            _load(run, model, name, weights)


def _load(run: Run, model: Any, adapter: str, weights: dict[str, torch.Tensor]) -> None:
    loaded: Any = set_peft_model_state_dict(model, dict(weights), adapter_name=adapter)
    lacking = [name for name in loaded.missing_keys if f".{adapter}." in name]
    if loaded.unexpected_keys or any("lora_" in name for name in lacking):
        raise GatewayError(
            f"The adapter of {run.spec.continue_from} does not fit on this model: "
            f"{len(loaded.unexpected_keys)} of its weights are of no part of it, and "
            f"{len(lacking)} have no value.",
            hint="Its base, or its target_modules, are others.",
        )


def _merged(run: Run, model: PreTrainedModel) -> PreTrainedModel:
    """Return the base with the continued adapter merged into it, in the precision of the base.

    Raises GatewayError for one on an embedding that is the head too, of an earlier version: merged
    into one, it would change the other.
    """
    with peft_warnings.ignored():
        whole: Any = PeftModel.from_pretrained(model, str(run.start_adapter), use_safetensors=True)
    ends = [whole.get_input_embeddings(), whole.get_output_embeddings()]
    tied = model.config.get_text_config().tie_word_embeddings
    if tied and any(isinstance(one, BaseTunerLayer) for one in ends):
        raise GatewayError(
            f"The adapter of {run.spec.continue_from} cannot be merged: the embedding and the head "
            "of its base share one weight, and it is on one of them.",
            hint="Leave training_type out, so that the adapter itself is trained on.",
        )
    merged: PreTrainedModel = whole.merge_and_unload()
    return merged.requires_grad_(True)
