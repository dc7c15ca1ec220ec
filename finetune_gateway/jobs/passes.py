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

    def close(self) -> None: ...


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
        self.running = 0
        self.started = len(groups)
        self.due = [(0.0, place, group) for place, group in enumerate(groups)]  # a heap
        self.answers: SimpleQueue[tuple[G, A | BaseException]] = SimpleQueue()

    def run(self) -> None:
        while (self.due or self.running) and not self.deadline.stopped:
            self._start_due()
            try:
                group, answer = self.answers.get(timeout=self._seconds())
            except Empty:
                if self.deadline.over and time.monotonic() >= self.until:
                    return
                continue
            self.running -= 1
            if isinstance(answer, BaseException):
                raise answer
            if (pause := self.after(group, answer)) is not None:
                self.started += 1
                heapq.heappush(self.due, (time.monotonic() + pause, self.started, group))

    def _start_due(self) -> None:
        while self._is_due:
            group = heapq.heappop(self.due)[2]
            self.running += 1
            if self.deadline.bounded or (group.hosted and not self.alone):
                self.until = self.deadline.end_of_call()
                self.deadline.begin(partial(self._ask_beside, group))
            else:
                self.answers.put((group, self.ask(group, self.deadline)))

    @property
    def _is_due(self) -> bool:
        """True if a group can be asked now. Each is once, however short the time."""
        if not self.due or self.running == THREADS:
            return False
        moment = self.due[0][0]
        return moment <= time.monotonic() and (moment == 0.0 or not self.deadline.over)

    def _ask_beside(self, group: G) -> None:
        try:
            try:
                answer = self.ask(group, self.deadline)
            finally:
                group.close()
            self.answers.put((group, answer))
        except BaseException as exc:  # raised again in the caller's thread
            self.answers.put((group, exc))

    def _seconds(self) -> float | None:
        """Return how long to wait for an answer: until a pass is due, or until the deadline."""
        ends = [self.until if self.running else self.deadline.end]
        if self.due and self.running < THREADS:
            ends.append(self.due[0][0])
        left = max(0.0, min(ends) - time.monotonic())
        if self.deadline.stop is not None:
            return min(left, TICK_SECONDS)
        return None if left == math.inf else min(left, threading.TIMEOUT_MAX)
