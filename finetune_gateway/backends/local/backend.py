"""The local backend: training on this machine. Imports nothing heavy; ``worker`` does the work in
a process of its own."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil

from finetune_gateway.backend import Backend, Capabilities, ChatModel, DataFile, HandleData, Intent
from finetune_gateway.backend.capabilities import AT_ONCE, Schedule
from finetune_gateway.backends.local import (
    builtin,
    checkpoints,
    fourbit,
    models,
    origin,
    run_folder,
    trackers,
    variables,
    versions,
)
from finetune_gateway.backends.local.counting import (
    RowCount,
    row_source,
    template_of,
    ways_of_training,
)
from finetune_gateway.backends.local.event_log import read_events
from finetune_gateway.backends.local.local_chat import LocalChat
from finetune_gateway.backends.local.queue import HANG_SECONDS, Queue
from finetune_gateway.backends.local.run import EVENTS
from finetune_gateway.backends.local.run_file import (
    BASE_FILE,
    CHAT_TEMPLATE,
    RunFile,
    read_run_file,
)
from finetune_gateway.backends.local.run_folder import RUN_FILE
from finetune_gateway.backends.local.slots import slots
from finetune_gateway.backends.local.states import States, in_place
from finetune_gateway.backends.local.supported import (
    require_honoured,
    require_modules,
    require_other_rows,
    require_supported,
)
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.data.row_access import has_reasoning
from finetune_gateway.errors import MissingDependency, SpecError, StoreError, UnsupportedError
from finetune_gateway.estimation import calibration, profiles, servability
from finetune_gateway.estimation.assumptions import TargetDevice
from finetune_gateway.estimation.estimate import Estimate
from finetune_gateway.estimation.gpus import GIB, gpu_name, gpu_notes, which_gpu
from finetune_gateway.estimation.local import estimate_local
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.events import Checkpoint, JobStatus, Result, Snapshot, going_on
from finetune_gateway.jobs.handle import MANIFEST, ModelHandle
from finetune_gateway.methods import METHODS, TRAINERS
from finetune_gateway.model import exact_methods, lazy_property
from finetune_gateway.settings import files, sealed
from finetune_gateway.settings.config import current_value
from finetune_gateway.settings.home import Settings
from finetune_gateway.settings.money import parse_usd
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import choose_switches, row_limit
from finetune_gateway.tokens.local_counter import LocalCounter
from finetune_gateway.tokens.masks.local import LocalRenderer
from finetune_gateway.tokens.stats import TokenStats

NO_QLORA = "qlora needs bitsandbytes, which is not installed: pip install 'finetune-gateway[local]'"

OPTIONS = frozenset(TrainingSpec.model_fields) - {"learning_rate_multiplier"}


@exact_methods
class LocalBackend(Backend):
    """LoRA, QLoRA or full fine-tuning by TRL on this machine, one job per GPU, or one on the
    CPU."""

    name = "local"

    def __init__(
        self, *, gpu: str | None = None, usd_per_gpu_hour: Decimal | float | str | None = None
    ) -> None:
        """``gpu`` and ``usd_per_gpu_hour``: estimate for this GPU, or at this price, instead of
        this machine; such a backend cannot train. Raises SpecError for one that is not known."""
        self.settings = Settings.load()
        self.gpu = None if gpu is None else gpu_name(gpu)
        self.which_gpu = "" if gpu is None else which_gpu(gpu)
        self.gpu_notes = [] if self.gpu is None else gpu_notes(self.gpu)  # of that one alone
        self.usd_per_gpu_hour = (
            None if usd_per_gpu_hour is None else parse_usd(usd_per_gpu_hour, "usd_per_gpu_hour")
        )

    def bind(self, settings: Settings) -> None:
        self.settings = settings
        self.close()  # the queue of the home before

    def close(self) -> None:
        vars(self).pop("queue", None)

    @lazy_property
    def queue(self) -> Queue:
        return Queue(self.settings)

    def capabilities(self, model: str | None = None) -> Capabilities:
        return Capabilities(
            hosted=False,
            rules="trl",
            methods=frozenset(TRAINERS),
            training_types=frozenset({"lora", "qlora", "full"}),
            options=OPTIONS,
            unknown_model_reason=_unknown_model_reason(model) if model else "",
            notes=("Nothing leaves this machine.", *(() if fourbit.installed() else (NO_QLORA,))),
            resumes=frozenset({JobStatus.PAUSED, JobStatus.FAILED, JobStatus.CANCELLED}),
            poll_seconds=(0.5, 2.0),
            takes_metadata=True,
            schedules=frozenset({"priority", "after", "at"}),
            pauses=True,
        )

    # -- before anything is trained ------------------------------------------------------

    def resolve(self, spec: TrainingSpec, train: Dataset | None = None) -> TrainingSpec:
        """Return the spec with absolute paths: of the model, if it is a folder here, and of the
        chat template. The worker runs in another folder. One that continues a job has what it takes
        over from it (``origin``)."""
        if spec.continue_from is not None:
            spec = origin.resolved(spec, self.settings.runs)
        if spec.method == "pretrain" and spec.packing:  # as it always does
            spec = spec.model_copy(update={"packing": False})
            spec.model_fields_set.discard("packing")
        model = models.resolve(spec.model)
        template = spec.chat_template and os.path.realpath(os.path.expanduser(spec.chat_template))
        chosen: dict[str, Any] = {"chat_template": template} if template else {}
        if spec.chat_template_kwargs is None and train is not None and spec.method != "pretrain":
            switches = self._switches(spec.model_copy(update={"model": model, **chosen}), train)
            chosen |= {"chat_template_kwargs": switches} if switches else {}
        if model == spec.model and all(getattr(spec, name) == chosen[name] for name in chosen):
            return spec
        return spec.model_copy(update={"model": model, **chosen})

    def _switches(self, spec: TrainingSpec, train: Dataset) -> dict[str, Any]:
        """Return the switches of the chat template with which these rows are trained best."""
        template = template_of(spec, models.small_files(spec.model, self.settings))
        return choose_switches(template, has_reasoning(train.path))

    def check_model(self, spec: TrainingSpec) -> None:
        """Raise NotFoundError, or SpecError for a base that cannot be trained as it is."""
        model = models.resolve(spec.model)
        folder = models.small_files(model, self.settings)
        models.require_whole(model, folder, spec.training_type)

    def check(self, spec: TrainingSpec) -> None:
        """Raise MissingDependency for missing packages, NotFoundError or SpecError for the model,
        and an error if its chat template cannot mark the tokens to train."""
        if self.gpu or self.usd_per_gpu_hour is not None:
            raise SpecError(
                "A GPU by name and its price are for estimates; a job trains on this machine.",
                hint="Leave gpu and usd_per_gpu_hour out.",
            )
        missing = [name for name in versions.STACK if find_spec(name) is None]
        if missing:
            raise MissingDependency(f"Local training (missing: {', '.join(missing)})", "local")
        if spec.training_type == "qlora":
            fourbit.require("QLoRA")
        trackers.require(spec.report_to, os.environ)
        current_value(self.settings, HANG_SECONDS)  # raises SpecError for what is no number
        require_supported(spec, on_gpu=slots() != ["cpu"])
        folder = self._require_trainable(spec, on_gpu=slots() != ["cpu"])
        row_source(spec, folder).check()

    def _require_trainable(self, spec: TrainingSpec, *, on_gpu: bool) -> Path:
        """Return the base's small files. Raises for what cannot be trained, whatever is here."""
        require_honoured(spec, on_gpu=on_gpu)
        self.check_model(spec)
        folder = models.small_files(spec.model, self.settings)
        if tensors := models.tensor_names(spec.model, folder):
            require_modules(spec, tensors, tied=shape_of(models.config_of(folder)).tied)
        return folder

    def counter(self, spec: TrainingSpec) -> LocalCounter:
        folder = models.small_files(spec.model, self.settings)
        limit = self._row_limit(spec, folder)
        count = RowCount(folder, spec, limit)
        texts = spec.method == "pretrain"  # not cut, but packed into pieces
        return LocalCounter(
            count,
            render=None if texts else count.text,
            losses=count.losses,
            encoding="tokenizer" if texts else "chat template",
            max_context=None if texts else limit,
        )

    def preview_renderer(self, spec: TrainingSpec) -> LocalRenderer:
        folder = models.small_files(spec.model, self.settings)
        source = row_source(spec, folder)
        source.check()
        limit = self._row_limit(spec, folder)
        return LocalRenderer(source, spec.model, train_on=spec.train_on, limit=limit)

    def _row_limit(self, spec: TrainingSpec, folder: Path) -> int:
        return row_limit(spec.max_length, models.context_of(folder))

    def estimate(
        self, spec: TrainingSpec, tokens: TokenStats, validation: TokenStats | None = None
    ) -> Estimate:
        require_other_rows(spec, tokens, validation)
        on_cpu = self.gpu is None and slots() == ["cpu"]
        folder = self._require_trainable(spec, on_gpu=not on_cpu)
        shape = models.shape_in(folder)
        context = models.context_of(folder)
        target = TargetDevice(
            device="cpu" if on_cpu else "gpu",
            gpu=self.gpu,
            usd_per_gpu_hour=self.usd_per_gpu_hour,
            memory_bytes=psutil.virtual_memory().total if on_cpu else None,
            calibration=calibration.read(self.settings.home) if on_cpu else None,
            no_calibration=calibration.unusable_reason(self.settings.home),
            row_limit=self._row_limit(spec, folder),
            price_file=self.settings.prices,
            context=context,
        )
        estimate = estimate_local(spec, tokens, shape, validation=validation, target=target)
        if context and (spec.max_length or 0) > context:
            estimate.refused["longer"] = (
                f"max_length {spec.max_length:,} is above the {context:,} tokens that {spec.model} "
                "reads."
            )
            estimate.warnings.append(estimate.refused["longer"])
        if self.gpu is None and estimate.fits == "no":
            estimate.refused["oversize"] = _too_large(estimate)
        estimate.assumptions.extend([*ways_of_training(spec, tokens), *self.gpu_notes])
        if spec.engine == "trl" and METHODS[spec.method].experimental:
            estimate.warnings.append(
                f"TRL's trainer of {spec.method} is experimental: its next version may train "
                "otherwise, or be gone. Ours is not: leave engine out."
            )
        sent = trackers.leaving(spec.report_to, os.environ)
        said = models.other_size(folder, shape), self.which_gpu, sent
        estimate.warnings.extend(filter(None, said))
        if spec.continue_from is not None:
            estimate.assumptions.append(origin.in_words(spec, self.settings.runs))
        if spec.model != builtin.NAME:  # a toy
            servability.add_notes(estimate, spec, folder, models.config_of(folder))
        elif not builtin.is_built(folder):
            estimate.assumptions.append(
                "The time is without the minute that it takes to build this model once."
            )
        return estimate

    # -- jobs ----------------------------------------------------------------------------

    def start(
        self,
        job_id: str,
        spec: TrainingSpec,
        train: DataFile,
        validation: DataFile | None,
        *,
        metadata: Mapping[str, str] | None = None,
        schedule: Schedule = AT_ONCE,
    ) -> str:
        """Write the run folder and the queue row; the dispatcher starts its worker in its turn. A
        second call for the same job changes nothing."""
        folder = self.queue.folder(job_id)
        try:
            self._write_folder(folder, job_id, spec, train, validation, metadata or {})
        except OSError as exc:
            raise StoreError(
                f"The run folder {folder} cannot be written: {exc.strerror or exc}.",
                hint="Free some space there, or set FTG_HOME to a folder on another disk.",
            ) from None
        chosen = "CUDA_VISIBLE_DEVICES" in os.environ  # by the user, for this job
        self.queue.bring_environment(job_id)
        self.queue.add(job_id, schedule, slots() if chosen else None)
        self.queue.ensure_dispatcher()
        self.queue.bring_environment(job_id)  # to one that was starting; and it looks at once
        return job_id

    def _write_folder(
        self,
        folder: Path,
        job_id: str,
        spec: TrainingSpec,
        train: DataFile,
        validation: DataFile | None,
        metadata: Mapping[str, str],
    ) -> None:
        if (folder / RUN_FILE).exists():
            return  # written last: an earlier call has done all this
        data = files.folder(folder / "data")
        files.copy_private(train.path, data / "train.jsonl")
        if validation is not None:
            files.copy_private(validation.path, data / "validation.jsonl")
        template, start, revision = None, None, None
        if spec.chat_template is not None:
            files.copy_private(Path(spec.chat_template), folder / CHAT_TEMPLATE)
            template = files.sha256_of(folder / CHAT_TEMPLATE)
        if spec.continue_from is not None:
            start, revision = origin.copy(spec, self.settings.runs, folder)
        run = RunFile(
            job_id=job_id,
            spec=spec,
            base_revision=revision or models.cached_revision(spec.model),
            origin=start,
            chat_template_sha256=template,
            train_sha256=train.sha256,
            validation_sha256=validation.sha256 if validation else None,
            system_prompt=Dataset(train.path).system_prompt(),
            metadata=dict(metadata or {}),
            tracker=trackers.chosen_variables(spec.report_to, os.environ),
            shell=variables.of(os.environ),
            versions=versions.installed(),
            created_at=time.time(),
        )
        sealed.write(folder / RUN_FILE, run.model_dump(mode="json"))

    def find(self, intent: Intent) -> str | None:
        return intent.job_id if self.queue.find(intent.job_id) else None

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        """Return the queue row and the new events. A run that has lost its worker gets another."""
        row = self.queue.get(provider_id)
        self.queue.see_to([row])
        folder = self.queue.folder(provider_id)
        part = read_events(folder / EVENTS, cursor)
        news = {
            "events": part.events,
            "checkpoints": checkpoints.whole(folder / "checkpoints"),
            "cursor": part.cursor,
            "more": part.more,
            "result": in_place(row.result, folder),
            "trained_tokens": row.trained_tokens,
            "seconds": row.seconds,
            "finished_at": row.finished_at,
            "error": row.error,
        }
        now = States(self.queue, [row]).snapshot(row).model_copy(update=news)
        return going_on(now) if part.more else now

    def statuses(self, provider_ids: Collection[str]) -> dict[str, Snapshot]:
        """Return the status of runs, by a few queries."""
        rows = self.queue.find_all(provider_ids)
        self.queue.see_to(rows)
        states = States(self.queue, rows)
        return {row.id: states.snapshot(row) for row in rows}

    def pause(self, provider_id: str) -> None:
        """Let a run save a checkpoint, give its slot back, and wait for ``resume``."""
        self.queue.pause(provider_id)

    def cancel(self, provider_id: str) -> None:
        self.queue.cancel(provider_id)

    def resume(self, provider_id: str, attempt: int) -> None:
        """Let a run that is paused, has failed or was cancelled go on from its last complete
        checkpoint."""
        folder = self.queue.folder(provider_id)
        try:
            read_run_file(folder)
        except StoreError as exc:
            raise UnsupportedError(
                run_folder.missing(folder) or exc.message,
                hint="" if run_folder.missing(folder) else exc.hint,
                backend=self.name,
                option="resume",
            ) from None
        self.queue.resume(provider_id, attempt)

    def allow_changed_versions(self, provider_id: str, attempt: int) -> None:
        folder = self.queue.folder(provider_id)
        with files.storing("What is allowed cannot be kept", folder):
            versions.allow(folder, attempt)

    def rewind(self, provider_id: str, point: Checkpoint) -> None:
        there = checkpoints.whole(self.queue.folder(provider_id) / "checkpoints")
        later = [one for one in there if one.step > point.step]
        if needed := next(filter(checkpoints.is_kept, later), None):
            why = f"{needed.id} of {provider_id} is the base of another job: it cannot be deleted."
            hint = f"Go on from step {needed.step} or later, or submit it again."
        elif point.step not in {one.step for one in there}:
            why = f"{point.id} of {provider_id} is not whole any more."
            hint = f"See what there is: ftg checkpoints {provider_id}"
        elif reason := checkpoints.defect(Path(point.model)):
            why = f"{point.id} of {provider_id} is not as it was saved: {reason}."
            hint = f"Name another: ftg checkpoints {provider_id}"
        else:
            return checkpoints.remove(later)
        raise UnsupportedError(why, hint=hint, backend=self.name, option="resume")

    def log_path(self, provider_id: str) -> Path | None:
        return self.queue.folder(provider_id) / "worker.log"

    def kept_files(self, provider_id: str, *, model: bool = True) -> list[Path]:
        """Return the run folder; without ``model``, all but a result and what it was made of."""
        folder = self.queue.folder(provider_id)
        self.queue.require_ended(provider_id)
        if model or not (folder / "model" / MANIFEST).exists():
            return [folder] if folder.exists() else []
        stay = ("model", RUN_FILE, BASE_FILE, CHAT_TEMPLATE, "worker.lock")
        return [path for path in folder.iterdir() if path.name not in stay]

    # -- the model -----------------------------------------------------------------------

    def open(self, handle: HandleData) -> ChatModel:
        return LocalChat(handle, self.settings)

    def checkpoint(self, provider_id: str, point: Checkpoint) -> Result:
        """Return a whole checkpoint, with the base and the switches of its run."""
        return checkpoints.result_of(self.queue.folder(provider_id), Path(point.model))

    def base(self, model: str, report: Callable[[str], None] = lambda text: None) -> ModelHandle:
        """Return a handle on a base model. Missing weights are built or downloaded now."""
        return ModelHandle(
            kind="merged",
            model=str(models.with_weights(models.resolve(model), self.settings, report)),
            base_model=model,
            backend=self.name,
        )


def _unknown_model_reason(model: str) -> str:
    """Return why this machine cannot train a model: a host lists the name, and no folder has it."""
    hosts = " and ".join(profiles.hosts_of(model))
    if not hosts or os.path.isdir(model):
        return ""
    return f"{model!r} is a model of {hosts}; here use owner/name, builtin/tiny or a folder."


def _too_large(estimate: Estimate) -> str:
    need, have = estimate.memory_bytes, estimate.memory_available_bytes
    assert need is not None and have is not None  # for the type checker: it does not fit
    return (
        f"The run needs about {need.expected / GIB:.1f} GiB of memory; there are "
        f"{have / GIB:.1f} GiB."
    )
