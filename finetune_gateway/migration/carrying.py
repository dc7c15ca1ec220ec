"""What becomes of a fine-tune's settings at another place. Asks nobody.

The multiplier scales a rate that no host publishes, so that no absolute rate is its equal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_gateway.backend import Capabilities
from finetune_gateway.estimation.profiles import Profile
from finetune_gateway.migration.inventory import FineTune
from finetune_gateway.migration.moves import Carried
from finetune_gateway.text.cleaning import visible

MOST_EPOCHS = 50
LARGE_BATCH = 32
# Batches that a host takes, each a power of two: docs.crusoecloud.com/serverless-fine-tuning.
BATCHES = {"crusoe": (16, 1024)}
NO_RATE = (
    "no equal: it scales a rate that is not published; the place's own default is taken. LoRA "
    "wants about 10 times the rate of full training."
)


def carried(
    one: FineTune, limits: Capabilities, profile: Profile | None, *, same_base: bool
) -> list[Carried]:
    """Return each setting with what becomes of it at a place. ``profile``: None is this machine, or
    a plug-in."""
    found = [
        *(
            _hyperparameter(name, value, limits, profile, same_base)
            for name, value in (one.hyperparameters or {}).items()
        ),
        *_seed(one),
        *_suffix(one, profile),
    ]
    return [_refused(one) if one.name in limits.refuses else one for one in found]


def _refused(setting: Carried) -> Carried:
    return Carried(name=setting.name, value=setting.value, note="not taken there.")


def _hyperparameter(
    name: str, value: Any, limits: Capabilities, profile: Profile | None, same_base: bool
) -> Carried:
    least, most = BATCHES.get(profile.name if profile else "", (1, 10**9))
    match name, value:
        case "n_epochs", int() if 1 <= value <= MOST_EPOCHS:
            return Carried(name=name, value=value, becomes=f"--n-epochs {value}")
        case "batch_size", int() if not least <= value <= most:
            note = f"not taken there: it has to be {least} to {most:,}; the default is taken."
            return Carried(name=name, value=value, note=note)
        case "batch_size", int() if name in limits.options:
            large = value > LARGE_BATCH and not limits.hosted
            note = "LoRA suffers from large batches; try a smaller one." if large else ""
            return Carried(name=name, value=value, becomes=f"--set batch_size={value}", note=note)
        case "learning_rate_multiplier", int() | float():
            if not (same_base and name in limits.options):
                return Carried(name=name, value=value, note=NO_RATE)
            note = "the same name; that it scales the same rate there is not verified."
            return Carried(name=name, value=value, becomes=f"--set {name}={value}", note=note)
        case "beta", int() | float() if name in limits.options:
            return Carried(name=name, value=value, becomes=f"--set beta={value}")
    return Carried(name=name, value=value, note="no equal here.")


def _seed(one: FineTune) -> Iterator[Carried]:
    if one.seed is not None:
        note = "the same seed gives another run on another machine."
        yield Carried(name="seed", value=one.seed, becomes=f"--seed {one.seed}", note=note)


def _suffix(one: FineTune, profile: Profile | None) -> Iterator[Carried]:
    """Yield the suffix, where the place takes it as it is."""
    if not one.suffix:
        return
    longest = profile.suffix_max_length if profile else 64
    forbidden = set(profile.suffix_forbidden if profile else "") | set(":/\\")
    if (
        len(one.suffix) > longest
        or forbidden & set(one.suffix)
        or visible(one.suffix) != one.suffix
    ):
        yield Carried(name="suffix", value=one.suffix, note="not taken there as it is.")
        return
    yield Carried(name="suffix", value=one.suffix, becomes=f"--suffix {one.suffix}")


def words(settings: list[Carried]) -> list[str]:
    """Return the words of a command line for the settings that go along."""
    return [word for one in settings if one.becomes for word in one.becomes.split(" ", 1)]


def options(settings: list[Carried]) -> dict[str, Any]:
    """Return the same settings as keywords of a ``TrainingSpec``."""
    return {one.name: one.value for one in settings if one.becomes}
