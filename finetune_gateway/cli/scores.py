"""What ``ftg chat`` does with a reward model: it prints scores of conversations."""

from __future__ import annotations

import json
from typing import Any

import typer

from finetune_gateway.data import canonical
from finetune_gateway.data.dataset import kind_of
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.reports.output import print_json, print_message
from finetune_gateway.text.quoting import quoted
from finetune_gateway.tokens.template_rows import row_of_unpaired, rows_of_pair

Row = dict[str, Any]
LIKE = '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}'


def print_scores(handle: ModelHandle, text: str, *, system: str | None, as_json: bool) -> None:
    """Print the score of each row in a text of JSON lines; of a preference row both, the preferred
    answer's first. A row without a score has a dash in its place, and the reason on stderr.

    Raises SpecError with the line that is no conversation; exits with 1 if a row has no score.
    """
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    asked = [(number, _conversations(line, number)) for number, line in rows]
    scored: list[list[float] | None] = []
    errors: list[dict[str, Any]] = []
    for number, conversations in asked:
        found = handle.score_many(conversations, system=system)
        scores = [one for one in found if isinstance(one, float)]
        wrong = next((one for one in found if isinstance(one, GatewayError)), None)
        scored.append(None if wrong else scores)
        if not as_json:
            print("-" if wrong else "\t".join(f"{one:.4f}" for one in scores), flush=True)
        if wrong:
            errors.append({"line": number, "message": wrong.message})
            print_message(f"Line {number} has no score: {wrong.message}", quiet=as_json)
    if as_json:
        print_json({"model": handle.model, "scores": scored, "errors": errors})
    if errors:
        raise typer.Exit(1)


def _conversations(line: str, number: int) -> list[Row]:
    """Return the conversations of a row: one, or the two of a pair."""
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise SpecError(
            f"A reward model scores rows of data, and line {number} is none: {quoted(line)}.",
            hint=f"Give JSON lines, such as {LIKE}.",
        )
    read = canonical.read(row).row
    kind = kind_of(read)
    pair = kind == "preference"
    if not pair and not isinstance(read.get("messages"), list):
        raise SpecError(f"Line {number} has no messages.", hint=f"Give JSON lines, such as {LIKE}.")
    some = rows_of_pair(read) if pair else (row_of_unpaired(read),)
    return [{"messages": one["messages"], "tools": one.get("tools")} for one in some]
