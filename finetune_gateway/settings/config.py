"""The user's settings in the home folder: ``config.toml``.

A value comes from the argument of the call, else the environment variable, else the file, else the
default. Unknown keys are refused: a misspelt limit must not mean no limit.
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

from finetune_gateway.errors import SpecError, shown, toml_error_text
from finetune_gateway.settings.files import locking, write_atomic
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.settings.network import hidden

Origin = Literal["argument", "environment", "file", "default"]
Setting = Decimal | tuple[str, ...]


@dataclass(frozen=True)
class Key:
    """A setting: an amount of USD, where none means no limit, a number of seconds, days,
    checkpoints or adapters, or a list of hosts or regions."""

    name: str  # as in the file: table.name
    variable: str  # environment variable; "" for none
    argument: str  # name of the argument of a call
    about: str
    unit: Literal["USD", "seconds", "days", "checkpoints", "adapters", "hosts", "regions"] = "USD"
    default: Setting | None = None
    least: int = 0
    most: int = 604_800  # a week, of seconds
    unset: str = "no limit"  # what it means that there is none

    def parse(self, value: object, name: str) -> Setting:
        """Return the value of this setting in what a person gave, under this name. Raises
        SpecError."""
        if self.unit == "hosts":
            return parse_hosts(value, name)
        if self.unit == "regions":
            return _parse_regions(value, name)
        return parse_usd(value, name) if self.unit == "USD" else self._parse_number(value, name)

    def _parse_number(self, value: object, name: str) -> Decimal:
        try:
            number = Decimal("NaN" if isinstance(value, bool) else str(value).strip())
        except ArithmeticError:
            number = Decimal("NaN")
        if not (number.is_finite() and self.least <= number <= self.most):
            like = self.default or max(self.least, 30)
            raise SpecError(
                f"{name} cannot be {shown(value)}.",
                hint=f"Give {self.unit} as a number from {self.least:,} to {self.most:,}, such as "
                f"{like}.",
            )
        return number


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
            "what a job may cost without --max-cost",
        ),
        Key(
            "hosts.longest_wait_seconds",
            "FTG_HOSTS_LONGEST_WAIT_SECONDS",
            "longest_wait",
            "how long to wait at most when a host asks to",
            "seconds",
            Decimal(3600),
        ),
        Key(
            "hosts.allow_http",
            "FTG_HOSTS_ALLOW_HTTP",
            "allow_http",
            "hosts beyond this machine that may be asked without encryption",
            "hosts",
            (),
            unset="",
        ),
        Key(
            "hosts.uploads_expire_seconds",
            "FTG_HOSTS_UPLOADS_EXPIRE_SECONDS",
            "uploads_expire",
            "how long OpenAI and Azure keep an upload before they delete it",
            "seconds",
            unset="until they are deleted",
            least=3600,  # as OpenAI's contract has it, like the most
            most=2_592_000,
        ),
        Key(
            "retention.days",
            "FTG_RETENTION_DAYS",
            "older_than_days",
            "data of jobs that ended longer ago, for ftg prune; nothing goes before you run it",
            "days",
            most=36_500,
            unset="30",
        ),
        Key(
            "retention.checkpoints",
            "FTG_RETENTION_CHECKPOINTS",
            "checkpoints",
            "how many of its last checkpoints a job keeps here once it has succeeded, and the best",
            "checkpoints",
            Decimal(1),
            most=10_000,
        ),
        Key(
            "local.hang_seconds",
            "FTG_HANG_SECONDS",
            "hang_seconds",
            "after how long without progress a local job's worker is started again; 0: never",
            "seconds",
            Decimal(1800),
        ),
        Key(
            "local.adapters_in_memory",
            "FTG_ADAPTERS_IN_MEMORY",
            "adapters_in_memory",
            "how many adapters stay in memory on a base that answers",
            "adapters",
            Decimal(8),
            least=1,
            most=10_000,
        ),
        Key(
            "pii.regions",
            "FTG_PII_REGIONS",
            "regions",
            "whose national telephone numbers count as personal data",
            "regions",
            (),
            unset="",
        ),
    )
}
KEYS_TABLE = "keys."  # begins the settings that say where the key in a variable may be sent
_HOST = re.compile(r"(?:https?://)?((?:[a-z0-9*._-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?)(?:/.*)?")
_HEAD = "# Settings of finetune-gateway. See: ftg config --help\n\n"


@dataclass(frozen=True)
class Value:
    """The current value of a setting, and where it comes from."""

    key: Key
    value: Setting | None
    origin: Origin

    @property
    def amount(self) -> Decimal | None:
        """The number, of a setting in USD or seconds."""
        return self.value if isinstance(self.value, Decimal) else None

    @property
    def usd(self) -> Decimal | None:
        """The amount, of a setting in USD."""
        return self.amount

    @property
    def listed(self) -> tuple[str, ...]:
        """The hosts or regions, of a setting that lists some."""
        return self.value if isinstance(self.value, tuple) else ()

    @property
    def text(self) -> str | None:
        """The value as it is shown; None where there is none."""
        if self.amount is not None:
            return f"{self.amount:f}"
        return ", ".join(self.listed) or None


def find_key(name: str) -> Key:
    """Return the key of this name. Raises SpecError that suggests a similar one."""
    if name in KEYS:
        return KEYS[name]
    variable = name.removeprefix(KEYS_TABLE)
    if variable != name and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", variable):
        return Key(name, "", "", f"hosts that get the key in {variable}", "hosts", (), unset="")
    near = get_close_matches(name, KEYS, n=1, cutoff=0.5)
    known = f"Keys: {', '.join(KEYS)}, keys.VARIABLE."
    raise SpecError(
        f"There is no setting {name!r}.",
        hint=f"Did you mean {near[0]}? {known}" if near else known,
    )


def current_value(settings: Settings, name: str, argument: object = None) -> Value:
    """Return the value of a setting. Raises SpecError if it is invalid."""
    key = find_key(name)
    if argument is not None:
        return Value(key, key.parse(argument, key.argument), "argument")
    if key.variable and (text := os.environ.get(key.variable)):
        return Value(key, key.parse(text, key.variable), "environment")
    own = read_file(settings.config)
    return Value(key, own.get(key.name, key.default), "file" if key.name in own else "default")


def pii_regions(settings: Settings | None = None) -> tuple[str, ...]:
    """Return the setting ``pii.regions``, by default of the user's own home. Raises SpecError."""
    return current_value(settings or Settings.load(), "pii.regions").listed


def parse_hosts(value: object, name: str) -> tuple[str, ...]:
    """Return the hosts in a text with commas, or in a list: ``host``, ``host:port``, with ``*`` for
    one part of a name; of an address, its host. Raises SpecError."""
    hosts = [_HOST.fullmatch(word.lower()) for word in _words(value)]
    if not all(hosts):
        named = hidden(value) if isinstance(value, str) else value
        raise SpecError(
            f"{name} cannot be {shown(named)}.",
            hint="Give hosts, such as gpu.example.com, gpu.example.com:8443 or *.example.com.",
        )
    return tuple(dict.fromkeys(host[1] for host in hosts if host))


def _parse_regions(value: object, name: str) -> tuple[str, ...]:
    regions = tuple(dict.fromkeys(word.upper() for word in _words(value)))
    # Imported here: nobody else needs to know all regions.
    import phonenumbers

    if not all(region in phonenumbers.SUPPORTED_REGIONS for region in regions):
        raise SpecError(
            f"{name} cannot be {shown(value)}.",
            hint="Give countries by their two letters, such as DE,US.",
        )
    return regions


def _words(value: object) -> list[str]:
    """Return the words in a text with commas, or in a list; one that is empty for anything else."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return [""]
    return [word.strip() for word in words]


def read_file(path: Path) -> dict[str, Setting]:
    """Return the settings of the file; none if it does not exist.

    Raises SpecError, which names the file and the line.
    """
    text = ""
    try:
        text = path.read_text("utf-8")
        tables = tomllib.loads(text, parse_float=Decimal)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        message = f"{path} cannot be read: {toml_error_text(exc, text)}."
        raise SpecError(message, hint="Fix it in an editor.") from None
    settings = {}
    for name, value in _flatten(tables):
        try:
            settings[find_key(name).name] = find_key(name).parse(value, name)
        except SpecError as exc:
            raise SpecError(f"{path}{_line(name, text)}: {exc.message}", hint=exc.hint) from None
    return settings


def _line(name: str, text: str) -> str:
    """Return ``, line 2``, the first line that sets this setting; empty if there is none."""
    table, _, key = name.partition(".")
    word = re.compile(rf"(^|[\s.{{,\"']){re.escape(key or table)}[\"']?\s*=", re.MULTILINE)
    match = word.search(text)
    return f", line {text.count(chr(10), 0, match.end()) + 1}" if match else ""


def _flatten(tables: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return ``{"budget": {"monthly_usd": 50}}`` as pairs of dotted names and values."""
    return [
        (f"{table}.{name}", value)
        for table, inner in tables.items()
        for name, value in (inner.items() if isinstance(inner, dict) else [("", inner)])
    ]


def write(settings: Settings, name: str, text: str) -> Value:
    """Set one key in the file and return it; comments and other keys are kept. Raises SpecError."""
    key = find_key(name)
    value = key.parse(text, key.name)
    _edit(settings, key, value)
    return Value(key, value, "file")


def remove(settings: Settings, name: str) -> bool:
    """Remove one key from the file; False if it was not there. Raises SpecError."""
    key = find_key(name)
    if key.name not in read_file(settings.config):
        return False
    _edit(settings, key, None)
    return True


def _edit(settings: Settings, key: Key, value: Setting | None) -> None:
    """Read the file, change one key, and replace the file; one process at a time."""
    # Imported here: only writing needs it.
    import tomlkit

    path, (table, _, name) = settings.config, key.name.partition(".")
    with locking(settings.create().locks / "config"):
        read_file(path)  # never replace a file that cannot be read
        document = tomlkit.parse(path.read_text("utf-8") if path.exists() else _HEAD)
        if table not in document:
            document[table] = tomlkit.table()
        if value is None:
            del document[table][name]
        elif isinstance(value, tuple):
            document[table][name] = [*value]
        else:
            # As typed: a float would turn 0.10 into 0.1.
            document[table][name] = tomlkit.value(f"{value:f}")
        try:
            write_atomic(path, tomlkit.dumps(document), private=True)
        except OSError as exc:
            raise SpecError(f"{path} cannot be written: {exc.strerror or exc}.") from None
