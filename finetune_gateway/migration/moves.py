"""Where a fine-tune could go, as data. None is what is not known."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict

from finetune_gateway.migration.inventory import FineTune
from finetune_gateway.model import Model


class Carried(Model):
    """A setting of the fine-tune at a new place. ``becomes``: what it is there; None: it has no
    equal, or is not taken. ``note`` says why, or what is not certain."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    name: str
    value: Any
    becomes: str | None = None
    note: str = ""


class Place(Model):
    """A place where the fine-tune could be trained again.

    ``same_base``: the very base, by its name; any other base is proposed, and never called equal.
    ``refused``: why it certainly cannot be trained there. ``command``: the exact call; None where
    it cannot be written down. ``before``: what has to be done first. ``jobs_until``: the last day;
    ``jobs_at_least_until``: none is announced before it. ``weights``: do they come out.
    ``subscription``: what Azure shows yours of this base; None: it was not asked.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    backend: str
    title: str
    model: str | None
    same_base: bool
    refused: str | None = None
    jobs_until: date | None = None
    jobs_at_least_until: date | None = None
    only: str = ""
    subscription: str | None = None
    answers_until: date | None = None
    source: str = ""
    data: str
    weights: str
    settings: tuple[Carried, ...] = ()
    cost_usd: Decimal | None = None
    cost_high_usd: Decimal | None = None
    cost_from: str = ""
    seconds: float | None = None
    fits: Literal["yes", "maybe", "no"] | None = None
    unknown: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None


class MovePlan(Model):
    """Where a fine-tune could go. ``training_file``: the fetched one that the figures are from, or
    where it will lie once it is fetched; ``fetched``: is it there."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    fine_tune: FineTune
    training_file: str | None
    validation_file: str | None
    fetched: bool
    places: tuple[Place, ...]
