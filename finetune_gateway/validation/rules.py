"""The rules: ``rules.toml``, and the severity of each for a backend.

Each rule has a severity of its own, and others for *families* of backends: OpenAI's API, training
on this machine, and hosts that say what they refuse. A backend names its family, or severities of
its own over one, in ``Capabilities.rules``: neither its name nor where it runs decides.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from finetune_gateway.findings import RANK, Severity

COMMON = "common"  # the family of backends that say nothing: the severity of each rule itself
OFF = "off"  # the rule does not count
SEVERITIES: dict[str, Severity | None] = {**{one: one for one in RANK}, OFF: None}  # by word
_TEXTS = frozenset({"topic", "title", "why", "fix", "autofix", "unread", "elsewhere", "default"})
_TABLE = re.compile(r"\n\[(\w+)\]\n")  # begins with no anchor: found in a tenth of the time


@dataclass(frozen=True, slots=True)
class Deviation:
    """What a family makes of a rule, and who says so. A severity of None: it does not count."""

    severity: Severity | None
    source: str


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule that a dataset can break; the fields are explained at the top of ``rules.toml``."""

    topic: str
    title: str
    why: str
    fix: str
    default: Severity | None
    families: Mapping[str, Deviation]
    autofix: str = ""
    unread: bool = False
    elsewhere: bool = False

    def severity(self, family: str) -> Severity | None:
        """Return the severity for a family of backends; None: the rule does not count."""
        one = self.deviation(family)
        return one.severity if one else self.default

    def judged(self) -> Iterator[tuple[tuple[str, ...], Severity | None, str]]:
        """Yield families that make the same of the rule, with its severity and the source; at last
        ``others``, or ``all``, of which no source says more."""
        groups: dict[int, tuple[list[str], Deviation]] = {}
        for name in families():
            if one := self.deviation(name):
                groups.setdefault(id(one), ([], one))[0].append(name)
        yield from ((tuple(names), one.severity, one.source) for names, one in groups.values())
        yield ("others" if groups else "all",), self.default, ""

    def deviation(self, family: str) -> Deviation | None:
        """Return what a family, or one that it extends, makes of the rule; None: its default."""
        while family != COMMON:
            if family in self.families:
                return self.families[family]
            family = families()[family].extends
        return None


@dataclass(frozen=True, slots=True)
class Family:
    """Backends that are judged alike. ``extends``: the family whose severities hold where this one
    has none of its own."""

    judges: str
    extends: str = COMMON


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The severities that judge one backend: those of a family, and some of its own over them."""

    family: str = COMMON
    own: Mapping[str, Severity | None] = field(default_factory=dict, hash=False)

    def severity(self, code: str) -> Severity | None:
        """Return the severity of a rule; None: it does not count."""
        return self.own[code] if code in self.own else RULES[code].severity(self.family)


@cache
def families() -> dict[str, Family]:
    """Return the families by name, without ``COMMON``, which has no severities of its own."""
    return {name: Family(**table) for name, table in RULES.read_table("families").items()}


@cache
def known_backends() -> dict[str, RuleSet]:
    """Return the backends that are judged where none is named."""
    declared = RULES.read_table("known_backends")
    return {name: RuleSet(family) for name, family in declared.items()}


def topics() -> dict[str, dict[str, Rule]]:
    """Return all rules by topic, in the order of the table."""
    found: dict[str, dict[str, Rule]] = {}
    for code, rule in RULES.items():
        found.setdefault(rule.topic, {})[code] = rule
    return found


class _Rules(Mapping[str, Rule]):
    """The rules by code. Each is parsed when it is first asked for: all take 13 ms, which a file
    with few kinds of findings need not wait for."""

    def __init__(self, text: str) -> None:
        _, *parts = _TABLE.split(f"\n{text}")
        self._texts = dict(zip(parts[::2], parts[1::2], strict=True))
        self._others = {name: self._texts.pop(name) for name in ("families", "known_backends")}
        self._rules: dict[str, Rule] = {}

    def __getitem__(self, code: str) -> Rule:
        if code not in self._rules:
            self._rules[code] = _rule(tomllib.loads(self._texts[code]))
        return self._rules[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, code: object) -> bool:
        return code in self._texts

    def read_table(self, name: str) -> dict[str, Any]:
        """Return a table that is no rule."""
        return tomllib.loads(self._others[name])


def _rule(table: dict[str, Any]) -> Rule:
    texts = {name: value for name, value in table.items() if name in _TEXTS}
    own = {name: value for name, value in table.items() if name not in _TEXTS}
    return Rule(
        **texts | {"default": SEVERITIES[texts["default"]]},
        families={
            name: Deviation(SEVERITIES[one["severity"]], one["source"]) for name, one in own.items()
        },
    )


# Not by importlib.resources, which takes 4 ms to import.
RULES = _Rules(Path(__file__).with_name("rules.toml").read_text("utf-8"))
