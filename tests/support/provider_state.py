"""What the provider of ``provider.py`` knows: files, jobs and what they become.

A job is its request, a birth time and a stage number; status, events and checkpoints are pure
functions of these, so that the same question has the same answer, also after a restart. Each
account (``ACCOUNT``) sees its own files and jobs alone.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

JSON = dict[str, Any]

BASES = (
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
    "gpt-4.1-2025-04-14",
    "gpt-4.1-mini-2025-04-14",
)
MAIN = "main"
ACCOUNT = ContextVar("account", default=MAIN)  # whose request this is; each has a thread of its own
FIRST_STEP = 2  # stage 0 validates, 1 queues, 2.. train, then it has succeeded


class TurnedAway(Exception):
    """There is no room for another job now: 429, with these headers."""

    def __init__(self, message: str, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.headers = headers


class World:
    """The provider's memory. Settings are public and may be changed while it runs."""

    def __init__(
        self,
        *,
        state_file: Path | None = None,
        steps: int = 3,
        pace: float | None = None,  # seconds per stage; None: one stage per retrieve
        list_lag: float = 0.0,  # seconds until a new job shows in lists
        warm_up: int = 0,  # chats that a new model answers with 404
        deployments: dict[str, str] | None = None,  # name -> model; if set, these alone answer
        any_model: bool = False,
        honours_filter: bool = True,
        honours_after: bool = True,
        keeps_metadata: bool = True,
        metadata: str = "kept",  # or null, empty: every job shows that, and no filter matches
        hides: tuple[str, ...] = (),  # fields that no job shows
        jobs_newest_first: bool = True,
        page_size: int | None = None,  # the longest page of a list, whatever ``limit`` says
        newest_first: bool = True,  # events
        fail_with: JSON | None = None,  # error of every job, instead of success
        running_limit: int | None = None,  # jobs that have not ended; a create beyond them gets 429
        retry_after: str | None = None,  # the header with that 429
    ) -> None:
        self.state_file = state_file
        self.steps = steps
        self.pace = pace
        self.list_lag = list_lag
        self.warm_up = warm_up
        self.deployments = deployments
        self.any_model = any_model
        self.honours_filter = honours_filter
        self.honours_after = honours_after
        self.keeps_metadata = keeps_metadata
        self.metadata = metadata
        self.hides = hides
        self.jobs_newest_first = jobs_newest_first
        self.page_size = page_size
        self.newest_first = newest_first
        self.fail_with = fail_with
        self.running_limit = running_limit
        self.retry_after = retry_after
        self.extra: JSON = {}  # laid over every job that is shown
        self.files: dict[str, JSON] = {}
        self.jobs: dict[str, JSON] = {}
        self.chats: dict[str, int] = {}
        self.deleted: set[str] = set()  # models
        self.lock = threading.RLock()
        if state_file and state_file.exists():
            saved = json.loads(state_file.read_text())
            self.files, self.jobs = saved["files"], saved["jobs"]
            self.deleted = {*saved["deleted"]}

    def save(self) -> None:
        if self.state_file:
            temporary = self.state_file.with_suffix(".tmp")
            kept = {"files": self.files, "jobs": self.jobs, "deleted": [*self.deleted]}
            temporary.write_text(json.dumps(kept))
            temporary.replace(self.state_file)

    # Files

    def add_file(self, purpose: str, name: str, content: bytes, expiry: JSON | None = None) -> JSON:
        expiry = expiry or {}
        seconds = int(expiry["seconds"]) if expiry.get("anchor") == "created_at" else None
        if expiry and not (seconds and 3600 <= seconds <= 2_592_000):
            raise ValueError(f"expires_after cannot be {expiry}", "expires_after")
        if purpose != "fine-tune":
            raise ValueError(f"'{purpose}' is not one of ['fine-tune']", "purpose")
        with self.lock:
            file: JSON = {
                "id": f"file-{uuid.uuid4().hex[:22]}",
                "object": "file",
                "bytes": len(content),
                "created_at": int(time.time()),
                "filename": name,
                "purpose": purpose,
                "status": "processed",
                "status_details": None,
                "expires_at": int(time.time()) + seconds if seconds else None,
            }
            held = {"content": content.decode("latin-1"), "account": ACCOUNT.get()}
            self.files[file["id"]] = {**file, **held}
            self.save()
            return file

    def file(self, file_id: str) -> JSON:
        held = own(self.files, file_id)
        return {k: v for k, v in held.items() if k not in ("content", "account")}

    def content(self, file_id: str) -> bytes:
        return str(own(self.files, file_id)["content"]).encode("latin-1")

    def delete_file(self, file_id: str) -> JSON:
        with self.lock:
            own(self.files, file_id)
            del self.files[file_id]
            self.save()
        return {"id": file_id, "object": "file", "deleted": True}

    def list_files(self, query: dict[str, str]) -> JSON:
        wanted = query.get("purpose")
        files = [self.file(key) for key in reversed(self.files) if is_own(self.files[key])]
        return self.page([f for f in files if wanted in (None, f["purpose"])], query, 10000)

    # Jobs

    def create(self, body: JSON) -> JSON:
        self.check(body)
        with self.lock:
            self.require_room()
            key = f"ftjob-{uuid.uuid4().hex[:24]}"
            self.jobs[key] = {"id": key, "born": time.time(), "stage": -1, "request": body}
            self.jobs[key]["account"] = ACCOUNT.get()
            self.jobs[key]["bad_line"] = self.bad_line(body["training_file"])
            self.save()
            return self.shown(self.jobs[key])

    def require_room(self) -> None:
        ended = ("succeeded", "failed", "cancelled")
        live = sum(is_own(job) and self.status(job) not in ended for job in self.jobs.values())
        if self.running_limit is not None and live >= self.running_limit:
            headers = {} if self.retry_after is None else {"Retry-After": self.retry_after}
            message = (
                "This fine-tune request has been rate-limited. Your organization has reached the "
                f"maximum of {self.running_limit} active requests for this model."
            )
            raise TurnedAway(message, headers)

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

    def bad_line(self, file_id: str) -> str | None:
        """What OpenAI would say of the first line that is neither chat nor preference."""
        lines = self.content(file_id).split(b"\n")
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
        return min(max(int(job["stage"]), waited, 0), self.last)

    @property
    def last(self) -> int:
        return FIRST_STEP + self.steps

    def failure(self, job: JSON) -> JSON | None:
        if job["bad_line"]:
            message = f"The job failed due to an invalid training file. {job['bad_line']}"
            return {"code": "invalid_training_file", "param": "training_file", "message": message}
        return self.fail_with

    def status(self, job: JSON) -> str:
        stage = self.stage(job)
        if "cancelled" in job:
            return "cancelled"
        if "paused" in job:
            return "paused"
        if stage >= 1 and job["bad_line"]:
            return "failed"
        if stage >= self.last:
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
            "result_files": [],
            "status": status,
            "hyperparameters": chosen,
            "training_file": request["training_file"],
            "validation_file": request.get("validation_file"),
            "trained_tokens": self.tokens(request, chosen) if done else None,
            "error": self.failure(job) if status == "failed" else {},
            "seed": request.get("seed", 42),
            "estimated_finish": None,
            "integrations": [],
            "method": request.get("method"),
            "user_provided_suffix": request.get("suffix"),
            "usage_metrics": None,
            "shared_with_openai": False,
        }
        if self.keeps_metadata:
            dropped: JSON = {"null": None, "empty": {}}
            body["metadata"] = dropped.get(self.metadata, request.get("metadata"))
        shown = {**body, **self.extra}
        return {name: value for name, value in shown.items() if name not in self.hides}

    def tokens(self, request: JSON, chosen: JSON) -> int:
        """Not a real count: characters / 4, so that estimates have something to meet."""
        held = self.files.get(request["training_file"], {"bytes": 0})
        return int(held["bytes"] // 4 * chosen["n_epochs"])

    def model_name(self, job: JSON) -> str:
        suffix = job["request"].get("suffix") or ""
        if self.deployments is not None:
            return f"{job['request']['model']}.ft-{job['id'][6:]}"
        return f"ft:{job['request']['model']}:test-org:{suffix}:{job['id'][6:14]}"

    def retrieve(self, job_id: str) -> JSON:
        with self.lock:
            job = own(self.jobs, job_id)
            if not self.pace and "paused" not in job:
                job["stage"] = min(job["stage"] + 1, self.last)
                self.save()
            return self.shown(job)

    def list_jobs(self, query: dict[str, str]) -> JSON:
        now = time.time()
        ordered = reversed(self.jobs.values()) if self.jobs_newest_first else self.jobs.values()
        jobs = [j for j in ordered if is_own(j) and now - j["born"] >= self.list_lag]
        wanted = {k[9:-1]: v for k, v in query.items() if k.startswith("metadata[")}
        if wanted and self.honours_filter:
            jobs = [
                j
                for j in jobs
                if self.metadata == "kept"
                and wanted.items() <= (j["request"].get("metadata") or {}).items()
            ]
        return self.page([self.shown(j) for j in jobs], query, 20)

    def cancel(self, job_id: str) -> JSON:
        with self.lock:
            job = own(self.jobs, job_id)
            if self.status(job) in ("succeeded", "failed", "cancelled"):
                raise ValueError(f"Job has already completed: {job_id}")
            job["cancelled"] = self.stage(job)
            self.save()
            return self.shown(job)

    def pause(self, job_id: str) -> JSON:
        with self.lock:
            job = own(self.jobs, job_id)
            if self.status(job) not in ("queued", "running"):
                raise ValueError(f"Job cannot be paused: it is {self.status(job)}")
            job["paused"], job["paused_at"] = self.stage(job), time.time()
            self.save()
            return self.shown(job)

    def resume(self, job_id: str) -> JSON:
        with self.lock:
            job = own(self.jobs, job_id)
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
        for step in range(1, min(stage - FIRST_STEP + 1, self.steps) + 1):
            said.append(self.metrics(job, step))
        if status in ("succeeded", "cancelled", "failed"):
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
        loss = round(2.0 / (1 + step), 2)
        data: JSON = {"step": step, "total_steps": self.steps, "train_loss": loss}
        data["train_mean_token_accuracy"] = round(1 - loss / 4, 2)
        message = f"Step {step}/{self.steps}: training loss={loss}"
        if job["request"].get("validation_file"):
            data["valid_loss"] = round(loss + 0.1, 2)
            message += f", validation loss={data['valid_loss']}"
        return "metrics", message, data

    def list_events(self, job_id: str, query: dict[str, str]) -> JSON:
        events = self.events(own(self.jobs, job_id))
        return self.page(events[::-1] if self.newest_first else events, query, 20)

    def list_checkpoints(self, job_id: str, query: dict[str, str]) -> JSON:
        """The last three epochs, as OpenAI keeps them; here an epoch is a step."""
        job = own(self.jobs, job_id)
        done = min(self.stage(job) - FIRST_STEP, self.steps)
        shown = [
            {
                "id": f"ftckpt_{job_id[6:]}{step}",
                "object": "fine_tuning.job.checkpoint",
                "created_at": int(job["born"]) + step,
                "fine_tuned_model_checkpoint": f"{self.model_name(job)}:ckpt-step-{step}",
                "fine_tuning_job_id": job_id,
                "step_number": step,
                "metrics": self.metrics(job, step)[2],
            }
            for step in range(done, max(done - 3, 0), -1)
        ]
        return self.page(shown, query, 10)

    def page(self, items: list[JSON], query: dict[str, str], default: int) -> JSON:
        limit = int(query.get("limit", default))
        if not 1 <= limit <= 10000:
            raise ValueError(f"limit {limit} is not in 1..10000", "limit")
        limit = min(limit, self.page_size or limit)
        after, start = query.get("after"), 0
        if after and self.honours_after:
            ids = [item["id"] for item in items]
            start = ids.index(after) + 1 if after in ids else len(ids)
        data = items[start : start + limit]
        more = start + limit < len(items) or not self.honours_after
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"object": "list", "data": data, "has_more": more, **ends}

    # Models that answer

    def models(self) -> list[str]:
        done = [j for j in self.jobs.values() if is_own(j) and self.status(j) == "succeeded"]
        names = (self.model_name(job) for job in done)
        return [*BASES, *(name for name in names if name not in self.deleted)]

    def list_models(self) -> JSON:
        return {"object": "list", "data": [self.model(name) for name in self.models()]}

    def model(self, name: str) -> JSON:
        if name not in self.models():
            raise KeyError(name)
        return {"id": name, "object": "model", "created": 1700000000, "owned_by": "test-org"}

    def delete_model(self, name: str) -> JSON:
        """A model, or one of its checkpoints, which no list shows."""
        made = [self.model_name(job) for job in self.jobs.values() if is_own(job)]
        if name in self.deleted or name.partition(":ckpt-step-")[0] not in made:
            raise KeyError(name)
        with self.lock:
            self.deleted.add(name)
            self.save()
        return {"id": name, "object": "model", "deleted": True}

    def answers(self, model: str) -> bool:
        """Does this model answer now? A new one says 404 to its first ``warm_up`` chats."""
        if self.deployments is not None:
            return self.deployments.get(model) in self.models()
        if model in self.deleted or model.partition(":ckpt-step-")[0] not in self.models():
            return False
        with self.lock:
            self.chats[model] = self.chats.get(model, 0) + 1
            return model in BASES or self.chats[model] > self.warm_up

    def chat(self, body: JSON) -> JSON:
        message, reason = reply_to(body)
        words = len(str(body["messages"]).split())
        answered = len((message["content"] or "").split())
        return {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1700000000,
            "model": body["model"],
            "choices": [
                {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
            ],
            "usage": {
                "prompt_tokens": words,
                "completion_tokens": answered,
                "total_tokens": words + answered,
            },
        }

    def stream(self, body: JSON) -> Iterator[JSON]:
        message, reason = reply_to(body)
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000}
        for piece in (message["content"] or "").split(" "):
            delta = {"role": "assistant", "content": f"{piece} "}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            yield {**head, "model": body["model"], "choices": [choice]}
        last = {"index": 0, "delta": {}, "finish_reason": reason}
        yield {**head, "model": body["model"], "choices": [last]}


def is_own(thing: JSON) -> bool:
    """Does this file or job belong to the account that asks?"""
    return bool(thing.get("account", MAIN) == ACCOUNT.get())


def own(things: dict[str, JSON], name: str) -> JSON:
    """A file or a job of the account that asks; KeyError, and so 404, for those of others."""
    if not is_own(things[name]):
        raise KeyError(name)
    return things[name]


def hyperparameters(body: JSON) -> JSON:
    method = body.get("method") or {"type": "supervised"}
    return dict((method.get(method["type"]) or {}).get("hyperparameters") or {})


def reply_to(body: JSON) -> tuple[JSON, str]:
    """An echo; with tools and a user's turn last, a call of the first tool."""
    messages = body.get("messages") or []
    if not messages:
        raise ValueError("messages must not be empty", "messages")
    last = messages[-1]
    if body.get("tools") and last["role"] == "user":
        function = {"name": body["tools"][0]["function"]["name"], "arguments": "{}"}
        call = {"id": "call_1", "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    text = f"{body['model']} heard: {last['content']}"
    return {"role": "assistant", "content": text, "refusal": None}, "stop"
