"""The figures of an estimate in words, as every screen and page shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date
from decimal import Decimal
from typing import Any

from finetune_gateway.estimation.assumptions import ENERGY
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.estimation.gpus import GIB, MIB
from finetune_gateway.estimation.hosted import WAIT, stale_prices
from finetune_gateway.estimation.local import ENDED, MOST_ROWS
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.estimation.profiles import (
    LifeCycle,
    in_days,
    load_profile,
    profile_names,
)
from finetune_gateway.estimation.throughput import two_digits
from finetune_gateway.reports.output import (
    format_bytes,
    format_count,
    format_duration,
)
from finetune_gateway.settings import clock
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

UNITS = {
    "train_mtok": "per million training tokens",
    "train_hour": "per hour of training",
    "gpu_hour": "per GPU hour",
    "hosting_hour": "per hour of hosting",
}
TRAINING = ("train_mtok", "train_hour", "gpu_hour")  # units of what a job costs


# -- single figures ------------------------------------------------------------------------


def cost_text(estimate: Estimate) -> str:
    """Return ``$5.74 ($3.83 to $7.65)``; on a GPU, whose speed is not measured, with two digits."""
    return format_range(estimate.cost_usd, lambda usd: usd_text(estimate, usd))


def price(estimate: Estimate) -> str:
    """Return the expected cost in USD alone, ``0.2085``, or ``unknown``."""
    return f"{estimate.cost_usd.expected:f}" if estimate.cost_usd else "unknown"


def time_text(estimate: Estimate) -> str:
    """Return ``8 min 41 s (6 min 2 s to 15 min)``; on a GPU with two digits."""
    if not estimate.gpu:
        return format_range(estimate.seconds, format_duration)
    return format_range(estimate.seconds, lambda one: format_duration(float(two_digits(one))))


def usd_text(estimate: Estimate, usd: Decimal) -> str:
    """Return an amount of an estimate: on a GPU two digits of it."""
    return format_usd(two_digits(float(usd)) if estimate.gpu and usd else usd)


def memory_text(estimate: Estimate) -> str:
    """Return ``about 3.1 GiB, fits``; ``-`` where a host takes care of it."""
    if estimate.memory_bytes is None:
        return "-" if estimate.data_leaves_machine else "not known"
    fit = fit_text(estimate)
    (usual,), unit = _two_digits(estimate.memory_bytes.expected)
    return f"about {usual} {unit}{', ' if fit else ''}{fit}"


def memory_range_text(estimate: Estimate) -> str:
    """Return ``about 20 GiB (16 to 30): fits in 73.6 GiB of A100-80GB``."""
    if estimate.memory_bytes is None:
        return memory_text(estimate)
    memory = estimate.memory_bytes
    (usual, low, high), unit = _two_digits(memory.expected, memory.low, memory.high)
    needed = f"about {usual} {unit} ({low} to {high})"
    fit, available = fit_text(estimate), estimate.memory_available_bytes
    if not fit:
        return needed
    of = f" of {estimate.gpu}" if estimate.gpu else ""
    return f"{needed}: {fit}{f' in {format_bytes(available)}{of}' if available else ''}"


def _two_digits(*sizes: int) -> tuple[list[str], str]:
    """Return sizes with two digits, in the unit of the first, and that unit."""
    unit, of = (GIB, "GiB") if sizes[0] >= GIB else (MIB, "MiB")
    amounts = [size / unit for size in sizes]
    return [f"{x:.1f}" if x < 9.95 else f"{Decimal(f'{x:.2g}'):,f}" for x in amounts], of


def fit_text(estimate: Estimate) -> str:
    """Return ``fits``, ``may not fit``, ``does not fit``, or an empty string if not known."""
    return {"yes": "fits", "maybe": "may not fit", "no": "does not fit", None: ""}[estimate.fits]


def new_jobs_until_text(estimate: Estimate, today: date | None = None) -> str:
    """Return the last day on which a job can be created, or since when none can.

    ``-`` means that no host can end it.
    """
    life = estimate.life_cycle
    if life is None:
        return "-"
    if closed := life.closed_on(today or clock.today()):
        return f"closed {closed}"
    if life.new_jobs_until:
        return str(life.new_jobs_until)
    earliest = life.new_jobs_at_least_until
    return f"{earliest} or later" if earliest else "not known"


def retires_on_text(estimate: Estimate) -> str:
    """Return the day from which the fine-tuned model does not answer."""
    life = estimate.life_cycle
    if life is None:
        return "-"
    return str(life.retires_on) if life.retires_on else "not known"


def _retired(estimate: Estimate) -> str:
    day = retires_on_text(estimate)
    return "day of retirement not known" if day == "not known" else f"retired on {day}"


def tokens_text(estimate: Estimate) -> str:
    """Return ``37,000 (2 epochs)``; of a local run what is read of the rows once they are cut, and
    how many of these tokens are trained: ``37,000 (2 epochs), 9,000 of them trained``. Where a
    number of steps ends it: ``about 3,700 (10 steps), about 900 of them trained``."""
    tokens, billed, trained = estimate.tokens, estimate.billed_tokens, estimate.trained_tokens
    read = tokens.total - tokens.truncated_tokens if tokens else 0
    counted = billed.expected if billed else read * estimate.n_epochs
    text = f"{counted:,} ({format_count(estimate.n_epochs, 'epoch')})"
    if billed or not trained:
        return text
    about = "" if trained.low == trained.high else "about "
    if estimate.n_epochs_rule == ENDED and estimate.read_tokens is not None:
        text = f"{about}{estimate.read_tokens:,} ({format_count(estimate.steps or 0, 'step')})"
    return f"{text}, {about}{trained.expected:,} of them trained"


def _span(counts: Range[int]) -> str:
    """Return ``9,000``, or ``850 to 950``."""
    low, high = counts.low, counts.high
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def rows_text(estimate: Estimate) -> str:
    """Return ``trained on 243, held out 27; --validation-split 0 for all``; empty if all rows are
    trained."""
    rows = estimate.rows
    if rows is None or not (rows.held_out or rows.note):
        return ""
    trained = f"trained on {rows.trained:,}"
    if not rows.held_out:
        return f"{trained}; {rows.note}"
    way_out = "" if rows.asked else "; --validation-split 0 for all"
    return f"{trained}, held out {rows.held_out:,}{way_out}{f' ({rows.note})' if rows.note else ''}"


def price_text(price: Price) -> str:
    """Return ``$5.00 per million training tokens, as of 2026-10-05, https://...``."""
    of = f" ({price.backend}, {price.market})" if price.market else ""
    of = f" as {price.tier!r} training" if price.tier else of
    unit = UNITS.get(price.unit) or f"per {price.unit} of {visible(price.model)}"  # a plug-in's own
    return f"${price.usd} {unit}{of}, {price.dated}, {price.source}"


def dates_text(estimate: Estimate) -> str:
    """Return until when jobs are taken and when the model retires, with the source.

    Empty where no date is known.
    """
    life = estimate.life_cycle
    if life is None or not life.known:
        return ""
    until, retires = new_jobs_until_text(estimate), _retired(estimate)
    return f"New jobs until {until}; {retires} ({_source(life)})"


def format_range(figure: Any, form: Callable[[Any], str]) -> str:
    """Return ``8 (6 to 15)`` for a Range, with each number formatted by ``form``."""
    if figure is None:
        return "not known"
    if figure.low == figure.high:
        return form(figure.expected)
    return f"{form(figure.expected)} ({form(figure.low)} to {form(figure.high)})"


def _source(life: LifeCycle) -> str:
    return f"as of {life.as_of}, {life.source}"


# -- the answer ----------------------------------------------------------------------------


def answer(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """Yield what a user asks first, as (name, text)."""
    yield "cost", _dated_cost(estimate)
    yield "tokens", tokens_text(estimate)
    if text := rows_text(estimate):
        yield "rows", text
    yield "time", time_text(estimate)
    if not estimate.data_leaves_machine or estimate.memory_bytes is not None:
        yield "memory", memory_range_text(estimate)
    elif estimate.gpu:
        yield "machine", estimate.gpu
    if estimate.life_cycle is not None:
        yield "until", _until(estimate)
    yield "data", data_text(estimate)


def answer_unknowns(estimate: Estimate) -> list[str]:
    """Return what is not known, and could be given; not what nobody knows."""
    return [text for text in estimate.unknown if text not in (WAIT, ENERGY)]


def _dated_cost(estimate: Estimate) -> str:
    """Return ``$0.208 ($0.139 to $0.289), price as of 2026-10-05``."""
    price = next((one for one in estimate.prices if one.unit in TRAINING), None)
    dated = f", price {price.dated}" if price and estimate.cost_usd else ""
    return f"{cost_text(estimate)}{dated}"


def _until(estimate: Estimate) -> str:
    """Return ``2027-01-05 (in 37 days) for new jobs; retired on 2027-01-14``."""
    life = estimate.life_cycle
    last, today = life and life.new_jobs_until, clock.today()
    left = f" ({in_days(last, today)})" if last and last >= today else ""
    until, retired = new_jobs_until_text(estimate), _retired(estimate)
    if life is None or not life.known:
        return until
    what = "" if life.closed_on(today) else f"{left} for new jobs"
    return f"{until}{what}; {retired}"


def data_text(estimate: Estimate) -> str:
    """Return ``sent to api.openai.com``, or that the data stays here."""
    if not estimate.data_leaves_machine:
        return "stays on your own machine"
    sent = f"sent to {estimate.host or estimate.backend}"
    return f"{sent}. {training_text(estimate)}" if estimate.azure_training else sent


def training_text(estimate: Estimate) -> str:
    """Return ``Trained as 'global': data and weights are copied ...``, where a host has a choice;
    else nothing."""
    if estimate.azure_training is None:
        return ""
    return f"Trained as {estimate.azure_training!r}: {estimate.residency}"


def answer_warnings(estimate: Estimate) -> list[str]:
    """Return the warnings without the coming dates, which the answer says, and the ages of
    sources."""
    said = {*_date_warnings(estimate), *age_warnings(estimate)}
    return [text for text in estimate.warnings if text not in said]


def age_warnings(estimate: Estimate) -> list[str]:
    """Return the warnings that say how old a price or a fact is."""
    today, ages = clock.today(), stale_prices(estimate.prices, clock.today())
    if estimate.backend in profile_names():
        ages += load_profile(estimate.backend).age_warnings(estimate.model, today)
    return [text for text in estimate.warnings if text in ages]


def _date_warnings(estimate: Estimate) -> list[str]:
    if estimate.backend not in profile_names():
        return []
    return load_profile(estimate.backend).date_warnings(estimate.model, clock.today())


# -- all that is known of an estimate ------------------------------------------------------


def local_figures(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """Yield what a local run needs, as (name, text); nothing for a hosted option."""
    if estimate.memory_parts is not None:
        parts = estimate.memory_parts.model_dump().items()
        yield "  by part", ", ".join(f"{name} {format_bytes(size)}" for name, size in parts if size)
    if estimate.largest_batch is not None:
        yield "  largest batch", _largest_batch(estimate)
    if estimate.smallest_gpu is not None:
        requested = f" (requested: {estimate.gpu})" if estimate.gpu else ""
        yield "  smallest GPU", f"{estimate.smallest_gpu} with the fewest rows at once{requested}"
    elif estimate.memory_parts is not None:
        yield "  smallest GPU", "none of the known GPUs has enough memory"
    if estimate.trained_tokens is not None and estimate.steps is not None:
        count = _span(estimate.trained_tokens)
        yield "trained tokens", f"{count} in {format_count(estimate.steps, 'step')}"
    if estimate.energy_kwh is not None:
        energy = estimate.energy_kwh
        low, expected, high = map(two_digits, (energy.low, energy.expected, energy.high))
        yield "energy", f"{expected:,f} kWh ({low:,f} to {high:,f})"
    elif not estimate.data_leaves_machine and estimate.backend == "local":
        yield "energy", "not known"


def _largest_batch(estimate: Estimate) -> str:
    """Return the most rows that fit for certain."""
    most = estimate.largest_batch or 0
    none = "none for certain" if estimate.fits == "maybe" else "none"
    rows = f"{most:,} or more" if most >= MOST_ROWS else f"{most:,}" if most else none
    return f"{rows} on {estimate.gpu or 'this machine'}"


def grounds(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """Yield what the figures rest on, as (kind, text), warnings first."""
    yield from (("warning", text) for text in estimate.warnings)
    yield from (("price", f"{price_text(price)} {price.note}".strip()) for price in estimate.prices)
    if (rule := estimate.n_epochs_rule) != "given":
        yield "epochs", f"{estimate.n_epochs}, {rule}"
    if dates := dates_text(estimate):
        yield "dates", dates
    yield from (("assumed", text) for text in estimate.assumptions)
    yield from (("not known", text) for text in estimate.unknown)


def details(estimate: Estimate) -> Iterator[tuple[str, str]]:
    """Yield the figures that the table has no room for, as (kind, text)."""
    yield "tokens", tokens_text(estimate)
    if estimate.seconds is not None:
        yield "time", time_text(estimate)
    if estimate.host:
        yield "sent", f"to {estimate.host}"
    if estimate.azure_training:
        yield "training", training_text(estimate)
    if estimate.memory_bytes is not None:
        here = estimate.memory_available_bytes and not estimate.gpu
        available = " of this machine" if here else ""
        yield "memory", f"{memory_range_text(estimate)}{available}"
    for name, text in local_figures(estimate):
        yield f"memory {name.strip()}" if name.strip() == "by part" else name.strip(), text
