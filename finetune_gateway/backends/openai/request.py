"""What the hosted backend sends: files and the body of a create."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from finetune_gateway.backend import JOB_TAG
from finetune_gateway.methods import LORA, OPENAI_WORDS

if TYPE_CHECKING:
    from finetune_gateway.backend import DataFile
    from finetune_gateway.estimation.profiles import Profile
    from finetune_gateway.spec import TrainingSpec

FILE_PREFIX = "ftg-"  # of the names that files are sent under
# OpenAI's names of our settings are ours; other hosts have more.
HYPERPARAMETERS = {
    name: name for name in ("n_epochs", "batch_size", "learning_rate_multiplier", "beta")
}
BOM = b"\xef\xbb\xbf"


def file_name(file: DataFile) -> str:
    """Return a name made from the content, by which an upload is found again."""
    return f"{FILE_PREFIX}{file.sha256[:32]}.jsonl"


def file_content(raw: BinaryIO, profile: Profile) -> BinaryIO | bytes:
    """Return the file as the host wants it: Azure requires a byte order mark, OpenAI refuses one
    ("Line 1 is not a dictionary")."""
    has_bom = raw.read(len(BOM)) == BOM
    raw.seek(0)
    if has_bom == profile.file_bom:
        return raw  # streamed; the SDK sends an open file from its start
    content = raw.read().removeprefix(BOM)
    return BOM + content if profile.file_bom else content


def create_job(
    job_id: str,
    spec: TrainingSpec,
    train: DataFile,
    validation: DataFile | None,
    profile: Profile,
    metadata: Mapping[str, str],
    way: str | None = None,
) -> dict[str, Any]:
    """Return the body of a create, with what was chosen and nothing else: the rest is left to the
    host. ``way``: the name of its way of training, where it has several."""
    body = {
        "model": spec.model,
        "training_file": train.remote_id,
        "validation_file": validation.remote_id if validation else None,
        **_method(spec, profile),
        "metadata": {**metadata, JOB_TAG: job_id},
        "seed": spec.seed,
        "suffix": spec.suffix,
    }
    sent = {name: value for name, value in body.items() if value is not None}
    extra: dict[str, Any] = {"tags": [f"{JOB_TAG}:{job_id}"]} if profile.takes_tags else {}
    if way is not None:
        extra |= profile.trainings[way].create_extra
    return {**sent, **({"extra_body": extra} if extra else {})}


def _method(spec: TrainingSpec, profile: Profile) -> dict[str, Any]:
    """Return the method with its hyperparameters where the host looks for them."""
    word, chosen = OPENAI_WORDS[spec.method], _hyperparameters(spec, profile)
    if profile.hyperparameters_alone:
        return {"hyperparameters": chosen} if chosen else {}
    return {"method": {"type": word, **({word: {"hyperparameters": chosen}} if chosen else {})}}


def _hyperparameters(spec: TrainingSpec, profile: Profile) -> dict[str, Any]:
    """Return those that were chosen, under the host's names. LoRA is what its settings are for,
    where a host does it only when asked."""
    names = HYPERPARAMETERS | profile.hyperparameters
    values = {field: getattr(spec, field) for field in names if field in spec.chosen}
    usual = {field: type(spec).model_fields[field].default for field in values}
    chosen = {names[field]: value for field, value in values.items()
              if (value, usual[field]) != ("auto", "auto")}  # fmt: skip
    training_type = spec.training_type or ("lora" if spec.chosen & LORA else "")
    return profile.training_types.get(training_type, {}) | chosen


def unsent(method: str) -> str:
    """Say why a method is priced but cannot be started."""
    return f"Jobs of the method {method!r} need a grader; they are priced here, not sent."
