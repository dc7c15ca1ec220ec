"""What to train, said the same way for every backend.

Knows nothing of files or providers. Names are OpenAI's for jobs and Hugging Face's for
training. A backend honours a setting or refuses it; it never ignores one
(``Capabilities.require``).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from finetune_gateway.errors import SpecError

Method = Literal["sft", "dpo", "orpo", "kto", "pretrain", "reinforcement"]
TrainingType = Literal["lora", "qlora", "full"]
TrainOn = Literal["assistant", "last_assistant", "all"]
Auto = Literal["auto"]

# OpenAI calls sft "supervised"; both words are accepted, one is kept.
METHOD_ALIASES = {"supervised": "sft"}


def _alias(value: Any) -> Any:
    return METHOD_ALIASES.get(value, value) if isinstance(value, str) else value


class TrainingSpec(BaseModel):
    """One training run.

    =============================================  ==========================================
    ``TrainingSpec(model="gpt-4.1-mini-2025-04-14")``          hosted SFT, all settings auto
    ``TrainingSpec(model="Qwen/Qwen3-4B", lora_r=16)``         local LoRA
    ``TrainingSpec(model="./base", training_type="full")``     all weights
    ``TrainingSpec(model=..., n_epochs=2, seed=7)``            both
    ``TrainingSpec(model=..., max_steps=200)``                 stop by steps (local)
    =============================================  ==========================================

    Limits are those of OpenAI's specification: n_epochs 1..50, batch_size 1..256,
    seed 0..2147483647, suffix 1..64 characters.
    """

    model_config = ConfigDict(frozen=True, defer_build=True, extra="forbid")

    model: Annotated[str, Field(min_length=1)]
    method: Annotated[Method, BeforeValidator(_alias)] = "sft"
    n_epochs: Annotated[int, Field(ge=1, le=50)] | Auto = "auto"
    batch_size: Annotated[int, Field(ge=1, le=256)] | Auto = "auto"
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None  # absolute
    learning_rate_multiplier: Annotated[float, Field(gt=0)] | Auto | None = None  # OpenAI's
    seed: Annotated[int, Field(ge=0, le=2147483647)] | None = None
    suffix: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    train_on: TrainOn = "assistant"

    # Local training. Hosted backends refuse these when they are set.
    training_type: TrainingType | None = None  # None: lora
    max_steps: Annotated[int, Field(ge=1)] | None = None
    max_length: Annotated[int, Field(ge=8)] | None = None  # tokens per row
    lora_r: Annotated[int, Field(ge=1, le=1024)] = 16
    lora_alpha: Annotated[int, Field(ge=1)] = 32
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"
    lr_scheduler_type: str = "linear"
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.05
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    gradient_accumulation_steps: Annotated[int, Field(ge=1)] = 1
    gradient_checkpointing: bool | Auto = "auto"  # auto: on a GPU; less memory, more time
    packing: bool = False  # several rows in one of max_length tokens, apart from each other
    logging_steps: Annotated[int, Field(ge=1)] | Auto = "auto"
    eval_steps: Annotated[int, Field(ge=1)] | Auto = "auto"
    save_steps: Annotated[int, Field(ge=1)] | Auto = "auto"
    chat_template: str | None = None  # path of a Jinja file with generation markers

    @classmethod
    def build(cls, **options: Any) -> Self:
        """Like the constructor, but a wrong value is a ``SpecError`` in plain words."""
        try:
            return cls(**options)
        except ValidationError as exc:
            raise SpecError(*_in_words(exc)) from None

    @model_validator(mode="after")
    def _one_learning_rate(self) -> Self:
        if self.learning_rate is not None and self.learning_rate_multiplier is not None:
            raise ValueError(
                "learning_rate and learning_rate_multiplier exclude each other: the first is "
                "absolute, the second a factor on the host's own"
            )
        return self

    @property
    def chosen(self) -> frozenset[str]:
        """The fields somebody set to something else than its default."""
        fields = type(self).model_fields
        return frozenset(
            name for name in self.model_fields_set if getattr(self, name) != fields[name].default
        )

    def canonical(self) -> dict[str, Any]:
        """The spec as plain JSON, the same for equal specs however they were written."""
        return self.model_dump(mode="json")


def _in_words(exc: ValidationError) -> tuple[str]:
    known = ", ".join(sorted(TrainingSpec.model_fields))
    parts = []
    for error in exc.errors():
        name = str(error["loc"][0]) if error["loc"] else "spec"
        if error["type"] == "extra_forbidden":
            parts.append(f"unknown setting {name!r}; known settings: {known}")
        elif error["type"] == "missing":
            parts.append(f"{name!r} is needed")
        else:
            parts.append(
                f"{name!r}: {error['msg'].removeprefix('Value error, ')} (got {error['input']!r})"
            )
    # A union such as `int | "auto"` reports one error per arm; the first says enough.
    unique = list({part.split(":")[0]: part for part in reversed(parts)}.values())[::-1]
    return ("; ".join(unique) + ".",)
