"""``ftg backends`` and ``ftg models``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from typing import Annotated, Any

import typer

from finetune_gateway import registry as known
from finetune_gateway.cli.options import Json
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import profiles
from finetune_gateway.methods import TRAINERS
from finetune_gateway.reports import output
from finetune_gateway.reports.output import (
    apply_style,
    format_table,
    print_message,
    print_result,
    wrap_text,
)
from finetune_gateway.settings import clock

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
        output.print_json(found)
        return
    print_result("\n\n".join(_backend_text(one) for one in found))


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
    head = f"{apply_style(about['name'], 'bold')}  ({about['origin']})"
    if not about["usable"]:
        return f"{head}\n{wrap_text('cannot be used: ' + about['error'], '  ')}"
    kinds = f", {' or '.join(about['training_types'])}" if about["training_types"] else ""
    where = "hosted: the data leaves this machine" if about["hosted"] else "on this machine"
    lines = [head, f"  {where}", f"  trains: {', '.join(about['methods']) or '-'}{kinds}"]
    if about["no_new_jobs_after"]:
        lines.append(f"  takes new jobs until {about['no_new_jobs_after']}")
    return "\n".join([*lines, *(wrap_text(note, "    ", "  - ") for note in about["notes"])])


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
    today = clock.today()
    names = [backend] if backend not in (None, "local") else profiles.profile_names()
    hosts = [] if backend == "local" else [profiles.load_profile(str(name)) for name in names]
    found = [row for host in hosts for row in _rows(host, today) if all_ or row["open"]]
    here = LOCAL_MODELS if backend in (None, "local") else ()
    found += [
        {"backend": "local", "model": name, "methods": sorted(TRAINERS), "open": True, "note": note}
        for name, note in here
    ]
    if json:
        output.print_json(found)
        return
    print_result(_models_text(found))
    for host in hosts:
        if host.models:
            for text in _sources(host, today):
                print_message(wrap_text(f"{host.name}: {text}", "  "))
        elif backend is not None or all_:
            print_message(
                wrap_text(f"{host.name}: no list of models is known. {host.notes[-1]}", "  ")
            )


def _rows(host: profiles.Profile, today: date) -> Iterator[Document]:
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


def _sources(host: profiles.Profile, today: date) -> Iterator[str]:
    """Who may train, and where it is from; a warning where that is long ago."""
    lives = [host.life_cycle(""), *(host.life_cycle(row.model) for row in host.models)]
    open_ = [life for life in lives if not life.closed_on(today)]
    for only in dict.fromkeys(life.only_for(today) for life in open_):
        meant = [row.model for row, life in zip(host.models, lives[1:], strict=True)
                 if life in open_ and life.only_for(today) == only]  # fmt: skip
        models = "" if len(meant) == len(host.models) else f" ({', '.join(meant)})"
        if only:
            yield f"only {only} can create jobs{models}"
    for as_of, source in dict.fromkeys((life.as_of, life.source) for life in lives):
        days = (today - as_of).days
        old = f"; that is {days} days ago: check it" if days > profiles.STALE_DAYS else ""
        yield f"as of {as_of}, {source}{old}"


def _models_text(found: list[Document]) -> str:
    rows = [
        (
            one["backend"],
            one["model"],
            ",".join(one["methods"]),
            _until(one),
            _day(one.get("retires_on")),
        )
        for one in found
    ]
    lines = format_table(("HOST", "MODEL", "METHODS", "NEW JOBS UNTIL", "RETIRED ON"), rows)
    notes = [wrap_text(f"{one['model']}: {one['note']}", "  ") for one in found if one.get("note")]
    return "\n".join([lines, *(["", *notes] if notes else [])])


def _until(one: Document) -> str:
    """The last day; ``2027-04-13+`` where only that it is none before is known."""
    last, least = one.get("trainable_until"), one.get("trainable_at_least_until")
    if last or not least:
        return _day(last)
    return f"{least}+" if one["open"] else "closed"


def _day(day: date | None) -> str:
    return str(day) if day else "-"
