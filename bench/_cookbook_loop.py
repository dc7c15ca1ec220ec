"""What OpenAI's cookbook does to a file (Chat_finetuning_data_prep), written anew as one script.

Loads all rows, checks the format, then encodes each field of each message, and each answer once
more. Where the notebook dies of a TypeError (calls of tools, no content), this encodes the JSON
of the value or nothing. Usage: python _cookbook_loop.py FILE; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

# sha1 of the address of o200k_base.tiktoken: tiktoken's name for it in its cache.
O200K = "fb374d419588a4632f3f557e76b4b70aebbca790"
KEYS = {"role", "content", "name", "function_call", "weight"}
ROLES = {"system", "user", "assistant", "function"}

Encode = Callable[[str], list[int]]


def engine() -> tuple[str, Encode]:
    """tiktoken where its table is at hand (TIKTOKEN_CACHE_DIR), else splintr."""
    cache = os.environ.get("TIKTOKEN_CACHE_DIR")
    if cache and (Path(cache) / O200K).is_file():
        import tiktoken

        return "tiktoken", tiktoken.get_encoding("o200k_base").encode
    import splintr

    return "splintr-rs", splintr.Tokenizer.from_pretrained("o200k_base").encode_ordinary


def format_errors(rows: list[dict[str, Any]]) -> Counter[str]:
    """The notebook's checks of the format."""
    errors: Counter[str] = Counter()
    for row in rows:
        messages = row.get("messages")
        if not messages:
            errors["missing_messages_list"] += 1
            continue
        for message in messages:
            errors["missing_key"] += not {"role", "content"} <= message.keys()
            errors["unrecognized_key"] += bool(message.keys() - KEYS)
            errors["unrecognized_role"] += message.get("role") not in ROLES
            errors["missing_content"] += not isinstance(message.get("content"), str)
        errors["no_assistant"] += all(m.get("role") != "assistant" for m in messages)
    return errors


def row_tokens(messages: list[dict[str, Any]], encode: Encode) -> tuple[int, int]:
    """Tokens of a row and of its answers."""
    total, answers = 3, 0
    for message in messages:
        total += 3 + ("name" in message)
        for value in message.values():
            if value is not None:
                total += len(encode(value if isinstance(value, str) else json.dumps(value)))
        if message["role"] == "assistant" and message.get("content"):
            answers += len(encode(message["content"]))
    return total, answers


def main(path: str) -> None:
    name, encode = engine()
    encode("Its tables are made.")
    began = time.perf_counter()
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    errors = format_errors(rows)
    counts = [row_tokens(row["messages"], encode) for row in rows]
    totals = [total for total, _ in counts]
    found = {
        "engine": name,
        "rows": len(rows),
        "total": sum(totals),
        "trained": sum(answers for _, answers in counts),
        "median": median(totals),
        "errors": dict(+errors),
        "seconds": time.perf_counter() - began,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
