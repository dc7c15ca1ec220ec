"""``ftg download``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet, refresh_or_warn
from finetune_gateway.cli.progress import working
from finetune_gateway.gateway import Gateway
from finetune_gateway.jobs import downloads, results
from finetune_gateway.jobs.handle import ModelHandle
from finetune_gateway.reports.output import format_bytes, print_json, print_message, print_result
from finetune_gateway.text.cleaning import visible


def download(
    job: Annotated[
        str, typer.Argument(metavar="JOB[@STEP]", help="Id, its beginning, or 'latest'.")
    ],
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Not there yet (default: in the home folder)."),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="The base here, if it has another name than the host says."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Bring the files of a hosted job's model onto this machine, where its host gives them: its
    adapter, else its merged weights. 'ftg chat FOLDER' asks it then, without the host.

    Each file is checked by its size and its hash. The folder is there whole or not at all: after
    Ctrl-C or a kill the same command goes on, and nothing of yours is overwritten. Files other than
    safetensors are not taken. Without --to, 'ftg rm JOB' removes it with the job.

    Examples:
      ftg download latest
      ftg download ftg-7kq3 --to ./support-adapter --base Qwen/Qwen3-4B
      ftg download ftg-7kq3@200
    """
    name, step = results.split(job)
    opened = Gateway().job(name)
    if not opened.status.final:
        refresh_or_warn(opened, quiet=quiet)
    with working(f"downloading {opened.id}", quiet=quiet or json) as say:
        found = opened.handle(step).download(to, base=base, report=say)
    if json:
        print_json(found.model_dump(mode="json"))
        return
    print_result(found.model)
    print_message(_what_came(found), quiet=quiet)
    print_message(f"Ask it here: ftg chat {visible(found.model)}", quiet=quiet)


def _what_came(handle: ModelHandle) -> str:
    """Return the kind, the files and the size of a model that was brought here, and of an adapter
    the base that it answers on."""
    saved = downloads.saved_files(Path(handle.model))
    size = format_bytes(sum(one.stat().st_size for one in saved))
    names = visible(", ".join(one.name for one in saved))
    kind = "The adapter" if handle.kind == "adapter" else "The merged model"
    base = f" It answers on {visible(handle.base_model)}." if handle.kind == "adapter" else ""
    return f"{kind}: {names} ({size}).{base}"
