"""``ftg rules``."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_gateway.cli.options import Json, Quiet
from finetune_gateway.reports.output import print_json, print_result
from finetune_gateway.reports.rules_text import (
    rule_document,
    rule_text,
    rules_document,
    rules_text,
)
from finetune_gateway.validation.collector import known_code
from finetune_gateway.validation.rules import RULES


def rules(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE", help="One rule.", show_default=False)
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """List what validate checks, with the severity for OpenAI's API and for local training. With
    CODE: the severity for each family of backends and its source, the reason for the rule, what to
    do, what --fix does, and an example.

    Examples:
      ftg rules
      ftg rules unknown_role
      ftg rules --json
    """
    if code is not None:
        code = known_code(code)
        if json:
            print_json(rule_document(code))
        else:
            print_result(rule_text(code))
    elif json:
        print_json(rules_document())
    elif quiet:
        print_result("\n".join(RULES))
    else:
        print_result(rules_text())
    return 0
