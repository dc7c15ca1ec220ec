"""Asks several hosts side by side, again and again: one that does not answer holds up no other."""

from __future__ import annotations

import heapq
import math
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty, SimpleQueue
from typing import Generic, Protocol, TypeVar

from finetune_gateway.settings.deadlines import TICK_SECONDS, Deadline

THREADS = 16  # groups that are asked at the same time


class Group(Protocol):
    """What is asked at once: the jobs of one host."""

    @property
    def hosted(self) -> bool: ...


G = TypeVar("G", bound=Group)
A = TypeVar("A")


class Passes(Generic[G, A]):
    """Runs the passes of all groups. ``ask`` makes one; ``after`` says in how many seconds the next
    one of a group is due, or None for no other.

    Each group is asked in a thread of its own if the passes can end before their answers, and each
    hosted one if there are several; ``after`` is called in the caller's thread. Ends with the
    deadline, whatever still runs: threads end with the process.
    """

    def __init__(
        self,
        groups: list[G],
        ask: Callable[[G, Deadline], A],
        after: Callable[[G, A], float | None],
        deadline: Deadline,
    ) -> None:
        self.ask = ask
        self.after = after
        self.deadline = deadline
        self.alone = len(groups) == 1
        self.until = deadline.end  # the end of the passes that run
        self.running: list[G] = []
        self.started = len(groups)
        self.due = [(0.0, place, group) for place, group in enumerate(groups)]  # a heap
        self.answers: SimpleQueue[tuple[G, A | BaseException] | Callable[[], object]]
        self.answers = SimpleQueue()

    @property
    def ended(self) -> bool:
        """True if there is nothing to ask, to receive, or to call."""
        return not (self.due or self.running) and self.answers.empty()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function between two answers, in the thread of ``run``; from any thread."""
        self.answers.put(function)

    def add(self, group: G, pause: float) -> None:
        """Ask a group too, in so many seconds, or sooner if it waits for its turn already; one that
        is being asked is asked again after its answer. In the thread of ``run``."""
        due, waits = time.monotonic() + pause, [one for one in self.due if one[2] is group]
        if group in self.running or (waits and waits[0][0] <= due):
            return
        self.drop(group)
        self.started += 1
        heapq.heappush(self.due, (due, self.started, group))

    def first(self, group: G) -> None:
        """Ask a group for the first time, however short the time is. In the thread of ``run``."""
        self.started += 1
        self.alone = self.alone and not self.due
        heapq.heappush(self.due, (0.0, self.started, group))

    def drop(self, group: G) -> None:
        """Let a group that waits for its turn not be asked. In the thread of ``run``."""
        self.due = [one for one in self.due if one[2] is not group]
        heapq.heapify(self.due)

    def run(self) -> None:
        while not self.ended and not self.deadline.stopped:
            self._start_due()
            try:
                answered = self.answers.get(timeout=self._seconds())
            except Empty:
                if self.deadline.over and time.monotonic() >= self.until:
                    return
                continue
            if callable(answered):
                answered()
                continue
            group, answer = answered
            self.running.remove(group)
            if isinstance(answer, BaseException):
                raise answer
            if (pause := self.after(group, answer)) is not None:
                self.started += 1
                heapq.heappush(self.due, (time.monotonic() + pause, self.started, group))

    def _start_due(self) -> None:
        while self._is_due:
            group = heapq.heappop(self.due)[2]
            self.running.append(group)
            if self.deadline.bounded or (group.hosted and not self.alone):
                self.until = self.deadline.end_of_call()
                self.deadline.begin(partial(self._ask_beside, group))
            else:
                self.answers.put((group, self.ask(group, self.deadline)))

    @property
    def _is_due(self) -> bool:
        """True if a group can be asked now. Each is once, however short the time."""
        if not self.due or len(self.running) == THREADS:
            return False
        moment = self.due[0][0]
        return moment <= time.monotonic() and (moment == 0.0 or not self.deadline.over)

    def _ask_beside(self, group: G) -> None:
        try:
            self.answers.put((group, self.ask(group, self.deadline)))
        except BaseException as exc:  # raised again in the caller's thread
            self.answers.put((group, exc))

    def _seconds(self) -> float | None:
        """Return how long to wait for an answer: until a pass is due, or until the deadline."""
        ends = [self.until if self.running else self.deadline.end]
        if self.due and len(self.running) < THREADS:
            ends.append(self.due[0][0])
        left = max(0.0, min(ends) - time.monotonic())
        if self.deadline.stop is not None:
            return min(left, TICK_SECONDS)
        return None if left == math.inf else min(left, threading.TIMEOUT_MAX)
