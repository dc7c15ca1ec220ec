"""The README of an export: what lies there, how it is served and asked, and what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_gateway.backend import HandleData
from finetune_gateway.estimation.serving_tools import ServingTool
from finetune_gateway.exports.commands import PORTS, Base

ASK = '{"model": "%s", "messages": [{"role": "user", "content": "Hello"}]}'


@dataclass(frozen=True)
class Described:
    """What a README says of an export."""

    to: str
    name: str
    tool: ServingTool | None  # None for weights alone
    weights: str  # adapter or merged
    base: Base
    limits: Sequence[str]
    tried: Sequence[str]
    outtype: str = "auto"


def readme(handle: HandleData, about: Described) -> str:
    """Return it in Markdown."""
    return "\n\n".join(_sections(handle, about)) + "\n"


def _sections(handle: HandleData, about: Described) -> Iterator[str]:
    title = about.tool.title if about.tool else "its weights"
    kind = "A LoRA adapter of" if about.weights == "adapter" else "A whole model, fine-tuned from"
    revision = f" ({about.base.revision})" if about.base.revision else ""
    yield f"# {about.name}, for {title}"
    yield f"{kind} `{about.base.name}`{revision}. `manifest.json` has the sha256 of each file."
    if about.tool:
        yield (
            f"Written for {about.tool.named}, as it was read on {about.tool.as_of}. To install it: "
            f"`{about.tool.install}`"
        )
    yield _serve(about)
    if about.to in PORTS:
        model = "./model" if about.to == "transformers" else about.name
        yield "## Ask it\n\n" + _code(
            f"curl http://localhost:{PORTS[about.to]}/v1/chat/completions \\",
            f"  -H 'Content-Type: application/json' -d '{ASK % model}'",
        )
    if handle.system_prompt:
        yield (
            "## System prompt\n\nAll its training data had one system prompt, which is "
            + ("SYSTEM in the `Modelfile`." if about.to == "ollama" else "in `system_prompt.txt`.")
            + (" Send it with each request." if about.to != "ollama" else "")
        )
    if about.limits:
        yield "## What it cannot do\n\n" + _list(about.limits)
    yield "## What was tried\n\n" + _list(about.tried)


def _serve(about: Described) -> str:
    if about.to == "ollama":
        return "## Serve it\n\n" + _code("sh create.sh", f"ollama run {about.name} Hello")
    if about.to == "gguf":
        return "## Serve it\n\n" + _code("llama-server -m model.gguf --jinja --port 8080")
    if about.to == "merged":
        return "## Load it\n\n" + _code(
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'model = AutoModelForCausalLM.from_pretrained("./model", dtype="auto")',
            'tokenizer = AutoTokenizer.from_pretrained("./model")',
            language="python",
        )
    text = "## Serve it\n\n" + _code("sh serve.sh")
    if about.weights == "adapter":
        text += "\n\nOr, on a server that runs already:\n\n" + _code("sh load_adapter.sh")
    return text


def _code(*lines: str, language: str = "sh") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
