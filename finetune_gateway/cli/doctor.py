"""``ftg doctor``."""

from __future__ import annotations

from typing import Annotated

import typer

from finetune_gateway import registry
from finetune_gateway.backends.local import measure
from finetune_gateway.cli.options import AllowHttp, BaseUrl, Json, KeyName, Quiet, parse_settings
from finetune_gateway.cli.options import Settings as Training
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.serving_tools import require_tools
from finetune_gateway.reports.doctor_text import (
    calibration_document,
    calibration_text,
    checks_document,
    checks_text,
)
from finetune_gateway.reports.leaving import point_out_leaving
from finetune_gateway.reports.machine_checks import Check, check_backend, check_machine
from finetune_gateway.reports.output import print_json, print_message, print_result
from finetune_gateway.reports.service_unit import service_of
from finetune_gateway.reports.serving_checks import check_serving
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec


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
    serve: Annotated[
        str | None,
        typer.Option(metavar="TOOLS", help="Will they serve it? vllm,sglang,ollama,gguf,..."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="The base to be trained, for --serve.")
    ] = None,
    set_: Training = None,
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
    --serve says instead whether tools will serve what is trained of --model, with settings as for
    'ftg submit': by a table that is dated. Its exit code is 0.

    Examples:
      ftg doctor
      ftg doctor --backend openai
      ftg doctor --calibrate
      ftg doctor --service > ~/.config/systemd/user/finetune-gateway.service
      ftg doctor --serve vllm,ollama,gguf --model Qwen/Qwen3-4B --set lora_r=64
      ftg doctor --json
    """
    if backend is not None:
        registry.require_known(backend)
    settings = Settings.load()
    if calibrate and service:
        raise SpecError("--calibrate and --service are two commands.", hint="Give one of them.")
    if serve is None and (model is not None or set_):
        raise SpecError("--model and --set are for --serve.", hint="Like: --serve vllm,ollama")
    if serve is not None:
        spec = TrainingSpec.build(model=model, **parse_settings(set_)) if model else None
        return _print([*check_serving(require_tools(serve), spec, settings)], json, quiet)
    if service:
        return _print_service(settings, json, quiet)
    if calibrate:
        return _calibrate(settings, json, quiet)
    checks = [*check_machine(settings, backend)]
    if backend is not None:
        options = {"base_url": base_url, "api_key_env": api_key_env, "allow_http": allow_http}
        given = {name: value for name, value in options.items() if value not in (None, False)}
        checks.append(check_backend(backend, given))
    return _print(checks, json, quiet)


def _print(checks: list[Check], json: bool, quiet: bool) -> int:
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
