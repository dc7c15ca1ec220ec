"""``ftg prices``: the price table, your own rows, and what in it has grown old."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import typer

from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.errors import NotFoundError, SpecError
from finetune_gateway.estimation import price_table
from finetune_gateway.estimation.price_table import MARKETS, UNITS, Issue, Price
from finetune_gateway.estimation.profiles import load_profile, profile_names
from finetune_gateway.reports import output
from finetune_gateway.reports.output import (
    apply_style,
    format_table,
    print_message,
    print_result,
    wrap_text,
)
from finetune_gateway.settings import clock
from finetune_gateway.settings.home import Settings
from finetune_gateway.tokens.encodings import base_model

TOKEN_COLUMNS = {
    "TRAIN": "train_mtok",
    "IN": "in_mtok",
    "CACHED": "cached_in_mtok",
    "OUT": "out_mtok",
}
BATCH = ("batch_in_mtok", "batch_cached_in_mtok", "batch_out_mtok")
HOURS = {"train_hour": "training", "hosting_hour": "hosting"}
ROW = ("backend", "model", "unit", "usd", "source")


def prices(
    action: Annotated[str, typer.Argument(metavar="[show|path|set|check|update]")] = "show",
    backend: Annotated[
        str | None, typer.Option(metavar="NAME", help="openai, azure, ..., or a GPU vendor.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A model or a GPU, by its whole name.")
    ] = None,
    unit: Annotated[
        str | None, typer.Option(metavar="UNIT", help="train_mtok, in_mtok, gpu_hour, ...")
    ] = None,
    market: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of GPU hours: on-demand, spot, community.")
    ] = None,
    amount: Annotated[
        str | None, typer.Option("--usd", metavar="USD", help="set: the price of one unit.")
    ] = None,
    source: Annotated[
        str | None, typer.Option(metavar="TEXT", help="set: who says so; an address, a contract.")
    ] = None,
    as_of: Annotated[
        str | None, typer.Option(metavar="DATE", help="set: the day it was read (today).")
    ] = None,
    note: Annotated[str, typer.Option(metavar="TEXT", help="set: what else there is to say.")] = "",
    all_: Annotated[bool, typer.Option("--all", "-a", help="show: closed models too.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """What things cost: each row with its source and the day it was read. Offline, but for
    update.

    show (also without a word) prints the rows, path the files they are in, check what is old or
    wrong in them (exit 3 when your file cannot be read). set puts one row into your own file,
    which goes before the package's; comments and other rows stay. update asks the Hugging Face
    hub what an hour of its GPUs costs and puts that into your file.

    Base models are priced by genai-prices where it is installed ([prices]); ask with --model.

    Examples:
      ftg prices --backend openai
      ftg prices show --unit gpu_hour --market spot
      ftg prices --model L40S
      ftg prices set --backend azure --model gpt-4.1-mini-2025-04-14 \\
          --unit train_mtok --usd 4.40 --source "our contract, page 3"
      ftg prices check
      ftg prices update
    """
    own = Settings.load().prices
    wanted = {"backend": backend, "model": model, "unit": unit, "market": market}
    given = {"usd": amount, "source": source, "as_of": as_of, "note": note or None}
    stray = [name for name, value in given.items() if value is not None and action != "set"]
    if stray:
        raise SpecError(f"--{stray[0].replace('_', '-')} belongs to set.", hint="ftg prices set")
    if action == "show":
        return _show(own, wanted, everything=all_, json=json, quiet=quiet)
    if action == "path":
        return _path(own, json)
    if action == "check":
        return _check(own, json)
    if action == "set":
        return _set(own, {**wanted, **given}, json, quiet)
    if action == "update":
        return _update(own, wanted, json, quiet)
    raise SpecError(f"There is no 'prices {action}'.", hint="show, path, set, check or update.")


# -- show --------------------------------------------------------------------------------


def _show(
    own: Path, wanted: dict[str, str | None], *, everything: bool, json: bool, quiet: bool
) -> int:
    _known("unit", wanted["unit"], UNITS)
    _known("market", wanted["market"], MARKETS)
    rows = [row for row in _all_rows(own, wanted["model"]) if _asked(row, wanted)]
    today = clock.today()
    shown = [row for row in rows if everything or wanted["model"] or not _closed(row, today)]
    if not rows:
        named = ", ".join(f"{key} {value}" for key, value in wanted.items() if value)
        raise NotFoundError(f"No price is known for {named}.", hint="Add it: ftg prices set --help")
    mine = {row.key for row in price_table.read_prices(own)}
    if json:
        output.print_json([_document(row, mine, own, today) for row in shown])
        return 0
    print_result(_detail(shown, mine) if wanted["model"] else _screen(shown, mine))
    if len(rows) > len(shown):
        print_message(
            f"{len(rows) - len(shown)} rows of models that are shut down: --all", quiet=quiet
        )
    print_message("With notes: ftg prices --model NAME. Old rows: ftg prices check", quiet=quiet)
    return 0


def _known(name: str, value: str | None, names: Sequence[str]) -> None:
    if value is not None and value not in names:
        raise SpecError(f"There is no {name} {value!r}.", hint=f"{name}: {', '.join(names)}.")


def _all_rows(own: Path, model: str | None) -> list[Price]:
    """The table; of a model that is asked for also what genai-prices knows of it."""
    rows = price_table.prices(own)
    if model is None:
        return rows
    mine = {row.key for row in price_table.read_prices(own)}
    found = {
        row.key: row
        for host in profile_names()
        for row in price_table.catalog_prices(host, _full(host, model))
    }
    return list(
        (
            {row.key: row for row in rows if row.key not in found or row.key in mine}
            | {key: row for key, row in found.items() if key not in mine}
        ).values()
    )


def _asked(row: Price, wanted: dict[str, str | None]) -> bool:
    model = wanted["model"]
    if model is not None and base_model(row.model) not in (model, _full(row.backend, model)):
        return False
    others = ("backend", "unit", "market")
    return all(wanted[name] in (None, getattr(row, name)) for name in others)


def _full(backend: str, model: str) -> str:
    """The base, by the name that stands for it at this host."""
    base = base_model(model)
    known = load_profile(backend).model(base) if backend in profile_names() else None
    return known.model if known else base


def _closed(row: Price, today: date) -> bool:
    return price_table.shut_down_on(row, today) is not None


def _document(row: Price, mine: set[Any], own: Path, today: date) -> dict[str, Any]:
    origin = str(own) if row.key in mine else "package"
    if row.source.startswith("genai-prices "):
        origin = "genai-prices"
    closed = price_table.shut_down_on(row, today)
    return {**row.model_dump(mode="json"), "origin": origin, "closed_on": closed}


def _screen(rows: list[Price], mine: set[Any]) -> str:
    tokens = [row for row in rows if row.unit.endswith("_mtok")]
    hours = [row for row in rows if row.unit in HOURS]
    gpus = [row for row in rows if row.unit == "gpu_hour"]
    parts = [
        _token_table(name, [row for row in tokens if row.backend == name], mine)
        for name in dict.fromkeys(row.backend for row in tokens)
    ]
    parts += [_hour_table("An hour, USD", hours, mine, HOURS)] if hours else []
    parts += [_gpu_table(gpus, mine)] if gpus else []
    return "\n\n".join([*parts, *([f"* {_YOURS}"] if any(r.key in mine for r in rows) else [])])


_YOURS = "your own row (ftg prices path)"


def _token_table(backend: str, rows: list[Price], mine: set[Any]) -> str:
    found: dict[str, dict[str, Price]] = {}
    for row in rows:
        found.setdefault(row.model, {})[row.unit] = row
    lines = []
    for model, units in found.items():
        cells = [_cell(units.get(unit), mine) for unit in TOKEN_COLUMNS.values()]
        batch = " / ".join(_cell(units.get(unit), mine) for unit in BATCH)
        lines.append((model, *cells, "" if batch == "- / - / -" else batch))
    head = ("MODEL", *TOKEN_COLUMNS, "BATCH IN / CACHED / OUT")
    title = f"{apply_style(backend, 'bold')}: a million tokens, USD; ft: is the use of a fine-tune"
    return "\n".join([title, format_table(head, lines, " ".join(TOKEN_COLUMNS)), *_sources(rows)])


def _cell(row: Price | None, mine: set[Any]) -> str:
    return "-" if row is None else f"{row.usd}{'*' if row.key in mine else ''}"


def _hour_table(title: str, rows: list[Price], mine: set[Any], what: dict[str, str]) -> str:
    lines = [
        (f"{row.backend} {row.model}", what[row.unit], _cell(row, mine), _day(row)) for row in rows
    ]
    text = format_table(("WHERE", "WHAT", "USD", "AS OF"), lines, "USD")
    return "\n".join([apply_style(title, "bold"), text, *_sources(rows)])


def _gpu_table(rows: list[Price], mine: set[Any]) -> str:
    order = sorted(rows, key=lambda row: (row.model, row.usd))
    lines = [
        (row.model, row.backend, row.market or "-", _cell(row, mine), _day(row)) for row in order
    ]
    text = format_table(("GPU", "VENDOR", "MARKET", "USD", "AS OF"), lines, "USD")
    return "\n".join([apply_style("An hour of one GPU, USD", "bold"), text, *_sources(rows)])


def _sources(rows: list[Price]) -> list[str]:
    counts = Counter((_day(row), row.source) for row in rows)
    return [f"  {day}  {source}" for day, source in sorted(counts)]


def _day(row: Price) -> str:
    return str(row.as_of or row.dated)


def _detail(rows: list[Price], mine: set[Any]) -> str:
    """Each row with all that is known of it."""
    lines = []
    for row in sorted(
        rows, key=lambda row: (row.backend, row.model, UNITS.index(row.unit), row.usd)
    ):
        what = " ".join(filter(None, (row.backend, row.model, row.unit, row.market)))
        lines.append(f"{f'${row.usd}':>8}  {what}")
        said = [f"{_day(row)}, {row.source}", row.note, _YOURS if row.key in mine else ""]
        lines.append(wrap_text("; ".join(filter(None, said)), " " * 10))
    return "\n".join(lines)


# -- path, check, set --------------------------------------------------------------------


def _path(own: Path, json: bool) -> int:
    packaged = Path(price_table.__file__).with_name("prices.toml")
    if json:
        output.print_json({"user": str(own), "exists": own.exists(), "package": str(packaged)})
        return 0
    print_result(f"yours    {own}{'' if own.exists() else '  (not there yet)'}")
    print_result(f"package  {packaged}")
    return 0


def _check(own: Path, json: bool) -> int:
    found = price_table.check_prices(own, clock.today())
    broken = any(issue.severity == "error" for issue in found)
    if json:
        output.print_json({"ok": not broken, "findings": [asdict(issue) for issue in found]})
    else:
        print_result("\n".join([*map(_issue_line, found), _verdict(found)]))
    return 3 if broken else 0


def _issue_line(issue: Issue) -> str:
    style = "dim" if issue.severity == "note" else issue.severity
    text = wrap_text(f"{issue.severity}: {issue.where}: {issue.message}", "    ")
    return text.strip().replace(issue.severity, apply_style(issue.severity, style), 1)


def _verdict(found: list[Issue]) -> str:
    kinds = Counter(issue.severity for issue in found)
    if kinds["error"]:
        return "Your price file cannot be used."
    if kinds["warning"]:
        return f"{kinds['warning']} things to look at; a newer price: ftg prices set --help"
    return "Nothing is old or wrong."


def _set(own: Path, fields: dict[str, str | None], json: bool, quiet: bool) -> int:
    missing = [name for name in ROW if not fields[name]]
    if missing:
        raise SpecError(
            f"A price row needs {', '.join('--' + name for name in missing)} too.",
            hint="Like: ftg prices set --backend azure --model NAME --unit train_mtok --usd 4.40 "
            '--source "our contract"',
        )
    if fields["unit"] == "gpu_hour" and fields["market"] is None:
        fields["market"] = "on-demand"
    given = {name: value for name, value in fields.items() if value is not None}
    row = price_table.new_price(**{"as_of": clock.today(), **given})
    replaced = price_table.write_price(own, row)
    if json:
        output.print_json(
            {"path": str(own), "replaced": replaced, "row": row.model_dump(mode="json")}
        )
        return 0
    print_result(f"{'replaced' if replaced else 'added'}  {_detail([row], set())}")
    print_message(f"In {own}", quiet=quiet)
    return 0


# -- update ------------------------------------------------------------------------------


def _update(own: Path, wanted: dict[str, str | None], json: bool, quiet: bool) -> int:
    if stray := [name for name, value in wanted.items() if value is not None]:
        raise SpecError(
            f"update takes no --{stray[0]}.", hint="It asks for GPU hours of Hugging Face Jobs."
        )
    # Imported here: only this asks anybody.
    from finetune_gateway.price_updates import hf_jobs

    rows = hf_jobs.gpu_hours(clock.today())
    before = {row.key: row.usd for row in price_table.prices(own)}
    for row in rows:
        price_table.write_price(own, row)
    if json:
        output.print_json({"path": str(own), "rows": [row.model_dump(mode="json") for row in rows]})
        return 0
    for row in rows:
        print_result(f"{row.model:<16}${row.usd}{_change(before.get(row.key), row)}")
    print_message(f"{len(rows)} prices of an hour, in {own}", quiet=quiet)
    return 0


def _change(before: Decimal | None, row: Price) -> str:
    return "" if before == row.usd else "  (new)" if before is None else f"  (${before} before)"
