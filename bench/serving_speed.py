"""Published speeds of serving beside what the estimate makes of the same GPU, model and requests.

Computes, and measures nothing: ``serving_speed.toml`` has the figures with their sources.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import Any

from _common import Bench, arguments, say, versions

from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.throughput import ServedModel, throughput

POINTS = Path(__file__).with_suffix(".toml")


def main() -> int:
    asked = arguments(__doc__)
    bench = Bench("serving_speed", versions("finetune-gateway"))
    points: list[dict[str, Any]] = tomllib.loads(POINTS.read_text("utf-8"))["point"]
    for point in points:
        bits = point.get("bytes_per_weight", 2.0)
        model = ServedModel(point["billions"], bits, point["cache_bytes"])
        lengths = point["tokens_in"], point["tokens_out"]
        found = throughput(GPUS[point["gpu"]], model, *lengths, point["users"])
        name = f"{point['gpu']}, {point['model']}, {point['engine']}"
        if found is None:
            bench.unmeasured(name, "the model does not fit")
            continue
        speed = point["tokens_per_second"]
        ours = [float(found.expected)]
        # Inside the range, if the ratio is what the ends of the range allow.
        least, most = (float(found.expected / end) for end in (found.high, found.low))
        bench.figure(name, ours, [speed], "tokens/s", at_least=least, at_most=most)
        say(f"  {found.low:f} to {found.high:f}; {point['source']}")
    return bench.end(asked.out)


if __name__ == "__main__":
    sys.exit(main())
