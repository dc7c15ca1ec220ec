"""``ftg doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_gateway import registry
from finetune_gateway.backends.local import measure
from finetune_gateway.cli.options import AllowHttp, BaseUrl, Json, KeyName, Quiet
from finetune_gateway.errors import SpecError
from finetune_gateway.reports.doctor_text import (
    calibration_document,
    calibration_text,
    checks_document,
    checks_text,
)
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.machine_checks import check_backend, check_machine
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.reports.service_unit import service_of
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
    service: Annotated[
        bool,
        typer.Option("--service", help="Print a unit that brings local jobs back after a restart."),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Check this machine: Python, packages, home folder, store, your settings and prices, GPU,
    keys (names only), proxies, and the closing dates of hosted services. Exit code 1 if something
    required is broken.

    Asks a host only with --backend; a proxy that is set is connected to. --calibrate trains small
    models for about a minute instead, so that 'ftg estimate' knows how long a job takes here.
    --service prints a file for systemd (launchd on macOS) instead, which runs 'ftg resume --all'
    at the start of the machine; it has no secrets, and says where keys come from.

    Examples:
      ftg doctor
      ftg doctor --backend openai
      ftg doctor --calibrate
      ftg doctor --service > ~/.config/systemd/user/finetune-gateway.service
      ftg doctor --json
    """
    if backend is not None:
        registry.require_known(backend)
    settings = Settings.load()
    if calibrate and service:
        raise SpecError("--calibrate and --service are two commands.", hint="Give one of them.")
    if service:
        return _print_service(settings, json, quiet)
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


def _print_service(settings: Settings, json: bool, quiet: bool) -> int:
    service = service_of(settings)
    if json:
        found = {"system": service.system, "path": str(service.path), "text": service.text}
        print_json(found)
        return 0
    print_result(service.text.rstrip("\n"))
    begin = {
        "systemd": "systemctl --user daemon-reload; systemctl --user enable --now finetune-gateway",
        "launchd": f"launchctl bootstrap gui/$(id -u) {service.path}",
    }
    print_message(f"Write it to {service.path}, then: {begin[service.system]}", quiet=quiet)
    return 0
