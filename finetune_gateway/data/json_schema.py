"""Judges JSON values by a JSON Schema, and ends where that would take years.

A schema that refers to itself, or whose references branch, can take a time that doubles with each
level of the answer: 8 s at 16 levels, by measurement. So can ``unevaluatedProperties``. These are
judged in a process of their own, which the system ends; all others at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from urllib.parse import unquote

from finetune_gateway.errors import SpecError
from finetune_gateway.settings import interpreter
from finetune_gateway.settings.process_limits import end_after, limit_memory

SECONDS = 2.0  # of its own time, for one value; starting takes 0.2
WAIT = 60.0  # seconds on the clock, where the system cannot end a process by its own time
MEMORY = 1 << 30  # bytes of address space
MOST_ENDED = 3  # values that took too long, after which a schema is given up
PARTS = 1_000  # of a schema with its references written out, that are judged at once
ENDLESS = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems")


class TooCostly(SpecError):
    """A value takes too long to judge: it neither fits nor does it not."""


def schema_judge(schema: Any) -> Callable[[Any], str]:
    """Return a function that says in words what of a value does not fit a JSON Schema; "" if it
    fits. It raises TooCostly. Raises SpecError for a schema that is none."""
    judge = _judge(schema)
    return _Apart(schema).judge if _is_costly(schema) else judge


def _judge(schema: Any) -> Callable[[Any], str]:
    # Imported here: only answers in JSON need it.
    import jsonschema_rs

    try:
        validator = jsonschema_rs.validator_for(
            schema,
            retriever=_fetch_nothing,
            pattern_options=jsonschema_rs.RegexOptions(),
        )
    except (ValueError, jsonschema_rs.ReferencingError) as exc:
        why = str(exc).partition("\n")[0]
        raise SpecError(
            f"This JSON Schema cannot be used: {why}.",
            hint="Patterns have no look-around and no back-references, and nothing is fetched.",
        ) from None

    def judge(value: Any) -> str:
        try:
            error = next(iter(validator.iter_errors(value)), None)
        except ValueError as exc:  # deeper than it reads
            return str(exc)
        if error is None:
            return ""
        path = ".".join(map(str, error.instance_path))
        return f"{path}: {error.message}" if path else error.message

    return judge


def _fetch_nothing(uri: str) -> Any:
    raise ValueError(f"{uri} is another document")


# -- what a schema may cost ------------------------------------------------------------------


def _is_costly(schema: Any) -> bool:
    """Return True unless judging is sure to take few steps for each part of a value."""
    try:
        return sum(1 for _ in islice(_parts(schema, schema, ()), PARTS + 1)) > PARTS
    except (LookupError, ValueError, RecursionError):
        return True


def _parts(part: Any, root: Any, inside: tuple[str, ...]) -> Iterator[Any]:
    """Yield each part of a schema, references written out. Raises LookupError for what may not
    end. ``inside``: the references that led here."""
    yield part
    if isinstance(part, list):
        for one in part:
            yield from _parts(one, root, inside)
    if not isinstance(part, dict):
        return
    for key, value in part.items():
        if key in ENDLESS or (key == "$ref" and value in inside):
            raise LookupError(key)
        if key == "$ref":
            yield from _parts(_target(value, root), root, (*inside, value))
        elif key not in ("$defs", "definitions"):
            yield from _parts(value, root, inside)


def _target(reference: Any, root: Any) -> Any:
    """Return the part of a schema that a reference like ``#/$defs/node`` means. Raises LookupError
    for one of another form."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        raise LookupError(reference)
    found = root
    for step in unquote(reference[2:]).split("/"):
        name = step.replace("~1", "/").replace("~0", "~")
        found = found[int(name)] if isinstance(found, list) else found[name]
    return found


# -- in a process of its own -----------------------------------------------------------------


class _Apart:
    """Judges values one by one, each in a process."""

    def __init__(self, schema: Any) -> None:
        self.schema = schema
        self.ended = 0

    def judge(self, value: Any) -> str:
        """Return what of a value does not fit; "" if it fits. Raises TooCostly."""
        if self.ended >= MOST_ENDED:
            raise TooCostly(f"too long to judge by its schema, as {self.ended} before it")
        try:
            request = json.dumps({"schema": self.schema, "value": value, "seconds": SECONDS})
            done = subprocess.run(
                interpreter.call(__name__, serve.__name__),
                input=request.encode(),
                capture_output=True,
                timeout=WAIT,
                check=False,
            )
        except RecursionError:
            return "it is nested too deep"
        except subprocess.TimeoutExpired:
            done = None
        if done is None or done.returncode:
            self.ended += 1
            raise TooCostly(f"more than {SECONDS:.0f} s to judge by its schema") from None
        return str(json.loads(done.stdout))


def serve() -> None:
    """Read a schema and a value from stdin, and write what does not fit, as JSON."""
    request = json.loads(sys.stdin.buffer.read())
    limit_memory(MEMORY)
    judge = _judge(request["schema"])
    end_after(request["seconds"])
    sys.stdout.write(json.dumps(judge(request["value"])))
