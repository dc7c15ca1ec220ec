"""``ftg backends`` and ``ftg models``."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_gateway import registry
from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import NotFoundError
from finetune_gateway.estimation import profiles
from finetune_gateway.jobs import added_models
from finetune_gateway.reports.added_text import added_document, added_rows_text
from finetune_gateway.reports.catalog_text import (
    backend_document,
    backends_text,
    hosted_models,
    local_models,
    model_sources,
    models_text,
)
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.output import print_json, print_message, print_result, wrap_text
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings


def backends(json: Json = False, quiet: Quiet = False) -> None:
    """List the backends a job can run on: built in, or from an installed package.

    Examples:
      ftg backends
      ftg backends --json
    """
    documents = [backend_document(name) for name in registry.names()]
    if json:
        print_json(documents)
    elif quiet:
        print_result("\n".join(registry.names()))
    else:
        print_result(shown := backends_text(documents))
        point_out_leaving(shown)


def models(
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="local, or a host: openai, azure, nebius, ..."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Include closed models.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models that can be trained, on each host and on this machine, with known dates, and
    the fine-tunes that you have added ('ftg models add'). Read from dated tables in the package; no
    network.

    Examples:
      ftg models
      ftg models --backend openai --all
    """
    today, names = clock.today(), profiles.profile_names()
    if backend not in (None, "local", *names):
        raise NotFoundError(
            f"No models of {backend!r} are known; known: local, {', '.join(names)}.",
            hint="Run: ftg models",
        )
    names = [backend] if backend in names else names
    hosts = [] if backend == "local" else [profiles.load_profile(name) for name in names]
    models = [row for host in hosts for row in hosted_models(host, today) if all_ or row["open"]]
    if backend in (None, "local"):
        models += local_models()
    added = added_models.every(Settings.load()) if backend is None else []
    if json:
        print_json([*models, *map(added_document, added)])
        return
    if quiet:
        print_result("\n".join(dict.fromkeys(row["model"] for row in models)))
        return
    print_result(shown := models_text(models))
    if added:
        print_result(f"\n{added_rows_text(added)}")
    for host in hosts:
        if host.models:
            for text in model_sources(host, today):
                print_message(wrap_text(f"{host.name}: {text}", "  "))
        elif backend is not None or all_:
            unlisted = f"{host.name}: no list of models is known. {host.notes[-1]}"
            print_message(wrap_text(unlisted, "  "))
    point_out_leaving(shown)
