"""The calibration of a machine, as ``ftg doctor --calibrate`` writes it."""

from __future__ import annotations

from finetune_gateway.estimation import calibration
from finetune_gateway.estimation.calibration import Calibration
from finetune_gateway.estimation.engine import cpu_has_bf16
from finetune_gateway.settings import clock


def calibrated() -> Calibration:
    return Calibration(
        machine=calibration.machine(), torch=calibration.torch_version(),
        measured_on=clock.today(), threads=2,
        rates=(1e-3, 1e-11, 4e-12, 1e-8, 3e-8, 1e-8, 5e-8, 6e-9, 2e-10, 1e-9, 1e-3),
        stretch=1.0, speedups=(1.4, 1.5, 1.7), start_cpu=8, save_cpu=0.1, save_byte_cpu=2e-9,
        imported_bytes=460_000_000, errors=(0.01,), largest=30_000_000,
        load_average=0.5, engine=calibration.ENGINE, bf16=cpu_has_bf16(),
    )  # fmt: skip
