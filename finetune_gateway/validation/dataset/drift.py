"""How near the prompts of a dataset are to a sample of those asked in production.

How near two prompts are is told by the words and pairs of words they share (Dice's measure). A
production prompt is without a neighbour when it is farther from the data than nine in ten of the
data's own prompts are from each other: what is far depends on how varied the data is. One that
shares no word with the data has none; as many are expected as in data whose prompts share none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from statistics import median
from typing import Any

from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_access import as_dict, as_list
from finetune_gateway.findings import Defect
from finetune_gateway.text.quoting import quoted
from finetune_gateway.validation.dataset.row_text import gist_of, key, parsed, pieces, words
from finetune_gateway.validation.dataset.statistics import Placed

Json = dict[str, Any]

SAMPLE = 1000  # production prompts that are looked at
OWN = 300  # prompts of the dataset that are set beside them
MAX_READ = 50_000  # rows of the dataset they are compared with
FARTHEST = 0.1  # of the data's own prompts; as many of production would be expected there
NEAR = 0.5  # of the words and pairs of words: near whatever the data
WORTH = 0.3  # of the production prompts without a neighbour
MIN_PROMPTS = 10
_WORDS = 200  # of a prompt
_COMMON = 300  # sampled prompts that share a piece; a commoner one tells nothing


def defects(dataset: Dataset, like: Dataset, figures: Json) -> Iterator[Placed]:
    """What sets the dataset apart from production; fills in the figures."""
    wanted = _thinned(prompts(like), SAMPLE)
    own = _thinned(prompts(dataset), OWN)
    if min(len(wanted), len(own)) < MIN_PROMPTS:
        detail = f"{len(wanted)} prompts in {quoted(like.name)} and {len(own)} in the data"
        yield Defect("drift_unknown", detail=detail), None, 1
        return
    near = _Near(wanted, own)
    for number, prompt in enumerate(prompts(dataset)):
        if number >= MAX_READ:
            break
        near.meet(prompt)
    among_own = sorted(near.best[len(wanted) :])
    cut = min(NEAR, among_own[int(FARTHEST * len(own))])
    alone = [share < cut or not share for share in near.best[: len(wanted)]]
    there = sum(alone) / len(wanted)
    expected = max(FARTHEST, sum(not share for share in among_own) / len(own))
    sizes = median(len(words(text)) for text in own), median(len(words(text)) for text in wanted)
    figures["drift"] = {
        "prompts": len(wanted),
        "without_neighbour": round(there, 4),
        "near_from": round(cut, 4),
        "median_words": sizes[1],
        "own_median_words": sizes[0],
    }
    if there >= expected + WORTH - FARTHEST:
        example = quoted(wanted[alone.index(True)])
        detail = (
            f"{there:.0%} of the production prompts are like no prompt of the data "
            f"({expected:.0%} would be expected), for instance {example}"
        )
        yield Defect("drift", detail=detail), None, 1
    yield from _lengths(sizes)


def _lengths(sizes: tuple[float, float]) -> Iterator[Placed]:
    short, long = sorted(size + 1 for size in sizes)
    if long >= 2 * short and long - short >= 5:
        detail = (
            f"half of the prompts of the data have {sizes[0]:g} words or fewer, in production "
            f"{sizes[1]:g}"
        )
        yield Defect("drift_length", detail=detail), None, 1


class _Near:
    """How near the nearest prompt met so far is to each sampled one, from 0 to 1."""

    def __init__(self, wanted: list[str], own: list[str]) -> None:
        sample = [*wanted, *own]
        self.best = [0.0] * len(sample)
        # Of the dataset's own prompts, which are met once themselves and then as a repeat.
        self.keys = [*[None] * len(wanted), *map(key, own)]
        self.itself: set[int] = set()
        holders: dict[str, list[int]] = defaultdict(list)
        for number, prompt in enumerate(sample):
            for piece in _pieces(prompt):
                holders[piece].append(number)
        self.holders = {piece: held for piece, held in holders.items() if len(held) <= _COMMON}
        self.sizes = Counter(number for held in self.holders.values() for number in held)

    def meet(self, prompt: str) -> None:
        """Compare one prompt of the dataset with all of the sample, itself left out."""
        shared: dict[int, int] = defaultdict(int)
        met = _pieces(prompt)
        for piece in met:
            for number in self.holders.get(piece, ()):
                shared[number] += 1
        own = key(prompt) if shared else 0
        for number, count in shared.items():
            share = 2 * count / (len(met) + self.sizes[number])
            if self.keys[number] == own and number not in self.itself:
                self.itself.add(number)
            elif share > self.best[number]:
                self.best[number] = share


def prompts(dataset: Dataset) -> Iterator[str]:
    """The prompts of a file: training rows of any format, rows that end with the question, or
    rows with the prompt under prompt, input, question, text or content."""
    for line in dataset.lines():
        row = None if line.cut else parsed(line.raw)
        if row is not None and (text := _prompt(row)).strip():
            yield text


def _prompt(row: Json) -> str:
    messages = as_list(row.get("messages"))
    asked = [message for message in map(as_dict, messages) if message.get("role") == "user"]
    if asked:
        return "\n".join(pieces(asked[-1]))
    gist = gist_of(row)
    if gist and gist.prompt:
        return gist.prompt
    for name in ("prompt", "input", "question", "text", "content", "query", "instruction"):
        if isinstance(row.get(name), str):
            return str(row[name])
    return ""


def _pieces(prompt: str) -> set[str]:
    said = words(prompt[: _WORDS * 10])[:_WORDS]
    return {*said, *map(" ".join, zip(said, said[1:], strict=False))}


def _thinned(texts: Iterable[str], limit: int) -> list[str]:
    """So many at most, spread evenly over all."""
    kept: list[str] = []
    every = 1
    for number, text in enumerate(texts):
        if number % every == 0:
            kept.append(text)
        if len(kept) >= 2 * limit:
            kept, every = kept[::2], every * 2
    step = max(1, -(-len(kept) // limit))
    return kept[::step]
