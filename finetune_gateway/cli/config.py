"""``ftg config``."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import SpecError
from finetune_gateway.reports.config_text import setting_document, settings_text
from finetune_gateway.reports.output import (
    format_count,
    print_json,
    print_message,
    print_result,
    print_warning,
    wrap_text,
)
from finetune_gateway.settings import config as stored
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.home import Settings
from finetune_gateway.text.cleaning import visible

BACKENDS = "backends."  # begins the names of plug-ins, with the options that they were built with
LISTS = ("hosts", "regions")
ARGUMENTS = {"list": 0, "path": 0, "get": 1, "unset": 1, "set": 2}  # after the action


def config(
    action: Annotated[str, typer.Argument(metavar="[list|get|set|unset|path]")] = "list",
    key: Annotated[str | None, typer.Argument(metavar="[KEY]", show_default=False)] = None,
    value: Annotated[str | None, typer.Argument(metavar="[VALUE]", show_default=False)] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Read and change settings, kept in config.toml in the home folder; comments in it are kept.
    A value comes from the argument of a call, else from its environment variable, else from the
    file, else from the default. Unknown keys are refused.

    budget.monthly_usd (FTG_BUDGET_MONTHLY_USD) is what all jobs of a calendar month (UTC) may cost
    together; budget.job_usd (FTG_BUDGET_JOB_USD) is the limit of a job without --max-cost.
    hosts.longest_wait_seconds (FTG_HOSTS_LONGEST_WAIT_SECONDS) is how long to wait at most when a
    host asks to; the default is an hour. hosts.uploads_expire_seconds
    (FTG_HOSTS_UPLOADS_EXPIRE_SECONDS) is how long OpenAI and Azure keep an upload, 3600 to 2592000;
    by default until they are deleted. hosts.allow_http (FTG_HOSTS_ALLOW_HTTP) are hosts beyond this
    machine that may be asked by http://. keys.VARIABLE are hosts that may get the key in that
    environment variable. backends.NAME can only be unset: the options that a plug-in was built with
    for jobs, with which it may be asked. pii.regions (FTG_PII_REGIONS) are countries, such as
    DE,US, whose national telephone numbers count as personal data; international ones always do.
    local.hang_seconds (FTG_HANG_SECONDS) is after how long without progress the worker of a local
    job is started again: 1800 by default, 0 for never; a job keeps what held when it was submitted.
    local.adapters_in_memory (FTG_ADAPTERS_IN_MEMORY) is how many adapters stay on a base that
    answers: 8 by default.
    retention.days (FTG_RETENTION_DAYS) is how old data must be for 'ftg prune' to remove them; the
    default is 30, and nothing is removed before you run it. retention.checkpoints
    (FTG_RETENTION_CHECKPOINTS) is how many of its last checkpoints a local job keeps when it has
    succeeded, beside the best; the default is 1. While it trains it keeps as many, and at least 2.

    Examples:
      ftg config set budget.monthly_usd 50
      ftg config get budget.monthly_usd
      ftg config unset budget.monthly_usd
      ftg config set keys.GPU_KEY gpu.example.com
      ftg config set pii.regions DE,US
      ftg config list
    """
    if action not in ARGUMENTS:
        raise SpecError(f"There is no 'config {action}'.", hint="list, get, set, unset or path.")
    words = [word for word in (key, value) if word is not None]
    if len(words) != ARGUMENTS[action]:
        expected = format_count(ARGUMENTS[action], "argument")
        raise SpecError(
            f"'config {action}' takes {expected}, not {len(words)}.",
            hint="Like: ftg config set budget.monthly_usd 50",
        )
    settings = Settings.load()
    if action == "set":
        _set(settings, *words, json=json, quiet=quiet)
    elif action == "unset":
        _unset(settings, words[0], json=json, quiet=quiet)
    elif action == "get":
        _get(stored.current_value(settings, words[0]), json=json, quiet=quiet)
    elif action == "path":
        _path(settings, json=json, quiet=quiet)
    else:
        _list(settings, json=json, quiet=quiet)


def _get(value: stored.Value, *, json: bool, quiet: bool) -> None:
    if json:
        print_json(setting_document(value))
    elif value.text is not None:
        print_result(value.text)
    else:
        unset = f": {value.key.unset}" if value.key.unset else ""
        print_message(f"{value.key.name} is not set{unset}.", quiet=quiet)


def _set(settings: Settings, key: str, text: str, *, json: bool, quiet: bool) -> None:
    written = stored.write(settings, key, text)
    if json:
        print_json(setting_document(written))
    else:
        print_result(f"{'' if quiet else f'{key} = '}{written.text}")
    _warn_if_overridden(settings, key, quiet)
    print_message(f"Saved in {settings.config}", quiet=quiet)


def _unset(settings: Settings, key: str, *, json: bool, quiet: bool) -> None:
    removed = _remove(settings, key)
    if json:
        print_json({"key": key, "removed": removed})
    else:
        done = "removed" if removed else "was not set"
        print_result(done if quiet else f"{key} {done}")
    if not key.startswith(BACKENDS):
        _warn_if_overridden(settings, key, quiet)


def _remove(settings: Settings, key: str) -> bool:
    """Remove a setting, and what was given in calls by that name; False if there was nothing."""
    bindings = Bindings(settings)
    if key.startswith(BACKENDS):
        return bindings.forget_options(key.removeprefix(BACKENDS))
    removed = stored.remove(settings, key)
    if key.startswith(stored.KEYS_TABLE):
        removed |= bindings.forget(key.removeprefix(stored.KEYS_TABLE))
    return removed


def _warn_if_overridden(settings: Settings, key: str, quiet: bool) -> None:
    """Warn if the environment overrides what was just written."""
    current = stored.current_value(settings, key)
    if current.origin == "environment":
        variable = f"{current.key.variable}={current.text}"
        print_warning(f"{variable} in the environment overrides the file.", quiet=quiet)


def _path(settings: Settings, *, json: bool, quiet: bool) -> None:
    exists = settings.config.exists()
    if json:
        print_json({"path": str(settings.config), "exists": exists})
    else:
        missing = "" if exists or quiet else "  (does not exist yet)"
        print_result(f"{settings.config}{missing}")


def _list(settings: Settings, *, json: bool, quiet: bool) -> None:
    names = dict.fromkeys([*stored.KEYS, *stored.read_file(settings.config)])
    values = [stored.current_value(settings, name) for name in names]
    if json:
        print_json([setting_document(value) for value in values])
        return
    print_result(settings_text(values))
    for variable, place in Bindings(settings).kept():
        about = f"{variable} goes to {place} (given with a job; ftg config unset keys.{variable})."
        print_message(wrap_text(about, "  ", ""), quiet=quiet)
    for backend, options in Bindings(settings).kept_options():
        end = f"ftg config unset {BACKENDS}{backend}"
        about = visible(f"{backend} is asked with {options} (given with a job; {end}).")
        print_message(wrap_text(about, "  ", ""), quiet=quiet)
    for value in values:
        unit = "" if value.key.unit in LISTS else f", in {value.key.unit}"
        about = f"{value.key.name}: {value.key.about}{unit}."
        print_message(wrap_text(about, "  ", ""), quiet=quiet)
