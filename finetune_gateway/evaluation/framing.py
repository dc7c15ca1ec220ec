"""How a base model is asked: without the system prompt of the training, with it, or with rows of
the training as examples before the question."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

from finetune_gateway.evaluation.prompts import Prompt, fingerprint

Json = dict[str, Any]
Example = tuple[int, list[Json]]  # line of a training row, and its messages

SYSTEM = ("system", "developer")


def framed(
    prompt: Prompt, system: str | None, drops: str | None, examples: Sequence[Example]
) -> Prompt:
    """Return a row as it is asked with this system prompt and these examples, under a new id.

    ``system`` goes to a row that begins with no system message, and ``drops`` is taken from one
    that begins with just that; a row with another system prompt keeps it. A row that stays as it
    is keeps its id.
    """
    own = [*takewhile(lambda message: message.get("role") in SYSTEM, prompt.messages)]
    rest = prompt.messages[len(own) :]
    if drops is not None and [message.get("content") for message in own] == [drops]:
        own = []
    elif system and not own:
        own = [{"role": "system", "content": system}]
    messages = [*own, *(message for _, shown in examples for message in shown), *rest]
    if messages == prompt.messages:
        return prompt
    update = {"messages": messages, "id": fingerprint({"messages": messages, **prompt.beside})}
    return prompt.model_copy(update=update)
