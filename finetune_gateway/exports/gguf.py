"""A model as GGUF, by llama.cpp's own converter where it is on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from finetune_gateway.errors import GatewayError, NotFoundError
from finetune_gateway.estimation.serving_tools import ServingTool, serving_tools
from finetune_gateway.settings import interpreter
from finetune_gateway.text.cleaning import visible

SCRIPT = "convert_hf_to_gguf.py"
OUTTYPES = ("auto", "f32", "f16", "bf16", "q8_0")
MAGIC = b"GGUF"
SAID = 1_500  # characters of what it says when it refuses
QUIET = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "TOKENIZERS_PARALLELISM": "false"}


def find_converter(given: str | os.PathLike[str] | None, tool: ServingTool) -> Path:
    """Return the converter: the one that is named (it, or its folder), else that on the PATH.
    Raises NotFoundError with the commands that bring it."""
    if given is not None:
        place = Path(given).expanduser()
        place = place / SCRIPT if place.is_dir() else place
        if place.is_file():
            return place.absolute()
        raise NotFoundError(f"There is no {visible(str(place))}.", hint=how_to_get(tool))
    found = shutil.which(SCRIPT)
    if found is None:
        raise NotFoundError(
            f"llama.cpp's converter ({SCRIPT}) is not on the PATH: nothing was written.",
            hint=how_to_get(tool),
        )
    return Path(found).absolute()


def how_to_get(tool: ServingTool) -> str:
    """Return the commands that bring the converter, with the versions that were read."""
    return (
        "git clone https://github.com/ggml-org/llama.cpp && "
        f"git -C llama.cpp checkout {tool.version} && {tool.install}; "
        f"then: --converter llama.cpp/{SCRIPT}"
    )


def command(converter: str, model: str, target: str, outtype: str) -> list[str]:
    """Return the converter's arguments, without the Python that runs it."""
    return [converter, model, "--outfile", target, "--outtype", outtype]


def convert(converter: Path, model: Path, target: Path, outtype: str) -> None:
    """Write a model folder as GGUF. Raises GatewayError with what the converter says if it
    refuses."""
    done = subprocess.run(
        interpreter.script(*command(str(converter), str(model), str(target), outtype)),
        env={**os.environ, **QUIET},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    said = done.stdout.decode(errors="replace").strip()
    if done.returncode or not target.is_file():
        raise GatewayError(
            f"llama.cpp's converter refuses this model. It says: {_reason(said)}",
            hint=f"It needs packages: {serving_tools()['gguf'].install}"
            if "ModuleNotFoundError" in said
            else "Take the newest llama.cpp, or serve the model by vLLM, SGLang or transformers.",
        )
    with target.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise GatewayError(f"What {converter.name} wrote is no GGUF.")


def _reason(said: str) -> str:
    """Return the end of what it says: the error, below a traceback's last frame."""
    lines = [line.strip() for line in visible(said[-SAID:]).splitlines() if line.strip()]
    return lines[-1] if lines else "nothing."
