"""Plan the batches of a run from the lengths of its rows: steps, padding, trained tokens.

Follows ``backends/local/methods``: rows come in random order; the last step of an epoch, and what
passes through the model at once, may be smaller; a pack holds whole rows (best fit, longest first,
as ``trl.pack_dataset`` does). Of a preference pair both sequences are in one batch; texts
(pretrain) are cut into pieces, of which all is trained but the first token.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from finetune_gateway.estimation.engine import engine_of
from finetune_gateway.estimation.estimate import Range, auto_epochs
from finetune_gateway.methods import METHODS, SORTED, loss_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

BATCH_SIZE, PACKED_BATCH_SIZE = 8, 1  # "auto" of the local backend


@dataclass(frozen=True)
class BatchPlan:
    """The batches of a whole run. ``attention_cost`` is the sum of padded tokens times the length
    of their batch, which the time of attention grows with."""

    epochs: int
    steps: int
    passes: float  # epochs, of which max_steps may leave a part
    trained_rows: float  # of all epochs
    batches: int  # forward passes
    rows: int  # that pass through the model at once; a pair is one
    longest: int  # tokens of the longest of these, per row
    padded_tokens: float
    attention_cost: float
    trained: Range[int]


def batch_rows(spec: TrainingSpec) -> int:
    """Return the rows, or packs, in a full batch."""
    if spec.batch_size != "auto":
        return spec.batch_size
    return PACKED_BATCH_SIZE if spec.packing else BATCH_SIZE


def batch_of(spec: TrainingSpec) -> int:
    """Return the rows, or packs, of one step."""
    return batch_rows(spec) * spec.gradient_accumulation_steps


def largest_divisor(batch: int, most: int) -> int:
    """Return the largest number up to ``most``, of which a whole number makes a batch."""
    return next(rows for rows in range(max(1, min(most, batch)), 0, -1) if not batch % rows)


def needs_whole_batch(spec: TrainingSpec) -> bool:
    """Return True if the loss compares all rows of a step with each other."""
    return spec.method == "dpo" and spec.loss_type in SORTED


def depends_on_micro_batch(spec: TrainingSpec, engine: str) -> bool:
    """Return True if the loss of a row depends on those that pass through the model with it."""
    return needs_whole_batch(spec) or (loss_of(spec) == "kto" and engine == "trl")


def plan_batches(
    spec: TrainingSpec, tokens: TokenStats, limit: int | None = None, *, at_once: int | None = None
) -> BatchPlan:
    """Return the batches of a run on rows of these lengths, truncated to ``limit`` tokens.
    ``at_once``: rows that pass through the model at once; a batch if None."""
    limit = limit or tokens.max or 1
    sides = METHODS[spec.method].sequences
    units, rows, trained = _units(spec, tokens, limit), tokens.rows // sides, tokens.trained
    if spec.method == "pretrain":
        rows = sum(units.values())
        trained = sum((length - 1) * number for length, number in units.items())
    count, at_once = sum(units.values()), at_once or batch_rows(spec)
    epochs = auto_epochs(rows) if spec.n_epochs == "auto" else spec.n_epochs
    step = batch_of(spec) * sides
    a_steps = ceil(count / step)
    steps = spec.max_steps or epochs * a_steps
    # Whole epochs, and the share of one in which max_steps ends.
    whole, rest = divmod(steps, a_steps) if a_steps else (0, 0)
    part = min(1.0, rest * step / count) if count else 0.0
    passes = whole + part
    together, flat = at_once * sides, spec.packing
    passing = units
    if engine_of(spec) == "fast" and at_once == 1:  # nothing is padded, and packs are undone
        together, flat = 1, False
        passing = _trained_lengths(tokens, limit) if spec.packing else units
    padded_tokens, attention_cost = _padded(passing, together, flat=flat)
    return BatchPlan(
        epochs=ceil(passes) if spec.max_steps else epochs,
        steps=steps,
        passes=passes,
        trained_rows=steps / max(1, a_steps) * rows,
        batches=round(passes * ceil(sum(passing.values()) / together)),
        rows=min(at_once, max(1, count // sides)),
        longest=_longest(units, at_once * sides, flat=spec.packing),
        padded_tokens=passes * padded_tokens,
        attention_cost=passes * attention_cost,
        trained=_part_trained(units, whole, min(count, rest * step), trained),
    )


def _part_trained(units: Mapping[int, int], whole: int, rest: int, trained: int) -> Range[int]:
    """Return the trained tokens of ``whole`` epochs and of ``rest`` units, which may be the
    shortest or the longest: they train the share of an epoch's that they have of its tokens, a
    quarter less or a third more, since answers of equal rows differ."""
    lengths = sorted(Counter(units).elements())
    total = max(1, sum(lengths))
    shortest, longest = sum(lengths[:rest]), sum(lengths[len(lengths) - rest :])
    share = rest / max(1, len(lengths))
    parts = (0.75 * shortest / total, share, min(1.0, longest / total / 0.75))
    low, expected, high = (round((whole + part) * trained) for part in parts)
    return Range[int](low=low, expected=expected, high=high)


def _units(spec: TrainingSpec, tokens: TokenStats, limit: int) -> Mapping[int, int]:
    """Return the lengths of what batches are made of: rows, sides of pairs, packs, pieces."""
    if spec.method == "pretrain":
        whole, rest = divmod(tokens.total, limit)
        return +Counter({limit: whole, rest: int(rest > 1)})  # one token alone trains nothing
    lengths = _trained_lengths(tokens, limit)
    return pack_lengths(lengths, limit) if spec.packing else lengths


def _trained_lengths(tokens: TokenStats, limit: int) -> Counter[int]:
    """Return the lengths of the rows that have something to train."""
    counts: Counter[int] = Counter()
    for length, rows in (tokens.lengths or _guess_lengths(tokens)).items():
        counts[min(length, limit)] += rows - tokens.untrained_lengths.get(length, 0)
    return +counts


def _guess_lengths(tokens: TokenStats) -> Mapping[int, int]:
    """Return lengths that fit the sums when only min, median, p95 and max are known."""
    if not tokens.rows:
        return {}
    tail = ceil(tokens.rows / 20)
    mean = round((tokens.total - tail * tokens.max) / max(1, tokens.rows - tail))
    return Counter({tokens.max: tail}) + Counter({max(tokens.min, mean): tokens.rows - tail})


def pack_lengths(lengths: Mapping[int, int], limit: int) -> Counter[int]:
    """Return the lengths of packs of at most ``limit`` tokens."""
    spaces: list[int] = []  # free tokens of each pack, sorted
    for length in sorted(lengths, reverse=True):
        for _ in range(lengths[length]):
            place = bisect_left(spaces, length)
            space = spaces.pop(place) if place < len(spaces) else limit
            insort(spaces, space - length)
    return Counter(limit - space for space in spaces)


def _padded(units: Mapping[int, int], size: int, *, flat: bool) -> tuple[float, float]:
    """Return the padded tokens and the attention cost of one epoch."""
    count = sum(units.values())
    if not count:
        return 0.0, 0.0
    size = min(size, count)
    if flat:  # packs are laid end to end, without padding
        total = sum(length * number for length, number in units.items())
        return float(total), total * (total / count) * size
    share = padded_tokens = attention_cost = 0.0
    for length in sorted(units):
        before, share = share, share + units[length] / count
        chance = share**size - before**size  # that this length is the longest of a batch
        padded_tokens += count * length * chance
        attention_cost += count * length * length * chance
    return padded_tokens, attention_cost


def _longest(units: Mapping[int, int], size: int, *, flat: bool) -> int:
    if not units:
        return 0
    if not flat:
        return max(units)
    top = sorted(Counter(units).elements(), reverse=True)[: min(size, sum(units.values()))]
    return ceil(sum(top) / len(top))
