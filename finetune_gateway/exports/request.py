"""What is asked of an export."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Literal

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.exports.gguf import OUTTYPES

To = Literal["merged", "gguf", "ollama", "vllm", "sglang", "transformers"]
TARGETS: tuple[To, ...] = ("merged", "gguf", "ollama", "vllm", "sglang", "transformers")
WEIGHTS = ("adapter", "merged")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,79}")


@dataclass(frozen=True)
class Request:
    """Which tool, under which name, and what is given to it."""

    to: To
    name: str
    weights: str | None = None
    converter: str | os.PathLike[str] | None = None
    outtype: str = "auto"


def request_of(
    to: object,
    name: str | None,
    weights: str | None,
    converter: str | os.PathLike[str] | None,
    outtype: str,
    *,
    default_name: str,
) -> Request:
    """Return what is asked for. Raises SpecError for what cannot be."""
    if to not in TARGETS:
        raise SpecError(
            f"There is no export to {shown(to)}.", hint=f"One of: {', '.join(TARGETS)}."
        )
    if weights is not None and weights not in WEIGHTS:
        raise SpecError(
            f"weights cannot be {shown(weights)}.", hint=f"One of: {', '.join(WEIGHTS)}."
        )
    if outtype not in OUTTYPES:
        raise SpecError(
            f"outtype cannot be {shown(outtype)}.", hint=f"One of: {', '.join(OUTTYPES)}."
        )
    if to != "gguf" and (converter is not None or outtype != "auto"):
        raise SpecError("converter and outtype are for gguf alone.", hint="Leave them out.")
    found = _default(default_name) if name is None else name
    if not isinstance(found, str) or not _NAME.fullmatch(found):
        raise SpecError(
            f"A tool cannot ask for a model by {shown(name)}.",
            hint="Small letters, digits, '.', '-' and '_', such as support-bot.",
        )
    return Request(to, found, weights, converter, outtype)


def _default(name: str) -> str:
    """Return a name of small letters from that of a job or a folder."""
    found = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:80]
    return found or "model"
