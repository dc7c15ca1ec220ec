"""Render a template by Go itself, where Go is on this machine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from finetune_gateway.errors import GatewayError

SECONDS = 120.0  # the first time Go compiles its library


def has_go() -> bool:
    """Return True if Go's compiler is on the PATH."""
    return shutil.which("go") is not None


def render(template: str, conversations: Sequence[Sequence[Any]]) -> list[str] | None:
    """Return what Go's text/template makes of conversations; None if Go cannot run here. Raises
    GatewayError for a template that Go refuses."""
    source = resources.files("finetune_gateway.exports").joinpath("render.go").read_text("utf-8")
    asked = json.dumps({"template": template, "conversations": [*map(list, conversations)]})
    with TemporaryDirectory() as folder:
        program = Path(folder) / "render.go"
        program.write_text(source, encoding="utf-8")
        try:
            built = subprocess.run(
                ["go", "build", "-o", "render", "render.go"],
                cwd=folder,
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
            if built.returncode:
                return None
            done = subprocess.run(
                [str(program.with_suffix(""))],
                input=asked.encode(),
                capture_output=True,
                timeout=SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["no word"]
        raise GatewayError(f"Go refuses the template: {said[0]}")
    made: list[str] = json.loads(done.stdout)
    return made
