"""What ``ftg chat`` does with a reward model: it prints scores of conversations."""

from __future__ import annotations

import json
from typing import Any

from finetune_gateway.data import canonical
from finetune_gateway.data.dataset import kind_of
from finetune_gateway.errors import GatewayError, SpecError
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.reports.output import print_json
from finetune_gateway.text.quoting import quoted
from finetune_gateway.tokens.template_rows import row_of_unpaired, rows_of_pair

Row = dict[str, Any]
LIKE = '{"messages": [{"role": "user", ...}, {"role": "assistant", ...}]}'


def print_scores(handle: ModelHandle, text: str, *, system: str | None, as_json: bool) -> None:
    """Print the score of each row in a text of JSON lines; of a preference row both, the preferred
    answer's first. Raises SpecError with the line that is no conversation, or has no score."""
    rows = [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    scored = [_scores(handle, line, number, system) for number, line in rows]
    if as_json:
        print_json({"model": handle.model, "scores": scored})
        return
    for scores in scored:
        print("\t".join(f"{one:.4f}" for one in scores))


def _scores(handle: ModelHandle, line: str, number: int, system: str | None) -> list[float]:
    found = handle.score_many(_conversations(line, number), system=system)
    for one in found:
        if isinstance(one, GatewayError):
            raise SpecError(f"Line {number}: {one.message}", hint=one.hint)
    return [one for one in found if isinstance(one, float)]


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
