"""``ftg models add``."""

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
from finetune_gateway.reports.added_text import added_document, added_text
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.output import (
    print_json,
    print_message,
    print_result,
    print_warning,
)


def add(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Id of a fine-tune or a checkpoint, ft:..."),
    ],
    profile: HostName = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    key_env: KeyNames = None,
    allow_http: AllowHttp = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Make a fine-tune of a host, or a checkpoint (ft:...:ckpt-step-20), a model of this home: with
    its base, host and key, the day on which it stops, and the system prompt of its training file,
    if that was fetched ('ftg migrate fetch') and all rows have the same one. 'ftg chat MODEL'
    finds it then, and 'ftg models' lists it; 'ftg rm MODEL' removes it here.

    With several keys (--key-env) the first that has it is kept. It is asked "Hello." once, for at
    most 32 tokens, and called ready when it has answered. One that is there and does not answer is
    added all the same, and said not to be ready (exit code 1). Add it again to ask again, or after
    a fetch.

    Examples:
      ftg models add ft:gpt-4.1-mini-2025-04-14:acme::AbC1
      ftg models add ft:gpt-4o-2024-08-06:acme::AbC1:ckpt-step-20 --backend openai
    """
    backends = key_backends(profile, base_url, api_key_env, key_env, allow_http)
    with working(f"asking {model}", quiet=quiet or json):
        handle = migration.add_model(model, backends)
    if json:
        print_json(added_document(handle))
    else:
        state = "ready" if handle.ready else "not ready"
        print_result(state if quiet else added_text(handle))
        point_out_leaving("" if quiet else str(handle.retires_on))
    for warning in handle.warnings:
        print_warning(warning, quiet=quiet or json)
    if handle.ready:
        print_message(f"Chat with it: ftg chat {handle.model}", quiet=quiet or json)
    return 0 if handle.ready else 1
