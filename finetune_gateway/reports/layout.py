"""What all pages share: the document, its colours, tiles, tables, the marks of an axis.

Knows HTML; knows nothing of what a page shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

# The policy says so to the browser too: nothing is fetched, no script runs.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --text: #1b1f24; --soft: #59636e;
  --line: #d5dae0; --card: #f5f7f9; --good: #16734a; --bad: #b3261e; --wide: 60rem }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --text: #e8ebee;
  --soft: #a0a9b4; --line: #363d46; --card: #1d2228; --good: #5fca98; --bad: #ff8a80 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: var(--wide); padding: 1.5rem 1rem 3rem;
  background: var(--ground); color: var(--text); font: 16px/1.5 system-ui, sans-serif;
  overflow-wrap: anywhere }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem } h3 { font-size: 1rem; margin: .8rem 0 .3rem }
p { margin: .4rem 0 } .soft { color: var(--soft) } code { font: .86em ui-monospace, monospace }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .75rem;
  margin: 1.2rem 0 } .tile { background: var(--card); border-radius: 8px; padding: .7rem .9rem }
.tile b { display: block; font-size: 1.35rem; font-weight: 650 }
.tile span { color: var(--soft); font-size: .875rem }
svg { display: block; width: 100%; height: auto } .narrow { display: none }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif } .grid { stroke: var(--line) }
table { border-collapse: collapse; width: 100%; font-size: .93rem }
th, td { text-align: left; vertical-align: top; padding: .45rem .6rem .45rem 0;
  border-bottom: 1px solid var(--line) } th { font-weight: 600 }
thead th { color: var(--soft); font-weight: 500; font-size: .85rem }
.facts th { width: 13rem; font-weight: 500; color: var(--soft) }
summary { cursor: pointer; margin: .8rem 0 }
@media (max-width: 40rem) { .tile b { font-size: 1.1rem }
  .wide { display: none } .narrow { display: block }
  .stack thead { display: none } .stack tr { display: block; padding: .6rem 0;
  border-bottom: 1px solid var(--line) } .stack td, .facts th, .facts td { display: block;
  width: auto; border: 0; padding: .1rem 0 } .stack td::before { content: attr(data-name);
  display: block; color: var(--soft); font-size: .8rem } .facts tr { display: block;
  padding: .35rem 0; border-bottom: 1px solid var(--line) } }
"""


def document(title: str, style: str, body: str) -> str:
    """The whole file: ``body`` and ``style`` are HTML and CSS already, the title is not."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def tiles(figures: Iterable[tuple[str, str]]) -> str:
    """Large figures, each over a word on what it is."""
    filled = [
        f'<div class="tile"><b>{escape(figure)}</b><span>{escape(word)}</span></div>'
        for figure, word in figures
    ]
    return f'<div class="tiles">{"".join(filled)}</div>'


def facts(pairs: Iterable[tuple[str, str]]) -> str:
    """Names and values, a row each."""
    rows = [f'<tr><th scope="row">{escape(n)}</th><td>{escape(v)}</td></tr>' for n, v in pairs]
    return f'<table class="facts">{"".join(rows)}</table>'


def table(kind: str, head: Sequence[str], rows: Iterable[Sequence[str]], caption: str = "") -> str:
    """A table of cells that are HTML already. On a narrow screen each cell says its column."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    lines = []
    for row in rows:
        cells = zip(head, row, strict=True)
        filled = [f'<td data-name="{escape(name)}">{cell}</td>' for name, cell in cells]
        lines.append(f"<tr>{''.join(filled)}</tr>")
    named = f"<caption>{escape(caption)}</caption>" if caption else ""
    top = f"{named}<thead><tr>{heads}</tr></thead>"
    return f'<table class="{kind}">{top}<tbody>{"".join(lines)}</tbody></table>'


def ticks(highest: int, about: int) -> list[int]:
    """Round figures from 0 to at most ``highest``, about so many, apart by 1, 2 or 5."""
    rough = max(1.0, highest / max(1, about))
    power = int(10 ** math.floor(math.log10(rough)))
    apart = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
    return list(range(0, highest + 1, apart))
