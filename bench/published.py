"""What estimates say beside what others have published of fine-tuning on one GPU.

``published.toml`` has the figures with their sources: memory, and tokens a second. Each run is
estimated by the product's own formulas on rows of one length, all of whose tokens are trained. A
stack that keeps other things in memory than ours, by what its source says, is computed with the
same parts, as ``Stack`` names them. Prints each figure beside ours, then the shares within our
range: of all figures, of those that estimates were set with in sight (``fitted``) and of the
others. Exit code 3 if a bound of ``BOUNDS`` is missed. Trains nothing; takes a second.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from _common import Bench, arguments, say, versions

from finetune_gateway import TrainingSpec
from finetune_gateway.estimation.assumptions import START_SECONDS, TargetDevice
from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.gpus import GPUS
from finetune_gateway.estimation.local import estimate_local
from finetune_gateway.estimation.memory import (
    AUTOCAST,
    CUDA_OVERHEAD,
    HOLES_GPU,
    Setup,
    head_memory,
    most_memory,
    saved_bytes,
    step_memory,
)
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.spec import TrainingType
from finetune_gateway.tokens.stats import TokenStats

DATA = Path(__file__).with_name("published.toml")
STEPS = 1_000  # of a run, so that the seconds of its start are known and left out
CLOSE = 1.5  # a factor
# Bytes of a logit while its gradient is taken. "chunks": torchtune keeps all in bfloat16, and casts
# one of 8 chunks to float32 (CEWithChunkedOutputLoss). "kept": in bfloat16, a shifted copy, and in
# float32 what log_softmax gives and its gradient, since autocast takes the loss in float32
# (modeling_qwen.py). "cast": logits.float() before it, so that the copy is in float32 too
# (transformers before 4.45, modeling_llama.py); "labels": the same with the labels shifted instead
# (since 4.46, loss_utils.py). "replaced": the gradient takes the place of what is in bfloat16
# (Unsloth's cross_entropy_loss.py); "float32": of what is cast to it (fms-acceleration's copy of
# that, Llama-3-8B: 6 bytes a logit between its runs with and without Liger's loss).
LOGITS = {
    "replaced": 2,
    "float32": 2 + 4,
    "chunks": 2 + 4 / 8,
    "kept": 2 + 2 + 4 + 4,
    "labels": 2 + 4 + 4 + 4,
    "cast": 2 + 4 + 4 + 4 + 4,
}
WHOLE = ("kept", "labels", "cast")
# Shares of the figures in the range, and of the times within a factor of CLOSE: of memory like for
# like, by the terms of each stack, and, of all figures, by what the product says of its own stack,
# whatever trained.
BOUNDS = {"memory": 0.95, "memory, ours": 0.95, "memory, any": 0.60, "time": 0.90,
          "time, close": 0.75}  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """What a published run keeps in memory otherwise than ours, by what its source says."""

    logits: str = "parts"  # parts, as ours; else one of LOGITS
    compiled: bool = False  # kernels that make norms and gates again, as ours do on a CPU
    offloaded: bool = False  # the inputs of layers lie in the host's memory
    fused_step: bool = False  # a gradient is used, and freed, as soon as it is there
    paged: bool = False  # what the optimizer keeps lies in the host's memory
    float32: bool = False  # weights that are trained whole
    pure: bool = False  # all in bfloat16, without autocast: adapters and what layers keep too
    counted: str = "device"  # | torch: without CUDA's own | tensors: without the allocator's holes
    least: bool = False  # what is published is the least that any run needs
    experts: bool = False  # in 4 bits; bitsandbytes, and so we, leave them in 16

    @classmethod
    def of(cls, source: dict[str, Any]) -> Stack:
        return cls(**{one.name: source[one.name] for one in fields(cls) if one.name in source})

    @property
    def words(self) -> str:
        """Return what differs, or that nothing does."""
        logits = [] if self.logits == "parts" else [f"logits {self.logits}"]
        counted = [] if self.counted == "device" else [f"{self.counted} counted"]
        named = [one.name for one in fields(self) if getattr(self, one.name) is True]
        return ", ".join([*logits, *named, *counted]) or "as ours"


@dataclass(frozen=True)
class Figure:
    """One published figure beside ours, in GB or tokens a second."""

    source: str
    run: str
    stack: Stack
    fitted: bool
    unit: str
    published: float
    ours: Range[float]
    plain: Range[float] | None = None  # of memory: what the product says, of its own stack
    set_with: bool = False  # that was set with it in sight; ``fitted`` is about the terms too

    @property
    def within(self) -> bool:
        """Return whether the figure is in our range; the least must not be above it."""
        low = 0.0 if self.stack.least and self.unit == "GB" else self.ours.low
        return low <= self.published <= self.ours.high

    @property
    def as_it_is(self) -> bool:
        """Return whether the figure is in what the product says of our own stack."""
        return bool(self.plain and self.plain.low <= self.published <= self.plain.high)

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
            f"{self.factor:5.2f} {where:3} {self.source}: {self.stack.words}"
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
    plain = {  # what the product says of its own stack knows nothing of the terms of another
        "all": figures,
        "fitted": [one for one in figures if one.set_with],
        "held back": [one for one in figures if not one.set_with],
    }
    for name in sets:
        found = [one for one in shares(sets[name]) if one[0] != "memory, any"]
        found += [one for one in shares(plain[name]) if one[0] == "memory, any"]
        for metric, share, number in found:
            of = name
            if metric == "memory, any" and name == "held back":  # and not of the terms of a stack
                of = "estimates not set with it"
            bench.figure(
                f"{metric} ({of}, {number} figures)", [share], [1.0], "share",
                at_least=BOUNDS.get(metric),
            )  # fmt: skip
    return bench.end(asked.out)


def read(path: Path) -> Iterator[Figure]:
    """Yield the figures of the file, each beside ours."""
    data = tomllib.loads(path.read_text("utf-8"))
    types = data["types"]
    shapes = {name: shape_of_row(row, types.get(name, "")) for name, row in data["models"].items()}
    for source in data["source"]:
        for model, training, rows, length, gigabytes, speed in source["figures"]:
            about: dict[str, Any] = {
                "source": source["name"],
                "run": f"{model} {training} {rows} x {length:,}, {source['gpu']}",
                "stack": Stack.of(source),
            }
            spec = spec_of(source, training, rows)
            if gigabytes:
                at = (spec, shapes[model], rows, length)
                ours, plain = memory(*at, about["stack"]), memory(*at, Stack())
                seen = source["fitted"] or source.get("in_sight", False)
                about["set_with"] = source["fitted"]
                yield Figure(
                    **about, fitted=seen, unit="GB", published=gigabytes, ours=ours, plain=plain
                )
            if speed:
                ours = tokens_per_second(spec, shapes[model], rows, length, source["gpu"])
                seen = source.get("time_fitted", source["fitted"])
                yield Figure(**about, fitted=seen, unit="tokens/s", published=speed, ours=ours)


def shape_of_row(row: list[Any], model_type: str) -> ModelShape:
    hidden, layers, heads, kv_heads, inner, vocabulary, tied, *experts = row
    of, active = experts or (1, 1)
    return ModelShape(
        model_type=model_type, hidden_size=hidden, layers=layers, heads=heads, kv_heads=kv_heads,
        head_dim=hidden // heads, intermediate_size=inner, vocab_size=vocabulary, tied=tied,
        experts=of, active_experts=active, stored_bytes=2,
    )  # fmt: skip


def spec_of(source: dict[str, Any], training: TrainingType, rows: int) -> TrainingSpec:
    options: dict[str, Any] = {
        name: source[name] for name in ("optim", "use_dora") if name in source
    }
    if "targets" in source:
        options["target_modules"] = tuple(source["targets"])
    return TrainingSpec.build(
        model="m", training_type=training, lora_r=source["r"], batch_size=rows,
        micro_batch_size=rows, n_epochs=1, gradient_checkpointing=source.get("checkpointing", True),
        **options,
    )  # fmt: skip


def memory(
    spec: TrainingSpec, shape: ModelShape, rows: int, length: int, stack: Stack
) -> Range[float]:
    """Return our GB of a step of this stack, whatever the GPU holds: several were published for a
    GPU that is not named. Full training in bfloat16, unless the stack says otherwise."""
    setup = Setup.of(spec, "gpu", shape)
    if spec.training_type == "full":
        setup = replace(setup, float32=stack.float32)
    expected = stack_memory(shape, setup, stack, rows, length)
    high = most_memory(expected, "gpu")
    return Range[float](low=expected * 0.8 / 1e9, expected=expected / 1e9, high=high / 1e9)


def stack_memory(shape: ModelShape, setup: Setup, stack: Stack, rows: int, length: int) -> int:
    """Return the bytes of a step at its worst moment, as ``step_memory`` counts them of ours."""
    parts, tokens = step_memory(shape, setup, rows, length), rows * length
    ours = layer = saved_bytes(shape, setup, rows, length)
    if stack.pure:
        layer = int(ours * 2 / (4 * AUTOCAST))
    if stack.compiled:  # counted as what our engine keeps of one row on a CPU
        kernels = replace(setup, device="cpu", checkpointing=False)
        layer = saved_bytes(shape, kernels, 1, tokens)
    inputs = 0 if stack.offloaded else setup.computed * shape.hidden_size * tokens * shape.layers
    held = inputs + layer if setup.checkpointing else layer * shape.layers
    adapters, optimizer = parts.adapters, parts.optimizer
    if stack.pure and adapters:
        adapters, optimizer = adapters // 2, optimizer // 2
    gradients = adapters or (4 if setup.float32 else 2) * shape.parameters
    if stack.fused_step:
        gradients = gradients * shape.vocab_size * shape.hidden_size // shape.parameters
    logits = head_memory(shape, setup, tokens)
    if stack.logits != "parts":
        logits = int(LOGITS[stack.logits] * tokens * shape.vocab_size)
    early = gradients if rows < setup.batch else 0
    moment = max(held + logits + early, layer + gradients)
    overhead = parts.overhead - int(HOLES_GPU * ours)
    overhead -= 0 if stack.counted == "device" else CUDA_OVERHEAD
    overhead += 0 if stack.counted == "tensors" else int(HOLES_GPU * layer)
    return parts.weights + adapters + moment + optimizer * (not stack.paged) + overhead


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
    sized = [one for one in figures if one.unit == "GB" and not one.stack.experts]
    timed = [one for one in figures if one.unit != "GB"]
    alike = [one for one in sized if not one.stack.least]
    kinds = {
        "memory": [one.within for one in alike],
        "memory, ours": [one.within for one in alike if one.stack == Stack()],
        "memory, logits whole": [one.within for one in alike if one.stack.logits in WHOLE],
        "memory, least": [one.within for one in sized if one.stack.least],
        "memory, any": [one.as_it_is for one in sized],
        "time": [one.within for one in timed],
        "time, close": [one.close for one in timed],
    }
    for name, held in kinds.items():
        if held:
            yield name, sum(held) / len(held), len(held)


if __name__ == "__main__":
    sys.exit(main())
