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
from finetune_gateway.estimation.model_shape import ModelShape
from finetune_gateway.estimation.serving_bounds import BILLIONS, check_served

# What is reached of bandwidth and of FLOP/s, and the seconds that an engine takes for each request
# in a step, as expected. At best: all of it, and none.
_EXPECTED, _BEST = (0.7, 0.5, 3e-5), (1.0, 1.0, 0.0)
# Between releases of one engine (vLLM 0.5.4 and 0.6.0) lay a factor of 2.7 on the same GPU.
_SLOWER = 3
USERS = 64


class ServedModel(NamedTuple):
    """A model that is served: its weights, and the bytes of the cache of a token.

    ``cache_bytes`` None: those of models with grouped-query attention, which grow with the root of
    their size (131 kB at 8 billion parameters, 328 kB at 70). ``expert_billions``: of the
    parameters those of experts, of which a token uses the share ``used``.
    """

    billions: float = 8.0  # of parameters
    bytes_per_weight: float = 2.0
    cache_bytes: float | None = None
    expert_billions: float = 0.0
    used: float = 1.0
    name: str = ""
    assumed: bool = False  # its size is that of no base

    @property
    def parameters(self) -> float:
        return self.billions * 1e9

    @property
    def bytes(self) -> float:
        return self.parameters * self.bytes_per_weight

    @property
    def cache(self) -> float:
        return 46e3 * float(self.billions) ** 0.5 if self.cache_bytes is None else self.cache_bytes

    @property
    def active(self) -> float:
        """Parameters that a token uses."""
        return self.parameters - self.expert_billions * 1e9 * (1 - self.used)

    def read_bytes(self, at_once: int) -> float:
        """Return the bytes of the weights that a step reads: each token of it chooses experts of
        its own, so that many tokens at once use nearly all."""
        unused = self.expert_billions * 1e9 * (1 - self.used) ** at_once
        return (self.parameters - unused) * self.bytes_per_weight

    @classmethod
    def base(
        cls,
        name: str,
        *,
        parameters: int,
        expert_parameters: int,
        used: float,
        cache_bytes: float | None,
    ) -> ServedModel:
        """Return a base as it is served in 16 bits."""
        return cls(
            max(BILLIONS[0], parameters / 1e9),
            cache_bytes=cache_bytes,
            expert_billions=expert_parameters / 1e9,
            used=used,
            name=name,
        )

    def __str__(self) -> str:
        small = self.billions < 0.1
        size = f"{1000 * self.billions:.3g} million" if small else f"{self.billions:.3g} billion"
        size += f" parameters{' (assumed)' if self.assumed else ''}"
        if self.expert_billions:
            size += f", {self.active / 1e9:.3g} billion of them for a token,"
        size += f" in {8 * self.bytes_per_weight:g} bits"
        return f"{self.name}, {size}" if self.name else size


def served_as(shape: ModelShape, name: str) -> ServedModel:
    """Return a base as it is served, by its shape."""
    return ServedModel.base(
        name,
        parameters=shape.parameters,
        expert_parameters=shape.expert_parameters,
        used=shape.active_experts / shape.experts,
        cache_bytes=shape.cache_bytes,
    )


def throughput(
    gpu: Gpu, model: ServedModel, tokens_in: int, tokens_out: int, users: int = USERS
) -> Range[Decimal] | None:
    """Return the tokens per second of one GPU, in and out together, with so many requests at once;
    to two digits. None if the model and one request do not fit. Raises SpecError for figures out of
    bounds."""
    check_served(users, model.billions)
    at_once = min(users, requests_that_fit(gpu, model, tokens_in, tokens_out))
    if at_once < 1:
        return None
    context = _context(tokens_in, tokens_out)

    def speed(bandwidth: float, flops: float, overhead: float) -> float:
        operations = 2 * model.active / (flops * gpu.flops)  # seconds a token
        read = model.read_bytes(at_once) + at_once * context * model.cache
        read /= bandwidth * gpu.bandwidth  # seconds
        step = max(read, at_once * operations) + at_once * overhead
        answers = max(1, tokens_out)
        return (tokens_in + answers) / (tokens_in * operations + answers * step / at_once)

    expected, best = speed(*_EXPECTED), speed(*_BEST)
    low, middle, high = map(two_digits, (expected / _SLOWER, expected, best))
    return Range[Decimal](low=low, expected=middle, high=high)


def requests_that_fit(gpu: Gpu, model: ServedModel, tokens_in: int, tokens_out: int) -> int:
    """Return how many requests at once the memory of a GPU holds beside the model; 0 if none."""
    room = gpu.usable_bytes - model.bytes
    return max(0, int(room / (max(1.0, _context(tokens_in, tokens_out)) * model.cache)))


def _context(tokens_in: int, tokens_out: int) -> float:
    """Return the tokens of a request while it is answered, in the mean."""
    return tokens_in + tokens_out / 2


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
    fitting = requests_that_fit(GPUS[name], model, tokens_in, tokens_out)
    at_once = f"{min(users, fitting):,} request{'' if min(users, fitting) == 1 else 's'} at once"
    full = f", all that fit of {users:,}" if fitting < users else ""
    of = f"{model}, {at_once}{full}"
    span = f"{found.low:,f} to {found.high:,f}"
    source = f"{span} by its bandwidth and FLOP/s, not measured, for {of}"
    return ServingSpeed(found, f"{source} (--serve-billions, --serve-users)", of)


def two_digits(amount: float) -> Decimal:
    """Return an amount with two digits that count, such as 1,700 for 1,689."""
    return Decimal(f"{Decimal(f'{amount:.1e}'):f}")
