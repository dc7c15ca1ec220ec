"""Rows for each training method: small ones, and real ones from the data beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.pairs import pair_rows
from support.rows import chat_rows

from finetune_gateway.data import canonical
from finetune_gateway.methods import METHODS

FILES = {
    "sft": "foundry_gsm8k_chat/chat_train.jsonl",
    "dpo": "llamafactory_dpo_en/dpo_en_demo.json",
    "orpo": "llamafactory_dpo_en/dpo_en_demo.json",
    "reward": "llamafactory_dpo_en/dpo_en_demo.json",
    "kto": "llamafactory_kto_en/kto_en_demo.json",
    "pretrain": "llamafactory_plain_text/c4_demo.jsonl",
}


def real_rows(shared: Path, method: str, count: int) -> list[dict[str, Any]]:
    """The shortest rows of a public data set that this method takes."""
    path = shared / "data" / FILES[method]
    text = path.read_text("utf-8")
    rows = json.loads(text) if path.suffix == ".json" else map(json.loads, text.splitlines())
    short = sorted(rows, key=lambda row: len(json.dumps(row)))[:count]
    return [canonical.read(row).row for row in short]


def small_rows(method: str, count: int, shift: int = 0) -> list[dict[str, Any]]:
    """Rows of a small web shop; with a shift others, which contradict them."""
    if "preference" in METHODS[method].kinds:
        return pair_rows(count + shift)[shift:]
    chats = chat_rows(count + shift)
    for number, one in enumerate(chats):
        answer = f"Parcel {number} comes on day {(number + shift) % 7}."
        if method == "kto" and number % 2:
            one["label"], answer = False, "No idea, ask somebody else."
        elif method == "kto":
            one["label"] = True
        one["messages"][1]["content"] = answer
    if method == "pretrain":
        return [{"text": " ".join(m["content"] for m in one["messages"])} for one in chats[shift:]]
    return chats[shift:]
