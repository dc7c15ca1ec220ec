"""How similar the prompts of a dataset are to a sample of production prompts.

Two prompts are compared by the words and pairs of words they share (Dice coefficient). A
production prompt has no neighbour if it is farther from the data than nine in ten of the data's
own prompts are from each other, so the threshold depends on how varied the data is. A prompt that
shares no word with the data has no neighbour either; data whose own prompts share no words is
expected to have as many of them.
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
from finetune_gateway.validation.dataset.row_text import (
    content_hash,
    extract_row_text,
    iter_message_texts,
    parse_leniently,
    words,
)
from finetune_gateway.validation.dataset.statistics import CountedDefect

Json = dict[str, Any]

SAMPLE = 1000  # production prompts compared
OWN = 300  # prompts of the dataset compared with the rest of it, for the threshold
MAX_READ = 50_000  # rows of the dataset compared with the sample
FARTHEST = 0.1  # share of the data's own prompts beyond the threshold; the same is expected
NEAR = 0.5  # upper limit of the threshold: prompts this similar are neighbours in any data
DRIFT = 0.3  # share of production prompts without a neighbour that is reported
MIN_PROMPTS = 10
_WORDS = 200  # words read of a prompt
_COMMON = 300  # a feature in more of the sampled prompts than this is ignored


def defects(dataset: Dataset, like: Dataset, figures: Json) -> Iterator[CountedDefect]:
    """Yield how the dataset differs from production; fill in the figures."""
    production = _thin(iter_prompts(like), SAMPLE)
    own = _thin(iter_prompts(dataset), OWN)
    if min(len(production), len(own)) < MIN_PROMPTS:
        detail = f"{len(production)} prompts in {quoted(like.name)} and {len(own)} in the data"
        yield Defect("drift_unknown", detail=detail), None, 1
        return
    nearest = _NearestNeighbours(production, own)
    for number, prompt in enumerate(iter_prompts(dataset)):
        if number >= MAX_READ:
            break
        nearest.compare(prompt)
    own_similarities = sorted(nearest.best[len(production) :])
    threshold = min(NEAR, own_similarities[int(FARTHEST * len(own))])
    isolated = [
        similarity < threshold or not similarity for similarity in nearest.best[: len(production)]
    ]
    share = sum(isolated) / len(production)
    unlike_own = sum(not similarity for similarity in own_similarities) / len(own)
    expected = max(FARTHEST, unlike_own)
    own_words, production_words = _median_words(own), _median_words(production)
    figures["drift"] = {
        "prompts": len(production),
        "without_neighbour": round(share, 4),
        "near_from": round(threshold, 4),
        "median_words": production_words,
        "own_median_words": own_words,
    }
    if share >= expected + DRIFT - FARTHEST:
        example = quoted(production[isolated.index(True)])
        detail = (
            f"{share:.0%} of the production prompts resemble no prompt of the data "
            f"({expected:.0%} would be expected), for example {example}"
        )
        yield Defect("drift", detail=detail), None, 1
    yield from _length_defects(own_words, production_words)


def _median_words(prompts: list[str]) -> float:
    return median(len(words(prompt)) for prompt in prompts)


def _length_defects(own: float, production: float) -> Iterator[CountedDefect]:
    short, long = sorted((own + 1, production + 1))
    if long >= 2 * short and long - short >= 5:
        detail = (
            f"half of the prompts of the data have {own:g} words or fewer, in production "
            f"{production:g}"
        )
        yield Defect("drift_length", detail=detail), None, 1


class _NearestNeighbours:
    """The similarity (0 to 1) of each sampled prompt to the nearest prompt compared so far."""

    def __init__(self, production: list[str], own: list[str]) -> None:
        sample = [*production, *own]
        self.best = [0.0] * len(sample)
        # The dataset's own prompts are compared with themselves once: that does not count.
        self.hashes = [*[None] * len(production), *map(content_hash, own)]
        self.met_itself: set[int] = set()
        prompts: dict[str, list[int]] = defaultdict(list)
        for number, prompt in enumerate(sample):
            for feature in _features(prompt):
                prompts[feature].append(number)
        self.prompts = {
            feature: numbers for feature, numbers in prompts.items() if len(numbers) <= _COMMON
        }
        self.sizes = Counter(number for numbers in self.prompts.values() for number in numbers)

    def compare(self, prompt: str) -> None:
        """Compare one prompt of the dataset with all of the sample except itself."""
        shared: dict[int, int] = defaultdict(int)
        features = _features(prompt)
        for feature in features:
            for number in self.prompts.get(feature, ()):
                shared[number] += 1
        own_hash = content_hash(prompt) if shared else 0
        for number, count in shared.items():
            similarity = 2 * count / (len(features) + self.sizes[number])
            if self.hashes[number] == own_hash and number not in self.met_itself:
                self.met_itself.add(number)
            elif similarity > self.best[number]:
                self.best[number] = similarity


def iter_prompts(dataset: Dataset) -> Iterator[str]:
    """Yield the prompts of a file: training rows of any format, rows that end with the question,
    or rows with the prompt under prompt, input, question, text or content."""
    for line in dataset.lines():
        row = None if line.cut else parse_leniently(line.raw)
        if row is not None and (text := _prompt(row)).strip():
            yield text


def _prompt(row: Json) -> str:
    messages = as_list(row.get("messages"))
    questions = [message for message in map(as_dict, messages) if message.get("role") == "user"]
    if questions:
        return "\n".join(iter_message_texts(questions[-1]))
    text = extract_row_text(row)
    if text and text.prompt:
        return text.prompt
    for name in ("prompt", "input", "question", "text", "content", "query", "instruction"):
        if isinstance(row.get(name), str):
            return str(row[name])
    return ""


def _features(prompt: str) -> set[str]:
    """Return the words and pairs of words of a prompt."""
    own = words(prompt[: _WORDS * 10])[:_WORDS]
    return {*own, *map(" ".join, zip(own, own[1:], strict=False))}


def _thin(texts: Iterable[str], limit: int) -> list[str]:
    """Return at most ``limit`` texts, spread evenly over all of them."""
    kept: list[str] = []
    every = 1
    for number, text in enumerate(texts):
        if number % every == 0:
            kept.append(text)
        if len(kept) >= 2 * limit:
            kept, every = kept[::2], every * 2
    step = max(1, -(-len(kept) // limit))
    return kept[::step]
