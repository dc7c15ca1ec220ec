"""Which rules judge a backend: the table, its families, and what a backend declares."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT
from support.rule_sets import rules_of

import finetune_gateway
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import profiles
from finetune_gateway.validation.collector import Findings, rules_for
from finetune_gateway.validation.rules import (
    COMMON,
    RULES,
    Rule,
    RuleSet,
    families,
    known_backends,
)

TABLE = Path(finetune_gateway.__file__).parent / "validation" / "rules.toml"


def test_the_tables_are_read_one_by_one_as_at_once() -> None:
    """Each rule is parsed alone; the file as a whole is the same TOML, without a stray key."""
    whole = tomllib.loads(TABLE.read_text(encoding="utf-8"))
    assert {**whole.pop("families")}.keys() == families().keys()
    assert whole.pop("known_backends").keys() == known_backends().keys()
    assert list(whole) == list(RULES)
    texts = {field.name for field in fields(Rule)} - {"families"}
    for code, table in whole.items():
        assert table.keys() <= texts | families().keys(), code
        assert RULES[code].title == table["title"]


def test_what_a_family_says_of_its_own_has_a_source() -> None:
    """An address, a page of ours that is there, or the name of a document."""
    for code, rule in RULES.items():
        for name, said in rule.families.items():
            assert len(said.source) > 10, (code, name)
            assert not said.source.startswith("docs/") or (ROOT / said.source).exists(), code


def test_backends_that_are_not_named_are_judged_as_when_they_are() -> None:
    """The rules of the known backends are those that they declare."""
    for name, rules in known_backends().items():
        assert rules_of(name) == {name: rules}


def test_what_is_right_elsewhere_is_no_error_where_no_backend_is_named() -> None:
    """The known one that minds least decides; where one does not mind at all it is a note."""
    everywhere, openai = Findings(), Findings(rules_of("openai"))
    assert (everywhere.severity("tools_json"), openai.severity("tools_json")) == (
        "warning",
        "error",
    )
    minding = {code for code, rule in RULES.items() if rule.elsewhere}
    least = {code: [one.severity(code) for one in known_backends().values()] for code in minding}
    ignored = {code for code, found in least.items() if None in found}
    assert ignored and ignored < minding
    assert all(everywhere.severity(code) == "note" for code in ignored)


def test_every_host_has_a_family() -> None:
    """A profile names a family of the table."""
    for name in profiles.profile_names():
        assert rules_for(name, profiles.load_profile(name).rules)


def test_a_backend_has_severities_of_its_own_over_a_family() -> None:
    """They hold for their rules, and the family's for the others."""
    own = {"extends": "openai", "last_not_assistant": "off", "same_role_twice": "error"}
    (rules,) = rules_for("acme", own).values()
    assert rules.severity("last_not_assistant") is None
    assert rules.severity("same_role_twice") == "error"
    assert rules.severity("empty_assistant") == RULES["empty_assistant"].severity("openai")
    (rules,) = rules_for("acme", {"same_role_twice": "note"}).values()
    assert rules == RuleSet(COMMON, {"same_role_twice": "note"})


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ("opennai", "'opennai'"),
        ({"extends": "opennai"}, "'opennai'"),
        ({"extends": ["openai"]}, "openai"),
        ({"last_not_asistant": "off"}, "'last_not_asistant'"),
        ({"last_not_assistant": "fatal"}, "'fatal'"),
        ({"last_not_assistant": ["error"]}, "error"),
        ({"last_not_assistant": None}, "None"),
        ({"line_too_long": "off"}, "line_too_long"),
        ({"line_too_long": "note"}, "line_too_long"),
        (["openai"], "openai"),
        (None, "None"),
    ],
)
def test_a_wrong_declaration_is_a_mistake_of_the_backend(declared: Any, named: str) -> None:
    """The error names the backend and what is wrong, never a line of the data."""
    with pytest.raises(GatewayError, match=r"Capabilities\.rules of backend 'acme'") as caught:
        rules_for("acme", declared)
    assert named in str(caught.value) and caught.value.hint


def test_a_host_refuses_what_a_source_says_that_it_refuses() -> None:
    """Nebius expects an answer at the end and refuses nothing that its pages name; of a host of
    which nothing is known, no rule is graver than it is by itself."""
    ends = {
        name: rules_of(name)[name].severity("last_not_assistant")
        for name in ("openai", "azure", "nebius", "crusoe", "custom", "local", "fake")
    }
    assert {name for name, severity in ends.items() if severity == "error"} == {"openai", "azure"}
    assert set(ends.values()) == {"error", "warning"}
    unknown = rules_of("custom")["custom"]
    assert all(unknown.severity(code) == rule.default for code, rule in RULES.items())
