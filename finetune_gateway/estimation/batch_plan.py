"""What the trainer will be fed: its steps, the padding in them and the tokens that are trained,
from the lengths of the rows alone.

Follows ``backends/local/sft.py``: rows in random order, the last batch of an epoch and the last
step of an epoch may be smaller, rows of a pack stand one after another (best fit, the longest
first, as ``trl.pack_dataset`` does).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from finetune_gateway.estimation.estimate import Range, auto_epochs
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

BATCH_SIZE, PACKED_BATCH_SIZE = 8, 1  # "auto" of the local backend


@dataclass(frozen=True)
class Feed:
    """A whole run in batches. ``slots`` are tokens with padding; ``squares`` sums slots times
    the length of their batch, which attention grows with."""

    epochs: int
    steps: int
    batches: int
    rows: int  # in one full batch
    longest: int  # tokens of the longest batch, per row of it
    slots: float
    squares: float
    trained: Range[int]


def usual_batch(spec: TrainingSpec) -> int:
    """Rows, or packs, in a batch."""
    if spec.batch_size != "auto":
        return spec.batch_size
    return PACKED_BATCH_SIZE if spec.packing else BATCH_SIZE


def feed(spec: TrainingSpec, tokens: TokenStats, limit: int | None = None) -> Feed:
    """The batches of a run on rows of these lengths, cut at ``limit`` tokens."""
    limit = limit or tokens.max or 1
    lengths = _cut(tokens, limit)
    units = packed(lengths, limit) if spec.packing else lengths
    count, size = sum(units.values()), usual_batch(spec)
    epochs = auto_epochs(tokens.rows) if spec.n_epochs == "auto" else spec.n_epochs
    a_batches = ceil(count / size)
    a_steps = ceil(a_batches / spec.gradient_accumulation_steps)
    steps = spec.max_steps or epochs * a_steps
    # Whole epochs, and the share of one that max_steps leaves open.
    whole, rest = divmod(steps, a_steps) if a_steps else (0, 0)
    part = min(1.0, rest * spec.gradient_accumulation_steps * size / count) if count else 0.0
    passes = whole + part
    slots, squares = _padded(units, size, flat=spec.packing)
    return Feed(
        epochs=ceil(passes) if spec.max_steps else epochs,
        steps=steps,
        batches=round(passes * a_batches),
        rows=min(size, count),
        longest=_longest(units, size, flat=spec.packing),
        slots=passes * slots,
        squares=passes * squares,
        trained=Range[int](
            low=whole * tokens.trained,
            expected=round(passes * tokens.trained),
            high=(whole + (rest > 0)) * tokens.trained,
        ),
    )


def _cut(tokens: TokenStats, limit: int) -> Counter[int]:
    """Lengths of the rows that are trained on: those with nothing to train are left out."""
    found: Counter[int] = Counter()
    for length, rows in (tokens.lengths or _by_quantiles(tokens)).items():
        found[min(length, limit)] += rows - tokens.untrained_lengths.get(length, 0)
    return +found


def _by_quantiles(tokens: TokenStats) -> Mapping[int, int]:
    """Lengths when only min, median, p95 and max are known."""
    if not tokens.rows:
        return {}
    tail = ceil(tokens.rows / 20)
    mean = round((tokens.total - tail * tokens.max) / max(1, tokens.rows - tail))
    return Counter({tokens.max: tail}) + Counter({max(tokens.min, mean): tokens.rows - tail})


def packed(lengths: Mapping[int, int], limit: int) -> Counter[int]:
    """Lengths of packs of at most ``limit`` tokens."""
    spaces: list[int] = []  # what is left in each pack, sorted
    for length in sorted(lengths, reverse=True):
        for _ in range(lengths[length]):
            place = bisect_left(spaces, length)
            space = spaces.pop(place) if place < len(spaces) else limit
            insort(spaces, space - length)
    return Counter(limit - space for space in spaces)


def _padded(units: Mapping[int, int], size: int, *, flat: bool) -> tuple[float, float]:
    """Slots of one epoch and the sum of slots times batch length."""
    count = sum(units.values())
    if not count:
        return 0.0, 0.0
    size = min(size, count)
    if flat:  # packs are laid end to end, without padding
        total = sum(length * number for length, number in units.items())
        return float(total), total * (total / count) * size
    share = slots = squares = 0.0
    for length in sorted(units):
        before, share = share, share + units[length] / count
        chance = share**size - before**size  # that this is the longest of a batch
        slots += count * length * chance
        squares += count * length * length * chance
    return slots, squares


def _longest(units: Mapping[int, int], size: int, *, flat: bool) -> int:
    if not units:
        return 0
    if not flat:
        return max(units)
    top = sorted(Counter(units).elements(), reverse=True)[: min(size, sum(units.values()))]
    return ceil(sum(top) / len(top))
