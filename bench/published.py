"""What estimates say beside what others have published of fine-tuning on one GPU.

``published.toml`` has the figures with their sources: memory, and tokens a second. Each run is
estimated by the product's own ``estimate_local`` on rows of one length, all of whose tokens are
trained. Prints each figure beside ours, then the shares within our range: of all figures, of those
that estimates were set with in sight (``fitted``) and of the others. Exit code 3 if a bound of
``BOUNDS`` is missed. Trains nothing; takes a second.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _common import Bench, arguments, say, versions

from finetune_gateway import TrainingSpec
from finetune_gateway.estimation.assumptions import START_SECONDS, TargetDevice
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.local import estimate_local
from finetune_gateway.estimation.memory import Setup, most_memory, step_memory
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.spec import TrainingType
from finetune_gateway.tokens.stats import TokenStats

DATA = Path(__file__).with_name("published.toml")
STEPS = 1_000  # of a run, so that the seconds of its start are known and left out
CLOSE = 1.5  # a factor
# Shares of the figures: in the range, of memory of stacks like ours and of all, and of time; within
# a factor of CLOSE. Experts in 4 bits are no figure of ours: bitsandbytes leaves them in 16.
BOUNDS = {"memory, like": 0.95, "memory, all": 0.60, "time": 0.90, "time, close": 0.75}


@dataclass(frozen=True)
class Figure:
    """One published figure beside ours, in GB or tokens a second."""

    source: str
    run: str
    stack: str  # like | old | lean | experts
    fitted: bool
    unit: str
    published: float
    ours: Range[float]

    @property
    def within(self) -> bool:
        return self.ours.low <= self.published <= self.ours.high

    @property
    def factor(self) -> float:
        return self.ours.expected / self.published

    @property
    def close(self) -> bool:
        return 1 / CLOSE <= self.factor <= CLOSE

    def line(self) -> str:
        where = "in" if self.within else "OUT"
        figures = (self.ours.low, self.ours.expected, self.ours.high)
        ours = " / ".join(f"{figure:,.4g}" for figure in figures)
        return (
            f"{self.run:44} {self.unit:8} {self.published:>8,.4g}  {ours:28} "
            f"{self.factor:5.2f} {where:3} {self.stack:7} {self.source}"
        )


def main() -> int:
    asked = arguments(__doc__)
    bench = Bench("published", versions("finetune-gateway"))
    figures = list(read(DATA))
    for figure in figures:
        say(figure.line())
    sets = {
        "all": figures,
        "fitted": [one for one in figures if one.fitted],
        "held back": [one for one in figures if not one.fitted],
    }
    for name, chosen in sets.items():
        for metric, share, number in shares(chosen):
            bench.figure(
                f"{metric} ({name}, {number} figures)",
                [share], [1.0], "share", at_least=BOUNDS.get(metric),
            )  # fmt: skip
    return bench.end(asked.out)


def read(path: Path) -> Iterator[Figure]:
    """Yield the figures of the file, each beside ours."""
    data = tomllib.loads(path.read_text("utf-8"))
    shapes = {name: shape_of_row(row) for name, row in data["models"].items()}
    for source in data["source"]:
        for model, training, rows, length, gigabytes, speed in source["figures"]:
            about: dict[str, Any] = {
                "source": source["name"],
                "run": f"{model} {training} {rows} x {length:,}, {source['gpu']}",
                "stack": source["stack"],
                "fitted": source["fitted"],
            }
            spec = spec_of(source, training, rows)
            if gigabytes:
                ours = memory(spec, shapes[model], rows, length)
                yield Figure(**about, unit="GB", published=gigabytes, ours=ours)
            if speed:
                ours = tokens_per_second(spec, shapes[model], rows, length, source["gpu"])
                yield Figure(**about, unit="tokens/s", published=speed, ours=ours)


def shape_of_row(row: list[Any]) -> ModelShape:
    hidden, layers, heads, kv_heads, inner, vocabulary, tied, *experts = row
    of, active = experts or (1, 1)
    return ModelShape(
        hidden_size=hidden, layers=layers, heads=heads, kv_heads=kv_heads,
        head_dim=hidden // heads, intermediate_size=inner, vocab_size=vocabulary, tied=tied,
        experts=of, active_experts=active, stored_bytes=2,
    )  # fmt: skip


def spec_of(source: dict[str, Any], training: TrainingType, rows: int) -> TrainingSpec:
    options: dict[str, Any] = (
        {"target_modules": tuple(source["targets"])} if "targets" in source else {}
    )
    return TrainingSpec.build(
        model="m", training_type=training, lora_r=source["r"], batch_size=rows,
        micro_batch_size=rows, n_epochs=1, gradient_checkpointing=source.get("checkpointing", True),
        **options,
    )  # fmt: skip


def memory(spec: TrainingSpec, shape: ModelShape, rows: int, length: int) -> Range[float]:
    """Return our GB of a step, whatever the GPU holds: several were published for a GPU that is not
    named. Full training as there, in bfloat16."""
    setup = Setup.of(spec, "gpu", shape)
    if spec.training_type == "full":
        setup = Setup(**{**vars(setup), "float32": False})
    expected = step_memory(shape, setup, rows, length).total
    high = most_memory(expected, "gpu")
    return Range[float](low=expected * 0.8 / 1e9, expected=expected / 1e9, high=high / 1e9)


def tokens_per_second(
    spec: TrainingSpec, shape: ModelShape, rows: int, length: int, gpu: str
) -> Range[float]:
    """Return our tokens a second, without the start of the job."""
    count = rows * STEPS
    total = count * length
    tokens = TokenStats(
        encoding="published", exact=True, rows=count, total=total, trained=total, min=length,
        median=length, p95=length, max=length, lengths={length: count},
    )  # fmt: skip
    assert gpu in GPUS
    found = estimate_local(spec, tokens, shape, target=TargetDevice("gpu", gpu)).seconds
    assert found is not None
    first, usual, last = START_SECONDS
    return Range[float](
        low=total / (found.high - last),
        expected=total / (found.expected - usual),
        high=total / (found.low - first),
    )


def shares(figures: list[Figure]) -> Iterator[tuple[str, float, int]]:
    """Yield the shares of the figures that each bound is about, with their number."""
    sized = [one for one in figures if one.unit == "GB" and one.stack != "experts"]
    timed = [one for one in figures if one.unit != "GB"]
    kinds = {
        "memory, like": [one.within for one in sized if one.stack == "like"],
        "memory, old": [one.within for one in sized if one.stack == "old"],
        "memory, lean": [one.within for one in sized if one.stack == "lean"],
        "memory, all": [one.within for one in sized],
        "time": [one.within for one in timed],
        "time, close": [one.close for one in timed],
    }
    for name, held in kinds.items():
        if held:
            yield name, sum(held) / len(held), len(held)


if __name__ == "__main__":
    sys.exit(main())
