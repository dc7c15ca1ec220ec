"""The page of ``ftg preview --html``: one file that loads nothing from anywhere."""

from __future__ import annotations

from html import escape

from finetune_gateway.findings import Finding
from finetune_gateway.reports.layout import document
from finetune_gateway.tokens.masks.preview import Preview, Sequence, Token
from finetune_gateway.tokens.token_text import visible

SHOWN = 20_000  # tokens of a sequence on the page; a browser takes 100,000 spans badly

STYLE = """
:root { --wide: 76rem; --one: #e8ecf1; --trained: #bfe8cd; --trained-one: #a5dcb8; --mark: #11653c }
@media (prefers-color-scheme: dark) { :root { --one: #272e37; --trained: #1d4a32;
  --trained-one: #28603f; --mark: #6fd79f } }
.soft, li { color: var(--soft); font-size: .92rem } ul { padding-left: 1.2rem; margin: .6rem 0 }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.2rem; margin: .8rem 0 }
.text { background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: .7rem .9rem; margin: .4rem 0; font: 14px/1.75 ui-monospace, monospace }
.t { unicode-bidi: isolate; border-radius: 3px; padding: .12em 0 }
.one { background: var(--one) } .special { color: var(--soft) }
.trained { background: var(--trained); border-bottom: 2px solid var(--mark) }
.trained.one { background: var(--trained-one) }
.cut { color: var(--bad); text-decoration: line-through; background: none }
.t:hover { outline: 2px solid var(--mark) } .w { color: var(--soft) }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 0 1rem }
@media (max-width: 48rem) { .pair { grid-template-columns: 1fr } }
.error { color: var(--bad); font-weight: 600 }
"""
LEGEND = (
    '<div class="legend"><span><span class="t trained">trained</span> carries a loss</span>'
    '<span><span class="t one">read</span> only read</span>'
    '<span><span class="t special">&lt;|special|&gt;</span> special token</span>'
    '<span><span class="t cut">cut off</span> never seen</span>'
    '<span class="soft">␣ space, ⏎ newline, &lt;0xE2&gt; a byte; hover a token for its id</span>'
    "</div>"
)
_SPACES = {sign: f'<span class="w">{sign}</span>' for sign in "␣⇥␍"} | {
    "⏎": '<span class="w">⏎</span><br>'
}


def page(name: str, rows: list[Preview]) -> str:
    """The whole file."""
    title = f"Preview of {visible(name)}"
    models = sorted({f"{row.model}, {row.encoding}" for row in rows if row.ok})
    body = [f"<h1>{escape(title)}</h1>", *(f"<p>{escape(model)}</p>" for model in models)]
    body += [LEGEND, *map(_row, rows)]
    return document(title, STYLE, chr(10).join(body))


def counts(sequence: Sequence, limit: int | None) -> str:
    """The figures of a sequence in words."""
    said = f"{sequence.total:,} tokens, {sequence.trained:,} trained"
    if sequence.truncated:
        said += f"; {sequence.truncated:,} cut off at {limit:,}"
    if sequence.truncated_trained:
        said += f", {sequence.truncated_trained:,} of them to be trained"
    return said if sequence.trained else f"{said}; nothing of it is learnt"


def _row(row: Preview) -> str:
    parts = [
        f'<h2 id="line-{row.line}">Line {row.line} <span class="soft">{row.format}</span></h2>'
    ]
    if len(row.sequences) == 2:
        parts.append(_pair(row.sequences[0], row.sequences[1], row.limit))
    else:
        parts += [_sequence(one, row.limit) for one in row.sequences]
    said = [*(escape(note) for note in row.notes), *map(_finding, row.findings)]
    parts.append(f"<ul>{''.join(f'<li>{one}</li>' for one in said)}</ul>" if said else "")
    return f"<section>{''.join(parts)}</section>"


def _finding(found: Finding) -> str:
    label = f'<span class="{found.severity}">{found.severity}</span> {escape(found.code)}'
    return f"{label}: {escape(found.message)} {escape(found.fix)}"


def _pair(chosen: Sequence, rejected: Sequence, limit: int | None) -> str:
    prompt = _text(chosen.tokens[: chosen.prompt])
    answers = "".join(f"<div>{_sequence(one, limit)}</div>" for one in (chosen, rejected))
    return f'<h3>Both begin with</h3>{prompt}<div class="pair">{answers}</div>'


def _sequence(sequence: Sequence, limit: int | None) -> str:
    name = f"<h3>{escape(sequence.name.capitalize())}</h3>" if sequence.name else ""
    shown = sequence.tokens[sequence.prompt : sequence.prompt + SHOWN]
    hidden = sequence.total - sequence.prompt - len(shown)
    more = f"<p>{hidden:,} tokens more are not shown here.</p>" if hidden > 0 else ""
    return f"{name}<p>{counts(sequence, limit)}</p>{_text(shown)}{more}"


def _text(tokens: list[Token]) -> str:
    spans, frame = "", False
    for place, token in enumerate(tokens[:SHOWN]):
        special = token.part == "special"
        spans += ("<br>" if frame and special else "") + _span(
            token, place, place == len(tokens) - 1
        )
        frame = special
    return f'<div class="text" dir="ltr">{spans}</div>'


def _span(token: Token, place: int, last: bool) -> str:
    words = [
        "t",
        *(["one"] if place % 2 else []),
        *(["special"] if token.part == "special" else []),
    ]
    words += ["cut"] if token.truncated else ["trained"] if token.trained else []
    state = "cut off" if token.truncated else "trained" if token.trained else "read"
    id = "id not published" if token.id is None else f"id {token.id}"
    title = ", ".join(part for part in (id, visible(token.role or ""), token.part, state) if part)
    text = escape(token.visible)
    for sign, shown in _SPACES.items():
        text = text.replace(sign, shown)
    text = text.removesuffix("<br>") if last else text
    # A place where a browser may break the line, since no space is left in the text.
    return f'<span class="{" ".join(words)}" title="{escape(title)}">{text}</span><wbr>'
