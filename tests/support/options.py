"""Options to compare: models, rows and files, and how many bytes a comparison reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.paths import DEMO_TRAIN

DATA = DEMO_TRAIN
MINI, LARGE, SMALL = "gpt-4.1-mini-2025-04-14", "gpt-4.1-2025-04-14", "gpt-4o-mini-2024-07-18"
TINY = "builtin/tiny"
Json = dict[str, Any]


def chat(*texts: str) -> Json:
    roles = ("system", "user", "assistant")[-len(texts) :]
    said = zip(roles, texts, strict=True)
    return {"messages": [{"role": role, "content": text} for role, text in said]}


def write(path: Path, rows: list[Json]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def bytes_read(call: Callable[[], object]) -> int:
    """How many bytes this process, and those it waited for, read while something is done."""
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("needs /proc/self/io")

    def read() -> int:
        return int(counter.read_text().split()[1])

    before = read()
    call()
    return read() - before
