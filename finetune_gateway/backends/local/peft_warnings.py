"""Warnings of PEFT about what is as it should be. Imports no torch."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_one_at_a_time = threading.RLock()


@contextmanager
def ignored() -> Iterator[None]:
    """Put adapters on a model without two warnings of PEFT 0.21: it reads a property that
    transformers 5.23 has renamed; and looks among the modules alone for the rank and the alpha that
    it has itself set for experts in one tensor. Those count: the scale of such an adapter is
    ``lora_alpha / r``, like that of the others."""
    # What is ignored holds for all threads: two at once would leave it so.
    with _one_at_a_time, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings(
            "ignore", r"The following (rank|alpha)_pattern keys did not match", RuntimeWarning
        )
        yield
