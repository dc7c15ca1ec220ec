"""``ftg migrate list``."""

from __future__ import annotations

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
from finetune_gateway.reports.inventory_text import inventory_text
from finetune_gateway.reports.output import print_json, print_result


def list_fine_tunes(
    profile: HostName = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    key_env: KeyNames = None,
    allow_http: AllowHttp = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List the fine-tunes that a key sees at a host. Sends nothing but questions.

    Examples:
      ftg migrate list
      ftg migrate list --json
    """
    backends = key_backends(profile, base_url, api_key_env, key_env, allow_http)
    inventory = migration.list_fine_tunes(backends)
    if json:
        print_json(inventory.model_dump(mode="json"))
    elif quiet:
        print_result("\n".join(one.name for one in inventory.fine_tunes))
    else:
        print_result(inventory_text(inventory))
