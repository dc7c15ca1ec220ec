"""Checkpoints as they are saved, without a training."""

from __future__ import annotations

import json
from pathlib import Path

from finetune_gateway.backends.local import checkpoints
from finetune_gateway.jobs.handle import MANIFEST

WEIGHTS = "adapter_model.safetensors"


def saved_checkpoints(folder: Path, *steps: int) -> Path:
    """Checkpoints of these steps: other bytes at each step."""
    for step in steps:
        point = folder / f"checkpoint-{step}"
        checkpoints.begin(point)
        for name in (*checkpoints.STATE_FILES, WEIGHTS, f"ref/{WEIGHTS}"):
            (point / name).parent.mkdir(exist_ok=True)
            (point / name).write_bytes(bytes([step]) * 64 + name.encode())
        progress = {"trained_tokens": step, "files": MANIFEST}
        (point / checkpoints.PROGRESS).write_text(json.dumps(progress))
        checkpoints.finish(point, {})
    return folder
