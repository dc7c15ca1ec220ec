"""What to train, in the same words for every backend.

Knows nothing of files or providers. Names are OpenAI's for jobs and Hugging Face's for
training. A backend honours a setting or refuses it; it never ignores one
(``Capabilities.require``).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import (
    Annotated,
    Any,
    Literal,
    Protocol,
    Required,
    Self,
    TypedDict,
    Unpack,
    get_type_hints,
)

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from finetune_gateway.errors import SpecError, shown, unknown
from finetune_gateway.model import GivenOrStored, require_numbers, type_words

Method = Literal["sft", "dpo", "orpo", "kto", "pretrain", "reward", "reinforcement"]
AnyMethod = Method | Literal["supervised"]  # as callers may write it
TrainingType = Literal["lora", "qlora", "full"]
TrainOn = Literal["assistant", "last_assistant", "all"]
CallFormat = Literal["hermes"]
Engine = Literal["fast", "trl"]
Tracker = Literal["none", "trackio", "tensorboard", "wandb", "mlflow"]
Auto = Literal["auto"]

# The limits are those of OpenAI's specification.
Epochs = Annotated[int, Field(ge=1, le=50)]
BatchSize = Annotated[int, Field(ge=1, le=256)]
Seed = Annotated[int, Field(ge=0, le=2147483647)]
Suffix = Annotated[str, Field(min_length=1, max_length=64)]

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Factor = Annotated[float, Field(ge=0.0001, le=10_000)]  # of a loss, whose square fp32 still holds
Share = Annotated[float, Field(ge=0, lt=1)]

# Fields that jobs of older stores do not have. At their default they are no part of what an equal
# job is recognised by: a submit that is repeated after an upgrade must not make a second job.
LATER_FIELDS = (
    "stop_on_divergence", "chat_template_kwargs", "call_format", "continue_from", "loss_type",
    "beta", "label_smoothing", "desirable_weight", "undesirable_weight", "use_dora",
    "use_rslora", "modules_to_save", "optim", "max_grad_norm", "engine", "micro_batch_size",
    "bf16", "early_stopping_patience", "load_best_model_at_end", "report_to", "backend_params",
)  # fmt: skip

# OpenAI calls sft "supervised"; both words are accepted, one is kept.
METHOD_ALIASES = {"supervised": "sft"}


class HasId(Protocol):
    """A job, by its object."""

    @property
    def id(self) -> str: ...


class TrainingOptions(TypedDict, total=False):
    """The keywords that say how to train, as ``submit``, ``plan`` and ``estimate`` take them: the
    fields of ``TrainingSpec`` without ``model``."""

    method: AnyMethod
    n_epochs: int | Literal["auto"]
    batch_size: int | Literal["auto"]
    learning_rate: float | None
    learning_rate_multiplier: float | Literal["auto"] | None
    seed: int | None
    suffix: str | None
    train_on: TrainOn
    training_type: TrainingType | None
    max_steps: int | None
    max_length: int | None
    lora_r: int
    lora_alpha: int
    lora_dropout: float
    target_modules: str | list[str] | tuple[str, ...]
    lr_scheduler_type: str
    warmup_ratio: float
    weight_decay: float
    gradient_accumulation_steps: int
    gradient_checkpointing: bool | Literal["auto"]
    packing: bool
    logging_steps: int | Literal["auto"]
    eval_steps: int | Literal["auto"]
    save_steps: int | Literal["auto"]
    stop_on_divergence: bool
    chat_template: str | None
    chat_template_kwargs: dict[str, bool | int | str] | None
    call_format: CallFormat | None
    continue_from: str | HasId | None
    loss_type: str | None
    beta: float | None
    label_smoothing: float
    desirable_weight: float
    undesirable_weight: float
    use_dora: bool
    use_rslora: bool
    modules_to_save: str | list[str] | tuple[str, ...]
    optim: str
    max_grad_norm: float
    engine: Engine | Literal["auto"]
    micro_batch_size: int | Literal["auto"]
    bf16: bool | Literal["auto"]
    early_stopping_patience: int | Literal["auto"]
    load_best_model_at_end: bool | Literal["auto"]
    report_to: Tracker
    backend_params: dict[str, Any] | None


class SpecOptions(TrainingOptions, total=False):
    """The fields of ``TrainingSpec``."""

    model: Required[str]


def _alias(value: Any) -> Any:
    return METHOD_ALIASES.get(value, value) if isinstance(value, str) else value


class TrainingSpec(GivenOrStored):
    """One training run.

    =============================================  ==========================================
    ``TrainingSpec(model="gpt-4.1-mini-2025-04-14")``          hosted SFT, all settings auto
    ``TrainingSpec(model="Qwen/Qwen3-4B", lora_r=16)``         local LoRA
    ``TrainingSpec(model="./base", training_type="full")``     all weights
    ``TrainingSpec(model=..., n_epochs=2, seed=7)``            both
    ``TrainingSpec(model=..., max_steps=200)``                 stop by steps (local)
    =============================================  ==========================================

    ``help(gateway.submit)`` has a line on each field.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, description="Base model to train")]
    method: Annotated[Method, BeforeValidator(_alias)] = Field(
        default="sft", description="What is learned from the rows"
    )
    n_epochs: Epochs | Auto = Field(default="auto", description="Passes over the data")
    batch_size: BatchSize | Auto = Field(default="auto", description="Rows per batch")
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="Absolute learning rate"
    )
    learning_rate_multiplier: Positive | Auto | None = Field(
        default=None, description="Factor on the host's learning rate"
    )
    seed: Seed | None = Field(default=None, description="The same seed gives the same run")
    suffix: Suffix | None = Field(default=None, description="Part of the new model's name")
    train_on: TrainOn = Field(default="assistant", description="Whose tokens carry the loss")

    # Local training. Hosted backends refuse these when they are set.
    training_type: TrainingType | None = Field(
        default=None, description="Which weights are trained; None is lora"
    )
    max_steps: Count | None = Field(default=None, description="Training steps after which to stop")
    max_length: Annotated[int, Field(ge=8)] | None = Field(
        default=None, description="Tokens per row; the rest is cut off"
    )
    lora_r: Annotated[int, Field(ge=1, le=1024)] = Field(
        default=16, description="Rank of the LoRA adapter"
    )
    lora_alpha: Count = Field(default=32, description="Scale of the LoRA adapter")
    lora_dropout: Share = Field(default=0.0, description="Dropout of the LoRA adapter")
    target_modules: str | tuple[str, ...] = Field(
        default="all-linear", description="Layers that get an adapter"
    )
    lr_scheduler_type: str = Field(
        default="linear", description="Schedule of the learning rate, as transformers names it"
    )
    warmup_ratio: Share = Field(
        default=0.05, description="Share of the steps in which the learning rate rises"
    )
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        default=0.0, description="Weight decay of AdamW"
    )
    gradient_accumulation_steps: Count = Field(default=1, description="Batches per training step")
    gradient_checkpointing: bool | Auto = Field(
        default="auto", description="Less memory for more time; auto: on a GPU"
    )
    packing: bool = Field(
        default=False, description="Put several rows into one sequence of max_length tokens"
    )
    logging_steps: Count | Auto = Field(default="auto", description="Steps between metrics")
    eval_steps: Count | Auto = Field(default="auto", description="Steps between evaluations")
    save_steps: Count | Auto = Field(default="auto", description="Steps between checkpoints")
    stop_on_divergence: bool = Field(
        default=True, description="End the job when its loss diverges; one that is NaN always does"
    )
    chat_template: str | None = Field(
        default=None, description="Path of a Jinja file to use in place of the model's own"
    )
    chat_template_kwargs: dict[str, bool | int | str] | None = Field(
        default=None, description="Switches of the chat template, kept for serving"
    )
    call_format: CallFormat | None = Field(
        default=None, description="Calls of tools as text, for a template without tools"
    )
    continue_from: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="Job whose model is trained on: JOB, JOB@STEP or JOB@best"
    )
    loss_type: str | None = Field(
        default=None, description="Loss of the method, as TRL names it; None is its usual one"
    )
    beta: Factor | None = Field(
        default=None, description="How strongly dpo, orpo and kto stay with their reference"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.0, description="Share of preference pairs that may be the wrong way round (dpo)"
    )
    desirable_weight: Factor = Field(
        default=1.0, description="Weight of good answers in the loss (kto)"
    )
    undesirable_weight: Factor = Field(
        default=1.0, description="Weight of bad answers in the loss (kto)"
    )
    use_dora: bool = Field(
        default=False,
        description="Train the magnitude of each weight apart from its direction: DoRA",
    )
    use_rslora: bool = Field(
        default=False, description="Scale the adapter by alpha over the root of its rank: rsLoRA"
    )
    modules_to_save: tuple[str, ...] = Field(
        default=(), description="Modules that are trained whole beside the adapter"
    )
    optim: Annotated[str, Field(min_length=1)] = Field(
        default="adamw_torch_fused", description="Optimizer, as transformers names it"
    )
    max_grad_norm: Annotated[float, Field(ge=0)] = Field(
        default=1.0, description="Norm to which gradients are clipped; 0 for never"
    )
    engine: Engine | Auto = Field(
        default="auto", description="Whose training step: fast is ours, trl is TRL's own"
    )
    micro_batch_size: BatchSize | Auto = Field(
        default="auto", description="Rows per forward pass; a batch is accumulated from them"
    )
    bf16: bool | Auto = Field(
        default="auto", description="Compute in bfloat16; auto: where the device is faster so"
    )
    early_stopping_patience: Annotated[int, Field(ge=0)] | Auto = Field(
        default="auto", description="Evaluations without a better loss until the end; 0 for never"
    )
    load_best_model_at_end: bool | Auto = Field(
        default="auto", description="The best checkpoint is the result; auto: with held-out rows"
    )
    report_to: Tracker = Field(default="none", description="Tracker that gets the metrics too")
    backend_params: dict[str, Any] | None = Field(
        default=None, description="Settings that its backend alone has: ftg backends NAME"
    )

    @classmethod
    def build(cls, **options: Unpack[SpecOptions]) -> Self:
        """Return a spec. Raises SpecError, in plain words, for a wrong name or value."""
        given: dict[str, Any] = {**options}  # of looser types than the fields: "supervised", lists
        try:
            spec = cls(**given)
        except ValidationError as exc:
            raise _in_words(exc) from None
        _check_suffix(spec.suffix)
        require_numbers(options, spec, wanted)
        return spec

    @field_validator("modules_to_save", mode="before")
    @classmethod
    def _one_name_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_learning_rate(self) -> Self:
        if self.learning_rate is not None and self.learning_rate_multiplier is not None:
            raise ValueError(
                "learning_rate and learning_rate_multiplier exclude each other: the first is "
                "absolute, the second a factor on the host's own"
            )
        return self

    @model_validator(mode="after")
    def _encodable(self) -> Self:
        for name in self.model_fields_set:
            value = getattr(self, name)
            try:
                "".join(value if isinstance(value, tuple) else [str(value)]).encode()
            except UnicodeEncodeError:
                raise ValueError(f"{name} holds what is no text in UTF-8") from None
            except Exception:  # an object of others that cannot even be shown
                raise ValueError(f"{name} holds what cannot be shown") from None
        return self

    @property
    def chosen(self) -> frozenset[str]:
        """The fields that were given, be it with their default; None gives nothing."""
        values = self._later | self.__dict__
        return frozenset(name for name in self.model_fields_set if values[name] is not None)

    def canonical(self) -> dict[str, Any]:
        """Return the spec as plain JSON, the same for equal specs however they were written, and
        for those that an older version has stored."""
        known = type(self).model_fields
        unset = {name for name in LATER_FIELDS if getattr(self, name) == known[name].default}
        fields = self.model_dump(mode="json", exclude=unset)
        del fields["chosen"]
        return fields

    # A dump has every value, so that a default which changes later changes no stored job, and says
    # which of them were chosen. That is no word of a user, so what has it was stored: fields that
    # only a later version has are kept and written again, and a run that chose one is refused.

    @model_serializer(mode="wrap")
    def _dump(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {**write(self), **self._later, "chosen": sorted(self.chosen)}

    @classmethod
    def _was_stored(cls, values: Mapping[str, Any]) -> bool:
        return isinstance(values.get("chosen"), list)

    @model_validator(mode="wrap")
    @classmethod
    def _restore(cls, values: Any, read: ModelWrapValidatorHandler[Self]) -> Self:
        if not isinstance(values, dict) or not cls._was_stored(values):
            return read(values)
        chosen = values["chosen"]
        spec = cls._stored(values, read)
        del spec._later["chosen"]
        given = spec.model_fields_set
        given.update(spec._later)
        given.difference_update([name for name in given if name not in chosen])
        return spec


@cache
def option_lines() -> dict[str, str]:
    """Return one line on each training option: what it is, what it may be, its default."""
    fields = TrainingSpec.model_fields
    return {
        name: f"{fields[name].description} ({wanted(name)}; default {fields[name].default!r})."
        for name in TrainingOptions.__annotations__
    }


# -- wrong values in plain words ---------------------------------------------------------


def _check_suffix(suffix: str | None) -> None:
    """Raise SpecError for a suffix that makes a model's name ambiguous, or a path. Not a rule of
    the field: a job that was stored with such a suffix stays in reach."""
    if suffix is None:
        return
    if found := next((char for char in suffix if char in ":/\\"), None):
        reason = f"holds {found!r}, which separates the parts of a model's name or of a path"
    elif found := next((char for char in suffix if unicodedata.category(char)[0] == "C"), None):
        reason = f"holds the control character {found!r}"
    elif suffix != suffix.strip():
        reason = "begins or ends with a blank"
    else:
        return
    raise SpecError(f"suffix {shown(suffix)} {reason}.", hint="Like suffix='support-v2'.")


def _in_words(exc: ValidationError) -> SpecError:
    """Return the error for the first wrong option; wrong values are all named in one message."""
    problems: dict[str, str] = {}
    for error in exc.errors():
        name = str(error["loc"][0]) if error["loc"] else ""
        if error["type"] == "extra_forbidden":
            return unknown("TrainingSpec", name, TrainingSpec.model_fields)
        if error["type"] == "missing":
            problems[name] = f"{name} is missing."
        elif name:
            problems[name] = f"{name} must be {wanted(name)}, not {shown(error['input'])}."
        else:
            problems[name] = f"{error['msg'].removeprefix('Value error, ')}."
    return SpecError(" ".join(problems.values()))


@cache
def wanted(name: str) -> str:
    """Return what an option may be in words: ``a whole number from 1 to 50 or 'auto'``."""
    return type_words(_hints()[name])


@cache
def _hints() -> dict[str, Any]:
    return get_type_hints(TrainingSpec, include_extras=True)
