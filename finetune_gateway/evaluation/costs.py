"""What compared models cost: to train, by the answer, to serve, and where one is cheaper."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from statistics import fmean

from finetune_gateway.backends.local.models import shape_in, small_files
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.estimation.profiles import profile_names
from finetune_gateway.estimation.serving import ServingCosts, serving_costs
from finetune_gateway.estimation.throughput import ServedModel, served_as
from finetune_gateway.estimation.traffic import MeasuredUse, Traffic
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.results import AnswerFigures, TrainingFacts
from finetune_gateway.jobs import budget, history
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.money import format_usd

MONTHLY_REQUESTS = 10_000  # unless the user says otherwise


def training_facts(model: EvaluatedModel, store: Store) -> TrainingFacts | None:
    """Return what the training of a model was estimated at, and took; None for one that no job
    here has made."""
    if model.job is None or model.variant != "tuned":
        return None
    record = model.job
    quote, actual = budget.Quote.of(record), budget.actual(record)
    metrics = tuple(history.read_metrics(store, record.id))
    return TrainingFacts(
        estimated_usd=quote.cost_usd,
        actual_usd=actual.cost_usd if actual else None,
        estimated_seconds=quote.seconds,
        actual_seconds=record.seconds,
        method=record.spec.method,
        training_type=record.spec.training_type or (None if record.hosted else "lora"),
        rows=record.train.rows,
        dataset_sha256=record.train.sha256,
        settings=_settings(record),
        prices=tuple(price_text(price) for price in quote.prices),
        metrics=metrics,
        note="" if metrics else f"{record.display_name} has reported no losses",
    )


def _settings(record: JobRecord) -> dict[str, object]:
    chosen = record.spec.model_dump(mode="json", exclude_none=True)
    return {name: value for name, value in chosen.items() if name in record.spec.chosen}


def price_text(price: Price) -> str:
    """Return a price as people read it, with its day and its source."""
    return (
        f"{price.backend} {price.model}: ${price.usd} {price.unit}, {price.dated}, {price.source}"
    )


def serving(
    models: Sequence[EvaluatedModel],
    answers: Mapping[str, AnswerFigures],
    requests: int | None,
    store: Store,
) -> ServingCosts | None:
    """Return what it costs to serve these models for so many requests a month; None if nothing was
    answered. A model of a host by what its own answers have cost; your own GPU by the lengths that
    were measured of fine-tuned models on this machine if there are any, else of other ones."""
    tuned = {model.key for model in models if model.variant == "tuned"}
    here = {model.key for model in models if model.kind == "local"} & tuned
    measured = {
        key: one for key, one in answers.items() if one.prompt_tokens and one.completion_tokens
    }
    if not measured:
        return None
    of = "models"
    known = [*measured.values()]
    for keys, words in ((here, "fine-tuned models on this machine"), (tuned, "fine-tuned models")):
        if keys & measured.keys():
            of, known = words, [one for key, one in measured.items() if key in keys]
            break
    traffic = Traffic(
        requests=requests or MONTHLY_REQUESTS,
        tokens_in=round(fmean(one.prompt_tokens or 0.0 for one in known)),
        tokens_out=max(1, round(fmean(one.completion_tokens or 0.0 for one in known))),
        lengths=f"your own GPU: the mean of the {of}; a host: that of its own models",
    )
    return serving_costs(
        traffic,
        hosted(models),
        untuned=hosted(models, tuned=False),
        served=_served(models, store.settings),
        measured=_measured(models, measured),
        extra=store.settings.prices,
    )


def _measured(
    models: Sequence[EvaluatedModel], answers: Mapping[str, AnswerFigures]
) -> dict[tuple[str, str], MeasuredUse]:
    """Return what was measured of the models of each host, by base, ``ft:BASE`` of fine-tuned ones:
    their mean, if there are several."""
    found: dict[tuple[str, str], MeasuredUse] = {}
    having: dict[tuple[str, str], list[AnswerFigures]] = defaultdict(list)
    for model in models:
        if (place := _place(model)) and model.key in answers:
            name = f"ft:{place[1]}" if _is_tuned(model) else place[1]
            having[place[0], name].append(answers[model.key])
    for place, own in having.items():
        paid = [one.usd_per_answer for one in own if one.usd_per_answer is not None]
        found[place] = MeasuredUse(
            tokens_in=round(fmean(one.prompt_tokens or 0.0 for one in own)),
            tokens_out=round(fmean(one.completion_tokens or 0.0 for one in own)),
            models=len(own),
            usd=sum(paid, budget.ZERO) / len(paid) if len(paid) == len(own) else None,
        )
    return found


def _served(models: Sequence[EvaluatedModel], settings: Settings) -> ServedModel | None:
    """Return the size of the first base on this machine, that of a fine-tuned model before others;
    None if there is none."""
    here = [model for model in models if model.kind == "local" and model.recording is None]
    for model in sorted(here, key=lambda one: one.variant != "tuned"):
        try:
            shape = shape_in(small_files(model.base_model, settings))
        except GatewayError:  # it has answered, and is gone since
            continue
        return served_as(shape, PurePath(model.base_model).name)
    return None


def hosted(models: Sequence[EvaluatedModel], *, tuned: bool = True) -> list[tuple[str, str]]:
    """Return host and base of the models that a host with known prices serves: those that are
    fine-tuned, or those that serve as they are."""
    places = (_place(model) for model in models if _is_tuned(model) == tuned)
    return [*dict.fromkeys(filter(None, places))]


def _place(model: EvaluatedModel) -> tuple[str, str] | None:
    """Return host and base of a model that a host with known prices serves."""
    if model.backend is None or model.backend.profile.name not in profile_names():
        return None
    return model.backend.profile.name, model.base_model


def _is_tuned(model: EvaluatedModel) -> bool:
    return model.variant == "tuned" or model.model != model.base_model


def money_clauses(
    answers: Mapping[str, AnswerFigures], training: Mapping[str, TrainingFacts | None]
) -> dict[str, str]:
    """Return for each model of which something is known a clause on what it costs."""
    clauses = {}
    for key, figures in answers.items():
        parts = []
        if figures.usd_per_answer is not None:
            parts.append(f"{format_usd(1000 * figures.usd_per_answer)} per 1,000 answers")
        cost = training.get(key)
        if cost is not None and cost.actual_usd:
            parts.append(f"{format_usd(cost.actual_usd)} to train")
        if parts:
            clauses[key] = ", ".join(parts)
    return clauses
