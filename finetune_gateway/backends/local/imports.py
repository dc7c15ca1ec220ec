"""Imports of torch and of what stands on it, without garbage collections meanwhile.

They make half a million objects, next to none of them garbage. Python looks through them again and
again while it imports, 1.1 of 4.0 s of a core, and afterwards in each full collection for 0.3 s: a
training makes three. transformers imports scipy too, for losses of models that find objects in
pictures: 37 MB and 0.2 s; and datasets, which brings pandas, to know its tables when it sees them:
75 MB and 0.4 s. pyarrow imports pandas too, when it is given values for the first time.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from finetune_gateway.backends.local import fourbit
from finetune_gateway.methods import load_trainer

UNUSED = ("scipy",)
OF_TRL = ("datasets",)
# oneDNN keeps a product for each shape, and as many as 1,024 of them: 114 MB for all lengths of
# rows up to 1,024 tokens. To make one again takes 0.2 ms. In bf16 on a CPU the layers of a model
# have twelve for each length, adapters some more. With 40 million parameters, all trained: 1,443
# to 1,463 MB with 16, 1,487 to 1,495 with 64.
KEPT_PRODUCTS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"


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
def blocked(*packages: str) -> Iterator[None]:
    """Let imports of packages fail, as if they were not installed, but of those that are there."""
    absent = [name for name in packages if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # Python's sign for a blocked import
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


class Absent:
    """A finder of modules that says of one that it is not there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def find_spec(self, name: str, *_: object) -> None:
        if name == self.name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def import_arrow() -> None:
    """Import pyarrow without pandas, of which it asks only once, and not as ``blocked`` answers."""
    sys.meta_path.insert(0, finder := Absent("pandas"))
    try:
        import pyarrow

        pyarrow.array([0])
    finally:
        sys.meta_path.remove(finder)


def import_training(
    method: str, *, bitsandbytes: bool, trl: bool = False, full: bool = False
) -> None:
    """Import what trains by a method, with bitsandbytes or without, in a process that does nothing
    else: what is there then is left out of collections to come. ``trl``: its own step will train.
    ``full``: all weights are trained. Raises MissingDependency."""
    os.environ.setdefault(KEPT_PRODUCTS, "16" if full else "64")
    with without_collections(), blocked(*UNUSED, *(() if trl else OF_TRL)):
        if not trl:
            import_arrow()
        if bitsandbytes:
            fourbit.import_quietly()
        else:
            fourbit.block_import()
        load_trainer(method)
    gc.freeze()
