"""Request the hourly GPU prices of Hugging Face Jobs from the hub.

All other prices come from tables. The hub's own client is not used: it would report which packages
are installed here and what runs it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from finetune_gateway.errors import BackendError, SpecError, validation_error_text
from finetune_gateway.estimation.gpus import gpus_named
from finetune_gateway.estimation.price_table import Price, add_command
from finetune_gateway.settings.bindings import Bindings
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.network import (
    Proxy,
    hidden,
    is_loopback,
    origin,
    proxy_for,
    whole_answer,
)
from finetune_gateway.text import logs
from finetune_gateway.text.cleaning import visible

MILLION = 1_000_000
PER_HOUR = {"second": 3600, "minute": 60, "hour": 1}  # how many of the hub's units are in an hour
TIMEOUT = 20.0  # seconds


class _Gpu(BaseModel):
    type: str
    model: str
    quantity: str
    vram: str | None = None


class _Machine(BaseModel):
    """One machine, like ``JobHardwareInfo`` of huggingface_hub 2.4."""

    name: str = Field(alias="prettyName")
    accelerator: _Gpu | None = None
    micro_usd: int = Field(alias="unitCostMicroUSD", gt=0, le=10**13)
    unit: Literal["second", "minute", "hour"] = Field(alias="unitLabel")


def gpu_hours(today: date, on_odd: Callable[[str], object] = lambda machine: None) -> list[Price]:
    """Return the USD per hour of each GPU that is offered alone, on its cheapest machine.

    Requests the hub (HF_ENDPOINT) without a token. ``on_odd`` is called with each machine that
    cannot be read, and why; the others count. Raises BackendError if the hub cannot be reached or
    sends something else.
    """
    host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    address = f"{host.rstrip('/')}/api/jobs/hardware"
    shown = hidden(address)  # a mirror may have a password
    proxy = proxy_for(address)
    way = f" through the proxy {proxy.shown}" if proxy else ""
    try:
        machines = _readable(_get(address, shown, proxy), on_odd)
    except ValidationError as exc:
        raise BackendError(
            f"{shown} sent prices in an unknown form: {validation_error_text(exc)}.",
            hint=f"Write rows yourself: {add_command('huggingface', 'GPU', 'gpu_hour')}",
            backend="huggingface",
        ) from None
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError) as exc:
        why = str(exc).partition(" for url ")[0]
        why = proxy.hide(why) if proxy else why
        raise BackendError(
            f"{shown} did not answer{way}: {why}.",
            hint="The package's own rows stay in use: ftg prices --backend huggingface",
            backend="huggingface",
            retryable=True,
        ) from None
    return list(_rows(machines, today, shown, on_odd))


def _readable(raw: bytes, on_odd: Callable[[str], object]) -> list[_Machine]:
    """Return the machines that can be read. Raises ValidationError if there are only others."""
    entries = TypeAdapter(list[Any]).validate_json(raw)
    machines, last = [], None
    for entry in entries:
        try:
            machines.append(_Machine.model_validate(entry))
        except ValidationError as exc:
            last = exc
            names = entry if isinstance(entry, dict) else {}
            name = visible(str(names.get("prettyName") or names.get("name") or "without a name"))
            on_odd(f"{name[:60]}: {validation_error_text(exc)}")
    if last is not None and not machines:
        raise last
    return machines


def _get(address: str, shown: str, proxy: Proxy | None) -> bytes:
    """Return the answer of the hub. Raises SpecError for an address beyond this machine that is not
    encrypted and not allowed, httpx's errors if there is no answer."""
    here = is_loopback(urlsplit(address).hostname or "")
    plain = urlsplit(address).scheme == "http" and not here
    if plain and not Bindings(Settings.load()).allow_http(address):
        raise SpecError(
            f"{shown} is not encrypted: prices could be changed on the way.",
            hint="Set HF_ENDPOINT to an address with https://, or allow it: ftg config set "
            f"hosts.allow_http {origin(address).partition('://')[2]}",
        )
    try:
        way = httpx.HTTPTransport(proxy=proxy.url if proxy else None)
    except ValueError as exc:  # a kind of proxy that there is not
        raise httpx.UnsupportedProtocol(str(exc)) from None
    with (
        logs.request("GET", address) as exchange,
        httpx.Client(transport=way, timeout=TIMEOUT) as client,
        client.stream("GET", address) as answer,
    ):
        exchange.answered(answer.status_code, answer.headers)
        raw = answer.raise_for_status().iter_bytes()
        try:
            return whole_answer(raw)
        except ValueError as exc:
            raise httpx.ReadError(str(exc)) from None


def _rows(
    machines: Iterable[_Machine], today: date, source: str, on_odd: Callable[[str], object]
) -> Iterable[Price]:
    cheapest: dict[str, Price] = {}
    for machine in machines:
        gpu = machine.accelerator
        if gpu is None or gpu.type != "gpu" or gpu.quantity != "1":
            continue
        names = gpus_named(f"{gpu.model}-{gpu.vram}") or gpus_named(gpu.model) or [gpu.model]
        if len(names) > 1:
            on_odd(f"{visible(machine.name)[:60]}: it does not say which, {' or '.join(names)}")
            continue
        row = Price(
            backend="huggingface",
            model=names[0],
            unit="gpu_hour",
            usd=Decimal(machine.micro_usd * PER_HOUR[machine.unit]) / MILLION,
            as_of=today,
            source=source,
            note=f"Hugging Face Jobs, {machine.name}, billed by the {machine.unit}.",
            market="on-demand",
        )
        if row.model not in cheapest or row.usd < cheapest[row.model].usd:
            cheapest[row.model] = row
    return cheapest.values()
