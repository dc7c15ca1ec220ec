"""JSON files that show whether they are as they were written: a power cut, a disk or a hand may
have changed one since, to something that can still be read.

Beside what is in it, such a file has the sha256 of that. One of an earlier version has none, and is
taken as it is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from finetune_gateway.errors import StoreError
from finetune_gateway.settings import files

SEAL = "sha256_of_the_rest"


def write(path: Path, data: dict[str, Any], *, fsync: bool = True) -> None:
    """Write a file for this user alone, whole or not at all. Raises OSError."""
    text = json.dumps({**data, SEAL: _sha256(data)}, indent=2, ensure_ascii=False)
    files.write_atomic(path, text, private=True, fsync=fsync)


def read(path: Path, hint: str) -> dict[str, Any]:
    """Return what is in such a file. Raises FileNotFoundError, and StoreError with this ``hint``
    for one that cannot be read, or was changed."""
    try:
        data = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(str(path)) from None
    except OSError as exc:
        raise _damaged(path, exc.strerror or str(exc), hint) from None
    except (ValueError, RecursionError):  # no JSON, no UTF-8
        raise _damaged(path, "it is no JSON any more", hint) from None
    return unsealed(data, path, hint)


def unsealed(data: Any, path: Path, hint: str) -> dict[str, Any]:
    """Return what is in such a file, which was read already. Raises StoreError as ``read``."""
    if not isinstance(data, dict):
        raise _damaged(path, "it is no JSON object", hint)
    seal = data.pop(SEAL, None)
    if seal != _sha256(data) and (seal is not None or any(map(_is_nearly_the_seal, data))):
        raise _damaged(path, "its content is not what was written", hint)
    return data


def _sha256(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _is_nearly_the_seal(name: str) -> bool:
    """Return True for the name of the seal with one character changed."""
    changed = sum(one != other for one, other in zip(name, SEAL, strict=False))
    return len(name) == len(SEAL) and changed == 1


def _damaged(path: Path, why: str, hint: str) -> StoreError:
    return StoreError(f"{path} is damaged: {why}.", hint=hint)
