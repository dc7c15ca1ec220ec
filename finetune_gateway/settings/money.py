"""Reads amounts of US dollars, wherever a person gives one: a call, an option, a file; and shows
them."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from numbers import Number
from typing import Any

from finetune_gateway.errors import SpecError, shown

MOST_USD = Decimal(10**9)  # the most expensive unit known costs 100 USD; more is a typing error
LEAST_USD = Decimal("1e-12")  # of amounts other than 0


def parse_usd(value: object, name: str) -> Decimal:
    """Return an amount of USD to its last digit, from a number or text such as "12.50" or "$12.50".

    Raises SpecError, with ``name`` in front, for anything else, for less than 0 and for amounts
    that only a typing error explains.
    """
    problem = None
    try:
        usd = Decimal("NaN" if isinstance(value, bool) else _digits(value))
    except InvalidOperation:
        usd = Decimal("NaN")
    if usd.is_nan():
        problem = "it is not a number"
    elif usd < 0:
        problem = "it is less than 0"
    elif usd > MOST_USD:
        problem = f"it is above {MOST_USD:,} USD"
    elif 0 < usd < LEAST_USD:
        problem = f"it has more than {-LEAST_USD.adjusted()} digits after the point"
    if problem:
        given = str(value) if isinstance(value, Decimal) else shown(value)
        raise SpecError(
            f"{name} cannot be {given}: {problem}.",
            hint=f"Give USD as a plain number such as 50 or 12.50, at most {MOST_USD:,}.",
        )
    return usd


def _digits(value: object) -> str | int:
    if isinstance(value, int):  # Decimal takes any; str() none of more than 4,300 digits
        return value
    given = str(value) if isinstance(value, str | Number) else "NaN"
    return given.strip().removeprefix("$")


def format_usd(amount: Any) -> str:
    """Return an amount with two decimals, or three digits of a small one: ``$0.00123``."""
    value = Decimal(str(amount))  # never by way of a float
    digits = 2 if value >= 1 or not value else 2 - value.adjusted()
    shown = f"{value:,.{digits}f}"
    while digits > 2 and shown.endswith("0"):
        shown, digits = shown[:-1], digits - 1
    return f"${shown}"
