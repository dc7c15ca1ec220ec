"""The cost of a month over its requests, and at which volumes one way costs less than another.

Pure arithmetic. A machine of one's own is paid for whether it works or not, and a full one brings a
second: its line has steps, and crosses the line of a host more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import count, islice
from math import ceil, floor
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, computed_field


class Curve(BaseModel):
    """USD a month over requests a month. ``capacity``: requests one machine can take; another
    one, for ``fixed`` USD, is added beyond."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    fixed: Decimal = Decimal(0)
    per_request: Decimal = Decimal(0)
    capacity: int | None = None

    def machines(self, requests: int) -> int:
        return 1 if self.capacity is None else max(1, -(-requests // self.capacity))

    def at(self, requests: int) -> Decimal:
        return self.machines(requests) * self.fixed + requests * self.per_request


class Span(BaseModel):
    """Volumes, in requests a month, with both ends; ``last`` None: and all beyond.

    ``gpus``: machines always on at ``last``, or at ``first`` of a span without an end; None for
    those that are paid for by the hour of work.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    first: int
    last: int | None
    gpus: int | None

    def __str__(self) -> str:
        if self.last is None:
            return f"from {self.first:,}"
        if self.last == self.first:
            return f"at {self.first:,}"
        return f"from {self.first:,} up to {self.last:,}"

    @property
    def needs(self) -> str:
        """``2 GPUs``; empty where they are not counted."""
        return f"{self.gpus:,} GPU{'' if self.gpus == 1 else 's'}" if self.gpus else ""


class Cheaper(BaseModel):
    """Where a way costs less than another: the first two spans of volumes, and the last one."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    spans: tuple[Span, ...]
    left_out: bool = False  # spans between the second and the last, or without an end of them

    @property
    def first(self) -> int:
        """The fewest requests a month."""
        return self.spans[0].first

    @property
    def for_good(self) -> int | None:
        """The volume from which on it is cheaper at every one; None: there is none."""
        return self.spans[-1].first if self.spans[-1].last is None else None

    @property
    def always(self) -> bool:
        return self.for_good == 1

    def words(self) -> str:
        """``from 9 up to 12 requests a month, which 1 GPU holds; for good from 18, ...``."""
        if self.always:
            return "at every volume"
        start = self.spans[0]
        said = [_up_to(start, " requests a month")]
        if start.gpus and start.last:
            said[0] += f", which {start.needs} hold{'s' if start.gpus == 1 else ''}"
        for place, span in enumerate(self.spans[1:], start=2):
            if place == 3 and self.left_out:
                said.append("and so on")
            how = "again" if place == 2 else "last"
            how = how if span.last else "for good"
            said.append(f"{how} {span}" + (f", with {span.needs}" if span.gpus else ""))
        if len(self.spans) == 2 and self.left_out:
            said.append("and so on without an end")
        return "; ".join(said)

    def brief(self) -> str:
        """``from 9 up to 12, for good from 18``."""
        if self.always:
            return "at every volume"
        found = _up_to(self.spans[0])
        if len(self.spans) == 1:
            return found
        if self.for_good:
            return f"{found}, for good from {self.for_good:,}"
        return f"{found}, and again beyond"


def _up_to(span: Span, unit: str = "") -> str:
    text = f"up to {span.last:,}" if span.first == 1 and span.last else str(span)
    return text + unit


class BreakEven(BaseModel):
    """The requests a month at which ``own`` costs less than ``hosted``: at the low, the expected
    and the high cost of the own GPU; None where it never does, since a full GPU costs more per
    request than the host."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    own: str
    hosted: str
    low: Cheaper | None
    expected: Cheaper | None
    high: Cheaper | None

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way, mypy#1362
    @property
    def text(self) -> str:
        """The same in words."""
        if self.expected is None:
            found = f"{self.own} is not cheaper than {self.hosted} at any volume"
            return f"{found}; at its low cost {self.low.brief()}." if self.low else f"{found}."
        found = f"{self.own} is cheaper than {self.hosted} {self.expected.words()}."
        if self.low == self.high:
            return found
        low, high = (one.brief() if one else "never" for one in (self.low, self.high))
        return f"{found} At its low cost {low}; at its high cost {high}."


def cheaper(own: Curve, hosted: Curve) -> Cheaper | None:
    """The volumes at which ``own`` costs less than ``hosted``, whose machines hold any number;
    None: at none."""
    gap = _Gap(
        Fraction(own.fixed),
        Fraction(hosted.fixed),
        Fraction(hosted.per_request) - Fraction(own.per_request),
        own.capacity,
    )
    if gap.each <= 0:
        return gap.falling()
    return gap.stepping() if own.capacity else gap.crossing()


class _Gap(NamedTuple):
    """Own cost less the host's, exactly: machines x ``fixed`` - ``fee`` - requests x ``each``."""

    fixed: Fraction
    fee: Fraction
    each: Fraction
    capacity: int | None

    def at(self, requests: int) -> Fraction:
        machines = -(-requests // self.capacity) if self.capacity else 1
        return machines * self.fixed - self.fee - requests * self.each

    def reach(self, machines: int) -> int:
        """The fewest requests that pay for so many machines, full ones or not."""
        return max(1, floor((machines * self.fixed - self.fee) / self.each) + 1)

    def crossing(self) -> Cheaper:
        """One machine's fee is earned at some volume, and nothing is added later."""
        return Cheaper(spans=(Span(first=self.reach(1), last=None, gpus=None),))

    def falling(self) -> Cheaper | None:
        """Each request costs as much as at the host, or more: cheaper up to some volume."""
        if self.at(1) >= 0:
            return None
        if self.each == 0 and (self.capacity is None or self.fixed == 0):
            return Cheaper(spans=(Span(first=1, last=None, gpus=self.capacity and 1),))
        if self.each:
            high = ceil(self.fee / -self.each)
        else:
            high = (self.capacity or 1) * ceil(self.fee / self.fixed)
        low = 1  # cheaper here, and not at ``high``
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.at(middle) < 0 else (low, middle)
        gpus = -(-low // self.capacity) if self.capacity else None
        return Cheaper(spans=(Span(first=1, last=low, gpus=gpus),))

    def stepping(self) -> Cheaper | None:
        """Each request saves money, each machine costs some. Between two steps the gap falls, so
        machine k is cheaper from where it is earned until it is full, if it is at all."""
        assert self.capacity is not None
        lost = self.fixed - self.each * self.capacity  # by a full machine
        start = self.at(1)
        if lost < 0:  # every step is smaller than what went before it: one is the last that hurts
            good = max(1, floor(start / -lost) + 1)
            last = Span(first=self.reach(good), last=None, gpus=good)
            return self._listed(range(1, good), last)
        if start < 0 and lost == 0:
            return Cheaper(spans=(Span(first=1, last=None, gpus=1),))
        if lost == 0:
            return self._listed(None) if self.fee else None
        merged = max(0, ceil(-start / lost))  # machines whose first request is cheaper already
        full = ceil(self.fee / lost) - 1  # machines that are cheaper when they are full
        head = [Span(first=1, last=merged * self.capacity, gpus=merged)] if merged else []
        return self._listed(range(merged + 1, full + 1), head=head)

    def _listed(
        self, machines: range | None, last: Span | None = None, head: Sequence[Span] = ()
    ) -> Cheaper | None:
        """The first two and the last; ``machines`` None: without an end."""
        numbers = count(1) if machines is None else machines
        spans = [*head, *(self._full(k) for k in islice(numbers, 2 - len(head)))]
        if machines is None:
            return Cheaper(spans=tuple(spans), left_out=True)
        total = len(head) + len(machines)
        if total > 2 and last is None:
            spans.append(self._full(machines[-1]))
        if last is not None:
            spans.append(last)
        left_out = total > 2 + (last is None)
        return Cheaper(spans=tuple(spans), left_out=left_out) if spans else None

    def _full(self, machines: int) -> Span:
        assert self.capacity is not None
        return Span(first=self.reach(machines), last=machines * self.capacity, gpus=machines)
