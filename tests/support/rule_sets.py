"""The rules that judge backends, for tests of the checks."""

from __future__ import annotations

from finetune_gateway import registry
from finetune_gateway.validation.collector import rules_for
from finetune_gateway.validation.rules import RuleSet

OPENAI = {"openai": RuleSet("openai")}
LOCAL = {"local": RuleSet("trl")}


def rules_of(name: str, model: str | None = None) -> dict[str, RuleSet]:
    """A backend by name, with the rules that it says judge it (for a model)."""
    return rules_for(name, registry.load(name).capabilities(model).rules)
