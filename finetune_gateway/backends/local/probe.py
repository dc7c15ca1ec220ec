"""What a model is asked once it is trained, to prove that it answers: the first of its own rows
that can be asked, else a plain question. What is wrong with a row is no fault of the model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any

from finetune_gateway.backends.local.run import Run
from finetune_gateway.tokens.chat_template import row_limit
from finetune_gateway.tokens.template_survey import TOOLS

ROWS = 100  # that are tried
PLAIN_TEXT = "Hello."
PLAIN: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": PLAIN_TEXT},
        {"role": "assistant", "content": PLAIN_TEXT},
    ]
}
PLAIN_WITH_TOOLS = {**PLAIN, "tools": TOOLS}  # for a template that asks for some


def first_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Yield the rows that are tried, in their order."""
    return (row.data for row in islice(run.train.rows(), ROWS))


def limit_of(run: Run, config: Any) -> int:
    """Return how many tokens of a row may be asked: what the model reads, and of what is no text
    what was trained, since a prompt that fills that leaves no answer of its row.

    ``config``: the model's, of transformers.
    """
    context = getattr(config, "max_position_embeddings", None) or sys.maxsize
    if run.spec.method == "pretrain":  # texts are cut into pieces: nothing of them is left out
        return context
    return min(context, row_limit(run.spec.max_length, context))
