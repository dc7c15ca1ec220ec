"""Settings that libraries name: which are honoured here, judged before any work, without torch."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from importlib.util import find_spec

from finetune_gateway.backends.local import fourbit
from finetune_gateway.errors import DataError, MissingDependency, SpecError, shown
from finetune_gateway.estimation.batch_plan import batch_rows
from finetune_gateway.estimation.engine import OF_BITSANDBYTES, PAGED, needs_bitsandbytes
from finetune_gateway.methods import loss_of
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.stats import TokenStats

# Optimizers of transformers that need nothing but torch. Others, but those of bitsandbytes, need
# packages that are not tried here, or work in ways that checkpoints do not keep.
OF_TORCH = ("adamw_torch_fused", "adamw_torch", "adafactor", "adagrad", "rmsprop", "sgd")
# Schedules of transformers that need no further numbers.
SCHEDULES = (
    *("linear", "cosine", "cosine_with_restarts", "polynomial"),
    *("constant", "constant_with_warmup", "inverse_sqrt"),
)
ALL_LINEAR = "all-linear"
MOST_NAMES = 12  # in an error
# Paths of embeddings and heads: Llama's, GPT-2's, GPT-NeoX's.
SHARED = re.compile(r"(^|\.)(embed_tokens|lm_head|wte|embed_in|embed_out)$")
# Paths of norms: input_layernorm, norm, q_norm, ln_1, ln_f.
NORM = re.compile(r"norm\d*$|(^|\.)ln_\w+$", re.IGNORECASE)


def require_supported(spec: TrainingSpec, *, on_gpu: bool) -> None:
    """Raise SpecError for an optimizer, a schedule or a size that is not honoured here,
    MissingDependency for an optimizer whose package is not installed."""
    require_honoured(spec, on_gpu=on_gpu)
    if needs_bitsandbytes(spec) and find_spec(fourbit.PACKAGE) is None:
        raise MissingDependency(f"optim={spec.optim} (missing: {fourbit.PACKAGE})", "local")


def require_honoured(spec: TrainingSpec, *, on_gpu: bool) -> None:
    """Raise SpecError for an optimizer, a schedule or a size that is not honoured here, whatever is
    installed."""
    require_whole_batches(spec)
    of_bitsandbytes = (*OF_BITSANDBYTES, *(PAGED if on_gpu else ()))
    if spec.optim in PAGED and not on_gpu:
        raise SpecError(
            f"optim {spec.optim} pages between a GPU's memory and the machine's; this job runs on "
            "the CPU.",
            hint=f"Use {spec.optim.removeprefix('paged_')}.",
        )
    if spec.optim not in (*OF_TORCH, *of_bitsandbytes):
        raise SpecError(
            f"optim {shown(spec.optim)} is no optimizer that is used here.",
            hint=f"Use one of: {', '.join(OF_TORCH)}; or of bitsandbytes: "
            f"{', '.join(of_bitsandbytes)}.",
        )
    if spec.lr_scheduler_type not in SCHEDULES:
        raise SpecError(
            f"lr_scheduler_type {shown(spec.lr_scheduler_type)} is no schedule that is used here.",
            hint=f"Use one of: {', '.join(SCHEDULES)}.",
        )


def require_whole_batches(spec: TrainingSpec) -> None:
    """Raise SpecError for a micro-batch of which no whole number makes a batch."""
    batch = batch_rows(spec) * spec.gradient_accumulation_steps
    if spec.micro_batch_size != "auto" and batch % spec.micro_batch_size:
        raise SpecError(
            f"micro_batch_size {spec.micro_batch_size} does not divide the {batch} rows of a step.",
            hint="A step has batch_size x gradient_accumulation_steps rows; use one of: "
            f"{', '.join(str(size) for size in range(1, batch + 1) if not batch % size)}.",
        )


def require_other_rows(
    spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None
) -> None:
    """Raise DataError for a single row of kto to train on or held out, if its loss has a KL term:
    that compares the answer of a row with those of others."""
    if loss_of(spec) != "kto":
        return
    for what, stats in (("to train on", tokens), ("held out", validation)):
        if stats is not None and stats.rows == 1:
            raise DataError(
                f"kto compares the answer of a row with those of others, and there is one row "
                f"{what}.",
                hint="Give more rows, or use --set loss_type=apo_zero_unpaired.",
            )


def require_modules(spec: TrainingSpec, tensors: Collection[str], *, tied: bool = False) -> None:
    """Raise SpecError for modules that the base does not have, or that cannot have an adapter.

    ``tensors``: names of its weights. ``tied``: its head has the weight of its embedding.

    As PEFT reads them: a name is the end of a module's path, one text is a pattern of whole paths.
    """
    modules = {name.rpartition(".")[0] for name in tensors}
    # One that shares the embedding's weight is not stored; a reward model has another head.
    modules = modules - {"lm_head"} if spec.method == "reward" else modules | {"lm_head"}
    saved = _paths_of(spec.modules_to_save, "modules_to_save", modules)
    if spec.target_modules == ALL_LINEAR:
        return
    targets = _paths_of(spec.target_modules, "target_modules", modules)
    if not targets:
        raise SpecError(
            "target_modules is empty, so there is nothing to train.",
            hint=f"Leave it out for {ALL_LINEAR}, or name modules: {', '.join(_ends(modules))}.",
        )
    if norm := next((module for module in targets if NORM.search(module)), None):
        raise SpecError(
            f"target_modules names {norm}, and a norm can have no adapter.",
            hint="Train it whole beside the adapter: modules_to_save.",
        )
    if tied and (shared := next((one for one in targets if SHARED.search(one)), None)):
        raise SpecError(
            f"target_modules names {shared}, whose weight the embedding and the head of this model "
            "share: an adapter on one of them, merged, would change the other too.",
            hint="Train it whole beside the adapter: modules_to_save.",
        )
    if both := sorted(targets & saved):
        raise SpecError(
            f"target_modules and modules_to_save both name {both[0]}: a module has an adapter, or "
            "is trained whole.",
            hint="Leave it out of one of them.",
        )


def _paths_of(wanted: str | tuple[str, ...], setting: str, modules: Collection[str]) -> set[str]:
    """Return the paths of the modules that are named. Raises SpecError for a name of none."""
    found: set[str] = set()
    for name in (wanted,) if isinstance(wanted, str) else wanted:
        if isinstance(wanted, str):
            there = _matching(name, modules)
        else:
            there = [one for one in modules if one == name or one.endswith(f".{name}")]
        if not there:
            raise SpecError(
                f"{setting} names {shown(name)}, and the model has no such module.",
                hint=f"It has: {', '.join(_ends(modules))}.",
            )
        found.update(there)
    return found


def _matching(pattern: str, modules: Iterable[str]) -> list[str]:
    try:
        return [module for module in modules if re.fullmatch(pattern, module)]
    except re.error as exc:
        raise SpecError(
            f"target_modules {shown(pattern)} is no regular expression: {exc}.",
            hint="Give names of modules, such as q_proj,v_proj, or all-linear.",
        ) from None


def _ends(modules: Iterable[str]) -> list[str]:
    """Return the last parts of the modules' paths, without numbers of layers."""
    ends = {module.rpartition(".")[2] for module in modules}
    return sorted(end for end in ends if end and not end.isdecimal())[:MOST_NAMES]
