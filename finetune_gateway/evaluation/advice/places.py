"""Where a data set can be trained: which option is possible, fits, and answers long enough."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

from finetune_gateway.errors import DataError, SpecError, UnsupportedError
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.profiles import (
    DAY,
    LifeCycle,
    load_profile,
    profile_names,
)
from finetune_gateway.evaluation.advice.advice import Point
from finetune_gateway.evaluation.advice.rules import SOON_DAYS
from finetune_gateway.jobs.planning import Option
from finetune_gateway.methods import METHODS
from finetune_gateway.registry import default_backend, require_known

# What is estimated if nobody names a base: one that OpenAI and Azure have, one for this machine.
CANT_TELL = "can't tell"
HOSTED, LOCAL = "gpt-4.1-mini-2025-04-14", "Qwen/Qwen3-4B"
USUAL = ((LOCAL, "local"), (HOSTED, "azure"), (HOSTED, "openai"))


def pairs(
    models: Sequence[str], backends: Sequence[str], *, private: bool
) -> list[tuple[str, str]]:
    """Return models with their backends: the usual ones if none are named; of these only those of
    this machine if the data must stay here. Raises NotFoundError for a backend that is not there,
    SpecError for one of which no base is known here."""
    backends = [name.strip() for one in backends for name in one.split(",") if name.strip()]
    for name in backends:
        require_known(name)
    named = [
        (model, backend) for model in models for backend in (backends or [default_backend(model)])
    ]
    usual = {backend for _, backend in USUAL}
    if not models and (unknown := [name for name in backends if name not in usual]):
        raise SpecError(
            f"Which base {unknown[0]} is to train is not said.", hint="Name one: --model"
        )
    if not models:
        named = [pair for pair in USUAL if not backends or pair[1] in backends]
    return [pair for pair in named if not private or pair[1] == "local"]


def base(options: Sequence[Option]) -> str:
    """Return the base to measure a prompt with: the first of the options."""
    return options[0].model if options else LOCAL


def point(
    options: Sequence[Option], methods: Sequence[str], private: Point | None, today: date
) -> Point:
    """Return where to train. ``methods``: those of the advice, in order; none: nothing is trained.
    ``private``: set if the data must not be sent."""
    if private is not None:
        return _staying(options, methods, private)
    if not methods:
        return Point(CANT_TELL, "There is nothing to train.", (), ("nowhere_known",))
    refused = tuple(dict.fromkeys(why for one in options if (why := not_there(one, today))))
    open_ = [one for one in options if _possible(one, methods[0]) and not not_there(one, today)]
    here = [one for one in open_ if not _leaves(one)]
    there = [one for one in open_ if _leaves(one)]
    ends = ("host_ends",) if refused else ()
    hosted_alone = [one for one in methods if METHODS[one].openai and not METHODS[one].trainer]
    nowhere = [one for one in methods if not (METHODS[one].openai or METHODS[one].trainer)]
    later = f" {nowhere[-1].upper()} is trained nowhere here so far." if nowhere else ""
    if methods[0] in nowhere:
        return Point(CANT_TELL, later.strip(), refused, ("no_method_here", *ends))
    if hosted_alone and there:
        text = f"{_names(there)}: {hosted_alone[-1].upper()} is trained at hosts alone so far."
        return Point("hosted", _begun(text), refused, ("no_method_here", *ends))
    if here and there:
        text = f"{_names(here)} or {_names(there)}: how many requests it will get decides.{later}"
        return Point("either", _begun(text), refused, ("either", *ends))
    if here:
        return Point("local", f"{_here_text(here, ends)}{later}", refused, ends or ("one_sided",))
    if there:
        text = f"{_begun(_names(there))}.{later}"
        return Point("hosted", text, refused, _why_not_here(options, ends))
    if refused:
        text = f"Not there: {refused[0]} Elsewhere: --backend azure, or a base for this machine."
        return Point(CANT_TELL, text, refused[1:], (*ends, "nowhere_known"))
    return Point(CANT_TELL, _nowhere(options), (), ("nowhere_known",))


def _staying(options: Sequence[Option], methods: Sequence[str], private: Point) -> Point:
    here = [option for option in options if not _leaves(option)]
    text = f"{private.text} Local: nothing is sent."
    missing = [one.upper() for one in methods if not METHODS[one].trainer]
    too_large = [one for one in here if one.estimate and one.estimate.fits == "no"]
    if missing:
        text += f" {missing[0]} is not trained here so far."
    elif here and len(too_large) == len(here):
        text += " The base does not fit this machine: name a smaller one, or --gpu."
    return Point("local", text, private.evidence, private.rules)


def not_there(option: Option, today: date) -> str:
    """Return why nothing new should begin at this place on this day: ``openai: ...``; empty if
    nothing is known against it."""
    life = option.estimate.life_cycle if option.estimate else _life_cycle(option)
    if life is None:
        return ""
    if closed := life.closed_on(today):
        return f"{option.backend} takes no new jobs since {closed}."
    ends = life.retires_on
    if ends and ends - today < timedelta(days=SOON_DAYS):
        until = f"jobs until {life.new_jobs_until}, " if life.new_jobs_until else ""
        return f"{option.backend}: {until}answers until {ends - DAY}."
    return ""


def _life_cycle(option: Option) -> LifeCycle | None:
    if option.backend not in profile_names():
        return None
    return load_profile(option.backend).life_cycle(option.model)


def _possible(option: Option, method: str) -> bool:
    """Return True if nothing is known against the option: a local model that is not downloaded can
    be, one that is estimated for a later method, and one that refuses the rows."""
    if option.estimate is not None:
        return option.estimate.fits != "no"
    if isinstance(option.error, UnsupportedError) and option.error.option == "method":
        return _has_method(option.backend, method)
    return is_absent(option) or isinstance(option.error, DataError)


def _has_method(backend: str, method: str) -> bool:
    if backend in profile_names():
        return method in load_profile(backend).methods
    return bool(METHODS[method].trainer)


def is_absent(option: Option) -> bool:
    """Return True for a local base that is not on this machine yet."""
    error = option.error
    return option.backend == "local" and error is not None and "not on this machine" in str(error)


def _leaves(option: Option) -> bool:
    """Return True if the rows would be sent to another machine."""
    if option.estimate is not None:
        return option.estimate.data_leaves_machine
    return option.backend != "local"


def _begun(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _names(options: Sequence[Option]) -> str:
    return ", ".join(dict.fromkeys(option.backend for option in options))


def _here_text(here: Sequence[Option], ends: Sequence[str]) -> str:
    because = ": no host is left for long" if ends else ""
    absent = " Whether it fits is known once the base is here." if all(map(is_absent, here)) else ""
    return f"Local{because}.{absent}"


def _why_not_here(options: Sequence[Option], ends: tuple[str, ...]) -> tuple[str, ...]:
    too_large = any(
        isinstance(option.estimate, Estimate) and option.estimate.fits == "no" for option in options
    )
    return ("no_room", *ends) if too_large else (ends or ("one_sided",))


def _nowhere(options: Sequence[Option]) -> str:
    """Return why no option is possible, in the words of the first."""
    errors = [option.error for option in options if option.error]
    if errors:
        return errors[0].message
    return "None of the places named takes it." if options else "Name a base: --model."
