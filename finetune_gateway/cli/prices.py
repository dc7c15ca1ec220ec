"""``ftg prices``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import NotFoundError, SpecError
from finetune_gateway.estimation import price_table
from finetune_gateway.estimation.price_table import MARKETS, TIERS, UNITS, Price
from finetune_gateway.estimation.profiles import load_profile, profile_names
from finetune_gateway.reports.output import print_json, print_message, print_result, print_warning
from finetune_gateway.reports.prices_text import (
    issues_document,
    issues_text,
    price_change_text,
    price_document,
    price_rows_text,
    prices_text,
    retail_price_text,
)
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.encodings import base_model

REQUIRED = ("backend", "model", "unit", "usd", "source")  # of a row


def prices(
    action: Annotated[str, typer.Argument(metavar="[show|path|set|check|update]")] = "show",
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="openai, azure, ..., or a GPU vendor.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model or a GPU, by its full name.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(metavar="UNIT", help="train_mtok, in_mtok, gpu_hour, ...")
    ] = None,
    market: Annotated[
        str | None, typer.Option(metavar="NAME", help="For GPU hours: on-demand, spot, community.")
    ] = None,
    tier: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="For Azure: standard, global, datazone, developer."),
    ] = None,
    amount: Annotated[
        str | None,
        typer.Option("--usd", metavar="USD", help="set: the price of one unit; of each."),
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="set: where it is from; a URL, a contract.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="set: the day it was read (default: today).")
    ] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="set: anything else.")] = "",
    azure: Annotated[
        str | None,
        typer.Option(metavar="REGION", help="update: Azure's list prices there, like eastus2."),
    ] = None,
    currency: Annotated[
        str | None,
        typer.Option(metavar="CODE", help="update --azure: USD (default), EUR, ..."),
    ] = None,
    all_: Annotated[bool, typer.Option("--all", "-a", help="show: include closed models.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show prices, each with its source and the day it was read. Offline, except for update.

    show (the default) prints the rows, path the files they are in, check what is old or wrong in
    them (exit code 3 when your file cannot be read). set puts a row into your own file, which
    overrides the package's; comments and other rows are kept. update asks the Hugging Face Hub
    for its prices of GPU hours and puts them into your file; with --azure REGION it asks Azure for
    its list prices of training, hosting and use. Both are public and need no key. Prices in another
    currency than USD are shown and not kept: estimates and budgets are in USD.

    Prices of base models come from genai-prices where it is installed ([prices]); ask with
    --model.

    Examples:
      ftg prices --backend openai
      ftg prices show --unit gpu_hour --market spot
      ftg prices --model L40S
      ftg prices set --backend azure --model gpt-4.1-mini-2025-04-14 \\
          --unit train_mtok --usd 4.40 --source "our contract, page 3"
      ftg prices set --backend openai --model gpt-9 --unit in_mtok,out_mtok \\
          --usd 0.40,1.60 --source "our contract"
      ftg prices check
      ftg prices update
      ftg prices update --azure eastus2
      ftg prices update --azure swedencentral --currency EUR
    """
    own = Settings.load().prices
    filters = {"backend": backend, "model": model, "unit": unit, "market": market, "tier": tier}
    given = {"usd": amount, "source": source, "as_of": as_of, "note": note or None}
    misplaced = [name for name, value in given.items() if value is not None and action != "set"]
    if misplaced:
        raise SpecError(
            f"--{misplaced[0].replace('_', '-')} is an option of 'prices set'.",
            hint="Run: ftg prices set --help",
        )
    if action != "update" and (azure or currency):
        raise SpecError(
            f"--{'azure' if azure else 'currency'} is an option of 'prices update'.",
            hint="Run: ftg prices update --azure REGION",
        )
    if action == "show":
        return _show(own, filters, everything=all_, json=json, quiet=quiet)
    if action == "path":
        return _path(own, json, quiet)
    if action == "check":
        return _check(own, json)
    if action == "set":
        return _set(own, {**filters, **given}, json, quiet)
    if action == "update":
        return _update(own, filters, (azure, currency), json, quiet)
    raise SpecError(f"There is no 'prices {action}'.", hint="show, path, set, check or update.")


# -- show --------------------------------------------------------------------------------


def _show(
    own: Path, filters: dict[str, str | None], *, everything: bool, json: bool, quiet: bool
) -> int:
    units = dict.fromkeys((*UNITS, *(row.unit for row in price_table.read_prices(own))))
    _check_name("unit", filters["unit"], [*units])
    _check_name("market", filters["market"], MARKETS)
    _check_name("tier", filters["tier"], TIERS)
    rows = [row for row in _all_rows(own, filters["model"]) if _matches(row, filters)]
    today = clock.today()
    open_rows = [row for row in rows if price_table.shut_down_on(row, today) is None]
    shown = rows if everything or filters["model"] else open_rows
    if not rows:
        names = ", ".join(f"{key} {value}" for key, value in filters.items() if value)
        add = price_table.add_command(
            filters["backend"] or "BACKEND", filters["model"] or "MODEL", filters["unit"] or "UNIT"
        )
        for name in ("market", "tier"):
            add += f" --{name} {filters[name]}" if filters[name] else ""
        raise NotFoundError(f"No price is known for {names}.", hint=f"Add it: {add}")
    own_keys = {row.key for row in price_table.read_prices(own)}
    if json:
        print_json([price_document(row, own_keys, own, today) for row in shown])
        return 0
    print_result((price_rows_text if filters["model"] else prices_text)(shown, own_keys))
    if len(rows) > len(shown):
        hidden = len(rows) - len(shown)
        print_message(f"{hidden} rows of models that are shut down: --all", quiet=quiet)
    print_message("With notes: ftg prices --model NAME. Old rows: ftg prices check", quiet=quiet)
    return 0


def _check_name(name: str, value: str | None, names: Sequence[str]) -> None:
    """Raise SpecError for a value that is not one of the names."""
    if value is not None and value not in names:
        raise SpecError(f"There is no {name} {value!r}.", hint=f"{name}: {', '.join(names)}.")


def _all_rows(own: Path, model: str | None) -> list[Price]:
    """Return the table; for one model, with what genai-prices knows of it."""
    rows = price_table.prices(own)
    if model is None:
        return rows
    own_keys = {row.key for row in price_table.read_prices(own)}
    catalogued = {
        row.key: row
        for host in profile_names()
        for row in price_table.catalog_prices(host, _full_name(host, model))
    }
    packaged = {row.key: row for row in rows if row.key not in catalogued or row.key in own_keys}
    added = {key: row for key, row in catalogued.items() if key not in own_keys}
    return list((packaged | added).values())


def _matches(row: Price, filters: dict[str, str | None]) -> bool:
    model = filters["model"]
    if model is not None and base_model(row.model) not in (model, _full_name(row.backend, model)):
        return False
    others = ("backend", "unit", "market", "tier")
    return all(filters[name] in (None, getattr(row, name)) for name in others)


def _full_name(backend: str, model: str) -> str:
    """Return the host's full name of a base model."""
    base = base_model(model)
    known = load_profile(backend).model(base) if backend in profile_names() else None
    return known.model if known else base


# -- path, check, set, update ------------------------------------------------------------


def _path(own: Path, json: bool, quiet: bool) -> int:
    packaged = Path(price_table.__file__).with_name("prices.toml")
    if json:
        print_json({"user": str(own), "exists": own.exists(), "package": str(packaged)})
        return 0
    if quiet:
        print_result(str(own))
        return 0
    print_result(f"yours    {own}{'' if own.exists() else '  (does not exist yet)'}")
    print_result(f"package  {packaged}")
    return 0


def _check(own: Path, json: bool) -> int:
    issues = price_table.check_prices(own, clock.today())
    if json:
        print_json(issues_document(issues))
    else:
        print_result(issues_text(issues))
    return 3 if any(issue.severity == "error" for issue in issues) else 0


def _set(own: Path, fields: dict[str, str | None], json: bool, quiet: bool) -> int:
    missing = [name for name in REQUIRED if not fields[name]]
    if missing:
        raise SpecError(
            f"A price row also needs {', '.join('--' + name for name in missing)}.",
            hint="Like: ftg prices set --backend azure --model NAME --unit train_mtok --usd 4.40 "
            '--source "our contract"',
        )
    given = {name: value for name, value in fields.items() if value is not None}
    units, amounts = (given.pop(name).split(",") for name in ("unit", "usd"))
    if len(units) != len(amounts):
        raise SpecError(
            f"--unit names {len(units)}, and --usd {len(amounts)}.",
            hint="One amount for each unit: --unit in_mtok,out_mtok --usd 0.4,1.6",
        )
    rows = []
    for unit, usd in zip(units, amounts, strict=True):
        market = {"market": "on-demand"} if unit == "gpu_hour" else {}
        of_unit = {"as_of": clock.today(), **market, **given, "unit": unit, "usd": usd}
        rows.append(price_table.new_price(**of_unit))
    replaced = price_table.write_prices(own, rows)
    if json:
        said = [row.model_dump(mode="json") for row in rows]
        print_json({"path": str(own), "replaced": bool(replaced), "row": said[0], "rows": said})
        return 0
    for row in rows:
        done = "replaced" if row.key in replaced else "added"
        print_result(done if quiet else f"{done}  {price_rows_text([row])}")
    print_message(f"Saved in {own}", quiet=quiet)
    return 0


def _update(
    own: Path,
    filters: dict[str, str | None],
    retail: tuple[str | None, str | None],
    json: bool,
    quiet: bool,
) -> int:
    if given := [name for name, value in filters.items() if value is not None]:
        raise SpecError(
            f"'prices update' has no option --{given[0]}.",
            hint="It updates the GPU hours of Hugging Face Jobs, or with --azure the list prices "
            "of Azure.",
        )
    region, currency = retail
    if region is not None:
        return _update_azure(own, region, (currency or "USD").upper(), json, quiet)
    if currency is not None:
        raise SpecError("--currency belongs to --azure.", hint="Like: --azure eastus2")
    # Imported here: only this action uses the network.
    from finetune_gateway.price_updates import hf_jobs

    rows = hf_jobs.gpu_hours(
        clock.today(), lambda odd: print_warning(f"Left out: {odd}", quiet=quiet)
    )
    return _keep(own, rows, "prices per hour", json, quiet)


def _update_azure(own: Path, region: str, currency: str, json: bool, quiet: bool) -> int:
    # Imported here: only this action uses the network.
    from finetune_gateway.price_updates import azure_retail

    found = azure_retail.list_prices(region, currency)
    if found.unread:
        left = f"{found.unread} meters of other services and models, or in unknown words"
        print_message(f"Left out: {left}.", quiet=quiet)
    if currency == "USD":
        return _keep(own, found.rows(clock.today()), "prices", json, quiet)
    if json:
        prices = [price.model_dump(mode="json") for price in found.prices]
        print_json({"region": region, "currency": currency, "kept": False, "prices": prices})
        return 0
    for price in found.prices:
        print_result(retail_price_text(price))
    print_message("Not kept: estimates and budgets are in USD.", quiet=quiet)
    return 0


def _keep(own: Path, rows: Sequence[Price], what: str, json: bool, quiet: bool) -> int:
    """Put rows into the user's file and print them beside what was there."""
    before = {row.key: row.usd for row in price_table.prices(own)}
    price_table.write_prices(own, rows)
    if json:
        print_json({"path": str(own), "rows": [row.model_dump(mode="json") for row in rows]})
        return 0
    for row in rows:
        print_result(price_change_text(before.get(row.key), row))
    print_message(f"{len(rows)} {what} saved in {own}", quiet=quiet)
    return 0
