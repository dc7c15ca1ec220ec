"""A Llama whose tokenizer is a BPE that falls back to bytes, as SentencePiece's: the converter of
llama.cpp takes it without knowing it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
PAIRS = (("t", "h"), ("th", "e"), ("▁", "the"), ("i", "n"), ("▁", "a"), ("e", "r"), ("o", "n"))
LETTERS = "▁abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,!?"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write_tokenizer(folder: Path) -> int:
    """Write the tokenizer and the template; returns the size of the vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    words = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS]
    vocabulary = {word: place for place, word in enumerate(words)}
    for one, other in PAIRS:
        vocabulary.setdefault(one + other, len(vocabulary))
    tokenizer: Any = Tokenizer(
        models.BPE(vocabulary, [*PAIRS], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(one, special=True) for one in SPECIAL])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "<|im_end|>",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return len(vocabulary)


def write_model(folder: Path) -> Path:
    """Write an untrained model with it, whose answers differ from prompt to prompt."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    size = write_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        bos_token_id=1,
        eos_token_id=4,
        max_position_embeddings=512,
        initializer_range=0.3,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder
