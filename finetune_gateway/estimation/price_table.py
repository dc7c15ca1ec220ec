"""Dated price rows: read, found by their whole name, written and checked.

A row says what one unit costs, who says so and when. Rows come from the package, from the user's
file, which goes first, and for base models from genai-prices where it is installed. Knows no
billing rule and calls no service.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from finetune_gateway.errors import SpecError, toml_said
from finetune_gateway.estimation import genai_prices
from finetune_gateway.estimation.profiles import STALE_DAYS, load_profile, profile_names
from finetune_gateway.settings import clock
from finetune_gateway.settings.files import write_atomic
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
UNITS: tuple[str, ...] = get_args(Unit)
MARKETS: tuple[str, ...] = get_args(Market)
MOST_USD = Decimal(10**9)  # of any one unit; the dearest thing known costs 100 USD an hour
FORM = (
    'Each row: [[price]] backend = "openai", model = "...", usd = { train_mtok = "5.00" }, '
    'as_of = 2026-11-21, source = "...".'
)


class Price(BaseModel):
    """What one unit costs, who says so, and when."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    backend: str = Field(min_length=1)
    model: str = Field(min_length=1)
    unit: Unit
    usd: Decimal = Field(ge=0, le=MOST_USD, allow_inf_nan=False)
    as_of: date | None  # the day it was read; None: its source does not say
    source: str = Field(min_length=1)
    note: str = ""
    market: Market | None = None  # of a GPU hour

    @property
    def key(self) -> tuple[str, str, str, str | None]:
        return self.backend, self.model, self.unit, self.market

    @property
    def dated(self) -> str:
        """``as of 2026-10-05``, or ``date not known``."""
        return f"as of {self.as_of}" if self.as_of else "date not known"

    def stale(self, today: date) -> int:
        """Days since it was read, where these are more than 90; else, and where the day is not
        known, 0."""
        days = (today - self.as_of).days if self.as_of else 0
        return days if days > STALE_DAYS else 0


@dataclass(frozen=True)
class Doubt:
    """Something about a price table that a person should look at. An error makes it unusable."""

    severity: Literal["error", "warning", "note"]
    where: str  # the file, or "the package"
    message: str


def prices(extra: Path | None = None) -> list[Price]:
    """Every price row of the package; rows of the user's file ``extra`` replace those with the
    same backend, model, unit and market. Raises SpecError when that file is not such a table."""
    rows = {price.key: price for price in packaged()}
    return list((rows | {price.key: price for price in of_file(extra)}).values())


def find_price(profile: str, model: str, unit: Unit, *, extra: Path | None = None) -> Price | None:
    """The row of exactly this backend, model and unit, or None.

    A fine-tune's id finds the row of its base: ``ft:gpt-4o-...:org::id`` is looked up as
    ``ft:gpt-4o-...`` for inference, and as the base for training. Inference of a base comes
    from genai-prices where that is installed, unless the user's file has it.
    """
    name = _price_name(model, unit)
    wanted = (profile, name, unit, None)
    own = {price.key: price for price in of_file(extra)}
    if wanted in own:
        return own[wanted]
    return _catalogued(profile, name, unit) or next(
        (price for price in packaged() if price.key == wanted), None
    )


def gpu_prices(gpu: str, *, extra: Path | None = None) -> list[Price]:
    """What an hour of exactly this GPU costs, cheapest first, in every market."""
    rows = (row for row in prices(extra) if row.unit == "gpu_hour" and row.model == gpu)
    return sorted(rows, key=lambda row: row.usd)


def catalogued(backend: str, model: str) -> list[Price]:
    """What genai-prices knows of exactly this model; nothing where it is not installed."""
    found = (_catalogued(backend, model, unit) for unit in get_args(Unit))
    return [price for price in found if price]


def _catalogued(backend: str, name: str, unit: Unit) -> Price | None:
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


def _price_name(model: str, unit: Unit) -> str:
    base = base_model(model)
    tuned = base != model and not unit.startswith("train_")
    return f"ft:{base}" if tuned else base


@cache
def packaged() -> tuple[Price, ...]:
    """The rows that come with the package."""
    text = resources.files("finetune_gateway.estimation").joinpath("prices.toml").read_text("utf-8")
    return tuple(_rows(tomllib.loads(text)))


_BAD_TABLE = (
    OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError, TypeError,
    InvalidOperation,
)  # fmt: skip


def of_file(path: Path | None) -> list[Price]:
    """The rows of the user's file, none when there is no such file. Raises SpecError when it is
    not a price table."""
    if path is None:
        return []
    text = ""
    try:
        text = path.read_text("utf-8")
        return list(_rows(tomllib.loads(text)))
    except FileNotFoundError:
        return []
    except _BAD_TABLE as exc:
        said = f"{path} is not a price table: {_said(exc, text)}{_place(text)}"
        raise SpecError(said, hint=FORM) from None


def _said(exc: Exception, text: str = "") -> str:
    if not isinstance(exc, ValidationError):
        said = "an amount is no number" if isinstance(exc, InvalidOperation) else exc
        return f"{toml_said(said, text)}."
    first = exc.errors()[0]
    field = ".".join(map(str, first["loc"])) or "row"
    if first["type"] == "less_than_equal":
        return f"{field}: {first['input']} is above {MOST_USD:,} USD for one unit."
    return f"{field}: {first['msg']}, not {first['input']!r}."


def _place(text: str) -> str:
    """``(row 2, from line 9)``: the first row that is wrong; empty where the text is no TOML."""
    try:
        tables = tomllib.loads(text).get("price", [])
    except tomllib.TOMLDecodeError:
        return ""
    heads = [n for n, line in enumerate(text.splitlines(), 1) if _HEADER.match(line)]
    for number, table in enumerate(tables if isinstance(tables, list) else [], 1):
        try:
            list(_rows({"price": [table]}))
        except _BAD_TABLE:
            from_ = f", from line {heads[number - 1]}" if len(heads) == len(tables) else ""
            return f" (row {number}{from_})"
    return ""


_HEADER = re.compile(r"\s*\[\[\s*price\s*\]\]")


def _rows(document: dict[str, Any]) -> Iterator[Price]:
    unknown = sorted(document.keys() - {"price"})
    if unknown or not isinstance(document.get("price", []), list):
        raise TypeError(f"only [[price]] rows are understood, not {', '.join(unknown) or 'price'}")
    for table in document.get("price", []):
        if not isinstance(table, dict):
            raise TypeError(f"a price row is a table, not {table!r}")
        shared = {name: value for name, value in table.items() if name != "usd"}
        amounts = table.get("usd")
        if not isinstance(amounts, dict):
            raise TypeError(f"usd of {table.get('model')!r} must map units to amounts")
        for unit, usd in amounts.items():
            yield Price(unit=unit, usd=Decimal(str(usd)), **shared)


def priced(**fields: Any) -> Price:
    """A row from what a person typed. Raises SpecError that names the wrong field."""
    try:
        row = Price(**fields)
    except ValidationError as exc:
        hint = f"Units: {', '.join(UNITS)}."
        raise SpecError(f"This is no price row: {_said(exc)}", hint=hint) from None
    if (row.market is not None) != (row.unit == "gpu_hour"):
        raise SpecError(
            f"market belongs to gpu_hour rows, and to them alone; this is {row.unit}.",
            hint=f"Markets: {', '.join(MARKETS)}.",
        )
    if row.as_of is not None and row.as_of > clock.today():
        raise SpecError(f"as_of {row.as_of} has not come yet.", hint="Give the day it was read.")
    return row


def absurd(usd: Decimal) -> bool:
    """Whether this is no price of any unit: not finite, below 0, or above ``MOST_USD``."""
    return not usd.is_finite() or not 0 <= usd <= MOST_USD


def given(name: str, value: object) -> Decimal:
    """A price of one unit as it was given in a call. Raises SpecError, which names the argument,
    for what is none."""
    try:
        usd = Decimal("NaN" if isinstance(value, bool) else str(value).strip().removeprefix("$"))
    except InvalidOperation:
        usd = Decimal("NaN")
    if absurd(usd):
        raise SpecError(
            f"{name} cannot be {str(value)!r}.", hint=f"Give USD, at most {MOST_USD:,}."
        )
    return usd


def write_price(path: Path, row: Price) -> bool:
    """Put a row into the user's file, in place of one for the same thing; comments and other
    rows stay as they are. True when a row was replaced.

    Written beside the file and renamed over it. Raises SpecError when the file is no price table
    or cannot be written.
    """
    # Imported here: only this writes.
    import tomlkit

    replaced = any(old.key == row.key for old in of_file(path))
    document = tomlkit.parse(path.read_text("utf-8") if path.exists() else _HEAD)
    tables = document.get("price")
    if tables is None:
        tables = document["price"] = tomlkit.aot()
    for table in list(tables):
        named = (table["backend"], table["model"], table.get("market"))
        if named == (row.backend, row.model, row.market) and row.unit in table["usd"]:
            del table["usd"][row.unit]
            if not table["usd"]:
                tables.remove(table)
    # A file may also hold price = [{...}, ...].
    fresh = tomlkit.table() if isinstance(tables, tomlkit.items.AoT) else tomlkit.inline_table()
    fresh.update(_table(row))
    tables.append(fresh)
    text = tomlkit.dumps(document)
    list(_rows(tomllib.loads(text)))  # never in place of a file that could be read
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, text)
    except OSError as exc:
        raise SpecError(f"{path} cannot be written: {exc.strerror or exc}.") from None
    return replaced


_HEAD = "# Your own prices: they go before those of the package. See: ftg prices --help\n\n"


def _table(row: Price) -> dict[str, Any]:
    import tomlkit

    amounts = tomlkit.inline_table()
    amounts[row.unit] = str(row.usd)
    fields: dict[str, Any] = {"backend": row.backend, "model": row.model, "usd": amounts}
    if row.market:
        fields["market"] = row.market
    fields |= {"as_of": row.as_of, "source": row.source}
    return fields | ({"note": row.note} if row.note else {})


def closed(row: Price, today: date) -> date | None:
    """The day on which the model of a row was shut down, when that day has come."""
    if row.backend not in profile_names():
        return None
    known = load_profile(row.backend).model(row.model)
    gone = known is not None and known.retires_on is not None and known.retires_on <= today
    return known.retires_on if known and gone else None


def doubts(extra: Path | None, today: date) -> list[Doubt]:
    """What is wrong, old or strange in the package's table and in the user's."""
    found = list(_table_doubts("the package", list(packaged()), today))
    try:
        own = of_file(extra)
    except SpecError as exc:
        return [*found, Doubt("error", str(extra), exc.message)]
    found += _table_doubts(str(extra), own, today)
    there = {price.key: price for price in packaged()}
    for price in own:
        old = there.get(price.key)
        if old and old.as_of and price.as_of and old.as_of > price.as_of:
            text = f"{_name(price)} of {price.as_of} goes before the newer {old.usd} USD of "
            found.append(Doubt("warning", str(extra), f"{text}{old.as_of} in the package."))
    return found


def _table_doubts(where: str, rows: list[Price], today: date) -> Iterator[Doubt]:
    seen: dict[tuple[str, str, str, str | None], Price] = {}
    for row in rows:
        if row.key in seen:
            text = f"{_name(row)} is there twice ({seen[row.key].usd} and {row.usd} USD); the last"
            yield Doubt("warning", where, f"{text} one is used.")
        seen[row.key] = row
        if row.as_of and row.as_of > today:
            yield Doubt("warning", where, f"{_name(row)}: {row.as_of} has not come yet.")
        if row.unit == "gpu_hour" and row.market is None:
            yield Doubt("warning", where, f"{_name(row)} has no market ({', '.join(MARKETS)}).")
    yield from _groups(where, rows, today)


def _groups(where: str, rows: list[Price], today: date) -> Iterator[Doubt]:
    """One doubt for all units of a model, and one for all old rows of a source."""
    shut = {
        (day, row.backend, base_model(row.model)) for row in rows if (day := closed(row, today))
    }
    for day, backend in sorted({pair[:2] for pair in shut}):
        models = ", ".join(sorted(model for *pair, model in shut if pair == [day, backend]))
        yield Doubt("note", where, f"Shut down on {day} at {backend}: {models}.")
    old = Counter(
        (row.as_of, row.stale(today), row.source)
        for row in rows
        if row.as_of and row.stale(today) and not closed(row, today)
    )
    for (day, age, source), count in sorted(old.items()):
        what = "1 row is" if count == 1 else f"{count} rows are"
        yield Doubt("warning", where, f"{what} of {day}, {age} days ago; check {source}")


def _name(row: Price) -> str:
    return " ".join(filter(None, (row.backend, row.model, row.unit, row.market)))
