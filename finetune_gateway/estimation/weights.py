"""The weights of a model folder, from the headers of its safetensors files. Imports no torch.

A safetensors file is 8 bytes that give the length of its header, the header (JSON: the name, type,
shape and place of each tensor), and the tensors, without a gap.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from finetune_gateway.errors import SpecError, StoreError, shown
from finetune_gateway.settings import files, sealed

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# Bytes that are read of what a folder says of itself. The largest models have headers of a few MB,
# and an index of 15 MB; 25 MB of JSON take up to 600 MB of memory.
MAX_HEADER, MAX_INDEX, MAX_CONFIG = 25_000_000, 50_000_000, 5_000_000
MAX_NAME, MAX_SIDE, MAX_SIDES = 500, 2**48, 8  # of a tensor: characters, numbers, dimensions
LFS_POINTER = b"version "  # the first 8 bytes of what Git LFS leaves in place of a file
# Bits of one number, by the names of types that safetensors 0.8 knows.
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 8),
    **dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
}
# A file that was written this short a time ago may be written again without a later time stamp.
STAMP_SECONDS = 0.1


@dataclass(frozen=True)
class Tensor:
    """The type, in safetensors' word, and the shape of a stored tensor."""

    dtype: str
    shape: tuple[int, ...]


def weight_files(folder: Path) -> list[str]:
    """Return the names of the files that the weights of a folder are in, as transformers chooses
    them: ``model.safetensors``, else the shards in the index. They may be missing."""
    if (folder / SINGLE).is_file() or not (folder / INDEX).is_file():
        return [SINGLE]
    return sorted(set(read_index(folder).values()))


def read_index(folder: Path) -> dict[str, str]:
    """Return the file of each tensor by the index of a folder. Raises SpecError for an index that
    cannot be used or leads out of the folder."""
    try:
        index = read_json(folder / INDEX, MAX_INDEX)
        places: dict[str, str] = index["weight_map"]
        wrong = [name for name in places.values() if not _is_file_name(name)]
        wrong += [name for name in places if len(name) > MAX_NAME]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SpecError(f"{folder / INDEX} is no index of weights.", hint=_AGAIN) from None
    except OSError as exc:
        raise _unreadable(folder / INDEX, exc) from None
    if wrong or not places:
        what = f"the weights {shown(wrong[0])}" if wrong else "no weights"
        raise SpecError(f"{folder / INDEX} names {what}.", hint=_AGAIN)
    return places


def read_json(path: Path, most: int) -> Any:
    """Return what is in a JSON file of at most ``most`` bytes. Raises OSError, also for what is no
    regular file, and ValueError."""
    if not path.is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    # By its size first: to read at most so many bytes takes the memory for all of them.
    if path.stat().st_size > most:
        raise ValueError(f"it is larger than {most:,} bytes")
    raw = path.read_bytes()
    try:
        return json.loads(raw)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder's weights.

    Raises SpecError if a file is missing, cut off or damaged, or lacks what the index says.
    """
    names = weight_files(folder)
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise SpecError(
            f"{len(missing)} of the {len(names)} files with the weights in {folder} "
            f"are missing: {listed(missing)}.",
            hint=_AGAIN,
        )
    tensors: dict[str, Tensor] = {}
    for name in names:
        tensors |= read_header(folder / name)
    absent = [] if names == [SINGLE] else sorted(read_index(folder).keys() - tensors.keys())
    if absent:
        raise SpecError(
            f"The index in {folder} names weights that its files do not have: {listed(absent)}.",
            hint=_AGAIN,
        )
    return tensors


def parameters_of(folder: Path, *, tied: bool) -> int | None:
    """Return how many numbers the weights of a folder have, by the headers of their files; None if
    they are not all here. ``tied``: a head that is stored beside the embedding is none of them."""
    try:
        tensors = read_weights(folder)
    except (SpecError, OSError):
        return None
    left_out = {"lm_head.weight"} if tied else set()
    return sum(prod(one.shape) for name, one in tensors.items() if name not in left_out)


def declared_parameters(folder: Path, stored_bytes: int) -> list[int]:
    """Return how many numbers the weights of a folder have by their index, which is here before
    they are: as many as it says, or as its bytes make in the config's type (of ``stored_bytes``)
    and in another. Empty without an index that says so."""
    try:
        about = read_json(folder / INDEX, MAX_INDEX)["metadata"]
        known = {name: about.get(name) for name in ("total_parameters", "total_size")}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    numbers = {name: one for name, one in known.items() if _is_size(one)}
    if "total_parameters" in numbers:
        return [numbers["total_parameters"]]
    widths = sorted((2, 4), key=lambda width: width != stored_bytes)
    return [numbers["total_size"] // width for width in widths] if numbers else []


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_SIDE


def read_header(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file. Raises SpecError if it is cut off or damaged: its
    tensors must fill it to the last byte."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            raw = file.read(length) if length <= min(size - 8, MAX_HEADER) else b""
    except OSError as exc:
        raise _unreadable(path, exc) from None
    if first == LFS_POINTER:
        raise SpecError(
            f"{path} is only a pointer of Git LFS: the weights were not downloaded.",
            hint=f"Run 'git lfs pull' in {path.parent}, or: hf download",
        )
    if not raw:
        raise SpecError(f"{path} is cut off or is no safetensors file.", hint=_AGAIN)
    try:
        header: dict[str, Any] = json.loads(raw)
        tensors, end = _tensors(header)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise SpecError(f"The header of {path} is damaged.", hint=_AGAIN) from None
    if 8 + length + end != size:
        raise SpecError(
            f"{path} has {size:,} bytes; by its header they should be {8 + length + end:,}.",
            hint=_AGAIN,
        )
    return tensors


def _tensors(header: dict[str, Any]) -> tuple[dict[str, Tensor], int]:
    """Return the tensors of a header, and where the last one ends. Raises ValueError, KeyError or
    TypeError for what is no header."""
    places = {name: about for name, about in header.items() if name != "__metadata__"}
    tensors, end = {}, 0
    for name, about in sorted(places.items(), key=lambda item: item[1]["data_offsets"]):
        tensor = Tensor(about["dtype"], tuple(about["shape"]))
        begin, after = about["data_offsets"]
        if len(name) > MAX_NAME or len(tensor.shape) > MAX_SIDES:
            raise ValueError(name)
        if any(type(side) is not int or not 0 <= side <= MAX_SIDE for side in tensor.shape):
            raise ValueError(name)
        numbers = math.prod(tensor.shape)
        if begin != end or (after - begin) * 8 != numbers * BITS[tensor.dtype]:
            raise ValueError(name)
        tensors[name], end = tensor, after
    return tensors, end


# -- what they are recognised by -------------------------------------------------------------


def content_hash(folder: Path, cache: Path, *, anew: bool = False) -> str:
    """Return the hash of the weights of a folder: sha256 over the names and contents of its files.

    ``cache``: a JSON file with the hashes of earlier calls, used for a file that has the same size
    and time stamps; a model of 100 GB takes minutes. ``anew``: read all of it, since a disk that
    loses a bit changes no time stamp. Raises SpecError, StoreError.
    """
    known = _read_cache(cache)
    found = {} if anew else dict(known)
    names = weight_files(folder)
    paths = [(folder / name).resolve() for name in names]
    # Imported here: threads take milliseconds, and an estimate hashes nothing.
    from finetune_gateway.settings.hashing import hashed

    try:
        hashes = hashed(paths, lambda path: _file_hash(path, found))
    except OSError as exc:
        raise _unreadable(Path(str(exc.filename or folder)), exc) from None
    found = {**known, **found}
    if found != known:
        with suppress(OSError):  # a full disk, or another user's home: it is hashed again
            sealed.write(cache, found)
    by_name = dict(zip(names, hashes, strict=True))
    return str(hash_by(folder, by_name))


def hash_by(folder: Path, hashes: Mapping[str, str]) -> str | None:
    """Return the hash of the weights of a folder as it was when its files had these hashes; None if
    one of them has none. Raises SpecError."""
    names = weight_files(folder)
    if not all(name in hashes for name in names):
        return None
    return hashlib.sha256(
        "".join(f"{name} {hashes[name]}\n" for name in names).encode()
    ).hexdigest()


def find_by_hash(sha256: str, cache: Path) -> Path | None:
    """Return a folder whose weights have this hash, of those that ``content_hash`` has seen with
    this ``cache``; None if there is none any more."""
    known = _read_cache(cache)
    for folder in dict.fromkeys(Path(name).parent for name in known):
        hashes = {Path(name).name: one[-1] for name, one in known.items()
                  if Path(name).parent == folder}  # fmt: skip
        with suppress(SpecError, StoreError):
            if hash_by(folder, hashes) == sha256 == content_hash(folder, cache):
                return folder
    return None


def _file_hash(path: Path, known: dict[str, Any]) -> str:
    """Return the sha256 of a file; one that is computed now is added to ``known``."""
    before = stamp(path)
    entry = known.get(str(path))
    if entry and entry[:-1] == before:
        return str(entry[-1])
    digest = files.sha256_of(path)
    written = max(before[1:]) / 1e9
    if stamp(path) == before and time.time() - written > STAMP_SECONDS:
        known[str(path)] = [*before, digest]
    return digest


def stamp(path: Path) -> list[int]:
    """Return by what one sees that a file has changed: its size in bytes, and when its content and
    its entry were last changed, in ns."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _read_cache(path: Path) -> dict[str, Any]:
    """Return the hashes of earlier calls; none from a file that cannot be used."""
    try:
        return {name: one for name, one in sealed.read(path, "").items() if _is_entry(one)}
    except OSError:
        return {}


def _is_entry(value: Any) -> bool:
    """Return True for a stamp and a hash, as ``_file_hash`` keeps them."""
    kinds = [type(one) for one in value] if isinstance(value, list) else []
    return kinds == [int, int, int, str]


# -- words -----------------------------------------------------------------------------------

_AGAIN = "Copy or download the model again."


def _is_file_name(name: Any) -> bool:
    plain = os.path.basename(name) == name and name not in ("", ".", "..")
    return plain and name.endswith(".safetensors")


def _unreadable(path: Path, exc: OSError) -> StoreError:
    return StoreError(f"{path} cannot be read: {exc.strerror or exc}.", hint="Is it still there?")


def listed(names: list[str]) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"
