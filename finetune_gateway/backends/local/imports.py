"""Imports of torch and of what stands on it, without garbage collections meanwhile.

They make half a million objects, next to none of them garbage. Python looks through them again and
again while it imports, 1.1 of 4.0 s of a core, and afterwards in each full collection for 0.3 s: a
training makes three. transformers imports scipy too, for losses of models that find objects in
pictures: 37 MB and 0.2 s.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_gateway.backends.local import fourbit
from finetune_gateway.methods import load_trainer

UNUSED = "scipy"


@contextmanager
def without_collections() -> Iterator[None]:
    """Hold Python's garbage collector back."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@contextmanager
def blocked(package: str) -> Iterator[None]:
    """Let imports of a package fail, as if it were not installed, unless it is there already."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]  # Python's sign for a blocked import
    try:
        yield
    finally:
        del sys.modules[package]


def import_training(method: str, *, bitsandbytes: bool) -> None:
    """Import what trains by a method, with bitsandbytes or without, in a process that does nothing
    else: what is there then is left out of collections to come. Raises MissingDependency."""
    with without_collections(), blocked(UNUSED):
        if bitsandbytes:
            fourbit.import_quietly()
        else:
            fourbit.block_import()
        load_trainer(method)
    gc.freeze()
