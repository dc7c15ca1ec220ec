"""A training file, read as rows with their line numbers.

Streams: memory does not grow with the file. Knows how to read, tell the kind, split and
fingerprint; knows nothing of what makes a row good (``checks``) or of tokens (``tokens``).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from finetune_gateway.errors import DataError, NotFoundError, SpecError, StoreError

Kind = Literal["chat", "preference", "unpaired_preference", "prompt_completion", "text", "unknown"]
Rows = Iterable[dict[str, Any]]
Rewrite = Callable[[dict[str, Any]], dict[str, Any]]

CHUNK = 1 << 20  # bytes read at a time
MAX_LINE = 64 << 20  # bytes; a longer line is no training example, and would fill the memory


@dataclass(frozen=True)
class Line:
    """One line as it stands in the file: its number (from 1), offset and bytes, no newline.

    ``cut``: it is longer than 64 MB; ``raw`` is only its beginning.
    """

    number: int
    offset: int
    raw: bytes
    cut: bool = False
    end: bytes = b"\n"  # what was taken off its end


@dataclass(frozen=True)
class Row:
    """One parsed example and the line it came from."""

    line: int
    data: dict[str, Any]


class Dataset:
    """A JSONL file of examples.

    >>> Dataset.open("train.jsonl").fingerprint        # sha256 of the bytes
    >>> Dataset.open([{"messages": [...]}, ...])       # rows from memory, spooled to a file
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or path.name  # what people call it

    @classmethod
    def open(
        cls, source: str | os.PathLike[str] | Rows | Dataset, *, spool: Path | None = None
    ) -> Dataset:
        """A dataset from a path, or from rows in memory, which are written below ``spool``
        (default: the home folder) under their own hash.

        Raises NotFoundError when there is no such file, DataError when it is a folder.
        """
        if isinstance(source, Dataset):
            return source
        if isinstance(source, str | os.PathLike):
            return cls(_existing(Path(source)))
        return cls(_spooled(source, spool))

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    @property
    def fingerprint(self) -> str:
        """sha256 of the file's bytes, hexadecimal."""
        digest = hashlib.sha256()
        for chunk in self._chunks():
            digest.update(chunk)
        return digest.hexdigest()

    def lines(self) -> Iterator[Line]:
        r"""The lines, cut at \n alone: a raw U+2028 inside a string is not a line end
        (``str.splitlines`` would cut there). A line over 64 MB is the last one given, cut."""
        offset = number = 0
        with self.path.open("rb") as file:
            while raw := file.readline(MAX_LINE + 1):
                number += 1
                if len(raw) > MAX_LINE:
                    yield Line(number, offset, raw[:200], cut=True)
                    return
                body = raw.rstrip(b"\r\n")
                yield Line(number, offset, body, end=raw[len(body) :])
                offset += len(raw)

    def rows(self) -> Iterator[Row]:
        """The examples, blank lines left out. Raises DataError at the first line that is not
        a JSON object; run ``validate`` first to see all of them."""
        for number, raw in self._examples():
            yield Row(number, self._parse(number, raw))

    def _examples(self) -> Iterator[tuple[int, bytes]]:
        """Numbers and bytes of the lines that hold something, a byte order mark left out."""
        for line in self.lines():
            if line.cut:
                raise DataError(
                    f"{self.path}: line {line.number} is longer than 64 MB.",
                    hint=f"Run: ftg validate {self.path}",
                )
            raw = line.raw.removeprefix(b"\xef\xbb\xbf") if line.number == 1 else line.raw
            if raw.strip():
                yield line.number, raw

    def system_prompt(self) -> str | None:
        """The system prompt that every row begins with, or None when they differ or have none."""
        found: str | None = None
        for row in self.rows():
            own = _system_of(row.data)
            if own is None or (found is not None and own != found):
                return None
            found = own
        return found

    def copy_into(self, folder: Path, rewrite: Rewrite | None = None) -> tuple[Path, str]:
        """Copy to ``folder/<sha256>.jsonl``, each row through ``rewrite`` where one is given;
        the path and the hash.

        The copy appears whole or not at all. Raises StoreError when it cannot be written.
        """
        digest = hashlib.sha256()
        temporary = folder / f"copy.tmp.{os.getpid()}.{threading.get_ident()}"
        try:
            with temporary.open("wb") as target:
                for chunk in self._chunks() if rewrite is None else self._rewritten(rewrite):
                    digest.update(chunk)
                    target.write(chunk)
                target.flush()
                os.fsync(target.fileno())
            path = folder / f"{digest.hexdigest()}.jsonl"
            os.replace(temporary, path)
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            raise StoreError(
                f"{self.path} cannot be copied to {folder}: {exc.strerror or exc}.",
                hint="Free some space there, or set FTG_HOME to a folder on another disk.",
            ) from None
        return path, digest.hexdigest()

    def _chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def _rewritten(self, rewrite: Rewrite) -> Iterator[bytes]:
        for row in self.rows():
            yield json.dumps(rewrite(row.data), ensure_ascii=False).encode() + b"\n"

    def split(self, ratio: float, *, seed: int = 0, folder: Path) -> tuple[Dataset, Dataset]:
        """Two files, the second with about ``ratio`` of the rows.

        Each row is placed by a hash of its own bytes and the seed, so adding rows moves none of
        the others, and equal rows stay on one side. Raises SpecError for a ratio outside 0..1,
        DataError when one side would be empty.
        """
        if not 0 < ratio < 1:
            raise SpecError(f"A split of {ratio!r} is not between 0 and 1.", hint="Use e.g. 0.1.")
        lines = [raw for _, raw in self._examples()]
        places = [_place(raw, seed) for raw in lines]
        # Of a small file at least one row is held out: the one that would be the first.
        limit = max(ratio, min(places, default=0.0))
        parts = (
            [raw for raw, place in zip(lines, places, strict=True) if place > limit],
            [raw for raw, place in zip(lines, places, strict=True) if place <= limit],
        )
        if not all(parts):
            raise DataError(
                f"A split of {ratio:g} leaves one side of {self.path} empty.",
                hint="Use more rows, another ratio or another seed.",
            )
        folder.mkdir(parents=True, exist_ok=True)
        train, held_out = (
            Dataset(_written(part, folder, self.path.stem), self.name) for part in parts
        )
        return train, held_out

    def _parse(self, number: int, raw: bytes) -> dict[str, Any]:
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as exc:
            raise DataError(
                f"{self.path}: line {number} is not valid JSON: {exc}.",
                hint=f"Run: ftg validate {self.path}",
            ) from None
        if not isinstance(data, dict):
            raise DataError(
                f"{self.path}: line {number} is not a JSON object.",
                hint=f"Run: ftg validate {self.path}",
            )
        return data

    def __repr__(self) -> str:
        return f"Dataset({str(self.path)!r})"


def kind_of(row: dict[str, Any]) -> Kind:
    """Which kind of example a row is, told by its keys."""
    keys = row.keys()
    if {"preferred_output", "non_preferred_output"} & keys or {"chosen", "rejected"} & keys:
        return "preference"
    if "messages" in keys:
        return "unpaired_preference" if "label" in keys else "chat"
    if "prompt" in keys and "completion" in keys:
        return "unpaired_preference" if "label" in keys else "prompt_completion"
    return "text" if "text" in keys else "unknown"


def _system_of(row: dict[str, Any]) -> str | None:
    messages = row.get("messages")
    first = messages[0] if isinstance(messages, list) and messages else None
    if not isinstance(first, dict) or first.get("role") not in ("system", "developer"):
        return None
    content = first.get("content")
    return content if isinstance(content, str) else None


def _place(raw: bytes, seed: int) -> float:
    """A number from 0 to 1 that depends on the row and the seed alone."""
    digest = hashlib.sha256(str(seed).encode() + b"\0" + raw.strip()).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64


def _written(lines: list[bytes], folder: Path, stem: str) -> Path:
    raw = b"\n".join(lines) + b"\n"
    path = folder / f"{stem}-{hashlib.sha256(raw).hexdigest()[:16]}.jsonl"
    path.write_bytes(raw)
    return path


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise DataError(
            f"{str(path)!r} is a folder, not a file.", hint="Name the JSONL file in it."
        )
    if not path.exists():
        raise NotFoundError(
            f"There is no file {str(path)!r}.", hint=f"You are in {os.getcwd()}; check the path."
        )
    if not os.access(path, os.R_OK):
        raise DataError(
            f"{str(path)!r} cannot be read: permission denied.", hint=f"Run: chmod u+r {path}"
        )
    return path


def _spooled(rows: Rows, folder: Path | None) -> Path:
    if folder is None:
        raise DataError(
            "Rows in memory need a folder to be written to.", hint="Pass a path instead."
        )
    lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows]
    raw = ("\n".join(lines) + "\n").encode() if lines else b""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rows-{hashlib.sha256(raw).hexdigest()[:16]}.jsonl"
    path.write_bytes(raw)
    return path
