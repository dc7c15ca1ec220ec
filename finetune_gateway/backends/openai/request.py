"""What the hosted backend sends: files and the body of a create."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from finetune_gateway.backend import JOB_TAG
from finetune_gateway.methods import OPENAI_WORDS

if TYPE_CHECKING:
    from finetune_gateway.backend import DataFile
    from finetune_gateway.estimation.profiles import Profile
    from finetune_gateway.spec import TrainingSpec

FILE_PREFIX = "ftg-"  # of the names that files are sent under
HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
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
) -> dict[str, Any]:
    """Return the body of a create, with what differs from our defaults and nothing else: those
    leave it to the host."""
    word = OPENAI_WORDS[spec.method]
    fields = type(spec).model_fields
    values = {name: getattr(spec, name) for name in HYPERPARAMETERS}
    chosen = {name: value for name, value in values.items() if value != fields[name].default}
    if spec.learning_rate is not None and profile.learning_rate_key:
        chosen[profile.learning_rate_key] = spec.learning_rate
    method = {"type": word, **({word: {"hyperparameters": chosen}} if chosen else {})}
    body = {
        "model": spec.model,
        "training_file": train.remote_id,
        "validation_file": validation.remote_id if validation else None,
        "method": method,
        "metadata": {**metadata, JOB_TAG: job_id},
        "seed": spec.seed,
        "suffix": spec.suffix,
    }
    extra = {"extra_body": dict(profile.create_extra)} if profile.create_extra else {}
    return {**{name: value for name, value in body.items() if value is not None}, **extra}


def unsent(method: str) -> str:
    """Say why a method is priced but cannot be started."""
    return f"Jobs of the method {method!r} need a grader; they are priced here, not sent."
