"""Facts about a host that are tables of their own in ``profiles.toml``."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Any, Literal

from pydantic import ConfigDict

from finetune_gateway.model import Model


class Training(Model):
    """One of the ways in which a host trains, where its create asks which."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    create_extra: dict[str, Any]  # sent with each create call
    data: str  # where the data go
    note: str = ""
    price_of: str = ""  # the price of another of these ways counts, times ``price_factor``
    price_factor: Decimal = Decimal(1)
    as_of: date
    source: str


class DeploymentKind(Model):
    """One of the ways in which a host serves a tuned model that must be deployed first."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    sku: str  # as the host calls it
    hosted_by_hour: bool  # there is a fee by the hour, used or not
    data: str  # where it is served
    ends: str  # when it ends by itself
    as_of: date
    source: str


class ImageTuning(Model):
    """Which models a host tunes on images, and what its rules make of an image for another."""

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    models: tuple[str, ...]
    others: Literal["error", "warning"]  # an error where the source says that others are refused
    as_of: date
    source: str
