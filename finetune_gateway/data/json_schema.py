"""Judges JSON values by a JSON Schema, and ends where that would take years.

A schema that refers to itself, or whose references branch, can take a time that doubles with each
level of the answer: 5 s at 14 levels, by measurement. So can ``unevaluatedProperties``. These are
judged in a process of their own, which the system ends; all others at once. Nothing is fetched.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from urllib.parse import unquote

from finetune_gateway.errors import SpecError
from finetune_gateway.settings import interpreter
from finetune_gateway.settings.process_limits import end_after, limit_memory
from finetune_gateway.text.quoting import json_type

if TYPE_CHECKING:
    import jsonschema_rs

Json = dict[str, Any]

SECONDS = 2.0  # of its own time, for one value; starting takes 0.2
WAIT = 60.0  # seconds on the clock, where the system cannot end a process by its own time
MEMORY = 1 << 30  # bytes of address space
MOST_ENDED = 3  # values that took too long, after which a schema is given up
LOST = (
    5.0  # seconds, and a tenth of this process's own, that values of all schemas may take in vain
)
PARTS = 1_000  # of a schema with its references written out, that are judged at once
STEPS = 1_000_000  # parts of the schema times parts of the value
STEPS_BACK = 100_000  # of a pattern with look-around, for one text: 5 ms
ENDLESS = ("$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems")
_LISTS = frozenset({"enum", "required", "examples", "type"})  # of values, not of schemas
_KEPT = 100  # compiled schemas in the other process
# What the library says of a mismatch that is no schema itself.
_SAID = frozenset({
    "expected_value", "limit", "multiple_of", "options", "pattern", "property", "types",
    "unexpected",
})  # fmt: skip


class TooCostly(SpecError):
    """A value takes too long to judge: it neither fits nor does it not."""


class Mismatch(NamedTuple):
    """The first thing in a value that does not fit its schema.

    ``kind``: the library's name of it, such as ``Required``; ``values``: what it says of it;
    ``given``: the type of the value there.
    """

    path: tuple[str | int, ...]
    kind: str
    values: Json
    given: str
    message: str

    def __str__(self) -> str:
        path = ".".join(map(str, self.path))
        return f"{path}: {self.message}" if path else self.message


Matcher: TypeAlias = Callable[[Any], Mismatch | None]
Validator: TypeAlias = "jsonschema_rs.Validator"


def schema_judge(schema: Any) -> Callable[[Any], str]:
    """Return a function that says in words what of a value does not fit a JSON Schema; "" if it
    fits. It raises TooCostly. Raises SpecError for a schema that is none."""
    judge = schema_matcher(schema)

    def in_words(value: Any) -> str:
        found = judge(value)
        return str(found) if found else ""

    return in_words


def schema_matcher(schema: Any, *, look_around: bool = False) -> Matcher:
    """Return a function that finds what of a value does not fit a JSON Schema; None if it fits.

    It raises TooCostly. ``look_around``: patterns may have look-around and back-references, at
    most 100,000 steps for each text. Raises SpecError for a schema that is none.
    """
    here, apart = _matcher(schema, look_around), _Apart(schema, look_around).match
    # Counted with the first value: most tools of a file are offered, and not called.
    parts = cache(lambda: _parts_written_out(schema))

    def match(value: Any) -> Mismatch | None:
        small = parts() <= PARTS and _is_small(value, STEPS // parts())
        return here(value) if small else apart(value)

    return match


def _matcher(schema: Any, look_around: bool) -> Matcher:
    import jsonschema_rs

    validator = compiled(schema, look_around=look_around)

    def match(value: Any) -> Mismatch | None:
        try:
            validator.validate(value)  # iter_errors makes all 100,000 before it yields one
        except jsonschema_rs.ValidationError as exc:
            certain = _is_certain(exc) or filter(_is_certain, validator.iter_errors(value))
            error = exc if certain is True else next(iter(certain), None)
            return _mismatch(error, value) if error else None
        except UnicodeEncodeError:  # half a surrogate pair
            return match(_encodable(value))
        except ValueError as exc:  # deeper than it reads
            return Mismatch((), "Depth", {}, json_type(value), str(exc))
        return None

    return match


def compiled(schema: Any, *, look_around: bool = False) -> Validator:
    """Return the compiled schema. Raises SpecError for one that is none, or that needs another
    document. ``look_around``: as draft 2020-12 whatever it says, without formats."""
    # Imported here: only tools, and answers in JSON, need it.
    import jsonschema_rs

    try:
        if look_around:
            return jsonschema_rs.Draft202012Validator(
                schema,
                retriever=_fetch_nothing,
                pattern_options=jsonschema_rs.FancyRegexOptions(backtrack_limit=STEPS_BACK),
                validate_formats=False,
            )
        return jsonschema_rs.validator_for(
            schema, retriever=_fetch_nothing, pattern_options=jsonschema_rs.RegexOptions()
        )
    except (ValueError, jsonschema_rs.ReferencingError) as exc:
        why = str(exc).partition("\n")[0]
        raise SpecError(
            f"This JSON Schema cannot be used: {why}.",
            hint="Patterns have no look-around and no back-references, and nothing is fetched.",
        ) from None


def without_target(schema: Json, references: Iterable[str]) -> set[str]:
    """Return the references that mean no part of this schema, if the rest of it can be read."""
    import jsonschema_rs

    base, outside = "ftg:///schema", {"$comment": "another document"}
    try:
        documents = jsonschema_rs.Registry([(base, schema)], retriever=lambda uri: outside)
        resolver = documents.resolver(base)
    except (ValueError, jsonschema_rs.ReferencingError):
        return set()

    def has_target(reference: str) -> bool:
        try:
            return bool(resolver.lookup(reference).contents != outside)
        except (ValueError, jsonschema_rs.ReferencingError):
            return False

    return {reference for reference in references if not has_target(reference)}


def _fetch_nothing(uri: str) -> Any:
    raise ValueError(f"{uri} is another document")


def _is_certain(error: jsonschema_rs.ValidationError) -> bool:
    """Return False for a pattern that took too many steps."""
    return type(error.kind).__name__ not in ("BacktrackLimitExceeded", "RegexEngineFailure")


def _mismatch(error: jsonschema_rs.ValidationError, value: Any) -> Mismatch:
    kind, path = error.kind, tuple(error.instance_path)
    name = type(kind).__name__
    values = {key: one for key, one in kind.as_dict().items() if key in _SAID}
    if isinstance(forms := getattr(kind, "context", None), list):
        values["forms"] = len(forms)
    if isinstance(wrong := getattr(getattr(kind, "error", None), "instance", None), str):
        values["property"] = wrong  # of propertyNames
    for step in path:
        value = value[step]
    if name == "FalseSchema" and error.schema_path[-1:] == ["additionalProperties"]:
        name, values["unexpected"] = "AdditionalProperties", [*value][:1]
    return Mismatch(path, name, values, json_type(value), error.message)


def _encodable(value: Any) -> Any:
    return json.loads(json.dumps(value, ensure_ascii=False).encode(errors="replace"))


# -- what a schema may cost ------------------------------------------------------------------


def _parts_written_out(schema: Any) -> int:
    """Return the number of parts of a schema, references written out; more than PARTS unless
    judging is sure to take few steps for each part of a value."""
    try:
        return sum(1 for _ in islice(_parts(schema, schema, ()), PARTS + 1))
    except (LookupError, ValueError, RecursionError):
        return PARTS + 1


def _parts(part: Any, root: Any, inside: tuple[str, ...]) -> Iterator[Any]:
    """Yield each object and list of a schema, references written out. Raises LookupError for what
    may not end. ``inside``: the references that led here."""
    yield part
    if isinstance(part, list):
        for one in part:
            if isinstance(one, dict | list):
                yield from _parts(one, root, inside)
        return
    for key, value in part.items() if isinstance(part, dict) else ():
        if key in ENDLESS and not (key[0] == "$" and isinstance(value, dict)):
            raise LookupError(key)
        if key == "$ref" and isinstance(value, str):  # else a property of that name
            if value in inside:
                raise LookupError(value)
            yield from _parts(_target(value, root), root, (*inside, value))
        elif key in ("$defs", "definitions") or (key in _LISTS and isinstance(value, list)):
            continue
        elif isinstance(value, dict | list):
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


def _is_small(value: Any, most: int) -> bool:
    """Return True if a value has at most so many parts."""
    rest = [value]
    while rest and most > 0:
        part = rest.pop()
        if isinstance(part, dict | list):
            rest += part.values() if isinstance(part, dict) else part
            most -= len(part)
    return most > 0


# -- in a process of its own -----------------------------------------------------------------


class _Apart:
    """Judges values by one schema in the other process."""

    def __init__(self, schema: Any, look_around: bool) -> None:
        self.schema = schema
        self.look_around = look_around
        self.request: Json = {}
        self.ended = 0

    def match(self, value: Any) -> Mismatch | None:
        """Return what of a value does not fit; None if it fits. Raises TooCostly."""
        if self.ended >= MOST_ENDED:
            raise TooCostly(f"too long to judge by its schema, as {self.ended} before it")
        if _process.lost > LOST + time.process_time() / 10:
            raise TooCostly("too long to judge by its schema, as many before it")
        if not self.request:
            self.request = {"schema": json.dumps(self.schema), "look_around": self.look_around}
        try:
            request = json.dumps({**self.request, "value": value, "seconds": SECONDS})
        except RecursionError:
            return Mismatch((), "Depth", {}, json_type(value), "it is nested too deep")
        line = _process.ask(request.encode())
        if not line:
            self.ended += 1
            limit = f"{SECONDS:.0f} s or {MEMORY >> 30} GB"
            raise TooCostly(f"more than {limit} to judge by its schema")
        answer = json.loads(line)
        return Mismatch(tuple(answer[0]), *answer[1:]) if answer else None


class _Process:
    """A process that judges one value after another, and a new one where it was ended."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # By the process that started it: a fork has one of its own.
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        self.lost = 0.0  # seconds

    def ask(self, request: bytes) -> bytes:
        """Return its answer, a line; empty if it took too long."""
        with self.lock:
            process = self._start()
            clock = threading.Timer(WAIT, process.kill)
            clock.start()
            try:
                assert process.stdin and process.stdout  # for the type checker: they are pipes
                process.stdin.write(request + b"\n")
                process.stdin.flush()
                line = process.stdout.readline()
            except OSError:
                line = b""
            except BaseException:  # Ctrl-C: its answer must not be taken for that of another
                self.end()
                raise
            finally:
                clock.cancel()
                clock.join()  # a process with a second thread cannot be forked
            if line:
                return line
            self.lost += SECONDS
            self.end()
        return b""

    def _start(self) -> subprocess.Popen[bytes]:
        process = self.running.get(os.getpid())
        if process is None:
            process = self.running[os.getpid()] = subprocess.Popen(
                interpreter.call(__name__, serve.__name__),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        return process

    def end(self) -> None:
        """End the process that this one has started, if any."""
        process = self.running.pop(os.getpid(), None)
        if process is None:
            return
        process.kill()
        with suppress(OSError):
            process.communicate()


_process = _Process()
atexit.register(_process.end)


def serve() -> None:
    """Answer requests of ``_Apart``, a line each, with what does not fit."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends this one
    limit_memory(MEMORY)
    judges: dict[str, Matcher] = {}
    for line in sys.stdin.buffer:
        request = json.loads(line)
        end_after(request["seconds"])
        schema = request["schema"]
        if schema not in judges:
            if len(judges) >= _KEPT:
                judges.clear()
            judges[schema] = _matcher(json.loads(schema), request["look_around"])
        answer = judges[schema](request["value"])
        end_after(0)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
