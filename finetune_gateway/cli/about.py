"""``ftg backends`` and ``ftg models``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

import typer

from finetune_gateway import backends as known
from finetune_gateway import profiles
from finetune_gateway.cli import output
from finetune_gateway.cli.options import Json
from finetune_gateway.cli.output import paint, say, show, table, wrapped
from finetune_gateway.errors import GatewayError

Document = dict[str, Any]
LOCAL_MODELS = (
    ("builtin/tiny", "A small chat model built on this machine, to try things; no download."),
    ("owner/name", "A chat model of the Hugging Face hub, fetched when first trained."),
    ("./folder", "A folder with config.json, a tokenizer and *.safetensors."),
)


def backends(json: Json = False) -> None:
    """Where a job can run: built in, or brought by an installed package.

    Examples:
      ftg backends
      ftg backends --json
    """
    found = [_about(name) for name in known.names()]
    if json:
        output.emit(found)
        return
    show("\n\n".join(_backend_text(one) for one in found))


def _about(name: str) -> Document:
    """What a backend says of itself; one that cannot be loaded says why."""
    about: Document = {"name": name, "origin": known.origin(name)}
    try:
        can = known.load(name).capabilities()
    except GatewayError as exc:
        return {**about, "usable": False, "error": str(exc)}
    return {
        **about,
        "usable": True,
        "hosted": can.hosted,
        "methods": sorted(can.methods),
        "training_types": sorted(can.training_types),
        "options": sorted(can.options),
        "no_new_jobs_after": can.no_new_jobs_after,
        "notes": list(can.notes),
    }


def _backend_text(about: Document) -> str:
    head = f"{paint(about['name'], 'bold')}  ({about['origin']})"
    if not about["usable"]:
        return f"{head}\n{wrapped('cannot be used: ' + about['error'], '  ')}"
    kinds = f", {' or '.join(about['training_types'])}" if about["training_types"] else ""
    where = "hosted: the data leaves this machine" if about["hosted"] else "on this machine"
    lines = [head, f"  {where}", f"  trains: {', '.join(about['methods'])}{kinds}"]
    if about["no_new_jobs_after"]:
        lines.append(f"  takes new jobs until {about['no_new_jobs_after']}")
    return "\n".join([*lines, *(wrapped(note, "    ", "  - ") for note in about["notes"])])


def models(
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="local, or a host: openai, azure, nebius, ..."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Closed ones too.")] = False,
    json: Json = False,
) -> None:
    """Models that can be trained, on each host and here, with the dates that are known. Read
    from dated tables in the package; nobody is asked.

    Examples:
      ftg models
      ftg models --backend openai --all
    """
    today = date.today()
    names = [backend] if backend not in (None, "local") else profiles.profile_names()
    hosts = [] if backend == "local" else [profiles.load_profile(str(name)) for name in names]
    found = [row for host in hosts for row in _rows(host, today) if all_ or row["open"]]
    here = LOCAL_MODELS if backend in (None, "local") else ()
    found += [
        {"backend": "local", "model": name, "methods": ["sft"], "open": True, "note": note}
        for name, note in here
    ]
    if json:
        output.emit(found)
        return
    show(_models_text(found))
    for host in hosts:
        if host.models:
            say(wrapped(f"{host.name}: as of {host.as_of}, {host.source}", "  "))
        elif backend is not None or all_:
            say(wrapped(f"{host.name}: no list of models is known. {host.notes[-1]}", "  "))


def _rows(host: profiles.Profile, today: date) -> Iterator[Document]:
    for row in host.models:
        closed = host.no_new_jobs_after and today > host.no_new_jobs_after
        yield {
            "backend": host.name,
            "model": row.model,
            "aliases": list(row.aliases),
            "methods": sorted(row.methods),
            "open": row.trainable(today) and not closed,
            "trainable_until": row.trainable_until,
            "retires_on": row.retires_on,
            "as_of": host.as_of,
            "source": row.source,
            "note": row.note,
        }


def _models_text(found: list[Document]) -> str:
    rows = [
        (
            one["backend"],
            one["model"],
            ",".join(one["methods"]),
            _day(one.get("trainable_until")),
            _day(one.get("retires_on")),
        )
        for one in found
    ]
    lines = table(("HOST", "MODEL", "METHODS", "TRAIN UNTIL", "ANSWERS UNTIL"), rows)
    notes = [wrapped(f"{one['model']}: {one['note']}", "  ") for one in found if one.get("note")]
    return "\n".join([lines, *(["", *notes] if notes else [])])


def _day(day: date | None) -> str:
    return str(day) if day else "-"
