"""The checks of ``ftg doctor --serve``: which serving tools are here, and whether they will take
what a job makes. Asks nobody, and reads no weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

from finetune_gateway.backends.local import models
from finetune_gateway.estimation import servability
from finetune_gateway.estimation.serving_tools import ServingTool, serving_tools
from finetune_gateway.exports import gguf
from finetune_gateway.reports.machine_checks import Check
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

PACKAGES = {"vllm": "vllm", "sglang": "sglang", "transformers": "transformers"}
PROGRAMS = {"ollama": "ollama", "gguf": gguf.SCRIPT}


def check_serving(
    tools: Sequence[str], spec: TrainingSpec | None, settings: Settings
) -> Iterator[Check]:
    """Yield one check a tool. ``spec``: a job whose result it is to serve; without one only
    whether the tool is here is said. Raises NotFoundError and SpecError for the model."""
    said: dict[str, list[str]] = {}
    if spec is not None:
        folder = models.small_files(models.resolve(spec.model), settings)
        subject = servability.of_spec(spec, models.config_of(folder), folder)
        said = servability.by_tool(subject, tools)
    for name in tools:
        yield _check(name, serving_tools()[name], said.get(name), spec)


def _check(
    name: str, tool: ServingTool, said: list[str] | None, spec: TrainingSpec | None
) -> Check:
    here = f"{_here(name)}; compared with {tool.named}, as read on {tool.as_of}"
    if spec is None:
        return Check(name, "ok", here, f"Add what it is to serve: --serve {name} --model MODEL")
    if not said:
        return Check(name, "ok", f"takes what is trained of {spec.model} ({here})")
    return Check(name, "warning", " ".join(said), f"Looked up: {here}.")


def _here(name: str) -> str:
    if name in PROGRAMS:
        found = shutil.which(PROGRAMS[name])
        return f"{PROGRAMS[name]} is {'on' if found else 'not on'} the PATH"
    try:
        return f"{PACKAGES[name]} {version(PACKAGES[name])} is installed"
    except PackageNotFoundError:
        return f"{PACKAGES[name]} is not installed here"
