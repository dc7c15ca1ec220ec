"""What a deployment is, costs and ends by, before it is made; and the command that makes it."""

from __future__ import annotations

import shlex
from decimal import Decimal

from finetune_gateway.estimation.host_facts import DeploymentKind
from finetune_gateway.estimation.price_table import Price, add_command
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.reports.output import wrap_text
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

HOURS = 730  # of a month


def deployment_text(
    name: str, model: str, account: str, kind: DeploymentKind, capacity: int, price: Price | None
) -> str:
    """Return the lines before the question."""
    head = f"azure / {account}: deployment {name} of {visible(model)}"
    lines = [
        f"{head}, {kind.sku}, capacity {capacity}.",
        _cost(kind, price),
        kind.ends,
        kind.data,
        f"(as of {kind.as_of}, {kind.source})",
    ]
    return "\n".join(wrap_text(line, "  ", "") for line in lines)


def hourly_text(name: str, record: JobRecord, price: Price | None) -> str:
    """Return the lines before the question, of a deployment that a plug-in makes."""
    head = f"{record.host}: deployment {visible(name)} of the model of {record.id}."
    cost = "What it costs is not known: the backend names no price."
    if price is not None:
        cost = f"{_by_the_hour(price)} ({price.dated}, {price.source})."
    return "\n".join(wrap_text(line, "  ", "") for line in (head, cost))


def _by_the_hour(price: Price) -> str:
    month = format_usd(price.usd * Decimal(HOURS))
    return (
        f"It costs ${price.usd} an hour, used or not, {month} in a month of {HOURS} hours, from "
        "the moment on that it is made"
    )


def _cost(kind: DeploymentKind, price: Price | None) -> str:
    tokens = "tokens at the price of the base"
    if not kind.hosted_by_hour:
        return f"It has no fee by the hour; {tokens}."
    if price is None:
        add = add_command("azure", "standard deployment", "hosting_hour")
        return f"Its fee by the hour is not known; {tokens}. To add it: {add}"
    return f"{_by_the_hour(price)}; {tokens} ({price.dated}, {price.source})."


def deploy_command(
    model: str,
    kind: DeploymentKind,
    capacity: int,
    *,
    account: str | None,
    name: str | None,
    group: str | None,
    subscription: str | None,
) -> str:
    """Return the command of Azure's CLI that makes the deployment; what is not known is in
    capitals."""
    given = {
        "subscription": subscription or "SUBSCRIPTION",
        "resource-group": group or "RESOURCE_GROUP",
        "name": account or "RESOURCE",
        "deployment-name": name or "DEPLOYMENT",
        "model-name": model,
        "model-version": "1",
        "model-format": "OpenAI",
        "sku-capacity": str(capacity),
        "sku-name": kind.sku,
    }
    options = " ".join(f"--{option} {shlex.quote(value)}" for option, value in given.items())
    return f"az cognitiveservices account deployment create {options}"
