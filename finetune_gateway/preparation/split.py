"""Split a dataset into parts by the content of each row.

A row's position is a number from 0 to 1: a hash of the seed and the row, with case and spaces
folded. Adding rows moves none of the others, and rows that differ only in case and spaces stay
together. Near-duplicates, and rows with the same prompt and different answers, form a group with
one position: a row moves only if an added row joins its group to another, or if the group becomes
too large to be held out. *Stratified*, the rows of each short final answer (or, if answers are
long, of each system prompt) are split separately; new rows then move at most rows near the limit.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import IO, Any

from finetune_gateway.data.canonical import as_sent
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.data.row_content import LONG, folded_text
from finetune_gateway.errors import DataError, SpecError, shown
from finetune_gateway.preparation.convert import raise_if_taken, whole_file
from finetune_gateway.settings.arguments import as_path
from finetune_gateway.settings.files import storing
from finetune_gateway.validation.dataset import near_duplicates
from finetune_gateway.validation.dataset.row_text import FEW_WORDS, content_hash, iter_row_texts
from finetune_gateway.validation.duplicates import same_lines
from finetune_gateway.validation.text_only import require_text

SHORT = 40  # characters; a shorter final answer is a class
_HELD_BACK = 2.0  # position of rows kept for the first part: beyond every limit
REST = ""  # the stratum of rows without a stratum of their own


@dataclass(frozen=True, slots=True)
class Assignment:
    """The part of each row."""

    parts: bytearray
    rows: tuple[int, ...]  # of each part
    joined: int | None  # rows kept with their near-duplicates; None: these were not searched
    loosened: int = 0  # rows of groups too large to be kept together


def is_share(ratio: Any) -> bool:
    """Return True for a number between 0 and 1."""
    try:
        return bool(0 < ratio < 1)
    except (TypeError, ArithmeticError):  # no number; a NaN of Decimal
        return False


def split(
    dataset: Dataset, ratio: float, *, seed: int, folder: Path,
    stratify: bool = False, near: bool = True, private: bool = False,
) -> tuple[Dataset, Dataset]:  # fmt: skip
    """Write two files below ``folder``, named by their content; see ``Dataset.split``. ``private``:
    for this user alone, whatever the umask."""
    if not is_share(ratio):
        raise SpecError(f"A split of {shown(ratio)} is not between 0 and 1.", hint="Use e.g. 0.1.")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SpecError(f"seed cannot be {shown(seed)}.", hint="Give a whole number.")
    folder = as_path(folder, "folder")
    assignment = assign(dataset, (1 - ratio, ratio), seed=seed, stratify=stratify, near=near)
    with storing("The parts cannot be written", folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{dataset.path.stem}.part{number}" for number in range(2)]
    parts = []
    digests = _write_parts(dataset, assignment, paths, private=private)
    for path, digest in zip(paths, digests, strict=True):
        renamed = path.rename(folder / f"{dataset.path.stem}-{digest[:16]}.jsonl")
        parts.append(Dataset(renamed, dataset.name, source=dataset.source, sha256=digest))
    return parts[0], parts[1]


def write(
    dataset: Dataset, ratios: Sequence[float], paths: Sequence[Path], *,
    seed: int = 0, stratify: bool = False, near: bool = True, force: bool = False,
) -> Assignment:  # fmt: skip
    """Split a dataset into files of these shares.

    Raises SpecError if the shares do not add up to 1 or a file exists, DataError if a part would
    be empty.
    """
    if any(not 0 < ratio < 1 for ratio in ratios) or not math.isclose(sum(ratios), 1):
        raise SpecError(
            f"The shares {'/'.join(f'{ratio:g}' for ratio in ratios)} do not add up to 1.",
            hint="For example: --ratio 0.9/0.1",
        )
    for path in paths:
        raise_if_taken(path, dataset, force)
    assignment = assign(dataset, ratios, seed=seed, stratify=stratify, near=near)
    _write_parts(dataset, assignment, paths)
    return assignment


def _write_parts(
    dataset: Dataset, assignment: Assignment, paths: Sequence[Path], *, private: bool = False
) -> list[str]:
    """Write the parts in one pass; return the SHA-256 of each."""
    digests = [hashlib.sha256() for _ in paths]
    with ExitStack() as stack:
        files: list[IO[bytes]] = [
            stack.enter_context(whole_file(path, private=private)) for path in paths
        ]
        for (_, raw), part in zip(dataset.examples(), assignment.parts, strict=True):
            line = raw.strip() + b"\n"
            digests[part].update(line)
            files[part].write(line)
    return [digest.hexdigest() for digest in digests]


def assign(
    dataset: Dataset, ratios: Sequence[float], *, seed: int, stratify: bool, near: bool
) -> Assignment:  # fmt: skip
    """Return the part of each row, in order.

    Raises DataError for a file that is no text.

    Memory: 17 bytes a row and 32 more for a moment, stratified 40; 200 for near-duplicates.
    """
    require_text(dataset)
    search_near = near and near_duplicates.available()
    links = list(near_duplicates.links(dataset)) if search_near else []
    links += _same_prompts(dataset) if near else []
    same = [(one.earlier, one.line) for one in same_lines(dataset)]
    positions, strata, names = array("d"), array("L"), dict[str, int]()
    linked = {line: 0.0 for link in (*links, *same) for line in link}
    for number, raw in dataset.examples():
        position = _position(raw, seed)
        positions.append(position)
        if number in linked:
            linked[number] = position
        own = stratum(dataset.parse(number, raw)) if stratify else REST
        strata.append(names.setdefault(own, len(names)))
    # Those that are written the same, apart from case and spaces, have one position as it is.
    links += [(one, two) for one, two in same if linked[one] != linked[two]]
    groups = join_links((linked[one], linked[two]) for one, two in links)
    max_rows = max(2.0, min(ratios) * len(positions) / 2)
    loosened = _loosen(positions, groups, max_rows, sum(ratios[1:]))
    joined = _join(positions, strata, groups)
    rest = _hold_back(positions, max_rows, ratios)
    _pool(strata, ratios)
    limits = _limits(positions, strata, ratios if stratify else rest, exact=stratify)
    later_parts = range(len(ratios) - 1, 0, -1)
    parts = bytearray(
        next((part for part in later_parts if position <= limits[own][part]), 0)
        for position, own in zip(positions, strata, strict=True)
    )
    counts = Counter(parts)
    if len(counts) < len(ratios):
        raise DataError(
            f"A split of {'/'.join(f'{ratio:g}' for ratio in ratios)} leaves a part of "
            f"{dataset.name} empty.",
            hint="Use more rows, another ratio or another seed.",
        )
    rows = tuple(counts[part] for part in range(len(ratios)))
    return Assignment(parts, rows, joined if search_near else None, loosened)


def _same_prompts(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Yield pairs of lines with the same prompt of more than a few words: in different parts they
    would be a leak for ``validate --against``."""
    first_lines: dict[int, int] = {}
    for row in iter_row_texts(dataset):
        if len(row.prompt.split()) > FEW_WORDS:
            first = first_lines.setdefault(content_hash(row.asked), row.line)
            if first != row.line:
                yield first, row.line


def join_links(links: Iterable[tuple[float, float]]) -> dict[float, float]:
    """Return the group of each linked position: the lowest position it is connected to."""
    heads: dict[float, float] = {}

    def head(position: float) -> float:
        while (parent := heads.setdefault(position, position)) != position:
            heads[position] = position = heads[parent]
        return position

    for link in links:
        lowest, other = sorted(map(head, link))
        heads[other] = lowest
    return {position: head(position) for position in [*heads]}


def _loosen(
    positions: array[float], groups: dict[float, float], max_rows: float, held_out: float
) -> int:
    """Dissolve groups of more than ``max_rows`` rows if without them too few rows are left to be
    held out, as in a file made from one template. Return the number of their rows."""
    sizes = Counter(groups[position] for position in positions if position in groups)
    large = {group for group, rows in sizes.items() if rows > max_rows}
    rows = sum(sizes[group] for group in large)
    if len(positions) - rows >= held_out * len(positions):
        return 0
    for position in [position for position, group in groups.items() if group in large]:
        del groups[position]
    return rows


def _join(positions: array[float], strata: array[int], groups: dict[float, float]) -> int:
    """Give all rows of a group one position and one stratum, in place; return their number.

    The lowest of several positions is biased towards 0, so the position is hashed again.
    """
    own_strata = {
        position: own for position, own in zip(positions, strata, strict=True) if position in groups
    }
    joined = 0
    for index, position in enumerate(positions):
        group = groups.get(position)
        if group is not None:
            joined += 1
            positions[index], strata[index] = unit(f"group {group!r}"), own_strata[group]
    return joined


def _hold_back(
    positions: array[float], max_rows: float, ratios: Sequence[float]
) -> Sequence[float]:
    """Keep groups of more than ``max_rows`` rows in the first part, in place: they would dominate
    a smaller one.

    Return the shares of the other rows. If a quarter of the rows is held back, these are larger,
    since the other parts would be far too small.
    """
    by_position = groupby(sorted(positions))
    large = {position for position, rows in by_position if sum(1 for _ in rows) > max_rows}
    rest = len(positions)
    for index, position in enumerate(positions):
        if position in large:
            positions[index] = _HELD_BACK
            rest -= 1
    if not rest or rest > 0.75 * len(positions):
        return ratios
    shares = [ratio * len(positions) / rest for ratio in ratios[1:]]
    return [max(0.0, 1 - sum(shares)), *shares]


def _pool(strata: array[int], ratios: Sequence[float]) -> None:
    """Merge strata too small to give a row to every part (in place)."""
    counts, min_rows = Counter(strata), 1 / min(ratios)
    small = {own for own, count in counts.items() if count < min_rows}
    pool = min(small, default=0)
    for index, own in enumerate(strata):
        if own in small:
            strata[index] = pool


def _limits(
    positions: array[float], strata: array[int], ratios: Sequence[float], *, exact: bool
) -> dict[int, list[float]]:
    """Return for each stratum the highest position of each part.

    The last part has the lowest positions, the first part the rest.
    """
    if not exact:
        # At least one row of a small file is held out: the one with the lowest position.
        lowest = min(positions, default=0.0)
        return {0: _limits_by_part(ratios, lambda share: max(share, lowest))}
    by_stratum: dict[int, list[float]] = {}
    for position, own in zip(positions, strata, strict=True):
        by_stratum.setdefault(own, []).append(position)
    limits = {}
    for own, own_positions in by_stratum.items():
        own_positions.sort()
        limits[own] = _limits_by_part(ratios, partial(_limit_by_rank, own_positions))
    return limits


def _limits_by_part(ratios: Sequence[float], limit: Callable[[float], float]) -> list[float]:
    return [limit(sum(ratios[part:])) for part in range(len(ratios))]


def _limit_by_rank(positions: list[float], share: float) -> float:
    """Return the position of the last row of a share. Rows at one position stay together: all of
    them, or none if that is closer to the share."""
    count = min(round(len(positions) * share), bisect_left(positions, _HELD_BACK))
    if not count:
        return -1.0
    last = positions[count - 1]
    first, end = bisect_left(positions, last), bisect_right(positions, last)
    if first and count - first < end - count:
        return positions[first - 1]
    return last


def _position(raw: bytes, seed: int) -> float:
    """Return a number from 0 to 1 that depends only on the folded row and the seed."""
    return unit(f"{seed}\0{folded(raw.decode('utf-8', 'replace'))}")


def folded(line: str) -> str:
    """Return the JSON of a row, or a text, without case, and without spaces as far as a row may
    have others; a very long one as it is."""
    if len(line) > LONG:
        return line
    plain = folded_text(line.replace("\\n", " ").replace("\\t", " ").replace("\\r", " "))
    return plain.replace('" ', '"').replace(' "', '"')  # also at the ends of strings


def unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def stratum(row: dict[str, Any]) -> str:
    """Return the stratum of a row: its short final answer, else its system prompt."""
    chat = as_sent(row)
    messages = as_list(chat.get("messages") or as_dict(chat.get("input")).get("messages"))
    answers = messages or as_list(chat.get("preferred_output"))
    last, first = as_dict(answers[-1] if answers else None), as_dict((messages or [None])[0])
    answer, system = last.get("content"), first.get("content")
    if last.get("role") == "assistant" and isinstance(answer, str) and len(answer) <= SHORT:
        return f"answer {folded(answer)}"
    if first.get("role") in ("system", "developer") and isinstance(system, str):
        return f"system {folded(system)}"
    return REST
