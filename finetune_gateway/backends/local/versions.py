"""What a training depends on beside its files: versions of packages, the device, the threads.

A run that goes on from a checkpoint is bit for bit what it would have been without the break only
where what is decisive is as it was when the checkpoint was saved. Imports no torch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from finetune_gateway.backends.local import fourbit
from finetune_gateway.estimation.engine import engine_of, needs_bitsandbytes
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.spec import TrainingSpec

# The packages that the worker needs.
STACK = ("torch", "transformers", "peft", "trl", "accelerate", "datasets", "safetensors")
ALLOWED = "allowed.json"  # in a run's folder: the resume that goes on with other versions
DEVICE, THREADS = "device", "threads"


@dataclass(frozen=True)
class Decisive:
    """Something that decides the bits of a result, and why; ``counts``: for which jobs."""

    name: str
    why: str
    counts: Callable[[TrainingSpec], bool] = lambda spec: True


DECISIVE = (
    Decisive("torch", "it computes and draws random numbers"),
    Decisive("transformers", "it computes the model, the optimizer's steps and the rates"),
    Decisive("accelerate", "it draws the order of the rows"),
    Decisive("tokenizers", "it makes the ids of the rows"),
    Decisive("finetune-gateway", "it sets the labels and computes the losses"),
    Decisive("peft", "it computes the adapter", lambda spec: spec.training_type != "full"),
    Decisive(
        "trl",
        "it computes the losses, or packs the rows",
        lambda spec: engine_of(spec) == "trl" or bool(spec.packing),
    ),
    Decisive(fourbit.PACKAGE, "it computes with 4 or 8 bits", needs_bitsandbytes),
    Decisive(DEVICE, "another one adds in another order"),
    Decisive(THREADS, "a sum of other parts is rounded otherwise"),
)


def installed() -> dict[str, str]:
    """Return the versions of Python and of all packages that a training may use."""
    versions = {"python": sys.version.split()[0]}
    for name in ("finetune-gateway", *STACK, fourbit.PACKAGE, "tokenizers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "missing"
    return versions


def changed(then: Mapping[str, str], now: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return what is another now, by name: as it was, and as it is. What was not noted then, by an
    earlier version, has not changed."""
    return {name: (then[name], now[name]) for name in now if then.get(name, now[name]) != now[name]}


def decisive(differs: Mapping[str, object], spec: TrainingSpec) -> list[Decisive]:
    """Return which of these decide the bits of a result of this spec."""
    return [one for one in DECISIVE if one.name in differs and one.counts(spec)]


def in_words(differs: Mapping[str, tuple[str, str]]) -> str:
    """Return ``torch 2.12.0 then, 2.13.0 now``, of each."""
    return "; ".join(f"{name} {then} then, {now} now" for name, (then, now) in differs.items())


# -- going on all the same -----------------------------------------------------------------


def allow(folder: Path, resumes: int) -> None:
    """Keep that the attempts of this resume of a run may go on with other versions. Raises
    OSError."""
    write_atomic(folder / ALLOWED, json.dumps({"changed_versions": resumes}), private=True)


def are_allowed(folder: Path, resumes: int) -> bool:
    """Return True if other versions are allowed in this resume of a run."""
    try:
        found = json.loads((folder / ALLOWED).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):  # a damaged one allows nothing
        return False
    return isinstance(found, dict) and found.get("changed_versions") == resumes
