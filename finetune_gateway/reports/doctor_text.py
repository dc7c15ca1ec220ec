"""What ``ftg doctor`` prints: one line per check, and the measured speed of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from finetune_gateway.estimation.calibration import FASTER, WORK, Calibration
from finetune_gateway.reports.machine_checks import Check
from finetune_gateway.reports.output import apply_style, wrap_text


def checks_document(checks: Sequence[Check]) -> dict[str, Any]:
    """Return the checks as JSON."""
    ok = not any(check.state == "error" for check in checks)
    return {"ok": ok, "checks": [asdict(check) for check in checks]}


def checks_text(checks: Sequence[Check]) -> str:
    """Return the checks, one paragraph each, then a verdict."""
    broken = any(check.state == "error" for check in checks)
    verdict = "Something required is broken." if broken else "Ready."
    return "\n".join([*map(_check_text, checks), verdict])


def _check_text(check: Check) -> str:
    mark = {"ok": "ok  ", "warning": "note", "error": "FAIL"}[check.state]
    first = f"{mark} {check.name:<10} "
    text = wrap_text(check.found, " " * len(first), first)
    if check.fix:
        text += "\n" + wrap_text(check.fix, " " * (len(first) + 3), f"{' ' * len(first)}-> ")
    return text.replace(mark, apply_style(mark, check.state), 1)


def calibration_document(calibration: Calibration) -> dict[str, Any]:
    """Return the figures as JSON, with what each rate measures."""
    return {**calibration.model_dump(mode="json"), "work": list(WORK)}


def calibration_text(calibration: Calibration) -> str:
    """Return the figures, one per line."""
    largest_error = max(abs(error) for error in calibration.errors)
    rate, rate_bf16 = calibration.rates[1:3]
    rows = [
        ("measured on", f"{calibration.measured_on}, torch {calibration.torch}"),
        ("machine", calibration.machine),
        (
            "matrices",
            f"{_speed(rate)} on one core, float32"
            + (f"; {_speed(rate_bf16)}, bfloat16" if calibration.bf16 else ""),
        ),
        ("threads", _threads(calibration)),
        ("4 bits", _quantising(calibration)),
        (
            "load",
            f"{calibration.load_average:.1f}; a CPU second took {calibration.stretch:.2f} s",
        ),
        ("start and end", f"{calibration.start_cpu:.1f} CPU seconds per job, whatever it trains"),
        ("fit", f"{len(calibration.errors)} shapes, off by at most {largest_error:.0%}"),
    ]
    return "\n".join(wrap_text(f"{name:<15}{text}", " " * 15, "") for name, text in rows)


def _quantising(calibration: Calibration) -> str:
    if calibration.quantise_cpu is None:
        return "not measured: bitsandbytes is not installed; only QLoRA needs it"
    return f"{calibration.quantise_cpu * 1e9:.0f} CPU seconds per billion weights (QLoRA)"


def _speed(rate: float) -> str:
    return f"{1 / rate / 1e9:.0f} GFLOP/s" if rate else "not measurable"


def _threads(calibration: Calibration) -> str:
    if calibration.threads == 1:
        return "1"
    least, most = min(calibration.speedups), max(calibration.speedups)
    faster = f"{calibration.threads} were {least:.2f} to {most:.2f} times as fast"
    if calibration.threads_used == 1:
        return f"1: {faster}, and {FASTER} each time is asked for"
    return f"{calibration.threads} for models above 20 million parameters: {faster} as one"
