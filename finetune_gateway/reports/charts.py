"""Pictures of figures as SVG in the page: columns, and bars in a table.

Knows figures; knows nothing of data or findings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from finetune_gateway.reports.layout import table, ticks

LEFT, RIGHT, BOTTOM = 52, 22, 40  # pixels around the picture, for the axes
ROW = 16  # pixels for the name of a line

STYLE = """
:root { --bar: #4a7fc1 } @media (prefers-color-scheme: dark) { :root { --bar: #6f9fdb } }
.bar { fill: var(--bar) } .middle { stroke: var(--text); stroke-dasharray: 5 3 }
.limit { stroke: var(--bad); stroke-width: 2 }
svg text.limit, svg text.middle { stroke: var(--ground); stroke-width: 4; stroke-dasharray: none;
  paint-order: stroke; fill: var(--text) } svg text.limit { fill: var(--bad) }
.bars svg { height: .9rem; margin-top: .3rem } .bars rect + rect { fill: none;
  stroke: var(--line) } .bars td:last-child { width: 35% }
.bars th:nth-child(n + 2):not(:last-child), .bars td:nth-child(n + 2):not(:last-child) {
  text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
"""

Bin = tuple[int, int, int]  # from, to (which belongs to it), how many


@dataclass(frozen=True, slots=True)
class Line:
    """A figure that is drawn across the columns."""

    value: float
    name: str
    kind: str = "middle"  # or limit


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where things stand in a picture of ``width`` by ``height`` pixels."""

    width: int
    height: int
    top: int
    bins: Sequence[Bin]

    @property
    def step(self) -> float:
        return (self.width - LEFT - RIGHT) / len(self.bins)

    @property
    def foot(self) -> int:
        return self.height - BOTTOM

    def x(self, value: float) -> float:
        """Columns are equally wide, whatever they span."""
        for place, (low, high, _) in enumerate(self.bins):
            if value <= high or place == len(self.bins) - 1:
                share = (value - low + 0.5) / (high - low + 1)
                return LEFT + self.step * (place + min(1.0, max(0.0, share)))
        return LEFT

    def y(self, count: float, highest: int) -> float:
        return self.foot - (self.foot - self.top) * count / highest


def columns(bins: Sequence[Bin], lines: Sequence[Line], *, across: str, up: str, label: str) -> str:
    """How many of what lie where, drawn twice: wide, and narrow with letters just as large."""
    if not bins:
        return ""
    return "\n".join(
        [
            _picture(
                _Frame(720, 300, 12 + ROW * len(lines), bins), lines, across, up, label, "wide"
            ),
            _picture(
                _Frame(340, 260, 12 + ROW * len(lines), bins), lines, across, up, label, "narrow"
            ),
        ]
    )


def _picture(
    frame: _Frame, lines: Sequence[Line], across: str, up: str, label: str, kind: str
) -> str:
    highest = max(1, *(count for _, _, count in frame.bins))
    drawn = [
        *_grid(frame, highest, across, up),
        *_bars(frame, highest),
        *_lines(frame, lines),
    ]
    return (
        f'<svg class="{kind}" viewBox="0 0 {frame.width} {frame.height}" role="img" '
        f'aria-label="{escape(label)}">{"".join(drawn)}</svg>'
    )


def _grid(frame: _Frame, highest: int, across: str, up: str) -> Iterator[str]:
    for count in ticks(highest, 4):
        y = frame.y(count, highest)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{frame.width - RIGHT}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(count)}</text>'
    edges = [low for low, _, _ in frame.bins] + [frame.bins[-1][1]]
    apart = max(1, -(-len(edges) * 46 // (frame.width - LEFT - RIGHT)))
    for place in range(0, len(edges), apart):
        x = LEFT + frame.step * place
        yield f'<path class="grid" d="M{x:.1f} {frame.foot}v4"/>'
        yield (
            f'<text x="{x:.1f}" y="{frame.foot + 17}" text-anchor="middle">'
            f"{short(edges[place])}</text>"
        )
    below = f'x="{(LEFT + frame.width - RIGHT) / 2:.0f}" y="{frame.height - 6}"'
    yield f'<text {below} text-anchor="middle">{escape(across)}</text>'
    turned = f"translate(11 {(frame.foot + frame.top) / 2:.0f}) rotate(-90)"
    yield f'<text transform="{turned}" text-anchor="middle">{escape(up)}</text>'


def _bars(frame: _Frame, highest: int) -> Iterator[str]:
    for place, (low, high, count) in enumerate(frame.bins):
        if count:
            # A single row among a million is still to be seen.
            height = max(1.5, frame.foot - frame.y(count, highest))
            span = f"{low:,}" if low == high else f"{low:,} to {high:,}"
            yield (
                f'<rect class="bar" x="{LEFT + frame.step * place + 0.5:.1f}" '
                f'y="{frame.foot - height:.1f}" width="{max(1.0, frame.step - 1):.1f}" '
                f'height="{height:.1f}"><title>{span}: {count:,}</title></rect>'
            )


def _lines(frame: _Frame, lines: Sequence[Line]) -> Iterator[str]:
    """The lines, then their names over them."""
    places = [(line, frame.x(line.value), 12 + ROW * at) for at, line in enumerate(lines)]
    for line, x, y in places:
        yield f'<path class="{line.kind}" d="M{x:.1f} {y - 8}V{frame.foot}"/>'
    for line, x, y in places:
        right = x > frame.width / 2
        yield (
            f'<text class="{line.kind}" x="{x + (-5 if right else 5):.1f}" y="{y}" '
            f'text-anchor="{"end" if right else "start"}">{escape(line.name)}</text>'
        )


def bars(
    head: tuple[str, ...], rows: Sequence[tuple[str, tuple[int, ...]]], whole: int, caption: str
) -> str:
    """Named figures in a table; the last of each is drawn as a share of ``whole``."""
    cells = []
    for name, figures in rows:
        share = min(1.0, figures[-1] / whole) if whole else 0.0
        drawn = (
            '<svg viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
            f'<rect class="bar" width="{share * 100:.2f}" height="8"/>'
            '<rect width="100" height="8"/></svg>'
        )
        cells.append([escape(name), *(f"{figure:,}" for figure in figures), f"{share:.1%}", drawn])
    return table("bars", (*head, "share", ""), cells, caption)


def short(value: float) -> str:
    """A figure in few letters: 950, 1.2k, 65.5k, 2M."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"
