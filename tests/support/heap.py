"""What stays in memory until the tests end, and what a collection need not look through."""

from __future__ import annotations

import gc
import sys

_frozen = 0  # modules that were imported when the heap was frozen last


def freeze_imports() -> None:
    """Take what modules have made out of all collections to come, where many are new.

    A training makes several full collections. With torch and transformers each takes 0.3 s of a
    processor, with the tests of the whole suite beside them a second.
    """
    global _frozen
    if len(sys.modules) > _frozen + 50:
        gc.collect()
        gc.freeze()
        _frozen = len(sys.modules)
