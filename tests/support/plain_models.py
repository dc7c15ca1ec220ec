"""What a model says when transformers and PEFT load it, without anything of ours."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

MESSAGES = [{"role": "user", "content": "Where is parcel number 3?"}]


def logits(folder: Path, base: Path | None = None, messages: list[Any] | None = None) -> Any:
    """The logits (tokens, vocabulary) of a prompt, rendered by the folder's own template; ``base``:
    of the adapter in the folder."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(base or folder, dtype=torch.float32)
    if base is not None:
        with warnings.catch_warnings():  # peft 0.21 reads what transformers 5.23 has renamed
            warnings.simplefilter("ignore", FutureWarning)
            model = PeftModel.from_pretrained(model, str(folder))
    text = tokenizer.apply_chat_template(
        messages or MESSAGES, tokenize=False, add_generation_prompt=True
    )
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    with torch.inference_mode():
        return model.eval()(ids).logits[0]


def logits_of(handle: Any, messages: list[Any] | None = None) -> Any:
    """The same of the model and the template that a handle answers with."""
    import torch

    local = handle._open()._model  # what 'chat' asks
    ids = torch.tensor([local.template.prompt_ids(messages or MESSAGES, None)])
    with torch.inference_mode():
        return local.model(ids).logits[0]


def four_bits() -> Any:
    """A config of NF4 with double quantisation, computed in fp32, in transformers' own words."""
    import torch
    from transformers import BitsAndBytesConfig

    config: Any = BitsAndBytesConfig
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
