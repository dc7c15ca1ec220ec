"""Slots for local jobs: one for each GPU that may be used, else one for the CPU."""

from __future__ import annotations

import os
import shutil
import subprocess


def slots() -> list[str]:
    """Return the slots for jobs: one per visible GPU, else one for the CPU.

    Asks nvidia-smi rather than torch, which takes 2 s to import.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [f"gpu-{name.strip()}" for name in visible.split(",") if name.strip()] or ["cpu"]
    program = shutil.which("nvidia-smi")
    if program is None:
        return ["cpu"]
    listed = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [f"gpu-{number}" for number in range(count)] or ["cpu"]
