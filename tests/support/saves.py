"""Small local jobs, and saves of theirs that are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from support.chaos import ready

from finetune_gateway.backends.local.saving import manifest_of

SMALL: dict[str, Any] = {"lora_r": 4, "batch_size": 4, "max_steps": 1}


# -- saving --------------------------------------------------------------------------------

SAVE = """
import os, sys, time
from pathlib import Path
import torch
from safetensors.torch import save_file
from finetune_gateway.backends.local.saving import save_whole
tensors = {f"w{n}": torch.randn(256, 256) for n in range(4)}
def write(folder):
    for n in range(4):
        save_file(tensors, folder / f"part-{n}.safetensors")
    (folder / "config.json").write_text("{}")
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        save_whole(Path(line.strip()), write, {"job_id": "x"})
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("done", flush=True)
"""


def kill_saves(folder: Path, count: int, seed: int) -> dict[str, int]:
    """``count`` saves killed at random moments: how many left nothing, and how many all."""
    draw, longest, found = random.Random(seed), 0.0, {"absent": 0, "whole": 0}
    saver = subprocess.Popen(
        [sys.executable, "-c", SAVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert saver.stdin is not None and saver.stdout is not None
    try:
        ready(saver)
        for number in range(-3, count):
            target = folder / f"{number}" / "model"
            target.parent.mkdir()
            begun = time.monotonic()
            saver.stdin.write(f"{target}\n")
            saver.stdin.flush()
            child = int(saver.stdout.readline())
            if number >= 0:
                time.sleep(draw.random() * longest)
                with suppress(ProcessLookupError):  # it was done before its moment came
                    os.kill(child, 9)
            assert saver.stdout.readline().strip() == "done"
            if number < 0:  # the first three are left alone, to know how long one takes
                longest = max(longest, (time.monotonic() - begun) * 1.3)
                continue
            manifest = manifest_of(target)
            assert (manifest is None) != target.exists()
            found["whole" if manifest else "absent"] += 1
    finally:
        saver.stdin.close()
        saver.wait(30)
        saver.stdout.close()
    return found
