"""The provider's fine-tuning jobs: what they are asked for, how far they are, what they report.

A job is its request, a birth time and a stage number; status, events and checkpoints are pure
functions of these, so that the same question has the same answer, also after a restart. A job that
was made as finished (``provider_fine_tunes.py``) has some of these written down beside its request.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from typing import Any

from support.provider_files import Files
from support.provider_memory import ACCOUNT, BASES, JSON, Refused, is_of_organisation, is_own

FIRST_STEP = 2  # stage 0 validates, 1 queues, 2.. train, then it has succeeded
ENDED = ("succeeded", "failed", "cancelled")
RESULT_COLUMNS = (
    *("step", "train_loss", "train_accuracy", "valid_loss"),
    "valid_mean_token_accuracy",
)


class Jobs(Files):
    steps: int = 3
    pace: float | None = None  # seconds per stage; None: one stage per retrieve
    begins: int = -1  # the stage of a new job; a look goes on to the next one first
    list_lag: float = 0.0  # seconds until a new job shows in lists
    any_model: bool = False
    honours_filter: bool = True
    keeps_metadata: bool = True
    metadata: str = "kept"  # or null, empty: every job shows that, and no filter matches
    hides: tuple[str, ...] = ()  # fields that no job shows
    jobs_newest_first: bool = True
    jobs_by_project: bool = True  # False: an organisation's keys list the jobs of all its projects
    newest_first: bool = True  # events
    events_kept_days: float | None = None  # older jobs have no events and checkpoints any more
    fail_with: JSON | None = None  # error of every job, instead of success
    running_limit: int | None = None  # jobs that have not ended; a create beyond them gets 429
    retry_after: str | None = None  # the header with that 429
    results: str | None = None  # csv or base64: a job that succeeds has a file of its metrics
    final_is_checkpoint: bool = False  # the last checkpoint is called as the final model is
    training_types: tuple[str, ...] | None = None  # Azure: a create with another one gets 400
    extra: JSON  # laid over every job that is shown

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.extra = {}

    # From the request to the end

    def create(self, body: JSON) -> JSON:
        self.check(body)
        with self.lock:
            self.require_room()
            key = f"ftjob-{uuid.uuid4().hex[:24]}"
            self.jobs[key] = {"id": key, "born": time.time(), "stage": self.begins}
            self.jobs[key]["request"] = body
            self.jobs[key]["account"] = ACCOUNT.get()
            self.jobs[key]["bad_line"] = self.bad_line(body["training_file"])
            self.jobs[key]["bytes"] = self.files[body["training_file"]]["bytes"]
            self.save()
            return self.shown(self.jobs[key])

    def require_room(self) -> None:
        live = sum(is_own(job) and self.status(job) not in ENDED for job in self.jobs.values())
        if self.running_limit is not None and live >= self.running_limit:
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            message = (
                "This fine-tune request has been rate-limited. Your organization has reached the "
                f"maximum of {self.running_limit} active requests for this model."
            )
            raise Refused(429, message, code="rate_limit_exceeded", headers=headers)

    def check(self, body: JSON) -> None:
        model, training = body.get("model"), body.get("training_file")
        if not self.any_model and model not in BASES:
            message = f"Model {model} is not available for fine-tuning or does not exist."
            raise ValueError(message, "model")
        for name in ("training_file", "validation_file"):
            file = self.files.get(body[name], {}) if body.get(name) is not None else None
            if file is not None and not (file and is_own(file)):
                raise ValueError(f"invalid {name}: {body[name]}", name)
        if training is None:
            raise ValueError("you must provide a training_file", "training_file")
        epochs = hyperparameters(body).get("n_epochs", "auto")
        if epochs != "auto" and not 1 <= epochs <= 50:
            raise ValueError("n_epochs must be in 1..50", "hyperparameters.n_epochs")
        kind = body.get("trainingType")
        if self.training_types is not None and kind not in self.training_types:
            raise ValueError(f"The training type {kind} is not supported.", "trainingType")

    def bad_line(self, file_id: str) -> str | None:
        """What OpenAI would say of the first line that is neither chat nor preference."""
        lines = str(self.files[file_id]["content"]).encode("latin-1").split(b"\n")
        for number, line in enumerate(filter(bytes.strip, lines), 1):
            try:
                row = json.loads(line)
            except ValueError:
                return f"Invalid file format. Line {number} is not valid JSON."
            if not (isinstance(row, dict) and ({"messages", "input"} & row.keys())):
                return "Unexpected file format, expected chat messages."
        return None

    def stage(self, job: JSON) -> int:
        if "cancelled" in job or "paused" in job:
            return int(job["cancelled"] if "cancelled" in job else job["paused"])
        worked = time.time() - job["born"] - job.get("idle", 0)
        waited = int(worked / self.pace) if self.pace else 0
        return min(max(int(job["stage"]), waited, 0), self.last_of(job))

    @property
    def last(self) -> int:
        return FIRST_STEP + self.steps

    def steps_of(self, job: JSON) -> int:
        return int(job.get("steps", self.steps))

    def last_of(self, job: JSON) -> int:
        return FIRST_STEP + self.steps_of(job)

    def failure(self, job: JSON) -> JSON | None:
        if job["bad_line"]:
            message = f"The job failed due to an invalid training file. {job['bad_line']}"
            return {"code": "invalid_training_file", "param": "training_file", "message": message}
        return self.fail_with

    def status(self, job: JSON) -> str:
        if "status" in job:  # made with it
            return str(job["status"])
        stage = self.stage(job)
        if "cancelled" in job:
            return "cancelled"
        if "paused" in job:
            return "paused"
        if stage >= 1 and job["bad_line"]:
            return "failed"
        if stage >= self.last_of(job):
            return "failed" if self.fail_with else "succeeded"
        return ("validating_files", "queued", "running")[min(stage, FIRST_STEP)]

    def shown(self, job: JSON) -> JSON:
        """The job as OpenAI shows it, ``error: {}`` on a healthy one included."""
        request, status = job["request"], self.status(job)
        done = status == "succeeded"
        chosen = {"n_epochs": 3, "batch_size": 1, "learning_rate_multiplier": 1.0}
        chosen |= {k: v for k, v in hyperparameters(request).items() if v != "auto"}
        body = {
            "id": job["id"],
            "object": "fine_tuning.job",
            "created_at": int(job["born"]),
            "finished_at": int(job["born"]) + self.stage(job) if done else None,
            "model": request["model"],
            "fine_tuned_model": self.model_name(job) if done else None,
            "organization_id": "org-test",
            "result_files": self.result_files(job) if done else [],
            "status": status,
            "hyperparameters": chosen,
            "training_file": request["training_file"],
            "validation_file": request.get("validation_file"),
            "trained_tokens": self.tokens(job, chosen) if done else None,
            "error": self.failure(job) if status == "failed" else {},
            "seed": request.get("seed", 42),
            "estimated_finish": None,
            "integrations": [],
            "method": request.get("method"),
            "user_provided_suffix": request.get("suffix"),
            "usage_metrics": None,
            "shared_with_openai": False,
            "eval_id": None,
        }
        if self.keeps_metadata:
            dropped: JSON = {"null": None, "empty": {}}
            body["metadata"] = dropped.get(self.metadata, request.get("metadata"))
        shown = {**body, **job.get("shown", {}), **self.extra}
        return {name: value for name, value in shown.items() if name not in self.hides}

    def tokens(self, job: JSON, chosen: JSON) -> int:
        """Not a real count: characters / 4, so that estimates have something to meet. They stay
        known when the file is deleted."""
        return int(job["bytes"] // 4 * chosen["n_epochs"])

    def model_name(self, job: JSON) -> str:
        suffix = job["request"].get("suffix") or ""
        if self.hosts_deployments:
            return f"{job['request']['model']}.ft-{job['id'][6:]}"
        return f"ft:{job['request']['model']}:{self.organisation}:{suffix}:{job['id'][6:14]}"

    @property
    def hosts_deployments(self) -> bool:
        """Does a model answer by the name of a deployment only, as at Azure?"""
        return False

    # Looking and steering

    def own_job(self, job_id: str) -> JSON:
        """A job that the asking key may see; KeyError, and so 404, for any other."""
        if not self.sees(self.jobs[job_id]):
            raise KeyError(job_id)
        return self.jobs[job_id]

    def sees(self, job: JSON) -> bool:
        return is_own(job) if self.jobs_by_project else is_of_organisation(job)

    def retrieve(self, job_id: str) -> JSON:
        with self.lock:
            job = self.own_job(job_id)
            stands = self.pace or "paused" in job or "status" in job
            if not stands and job["stage"] < self.last_of(job):
                job["stage"] += 1
                self.save()
            return self.shown(job)

    def list_jobs(self, query: dict[str, str]) -> JSON:
        now, jobs = time.time(), sorted([*self.jobs.values()], key=lambda job: float(job["born"]))
        ordered = jobs[::-1] if self.jobs_newest_first else jobs
        jobs = [j for j in ordered if self.sees(j) and now - j["born"] >= self.list_lag]
        wanted = {k[9:-1]: v for k, v in query.items() if k.startswith("metadata[")}
        if wanted and self.honours_filter:
            jobs = [
                j
                for j in jobs
                if self.metadata == "kept"
                and wanted.items() <= (j["request"].get("metadata") or {}).items()
            ]
        page = self.page(jobs, query, 20)
        return {**page, "data": [self.shown(job) for job in page["data"]]}

    def cancel(self, job_id: str) -> JSON:
        with self.lock:
            job = self.own_job(job_id)
            if self.status(job) in ENDED:
                raise ValueError(f"Job has already completed: {job_id}")
            job["cancelled"] = self.stage(job)
            self.save()
            return self.shown(job)

    def pause(self, job_id: str) -> JSON:
        with self.lock:
            job = self.own_job(job_id)
            if self.status(job) not in ("queued", "running"):
                raise ValueError(f"Job cannot be paused: it is {self.status(job)}")
            job["paused"], job["paused_at"] = self.stage(job), time.time()
            self.save()
            return self.shown(job)

    def resume(self, job_id: str) -> JSON:
        with self.lock:
            job = self.own_job(job_id)
            if self.status(job) != "paused":
                raise ValueError(f"Job cannot be resumed: it is {self.status(job)}")
            job["idle"] = job.get("idle", 0) + time.time() - job.pop("paused_at")
            del job["paused"]
            self.save()
            return self.shown(job)

    # What a job reports

    def events(self, job: JSON) -> list[JSON]:
        """Oldest first. Pure: the same job at the same stage has the same events."""
        said: list[tuple[str, str, JSON]] = [
            ("message", f"Created fine-tuning job: {job['id']}", {}),
            ("message", "Fine-tuning job started", {}),
        ]
        stage, status = self.stage(job), self.status(job)
        said = said[: stage + 1]
        for step in range(1, min(stage - FIRST_STEP + 1, self.steps_of(job)) + 1):
            said.append(self.metrics(job, step))
        if status in ENDED:
            said.append(("message", f"The job has {status}", {}))
        return [
            {
                "id": f"ftevent-{job['id'][6:]}-{number}",
                "object": "fine_tuning.job.event",
                "created_at": int(job["born"]) + number,
                "level": "error" if "failed" in message else "info",
                "message": message,
                "type": kind,
                "data": data,
            }
            for number, (kind, message, data) in enumerate(said)
        ]

    def metrics(self, job: JSON, step: int) -> tuple[str, str, JSON]:
        steps = self.steps_of(job)
        loss = round(2.0 / (1 + step), 2)
        data: JSON = {"step": step, "total_steps": steps, "train_loss": loss}
        data["train_mean_token_accuracy"] = round(1 - loss / 4, 2)
        message = f"Step {step}/{steps}: training loss={loss}"
        if job["request"].get("validation_file"):
            data["valid_loss"] = round(loss + 0.1, 2)
            message += f", validation loss={data['valid_loss']}"
        return "metrics", message, data

    def is_forgotten(self, job: JSON) -> bool:
        days = (time.time() - job["born"]) / 86400
        return self.events_kept_days is not None and days > self.events_kept_days

    def list_events(self, job_id: str, query: dict[str, str]) -> JSON:
        job = self.own_job(job_id)
        events = [] if self.is_forgotten(job) else self.events(job)
        return self.page(events[::-1] if self.newest_first else events, query, 20)

    def list_checkpoints(self, job_id: str, query: dict[str, str]) -> JSON:
        job = self.own_job(job_id)
        shown = [] if self.is_forgotten(job) else self.checkpoints(job)
        return self.page(shown, query, 10)

    def checkpoints(self, job: JSON) -> list[JSON]:
        """The last three epochs, newest first, as OpenAI keeps them; an epoch is a step, unless
        the job was made with longer ones."""
        epoch, job_id = int(job.get("epoch", 1)), job["id"]
        done = min(self.stage(job) - FIRST_STEP, self.steps_of(job)) // epoch * epoch
        return [
            {
                "id": f"ftckpt_{job_id[6:]}{step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": int(job["born"]) + step,
                "fine_tuned_model_checkpoint": self.checkpoint_name(job, step),
                "fine_tuning_job_id": job_id,
                "step_number": step,
                "metrics": self.metrics(job, step)[2],
            }
            for step in range(done, max(done - 3 * epoch, 0), -epoch)
        ]

    def checkpoint_name(self, job: JSON, step: int) -> str:
        name = self.model_name(job)
        doubled = job.get("final_is_checkpoint", self.final_is_checkpoint)
        final = doubled and step == self.steps_of(job) and self.status(job) == "succeeded"
        return name if final else f"{name}:ckpt-step-{step}"

    def result_files(self, job: JSON) -> list[str]:
        """The file of the metrics, made when it is first shown."""
        form = job.get("results", self.results)
        if form is None:
            return []
        if "result_file" not in job:
            content = self.result_table(job)
            raw = base64.b64encode(content) if form == "base64" else content
            name, owner = "step_metrics.csv", job.get("account")
            job["result_file"] = self.keep_file(
                "fine-tune-results", name, raw, account=owner, at=job["born"]
            )
        return [job["result_file"]]

    def result_table(self, job: JSON) -> bytes:
        """The metrics as CSV, those of the validation empty where there is none."""
        names = ("step", "train_loss", "train_mean_token_accuracy", "valid_loss")
        lines = [",".join(RESULT_COLUMNS)]
        for step in range(1, self.steps_of(job) + 1):
            data = self.metrics(job, step)[2]
            lines.append(",".join([*(str(data.get(name, "")) for name in names), ""]))
        return ("\n".join(lines) + "\n").encode()


def hyperparameters(body: JSON) -> JSON:
    method = body.get("method") or {"type": "supervised"}
    return dict((method.get(method["type"]) or {}).get("hyperparameters") or {})
