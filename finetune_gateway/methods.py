"""Training methods: the rows each takes, OpenAI's word for it, and the file that trains it here."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from finetune_gateway.errors import SpecError, shown
from finetune_gateway.spec import TrainingSpec

HOLD_OUT_ROWS = 50  # from so many rows on, some are held out by default
HOLD_OUT_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class TrainingMethod:
    """One way to train.

    ``kinds``: kinds of rows it takes, the usual one first. ``sequences``: sequences of one row
    that go through the model at once. ``openai``: its word on OpenAI's wire, where the gateway can
    start it there. ``trainer``: the module whose ``train_and_save(run)`` trains it on this machine.
    ``losses``: its losses by TRL's names, the usual one first; none for a method with one alone.
    ``options``: settings that it has and others do not. ``engines``: whose training step it can
    run with, the usual one first. ``experimental``: TRL may change or drop its trainer.
    """

    kinds: tuple[str, ...]
    sequences: int = 1
    openai: str | None = None
    trainer: str | None = None
    losses: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()
    engines: tuple[str, ...] = ("fast", "trl")
    experimental: bool = False


METHODS = {
    "sft": TrainingMethod(
        ("chat", "prompt_completion"),
        openai="supervised",
        trainer="finetune_gateway.backends.local.methods.sft",
        losses=("nll", "dft"),
        options=frozenset({"loss_type", "packing"}),
    ),
    "dpo": TrainingMethod(
        ("preference",),
        sequences=2,
        openai="dpo",
        trainer="finetune_gateway.backends.local.methods.dpo",
        losses=(
            "sigmoid",
            "hinge",
            "ipo",
            "exo_pair",
            "nca_pair",
            "robust",
            "bco_pair",
            "sppo_hard",
            "aot",
            "aot_unpaired",
            "apo_zero",
            "apo_down",
            "discopop",
            "sft",
            "sigmoid_norm",
        ),
        options=frozenset({"loss_type", "beta", "label_smoothing"}),
    ),
    "orpo": TrainingMethod(
        ("preference",),
        sequences=2,
        trainer="finetune_gateway.backends.local.methods.orpo",
        options=frozenset({"beta"}),
        experimental=True,
    ),
    "kto": TrainingMethod(
        ("unpaired_preference",),
        trainer="finetune_gateway.backends.local.methods.kto",
        losses=("kto", "apo_zero_unpaired"),
        options=frozenset({"loss_type", "beta", "desirable_weight", "undesirable_weight"}),
    ),
    "pretrain": TrainingMethod(
        ("text",),
        trainer="finetune_gateway.backends.local.methods.pretrain",
        options=frozenset({"packing"}),
    ),
    "reward": TrainingMethod(
        ("preference",),
        sequences=2,
        trainer="finetune_gateway.backends.local.methods.reward",
        engines=("trl",),
    ),
    "reinforcement": TrainingMethod(("chat",)),
}
# Losses of dpo that have label_smoothing; exo_pair takes its logarithm.
SMOOTHED = ("exo_pair", "robust", "aot", "aot_unpaired")
SORTED = ("aot", "aot_unpaired")  # losses of dpo that compare the rows of a step as a whole
OF_SOME = frozenset().union(*(method.options for method in METHODS.values()))

OPENAI_WORDS = {name: method.openai for name, method in METHODS.items() if method.openai}
# Settings of an adapter.
LORA = frozenset(
    {
        "lora_r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "use_dora",
        "use_rslora",
        "modules_to_save",
    }
)
# Settings of how conversations are shown to the model.
OF_CHATS = frozenset({"train_on", "chat_template", "chat_template_kwargs", "call_format"})
TRAINERS = {name: method.trainer for name, method in METHODS.items() if method.trainer}


def loss_of(spec: TrainingSpec) -> str:
    """Return the name of the loss that a spec wants, or of a method with one alone the method's."""
    usual = METHODS[spec.method].losses or (spec.method,)
    return spec.loss_type or usual[0]


def require(spec: TrainingSpec) -> None:
    """Raise SpecError for a setting that the method of ``spec`` does not have."""
    method = METHODS[spec.method]
    for name in sorted(spec.chosen & OF_SOME - method.options):
        having = [other for other, one in METHODS.items() if name in one.options]
        raise SpecError(
            f"{name} is no setting of {spec.method}.",
            hint=f"Leave it out; {', '.join(having)} {'have' if having[1:] else 'has'} it.",
        )
    _require_rows(spec, method)
    if spec.loss_type is not None and spec.loss_type not in method.losses:
        raise SpecError(
            f"{spec.method} has no loss_type {shown(spec.loss_type)}.",
            hint=f"It has: {', '.join(method.losses)}.",
        )
    if "label_smoothing" in spec.chosen:
        _require_smoothing(spec)
    if spec.loss_type in SORTED and spec.micro_batch_size != "auto":
        raise SpecError(
            f"micro_batch_size is no setting of the loss {spec.loss_type}: all pairs of a step go "
            "through the model at once, since it sorts them.",
            hint="Leave it out, and set batch_size.",
        )
    together = spec.batch_size if spec.micro_batch_size == "auto" else spec.micro_batch_size
    if spec.engine == "trl" and loss_of(spec) == "kto" and together == 1:
        raise SpecError(
            "TRL estimates the KL term of kto from the rows of one forward pass: one has no other.",
            hint="Set micro_batch_size to 2 or more, or leave engine out.",
        )
    if spec.engine != "auto" and spec.engine not in method.engines:
        raise SpecError(
            f"{spec.method} cannot be trained with engine={spec.engine!r}.",
            hint=f"Leave engine out, or use {' or '.join(method.engines)}.",
        )


def _require_rows(spec: TrainingSpec, method: TrainingMethod) -> None:
    """Raise SpecError for a setting of rows that those of this method do not have."""
    if method.kinds == ("text",) and (foreign := sorted(spec.chosen & OF_CHATS)):
        raise SpecError(
            f"{foreign[0]} is no setting of {spec.method}: a text is read as it is, and all of it "
            "is trained.",
            hint="Leave it out.",
        )
    if spec.train_on == "all" and not {"chat", "text"} & {*method.kinds}:
        raise SpecError(
            f"train_on='all' is no setting of {spec.method}: answers are judged, not prompts.",
            hint="Leave train_on out.",
        )
    if spec.packing and not {"chat", "text"} & {*method.kinds}:
        raise SpecError(
            f"packing is no setting of {spec.method}: its rows are trained one by one.",
            hint="Leave it out.",
        )
    if "packing" in spec.chosen and not spec.packing and method.kinds == ("text",):
        raise SpecError(f"{spec.method} always packs its texts.", hint="Leave packing out.")


def _require_smoothing(spec: TrainingSpec) -> None:
    """Raise SpecError for a label_smoothing that the loss does not have, or cannot have."""
    loss = loss_of(spec)
    if loss not in SMOOTHED and spec.label_smoothing:
        raise SpecError(
            f"label_smoothing is no setting of the loss {loss}.",
            hint=f"Leave it out, or use loss_type {', '.join(SMOOTHED)}.",
        )
    if loss == "exo_pair" and not spec.label_smoothing:
        raise SpecError(
            "label_smoothing of exo_pair must be above 0: its loss has the logarithm of it.",
            hint="Leave it out for 0.001, which the authors advise.",
        )


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
