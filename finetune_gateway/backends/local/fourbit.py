"""4-bit base models for QLoRA: bitsandbytes, imported where it is needed and blocked elsewhere.

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


def check_base(name: str, config: dict[str, Any], *, wanted: bool) -> None:
    """Raise SpecError for a base that is stored quantised, unless QLoRA is ``wanted`` and fits."""
    stored = config.get("quantization_config")
    if not isinstance(stored, dict):
        return
    ours = stored.get("quant_method") == PACKAGE
    if ours and stored.get("load_in_4bit") and not wanted:
        raise SpecError(
            f"The base {name} is stored in 4 bits, which only QLoRA can train.",
            hint="Use training_type='qlora', or the model's full-precision folder.",
        )
    if (ours and not stored.get("load_in_4bit")) or (wanted and not ours):
        how = stored.get("quant_method", "by an unnamed method")
        raise SpecError(
            f"The base {name} is stored quantised ({how}); it cannot be trained here.",
            hint="Use the full-precision model; QLoRA quantises it to 4 bits while loading it.",
        )
