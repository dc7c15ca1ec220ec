"""Bases in 4 bits, for QLoRA: bitsandbytes, brought in where it is needed and kept out elsewhere.

Imports nothing heavy itself.
"""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.util import find_spec
from typing import Any

from finetune_gateway.errors import MissingDependency, SpecError

PACKAGE = "bitsandbytes"
NF4 = "nf4"  # 4-bit NormalFloat in blocks of 64, their scales in 8 bits: the QLoRA paper's form


def installed() -> bool:
    return find_spec(PACKAGE) is not None


def require(what: str) -> None:
    """Raises MissingDependency, which says what to install."""
    if not installed():
        raise MissingDependency(f"{what} (missing: {PACKAGE})", "local")


def keep_out() -> None:
    """From now on nothing in this process finds bitsandbytes. For a process of our own.

    peft imports it wherever it is installed: 0.7 s of CPU and 48 MB in each worker (medians of
    5), for jobs that have no use for it.
    """
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # Python's own sign for "not to be had"


def bring_in() -> None:
    """Import bitsandbytes, before peft does, without what it says and does on the way.

    On a CPU it complains of a missing package ``kernels`` at every import, and where there is one
    it fetches compiled code from the hub, which we never do unasked. Raises MissingDependency.
    """
    if sys.modules.get(PACKAGE) is not None:
        return
    sys.modules.pop(PACKAGE, None)
    require("A base in 4 bits")
    logging.getLogger(f"{PACKAGE}.backends.cpu.ops").addFilter(_worth_saying)
    kernels = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # as above, for as long as it takes
    try:
        importlib.import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels


def _worth_saying(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in str(record.msg)


def check_base(name: str, config: dict[str, Any], *, wanted: bool) -> None:
    """A base that is stored quantised trains by QLoRA if at all. Raises SpecError."""
    stored = config.get("quantization_config")
    if not isinstance(stored, dict):
        return
    ours = stored.get("quant_method") == PACKAGE
    if ours and stored.get("load_in_4bit") and not wanted:
        raise SpecError(
            f"The base {name} is stored in 4 bits, which only QLoRA trains on.",
            hint="Use training_type='qlora', or the model's full-precision folder.",
        )
    if (ours and not stored.get("load_in_4bit")) or (wanted and not ours):
        how = stored.get("quant_method", "a way that is not named")
        raise SpecError(
            f"The base {name} is stored quantised ({how}); it is not trained on here.",
            hint="Use the full-precision model; QLoRA turns it into 4 bits as it is loaded.",
        )
