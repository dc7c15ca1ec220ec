"""Price rows with source and date: read, looked up by their exact name, written and checked.

Rows come from the user's file first, then for base models from genai-prices if it is installed,
then from the package. ``hosted`` and ``local`` turn them into costs.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import ConfigDict, Field, ValidationError, model_validator

from finetune_gateway.errors import (
    SpecError,
    StoreError,
    shown,
    toml_error_text,
    validation_error_text,
)
from finetune_gateway.estimation import genai_prices
from finetune_gateway.estimation.gpus import gpus_named
from finetune_gateway.estimation.profiles import STALE_DAYS, load_profile, profile_names
from finetune_gateway.model import Given
from finetune_gateway.settings import clock, files
from finetune_gateway.settings.money import MOST_USD, parse_usd
from finetune_gateway.tokens.encodings import base_model

Unit = Literal[
    "train_mtok",
    "train_hour",
    "in_mtok",
    "cached_in_mtok",
    "out_mtok",
    "batch_in_mtok",
    "batch_cached_in_mtok",
    "batch_out_mtok",
    "gpu_hour",
    "hosting_hour",
]
Market = Literal["on-demand", "spot", "community"]
Tier = Literal["standard", "global", "datazone", "developer"]  # of Azure, where prices differ by it
Key = tuple[str, str, str, str | None, str | None]
UNITS: tuple[str, ...] = get_args(Unit)
MARKETS: tuple[str, ...] = get_args(Market)
TIERS: tuple[str, ...] = get_args(Tier)
WORD = re.compile("[a-z0-9_]{3,60}[a-z0-9]")
FORM = (
    'Each row: [[price]] backend = "openai", model = "...", usd = { train_mtok = "5.00" }, '
    'as_of = 2026-11-21, source = "...".'
)


class Price(Given):
    """What one unit costs, with source and date."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    backend: str = Field(min_length=1)
    model: str = Field(min_length=1)
    unit: str  # a Unit, or one of the backend's own, like acme_credit
    usd: Decimal = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    as_of: date | None  # the day it was read; None: not known
    source: str = Field(min_length=1)
    note: str = ""
    market: Market | None = None  # of a GPU hour
    tier: Tier | None = None  # of training or deployment at Azure; None: whatever it is

    @model_validator(mode="after")
    def _has_a_known_unit(self) -> Self:
        own = f"{re.sub('[^a-z0-9]+', '_', self.backend.lower())}_"
        begins = self.unit.startswith(own) and WORD.fullmatch(self.unit)
        if self.unit not in UNITS and not begins:
            raise ValueError(
                f"unit must be one of {', '.join(UNITS)}, not {shown(self.unit)}; one of its own "
                f"begins with the backend's name, like {own}credit"
            )
        return self

    @property
    def key(self) -> Key:
        return self.backend, self.model, self.unit, self.market, self.tier

    @property
    def dated(self) -> str:
        """Return ``as of 2026-10-05``, or ``date not known``."""
        return f"as of {self.as_of}" if self.as_of else "date not known"

    def stale(self, today: date) -> int:
        """Return the days since it was read if more than 90, else 0; 0 if the day is not known."""
        days = (today - self.as_of).days if self.as_of else 0
        return days if days > STALE_DAYS else 0


@dataclass(frozen=True)
class Issue:
    """Something in a price table that a person should look at. An error makes it unusable."""

    severity: Literal["error", "warning", "note"]
    where: str  # the file, or "the package"
    message: str


def prices(extra: Path | None = None) -> list[Price]:
    """Return the package's price rows, with those of the user's file ``extra`` in place of rows for
    the same backend, model, unit and market. Raises SpecError if it is not a price table."""
    rows = {price.key: price for price in packaged_prices()}
    return list((rows | {price.key: price for price in read_prices(extra)}).values())


def find_price(
    profile: str,
    model: str,
    unit: str,
    *,
    extra: Path | None = None,
    tier: str | None = None,
    market: str | None = None,
) -> Price | None:
    """Return the row of exactly this backend, model and unit, or None.

    A fine-tune's id finds a row of its own, else that of its base: ``ft:gpt-4o-...:org::id`` is
    looked up as ``ft:gpt-4o-...`` for inference, and as the base for training. Inference of a base
    is priced by genai-prices if it is installed, unless the user's file has a row. ``tier``: a row
    of this tier goes before one that names none; a row of another tier never counts. ``market``: of
    a GPU hour; by default a row that names none, else the one on demand.
    """
    name = _price_name(model, unit)
    markets = (None, "on-demand") if unit == "gpu_hour" and market is None else (market,)
    names = dict.fromkeys((model, name))
    tiers = dict.fromkeys((tier, None))
    keys = [(profile, of, unit, one, at) for of in names for one in markets for at in tiers]
    return (
        _row(read_prices(extra), keys)
        or _catalog_price(profile, name, unit)
        or _row(packaged_prices(), keys)
    )


def _row(rows: Iterable[Price], keys: Sequence[Key]) -> Price | None:
    """Return the row with the first of these keys that has one; of several the last, which is the
    one that counts."""
    found = {row.key: row for row in rows if row.key in keys}
    return next((found[key] for key in keys if key in found), None)


def gpu_prices(gpu: str, *, extra: Path | None = None) -> list[Price]:
    """Return the hourly prices of exactly this GPU in every market, cheapest first; also those of
    rows that name it as nvidia-smi does."""
    rows = (row for row in prices(extra) if row.unit == "gpu_hour")
    own = [row for row in rows if row.model == gpu or gpus_named(row.model) == [gpu]]
    return sorted(own, key=lambda row: row.usd)


def catalog_prices(backend: str, model: str) -> list[Price]:
    """Return the prices of exactly this model in genai-prices; none if it is not installed."""
    rows = (_catalog_price(backend, model, unit) for unit in get_args(Unit))
    return [price for price in rows if price]


def _catalog_price(backend: str, name: str, unit: str) -> Price | None:
    if name.startswith("ft:") or unit not in genai_prices.FIELDS:
        return None
    entry = genai_prices.find(backend, name)
    if entry is None or unit not in entry.usd:
        return None
    return Price(
        backend=backend,
        model=name,
        unit=unit,
        usd=entry.usd[unit],
        as_of=None,
        source=entry.source,
        note=entry.note,
    )


def _price_name(model: str, unit: str) -> str:
    base = base_model(model)
    tuned = base != model and not unit.startswith("train_")
    return f"ft:{base}" if tuned else base


@cache
def packaged_prices() -> tuple[Price, ...]:
    """Return the rows that come with the package."""
    text = resources.files("finetune_gateway.estimation").joinpath("prices.toml").read_text("utf-8")
    return tuple(_parse_rows(tomllib.loads(text)))


_BAD_TABLE = (
    UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError, TypeError, SpecError,
)  # fmt: skip


def read_prices(path: Path | None) -> list[Price]:
    """Return the rows of the user's file; none if there is no such file. Raises SpecError if it is
    not a price table, StoreError if it cannot be read."""
    if path is None:
        return []
    text = ""
    try:
        text = path.read_text("utf-8")
        return list(_parse_rows(tomllib.loads(text)))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as exc:
        raise StoreError(f"{path} cannot be read: {exc.strerror or exc}.") from None
    except _BAD_TABLE as exc:
        message = f"{path} is not a price table: {_explain(exc, text)}{_locate(text)}"
        raise SpecError(message, hint=FORM) from None


def _explain(exc: Exception, text: str = "") -> str:
    if isinstance(exc, SpecError):
        return exc.message
    if not isinstance(exc, ValidationError):
        return f"{toml_error_text(exc, text)}."
    return f"{validation_error_text(exc)}."


def _locate(text: str) -> str:
    """Return `` (row 2, from line 9)`` of the first invalid row; empty if the text is not TOML."""
    try:
        tables = tomllib.loads(text).get("price", [])
    except tomllib.TOMLDecodeError:
        return ""
    heads = [n for n, line in enumerate(text.splitlines(), 1) if _HEADER.match(line)]
    for number, table in enumerate(tables if isinstance(tables, list) else [], 1):
        try:
            list(_parse_rows({"price": [table]}))
        except _BAD_TABLE:
            line = f", from line {heads[number - 1]}" if len(heads) == len(tables) else ""
            return f" (row {number}{line})"
    return ""


_HEADER = re.compile(r"\s*\[\[\s*price\s*\]\]")


def _parse_rows(document: dict[str, Any]) -> Iterator[Price]:
    unknown = sorted(document.keys() - {"price"})
    if unknown or not isinstance(document.get("price", []), list):
        raise TypeError(f"only [[price]] rows are allowed, not {', '.join(unknown) or 'price'}")
    for table in document.get("price", []):
        if not isinstance(table, dict):
            raise TypeError(f"a price row is a table, not {table!r}")
        shared = {name: value for name, value in table.items() if name != "usd"}
        _require_known(shared)
        amounts = table.get("usd")
        if not isinstance(amounts, dict):
            raise TypeError(f"usd of {table.get('model')!r} must map units to amounts")
        for unit, usd in amounts.items():
            yield Price(unit=unit, usd=parse_usd(usd, "usd"), **shared)


def _require_known(fields: Iterable[str]) -> None:
    """Raise SpecError for a field of a user's row that rows do not have."""
    if wrong := [name for name in fields if name not in Price.model_fields]:
        raise SpecError(f"{wrong[0]} is not known.")


def new_price(usd: object, **fields: Any) -> Price:
    """Return a row from what a person typed. Raises SpecError that names the wrong field."""
    _require_known(fields)
    try:
        row = Price(usd=parse_usd(usd, "usd"), **fields)
    except ValidationError as exc:
        raise SpecError(
            f"This is not a price row: {_explain(exc)}", hint="Run: ftg prices --help"
        ) from None
    if (row.market is not None) != (row.unit == "gpu_hour"):
        raise SpecError(
            f"market belongs to gpu_hour rows only; this is {row.unit}.",
            hint=f"Markets: {', '.join(MARKETS)}.",
        )
    if row.tier is not None and row.backend != "azure":
        raise SpecError(
            f"tier belongs to rows of azure only; this is {row.backend}.",
            hint="Leave --tier out.",
        )
    if row.as_of is not None and row.as_of > clock.today():
        raise SpecError(f"as_of {row.as_of} is in the future.", hint="Give the day it was read.")
    return row


def write_price(path: Path, row: Price) -> bool:
    """Put a row into the user's file and return True if it replaced one with the same key; see
    ``write_prices``."""
    return bool(write_prices(path, [row]))


def write_prices(path: Path, rows: Sequence[Price]) -> set[Key]:
    """Put rows into the user's file at once, and return the keys of those that were replaced.

    Comments and other rows stay as they are, also those that another process puts in meanwhile.
    Raises SpecError if the file is not a price table, StoreError if it cannot be written.
    """
    try:
        with files.locking(files.folder(path.parent / "locks") / "prices"):
            return _put(path, rows)
    except OSError as exc:
        raise StoreError(f"{path} cannot be written: {exc.strerror or exc}.") from None


def _put(path: Path, rows: Sequence[Price]) -> set[Key]:
    """Read the file, put rows into it, and replace it. Raises OSError."""
    # Imported here: only this writes.
    import tomlkit

    replaced = {old.key for old in read_prices(path)} & {row.key for row in rows}
    document = tomlkit.parse(path.read_text("utf-8") if path.exists() else _HEAD)
    tables = document.get("price")
    if tables is None:
        tables = document["price"] = tomlkit.aot()
    _drop(tables, replaced)
    # A file may also hold price = [{...}, ...].
    new = tomlkit.table if isinstance(tables, tomlkit.items.AoT) else tomlkit.inline_table
    for row in rows:
        table = new()
        table.update(_to_toml(row))
        tables.append(table)
    text = tomlkit.dumps(document)
    list(_parse_rows(tomllib.loads(text)))  # never replace a valid file by an invalid one
    files.write_atomic(path, text, private=True)
    return replaced


def _drop(tables: Any, keys: set[Key]) -> None:
    """Remove the amounts with these keys, and the tables that are left without any."""
    for table in list(tables):
        backend, model = table["backend"], table["model"]
        market, tier = table.get("market"), table.get("tier")
        for unit in [unit for unit in table["usd"]]:
            if (backend, model, unit, market, tier) in keys:
                del table["usd"][unit]
        if not table["usd"]:
            tables.remove(table)


_HEAD = "# Your own prices; they override the package's. See: ftg prices --help\n\n"


def _to_toml(row: Price) -> dict[str, Any]:
    import tomlkit

    amounts = tomlkit.inline_table()
    amounts[row.unit] = str(row.usd)
    fields: dict[str, Any] = {"backend": row.backend, "model": row.model, "usd": amounts}
    if row.market:
        fields["market"] = row.market
    if row.tier:
        fields["tier"] = row.tier
    fields |= {"as_of": row.as_of, "source": row.source}
    return fields | ({"note": row.note} if row.note else {})


def add_command(backend: str, model: str, *units: str) -> str:
    """Return the command that adds the prices of these units, where USD and TEXT are to be put."""
    amounts = ",".join(["USD"] * len(units))
    return (
        f"ftg prices set --backend {shlex.quote(backend)} --model {shlex.quote(model)} "
        f"--unit {','.join(units)} --usd {amounts} --source TEXT"
    )


def shut_down_on(row: Price, today: date) -> date | None:
    """Return the day on which the model of a row was shut down, if that day has come."""
    if row.backend not in profile_names():
        return None
    model = load_profile(row.backend).model(row.model)
    retires_on = model and model.retires_on
    return retires_on if retires_on and retires_on <= today else None


def check_prices(extra: Path | None, today: date) -> list[Issue]:
    """Return what is wrong, old or doubtful in the package's table and in the user's."""
    issues = list(_check_table("the package", list(packaged_prices()), today))
    try:
        own = read_prices(extra)
    except (SpecError, StoreError) as exc:
        return [*issues, Issue("error", str(extra), exc.message)]
    issues += _check_table(str(extra), own, today)
    package = {price.key: price for price in packaged_prices()}
    for price in own:
        newer = package.get(price.key)
        if newer and newer.as_of and price.as_of and newer.as_of > price.as_of:
            text = f"{_name(price)} of {price.as_of} overrides the newer {newer.usd} USD of "
            issues.append(Issue("warning", str(extra), f"{text}{newer.as_of} in the package."))
    return issues


def _check_table(where: str, rows: list[Price], today: date) -> Iterator[Issue]:
    earlier: dict[Key, Price] = {}
    for row in rows:
        if row.key in earlier:
            both = f"{earlier[row.key].usd} and {row.usd} USD"
            yield Issue(
                "warning", where, f"{_name(row)} is there twice ({both}); the last is used."
            )
        earlier[row.key] = row
        if row.as_of and row.as_of > today:
            yield Issue("warning", where, f"{_name(row)}: {row.as_of} is in the future.")
        if row.unit == "gpu_hour" and row.market is None:
            yield Issue("warning", where, f"{_name(row)} has no market ({', '.join(MARKETS)}).")
    yield from _check_groups(where, rows, today)


def _check_groups(where: str, rows: list[Price], today: date) -> Iterator[Issue]:
    """Yield one issue for all units of a model, and one for all old rows of a source."""
    shut = {
        (day, row.backend, base_model(row.model))
        for row in rows
        if (day := shut_down_on(row, today))
    }
    for day, backend in sorted({pair[:2] for pair in shut}):
        models = ", ".join(sorted(model for *pair, model in shut if pair == [day, backend]))
        yield Issue("note", where, f"Shut down on {day} at {backend}: {models}.")
    old = Counter(
        (row.as_of, row.stale(today), row.source)
        for row in rows
        if row.as_of and row.stale(today) and not shut_down_on(row, today)
    )
    for (day, age, source), count in sorted(old.items()):
        rows_are = "1 row is" if count == 1 else f"{count} rows are"
        yield Issue("warning", where, f"{rows_are} from {day}, {age} days ago; check {source}")


def _name(row: Price) -> str:
    return " ".join(filter(None, (row.backend, row.model, row.unit, row.market, row.tier)))
