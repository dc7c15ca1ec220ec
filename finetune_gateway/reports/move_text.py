"""Where a fine-tune could go, on the screen: in short, and with all that is known."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path

from finetune_gateway.migration.moves import MovePlan, Place
from finetune_gateway.reports import inventory_view as view
from finetune_gateway.reports.output import (
    apply_style,
    format_duration,
    wrap_text,
)
from finetune_gateway.settings.money import format_usd
from finetune_gateway.text.cleaning import visible

INDENT = 12
MORE = "Sources, what is not known, and notes on each place: --explain."
FITS = {"yes": "fits", "maybe": "may not fit", "no": "does not fit"}


def move_text(plan: MovePlan) -> str:
    """Return the fine-tune, then each place with all that is known of it and its command."""
    parts = [*_head(plan)]
    for place in plan.places:
        parts += ["", *_place(place)]
    return "\n".join(parts)


def brief_text(plan: MovePlan) -> str:
    """Return the fine-tune, then the places where it can go in a few lines each, the others in
    one."""
    parts = [*_head(plan)]
    before = dict.fromkeys(chain.from_iterable(place.before for place in plan.places))
    if before:
        parts += ["", "First, once:", *(f"  {visible(command)}" for command in before)]
    going = [place for place in plan.places if place.command]
    for (where, *facts), group in groupby(
        going, key=lambda place: (_headed(place), *_brief(place))
    ):
        alike = [*group]
        bases = ", ".join(dict.fromkeys(str(place.model) for place in alike))
        parts += ["", apply_style(wrap_text(visible(f"{bases} {where}")), "bold"), *facts]
        parts += [f"  {command_line(place)}" for place in alike]
    left_out = [place for place in plan.places if not place.command]
    parts += ["", *_left_out(left_out)] if left_out else []
    equal = "A base that is proposed is not known to equal yours. " if going else ""
    return "\n".join([*parts, "", wrap_text(f"{equal}{MORE}")])


def _head(plan: MovePlan) -> Iterator[str]:
    one = plan.fine_tune
    stops = view.stops(one.shutdown_date, one.days_left)
    yield visible(one.name)
    yield wrap_text(f"from {one.base_model or 'an unknown base'}, {view.training_text(one)}", "  ")
    yield f"  {stops[:1].upper()}{stops[1:]}."


def _headed(place: Place) -> str:
    return f"{_where(place)} ({'the same base' if place.same_base else 'proposed'})"


def _brief(place: Place) -> Iterator[str]:
    """Yield what is known of a place in short, without its base and its command."""
    asks = place.backend == "azure" and place.cost_usd is None
    yield _line("price", "not known yet: ftg prices update --azure REGION" if asks else cost(place))
    if place.backend == "local":
        yield _line("time", _time(place) or "not known (--explain)")
    else:
        yield _line("until", dates(place))
    if place.subscription:
        yield _line("yours", visible(place.subscription))
    yield _line("data", place.data)
    yield _line("weights", place.weights)
    yield _line("settings", visible(_taken(place)))
    if "RESOURCE" in command_line(place):
        yield _line("first", "write the name of yours for RESOURCE, or add --azure-url URL here")


def _taken(place: Place) -> str:
    """Return ``all but batch_size 1 (not taken there)``."""
    left = [
        f"{one.name} {one.value} ({re.split('[:;.]', one.note)[0]})"
        for one in place.settings
        if not one.becomes
    ]
    return f"all but {', '.join(left)}" if left else "all are taken over"


def _left_out(places: list[Place]) -> Iterator[str]:
    """Yield the places where it cannot go, or of which too little is known, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for place in places:
        why = place.refused or " ".join(place.unknown[:1]) or "no command is known"
        kept = by_reason.setdefault(re.split(r"\.(?:\s|$)", why)[0], [])
        kept.append(f"{place.model} {_where(place)}" if place.model else place.title)
    texts = (f"{', '.join(kept)} ({why})" for why, kept in by_reason.items())
    yield wrap_text(visible(f"{len(places)} left out: {'; '.join(texts)}."), "  ", "")


def title(place: Place) -> str:
    """Return the base and the place; another base is proposed, and nothing more."""
    if place.model is None:
        return place.title
    kind = "the same base" if place.same_base else "proposed; no measured equal is known"
    return f"{place.model} {_where(place)} ({kind})"


def _where(place: Place) -> str:
    return f"at {place.title}" if place.backend != "local" else "on this machine"


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
    if time := _time(place):
        yield _line("time", time)
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


def _time(place: Place) -> str:
    """Return the time to train and whether it fits, as far as they are known."""
    known = [] if place.seconds is None else [f"about {format_duration(place.seconds)}"]
    return ", ".join([*known, *([FITS[place.fits]] if place.fits else [])])


def _lines(name: str, texts: tuple[str, ...]) -> Iterator[str]:
    for text in dict.fromkeys(texts):
        yield _line(name, visible(text))


def _line(name: str, text: str) -> str:
    return wrap_text(text, " " * (INDENT + 1), f"  {name:<{INDENT - 1}}")


def until(place: Place) -> str:
    """Return until when it can be trained there, and until when it answers."""
    if place.backend == "local":
        return "no host can end it"
    return f"{dates(place)}; {visible(place.source)}"


def dates(place: Place) -> str:
    """Return the days alone."""
    trained = "no last day of training is known"
    if place.jobs_until:
        trained = f"trained until {place.jobs_until}"
    elif place.jobs_at_least_until:
        trained = f"trained until {place.jobs_at_least_until} at least"
    answers = f", answers until {place.answers_until}" if place.answers_until else ""
    only = f"; only for {visible(place.only)}" if place.only else ""
    return f"{trained}{answers}{only}"


def price(place: Place) -> str:
    """Return the cost and what it is from."""
    known = f", from {visible(place.cost_from)}" if place.cost_usd is not None else ""
    return cost(place) + known


def cost(place: Place) -> str:
    """Return the cost alone."""
    if place.backend == "local":
        return "nothing is billed"
    if place.cost_usd is None:
        return "not known"
    high = place.cost_high_usd
    most = f", at most {format_usd(high)}" if high is not None and high != place.cost_usd else ""
    return f"{format_usd(place.cost_usd)}{most}"


def commands(place: Place) -> list[str]:
    """Return the lines to type, in order."""
    return [*map(visible, place.before), command_line(place)] if place.command else []


def command_line(place: Place) -> str:
    """Return the command as one line for a shell; what lies in the user's folder begins with ~."""
    return visible(" ".join(map(_word, place.command or ())))


def _word(word: str) -> str:
    home = f"{Path.home()}/"
    if home != "//" and word.startswith(home):
        return f"~/{shlex.quote(word.removeprefix(home))}"
    return shlex.quote(word)
