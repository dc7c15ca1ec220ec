"""``ftg config``: limits and other settings of the home folder."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import SpecError
from finetune_gateway.reports import output
from finetune_gateway.reports.output import format_table, print_message, print_result, wrap_text
from finetune_gateway.settings import config as stored
from finetune_gateway.settings.home import Settings

TAKES = {"list": 0, "path": 0, "get": 1, "unset": 1, "set": 2}  # words after the action


def config(
    action: Annotated[str, typer.Argument(metavar="[list|get|set|unset|path]")] = "list",
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", show_default=False)] = None,
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", show_default=False)] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Settings, kept in config.toml of the home folder; comments in it stay. A value is taken
    from the argument of a call, else from its environment variable, else from the file, else
    there is a default. Unknown keys are refused.

    budget.monthly_usd (FTG_BUDGET_MONTHLY_USD) is what all jobs of a calendar month, in UTC, may
    cost together; budget.job_usd (FTG_BUDGET_JOB_USD) is the limit of a job without --max-cost.

    Examples:
      ftg config set budget.monthly_usd 50
      ftg config get budget.monthly_usd
      ftg config unset budget.monthly_usd
      ftg config list
    """
    if action not in TAKES:
        raise SpecError(f"There is no 'config {action}'.", hint="list, get, set, unset or path.")
    words = [word for word in (key, value) if word is not None]
    if len(words) != TAKES[action]:
        raise SpecError(
            f"'config {action}' takes {TAKES[action]} words after it, not {len(words)}.",
            hint="Like: ftg config set budget.monthly_usd 50",
        )
    settings = Settings.load()
    if action == "set":
        _set(settings, *words, json=json, quiet=quiet)
    elif action == "unset":
        _unset(settings, words[0], json=json, quiet=quiet)
    elif action == "get":
        _get(stored.value(settings, words[0]), json=json, quiet=quiet)
    elif action == "path":
        _path(settings, json=json)
    else:
        _list(settings, json=json, quiet=quiet)


def _document(value: stored.Value) -> dict[str, Any]:
    plain = None if value.usd is None else f"{value.usd:f}"
    return {"key": value.key.name, "value": plain, "from": value.origin}


def _from(value: stored.Value) -> str:
    if value.origin == "environment":
        return f"environment ({value.key.variable})"
    return "default: no limit" if value.origin == "default" else value.origin


def _get(value: stored.Value, *, json: bool, quiet: bool) -> None:
    if json:
        output.print_json(_document(value))
    elif value.usd is not None:
        print_result(f"{value.usd:f}")
    else:
        print_message(f"{value.key.name} is not set: no limit.", quiet=quiet)


def _set(settings: Settings, key: str, text: str, *, json: bool, quiet: bool) -> None:
    written = stored.write(settings, key, text)
    if json:
        output.print_json(_document(written))
    else:
        print_result(f"{key} = {written.usd:f}")
    _overruled(settings, key)
    print_message(f"In {settings.config}", quiet=quiet)


def _unset(settings: Settings, key: str, *, json: bool, quiet: bool) -> None:
    there = stored.remove(settings, key)
    if json:
        output.print_json({"key": key, "removed": there})
    else:
        print_result(f"{key} {'removed' if there else 'was not set'}")
    _overruled(settings, key)


def _overruled(settings: Settings, key: str) -> None:
    """Say so where the environment goes before what was just written."""
    now = stored.value(settings, key)
    if now.origin == "environment":
        output.print_warning(
            f"{now.key.variable}={now.usd:f} in the environment goes before the file."
        )


def _path(settings: Settings, *, json: bool) -> None:
    if json:
        output.print_json({"path": str(settings.config), "exists": settings.config.exists()})
    else:
        print_result(f"{settings.config}{'' if settings.config.exists() else '  (not there yet)'}")


def _list(settings: Settings, *, json: bool, quiet: bool) -> None:
    values = [stored.value(settings, name) for name in stored.KEYS]
    if json:
        output.print_json([_document(value) for value in values])
        return
    rows = [
        (value.key.name, "-" if value.usd is None else f"{value.usd:f}", _from(value))
        for value in values
    ]
    print_result(format_table(("KEY", "VALUE", "FROM"), rows, right="VALUE"))
    for value in values:
        print_message(
            wrap_text(f"{value.key.name}: {value.key.about}, in USD.", "  ", ""), quiet=quiet
        )
