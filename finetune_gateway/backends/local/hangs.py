"""Workers that make no progress: of one that hangs or is stopped that is said, then it is killed.

A worker writes with its heartbeat when it made progress last, on a clock that all processes of this
run of the machine share, that stands still while it sleeps, and that nobody can set. In a step, it
is judged by how long steps take. What says not how far it is, such as the reading of a model, is
judged by the time and the bytes that its process uses. Imports nothing heavy.
"""

from __future__ import annotations

import signal
import sqlite3
import statistics
import time
from collections import deque
from dataclasses import dataclass

from finetune_gateway.backends.local.deaths import Death
from finetune_gateway.backends.local.line import LIVE
from finetune_gateway.settings import processes

HANG_SECONDS = 1800.0  # without progress, then a worker is killed; unless a setting says otherwise
USUAL_STEPS = 20  # whose median is what a step takes
SLOW, SLOW_SECONDS = 10, 60.0  # times as long as usual, and at least so long: that is said
SLOW_PHASE_SECONDS = 300.0  # the same where nobody knows what is usual
BUSY = 12  # times the bound, for a process that works and says not how far it is
BUSY_SHARE, BUSY_BYTES = 0.1, 50_000.0  # of a core, and bytes a second: more is work
SAMPLE_SECONDS = 5.0  # between two looks at what a process has used
LAST_WORDS_SECONDS = 1.0  # from the signal that lets it say where it is to SIGKILL
SAY_WHERE = signal.SIGUSR1
LIMITED = ("downloading ",)  # phases with limits of time of their own, which may wait for others


class Pulse:
    """What a worker keeps of its progress; another thread reads it."""

    def __init__(self) -> None:
        self.at = time.monotonic()
        self.phase = ""
        self.step: int | None = None
        self._began: float | None = None  # the step that is being made
        self._seconds: deque[float] = deque(maxlen=USUAL_STEPS)
        self._reported: float | None = None  # the lack of progress that was said
        self._seen = self.at

    def begin_phase(self, phase: str) -> None:
        self.phase = phase
        self._began = None
        self.advance()

    def advance(self) -> None:
        """Note some progress. A part of a step counts only as long as steps are not known."""
        if self._began is None or not self._seconds:
            self.at = time.monotonic()

    def step_begins(self) -> None:
        self.at = self._began = time.monotonic()

    def step_ends(self, step: int) -> None:
        now = time.monotonic()
        if self._began is not None:
            self._seconds.append(now - self._began)
        self._began, self.at, self.step = None, now, step

    @property
    def step_seconds(self) -> float | None:
        """What a step takes, as long as one is being made; None before the first has ended."""
        seconds = tuple(self._seconds)
        return statistics.median(seconds) if seconds and self._began is not None else None

    def news(self) -> str:
        """Return what to tell: each time without progress once, and of one in which not even
        this thread ran. Empty for most calls, which come every few seconds."""
        now, seen = time.monotonic(), self._seen
        self._seen = now
        if now - seen >= SLOW_SECONDS:
            return f"The worker was stopped, or got no time, for {now - seen:,.0f} s."
        said = slowness(now - self.at, self.step_seconds)
        if not said or self._reported == self.at:
            return ""
        self._reported = self.at
        return f"While {self.phase or 'starting'}: {said}."


def slowness(silent: float, step_seconds: float | None) -> str:
    """Return that there was no progress for so many seconds, if that is long."""
    if step_seconds is None:
        return f"no progress for {silent:,.0f} s" if silent >= SLOW_PHASE_SECONDS else ""
    if silent < max(SLOW_SECONDS, SLOW * step_seconds):
        return ""
    return f"no progress for {silent:,.0f} s, where a step takes {step_seconds:.3g} s"


def is_hung(
    silent: float, idle: float, bound: float, step_seconds: float | None = None, phase: str = ""
) -> bool:
    """Return True for a worker without progress for ``silent`` seconds, whose process has done
    nothing for ``idle`` of them. ``bound``: 0 for never."""
    if not bound:
        return False
    if step_seconds is not None:
        return silent >= max(bound, SLOW * step_seconds)
    return silent >= BUSY * bound or (idle >= bound and not phase.startswith(LIMITED))


@dataclass
class Seen:
    """What the dispatcher has seen of a worker."""

    fence: int
    began: float  # monotonic, as all others
    active_at: float
    sampled_at: float
    used: processes.Used | None = None
    ending_at: float | None = None  # when it was decided that it hangs

    def sample(self, pid: int, now: float) -> None:
        """Look at what the process has used since the last look."""
        used, before, passed = processes.used(pid), self.used, now - self.sampled_at
        self.used, self.sampled_at = used, now
        if used is None or before is None or passed <= 0:
            return
        share, rate = (used.seconds - before.seconds) / passed, (used.bytes - before.bytes) / passed
        if share >= BUSY_SHARE or rate >= BUSY_BYTES:
            self.active_at = now


class Watch:
    """The dispatcher's look at the progress of workers."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}

    def look(self, row: sqlite3.Row) -> str:
        """Return why the living worker of this row is to be ended; empty for most."""
        now = time.monotonic()
        seen = self.of(row, now)
        if now - seen.sampled_at >= SAMPLE_SECONDS:
            seen.sample(row["pid"], now)
        bound = HANG_SECONDS if row["hang_seconds"] is None else row["hang_seconds"]
        at = min(now, seen.began if row["progress_at"] is None else row["progress_at"])
        silent, idle = now - at, now - max(at, seen.active_at)
        if not is_hung(silent, idle, bound, row["step_seconds"], row["phase"]):
            seen.ending_at = None
            return ""
        stopped = processes.is_stopped(row["pid"], row["pid_start"])
        why = "it was stopped (SIGSTOP) and" if stopped else "it"
        return f"{why} made no progress for {silent:,.0f} s"

    def note(self, db: sqlite3.Connection, row: sqlite3.Row, reason: str) -> bool:
        """Store why a worker is ended; False if it has made progress, or ended, meanwhile. Where
        this cannot be written, its progress cannot be either, and it may be well."""
        death = Death(reason=reason, fence=row["fence"])
        noted = db.execute(
            "UPDATE runs SET death = ? WHERE id = ? AND fence = ? AND pid = ?"
            f" AND progress_at IS ? AND {LIVE}",
            (death.dump(), row["id"], row["fence"], row["pid"], row["progress_at"]),
        )
        return noted.rowcount == 1

    def end(self, row: sqlite3.Row) -> None:
        """Let a worker say where it is, and a moment later kill it."""
        now = time.monotonic()
        seen = self.of(row, now)
        if seen.ending_at is None:
            seen.ending_at = now
            processes.send(row["pid"], row["pid_start"], SAY_WHERE)
        elif now - seen.ending_at >= LAST_WORDS_SECONDS:
            processes.send(row["pid"], row["pid_start"], signal.SIGKILL)

    def of(self, row: sqlite3.Row, now: float) -> Seen:
        seen = self.seen.get(row["id"])
        if seen is None or seen.fence != row["fence"]:
            used = processes.used(row["pid"])
            seen = self.seen[row["id"]] = Seen(row["fence"], now, now, now, used)
        return seen

    def forget(self, live: set[str]) -> None:
        for name in self.seen.keys() - live:
            del self.seen[name]
