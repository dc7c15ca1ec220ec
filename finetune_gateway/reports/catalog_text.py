"""Backends and models that can be trained, as tables and as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Any

from finetune_gateway import registry
from finetune_gateway.backend import NEUTRAL, Capabilities, params
from finetune_gateway.backend.seam import within_time
from finetune_gateway.backends.local import nvidia
from finetune_gateway.backends.local.slots import find_slots
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import profiles
from finetune_gateway.methods import TRAINERS
from finetune_gateway.reports.output import apply_style, format_table, wrap_text
from finetune_gateway.settings.home import Settings

Document = dict[str, Any]
MODELS_SECONDS = 60.0  # for a plug-in to list its models; its host may have many pages of them
LOCAL_MODELS = (
    ("builtin/tiny", "A small chat model built on this machine, to try things; no download."),
    ("owner/name", "A chat model from the Hugging Face Hub, downloaded when first trained."),
    ("./folder", "A folder with config.json, a tokenizer and *.safetensors."),
)


# -- backends ------------------------------------------------------------------------------


def backend_document(name: str) -> Document:
    """Return the capabilities of a backend, or why it cannot be loaded."""
    document: Document = {"name": name, "origin": registry.origin(name)}
    try:
        capabilities, params = _abilities(name)
    except GatewayError as exc:
        return {**document, "usable": False, "error": str(exc)}
    return {
        **document,
        "usable": True,
        "hosted": capabilities.hosted,
        "rules": capabilities.rules,
        "methods": sorted(capabilities.methods),
        "training_types": sorted(capabilities.training_types),
        "options": sorted(capabilities.options),
        "refuses": sorted(capabilities.refuses),
        "params": params,
        "no_new_jobs_after": capabilities.no_new_jobs_after,
        "notes": [*capabilities.notes, *(_slots() if name == "local" else ())],
    }


def _slots() -> list[str]:
    """Return on which devices jobs of this shell would train, and why others are not used."""
    found = find_slots(os.environ, nvidia.list_devices())
    return [f"{found}", *found.unused, *found.problems]


def _abilities(name: str) -> tuple[Capabilities, list[Document]]:
    """Return what a backend can do, and its own settings; of a plug-in that hangs, BackendError."""

    def look() -> tuple[Capabilities, list[Document]]:
        backend = registry.load(name)
        return backend.capabilities(), [*map(_param, params.lines_of(backend))]

    return look() if registry.origin(name) == "built in" else within_time(f"Backend {name!r}", look)


def _param(line: tuple[str, str, str]) -> Document:
    name, value, meaning = line
    return {"name": name, "value": value, "description": meaning}


def backends_text(backends: Sequence[Document]) -> str:
    """Return a paragraph for each backend."""
    return "\n\n".join(map(_summary, backends))


def backend_text(backend: Document) -> str:
    """Return all that is known of one backend: also the settings that it takes."""
    lines = [_summary(backend)]
    if backend["usable"]:
        lines += _settings_lines(backend)
    return "\n".join(lines)


def _settings_lines(backend: Document) -> Iterator[str]:
    honours = sorted({*backend["options"], *NEUTRAL} - {"model", *backend["refuses"]})
    yield wrap_text(f"settings: {', '.join(honours)}", "    ", "  ")
    if backend["refuses"]:
        yield wrap_text(f"does not take: {', '.join(backend['refuses'])}", "    ", "  ")
    if backend["params"]:
        yield "  settings of its own, with --backend-param NAME=VALUE (backend_params):"
    for one in backend["params"]:
        meaning = f". {one['description']}" if one["description"] else ""
        yield wrap_text(f"{one['name']}: {one['value']}{meaning}", "      ", "    ")


def _summary(backend: Document) -> str:
    head = f"{apply_style(backend['name'], 'bold')}  ({backend['origin']})"
    if not backend["usable"]:
        return f"{head}\n{wrap_text('cannot be used: ' + backend['error'], '  ')}"
    types = f" ({', '.join(backend['training_types'])})" if backend["training_types"] else ""
    where = "hosted: the data leaves this machine" if backend["hosted"] else "on this machine"
    methods = ", ".join(backend["methods"]) or "no method that is known here"
    lines = [
        head,
        f"  {where}",
        wrap_text(f"trains: {methods}{types}", "    ", "  "),
        wrap_text(f"rows: judged by {_rules(backend['rules'])}", "    ", "  "),
    ]
    if backend["no_new_jobs_after"]:
        lines.append(f"  takes new jobs until {backend['no_new_jobs_after']}")
    return "\n".join([*lines, *(wrap_text(note, "    ", "  - ") for note in backend["notes"])])


def _rules(declared: str | Mapping[str, str]) -> str:
    """Return ``the rules of openai``, with the severities of its own."""
    if isinstance(declared, str):
        return f"the rules of {declared}"
    own = [f"{code}: {said}" for code, said in declared.items() if code != "extends"]
    return f"the rules of {declared.get('extends', 'common')}, but {', '.join(own)}"


# -- models --------------------------------------------------------------------------------


def hosted_models(host: profiles.Profile, today: date) -> Iterator[Document]:
    """Yield the models of a host as JSON, with their dates."""
    for row in host.models:
        life = host.life_cycle(row.model)
        yield {
            "backend": host.name,
            "model": row.model,
            "aliases": list(row.aliases),
            "methods": sorted(row.methods),
            "open": life.closed_on(today) is None,
            "trainable_until": life.new_jobs_until,
            "trainable_at_least_until": life.new_jobs_at_least_until,
            "base_retires_on": life.base_retires_on,
            "retires_on": life.retires_on,
            "only_for": life.only_for(today),
            "as_of": life.as_of,
            "source": life.source,
            "stale": life.stale(today),
            "note": row.note,
        }


def local_models() -> Iterator[Document]:
    """Yield the kinds of models that are trained on this machine, as JSON."""
    methods = sorted(TRAINERS)
    for name, note in LOCAL_MODELS:
        yield {"backend": "local", "model": name, "methods": methods, "open": True, "note": note}


def models_of(name: str) -> list[Document]:
    """Return the models that a plug-in says can be trained there, as JSON: it may ask its host.
    Raises BackendError for one that hangs."""

    def look() -> list[Document]:
        backend = registry.load(name)
        backend.bind(Settings.load())
        return [
            {
                "backend": name,
                "model": model,
                "methods": sorted(backend.capabilities(model).methods),
                "open": True,
            }
            for model in backend.models()
        ]

    return within_time(f"Backend {name!r}", look, MODELS_SECONDS)


def _methods(names: Sequence[str]) -> str:
    """Return methods as a cell that leaves room for the others: ``dpo,sft``, ``sft and 5 more``."""
    if len(names) > 2:
        return f"sft and {len(names) - 1} more" if "sft" in names else f"{len(names)} methods"
    return ",".join(names) or "not verified"


def models_text(models: Sequence[Document]) -> str:
    """Return a table of models, then the notes on them."""
    rows = [
        (
            model["backend"],
            model["model"],
            _methods(model["methods"]),
            _new_jobs_until(model),
            _day(model.get("retires_on")),
        )
        for model in models
    ]
    table = format_table(("HOST", "MODEL", "METHODS", "NEW JOBS UNTIL", "RETIRED ON"), rows)
    shared: dict[str, list[str]] = {}  # a note, and the models that it is on
    for one in models:
        if one.get("note"):
            shared.setdefault(one["note"], []).append(one["model"])
    notes = [wrap_text(f"{', '.join(names)}: {note}", "  ") for note, names in shared.items()]
    if any(row[3].endswith("+") for row in rows):
        notes.insert(0, wrap_text("A day with +: at least until then; no last day is known.", "  "))
    return "\n".join([table, *(["", *notes] if notes else [])])


def model_sources(host: profiles.Profile, today: date) -> Iterator[str]:
    """Yield who may train at a host, and the sources of its dates; old ones say so."""
    lives = [host.life_cycle(""), *(host.life_cycle(row.model) for row in host.models)]
    open_lives = [life for life in lives if not life.closed_on(today)]
    for only in dict.fromkeys(life.only_for(today) for life in open_lives):
        names = [row.model for row, life in zip(host.models, lives[1:], strict=True)
                 if life in open_lives and life.only_for(today) == only]  # fmt: skip
        models = "" if len(names) == len(host.models) else f" ({', '.join(names)})"
        if only:
            yield f"only {only} can create jobs{models}"
    if host.deploy_command:
        yield f"a model tuned there answers only once it is deployed; {host.deploy_source}"
    for as_of, source in dict.fromkeys((life.as_of, life.source) for life in lives):
        days = (today - as_of).days
        old = f"; this is {days} days old: check it" if days > profiles.STALE_DAYS else ""
        yield f"as of {as_of}, {source}{old}"


def _new_jobs_until(model: Document) -> str:
    """Return the last day, or ``2027-04-13+`` if only an earliest end is known."""
    last, least = model.get("trainable_until"), model.get("trainable_at_least_until")
    if last or not least:
        return _day(last)
    return f"{least}+" if model["open"] else "closed"


def _day(day: date | None) -> str:
    return str(day) if day else "-"
