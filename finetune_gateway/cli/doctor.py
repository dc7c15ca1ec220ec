"""``ftg doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_gateway import registry
from finetune_gateway.backends.local import measure
from finetune_gateway.cli.options import AllowHttp, BaseUrl, Json, KeyName, Quiet
from finetune_gateway.reports.doctor_text import (
    calibration_document,
    calibration_text,
    checks_document,
    checks_text,
)
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.machine_checks import check_backend, check_machine
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.settings.home import Settings


def doctor(
    backend: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Check this backend too: its key and host."),
    ] = None,
    base_url: BaseUrl = None,
    api_key_env: KeyName = None,
    allow_http: AllowHttp = False,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="Measure and store how fast this machine trains.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check this machine: Python, packages, home folder, store, your settings and prices, GPU,
    keys (names only), proxies, and the closing dates of hosted services. Exit code 1 if something
    required is broken.

    Asks a host only with --backend; a proxy that is set is connected to. --calibrate trains small
    models for about a minute instead, so that 'ftg estimate' knows how long a job takes here.

    Examples:
      ftg doctor
      ftg doctor --backend openai
      ftg doctor --calibrate
      ftg doctor --json
    """
    if backend is not None:
        registry.require_known(backend)
    settings = Settings.load()
    if calibrate:
        return _calibrate(settings, json, quiet)
    checks = [*check_machine(settings, backend)]
    if backend is not None:
        options = {"base_url": base_url, "api_key_env": api_key_env, "allow_http": allow_http}
        given = {name: value for name, value in options.items() if value not in (None, False)}
        checks.append(check_backend(backend, given))
    broken = any(check.state == "error" for check in checks)
    if json:
        print_json(checks_document(checks))
    else:
        print_result(shown := ("broken" if broken else "ready") if quiet else checks_text(checks))
        point_out_leaving(shown, quiet=quiet)
    return 1 if broken else 0


def _calibrate(settings: Settings, json: bool, quiet: bool) -> int:
    with measure.training_slot(settings):
        message = "Training small models to measure this machine; this takes about a minute."
        print_message(message, quiet=json or quiet)
        calibration = measure.measure(settings)
    if json:
        print_json(calibration_document(calibration))
    else:
        print_result(calibration_text(calibration))
    return 0
