"""Claims of finetune_gateway.settings.money: amounts of USD, or an error in words."""

from __future__ import annotations

from decimal import Decimal

import pytest

from finetune_gateway import SpecError
from finetune_gateway.settings.money import LEAST_USD, MOST_USD, parse_usd


@pytest.mark.parametrize(
    ("value", "usd"),
    [
        (50, "50"),
        (0, "0"),
        (12.5, "12.5"),
        (0.1, "0.1"),
        (1e-6, "0.000001"),
        (Decimal("0.10"), "0.10"),
        (Decimal(1) / 3, "0.3333333333333333333333333333"),
        ("12.50", "12.50"),
        ("$5", "5"),
        (" $5.00 ", "5.00"),
        ("1e3", "1E+3"),
        ("0.123456789012", "0.123456789012"),
        (MOST_USD, "1000000000"),
        (LEAST_USD, "1E-12"),
    ],
)
def test_amounts_are_read_to_the_last_digit(value: object, usd: str) -> None:
    assert str(parse_usd(value, "price")) == usd


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("1,000", "price cannot be '1,000': it is not a number."),
        ("5 USD", "price cannot be '5 USD': it is not a number."),
        ("€5", "price cannot be '€5': it is not a number."),
        ("$$5", "price cannot be '$$5': it is not a number."),
        ("", "price cannot be '': it is not a number."),
        ("much", "price cannot be 'much': it is not a number."),
        (None, "price cannot be None: it is not a number."),
        ([1], "price cannot be [1]: it is not a number."),
        (b"5", "price cannot be b'5': it is not a number."),
        (True, "price cannot be True: it is not a number."),
        (False, "price cannot be False: it is not a number."),
        (float("nan"), "price cannot be nan: it is not a number."),
        (Decimal("sNaN"), "price cannot be sNaN: it is not a number."),
        ("inf", "price cannot be 'inf': it is above 1,000,000,000 USD."),
        (Decimal("Infinity"), "price cannot be Infinity: it is above 1,000,000,000 USD."),
        (float("-inf"), "price cannot be -inf: it is less than 0."),
        (-1, "price cannot be -1: it is less than 0."),
        ("$-1", "price cannot be '$-1': it is less than 0."),
        ("1e999", "price cannot be '1e999': it is above 1,000,000,000 USD."),
        ("1000000000.01", "price cannot be '1000000000.01': it is above 1,000,000,000 USD."),
        ("9" * 40, f"price cannot be '{'9' * 40}': it is above 1,000,000,000 USD."),
        ("1e-13", "price cannot be '1e-13': it has more than 12 digits after the point."),
        (1e-300, "price cannot be 1e-300: it has more than 12 digits after the point."),
    ],
)
def test_what_is_no_amount_is_refused_with_the_reason(value: object, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_usd(value, "price")
    assert caught.value.message == message
    assert str(caught.value.hint) == (
        "Give USD as a plain number such as 50 or 12.50, at most 1,000,000,000."
    )
