"""How long a GPU takes for the work of a run, by what others published (``gpu_speed.toml``)."""

from __future__ import annotations

import tomllib
from importlib import resources

from finetune_gateway.estimation.calibration import Load
from finetune_gateway.estimation.gpus import Gpu

_TEXT = resources.files("finetune_gateway.estimation").joinpath("gpu_speed.toml").read_text("utf-8")
_ROWS = tomllib.loads(_TEXT)
SHARE: float = _ROWS["share"]["value"]  # of the peak, where a GPU has enough to do
LAUNCH: float = _ROWS["launch"]["value"]  # seconds for a pass through one layer and back
DEQUANTISE: float = _ROWS["dequantise"]["value"]  # bytes for a 4-bit weight, in such a pass
LOW: float = _ROWS["range"]["low"]  # times the expected seconds
HIGH: float = _ROWS["range"]["high"]


def gpu_seconds(load: Load, layers: int, gpu: Gpu) -> float:
    """Return the expected seconds of this work: the GPU computes while the host starts its kernels,
    and the slower of both counts; 4-bit weights are dequantised beside, at the speed of memory."""
    computing = load.flops / (SHARE * gpu.flops)
    launching = LAUNCH * load.layer_passes
    dequantised = load.quantised * load.layer_passes / layers
    return max(computing, launching) + DEQUANTISE * dequantised / gpu.bandwidth


def share_of_peak(load: Load, layers: int, gpu: Gpu) -> float:
    """Return the share of the GPU's peak that this is; 0 for no work."""
    seconds = gpu_seconds(load, layers, gpu)
    return load.flops / seconds / gpu.flops if seconds else 0.0
