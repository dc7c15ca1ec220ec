"""Training methods: the rows each takes, OpenAI's word for it, and the file that trains it here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

HOLD_OUT_ROWS = 50  # from so many rows on, some are held out by default
HOLD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class TrainingMethod:
    """One way to train.

    ``kinds``: kinds of rows it takes, the usual one first. ``sequences``: sequences of one row
    that go through the model at once. ``openai``: its word on OpenAI's wire, where the gateway can
    start it there. ``trainer``: the module whose ``train(run)`` runs it on this machine.
    """

    kinds: tuple[str, ...]
    sequences: int = 1
    openai: str | None = None
    trainer: str | None = None


METHODS = {
    "sft": TrainingMethod(
        ("chat", "prompt_completion"),
        openai="supervised",
        trainer="finetune_gateway.backends.local.methods.sft",
    ),
    "dpo": TrainingMethod(("preference",), sequences=2, openai="dpo"),
    "orpo": TrainingMethod(("preference",), sequences=2),
    "kto": TrainingMethod(("unpaired_preference",)),
    "pretrain": TrainingMethod(("text",)),
    "reinforcement": TrainingMethod(("chat",)),
}

OPENAI_WORDS = {name: method.openai for name, method in METHODS.items() if method.openai}
# Settings of an adapter.
LORA = frozenset({"lora_r", "lora_alpha", "lora_dropout", "target_modules"})
TRAINERS = {name: method.trainer for name, method in METHODS.items() if method.trainer}


def methods_for(kind: str) -> tuple[str, ...]:
    """Return the methods that take rows of this kind, the usual one first."""
    return tuple(name for name, method in METHODS.items() if kind in method.kinds)


def usual_method(kind: str) -> str:
    """Return the method that rows of this kind are usually for; ``sft`` for an unknown kind."""
    return next(iter(methods_for(kind)), "sft")


def in_words(methods: Collection[str]) -> str:
    """Return ``sft (or dpo)``, the usual one first."""
    names = [name for name in METHODS if name in methods and name != "reinforcement"]
    usual, *others = names
    return f"{usual} (or {', '.join(others)})" if others else usual


def load_trainer(method: str) -> ModuleType:
    """Import the file that trains by this method here; it imports torch."""
    return import_module(TRAINERS[method])
