"""Settings that a person keeps in the home folder: ``config.toml``.

A value is looked for in this order: the argument of the call, the environment variable, the file,
the default. Only known keys are taken: a misspelt limit must not be no limit.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from finetune_gateway.errors import SpecError, toml_said
from finetune_gateway.settings import locks
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.money import parse_usd

Origin = Literal["argument", "environment", "file", "default"]


@dataclass(frozen=True)
class Key:
    """One setting; all of them are amounts of USD so far, and none means no limit."""

    name: str  # as in the file: table.name
    variable: str  # of the environment
    argument: str  # of the call
    about: str


KEYS = {
    key.name: key
    for key in (
        Key(
            "budget.monthly_usd",
            "FTG_BUDGET_MONTHLY_USD",
            "monthly_usd",
            "what all jobs of a calendar month (UTC) may cost",
        ),
        Key(
            "budget.job_usd",
            "FTG_BUDGET_JOB_USD",
            "max_cost_usd",
            "what a job may cost when no --max-cost is given",
        ),
    )
}
_HEAD = "# Settings of finetune-gateway. See: ftg config --help\n\n"


@dataclass(frozen=True)
class Value:
    """A setting as it holds now, and who says so."""

    key: Key
    usd: Decimal | None
    origin: Origin


def named(name: str) -> Key:
    """The key of this name. Raises SpecError with the nearest ones."""
    if name in KEYS:
        return KEYS[name]
    near = get_close_matches(name, KEYS, n=1, cutoff=0.5)
    known = f"Keys: {', '.join(KEYS)}."
    raise SpecError(
        f"There is no setting {name!r}.",
        hint=f"Did you mean {near[0]}? {known}" if near else known,
    )


def value(settings: Settings, name: str, argument: object = None) -> Value:
    """What a setting is now. Raises SpecError for a value that is none, wherever it stands."""
    key = named(name)
    if argument is not None:
        return Value(key, parse_usd(argument, key.argument), "argument")
    if said := os.environ.get(key.variable):
        return Value(key, parse_usd(said, key.variable), "environment")
    own = of_file(settings.config)
    return Value(key, own.get(key.name), "file" if key.name in own else "default")


def of_file(path: Path) -> dict[str, Decimal]:
    """The settings of the file, none when there is no such file. Raises SpecError, which names
    the file and the line."""
    text = ""
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text, parse_float=Decimal)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        said = f"{path} cannot be read: {toml_said(exc, text)}."
        raise SpecError(said, hint="Mend it in an editor.") from None
    found = {}
    for name, value in _flat(tables):
        try:
            found[named(name).name] = parse_usd(value, name)
        except SpecError as exc:
            raise SpecError(f"{path}{_line(name, text)}: {exc.message}", hint=exc.hint) from None
    return found


def _line(name: str, text: str) -> str:
    """``, line 2``: where a setting is first spoken of."""
    table, _, key = name.partition(".")
    word = re.compile(rf"(^|[\s.{{,\"']){re.escape(key or table)}[\"']?\s*=", re.MULTILINE)
    found = word.search(text)
    return f", line {text.count(chr(10), 0, found.end()) + 1}" if found else ""


def _flat(tables: dict[str, Any]) -> list[tuple[str, Any]]:
    """``{"budget": {"monthly_usd": 50}}`` as pairs of dotted names and values."""
    return [
        (f"{table}.{name}", value)
        for table, inner in tables.items()
        for name, value in (inner.items() if isinstance(inner, dict) else [("", inner)])
    ]


def write(settings: Settings, name: str, text: str) -> Value:
    """Set one key in the file; comments and other keys stay. Raises SpecError."""
    key = named(name)
    usd = parse_usd(text, key.name)
    _edit(settings, key, usd)
    return Value(key, usd, "file")


def remove(settings: Settings, name: str) -> bool:
    """Take one key out of the file; False when it was not there. Raises SpecError."""
    key = named(name)
    if key.name not in of_file(settings.config):
        return False
    _edit(settings, key, None)
    return True


def _edit(settings: Settings, key: Key, usd: Decimal | None) -> None:
    """Read the file, change one key, put it back whole; one process at a time."""
    # Imported here: only this writes.
    import tomlkit

    path, (table, _, name) = settings.config, key.name.partition(".")
    with locks.waiting(settings.create().locks / "config"):
        of_file(path)  # never in place of a file that cannot be read
        document = tomlkit.parse(path.read_text("utf-8") if path.exists() else _HEAD)
        if table not in document:
            document[table] = tomlkit.table()
        if usd is None:
            del document[table][name]
        else:
            # As it was typed: a float would round 0.10.
            document[table][name] = tomlkit.value(f"{usd:f}")
        try:
            write_atomic(path, tomlkit.dumps(document))
        except OSError as exc:
            raise SpecError(f"{path} cannot be written: {exc.strerror or exc}.") from None
