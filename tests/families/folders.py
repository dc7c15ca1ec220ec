"""Model folders for chat templates: a small tokenizer that holds the family's special tokens, and
the tokens that end an answer, as the family publishes them.

The vocabularies are trained here, once, on a few texts: what matters is which tokens are special,
whether a text begins with a mark (SentencePiece), and that line breaks merge with what is beside.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers.trainers import BpeTrainer

import finetune_gateway

Kind = Literal["bytes", "pieces"]  # byte-level BPE; SentencePiece with a mark before every text

TEXTS = Path(finetune_gateway.__file__).parent / "resources" / "demo_train.jsonl"
SIZE = 1200  # entries of a vocabulary
# Llama 3's and Qwen's: a line break belongs to the punctuation or to the line breaks before it.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MARKUP = (
    r"<\|[^<>\s{}']{1,40}>|<[\w:/]{1,40}\|>|<｜[^<>\s]{1,40}｜>|\[\|\w+\|\]|\[/?[A-Z_]{3,20}\]"
    r"|〈\|\w+\|〉|</?seed:\w+>|<SPECIAL_\d+>|<(?:start|end)_of_\w+>|<begin\w*_of_\w+>|\[e~\[|\]~!?b\[?"
    r"|\[gMASK\]|<sop>|<s>|</s>|<bos>|<eos>|<sep>|</?role>|</?assistant>|</?user>|</?system>"
)
# Tokens of their own that are not special: a tokenizer decodes them as text.
PLAIN = (
    *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<minimax:tool_call>"),
)


@dataclass(frozen=True)
class Published:
    """What a family publishes beside its template."""

    sign: str  # a text that only its templates hold
    eos: str
    stops: tuple[str, ...]  # eos_token_id of generation_config.json
    bos: str | None = None
    kind: Kind = "bytes"
    rstrip: bool = False  # True if special tokens swallow the spaces behind them
    think_is_special: bool = False


# The first whose sign is in the template.
FAMILIES = (
    Published("<|turn>", "<eos>", ("<eos>", "<turn|>", "<|tool_response>"), "<bos>"),
    Published("<start_of_turn>", "<eos>", ("<eos>", "<end_of_turn>"), "<bos>"),
    Published("<|return|>", "<|return|>", ("<|return|>", "<|endoftext|>", "<|call|>"),
              "<|startoftext|>"),
    Published("<|python_tag|>", "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"),
              "<|begin_of_text|>"),
    Published("<|start_header_id|>", "<|eot_id|>", ("<|end_of_text|>", "<|eot_id|>"),
              "<|begin_of_text|>"),
    Published("<|header_start|>", "<|eot|>", ("<|end_of_text|>", "<|eom|>", "<|eot|>"),
              "<|begin_of_text|>"),
    Published("<atem:", "<|eot|>", ("<|eot|>",), "<|begin_of_text|>"),
    Published("[gMASK]", "<|endoftext|>", ("<|endoftext|>", "<|user|>", "<|observation|>")),
    Published("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", ("<|END_OF_TURN_TOKEN|>",),
              "<BOS_TOKEN>"),
    Published("<|start_of_role|>", "<|end_of_text|>", ("<|end_of_text|>",)),
    Published("<|im_middle|>", "[EOS]", ("<|im_end|>",), "[BOS]"),
    Published("<|end_of_msg|>", "[EOS]", ("<|end_of_msg|>",), "[BOS]"),
    Published("[e~[", "[e~[", ("[e~[",), "]~!b["),
    Published("<seed:eos>", "<seed:eos>", ("<seed:eos>",), "<seed:bos>"),
    Published("<｜end▁of▁sentence｜>", "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",),
              "<｜begin▁of▁sentence｜>"),
    Published("<｜Assistant｜>", "<｜end▁of▁sentence｜>", ("<｜end▁of▁sentence｜>",),
              "<｜begin▁of▁sentence｜>"),
    Published("<|role_sep|>", "</s>", ("</s>", "<|message_sep|>"), "<s>"),
    Published("<|assistant_end|>", "</s>", ("</s>", "<|assistant_end|>", "<|tools_suffix|>"),
              "<s>"),
    Published("<SPECIAL_12>", "<SPECIAL_12>", ("<SPECIAL_12>",), "<s>"),
    Published("<end_of_utterance>", "<end_of_utterance>", ("<end_of_utterance>",), "<|im_start|>"),
    Published("<end_of_sentence>", "<end_of_sentence>", ("<end_of_sentence>",)),
    Published("<|role_end|>", "<|role_end|>", ("<|endoftext|>", "<|role_end|>"),
              "<|startoftext|>"),
    Published("<|begin_assistant|>", "<|end|>", ("<|end|>",), "<s>"),
    Published("<|tool_result|>", "<|end|>", ("<|end|>",), "<s>"),
    Published("<|calls|>", "<|end|>", ("<|end|>", "<|calls|>")),
    Published("<|end|>", "<|endoftext|>", ("<|endoftext|>", "<|assistant|>", "<|end|>"), "<s>",
              "pieces", rstrip=True),
    Published("<|tool_call_start|>", "<|im_end|>", ("<|im_end|>",), "<|startoftext|>",
              think_is_special=True),
    Published("<|im_end|>", "<|im_end|>", ("<|im_end|>", "<|endoftext|>"), "<s>"),
    Published("[|endofturn|]", "[|endofturn|]", ("[|endofturn|]",), "[BOS]"),
    Published("[SYSTEM_PROMPT]", "</s>", ("</s>",), "<s>"),
    Published("[IMG]", "</s>", ("</s>",), "<s>"),
    Published("'[/INST]'", "</s>", ("</s>",), "<s>"),  # Tekken's: no space behind
    Published("[INST]", "</s>", ("</s>",), "<s>", "pieces"),
    Published("<|bom|>", "<|eom|>", ("<|eom|>", "<|endoftext|>"), "<|startoftext|>"),
    Published("hy_Assistant", "<｜hy_eos｜>", ("<｜hy_eos｜>",), "<｜hy_begin_of_sentence｜>"),
    Published("</assistant>", "</assistant>", ("</assistant>",)),
    Published("<sep>", "<sep>", ("<sep>", "<|endoftext|>")),
)  # fmt: skip
OTHERWISE = Published("", "</s>", ("</s>",), "<s>", "pieces")


def published(template: str) -> Published:
    """Return what the family of a template publishes."""
    return next((one for one in FAMILIES if one.sign in template), OTHERWISE)


def special_tokens(text: str) -> list[str]:
    """Return the special tokens in a template, or in what it renders."""
    return sorted(set(re.findall(MARKUP, text)))


def write_folder(folder: Path, template: str, rendered: str = "") -> Path:
    """Write a model folder for a template. ``rendered``: texts that it wrote, for the tokens that
    it makes of pieces."""
    family = published(template)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_for(family, f"{template}\n{rendered}")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": family.eos}
    if family.bos is not None:
        config["bos_token"] = family.bos
    stops = [tokenizer.token_to_id(token) for token in family.stops]
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    for name, content in (
        ("tokenizer_config.json", config),
        ("generation_config.json", {"eos_token_id": stops}),
        ("config.json", {"model_type": "llama"}),
    ):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def tokenizer_for(family: Published, text: str) -> Tokenizer:
    """Return a tokenizer that knows the special tokens in ``text`` and those of the family."""
    tokenizer = Tokenizer.from_str(_vocabulary(family.kind))
    special = {*special_tokens(text), *family.stops, family.eos, family.bos or family.eos}
    tokens = {token: True for token in special} | {
        token: family.think_is_special and "think" in token for token in PLAIN if token in text
    }
    for token, is_special in sorted(tokens.items()):
        added = AddedToken(token, special=is_special, normalized=False, rstrip=family.rstrip)
        (tokenizer.add_special_tokens if is_special else tokenizer.add_tokens)([added])
    return tokenizer


@lru_cache
def _vocabulary(kind: Kind) -> str:
    """Return a trained tokenizer without special tokens, as JSON."""
    lines = [*TEXTS.read_text(encoding="utf-8").splitlines()[:300], *["?\n\n", ".\n", "\n\n\n"] * 9]
    if kind == "bytes":
        tokenizer = Tokenizer(models.BPE())
        split = pre_tokenizers.Split(Regex(SPLIT), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = BpeTrainer(vocab_size=SIZE, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(lines, trainer)
        return tokenizer.to_str()
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = BpeTrainer(vocab_size=SIZE, special_tokens=["<unk>"], show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    return _as_llama_2(json.loads(tokenizer.to_str()))


def _as_llama_2(tokenizer: dict[str, dict[str, object]]) -> str:
    """Return it with a byte for each character that it does not know, a mark before every text,
    and no words of its own, as Llama 2's tokenizer was converted."""
    vocabulary = tokenizer["model"]["vocab"]
    assert isinstance(vocabulary, dict)
    for byte in range(256):
        vocabulary[f"<0x{byte:02X}>"] = len(vocabulary)
    changed = Tokenizer.from_str(json.dumps({**tokenizer, "pre_tokenizer": None}))
    changed.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    changed.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    return changed.to_str()
