"""The page of ``ftg preview --html``: one file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_gateway.reports import withheld
from finetune_gateway.reports.layout import render
from finetune_gateway.reports.output import format_count
from finetune_gateway.reports.preview_text import sequence_figures
from finetune_gateway.tokens.masks.preview import Preview, Sequence, Token
from finetune_gateway.tokens.token_text import visible

SHOWN = 20_000  # tokens of a sequence on the page; a browser takes 100,000 spans badly
BLOCK = "\u2584 "  # in the place of a token whose text is not shown
SPACES = frozenset("␣⇥␍⏎")  # signs of ``visible`` for whitespace


@dataclass(frozen=True, slots=True)
class TokenView:
    """A token: its pieces, each with a kind: "", space (a sign for it) or break (the sign of a
    line break, and one)."""

    classes: str
    title: str
    pieces: list[tuple[str, str]]
    on_new_line: bool  # the end of a message is over, and the next begins


@dataclass(frozen=True, slots=True)
class SequenceView:
    """What goes into the model at once, or one answer of a pair."""

    name: str
    counts: str
    tokens: list[TokenView]
    hidden: int  # tokens that are not shown


@dataclass(frozen=True, slots=True)
class RowView:
    """One row; ``prompt`` is what both answers of a pair begin with."""

    row: Preview
    notes: list[str]
    prompt: list[TokenView]
    sequences: list[SequenceView]


@dataclass(frozen=True, slots=True)
class PreviewPage:
    """What the page shows."""

    title: str
    models: list[str]
    answer: str
    notes: list[str]  # on every row; a row has its own beside
    rows: list[RowView]
    about_texts: str  # that nothing is masked, or that there are none


def page(name: str, rows: list[Preview], *, no_rows: bool = False) -> str:
    """Return the whole page. ``no_rows``: a block for each token instead of its text."""
    rows = [_without_texts(row) for row in rows] if no_rows else rows
    shown = [row for row in rows if row.ok]
    models = sorted({f"{row.model}, {row.encoding}" for row in shown})
    notes = (
        [note for note in shown[0].notes if all(note in row.notes for row in shown)]
        if shown
        else []
    )
    view = PreviewPage(
        f"Preview of {visible(name)}",
        models,
        _answer(rows),
        notes,
        [_row(row, notes) for row in rows],
        withheld.NO_TEXTS if no_rows else withheld.NOT_MASKED,
    )
    return render("preview.html", view)


def _without_texts(row: Preview) -> Preview:
    """Return a row of blocks, with the special tokens: what is trained, and how long it is."""
    sequences = [
        replace(one, tokens=[_block(token) for token in one.tokens]) for one in row.sequences
    ]
    findings = [withheld.finding_without_texts(one) for one in row.findings]
    return replace(row, sequences=sequences, findings=findings, notes=[])


def _block(token: Token) -> Token:
    return token if token.part == "special" else token._replace(id=None, text=BLOCK)


def _answer(rows: list[Preview]) -> str:
    """Return ``3 rows: 240 tokens, 31 of them trained; 1 row has an error``."""
    total, trained = sum(row.total for row in rows), sum(row.trained for row in rows)
    wrong = sum(not row.ok for row in rows)
    errors = f"; {format_count(wrong, 'row')} with an error" if wrong else ""
    tokens = f"{format_count(total, 'token')}, {trained:,} of them trained"
    return f"{format_count(len(rows), 'row')}: {tokens}{errors}"


def _row(row: Preview, notes: list[str]) -> RowView:
    prompt: list[TokenView] = []
    if row.is_pair:
        first = row.sequences[0]
        prompt = [*_tokens(first.tokens[: first.prompt][:SHOWN])]
    own = [note for note in row.notes if note not in notes]
    return RowView(row, own, prompt, [_sequence(one, row.limit) for one in row.sequences])


def _sequence(sequence: Sequence, limit: int | None) -> SequenceView:
    shown = sequence.tokens[sequence.prompt : sequence.prompt + SHOWN]
    hidden = sequence.total - sequence.prompt - len(shown)
    name = sequence.name.capitalize()
    return SequenceView(name, sequence_figures(sequence, limit), [*_tokens(shown)], hidden)


def _tokens(tokens: list[Token]) -> Iterator[TokenView]:
    after_special = False
    for place, token in enumerate(tokens):
        special = token.part == "special"
        yield TokenView(
            classes=_classes(token, place),
            title=_title(token),
            pieces=[*_pieces(token.visible, is_last=place == len(tokens) - 1)],
            on_new_line=special and after_special,
        )
        after_special = special


def _classes(token: Token, place: int) -> str:
    names = [
        "t",
        "one" if place % 2 else "",
        "special" if token.part == "special" else "",
        "cut" if token.truncated else "trained" if token.trained else "",
    ]
    return " ".join(filter(None, names))


def _title(token: Token) -> str:
    state = "cut off" if token.truncated else "trained" if token.trained else "read"
    id = "id not published" if token.id is None else f"id {token.id}"
    id = "" if token.text == BLOCK else id
    return ", ".join(filter(None, (id, visible(token.role or ""), token.part, state)))


def _pieces(text: str, is_last: bool) -> Iterator[tuple[str, str]]:
    """Split a text at signs for whitespace. The last token of all ends without a break."""
    start = 0
    for place, sign in enumerate(text):
        if sign in SPACES:
            if start < place:
                yield text[start:place], ""
            start = place + 1
            is_end = is_last and start == len(text)
            yield sign, "break" if sign == "⏎" and not is_end else "space"
    if start < len(text):
        yield text[start:], ""
