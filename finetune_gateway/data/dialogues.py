"""Pairs whose sides, or whose prompt, are whole dialogues in one text: Human: ... Assistant: ..."""

from __future__ import annotations

import re
from typing import Any

from finetune_gateway.data.readers import pair_of
from finetune_gateway.data.row_reader import Reader

Json = dict[str, Any]

_SPEAKER = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def is_hh(row: Json) -> bool:
    """Return True for a pair whose sides, or whose prompt, are dialogues in one text."""
    good, prompt = row["chosen"], row.get("prompt")
    if not isinstance(good, str) or not isinstance(prompt, str | None):
        return False
    return _begins(good) and (not prompt or _begins(prompt)) or _is_open(prompt or "")


def _begins(text: str) -> bool:
    return text.lstrip("\n").startswith("Human:")


def _is_open(text: str) -> bool:
    """Return True for a dialogue that ends where the answer begins."""
    return _begins(text) and text.rstrip().endswith("\n\nAssistant:")


def hh(reader: Reader) -> Json:
    """Read Anthropic's hh-rlhf: their common beginning is the prompt.

    https://huggingface.co/datasets/Anthropic/hh-rlhf
    """
    if not reader.is_empty("prompt"):
        return _hh_beside(reader)
    good, bad = (_dialogue(reader, key) for key in ("chosen", "rejected"))
    same = zip(good[:-1], bad[:-1], strict=False)
    common = next((at for at, (one, other) in enumerate(same) if one != other), None)
    shared = min(len(good), len(bad)) - 1 if common is None else common
    prompt = good[: max(shared, 0)]
    reader.lists["input.messages"] = "chosen"
    reader.used.add("prompt")  # blank
    return pair_of(reader, good[len(prompt) :], bad[len(prompt) :], prompt)


def _hh_beside(reader: Reader) -> Json:
    """Read a pair whose prompt is a dialogue beside both sides, which may repeat it."""
    prompt = _dialogue(reader, "prompt")
    if prompt and prompt[-1]["role"] == "assistant" and not prompt[-1]["content"]:
        del prompt[-1]
    sides = []
    for key in ("chosen", "rejected"):
        value = reader.row.get(key)
        if not isinstance(value, str) or _begins(value):
            said = _dialogue(reader, key)
            side = said[len(prompt) :] if said[: len(prompt)] == prompt else said
        else:
            reader.used.add(key)
            side = [reader.said("assistant", value.strip(), key)]
        sides.append(side)
    reader.lists["input.messages"] = "prompt"
    return pair_of(reader, sides[0], sides[1], prompt)


def _dialogue(reader: Reader, key: str) -> list[Json]:
    reader.used.add(key)
    value = reader.row.get(key)
    if not isinstance(value, str):
        missing = "missing_preferred" if key == "chosen" else "missing_non_preferred"
        if value is None:
            reader.refuse(key, f"{key!r} is missing", missing)
        else:
            reader.refuse_type(key, value, "a dialogue like that of the other side")
        return []
    before, *parts = _SPEAKER.split(value.lstrip("\n"))
    if before.strip():
        reader.refuse(key, "a dialogue that does not begin with Human:")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        reader.said(roles[speaker], text.strip(), key)
        for speaker, text in zip(parts[::2], parts[1::2], strict=True)
    ]
