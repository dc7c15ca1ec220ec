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
    backend_text,
    backends_text,
    hosted_models,
    local_models,
    model_sources,
    models_of,
    models_text,
)
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.output import print_json, print_message, print_result, wrap_text
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings


def backends(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="This one alone, with all its settings.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the backends a job can run on: built in, or from an installed package. With NAME, one of
    them, with the settings that it honours, those of its own (--backend-param), and what it does
    not take.

    Examples:
      ftg backends
      ftg backends local
      ftg backends --json
    """
    if name is not None:
        registry.require_known(name)
    names = registry.names() if name is None else [name]
    if quiet and not json:  # no backend is loaded, and nvidia-smi not asked
        print_result("\n".join(names))
        return
    documents = [backend_document(one) for one in names]
    if json:
        print_json(documents if name is None else documents[0])
    else:
        shown = backends_text(documents) if name is None else backend_text(documents[0])
        print_result(shown)
        point_out_leaving(shown)


def models(
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="local, openai, azure, ..., or a plug-in: it is asked."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Include closed models.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models that can be trained, on each host and on this machine, with known dates, and
    the fine-tunes that you have added ('ftg models add'). Read from dated tables in the package; no
    network. With --backend and the name of a plug-in, what it says can be trained there.

    Examples:
      ftg models
      ftg models --backend openai --all
    """
    if backend not in (None, "local", *profiles.profile_names()):
        return _print_models_of(str(backend), json=json, quiet=quiet)
    today, hosts = clock.today(), _hosts(backend)
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


def _hosts(name: str | None) -> list[profiles.Profile]:
    """Return the profile of this host; without a name those of all."""
    names = profiles.profile_names() if name is None else [name]
    return [profiles.load_profile(one) for one in names if one != "local"]


def _print_models_of(name: str, *, json: bool, quiet: bool) -> None:
    """Print what a backend without tables in the package says can be trained there. Raises
    NotFoundError for a name that no backend has."""
    known = sorted({*registry.names(), *profiles.profile_names()} - {"local"})
    if name not in known:
        raise NotFoundError(
            f"No models of {name!r} are known; known: local, {', '.join(known)}.",
            hint="Run: ftg models",
        )
    rows = models_of(name)
    if json:
        print_json(rows)
    elif quiet:
        print_result("\n".join(row["model"] for row in rows))
    elif rows:
        print_result(models_text(rows))
    else:
        print_message(f"{name} does not say which models can be trained there.")
