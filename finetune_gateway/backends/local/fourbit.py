"""4-bit base models for QLoRA: bitsandbytes, imported where it is needed and blocked elsewhere.

Imports nothing heavy itself.
"""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.util import find_spec

from finetune_gateway.errors import MissingDependency

PACKAGE = "bitsandbytes"
NF4 = "nf4"  # 4-bit NormalFloat in blocks of 64, their scales in 8 bits, as in the QLoRA paper


def installed() -> bool:
    """Return True if bitsandbytes is installed."""
    return find_spec(PACKAGE) is not None


def require(what: str) -> None:
    """Raise MissingDependency if bitsandbytes is not installed."""
    if not installed():
        raise MissingDependency(f"{what} (missing: {PACKAGE})", "local")


def block_import() -> None:
    """Let every import of bitsandbytes in this process fail. Only for a process of our own.

    peft imports it wherever it is installed: 0.7 s of CPU and 48 MB in each worker (medians of
    5), for jobs that do not use it.
    """
    sys.modules[PACKAGE] = None  # type: ignore[assignment]  # Python's sign for a blocked import


def import_quietly() -> None:
    """Import bitsandbytes before peft does, without its warning and its download.

    On a CPU it warns about a missing package ``kernels`` at each import, and if there is one, it
    downloads compiled code from the hub. Raises MissingDependency.
    """
    if sys.modules.get(PACKAGE) is not None:
        return
    sys.modules.pop(PACKAGE, None)
    require("A base in 4 bits")
    logging.getLogger(f"{PACKAGE}.backends.cpu.ops").addFilter(_is_useful)
    kernels = sys.modules.get("kernels")
    sys.modules["kernels"] = None  # type: ignore[assignment]  # blocked during the import
    try:
        importlib.import_module("bitsandbytes")
    finally:
        del sys.modules["kernels"]
        if kernels is not None:
            sys.modules["kernels"] = kernels


def _is_useful(record: logging.LogRecord) -> bool:
    return "gemm_4bit_forward" not in str(record.msg)
