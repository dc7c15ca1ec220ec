"""The result of an estimate: ranges, parts of memory, and the rule for epochs."""

from __future__ import annotations

from decimal import Decimal
from math import ceil
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import ConfigDict, Field, computed_field, field_validator, model_validator

from finetune_gateway.estimation.price_table import Price
from finetune_gateway.estimation.profiles import LifeCycle
from finetune_gateway.model import Computing, Given
from finetune_gateway.renderers import Shown
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

MILLION = 1_000_000

Number = TypeVar("Number", Decimal, int, float)


class Range(Given, Generic[Number]):
    """A figure with its uncertainty: low <= expected <= high."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    low: Number
    expected: Number
    high: Number

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.expected <= self.high:
            raise ValueError("low <= expected <= high does not hold")
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Name the class by its parts: pickle finds no ``Range[int]`` in this module."""
        return _empty_range, (self.__pydantic_generic_metadata__["args"],), self.__getstate__()


def _empty_range(args: tuple[type, ...]) -> Range[Any]:
    kind: type[Range[Any]] = Range[args] if args else Range  # type: ignore[valid-type]
    return kind.__new__(kind)


class MemoryParts(Given):
    """Peak memory of a training step by part, in bytes."""

    model_config = ConfigDict(frozen=True)

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int

    @property
    def total(self) -> int:
        return sum(getattr(self, name) for name in type(self).model_fields)


class RowCounts(Given):
    """The rows of the data: those that are trained, and those that are held out of them. ``asked``:
    the share was asked for. ``note``: what is to be known of what is held out, in words."""

    model_config = ConfigDict(frozen=True)

    trained: int
    held_out: int = 0
    asked: bool = False
    note: str = ""


class Estimate(Shown, Given, Computing):
    """The cost, time and memory of a run. ``billed_tokens`` are of the whole run, like OpenAI's
    ``trained_tokens``; ``seconds`` are wall time; ``memory_bytes`` is the peak.

    None means unknown, and ``unknown`` says why.
    """

    model_config = ConfigDict(frozen=True, defer_build=True)

    backend: str
    model: str
    method: str
    training_type: str | None = None
    n_epochs: int
    n_epochs_rule: str
    rows: RowCounts | None = None  # None: a backend was asked for it alone
    tokens: TokenStats | None = None
    billed_tokens: Range[int] | None = None
    parameters: int | None = None  # of the base, where its shape is known
    read_tokens: int | None = None  # of the whole run by a local trainer, once rows are cut
    trained_tokens: Range[int] | None = None  # of these, as it counts them
    steps: int | None = None
    validation_tokens: int | None = None  # of the validation file, once; not in billed_tokens
    cost_usd: Range[Decimal] | None = None
    seconds: Range[float] | None = None
    memory_bytes: Range[int] | None = None
    memory_parts: MemoryParts | None = None  # of the expected figure
    cache_bytes: int | None = None  # that a token takes while it is served, in 16 bits
    expert_parameters: int = 0  # of the parameters those of experts
    used_experts: float = 1.0  # share of them that a token uses
    gpu: str | None = None  # by name, if it would not run on this machine
    smallest_gpu: str | None = None  # of the known ones, that holds the high figure
    largest_batch: int | None = None  # rows a step that fit the GPU, or this machine
    energy_kwh: Range[float] | None = None
    memory_available_bytes: int | None = None  # of the machine or GPU it would run on
    prices: list[Price] = Field(default_factory=list)
    data_leaves_machine: bool
    host: str | None = None
    azure_training: str | None = None  # how Azure would train
    residency: str | None = None  # where the data go then
    life_cycle: LifeCycle | None = None  # None: no host can retire it
    assumptions: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    unknown: list[str] = Field(default_factory=list)
    # What submit refuses unless it is allowed: "longer", "oversize" -> why.
    refused: dict[str, str] = Field(default_factory=dict)

    @field_validator("tokens")
    @classmethod
    def _kept(cls, tokens: TokenStats | None) -> TokenStats | None:
        return tokens and tokens.without_lengths()

    @computed_field  # type: ignore[prop-decorator]  # mypy#1362
    @property
    def fits(self) -> Literal["yes", "maybe", "no"] | None:
        """Return yes if the high figure fits the memory, maybe if only the expected one does."""
        need, have = self.memory_bytes, self.memory_available_bytes
        if need is None or have is None:
            return None
        return "yes" if need.high <= have else "maybe" if need.expected <= have else "no"


def auto_epochs(rows: int) -> int:
    """Return the epochs that OpenAI's cookbook expects for n_epochs="auto": 3, more for fewer than
    34 rows, fewer above 8,333 (Chat_finetuning_data_prep). The provider decides."""
    if rows and rows * 3 < 100:
        return min(25, 100 // rows)
    if rows * 3 > 25_000:
        return max(1, 25_000 // rows)
    return 3


def auto_eval_steps(save_steps: int, steps: int, trained_rows: float, validation_rows: int) -> int:
    """Return the steps between two evaluations for eval_steps="auto": at each checkpoint, unless
    more than one row would be evaluated for four that are trained; at least once, at the end.

    A row is evaluated in a third to a half of the time that it is trained in: that is 8 to 13 % of
    a job. ``trained_rows``: of all epochs.
    """
    most = max(1, int(trained_rows / 4 / max(1, validation_rows)))
    return save_steps * ceil(ceil(steps / save_steps) / most)


def epochs_of(spec: TrainingSpec, rows: int) -> tuple[int, int, int, str]:
    """Return the low, expected and high number of epochs, and the rule they follow."""
    if spec.n_epochs != "auto":
        return spec.n_epochs, spec.n_epochs, spec.n_epochs, "given"
    expected = auto_epochs(rows)
    rule = "auto: the rule of OpenAI's cookbook; the provider decides, and may do one more or less"
    return max(1, expected - 1), expected, expected + 1, rule
