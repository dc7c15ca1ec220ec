"""What ``ftg preview`` prints: rows as the model sees them, trained tokens marked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.cells import cell_len

from finetune_gateway.reports.output import apply_style, terminal_width, wrap_text
from finetune_gateway.reports.validation_text import findings_text
from finetune_gateway.tokens.masks.preview import Preview, Sequence, Token
from finetune_gateway.tokens.token_text import visible

HEAD, TAIL = 800, 400  # tokens of a sequence on the screen, from its beginning and its end
LISTED = 10_000  # tokens of a sequence that --tokens lists
SIDE_BY_SIDE = 80  # columns from which two answers stand side by side
GAP = " | "

Line = tuple[str, int]  # the text, and the columns it takes


def preview_document(data: Path, model: str, backend: str, rows: Iterable[Preview]) -> Any:
    """Return the rows as JSON."""
    previews = [row.as_json() for row in rows]
    return {"file": str(data), "model": model, "backend": backend, "rows": previews}


def preview_text(name: str, rows: Iterable[Preview], *, listed: bool = False) -> str:
    """Return every row; a note that several rows share is printed with the first of them.

    ``listed``: one token per line instead of running text.
    """
    printed: set[str] = set()
    return "\n\n".join(_row_text(name, row, printed, listed=listed) for row in rows)


def _row_text(name: str, row: Preview, printed: set[str], *, listed: bool) -> str:
    head = f"{apply_style(visible(name), 'bold')} line {row.line}  ({row.format})"
    if not row.ok:
        return f"{head}\n{findings_text(row.findings)}"
    lines = [head, f"{row.model}, {row.encoding}"]
    blocks = (_token_list(sequence) for sequence in row.sequences) if listed else _text_blocks(row)
    for block in blocks:
        lines += ["", *block]
    fresh = [note for note in row.notes if note not in printed]
    printed.update(fresh)
    lines += ["", *(wrap_text(note, "  ", "- ") for note in fresh)] if fresh else []
    if serious := [finding for finding in row.findings if finding.severity != "note"]:
        lines += ["", findings_text(serious)]
    return "\n".join(lines)


def sequence_figures(sequence: Sequence, limit: int | None) -> str:
    """Return the figures of a sequence: ``412 tokens, 96 trained``."""
    figures = f"{sequence.total:,} tokens, {sequence.trained:,} trained"
    if sequence.truncated:
        figures += f"; {sequence.truncated:,} cut off at {limit:,}"
    if sequence.truncated_trained:
        figures += f", {sequence.truncated_trained:,} of them to be trained"
    return figures if sequence.trained else f"{figures}; the model learns nothing from it"


def preview_legend() -> str:
    """Return what the marks of a preview mean."""
    if _has_colour():
        trained, cut = apply_style("underlined", "trained"), apply_style("struck", "cut")
        marks = f"{trained}: trained; {cut}: cut off"
    else:
        marks = "^-- under a token: trained; xxx: cut off"
    return f"{marks}.\n␣ space, ⏎ newline, <0xE2> a byte, <U+200B> a hidden character."


def _has_colour() -> bool:
    return apply_style("x", "trained") != "x"


# -- as running text -----------------------------------------------------------------------


def _text_blocks(row: Preview) -> Iterator[list[str]]:
    """Yield the blocks of a row: one a sequence, or of a pair the common prompt and both
    answers."""
    if not row.is_pair:
        for sequence in row.sequences:
            yield [line for line, _ in _answer(sequence, row.limit, terminal_width())]
        return
    chosen, rejected = row.sequences
    prompt = chosen.tokens[: chosen.prompt]
    yield ["Both begin with:", *(line for line, _ in _running_text(prompt, terminal_width(), 0))]
    if terminal_width() >= SIDE_BY_SIDE:
        yield _side_by_side(row)
        return
    for sequence in (chosen, rejected):
        yield [line for line, _ in _answer(sequence, row.limit, terminal_width())]


def _answer(sequence: Sequence, limit: int | None, width: int) -> list[Line]:
    name = f"{sequence.name.capitalize()}: " if sequence.name else ""
    title = wrap_text(f"{name}{sequence_figures(sequence, limit)}")
    rest = sequence.tokens[sequence.prompt :]
    heads = [(line, cell_len(line)) for line in title.splitlines()]
    return [*heads, *_running_text(rest, width, sequence.left_out)]


def _side_by_side(row: Preview) -> list[str]:
    half = (terminal_width() - len(GAP)) // 2
    left, right = ([*_answer(sequence, row.limit, half)] for sequence in row.sequences)
    size = max(len(left), len(right))
    left += [("", 0)] * (size - len(left))
    right += [("", 0)] * (size - len(right))
    return [
        f"{one}{' ' * max(0, half - taken)}{GAP}{other}".rstrip()
        for (one, taken), (other, _) in zip(left, right, strict=True)
    ]


def _running_text(tokens: list[Token], width: int, left_out: int) -> list[Line]:
    """Return tokens as running text; of very many, only the beginning and the end."""
    if len(tokens) + left_out <= HEAD + TAIL:
        return [*_wrapped_lines(tokens, width)]
    middle = tokens[HEAD : len(tokens) - TAIL] if not left_out else tokens[HEAD:]
    trained = sum(token.trained for token in middle)
    hidden = f"... {len(middle) + left_out:,} tokens left out"
    hidden += f", {trained:,} trained among them" if trained and not left_out else ""
    tail = [] if left_out else tokens[-TAIL:]
    gap = (f"{hidden}; --html and --json show more ...", 0)
    return [*_wrapped_lines(tokens[:HEAD], width), gap, *_wrapped_lines(tail, width)]


def _wrapped_lines(tokens: Iterable[Token], width: int) -> Iterator[Line]:
    """Yield lines of the given width; without colours, a line of marks below each."""
    pieces: list[tuple[str, Token, int]] = []
    used, frame = 0, False
    for index, token in enumerate(tokens):
        if frame and token.part == "special":  # the end of a message, and the next begins
            yield from _finish_line(pieces)
            pieces, used = [], 0
        frame = token.part == "special"
        for piece in _pieces(token.visible, width):
            size = cell_len(piece)
            if used + size > width:
                yield from _finish_line(pieces)
                pieces, used = [], 0
            pieces.append((piece, token, index))
            used += size
        if token.text.endswith("\n"):
            yield from _finish_line(pieces)
            pieces, used = [], 0
    yield from _finish_line(pieces)


def _pieces(text: str, width: int) -> Iterator[str]:
    """Yield a token, in pieces if it is wider than a line."""
    if cell_len(text) <= width:
        yield text
        return
    step = max(1, width // 2)  # characters take two columns at most
    yield from (text[start : start + step] for start in range(0, len(text), step))


def _finish_line(pieces: list[tuple[str, Token, int]]) -> Iterator[Line]:
    if not pieces:
        return
    size = sum(cell_len(text) for text, _, _ in pieces)
    yield "".join(_styled(text, token, index) for text, token, index in pieces), size
    marks = "".join(_underline(token, cell_len(text)) for text, token, _ in pieces)
    if not _has_colour() and marks.strip():
        yield marks.rstrip(), len(marks.rstrip())


def _styled(text: str, token: Token, index: int) -> str:
    if token.truncated:
        return apply_style(text, "cut")
    if token.trained:
        return apply_style(text, "trained too" if index % 2 else "trained")
    return apply_style(text, "dim") if token.part == "special" else text


def _underline(token: Token, size: int) -> str:
    if token.truncated:
        return "x" * size
    return ("^" + "-" * (size - 1) if size else "") if token.trained else " " * size


# -- one token a line ----------------------------------------------------------------------


def _token_list(sequence: Sequence) -> list[str]:
    """Return one line per token, below a head."""
    shown = sequence.tokens[:LISTED]
    lines = [f"{sequence.name.capitalize()}:"] if sequence.name else []
    lines.append(f"{'id':>8}  {'':<8} {'role':<10} {'part':<9} text")
    for token in shown:
        state = "cut off" if token.truncated else "trained" if token.trained else ""
        id = "-" if token.id is None else str(token.id)
        role = visible(token.role or "-")[:10]
        lines.append(f"{id:>8}  {state:<8} {role:<10} {token.part:<9} {token.visible}")
    if sequence.total > len(shown):
        lines.append(f"... {sequence.total - len(shown):,} tokens left out; --json has more ...")
    return lines
