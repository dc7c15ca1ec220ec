"""Between which bounds the figures of serving are believed."""

from __future__ import annotations

from decimal import Decimal

from finetune_gateway.errors import SpecError

# Bounds beyond which a figure can only be a typing error: USD per hour of one GPU, tokens per
# second of one GPU, requests a month, tokens of a request or an answer.
USD_PER_HOUR = (Decimal("0.001"), Decimal(10_000))
TOKENS_PER_SECOND = (Decimal("0.1"), Decimal(10_000_000))
MOST_REQUESTS = 10**10
MOST_TOKENS = 10**7


MOST_USERS = 100_000  # requests at once
BILLIONS = (0.001, 10_000)  # parameters of a model


def check_served(users: int, billions: float) -> None:
    """Raise SpecError for requests at once, or a size of a model in billions, out of bounds."""
    if not 1 <= users <= MOST_USERS:
        raise SpecError(
            f"--serve-users {users} (users in Python) is out of bounds.",
            hint=f"Give 1 to {MOST_USERS:,} requests at once.",
        )
    least, most = BILLIONS
    if not least <= billions <= most:
        raise SpecError(
            f"--serve-billions {billions:g} (billions in Python) is out of bounds.",
            hint=f"Give {least:g} to {most:,} billion parameters of the model that is served.",
        )


def check_gpu(usd_per_hour: Decimal | None, tokens_per_second: Decimal | None) -> None:
    """Raise SpecError for a price (USD) or a speed of a GPU out of bounds."""
    for name, amount, (least, most), unit in (
        ("usd_per_hour", usd_per_hour, USD_PER_HOUR, "USD per hour"),
        ("tokens_per_second", tokens_per_second, TOKENS_PER_SECOND, "tokens per second"),
    ):
        if amount is not None and not (amount.is_finite() and least <= amount <= most):
            raise SpecError(
                f"--serve-{name.replace('_', '-')} {amount} ({name} in Python) is out of bounds.",
                hint=f"Give {least:,} to {most:,} {unit} of one GPU.",
            )


def check_counts(requests: int, tokens_in: int | None, tokens_out: int | None) -> None:
    """Raise SpecError for requests a month or tokens per request out of bounds."""
    for flag, number, least, most, unit in (
        ("--monthly-requests", requests, 1, MOST_REQUESTS, "requests"),
        ("--tokens-in", tokens_in or 0, 0, MOST_TOKENS, "tokens per request"),
        ("--tokens-out", tokens_out or 0, 0, MOST_TOKENS, "tokens per answer"),
    ):
        if not least <= number <= most:
            raise SpecError(
                f"{flag} {number} is out of bounds.",
                hint=f"Give {least} to {most:,} {unit}.",
            )
