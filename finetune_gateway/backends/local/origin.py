"""Train on from the model of an earlier job of this machine: what is taken over, and what must not
differ. Imports no torch.

An adapter begins with the weights of the earlier one, so it has its shape; the base stays the one
that was pinned. A model that was trained whole is the base itself. Template, switches and format of
calls are those of the earlier job unless others are set.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from finetune_gateway.backends.local import checkpoints, run_folder
from finetune_gateway.backends.local.models import MEANING
from finetune_gateway.backends.local.run_file import (
    BASE_FILE,
    CHAT_TEMPLATE,
    START,
    Origin,
    RunFile,
    base_of,
    read_run_file,
)
from finetune_gateway.errors import (
    BackendError,
    GatewayError,
    NotFoundError,
    SpecError,
    StoreError,
    shown,
)
from finetune_gateway.estimation.weights import hash_by
from finetune_gateway.jobs import results
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.settings import files, sealed
from finetune_gateway.spec import TrainingSpec

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
# What the weights of an adapter fit to, or what they say with it: dropout is neither.
SHAPE = ("lora_r", "lora_alpha", "target_modules", "use_dora", "use_rslora", "modules_to_save")


def resolved(spec: TrainingSpec, runs: Path) -> TrainingSpec:
    """Return a spec that continues a job with all that it takes over from it; ``runs``: the folder
    of runs. Raises NotFoundError for a model that is gone, SpecError for an adapter of another
    shape."""
    assert spec.continue_from is not None  # for the type checker: the caller has looked
    job, step = results.split(spec.continue_from)
    run = runs / job
    file, folder = _run_file(run, job), _model(run, step, spec.continue_from)
    earlier = file.spec
    if "reward" in (earlier.method, spec.method) and earlier.method != spec.method:
        raise SpecError(
            f"{spec.continue_from} was trained by {earlier.method}, and {spec.method} cannot go on "
            "from it: a reward model gives scores, others answers.",
            hint="Name another job, or leave continue_from out.",
        )
    taken: dict[str, Any] = {"chat_template_kwargs": earlier.chat_template_kwargs}
    if earlier.training_type == "full":  # its template, with that format of calls, is in the folder
        taken |= {"model": str(folder), "chat_template": None, "call_format": None}
    else:
        taken |= {"model": earlier.model, **_shape(spec, earlier)}
        taken |= {"call_format": earlier.call_format}
        if "chat_template" not in spec.chosen:
            taken |= {"chat_template": _template(file, run)}
    # A setting of the user's counts; what is taken over was chosen by nobody here.
    new = {name: value for name, value in taken.items() if name not in spec.chosen - {"model"}}
    found = spec.model_copy(update=new)
    found.model_fields_set.intersection_update({*spec.model_fields_set, "model"})
    return found


def copy(spec: TrainingSpec, runs: Path, target: Path) -> tuple[Origin, str | None]:
    """Return what ``_copied`` does. Raises BackendError, which ends the job, where the earlier
    model is not what it was: nothing was started, so nothing is in doubt."""
    try:
        return _copied(spec, runs, target)
    except StoreError:  # of this disk: the job can still be started
        raise
    except GatewayError as exc:
        raise BackendError(exc.message, hint=exc.hint, backend="local") from exc


def _copied(spec: TrainingSpec, runs: Path, target: Path) -> tuple[Origin, str | None]:
    """Copy the adapter that a run trains on from into its folder ``target``, so that nothing that
    becomes of the earlier job touches it; return what it is, and the commit of its base. A model
    that was trained whole stays where it is, and is kept there; its weights have to be those that
    were saved when training begins (``Run.pin_base``). Raises GatewayError, NotFoundError."""
    assert spec.continue_from is not None  # for the type checker: the caller has looked
    job, step = results.split(spec.continue_from)
    run, name = runs / job, spec.continue_from
    file, folder = _run_file(run, job), _model(runs / job, step, name)
    before = file.origin.continued_from if file.origin else (file.spec.model,)
    line = (*before, f"{file.spec.method} {name}")
    if file.spec.training_type == "full":
        if step is not None:
            checkpoints.keep(folder)
            _model(run, step, name)  # a run that goes on may have deleted it just now
        saved = _saved(folder, step)
        sha256 = hash_by(folder, saved)
        if sha256 is not None:
            small = {name: saved[name] for name in MEANING if name in saved}
            _pin(target, {"revision": None, "sha256": sha256, "files": small})
        return Origin(continued_from=line), None
    base = _base(run, folder)
    files.folder(target / START)
    for one in ADAPTER_FILES:
        files.copy_private(folder / one, target / START / one)
    digests = {one: files.sha256_of(target / START / one) for one in ADAPTER_FILES}
    saved = _saved(folder, step) or digests
    if changed := [one for one in ADAPTER_FILES if saved.get(one) != digests[one]]:
        raise GatewayError(
            f"{folder / changed[0]} was changed since it was saved.",
            hint="Train it again, or restore the folder from a copy.",
        )
    _pin(target, base)
    return Origin(adapter=digests, continued_from=line), base.get("revision")


def _saved(folder: Path, step: results.StepName | None) -> dict[str, str]:
    """Return the sha256 of the files of a model or a checkpoint as they were saved; none of a
    checkpoint of an earlier version."""
    if step is None:
        found: dict[str, str] = _json(folder / MANIFEST).get("files", {})
        return found
    try:
        return checkpoints.hashes(folder)
    except (OSError, ValueError) as exc:
        raise GatewayError(
            f"{folder} cannot be read: {exc}.", hint="Train that job again."
        ) from None


def _base(run: Path, folder: Path) -> dict[str, Any]:
    """Return what the base of a run was recognised by.
    An earlier version's prune has deleted all of that except what the result says of it."""
    if (run / BASE_FILE).exists() or folder != run / "model":
        return base_of(run)
    about = _json(folder / MANIFEST)
    return {"revision": about.get("base_revision"), "sha256": about.get("base_sha256")}


def _pin(target: Path, base: dict[str, Any]) -> None:
    sealed.write(target / BASE_FILE, base)


def in_words(spec: TrainingSpec, runs: Path) -> str:
    """Return what is continued and how, in a sentence."""
    assert spec.continue_from is not None  # for the type checker: the caller has looked
    job, _ = results.split(spec.continue_from)
    was = _run_file(runs / job, job).spec.training_type or "lora"
    now = spec.training_type or "lora"
    if was == "full":
        return f"It trains on from {spec.continue_from}, whose model is the base."
    if now == "full":
        return (
            f"It trains on from {spec.continue_from}: its adapter is merged into the base, in full "
            "precision, and all weights are trained."
        )
    words = {"lora": "in full precision", "qlora": "in 4 bits"}
    change = f", now on the base {words[now]}; it was trained on it {words[was]}"
    end = change if was != now else ""
    return f"It trains on from {spec.continue_from}: the adapter begins with its weights{end}."


def _shape(spec: TrainingSpec, earlier: TrainingSpec) -> dict[str, Any]:
    """Return what an adapter has of the one that it begins with. Raises SpecError for another
    shape."""
    kind = spec.training_type or earlier.training_type or "lora"
    if kind == "full":
        return {}
    for name in SHAPE:
        given, was = getattr(spec, name), getattr(earlier, name)
        if name in spec.chosen and given != was:
            raise SpecError(
                f"The adapter of {spec.continue_from} has {name}={shown(was)}, so one that goes on "
                f"from it cannot have {shown(given)}.",
                hint=f"Leave {name} out. Or train all weights, into which that adapter is merged "
                "first: training_type=full.",
            )
    return {"training_type": kind, **{name: getattr(earlier, name) for name in SHAPE}}


def _template(file: RunFile, run: Path) -> str | None:
    """Return the template file of a run, if it had one of its own: the copy, or what it was made
    from, if that is still what it was. Raises NotFoundError."""
    if file.spec.chat_template is None:
        return None
    copy, given = run / CHAT_TEMPLATE, Path(file.spec.chat_template)
    if copy.is_file():
        return str(copy)
    wanted = file.chat_template_sha256  # None: an earlier version made no copy
    if wanted is None or (given.is_file() and files.sha256_of(given) == wanted):
        return str(given)
    raise NotFoundError(
        f"The chat template that {run.name} was trained with is gone: {given} is not there, or was "
        "changed.",
        hint="Put it back, or name a template: --set chat_template=FILE",
    )


def _model(run: Path, step: results.StepName | None, name: str) -> Path:
    """Return the folder of a job's result, or of its checkpoint at a step. Raises NotFoundError."""
    if step is None:
        if (run / "model" / MANIFEST).is_file():
            return run / "model"
        raise NotFoundError(
            f"{name} has no model to train on from: it is not in {run / 'model'}.",
            hint=f"See: ftg status {name}. A checkpoint is named JOB@STEP: ftg checkpoints {name}",
        )
    folder = run / "checkpoints" / f"checkpoint-{step}"
    if not checkpoints.is_whole(folder):
        raise NotFoundError(
            f"The checkpoint {name} is gone: there is none in {folder}.",
            hint="A run keeps its last ones, and the best on its held-out rows; 'ftg prune' "
            f"deletes them. See: ftg checkpoints {run.name}",
        )
    return folder


def _run_file(run: Path, job: str) -> RunFile:
    try:
        return read_run_file(run)
    except StoreError as exc:
        raise NotFoundError(
            f"{job} cannot be continued: {run_folder.missing(run) or exc.message}",
            hint="Only a job that was trained on this machine can. See: ftg list",
        ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise GatewayError(f"{path} cannot be read.", hint="Train that job again.")
    return found
