"""A dataset cut into parts, each row placed by its own content.

A row's place is a number from 0 to 1, from a hash of the row with case and spaces folded and the
seed: adding rows moves none of the others, and rows equal but for case and spaces stay together.
Rows that nearly repeat each other (``quality.similar``), or ask the same with another answer, have
one place, from the least of theirs:
a row moves only when an added one joins it to another, or its group grows too large to be held out.
*Stratified*, the rows of each short final answer (or, where answers are long, of each system
prompt) are cut at that share of their own; new rows then move those near the cut at most.
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

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.formats import as_chat
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.preparation.convert import free, whole_file
from finetune_gateway.validation.dataset import near_duplicates
from finetune_gateway.validation.dataset.row_text import content_hash, iter_row_texts
from finetune_gateway.validation.duplicates import folded

SHORT = 40  # characters of a final answer that is a class rather than a text
_BACK = 2.0  # the place of rows that are kept for the first part: beyond every limit
REST = ""  # the stratum of rows whose own one is too small to be cut


@dataclass(frozen=True, slots=True)
class Cut:
    """Where each row went."""

    parts: bytearray
    rows: tuple[int, ...]  # of each part
    joined: int | None  # rows kept with others they nearly repeat; None: not looked for
    loosened: int = 0  # rows that nearly repeat so many others that they were placed one by one


def split(
    dataset: Dataset, ratio: float, *, seed: int, folder: Path,
    stratify: bool = False, near: bool = True,
) -> tuple[Dataset, Dataset]:  # fmt: skip
    """Two files below ``folder``, named by their content; see ``Dataset.split``."""
    if not 0 < ratio < 1:
        raise SpecError(f"A split of {ratio!r} is not between 0 and 1.", hint="Use e.g. 0.1.")
    cut = assigned(dataset, (1 - ratio, ratio), seed=seed, stratify=stratify, near=near)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{dataset.path.stem}.part{number}" for number in range(2)]
    made = []
    for path, digest in zip(paths, _written(dataset, cut, paths), strict=True):
        named = path.rename(folder / f"{dataset.path.stem}-{digest[:16]}.jsonl")
        made.append(Dataset(named, dataset.name))
    return made[0], made[1]


def write(
    dataset: Dataset, ratios: Sequence[float], paths: Sequence[Path], *,
    seed: int = 0, stratify: bool = False, near: bool = True, force: bool = False,
) -> Cut:  # fmt: skip
    """Cut a dataset into files of these shares.

    Raises SpecError for shares that do not add up to 1 or a file that exists, DataError when a
    part would be empty.
    """
    if any(not 0 < ratio < 1 for ratio in ratios) or not math.isclose(sum(ratios), 1):
        raise SpecError(
            f"The shares {'/'.join(f'{ratio:g}' for ratio in ratios)} do not add up to 1.",
            hint="Like: --ratio 0.9/0.1",
        )
    for path in paths:
        free(path, dataset, force)
    cut = assigned(dataset, ratios, seed=seed, stratify=stratify, near=near)
    _written(dataset, cut, paths)
    return cut


def _written(dataset: Dataset, cut: Cut, paths: Sequence[Path]) -> list[str]:
    """Write the parts in one pass; the sha256 of each."""
    digests = [hashlib.sha256() for _ in paths]
    with ExitStack() as stack:
        files: list[IO[bytes]] = [stack.enter_context(whole_file(path)) for path in paths]
        for (_, raw), part in zip(dataset.examples(), cut.parts, strict=True):
            line = raw.strip() + b"\n"
            digests[part].update(line)
            files[part].write(line)
    return [digest.hexdigest() for digest in digests]


def assigned(
    dataset: Dataset, ratios: Sequence[float], *, seed: int, stratify: bool, near: bool
) -> Cut:  # fmt: skip
    """The part of each row, in order. Keeps 17 bytes a row and 32 more for a moment, stratified
    40; 200 while near-duplicates are looked for."""
    fuzzy = near and near_duplicates.available()
    links = list(near_duplicates.links(dataset)) if fuzzy else []
    links += _same_questions(dataset) if near else []
    places, strata, names = array("d"), array("L"), dict[str, int]()
    linked = {line: 0.0 for link in links for line in link}
    for number, raw in dataset.examples():
        place = _place(raw, seed)
        places.append(place)
        if number in linked:
            linked[number] = place
        own = stratum(dataset.parse(number, raw)) if stratify else REST
        strata.append(names.setdefault(own, len(names)))
    moves = _moves((linked[one], linked[two]) for one, two in links)
    most = max(2.0, min(ratios) * len(places) / 2)
    loosened = _loosen(places, moves, most, sum(ratios[1:]))
    joined = _join(places, strata, moves)
    rest = _held_back(places, most, ratios)
    _pool(strata, ratios)
    limits = _limits(places, strata, ratios if stratify else rest, exact=stratify)
    shares = range(len(ratios) - 1, 0, -1)
    parts = bytearray(
        next((part for part in shares if place <= limits[own][part]), 0)
        for place, own in zip(places, strata, strict=True)
    )
    counts = Counter(parts)
    if len(counts) < len(ratios):
        raise DataError(
            f"A split of {'/'.join(f'{one:g}' for one in ratios)} leaves a part of "
            f"{dataset.name} empty.",
            hint="Use more rows, another ratio or another seed.",
        )
    rows = tuple(counts[part] for part in range(len(ratios)))
    return Cut(parts, rows, joined if fuzzy else None, loosened)


def _same_questions(dataset: Dataset) -> Iterator[tuple[int, int]]:
    """Rows with one prompt and another answer: on the other side they would be a leak, as
    ``validate --against`` says it of prompts of more than five words."""
    first_lines: dict[int, int] = {}
    for row in iter_row_texts(dataset):
        if len(row.prompt.split()) > 5:
            first = first_lines.setdefault(content_hash(row.prompt), row.line)
            if first != row.line:
                yield first, row.line


def _moves(links: Iterable[tuple[float, float]]) -> dict[float, float]:
    """For each place that is linked, the least one it is linked to, whatever lies between."""
    heads: dict[float, float] = {}

    def head(place: float) -> float:
        while (above := heads.setdefault(place, place)) != place:
            heads[place] = place = heads[above]
        return place

    for link in links:
        least, other = sorted(map(head, link))
        heads[other] = least
    return {place: head(place) for place in [*heads]}


def _loosen(places: array[float], moves: dict[float, float], most: float, held_out: float) -> int:
    """Give up the groups of more rows than ``most`` where without them too few rows are left to be
    held out, as in a file made from one template. The rows of them."""
    groups = Counter(moves[place] for place in places if place in moves)
    large = {least for least, rows in groups.items() if rows > most}
    rows = sum(groups[least] for least in large)
    if len(places) - rows >= held_out * len(places):
        return 0
    for place in [place for place, least in moves.items() if least in large]:
        del moves[place]
    return rows


def _join(places: array[float], strata: array[int], moves: dict[float, float]) -> int:
    """Give all rows of a group one place and one stratum, in place; the rows of groups. The least
    of several places is too often a low one, so that the group's is drawn from it anew."""
    own = {place: stratum for place, stratum in zip(places, strata, strict=True) if place in moves}
    joined = 0
    for index, place in enumerate(places):
        least = moves.get(place)
        if least is not None:
            joined += 1
            places[index], strata[index] = _unit(f"group {least!r}"), own[least]
    return joined


def _held_back(places: array[float], most: float, ratios: Sequence[float]) -> Sequence[float]:
    """Keep groups of more rows than this back for the first part, in place: in a smaller one they
    would be most of it. The shares of the other rows; where a quarter of all is kept back these
    are larger, or the file's would come out far too small."""
    large = {place for place, group in groupby(sorted(places)) if sum(1 for _ in group) > most}
    rest = len(places)
    for index, place in enumerate(places):
        if place in large:
            places[index] = _BACK
            rest -= 1
    if not rest or rest > 0.75 * len(places):
        return ratios
    held = [ratio * len(places) / rest for ratio in ratios[1:]]
    return [max(0.0, 1 - sum(held)), *held]


def _pool(strata: array[int], ratios: Sequence[float]) -> None:
    """Strata too small to give a row to every part, made one (in place)."""
    counts, least = Counter(strata), 1 / min(ratios)
    small = {own for own, count in counts.items() if count < least}
    pool = min(small, default=0)
    for index, own in enumerate(strata):
        if own in small:
            strata[index] = pool


def _limits(
    places: array[float], strata: array[int], ratios: Sequence[float], *, exact: bool
) -> dict[int, list[float]]:
    """For each stratum the place up to which rows belong to each part; the last part has the
    lowest places, the first takes the rest."""
    if not exact:
        # Of a small file at least one row is held out: the one that would be the first.
        least = min(places, default=0.0)
        return {0: _cuts(ratios, lambda share: max(share, least))}
    by_stratum: dict[int, list[float]] = {}
    for place, own in zip(places, strata, strict=True):
        by_stratum.setdefault(own, []).append(place)
    limits = {}
    for own, found in by_stratum.items():
        found.sort()
        limits[own] = _cuts(ratios, partial(_ranked, found))
    return limits


def _cuts(ratios: Sequence[float], limit: Callable[[float], float]) -> list[float]:
    return [limit(sum(ratios[part:])) for part in range(len(ratios))]


def _ranked(places: list[float], share: float) -> float:
    """The place of the last row of a share. Rows at one place go together: all of them, or none
    where that is nearer to the share."""
    count = min(round(len(places) * share), bisect_left(places, _BACK))
    if not count:
        return -1.0
    first, end = bisect_left(places, places[count - 1]), bisect_right(places, places[count - 1])
    if first and count - first < end - count:
        return places[first - 1]
    return places[count - 1]


def _place(raw: bytes, seed: int) -> float:
    """A number from 0 to 1 that depends on the folded row and the seed alone."""
    return _unit(f"{seed}\0{folded(raw.decode('utf-8', 'replace'))}")


def _unit(text: str) -> float:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2.0**64


def stratum(row: dict[str, Any]) -> str:
    """What a row is counted under: its short final answer, else its system prompt."""
    chat = as_chat(row)
    messages = as_list(chat.get("messages") or as_dict(chat.get("input")).get("messages"))
    answers = messages or as_list(chat.get("preferred_output"))
    last, first = as_dict(answers[-1] if answers else None), as_dict((messages or [None])[0])
    answer, system = last.get("content"), first.get("content")
    if last.get("role") == "assistant" and isinstance(answer, str) and len(answer) <= SHORT:
        return f"answer {folded(answer)}"
    if first.get("role") in ("system", "developer") and isinstance(system, str):
        return f"system {folded(system)}"
    return REST
