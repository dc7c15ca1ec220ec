"""``ftg preview``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.cells import cell_len

from finetune_gateway.cli.options import Data, Json, Quiet, default_backend, parse_settings
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports import output
from finetune_gateway.reports.output import apply_style, print_message, print_result, wrap_text
from finetune_gateway.reports.preview_page import counts, page
from finetune_gateway.reports.validation_text import findings_text
from finetune_gateway.tokens.masks.preview import Preview, Sequence, Token
from finetune_gateway.tokens.token_text import visible

HEAD, TAIL = 800, 400  # tokens of a sequence on the screen, from its beginning and its end
LISTED = 10_000  # tokens of a sequence that --tokens lists
BESIDE = 100  # columns from which two answers stand side by side
GAP = " | "

Line = tuple[str, int]  # what is printed, and the columns it takes


def preview(
    data: Data,
    model: Annotated[
        str, typer.Option(metavar="MODEL", help="Whose tokens and template.", show_default=False)
    ],
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="By default told by the model.", show_default=False),
    ] = None,
    row: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N", min=1, help="Line of the file; repeatable. By default the first three."
        ),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="One token a line: id, trained, whose, text.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="OUT", help="Write one HTML page.", show_default=False),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="train_on, max_length or chat_template; repeatable."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Rows as the model will see them: token by token, trained ones marked, cut ones struck.

    Offline and without a key. For a local model by the function that training uses; for a
    hosted one by the documented rule, with a word on what is inferred. Whitespace, control
    characters and bytes that are no whole character are shown as signs. Ends with 3 when a
    row has an error.

    Examples:
      ftg preview train.jsonl --model gpt-4.1-mini-2025-04-14
      ftg preview train.jsonl --model builtin/tiny --row 7 --tokens
      ftg preview pairs.jsonl --model gpt-4.1-mini-2025-04-14 --html pairs.html
    """
    _spare(html, data)
    options = parse_settings(settings)
    where = backend or default_backend(model)
    rows = Gateway().preview(data, model=model, backend=where, rows=row, **options)
    if html is not None:
        html.write_text(page(data.name, rows), encoding="utf-8")
        print_message(f"Wrote {html}.", quiet=quiet)
    if json:
        found = [one.as_json() for one in rows]
        output.print_json({"file": str(data), "model": model, "backend": where, "rows": found})
    elif tokens or html is None:
        told: set[str] = set()  # notes are said once
        print_result("\n\n".join(screen(data.name, one, told, listed=tokens) for one in rows))
        if not tokens and not quiet and any(one.ok for one in rows):
            print_message(_legend())
    return 0 if all(one.ok for one in rows) else DataError.exit_code


def _spare(html: Path | None, data: Path) -> None:
    """Raise SpecError when the page would overwrite the data."""
    if html is not None and html.exists() and data.exists() and html.samefile(data):
        raise SpecError(
            f"--html {html} is the data itself.", hint="Give the page a name of its own."
        )


def screen(name: str, row: Preview, told: set[str], *, listed: bool = False) -> str:
    """One row for people; notes already ``told`` are left out."""
    head = f"{apply_style(visible(name), 'bold')} line {row.line}  ({row.format})"
    if not row.ok:
        return f"{head}\n{findings_text(row.findings)}"
    lines = [head, f"{row.model}, {row.encoding}"]
    blocks = (_list(sequence) for sequence in row.sequences) if listed else _blocks(row)
    for block in blocks:
        lines += ["", *block]
    fresh = [note for note in row.notes if note not in told]
    told.update(fresh)
    lines += ["", *(wrap_text(note, "  ", "- ") for note in fresh)] if fresh else []
    if serious := [found for found in row.findings if found.severity != "note"]:
        lines += ["", findings_text(serious)]
    return "\n".join(lines)


def _legend() -> str:
    if _coloured():
        trained, cut = apply_style("underlined", "trained"), apply_style("struck", "cut")
        marks = f"{trained}: trained; {cut}: cut off"
    else:
        marks = "^-- under a token: trained; xxx: cut off"
    return f"{marks}. ␣ space, ⏎ newline, <0xE2> a byte, <U+200B> a hidden character."


def _coloured() -> bool:
    return apply_style("x", "trained") != "x"


# -- as running text -----------------------------------------------------------------------


def _blocks(row: Preview) -> Iterator[list[str]]:
    if len(row.sequences) == 1:
        (sequence,) = row.sequences
        lines = _text(sequence.tokens, output.terminal_width(), sequence.left_out)
        yield [counts(sequence, row.limit), *(line for line, _ in lines)]
        return
    chosen, rejected = row.sequences
    prompt = chosen.tokens[: chosen.prompt]
    yield ["Both begin with:", *(line for line, _ in _text(prompt, output.terminal_width(), 0))]
    if output.terminal_width() >= BESIDE:
        yield _beside(row)
        return
    for sequence in (chosen, rejected):
        yield [line for line, _ in _answer(sequence, row.limit, output.terminal_width())]


def _answer(sequence: Sequence, limit: int | None, width: int) -> list[Line]:
    title = wrap_text(f"{sequence.name.capitalize()}: {counts(sequence, limit)}")
    rest = sequence.tokens[sequence.prompt :]
    heads = [(line, cell_len(line)) for line in title.splitlines()]
    return [*heads, *_text(rest, width, sequence.left_out)]


def _beside(row: Preview) -> list[str]:
    half = (output.terminal_width() - len(GAP)) // 2
    left, right = ([*_answer(sequence, row.limit, half)] for sequence in row.sequences)
    size = max(len(left), len(right))
    left += [("", 0)] * (size - len(left))
    right += [("", 0)] * (size - len(right))
    return [
        f"{one}{' ' * max(0, half - taken)}{GAP}{other}".rstrip()
        for (one, taken), (other, _) in zip(left, right, strict=True)
    ]


def _text(tokens: list[Token], width: int, unkept: int) -> list[Line]:
    """Tokens as running text; of very many the beginning and the end."""
    if len(tokens) + unkept <= HEAD + TAIL:
        return [*_lines(tokens, width)]
    middle = tokens[HEAD : len(tokens) - TAIL] if not unkept else tokens[HEAD:]
    trained = sum(token.trained for token in middle)
    hidden = f"... {len(middle) + unkept:,} tokens left out"
    hidden += f", {trained:,} trained among them" if trained and not unkept else ""
    tail = [] if unkept else tokens[-TAIL:]
    gap = (f"{hidden}; --html and --json show more ...", 0)
    return [*_lines(tokens[:HEAD], width), gap, *_lines(tail, width)]


def _lines(tokens: Iterable[Token], width: int) -> Iterator[Line]:
    """Lines of the given width; without colours each with one of marks below it."""
    pieces: list[tuple[str, Token, int]] = []
    used, frame = 0, False
    for place, token in enumerate(tokens):
        if frame and token.part == "special":  # the end of a message, and the next begins
            yield from _line(pieces)
            pieces, used = [], 0
        frame = token.part == "special"
        for piece in _cut(token.visible, width):
            size = cell_len(piece)
            if used + size > width:
                yield from _line(pieces)
                pieces, used = [], 0
            pieces.append((piece, token, place))
            used += size
        if token.text.endswith("\n"):
            yield from _line(pieces)
            pieces, used = [], 0
    yield from _line(pieces)


def _cut(text: str, width: int) -> Iterator[str]:
    """A token, or its pieces when it is wider than a line."""
    if cell_len(text) <= width:
        yield text
        return
    step = max(1, width // 2)  # characters take two columns at most
    yield from (text[place : place + step] for place in range(0, len(text), step))


def _line(pieces: list[tuple[str, Token, int]]) -> Iterator[Line]:
    if not pieces:
        return
    size = sum(cell_len(text) for text, _, _ in pieces)
    yield "".join(_painted(text, token, place) for text, token, place in pieces), size
    marks = "".join(_mark(token, cell_len(text)) for text, token, _ in pieces)
    if not _coloured() and marks.strip():
        yield marks.rstrip(), len(marks.rstrip())


def _painted(text: str, token: Token, place: int) -> str:
    if token.truncated:
        return apply_style(text, "cut")
    if token.trained:
        return apply_style(text, "trained too" if place % 2 else "trained")
    return apply_style(text, "dim") if token.part == "special" else text


def _mark(token: Token, size: int) -> str:
    if token.truncated:
        return "x" * size
    return ("^" + "-" * (size - 1) if size else "") if token.trained else " " * size


# -- one token a line ----------------------------------------------------------------------


def _list(sequence: Sequence) -> list[str]:
    shown = sequence.tokens[:LISTED]
    lines = [f"{sequence.name.capitalize()}:"] if sequence.name else []
    lines.append(f"{'id':>8}  {'':<8} {'whose':<10} {'part':<9} text")
    for token in shown:
        state = "cut off" if token.truncated else "trained" if token.trained else ""
        id = "-" if token.id is None else str(token.id)
        role = visible(token.role or "-")[:10]
        lines.append(f"{id:>8}  {state:<8} {role:<10} {token.part:<9} {token.visible}")
    if sequence.total > len(shown):
        lines.append(f"... {sequence.total - len(shown):,} tokens left out; --json has more ...")
    return lines
