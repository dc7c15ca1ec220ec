"""Wrong command lines in our words: which option is wrong, and what it takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

import typer

from finetune_gateway.cli.commands import second_words
from finetune_gateway.errors import shown

_NUMBERS = {int: "a whole number", list[int]: "a whole number", float: "a number"}
_EXTRA = re.compile(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", re.DOTALL)


def usage_error(exc: typer.TyperException, name: str, args: list[str]) -> tuple[str, str]:
    """Return the message and the hint for a command line that the parser has refused."""
    hint = _second_word(exc, name) or _which_fine_tune(exc, name) or _hint(exc)
    return _message(exc, name, args), hint or f"Run: ftg {name} --help"


def _second_word(exc: typer.TyperException, name: str) -> str:
    """Return the command of two words that was meant, if one begins with this name."""
    extra = _EXTRA.fullmatch(exc.format_message())
    near = get_close_matches(extra[1].split()[0], second_words(name), n=1) if extra else []
    return f"Did you mean: ftg {name} {near[0]}" if near else ""


def _which_fine_tune(exc: typer.TyperException, name: str) -> str:
    """Return where to find a MODEL that a command about fine-tunes is given none of."""
    about_one = name.startswith("migrate ") or name == "models add"
    missing = about_one and type(exc).__name__ == "MissingParameter"
    return "For the ids of your fine-tunes: ftg migrate list" if missing else ""


def _message(exc: Any, name: str, args: list[str]) -> str:
    match type(exc).__name__:  # typer does not export these classes
        case "MissingParameter":
            return f"{' '.join(dict.fromkeys([_flag(exc.param), exc.param.metavar]))} is missing."
        case "BadParameter":
            return _bad_value(exc)
        case "NoSuchOption" if re.fullmatch(r"-\d", exc.option_name):
            number = next(word for word in args if word.startswith(exc.option_name))
            return f"ftg {name} takes no negative number such as {number}."
        case "NoSuchOption":
            return f"ftg {name} has no option {shown(exc.option_name)}."
        case "BadOptionUsage" if "not take a value" in exc.message:
            return f"{exc.option_name} takes no value."
        case "BadOptionUsage":
            return f"{exc.option_name} needs a value."
    extra = _EXTRA.fullmatch(exc.message)
    if extra:
        return f"ftg {name} does not take {shown(extra[1])}."
    return str(exc.format_message())


def _bad_value(exc: Any) -> str:
    """Return ``--limit must be a whole number of at least 1, not 'x'.``"""
    parameter, cause = exc.param, exc.__cause__
    kind = _NUMBERS.get(parameter.type_descriptor.annotation)
    if cause is None:
        return f"{_flag(parameter)} cannot be used."
    if kind is None:  # a path
        return f"{shown(cause.errors()[0]['input'])} cannot be read: permission denied."
    least = "" if parameter.min is None else f" of at least {parameter.min}"
    most = "" if parameter.max is None else f" of at most {parameter.max}"
    given = shown(cause.errors()[0]["input"])
    return f"{_flag(parameter)} must be {kind}{least}{most}, not {given}."


def _hint(exc: Any) -> str:
    """Return what was meant, if that can be guessed, or how the command is used."""
    if type(exc).__name__ == "NoSuchOption":
        return _other_option(exc)
    if type(exc).__name__ == "MissingParameter" and exc.param.name == "model":
        return "Like --model builtin/tiny; for others: ftg models"
    takes = getattr(getattr(exc, "param", None), "param_type_name", "") == "argument"
    return str(exc.ctx.get_usage()) if exc.ctx and (takes or _EXTRA.fullmatch(exc.message)) else ""


def _other_option(exc: Any) -> str:
    # Imported here: only an unknown option needs the settings, and pydantic with them.
    from finetune_gateway.errors import OTHER_WORDS
    from finetune_gateway.spec import TrainingSpec

    options = [name for parameter in exc.ctx.command.params for name in parameter.opts]
    word = exc.option_name.lstrip("-").replace("-", "_")
    key = OTHER_WORDS.get(word, word)
    flag = f"--{key.replace('_', '-')}"
    if flag in options:
        return f"Did you mean {flag}?"
    if "--set" in options and key in TrainingSpec.model_fields:
        return f"Use: --set {key}=VALUE"
    return _near(exc.option_name, [name for name in options if name.startswith("--")])


def _near(given: str, options: Sequence[str]) -> str:
    words = {name.strip("-"): name for name in options}
    word = given.strip("-")
    near = [one for one in words if word and one.startswith(word)]
    near = near or get_close_matches(word, words, n=1, cutoff=0.7)
    return f"Did you mean {' or '.join(words[one] for one in near)}?" if near else ""


def _flag(parameter: Any) -> str:
    """Return ``--limit``, or ``DATA``."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    return str(max(parameter.opts, key=len))
