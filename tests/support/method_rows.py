"""Real rows for each training method, from the data sets beside the checkout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_gateway.data import canonical

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
