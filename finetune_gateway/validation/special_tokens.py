"""Special tokens of published tokenizers, by family, each with where it was read.

Only what is never ordinary text: tokens such as Mistral's ``[IMG]`` (a mark of forums), StarCoder's
``<NAME>`` or Falcon's ``>>TITLE<<`` are left out, and so are the marks of think blocks and calls,
of which other rules speak.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from finetune_gateway.text.quoting import quoted


class Family(NamedTuple):
    """The special tokens of models. ``{n}`` stands for digits, ``{x}`` for any name."""

    models: str
    source: str
    tokens: str


_TEMPLATE = "its chat template, docs/families.md"
FAMILIES = (
    Family(
        "OpenAI",
        "tiktoken 0.14, tiktoken_ext/openai_public.py",
        "<|endoftext|> <|endofprompt|> <|fim_prefix|> <|fim_middle|> <|fim_suffix|>",
    ),
    Family(
        "gpt-oss",
        "tiktoken 0.14, o200k_harmony",
        "<|start|> <|end|> <|message|> <|channel|> <|return|> <|call|> <|constrain|>"
        " <|startoftext|> <|endoftext|> <|endofprompt|> <|reserved_{n}|>",
    ),
    Family(
        "ChatML",
        "https://github.com/openai/openai-python/blob/release-v0.28.1/chatml.md",
        "<|im_start|> <|im_end|>",
    ),
    Family(
        "Qwen",
        "Qwen2.5 tokenizer_config.json; ggml-vocab-qwen2.gguf of llama.cpp",
        "<|im_start|> <|im_end|> <|endoftext|> <|object_ref_start|> <|object_ref_end|>"
        " <|box_start|> <|box_end|> <|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|>"
        " <|vision_pad|> <|image_pad|> <|video_pad|> <|fim_prefix|> <|fim_middle|> <|fim_suffix|>"
        " <|fim_pad|> <|repo_name|> <|file_sep|> <|audio_bos|> <|audio_eos|> <|AUDIO|>",
    ),
    Family(
        "Llama 3",
        "ggml-vocab-llama-bpe.gguf of llama.cpp; Llama 3.1 tokenizer_config.json",
        "<|begin_of_text|> <|end_of_text|> <|start_header_id|> <|end_header_id|> <|eot_id|>"
        " <|eom_id|> <|step_id|> <|python_tag|> <|finetune_right_pad_id|> <|image|>"
        " <|reserved_special_token_{n}|>",
    ),
    Family(
        "Llama 4",
        "transformers, models/llama4/convert_llama4_weights_to_hf.py",
        "<|begin_of_text|> <|end_of_text|> <|header_start|> <|header_end|> <|eot|> <|eom|> <|step|>"
        " <|python_start|> <|python_end|> <|finetune_right_pad|> <|image_start|> <|image_end|>"
        " <|patch|> <|tile_x_separator|> <|tile_y_separator|> <|image|> <|fim_prefix|>"
        " <|fim_middle|> <|fim_suffix|> <|text_post_train_reserved_special_token_{n}|>"
        " <|vision_reserved_special_token_{n}|>",
    ),
    Family(
        "Llama 2",
        "ggml-vocab-llama-spm.gguf of llama.cpp; [INST] and <<SYS>> are text to it: its template",
        "<s> </s> <unk> [INST] [/INST] <<SYS>> <</SYS>>",
    ),
    Family(
        "Mistral",
        "mistral-common 1.8, tokens/tokenizers/base.py",
        "<s> </s> <unk> <pad> [INST] [/INST] [AVAILABLE_TOOLS] [/AVAILABLE_TOOLS] [TOOL_RESULTS]"
        " [/TOOL_RESULTS] [TOOL_CALLS] [SYSTEM_PROMPT] [/SYSTEM_PROMPT] [TOOL_CONTENT] [CALL_ID]",
    ),
    Family(
        "Phi-3",
        "ggml-vocab-phi-3.gguf of llama.cpp",
        "<s> </s> <unk> <|endoftext|> <|system|> <|user|> <|assistant|> <|end|> <|placeholder{n}|>",
    ),
    Family(
        "Phi-4",
        "Phi-4 and Phi-4-mini tokenizer_config.json",
        "<|im_start|> <|im_end|> <|im_sep|> <|endoftext|> <|dummy_{n}|> <|fim_prefix|>"
        " <|fim_middle|> <|fim_suffix|> <|system|> <|user|> <|assistant|> <|end|> <|tool_call|>"
        " <|/tool_call|>",
    ),
    Family(
        "Zephyr",
        "its template, llama.cpp src/llama-chat.cpp",
        "<|system|> <|user|> <|assistant|> </s>",
    ),
    Family(
        "DeepSeek",
        "ggml-vocab-deepseek-coder.gguf of llama.cpp; splintr",
        "<\uff5c{x}\uff5c> <|EOT|> <|User|> <|Assistant|>",
    ),
    Family("Hunyuan", _TEMPLATE, "<\uff5c{x}\uff5c>"),
    Family(
        "Gemma",
        "ggml-vocab-gemma-4.gguf of llama.cpp; " + _TEMPLATE,
        "<bos> <eos> <pad> <unk> <start_of_turn> <end_of_turn> <start_of_image> <end_of_image>",
    ),
    Family(
        "Gemma 4",
        "ggml-vocab-gemma-4.gguf of llama.cpp",
        "<bos> <eos> <pad> <unk> <|turn> <turn|> <|tool> <tool|> <|tool_call> <tool_call|>"
        ' <|tool_response> <tool_response|> <|channel> <channel|> <|"|> <|think|> <|image>'
        " <image|> <|image|> <|audio> <audio|> <|audio|> <|video|>",
    ),
    Family(
        "GLM",
        _TEMPLATE + "; transformers, models/glm4v",
        "[gMASK] <sop> <|endoftext|> <|system|> <|user|> <|assistant|> <|observation|>"
        " <|begin_of_image|> <|end_of_image|> <|begin_of_video|> <|end_of_video|> <|begin_of_box|>"
        " <|end_of_box|> <|begin_of_audio|> <|end_of_audio|>",
    ),
    Family(
        "Cohere",
        "ggml-vocab-command-r.gguf of llama.cpp; " + _TEMPLATE,
        "<PAD> <BOS_TOKEN> <EOS_TOKEN> <EOP_TOKEN> <MASK_TOKEN> <|START_OF_TURN_TOKEN|>"
        " <|END_OF_TURN_TOKEN|> <|USER_TOKEN|> <|CHATBOT_TOKEN|> <|SYSTEM_TOKEN|>"
        " <|USER_{n}_TOKEN|> <|EXTRA_{n}_TOKEN|> <|YES_TOKEN|> <|NO_TOKEN|> <|GOOD_TOKEN|>"
        " <|BAD_TOKEN|> <|START_THINKING|> <|END_THINKING|> <|START_RESPONSE|> <|END_RESPONSE|>"
        " <|START_ACTION|> <|END_ACTION|> <|START_TOOL_RESULT|> <|END_TOOL_RESULT|> <|START_TEXT|>"
        " <|END_TEXT|> <|START_OF_IMG|> <|END_OF_IMG|> <|IMG_PATCH|> <|IMG_LINE_BREAK|>",
    ),
    Family(
        "Granite",
        "Granite 3 tokenizer.json; " + _TEMPLATE,
        "<|start_of_role|> <|end_of_role|> <|end_of_text|> <|start_of_plugin|> <|end_of_plugin|>"
        " <|start_of_cite|> <|end_of_cite|> <|tool_call|> <|fim_prefix|> <|fim_middle|>"
        " <|fim_suffix|> <|fim_pad|> <|filename|> <|reponame|> <|unused_{n}|>",
    ),
    Family(
        "InternLM",
        "InternLM2 tokenizer_config.json",
        "<s> </s> <|im_start|> <|im_end|> <|action_start|> <|action_end|> <|plugin|>"
        " <|interpreter|>",
    ),
    Family(
        "Kimi",
        _TEMPLATE + "; splintr",
        "<|im_user|> <|im_assistant|> <|im_system|> <|im_middle|> <|im_end|> <|media_begin|>"
        " <|media_start|> <|media_content|> <|media_end|> <|media_pad|>"
        " <|tool_calls_section_begin|> <|tool_calls_section_end|> <|tool_call_begin|>"
        " <|tool_call_argument_begin|> <|tool_call_end|> <|open|> <|close|> <|sep|> <|end_of_msg|>"
        " <|kimi_image_placeholder|>",
    ),
    Family(
        "LFM2",
        _TEMPLATE,
        "<|startoftext|> <|im_start|> <|im_end|> <|tool_list_start|> <|tool_list_end|>"
        " <|tool_call_start|> <|tool_call_end|> <|tool_response_start|> <|tool_response_end|>",
    ),
    Family(
        "Apertus",
        _TEMPLATE,
        "<|system_start|> <|system_end|> <|developer_start|> <|developer_end|> <|user_start|>"
        " <|user_end|> <|assistant_start|> <|assistant_end|> <|inner_prefix|> <|inner_suffix|>"
        " <|tools_prefix|> <|tools_suffix|>",
    ),
    Family(
        "Apriel",
        _TEMPLATE,
        "<|begin_system|> <|begin_user|> <|begin_assistant|> <|begin_content|>"
        " <|begin_tool_result|> <|system|> <|user|> <|assistant|> <|content|>"
        " <|tool_result|> <|end|>",
    ),
    Family(
        "Solar",
        _TEMPLATE,
        "<|begin|> <|end|> <|content|> <|think|> <|calls|> <|tool:{x}|> <|tools:{x}|>"
        " <|tool_call:{x}|> <|tool_response:{x}|> <|tool_calls|> <|tool_response|>",
    ),
    Family("Jamba", _TEMPLATE, "<|startoftext|> <|bom|> <|eom|>"),
    Family("Muse", _TEMPLATE, "<|start|> <|message|> <|final|> <|patch|> <|eom|> <|eot|>"),
    Family("GigaChat", _TEMPLATE, "<|message_sep|> <|role_sep|> <|function_call|>"),
    Family("Bielik", _TEMPLATE, "<|function_list|> <|function_output|> <|im_start|> <|im_end|>"),
    Family("Ling", _TEMPLATE, "<|role_end|>"),
    Family("Spark", _TEMPLATE, "<|System|> <|User|> <|Bot|> <|Tool|>"),
    Family("Metharme", _TEMPLATE, "<|system|> <|user|> <|model|>"),
    Family(
        "MiniMax",
        _TEMPLATE,
        "]~!b[ ]~b] <begin_of_document> <beginning_of_sentence> <end_of_sentence>",
    ),
    Family("OpenChat", "its template, llama.cpp src/llama-chat.cpp", "<|end_of_turn|>"),
    Family("SmolVLM", _TEMPLATE, "<end_of_utterance>"),
    Family(
        "StarCoder",
        "ggml-vocab-starcoder.gguf of llama.cpp",
        "<|endoftext|> <fim_prefix> <fim_middle> <fim_suffix> <fim_pad> <file_sep>",
    ),
    Family("GPT-NeoX", "ggml-vocab-gpt-neox.gguf of llama.cpp", "<|endoftext|> <|padding|>"),
    Family(
        "Aquila",
        "ggml-vocab-aquila.gguf of llama.cpp",
        "<|startofpiece|> <|endofpiece|> [gMASK] [sMASK]",
    ),
    Family(
        "Whisper",
        "transformers, models/whisper",
        "<|startoftranscript|> <|endoftext|> <|notimestamps|> <|nospeech|> <|startofprev|>",
    ),
)
# Texts of which at least one stands in each token.
HINTS = (
    "<|", "<\uff5c", "INST]", "<s>", "</s>", "SYS>>", "<start_of_", "<end_of_", "<begin", "<bos>",
    "<eos>", "<pad>", "<unk>", "_TOKEN>", "_TOOLS]", "[TOOL_C", "TOOL_RESULTS]", "SYSTEM_PROMPT]",
    "[CALL_ID]", "MASK]", "<sop>", "<fim_", "<file_sep>", "<PAD>", "]~!b[", "]~b]", "<turn|>",
    "<channel|>", "<tool|>", "<tool_call|>", "<tool_response|>", "<image|>", "<audio|>",
)  # fmt: skip
_PLACES = {"{n}": "[0-9]{1,6}", "{x}": "[A-Za-z0-9_\u2581 -]{1,40}"}
# Struck-out text in HTML, which is neither the begin nor the end of a sequence.
_STRUCK_OUT = r"<s>(?:(?!</?s>|\[/?INST)[^\n]){1,200}</s>"


def find(text: str) -> Iterator[str]:
    """Yield the special tokens in a text."""
    for match in _pattern().finditer(text):
        if match["token"]:
            yield match["token"]


def described(token: str) -> str:
    """Return a token and whose it is: ``'<|user|>' of Phi-3, Zephyr, GLM``."""
    names = [name for name, pattern in _by_family().items() if pattern.fullmatch(token)]
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{quoted(token)} of {', '.join(names[:3])}{more}"


@cache
def _pattern() -> re.Pattern[str]:
    tokens = dict.fromkeys(token for family in FAMILIES for token in family.tokens.split())
    return re.compile(f"{_STRUCK_OUT}|(?P<token>{'|'.join(map(_as_pattern, tokens))})")


@cache
def _by_family() -> dict[str, re.Pattern[str]]:
    return {
        family.models: re.compile("|".join(map(_as_pattern, family.tokens.split())))
        for family in FAMILIES
    }


def _as_pattern(token: str) -> str:
    parts = re.split(r"(\{[nx]\})", token)
    return "".join(_PLACES.get(part) or re.escape(part) for part in parts)
