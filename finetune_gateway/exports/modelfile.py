"""A Modelfile of Ollama: where the model is, the trained template, and each token that stops."""

from __future__ import annotations

from collections.abc import Sequence

# The keywords that are written here; tests/support/data/serving_words.toml has their source.
QUOTES = '"""'


def modelfile(
    source: str, adapter: str | None, template: str, stops: Sequence[str], system: str | None
) -> str:
    """Return a Modelfile. ``source``: a folder or a file beside it, or a whole path; ``template``:
    in Go; ``system``: the prompt that all training data had."""
    lines = [f"FROM {source}"]
    if adapter is not None:
        lines.append(f"ADAPTER {adapter}")
    lines.append(f"TEMPLATE {QUOTES}{template}{QUOTES}")
    lines += [f'PARAMETER stop "{stop}"' for stop in stops]
    if system:
        lines.append(f"SYSTEM {QUOTES}{system}{QUOTES}")
    return "\n".join(lines) + "\n"


def holds(text: str) -> bool:
    """Return True for a text that a Modelfile keeps as it is: Ollama reads three quotes as its end
    and drops characters that cannot be printed."""
    return QUOTES not in text and all(one.isprintable() or one in "\n\t" for one in text)
