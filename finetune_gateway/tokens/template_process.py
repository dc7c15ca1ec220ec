"""A process that renders one chat template, within a limit of time and memory.

A template is a program that comes with a model. A loop in it that never ends, or a text of ten
billion characters, must not hang what counts, previews or trains.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import threading
import time
import weakref
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.settings import interpreter, processes
from finetune_gateway.tokens import jinja_sandbox
from finetune_gateway.tokens.jinja_sandbox import Span

Json = dict[str, Any]

SECONDS = 5.0  # of its own time, for one conversation; a common one takes a thousandth
WAIT = 120.0  # seconds on the clock, where the system cannot end a process by its own time
MEMORY = 1 << 30  # bytes of address space
AT_ONCE = 16  # renderings per request: SECONDS are for these
LEAST = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "SYSTEMROOT", "PYTHONPATH")


@dataclass(frozen=True)
class Rendering:
    """A conversation as the template writes it; ``marked``: the spans of generation blocks."""

    text: str
    marked: tuple[Span, ...] = ()


class TemplateProcess:
    """Renders conversations by one template. Safe to use from several threads and after a fork."""

    def __init__(self, source: str, now: float | None = None) -> None:
        """``now``: seconds since the epoch that ``strftime_now`` tells; None is the clock's.

        Raises SpecError for a template that is no Jinja, or takes too long to read.
        """
        self._opening = {"source": source, "now": now, "seconds": SECONDS, "memory": MEMORY}
        self._locks: dict[int, threading.Lock] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0
        with self._lock:
            said = self._ask(None)
        self.variables = frozenset(said["variables"])  # that the template reads
        self.markup = tuple(said["markup"])  # what it looks for in the texts of messages

    @property
    def _lock(self) -> threading.Lock:
        """The lock of this process: that of a parent may have been held by a thread at the fork,
        and nothing here would ever release it."""
        return self._locks.setdefault(os.getpid(), threading.Lock())

    def render(
        self,
        messages: list[Json],
        tools: list[Json] | None,
        wanted: list[tuple[list[int], bool]],
        variables: Json,
    ) -> list[Rendering | str]:
        """Return each wanted rendering, or what the template said when it refused.

        ``wanted``: the indices of the messages, and True to open an answer after them. Raises
        SpecError for a template that takes too long or too much memory, GatewayError if its process
        was ended by something else.
        """
        made: list[Rendering | str] = []
        for start in range(0, len(wanted), AT_ONCE):
            some = wanted[start : start + AT_ONCE]
            request = {"messages": messages, "tools": tools, "wanted": some, "variables": variables}
            with self._lock:
                said = self._ask(request)
            made += [
                one if isinstance(one, str) else Rendering(one[0], tuple(map(tuple, one[1])))
                for one in said["texts"]
            ]
        return made

    def _ask(self, request: Json | None) -> Json:
        """Return the answer to a request; None asks for the first, to the template itself."""
        if self._process is None or self._pid != os.getpid():  # of this process, not its parent's
            self._start()
            first = self._exchange(self._opening)
            if "error" in first:
                raise _unreadable(first["error"])
            if request is None:
                return first
        assert request is not None
        reply = self._exchange(request)
        if "error" in reply:
            raise _unreadable(reply["error"])
        return reply

    def _start(self) -> None:
        # It ends with the process that asks, for which Ctrl-C and a shutdown are.
        with processes.holding_signals():
            process = subprocess.Popen(
                interpreter.call(jinja_sandbox.__name__, "serve"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                env={name: os.environ[name] for name in LEAST if name in os.environ},
            )
        self._process, self._pid = process, os.getpid()
        weakref.finalize(self, _end, process, self._pid)

    def _exchange(self, request: Json) -> Json:
        """Return the reply to a request. If that is interrupted (Ctrl-C), the process ends: its
        late reply would be taken for that to the next request."""
        try:
            self._write(request)
            return self._read()
        except BaseException:
            self._stop()
            raise

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _end(process, self._pid)

    def _write(self, request: Json) -> None:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: reading says how

    def _read(self) -> Json:
        assert self._process is not None and self._process.stdout is not None
        raw = _line(self._process.stdout.fileno())
        if raw is None:
            raise _ended(self._process.wait())
        reply: Json = json.loads(raw)
        return reply


@lru_cache(maxsize=4)
def template_process(source: str, now: float | None = None) -> TemplateProcess:
    """Return the process of a template; the last few are kept."""
    return TemplateProcess(source, now)


def _line(descriptor: int) -> bytes | None:
    """Return the next line; None if the process has ended. Raises SpecError if it has written none
    for a long time."""
    until, parts = time.monotonic() + WAIT, list[bytes]()
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while not parts or not parts[-1].endswith(b"\n"):
            if not selector.select(max(0.0, until - time.monotonic())):
                raise _too_much(f"{WAIT:.0f} s")
            part = os.read(descriptor, 1 << 20)
            if not part:
                return None
            parts.append(part)
    return b"".join(parts)


def _end(process: subprocess.Popen[bytes], pid: int) -> None:
    if pid != os.getpid():  # a fork: it is the parent's
        process.returncode = 0  # so that nothing here waits for it
        return
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:  # what was not read any more
                continue


def _ended(code: int) -> GatewayError:
    """Return the error of a process that ended with this code instead of an answer."""
    alarm = getattr(signal, "SIGPROF", None)  # its own: see process_limits
    if alarm is not None and code == -alarm:
        return _too_much(f"{SECONDS:.0f} s")
    names = {-number: number.name for number in signal.Signals}
    return GatewayError(
        "The process that renders the chat template was ended before it answered "
        f"({names.get(code, f'exit code {code}')}).",
        hint="Run it again. A system that has no memory left ends processes too (SIGKILL).",
    )


def _unreadable(said: str) -> SpecError:
    if said == "memory":
        return _too_much(f"{MEMORY >> 30} GiB of memory")
    return SpecError(f"The chat template cannot be read: {said}.", hint="Check its Jinja syntax.")


def _too_much(limit: str) -> SpecError:
    return SpecError(
        f"The chat template takes more than {limit} for one conversation.",
        hint="It was stopped. Use the template of another copy of the model: --chat-template FILE.",
    )
