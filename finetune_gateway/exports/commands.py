"""The commands that serve a model by vLLM, SGLang and transformers, as shell scripts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_gateway.estimation.serving_tools import ServingTool

HERE = 'cd "$(dirname "$0")"'
PORTS = {"vllm": 8000, "sglang": 30000, "transformers": 8000}


@dataclass(frozen=True)
class Base:
    """A base as a serving tool is given it: a name of the hub with its commit, or a folder."""

    name: str
    revision: str | None = None


@dataclass(frozen=True)
class Served:
    """What is served: whole, or an adapter on its base."""

    name: str  # by which it is asked
    base: Base | None = None  # of an adapter
    rank: int = 0
    modules: tuple[str, ...] = ()
    has_template: bool = True  # in its folder
    has_stops: bool = True


def script(tool: ServingTool, *commands: Sequence[str]) -> str:
    """Return a shell script that runs these commands beside itself; the last one gets what it is
    called with."""
    *first, last = commands
    lines = [*map(_line, first), f'exec {_line(last)} "$@"']
    return "\n".join(["#!/bin/sh", f"# Written for {tool.named}.", "set -e", HERE, *lines]) + "\n"


def _line(words: Sequence[str]) -> str:
    parts: list[str] = []
    for word in words:
        text = word if word.startswith(('"$', "${")) else shlex.quote(word)
        if parts and word.startswith("--"):
            parts.append(f"\\\n  {text}")
        else:
            parts.append(text)
    return " ".join(parts)


def vllm(served: Served, tool: ServingTool) -> list[str]:
    """Return the command of vLLM. ``--generation-config`` has the tokens that stop, and
    ``--chat-template`` the template that was trained: those of the base may be others."""
    if served.base is None:
        return ["vllm", "serve", "./model", "--served-model-name", served.name, *_port("vllm")]
    rank = tool.rank_for(served.rank)
    assert rank is not None  # refused before
    return [
        *("vllm", "serve", served.base.name, *_revision(served.base), "--enable-lora"),
        *("--max-lora-rank", str(rank), "--lora-modules", f"{served.name}=./adapter"),
        *_template(served),
        *(("--generation-config", "./adapter") if served.has_stops else ()),
        *_port("vllm"),
    ]


def sglang(served: Served) -> list[str]:
    """Return the command of SGLang."""
    start = ["python", "-m", "sglang.launch_server", "--model-path"]
    if served.base is None:
        return [*start, "./model", "--served-model-name", served.name, *_port("sglang")]
    return [
        *(*start, served.base.name, *_revision(served.base), "--enable-lora"),
        *("--max-lora-rank", str(served.rank), "--lora-target-modules", *served.modules),
        *("--lora-paths", f"{served.name}=./adapter"),
        *_template(served),
        *_port("sglang"),
    ]


def transformers() -> list[str]:
    """Return the command of transformers, which serves whole models alone."""
    return ["transformers", "serve", "./model", *_port("transformers")]


def fetch(base: Base) -> list[str]:
    """Return the command that brings a base from the hub as files, without links."""
    return ["hf", "download", base.name, *_revision(base), "--local-dir", "base"]


def load_adapter(tool: str, name: str) -> str:
    """Return a script that has a running server load the adapter from its place."""
    path = "/v1/load_lora_adapter" if tool == "vllm" else "/load_lora_adapter"
    body = json.dumps({"lora_name": name, "lora_path": "HERE"})
    allowed = (
        "# The server is started with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, which lets everybody\n"
        "# who reaches it load adapters.\n"
        if tool == "vllm"
        else ""
    )
    return (
        f"#!/bin/sh\n{allowed}set -e\n{HERE}\n"
        f"body=$(printf '%s' {shlex.quote(body)} | sed \"s|HERE|$(pwd)/adapter|\")\n"
        f'curl -sS -X POST "http://localhost:${{PORT:-{PORTS[tool]}}}{path}" \\\n'
        '  -H "Content-Type: application/json" -d "$body"\n'
    )


def _revision(base: Base) -> tuple[str, ...]:
    return ("--revision", base.revision) if base.revision else ()


def _template(served: Served) -> tuple[str, ...]:
    return ("--chat-template", "./adapter/chat_template.jinja") if served.has_template else ()


def _port(tool: str) -> tuple[str, ...]:
    return "--port", f'"${{PORT:-{PORTS[tool]}}}"'
