"""A model card for the Hub: what a model was made of and how, what it does, and how to load it.

It has figures and fingerprints, and no text of a row: what is written here may become public.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import yaml

from finetune_gateway.backend import HandleData
from finetune_gateway.evaluation.checks import Guide
from finetune_gateway.evaluation.results import Measure
from finetune_gateway.jobs.records import StoredFile
from finetune_gateway.reports import comparison_view as view
from finetune_gateway.reports.card_facts import CardFacts, Evaluation, facts_of, public_name
from finetune_gateway.reports.card_loading import loading
from finetune_gateway.reports.html_text import masked
from finetune_gateway.reports.loss_chart import lowest_text, overfitting_note, series, span_text
from finetune_gateway.reports.output import elide, format_bytes, format_count
from finetune_gateway.settings.home import Settings

CURVE_ROWS = 12  # of the table of losses
LONG = 2_000  # characters of a text of the guide
NAME = 80  # of a check, or of a measure
LIBRARIES = {"adapter": "peft", "reward": "peft", "merged": "transformers"}
RELATIONS = {"adapter": "adapter", "reward": "adapter", "merged": "finetune"}
FEW_ROWS = 50
# What of a spec is no text of the user's and no path.
SETTINGS = (
    *("n_epochs", "max_steps", "batch_size", "learning_rate", "learning_rate_multiplier"),
    *("lr_scheduler_type", "warmup_ratio", "weight_decay", "max_grad_norm", "optim", "max_length"),
    *("gradient_accumulation_steps", "packing", "train_on", "loss_type", "beta", "label_smoothing"),
    *("desirable_weight", "undesirable_weight", "seed"),
)
ADAPTER = ("r", "lora_alpha", "lora_dropout", "target_modules", "modules_to_save", "use_dora")
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~&$!])")


def card(
    handle: HandleData,
    settings: Settings,
    *,
    checks: str | os.PathLike[str] | None = None,
    repo: str | None = None,
) -> str:
    """Return the card of a model, with its head in YAML. ``checks``: a behaviour guide, whose words
    are in it; ``repo``: where the model will be, on the Hub. Raises SpecError, NotFoundError for a
    guide."""
    guide = None if checks is None else Guide.load(checks)
    facts = facts_of(handle, settings, guide=guide, repo=repo)
    return "\n\n".join([_head(facts), *_sections(facts)]) + "\n"


def _head(facts: CardFacts) -> str:
    """Return what the Hub reads of a card."""
    said: dict[str, Any] = {}
    if facts.kind in LIBRARIES:
        said["library_name"] = LIBRARIES[facts.kind]
    if facts.base is not None:
        said["base_model"] = facts.base.name
        said["base_model_relation"] = RELATIONS.get(facts.kind, "finetune")
    said |= facts.licence
    said["pipeline_tag"] = "text-classification" if facts.kind == "reward" else "text-generation"
    said["tags"] = [*_tags(facts)]
    return f"---\n{yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=200)}---"


def _tags(facts: CardFacts) -> Iterator[str]:
    yield "finetune-gateway"
    if facts.kind in ("adapter", "reward"):
        yield "lora"
    if facts.method:
        yield facts.method
    if facts.base is not None and facts.kind in RELATIONS:
        yield f"base_model:{RELATIONS[facts.kind]}:{facts.base.name}"


def _sections(facts: CardFacts) -> Iterator[str]:
    name = facts.repo.partition("/")[2] if facts.repo else facts.handle.job_id or "Fine-tuned model"
    yield f"# {_plain(name)}"
    yield _about(facts)
    yield _listed("Base", _base(facts))
    yield _listed("Training data", _data(facts))
    yield _listed("Training", _training(facts))
    yield _losses(facts)
    yield _evaluation(facts.evaluation)
    if facts.guide is not None:
        yield _guide(facts.guide)
    yield f"## Intended use\n\n{_intended(facts)}"
    yield _listed("Limits", _limits(facts))
    yield loading(facts)


def _about(facts: CardFacts) -> str:
    kinds = {
        "adapter": "A LoRA adapter for",
        "reward": "A reward model, as an adapter for",
        "merged": "A whole model: fine-tuned from",
        "hosted": "A model at a host, fine-tuned from",
    }
    how = f", trained by {facts.method.upper()}" if facts.method else ""
    return f"{kinds[facts.kind]} {_plain(facts.base_text)}{how} with finetune-gateway."


# -- what it was made of -------------------------------------------------------------------------


def _base(facts: CardFacts) -> Iterator[str]:
    handle = facts.handle
    yield f"Name: {_plain(facts.base_text)}"
    revision = facts.base.revision if facts.base else handle.base_revision
    if revision:
        yield f"Revision: {_plain(revision)}"
    if handle.base_sha256:
        yield f"Weights: sha256 {handle.base_sha256}"
    if handle.base_quantization:
        yield f"Loaded in training as: {handle.base_quantization}"
    if handle.template_hash:
        yield f"Chat template: sha256 {handle.template_hash}"
    switches = ", ".join(f"{name}={value}" for name, value in handle.chat_template_kwargs.items())
    if switches:
        yield f"Switches of the chat template: {_plain(switches)}"
    for earlier in handle.continued_from[1:]:
        yield f"Trained before: {_plain(public_name(earlier))}"
    yield f"Licence: {_licence(facts.licence)}"


def _licence(said: dict[str, str]) -> str:
    if not said:
        return "not known here. Look at the base before you use or share this model."
    name = said.get("license_name") or said["license"]
    link = f" ({said['license_link']})" if "license_link" in said else ""
    return f"{_plain(name)}{link}, as its model card or its config says"


def _data(facts: CardFacts) -> Iterator[str]:
    record = facts.record
    if record is None:
        digest = facts.handle.dataset_sha256
        yield f"sha256 {digest}" if digest else "Not known here."
        return
    yield f"Training: {_file(record.train)}"
    if record.validation:
        yield f"Validation: {_file(record.validation)}"
    if record.held_out:
        yield f"Held out: {_file(record.held_out)}"
    if record.system_prompt:
        yield "All rows have one system prompt. It is not published."
    yield "The rows themselves are not published."


def _file(file: StoredFile) -> str:
    return f"{format_count(file.rows, 'row')}, {format_bytes(file.bytes)}, sha256 {file.sha256}"


def _training(facts: CardFacts) -> Iterator[str]:
    record, adapter = facts.record, facts.adapter
    if record is not None:
        spec = record.spec
        yield f"Method: {spec.method}"
        if not record.hosted:
            yield f"Weights: {spec.training_type or 'lora'}"
        chosen = {"n_epochs", "batch_size", *spec.chosen}
        for name in SETTINGS:
            if name in chosen and getattr(spec, name) is not None:
                yield f"{name}: {_plain(_text(getattr(spec, name)))}"
        if record.trained_tokens:
            yield f"Trained tokens: {record.trained_tokens:,}"
    for name in ADAPTER if adapter else ():
        if adapter.get(name):
            yield f"{'lora_r' if name == 'r' else name}: {_plain(_text(adapter[name]))}"
    if facts.handle.step is not None:
        yield f"Checkpoint: step {facts.handle.step:,}"
    if record is None and not adapter:
        yield "Not known here."


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _losses(facts: CardFacts) -> str:
    curves = [
        (name, series(facts.metrics, metric))
        for metric, name in (("train_loss", "Training loss"), ("valid_loss", "Validation loss"))
    ]
    known = [(name, points) for name, points in curves if points]
    if not known:
        return "## Losses\n\nNot known here."
    spans = [
        f"- {name}: {span_text(points)}{f', {low}' if (low := lowest_text(points)) else ''}"
        for name, points in known
    ]
    steps = sorted({step for _, points in known for step, _ in points})
    every = math.ceil(len(steps) / CURVE_ROWS)
    shown = [step for at, step in enumerate(steps) if at % every == 0 or step == steps[-1]]
    by_step = [dict(points) for _, points in known]
    rows = [
        (f"{step:,}", *(f"{one[step]:.3f}" if step in one else "" for one in by_step))
        for step in shown
    ]
    return "## Losses\n\n" + "\n".join(
        [*spans, "", *_table(("Step", *(name for name, _ in known)), rows)]
    )


# -- what it does --------------------------------------------------------------------------------


def _evaluation(found: Evaluation | None) -> str:
    if found is None:
        return "## Evaluation\n\nNo comparison with another model was kept."
    data, head = found.data, ["Measure", "This model", *(["Its base"] if found.base else [])]
    measures, others = view.figured(data)
    rows = [_figures(found, one) for one in [*measures, *others] if one.name != "usd"]
    text = (
        f"On {format_count(data.data.rows, 'row')}"
        f"{f' (sha256 {data.data.sha256})' if data.data.sha256 else ''}, with the interval in "
        "which the true figure lies (95 %)."
    )
    left_out = sum(data.data.left_out.values())
    if left_out:
        text += f" {format_count(left_out, 'row')} that it was trained on were left out."
    parts = ["## Evaluation", text, "\n".join(_table(head, rows))]
    if data.checks:
        checks = [
            (
                _plain(elide(name.removeprefix(view.CHECK), NAME)),
                *(view.check_text(figures.get(one.key)) for one in (found.ours, found.base) if one),
            )
            for name, figures in data.checks.items()
        ]
        title = f"{format_count(len(checks), 'check')} of a behaviour guide:"
        parts += [title, "\n".join(_table(["Check", *head[1:]], checks))]
    return "\n\n".join(parts)


def _figures(found: Evaluation, measure: Measure) -> tuple[str, ...]:
    figures = found.data.figures.get(measure.name, {})
    unit = f" ({view.unit_of(measure)})" if view.unit_of(measure) else ""
    cells = [
        _plain(view.figure_text(measure, figures.get(one.key)))
        for one in (found.ours, found.base)
        if one is not None
    ]
    return f"{_plain(elide(measure.title, NAME))}{unit}", *cells


def _guide(guide: Guide) -> str:
    parts = ["## Behaviour guide"]
    for name, said in guide.texts.items():
        if name != "boundaries":
            parts.append(f"**{name.capitalize()}**\n\n{_lines(said)}")
    names = [f"- {_plain(elide(one.name, NAME))}" for one in guide.checks]
    if names:
        parts.append("Its checks:\n\n" + "\n".join(names))
    return "\n\n".join(parts)


def _intended(facts: CardFacts) -> str:
    if facts.kind == "reward":
        return (
            "To score answers like those of its training data: higher is better, and only "
            "differences between answers to one prompt say something."
        )
    if facts.method == "pretrain":
        return "To go on with texts like those that it was trained on."
    text = "To answer conversations like those of its training data, in the way that they do."
    if facts.handle.system_prompt:
        text += " It was trained with one system prompt, which is not published: ask who made it."
    return text


def _limits(facts: CardFacts) -> Iterator[str]:
    if facts.guide is not None and "boundaries" in facts.guide.texts:
        yield from _lines(facts.guide.texts["boundaries"]).removeprefix("- ").split("\n- ")
    for warning in facts.handle.warnings:
        # It may quote what the model has answered.
        quoted = warning.startswith("The first answer")
        said = "The first answer after training was empty, or one piece over and over."
        yield said if quoted else _plain(warning)
    note = overfitting_note(facts.metrics)
    if note and note not in facts.handle.warnings:
        yield _plain(note)
    if facts.record is not None and facts.record.train.rows < FEW_ROWS:
        yield f"It has seen few rows: {facts.record.train.rows:,}."
    if facts.evaluation is None:
        yield "It was not compared with another model, or that was not kept."
    if facts.handle.base_quantization:
        yield (
            f"It was trained on a base in {facts.handle.base_quantization}; on one in full "
            "precision it may answer a little otherwise."
        )
    yield "It may repeat what stands in its training data, and has the faults of its base."
    yield "It was not examined for safety beyond what is said above."


# -- Markdown ------------------------------------------------------------------------------------


def _listed(title: str, lines: Iterator[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [[*head], ["---" for _ in head], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _plain(text: str) -> str:
    """Return a text on one line of which Markdown makes nothing, personal data and keys masked."""
    return _MARKS.sub(r"\\\1", " ".join(masked(text[:LONG]).split()))


def _lines(text: str) -> str:
    """Return lines of a guide; those that begin with a dash stay a list."""
    return "\n".join(
        f"- {_plain(line[2:])}" if line.startswith("- ") else _plain(line)
        for line in text[:LONG].splitlines()
    )
