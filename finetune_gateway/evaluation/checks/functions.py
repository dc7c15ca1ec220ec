"""A check that is a Python function of the user's: ``function: checks.py:is_friendly``.

Code runs only if the user names its file beside the guide: a guide from somewhere else runs
nothing. ``def is_friendly(text, row)`` gets the text of an answer and its row (``messages``,
``tools``, ``tool_calls`` of the answer, ``reference``), and returns True or False, either with a
reason as a pair, or None for what it cannot tell.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from contextlib import redirect_stdout
from copy import deepcopy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from finetune_gateway.errors import SpecError
from finetune_gateway.evaluation.checks import reading
from finetune_gateway.evaluation.checks.check import ScoreFunction, failed, passed, undecided
from finetune_gateway.evaluation.checks.reading import Keys
from finetune_gateway.evaluation.results import ComparedAnswer, ComparedRow, Score
from finetune_gateway.text.quoting import json_type, shortened

Json = dict[str, Any]
Function = Callable[[str, Json], Any]

MOST_REASON = 200  # characters of a reason


def build(
    keys: Keys, key: str, folder: Path, code: Collection[Path]
) -> tuple[str, ScoreFunction | str]:
    """Return the title of a check and what scores it, or why its code is not run."""
    written = reading.text_at(keys, key)
    file, colon, name = written.rpartition(":")
    if not colon or not file.endswith(".py") or not name.isidentifier():
        raise keys.at(key).error(f"{written!r} names no function.", "Like checks.py:is_friendly.")
    path = (folder / Path(file).expanduser()).resolve()
    title = f"{name}() of {file}"
    if path not in {one.expanduser().resolve() for one in code}:
        return title, f"it runs code of {path}; if you trust that: --code {path}"
    return title, _judge_of(_load(path, name, keys, key))


def _load(path: Path, name: str, keys: Keys, key: str) -> Function:
    spec = spec_from_file_location(f"_ftg_check_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise keys.at(key).error(f"there is no file {path}.")
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look for it
    try:
        with redirect_stdout(sys.stderr):  # stdout is our result
            spec.loader.exec_module(module)
    # Whatever the code of the user raises; its exit would end us with a code that says "passed".
    except (Exception, SystemExit) as exc:
        raise keys.at(key).error(f"{path} cannot be loaded: {_words_of(exc)}.") from exc
    function = getattr(module, name, None)
    if not callable(function):
        raise keys.at(key).error(f"{path} has no function {name}().")
    loaded: Function = function
    return loaded


def _judge_of(function: Function) -> ScoreFunction:
    def score(row: ComparedRow, answer: ComparedAnswer) -> Score:
        seen = {
            **row.prompt.asked,
            "reference": row.reference,
            "tool_calls": answer.tool_calls,
        }
        try:
            with redirect_stdout(sys.stderr):
                # A copy: what it changes is not what the next model is asked.
                return _score_of(function(answer.text, deepcopy(seen)))
        except (Exception, SystemExit) as exc:  # of the user's code: no answer is failed by it
            return Score(reason=f"it raised {_words_of(exc)}")

    return score


def _words_of(exc: BaseException) -> str:
    """Return what was raised, also where that has no text."""
    try:
        words = str(exc)
    except Exception as no_text:
        words = f"and its text {type(no_text).__name__}"
    return f"{type(exc).__name__}: {shortened(words, MOST_REASON)}"


def _score_of(found: Any) -> Score:
    value, reason = found if isinstance(found, tuple) and len(found) == 2 else (found, "")
    said = shortened(str(reason or ""), MOST_REASON)
    if value is None:
        return undecided(said or "the function cannot tell")
    if isinstance(value, bool):
        return passed(said) if value else failed(said or "the function says no")
    return Score(reason=f"it returned {json_type(value)}, not True, False or None")


def require_files(code: Collection[Path]) -> None:
    """Raise SpecError for a file of code that is not there."""
    for path in code:
        if not path.expanduser().is_file():
            raise SpecError(f"--code {path}: there is no such file.")
