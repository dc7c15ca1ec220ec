"""Where a fine-tune could go, on the screen."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from finetune_gateway.migration.moves import MovePlan, Place
from finetune_gateway.reports import inventory_view as view
from finetune_gateway.reports.output import (
    apply_style,
    format_duration,
    format_usd,
    wrap_text,
)
from finetune_gateway.text.cleaning import visible

INDENT = 12
FITS = {"yes": "fits", "maybe": "may not fit", "no": "does not fit"}


def move_text(plan: MovePlan) -> str:
    """Return the fine-tune, then each place with what is known of it and its command."""
    one = plan.fine_tune
    stops = view.stops(one.shutdown_date, one.days_left)
    parts = [
        visible(one.name),
        _line("", f"from {one.base_model or 'an unknown base'}, {view.training_text(one)}"),
        _line("", f"{stops[:1].upper()}{stops[1:]}."),
    ]
    for place in plan.places:
        parts += ["", *_place(place)]
    return "\n".join(parts)


def title(place: Place) -> str:
    """Return the base and the place; another base is proposed, and nothing more."""
    if place.model is None:
        return place.title
    kind = "the same base" if place.same_base else "proposed; no measured equal is known"
    where = f"at {place.title}" if place.backend != "local" else "on this machine"
    return f"{place.model} {where} ({kind})"


def _place(place: Place) -> Iterator[str]:
    yield apply_style(wrap_text(visible(title(place))), "bold")
    if place.refused:
        yield _line("not there", visible(place.refused))
        yield from _lines("note", place.notes)
        return
    yield _line("until", until(place))
    if place.subscription:
        yield _line("yours", visible(place.subscription))
    yield _line("price", price(place))
    if place.seconds is not None:
        fits = f", {FITS[place.fits]}" if place.fits else ""
        yield _line("time", f"about {format_duration(place.seconds)}{fits}")
    elif place.fits:
        yield _line("memory", FITS[place.fits])
    yield _line("data", place.data)
    yield _line("weights", place.weights)
    taken = [one for one in place.settings if one.becomes]
    if taken:
        yield _line("taken over", ", ".join(visible(f"{one.name} {one.value}") for one in taken))
    for one in place.settings:
        if one.note:
            yield _line("setting", visible(f"{one.name} {one.value}: {one.note}"))
    yield from _lines("not known", place.unknown)
    yield from _lines("note", place.notes)
    for command in commands(place):
        yield f"  {command}"


def _lines(name: str, texts: tuple[str, ...]) -> Iterator[str]:
    for text in dict.fromkeys(texts):
        yield _line(name, visible(text))


def _line(name: str, text: str) -> str:
    return wrap_text(text, " " * (INDENT + 1), f"  {name:<{INDENT - 1}}")


def until(place: Place) -> str:
    """Return until when it can be trained there, and until when it answers."""
    if place.backend == "local":
        return "no host can end it"
    trained = "no last day of training is known"
    if place.jobs_until:
        trained = f"trained until {place.jobs_until}"
    elif place.jobs_at_least_until:
        trained = f"trained until {place.jobs_at_least_until} at least"
    answers = f", answers until {place.answers_until}" if place.answers_until else ""
    only = f"; only for {visible(place.only)}" if place.only else ""
    return f"{trained}{answers}{only}; {visible(place.source)}"


def price(place: Place) -> str:
    """Return the cost and what it is from."""
    if place.backend == "local":
        return "nothing is billed"
    if place.cost_usd is None:
        return "not known"
    high = place.cost_high_usd
    most = f", at most {format_usd(high)}" if high is not None and high != place.cost_usd else ""
    return f"{format_usd(place.cost_usd)}{most}, from {visible(place.cost_from)}"


def commands(place: Place) -> list[str]:
    """Return the lines to type, in order."""
    line = [visible(shlex.join(place.command))] if place.command else []
    return [*map(visible, place.before), *line] if line else []
