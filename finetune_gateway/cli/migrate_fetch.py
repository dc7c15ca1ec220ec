"""``ftg migrate fetch``."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_gateway import migration
from finetune_gateway.cli.options import (
    AllowHttp,
    BaseUrl,
    HostName,
    Json,
    KeyName,
    KeyNames,
    Quiet,
    key_backends,
)
from finetune_gateway.cli.progress import working
from finetune_gateway.errors import SpecError
from finetune_gateway.reports.archive_text import archive_document, archive_text, not_saved_text
from finetune_gateway.reports.output import (
    format_duration,
    print_json,
    print_message,
    print_result,
)

LONG_WAIT = 2.0  # seconds of a wait that is said


def fetch(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL...]",
            help="Ids of models (ft:...) or jobs (ftjob-...), or their last part.",
        ),
    ] = None,
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="All fine-tunes that the keys see.")
    ] = False,
    stored: Annotated[
        bool,
        typer.Option("--stored", help="Stored completions too: prompts of production, answers."),
    ] = False,
    profile: HostName = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    key_env: KeyNames = None,
    allow_http: AllowHttp = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Save what a host keeps of fine-tunes into the home folder: the job, its training, validation
    and result files, events, metrics, checkpoints. Costs nothing, and changes nothing at the host.

    A file that several jobs share is fetched once. Run it again at any time, also after Ctrl-C or a
    crash: only what is not saved yet, or was refused, is asked for. The files can be given to
    validate, estimate, preview and submit by their paths.

    Exit code 1 if something was refused, or the host failed; gone is no error. --quiet prints the
    folders alone.

    Examples:
      ftg migrate fetch --all
      ftg migrate fetch ft:gpt-4.1-mini-2025-04-14:acme::AbC1
      ftg migrate fetch ftjob-abc123 --stored --key-env KEY_A --key-env KEY_B
    """
    if bool(models) == all_:
        message = "MODEL and --all exclude each other." if all_ else "Nothing was named to fetch."
        raise SpecError(message, hint="Name models or jobs, or give --all. See: ftg migrate list")
    backends = key_backends(profile, base_url, api_key_env, key_env, allow_http)
    doing = "fetching fine-tunes"
    try:
        with working(doing, quiet=quiet or json) as say:
            archive = migration.fetch(
                models or None,
                backends,
                stored=stored,
                on_progress=lambda done, total, _: say(f"{doing}: {done} of {total}"),
                on_wait=lambda seconds: _say_wait(seconds, quiet=quiet),
            )
    except KeyboardInterrupt as exc:
        exc.add_note("What was saved stays. To go on, run the same command again.")
        raise
    if json:
        print_json(archive_document(archive))
    elif quiet:
        print_result("\n".join(job.folder for job in archive.jobs))
    else:
        print_result(archive_text(archive, paths=not all_))
    if text := not_saved_text(archive):
        print_message(text, quiet=json)
    return 0 if archive.complete else 1


def _say_wait(seconds: float, *, quiet: bool) -> None:
    if seconds >= LONG_WAIT:
        print_message(f"The host asks to wait {format_duration(seconds)}.", quiet=quiet)
