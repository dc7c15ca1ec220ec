"""How many tokens a second a GPU serves, from its datasheet and the size of the model.

Prompts take two FLOPs a weight and token. A step of decoding writes a token for each request at
once and reads all weights and the cache of every request, so it is bound by bandwidth. Nothing is
measured here; eight published figures lie inside the range (``bench/serving_speed.py``).
"""

from __future__ import annotations

from decimal import Decimal
from typing import NamedTuple

from finetune_gateway.estimation.estimate import Range
from finetune_gateway.estimation.gpus import GPUS, Gpu, gpus_named
from finetune_gateway.estimation.serving_bounds import check_served

# What is reached of bandwidth and of FLOP/s, and the seconds that an engine takes for each request
# in a step, as expected. At best: all of it, and none.
_EXPECTED, _BEST = (0.7, 0.5, 3e-5), (1.0, 1.0, 0.0)
# Between releases of one engine (vLLM 0.5.4 and 0.6.0) lay a factor of 2.7 on the same GPU.
_SLOWER = 3
USERS = 64


class ServedModel(NamedTuple):
    """A model that is served: its weights, and the bytes of the cache of a token.

    ``cache_bytes`` None: those of models with grouped-query attention, which grow with the root of
    their size (131 kB at 8 billion parameters, 328 kB at 70).
    """

    billions: float = 8.0  # of parameters
    bytes_per_weight: float = 2.0
    cache_bytes: float | None = None

    @property
    def parameters(self) -> float:
        return self.billions * 1e9

    @property
    def bytes(self) -> float:
        return self.parameters * self.bytes_per_weight

    @property
    def cache(self) -> float:
        return 46e3 * float(self.billions) ** 0.5 if self.cache_bytes is None else self.cache_bytes

    def __str__(self) -> str:
        bits = f"{8 * self.bytes_per_weight:g} bits"
        return f"a model of {self.billions:.3g} billion parameters in {bits}"


def throughput(
    gpu: Gpu, model: ServedModel, tokens_in: int, tokens_out: int, users: int = USERS
) -> Range[Decimal] | None:
    """Return the tokens per second of one GPU, in and out together, with so many requests at once;
    to two digits. None if the model and one request do not fit. Raises SpecError for figures out of
    bounds."""
    check_served(users, model.billions)
    context = tokens_in + tokens_out / 2  # of a request while it is answered
    room = gpu.usable_bytes - model.bytes
    if room < max(1.0, context) * model.cache:
        return None
    at_once = max(1, min(users, int(room / (max(1.0, context) * model.cache))))

    def speed(bandwidth: float, flops: float, overhead: float) -> float:
        operations = 2 * model.parameters / (flops * gpu.flops)  # seconds a token
        read = (model.bytes + at_once * context * model.cache) / (bandwidth * gpu.bandwidth)
        step = max(read, at_once * operations) + at_once * overhead
        answers = max(1, tokens_out)
        return (tokens_in + answers) / (tokens_in * operations + answers * step / at_once)

    expected, best = speed(*_EXPECTED), speed(*_BEST)
    low, middle, high = map(two_digits, (expected / _SLOWER, expected, best))
    return Range[Decimal](low=low, expected=middle, high=high)


class ServingSpeed(NamedTuple):
    """Tokens per second of one GPU, in and out together, and where they are from; None with why."""

    tokens: Range[Decimal] | None
    source: str
    of: str = ""  # which model, for how many at once


def speed_of(
    gpu: str,
    given: Decimal | None,
    model: ServedModel,
    tokens_in: int,
    tokens_out: int,
    users: int = USERS,
) -> ServingSpeed:
    """Return the speed that was given, else that of the GPU with this name, with its source; None
    for a GPU that is not known, or one that is too small. Raises SpecError as ``throughput``."""
    if given is not None:
        return ServingSpeed(
            Range[Decimal](low=given, expected=given, high=given), "given by the user"
        )
    name = next(iter(gpus_named(gpu)), None)
    if name is None:
        return ServingSpeed(None, f"The speed of {gpu}: give --serve-tokens-per-second.")
    found = throughput(GPUS[name], model, tokens_in, tokens_out, users)
    if found is None:
        return ServingSpeed(
            None,
            f"The speed of {name}: {model} and a request do not fit it. Of several GPUs give "
            "--serve-usd-per-hour and --serve-tokens-per-second.",
        )
    at_once = "1 request" if users == 1 else f"{users:,} requests"
    of = f"{model} and {at_once} at once (--serve-billions, --serve-users)"
    span = f"{found.low:f} to {found.high:f}"
    return ServingSpeed(found, f"{span} by its bandwidth and FLOP/s, not measured, for {of}", of)


def two_digits(amount: float) -> Decimal:
    """Return an amount with two digits that count, such as 1,700 for 1,689."""
    return Decimal(f"{Decimal(f'{amount:.1e}'):f}")
