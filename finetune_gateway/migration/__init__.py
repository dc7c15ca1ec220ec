"""Leaving a host before it stops: take stock of its fine-tunes, save them, plan where they go.

    from finetune_gateway import migration

    for one in migration.list_fine_tunes("openai").fine_tunes:
        print(one.model, one.days_left)

Each function imports what it needs when it is called: the SDK of hosted backends among it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from finetune_gateway.backend import Backend
    from finetune_gateway.migration.inventory import Inventory


def list_fine_tunes(
    backends: str | Backend | Sequence[str | Backend] = "openai",
    *,
    home: str | os.PathLike[str] | None = None,
) -> Inventory:
    """Return every fine-tune that these keys see at their host, first lost first.

    Arguments:
        backends: A host by name, or an OpenAIBackend for each key.
        home: The folder with your jobs, by default FTG_HOME: which fine-tunes are yours.

    Raises SpecError for a backend that is no host of OpenAI's contract, BackendError if no key was
    shown any job or model.
    """
    from finetune_gateway.migration import listing

    return listing.list_fine_tunes(backends, home)
