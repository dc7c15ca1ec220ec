"""``ftg advise``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import Data, Json, Map, Quiet, parse_map
from finetune_gateway.cli.progress import progress_bar
from finetune_gateway.errors import DataError, SpecError
from finetune_gateway.gateway import Gateway
from finetune_gateway.reports.advice_text import brief_text, footer, full_text
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.output import print_json, print_message, print_result

FOOTER = "Rules of thumb and estimates; nothing was sent."


def advise(
    data: Data,
    preferences: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Preference pairs that you have beside DATA.", readable=False
        ),
    ] = None,
    columns: Map = None,
    comparison: Annotated[
        str | None,
        typer.Option(metavar="ID", help="A comparison (default: the newest of these rows)."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="A base to estimate; repeatable.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A place to estimate; repeatable.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="The data must not leave this machine.")
    ] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="What was counted, the rules, and their sources.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Say what to do with a data set: prompt first, retrieval, or fine-tuning; SFT, DPO or both;
    whether the rows are enough; hosted or local, with an estimate of each. Says so when it can't
    tell. Offline: no key, nothing is sent.

    It counts what the rows have in common, and reads a comparison of them, if there is one. The
    rules, with their sources, are in docs/advise.md. --quiet prints one word: prompt, retrieval,
    fine-tune or "can't tell". Exit code 3 for a file that cannot be read, else 0.

    Examples:
      ftg advise train.jsonl
      ftg advise train.jsonl --preferences pairs.jsonl --explain
      ftg advise train.jsonl --private --model Qwen/Qwen3-4B
      ftg advise train.jsonl --comparison cmp-3f9a2c1d --json
    """
    if explain and (json or quiet):
        raise SpecError(
            f"--explain contradicts {'--json' if json else '--quiet'}.", hint="Drop one of them."
        )
    with progress_bar(quiet=quiet or json) as on_progress:
        advice = Gateway().advise(
            data,
            preferences=preferences,
            columns=parse_map(columns),
            comparison=comparison,
            model=model,
            backend=backend,
            private=private,
            on_progress=on_progress,
        )
    code = DataError.exit_code if advice.unreadable else 0
    if json:
        print_json(advice.document())
        return code
    if quiet:
        print_result(advice.approach.answer)
        return code
    print_result(shown := full_text(advice) if explain else brief_text(advice))
    print_message(FOOTER if explain else footer(advice))
    point_out_leaving(shown)
    return code
