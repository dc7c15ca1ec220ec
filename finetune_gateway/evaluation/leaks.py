"""Rows that a compared model was trained on: no figure of a verdict may count them.

Each compared row is held against every training row that is here: the whole conversation, and the
prompt alone, which counts whatever the answer and the system prompt are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from finetune_gateway.evaluation.framing import SYSTEM
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.prompts import Prompt, fingerprint
from finetune_gateway.evaluation.results import ComparedRow, Leak
from finetune_gateway.evaluation.row_matching import (
    Match,
    Text,
    matches,
    text_of,
    training_texts,
)
from finetune_gateway.settings import files

SHARED = 0.5  # a group of three words in so many training prompts is part of a template
COVERED = 0.4  # of the words of a prompt that come from it
OF_ONE_TEMPLATE = 0.8  # of the rows
TEMPLATE_ROWS = 10  # fewer training rows show none
SHOWN = 12  # words of a template in a warning


def mark(rows: Sequence[ComparedRow], models: Iterable[EvaluatedModel]) -> list[ComparedRow]:
    """Return the rows, each with the training rows that it repeats or nearly does, by model."""
    found: dict[Path, dict[str, Match]] = {}
    leaks: dict[str, list[Leak]] = {row.id: [] for row in rows}
    prompts = [row.prompt for row in rows]
    for model in models:
        for row_id, match in _of_model(model, prompts, found):
            assert match.kind is not None  # for the type checker
            leaks[row_id].append(Leak(model=model.key, kind=match.kind, line=match.line))
    return [row.model_copy(update={"leaks": tuple(leaks[row.id])}) for row in rows]


def _of_model(
    model: EvaluatedModel, prompts: Sequence[Prompt], found: dict[Path, dict[str, Match]]
) -> Iterator[tuple[str, Match]]:
    """Yield for each row that a model was trained on the match; of several files the first exact
    one. ``found``: what is known of files, which models share."""
    best: dict[str, Match] = {}
    for path in distinct(model.training_data):
        if path not in found:
            found[path] = matches(prompts, path)
        for row_id, match in found[path].items():
            if row_id not in best or (best[row_id].kind, match.kind) == ("near", "exact"):
                best[row_id] = match
    yield from best.items()


def distinct(paths: Iterable[Path]) -> list[Path]:
    """Return the files, one of each content."""
    seen: dict[str, Path] = {}
    for path in paths:
        seen.setdefault(files.sha256_of(path), path)
    return list(seen.values())


def same_generator(rows: Sequence[ComparedRow], models: Iterable[EvaluatedModel]) -> list[str]:
    """Return a warning for each training file with which the rows share a template: what is
    measured on them may hold for rows of this form alone."""
    texts = [text_of(row.prompt) for row in rows]
    keys: dict[Path, list[str]] = {}
    for model in models:
        for path in distinct(model.training_data):
            keys.setdefault(path, []).append(model.key)
    warnings = (_template_warning(texts, path, names) for path, names in keys.items())
    return [text for text in warnings if text]


def _template_warning(texts: Sequence[Text], path: Path, names: Sequence[str]) -> str:
    counts, trained = Counter[tuple[str, ...]](), 0
    for text in training_texts(path):
        counts.update(set(_groups(text)))
        trained += 1
    template = {group for group, count in counts.items() if count >= SHARED * trained}
    if trained < TEMPLATE_ROWS or not template or not texts:
        return ""
    covered = [text for text in texts if _covered(text, template) >= COVERED]
    if len(covered) < OF_ONE_TEMPLATE * len(texts):
        return ""
    whose = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    whose += " was" if len(names) == 1 else " were"
    return (
        f"{len(covered):,} of {len(texts):,} rows have the form of the rows that {whose} trained "
        f'on ("{_shown(covered[0], template)}"): they look like the work of one generator or '
        "template, so the figures hold for such rows alone."
    )


def _groups(text: Text) -> list[tuple[str, ...]]:
    own = text.prompt_words
    return list(zip(own, own[1:], own[2:], strict=False))


def _covered(text: Text, template: set[tuple[str, ...]]) -> float:
    """Return the share of the words of a prompt that are part of a template."""
    inside = _inside(text, template)
    return sum(inside) / len(inside) if inside else 0.0


def _inside(text: Text, template: set[tuple[str, ...]]) -> list[bool]:
    inside = [False] * len(text.prompt_words)
    for at, group in enumerate(_groups(text)):
        if group in template:
            inside[at : at + 3] = [True] * 3
    return inside


def _shown(text: Text, template: set[tuple[str, ...]]) -> str:
    """Return a prompt with dots for what is its own."""
    shown: list[str] = []
    for word, is_inside in zip(text.prompt_words, _inside(text, template), strict=True):
        if is_inside:
            shown.append(word)
        elif shown[-1:] != ["..."]:
            shown.append("...")
    more = " ..." if len(shown) > SHOWN and shown[SHOWN - 1] != "..." else ""
    return " ".join(shown[:SHOWN]) + more


def clusters(prompts: Sequence[Prompt]) -> dict[str, str]:
    """Return for each prompt what its cluster is called: one for all prompts of one conversation,
    in which one is the beginning of the other."""
    whole = {_key(prompt.messages): prompt.id for prompt in prompts}
    heads = {prompt.id: prompt.id for prompt in prompts}
    for prompt in prompts:
        heads[prompt.id] = _first(prompt.messages, whole) or prompt.id
    return heads


def _first(messages: Sequence[dict[str, Any]], whole: dict[str, str]) -> str | None:
    """Return the shortest prompt that these messages begin with."""
    asked = (at for at, one in enumerate(messages, 1) if one.get("role") not in SYSTEM)
    return next((whole[key] for at in asked if (key := _key(messages[:at])) in whole), None)


def _key(messages: Sequence[dict[str, Any]]) -> str:
    return fingerprint(list(messages))
