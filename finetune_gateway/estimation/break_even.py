"""Find the volumes at which one way of serving costs less than another.

Pure arithmetic. Your own machine costs the same busy or idle, and a full one needs a second: its
cost rises in steps and can cross the straight line of a host more than once.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from itertools import count, islice
from math import ceil, floor
from typing import NamedTuple

from pydantic import ConfigDict, Field, computed_field

from finetune_gateway.model import Computing, Model


class Curve(Model):
    """USD a month as a function of requests a month.

    ``capacity``: requests one machine can serve; beyond it another one is added for ``fixed`` USD.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    fixed: Decimal = Decimal(0)
    per_request: Decimal = Decimal(0)
    capacity: int | None = None

    def machines(self, requests: int) -> int:
        return 1 if self.capacity is None else max(1, -(-requests // self.capacity))

    def at(self, requests: int) -> Decimal:
        return self.machines(requests) * self.fixed + requests * self.per_request


def two_digits(volume: int) -> str:
    """Return a volume with the two digits that an estimate can tell, such as 1,200,000."""
    return f"{int(float(f'{volume:.1e}')):,}" if volume >= 100 else str(volume)


class VolumeRange(Model):
    """Requests a month from ``first`` to ``last``, both included; ``last`` None: without an end.

    ``gpus``: machines running at ``last``, or at ``first`` of a range without an end; None if they
    are paid by the hour of work.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    first: int
    last: int | None
    gpus: int | None

    def __str__(self) -> str:
        first = two_digits(self.first)
        if self.last is None:
            return f"from {first}"
        last = two_digits(self.last)
        return f"at {first}" if last == first else f"from {first} up to {last}"

    @property
    def needs(self) -> str:
        """Return ``2 GPUs``; empty if they are not counted."""
        return f"{self.gpus:,} GPU{'' if self.gpus == 1 else 's'}" if self.gpus else ""


class BreakEvenRange(Model):
    """The volumes at which one way costs less: the first two ranges, and the last one."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    spans: tuple[VolumeRange, ...] = Field(min_length=1)
    left_out: bool = False  # there are more between the second and the last, or endlessly many

    @property
    def first(self) -> int:
        """Return the fewest requests a month."""
        return self.spans[0].first

    @property
    def always_from(self) -> int | None:
        """Return the volume from which it is always cheaper; None if there is none."""
        return self.spans[-1].first if self.spans[-1].last is None else None

    @property
    def always(self) -> bool:
        return self.always_from == 1

    def words(self) -> str:
        """Return ``from 9 up to 12 requests a month, which 1 GPU serves; for good from 18``."""
        if self.always:
            return "at every volume"
        start = self.spans[0]
        parts = [_up_to(start, " requests a month")]
        if start.gpus and start.last:
            parts[0] += f", which {start.needs} serve{'s' if start.gpus == 1 else ''}"
        for place, span in enumerate(self.spans[1:], start=2):
            if place == 3 and self.left_out:
                parts.append("and so on")
            how = "again" if place == 2 else "last"
            how = how if span.last else "for good"
            parts.append(f"{how} {span}" + (f", with {span.needs}" if span.gpus else ""))
        if len(self.spans) == 2 and self.left_out:
            parts.append("and so on without end")
        return "; ".join(parts)

    def brief(self) -> str:
        """Return ``from 9 up to 12, for good from 18``."""
        if self.always:
            return "at every volume"
        first = _up_to(self.spans[0])
        if len(self.spans) == 1:
            return first
        if self.always_from:
            return f"{first}, for good from {two_digits(self.always_from)}"
        return f"{first}, and again beyond"


def _up_to(span: VolumeRange, unit: str = "") -> str:
    text = f"up to {two_digits(span.last)}" if span.first == 1 and span.last else str(span)
    return text + unit


class BreakEven(Computing):
    """The requests a month at which ``own`` costs less than ``hosted``, for the low, expected and
    high cost of your own GPU; None if it never does: a full GPU costs more per request than the
    host."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    own: str
    hosted: str
    low: BreakEvenRange | None
    expected: BreakEvenRange | None
    high: BreakEvenRange | None

    @property
    def answer(self) -> str:
        """Return the expected volumes in words, and those at the high cost if they differ."""
        if self.expected is None:
            return f"{self.own} is not cheaper than {self.hosted} at any volume."
        most = self.high.brief() if self.high else "never"
        same = self.high is not None and most == self.expected.brief()  # in two digits
        high = "" if same else f" With the high estimate of its cost: {most}."
        return f"{self.own} is cheaper than {self.hosted} {self.expected.words()}.{high}"

    @computed_field  # type: ignore[prop-decorator]  # pydantic's own way, mypy#1362
    @property
    def text(self) -> str:
        """Return the same in words."""
        if self.expected is None:
            low = self.low
            also = f"; with the low estimate of its cost {low.brief()}." if low else "."
            return f"{self.answer.removesuffix('.')}{also}"
        if self.low is not None and self.low.brief() == self.expected.brief():
            return self.answer
        least = self.low.brief() if self.low else "never"
        return f"{self.answer} With the low one: {least}."


def find_break_even(own: Curve, hosted: Curve) -> BreakEvenRange | None:
    """Return the volumes at which ``own`` costs less than ``hosted``, which has no capacity limit;
    None if there are none."""
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
    """Own cost minus the host's, exact: machines x ``fixed`` - ``fee`` - requests x ``each``."""

    fixed: Fraction
    fee: Fraction
    each: Fraction
    capacity: int | None

    def at(self, requests: int) -> Fraction:
        machines = -(-requests // self.capacity) if self.capacity else 1
        return machines * self.fixed - self.fee - requests * self.each

    def reach(self, machines: int) -> int:
        """Return the fewest requests at which this many machines cost less than the host."""
        return max(1, floor((machines * self.fixed - self.fee) / self.each) + 1)

    def crossing(self) -> BreakEvenRange:
        """Return the range for one machine that is never full: cheaper from some volume on."""
        return BreakEvenRange(spans=(VolumeRange(first=self.reach(1), last=None, gpus=None),))

    def falling(self) -> BreakEvenRange | None:
        """Return the range if a request costs at least the host's: cheaper up to some volume."""
        if self.at(1) >= 0:
            return None
        if self.each == 0 and (self.capacity is None or self.fixed == 0):
            return BreakEvenRange(
                spans=(VolumeRange(first=1, last=None, gpus=self.capacity and 1),)
            )
        if self.each:
            high = ceil(self.fee / -self.each)
        else:
            high = (self.capacity or 1) * ceil(self.fee / self.fixed)
        low = 1  # cheaper here, and not at ``high``
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.at(middle) < 0 else (low, middle)
        gpus = -(-low // self.capacity) if self.capacity else None
        return BreakEvenRange(spans=(VolumeRange(first=1, last=low, gpus=gpus),))

    def stepping(self) -> BreakEvenRange | None:
        """Return the ranges if each request saves money and each machine costs some.

        The gap falls between two steps, so machine k is cheaper from where it has paid for itself
        until it is full, if ever.
        """
        assert self.capacity is not None
        lost = self.fixed - self.each * self.capacity  # per full machine
        start = self.at(1)
        if (
            lost < 0
        ):  # each step is smaller than the fall before it, so there is a last range that ends
            good = max(1, floor(start / -lost) + 1)
            last = VolumeRange(first=self.reach(good), last=None, gpus=good)
            return self._list_ranges(range(1, good), last)
        if start < 0 and lost == 0:
            return BreakEvenRange(spans=(VolumeRange(first=1, last=None, gpus=1),))
        if lost == 0:
            return self._list_ranges(None) if self.fee else None
        merged = max(0, ceil(-start / lost))  # machines that are cheaper from their first request
        full = ceil(self.fee / lost) - 1  # machines that are cheaper once full
        head = [VolumeRange(first=1, last=merged * self.capacity, gpus=merged)] if merged else []
        return self._list_ranges(range(merged + 1, full + 1), head=head)

    def _list_ranges(
        self,
        machines: range | None,
        last: VolumeRange | None = None,
        head: Sequence[VolumeRange] = (),
    ) -> BreakEvenRange | None:
        """Return the first two ranges and the last; ``machines`` None: endlessly many."""
        numbers = count(1) if machines is None else machines
        spans = [*head, *(self._full(k) for k in islice(numbers, 2 - len(head)))]
        if machines is None:
            return BreakEvenRange(spans=tuple(spans), left_out=True)
        total = len(head) + len(machines)
        if total > 2 and last is None:
            spans.append(self._full(machines[-1]))
        if last is not None:
            spans.append(last)
        left_out = total > 2 + (last is None)
        return BreakEvenRange(spans=tuple(spans), left_out=left_out) if spans else None

    def _full(self, machines: int) -> VolumeRange:
        assert self.capacity is not None
        return VolumeRange(first=self.reach(machines), last=machines * self.capacity, gpus=machines)
