"""Hold a share of the rows out of training, chosen by their content and a seed.

Rows are taken in the order of their positions, as in ``split``, until the share is full. Rows that
nearly repeat each other, and rows with the same prompt, are taken together or not at all, so that
no row that is held out is also trained. Which rows these are depends on nothing else: not on the
model, the method or the place.
"""

from __future__ import annotations

import hashlib
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import IO

from finetune_gateway.data.dataset import CHUNK, Dataset
from finetune_gateway.data.reading import Reading
from finetune_gateway.errors import DataError
from finetune_gateway.methods import HOLD_OUT_ROWS
from finetune_gateway.preparation.convert import whole_file
from finetune_gateway.preparation.split import folded, join_links, unit
from finetune_gateway.settings import files
from finetune_gateway.validation.dataset import near_duplicates
from finetune_gateway.validation.dataset.row_text import (
    FEW_WORDS,
    RowText,
    content_hash,
    extract_row_text,
    parse_leniently,
)

NEAR_BYTES = 32 << 20  # near-duplicates are searched in files up to this size: it takes seconds

Link = tuple[int, int]  # two lines that belong on one side


@dataclass(frozen=True, slots=True)
class Choice:
    """What is held out: 1 for each row that is, else 0. ``note``: what of it is not as it should
    be, in words."""

    parts: bytearray
    note: str = ""

    @property
    def rows(self) -> tuple[int, int]:
        """The rows that are trained, and those that are held out."""
        held_out = sum(self.parts)
        return len(self.parts) - held_out, held_out


def has_enough(dataset: Dataset) -> bool:
    """Return True if there are so many rows that some are held out by default."""
    return sum(1 for _ in islice(dataset.examples(), HOLD_OUT_ROWS)) == HOLD_OUT_ROWS


def choose(dataset: Dataset, share: float, *, seed: int) -> Choice:
    """Return which rows are held out; none of them if no group is small enough."""
    rows = _read(dataset, seed)
    near, note = _near_duplicates(dataset)
    wanted = max(1, round(share * len(rows.lines)))
    parts = _take(rows.heads([*near, *rows.same_prompts]), wanted)
    if near and 2 * sum(parts) < wanted:  # a file that was made from a template, say
        parts = _take(rows.heads(rows.same_prompts), wanted)
        note = "rows that are nearly the same are on both sides: most rows of the file are"
    if not any(parts):
        note = "nothing is held out: too many rows are the same, or have the same prompt"
    return Choice(parts, note)


def write_parts(dataset: Dataset, choice: Choice, folder: Path) -> tuple[Dataset, Dataset]:
    """Write what is trained and what is held out to ``folder``, for this user alone; return both.

    In each, the rows of the other are empty lines: what is said of a line is true of the user's
    file. ``without_gaps`` takes these out.
    """
    digests = hashlib.sha256(), hashlib.sha256()
    paths = [folder / f"{dataset.path.stem}.part{number}" for number in range(2)]
    with ExitStack() as stack:
        outs: list[IO[bytes]] = [
            stack.enter_context(whole_file(path, private=True)) for path in paths
        ]
        last = 0
        for (number, raw), part in zip(dataset.examples(), choice.parts, strict=True):
            gap = b"\n" * (number - last - 1)
            last = number
            for own, (out, digest) in enumerate(zip(outs, digests, strict=True)):
                line = gap + (raw.strip() if own == part else b"") + b"\n"
                digest.update(line)
                out.write(line)
    parts = []
    # What was seen when the rows were read is said once, of what is trained.
    read = dataset.reading
    readings = read, Reading(read.container, numbering=read.numbering, columns=read.columns)
    for path, digest, reading in zip(paths, digests, readings, strict=True):
        name = f"{dataset.path.stem}-{digest.hexdigest()[:16]}.jsonl"
        renamed = path.rename(folder / name)
        sha256 = digest.hexdigest()
        parts.append(
            Dataset(renamed, dataset.name, dataset.container, dataset.source, sha256, reading)
        )
    return parts[0], parts[1]


def without_gaps(part: Dataset, folder: Path) -> Dataset:
    """Return a copy in ``folder`` of a part that ``write_parts`` has written, with its rows alone.
    Raises StoreError when it cannot be written, DataError if the part has changed."""
    with files.storing("The data cannot be kept", folder):
        path, digest = files.write_by_content(
            folder, _rows(part), lambda digest: f"{digest}.jsonl", fsync=False
        )
    return Dataset(path, part.name, source=part.source, sha256=digest)


def _rows(part: Dataset) -> Iterator[bytes]:
    digest = hashlib.sha256()
    with part.path.open("rb") as file:
        while lines := file.readlines(CHUNK):
            digest.update(b"".join(lines))
            yield b"".join(line for line in lines if line != b"\n")
    if digest.hexdigest() != part.sha256:
        raise DataError(
            f"The copy of {part.name} was changed while it was checked.",
            hint="Submit it again; nothing was sent.",
        )


# -- which rows belong together --------------------------------------------------------------


def _near_duplicates(dataset: Dataset) -> tuple[list[Link], str]:
    """Return rows that nearly repeat each other, or why they were not searched."""
    if not near_duplicates.available():
        extra = "pip install 'finetune-gateway[dedup]'"
        return [], f"rows that are nearly the same were not searched ({extra})"
    if dataset.size > NEAR_BYTES:
        size = NEAR_BYTES >> 20
        return [], f"rows that are nearly the same are not searched in files above {size} MB"
    return list(near_duplicates.links(dataset)), ""


@dataclass(frozen=True, slots=True)
class _Rows:
    """Line and position of each row, and pairs of lines with the same prompt."""

    lines: array[int]
    positions: array[float]
    same_prompts: list[Link]

    def heads(self, links: Iterable[Link]) -> array[float]:
        """Return the position of each row's group. The lowest of several would be biased towards 0,
        so it is hashed again."""
        groups = join_links((self._position(one), self._position(two)) for one, two in links)
        rehashed = {head: unit(f"group {head!r}") for head in set(groups.values())}
        heads = (rehashed[groups[one]] if one in groups else one for one in self.positions)
        return array("d", heads)

    def _position(self, line: int) -> float:
        return self.positions[bisect_left(self.lines, line)]


def _read(dataset: Dataset, seed: int) -> _Rows:
    """Return the rows by what they say: neither the format nor the writing of the JSON matters, nor
    case and spaces. Preferences of one prompt belong together; chats, if it is of some words."""
    rows = _Rows(array("I"), array("d"), [])
    first_lines: dict[int, int] = {}
    for number, raw in dataset.examples():
        data = parse_leniently(raw)
        text = extract_row_text(data) if data else None
        rows.lines.append(number)
        content = raw.decode("utf-8", "replace") if text is None else _content_of(text)
        rows.positions.append(unit(f"{seed}\0{folded(content)}"))
        if text is None:
            continue
        judged = text.kind in ("preference", "unpaired_preference")
        if len(text.prompt.split()) > (0 if judged else FEW_WORDS):
            first = first_lines.setdefault(content_hash(text.asked), number)
            if first != number:
                rows.same_prompts.append((first, number))
    return rows


def _content_of(row: RowText) -> str:
    """Return all that a row says, and who is to answer so."""
    label = "" if row.label is None else str(row.label)
    said = "\0".join((row.system or "", row.tools, row.prompt, row.answer, label))
    return f"{said}\0{row.media}" if row.media else said


def _take(heads: array[float], wanted: int) -> bytearray:
    """Return 1 for the rows of whole groups that fill the share, the lowest first. Where each group
    is larger than that, the first one that is at most twice as large is all."""
    order = sorted(range(len(heads)), key=heads.__getitem__)
    taken, left = list[int](), wanted
    for group in _groups(order, heads):
        if len(group) <= left:
            left -= len(group)
            taken += group
    if not taken:
        groups = _groups(order, heads)
        taken = next((group for group in groups if len(group) <= 2 * wanted), [])
    parts = bytearray(len(heads))
    for row in taken:
        parts[row] = 1
    return parts


def _groups(order: list[int], heads: array[float]) -> Iterator[list[int]]:
    return (list(rows) for _, rows in groupby(order, key=heads.__getitem__))
