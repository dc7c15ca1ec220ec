"""The provider's models: which are listed, which answer, and what is said of those that do not."""

from __future__ import annotations

from typing import Any

from support.provider_jobs import Jobs
from support.provider_memory import ACCOUNT, BASES, JSON, Refused

CHECKPOINT = ":ckpt-step-"
DEPRECATED = "learn more here: https://platform.openai.com/docs/deprecations"
NO_DEPLOYMENT = (  # Azure's words
    "The API deployment for this resource does not exist. If you created the deployment within the "
    "last 5 minutes, please wait a moment and try again."
)


class Models(Jobs):
    warm_up: int = 0  # chats that a new model answers with 404
    deployments: dict[str, str] | None = None  # name -> model; if set, these alone answer
    lists_checkpoints: bool = False  # checkpoints stand in the list of models
    lists_retired: bool = False  # what is retired stays in the list
    dates_fine_tunes: bool = False  # an ``ft:`` id shows the date of its base; else null

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.chats: dict[str, int] = {}  # by model: how often it was asked for an answer
        self.cold: dict[str, int] = {}  # by model: chats that it still answers with 404
        self.hidden: dict[str, set[str]] = {}  # by model: accounts that do not see it; all: "*"
        self.retired: set[str] = set()  # models, and bases with every fine-tune of them
        self.shutdown_dates: dict[str, str] = {}  # by model: 2027-01-14
        self.made_by: dict[str, JSON] = {}  # by model: its job, once it was looked for

    @property
    def hosts_deployments(self) -> bool:
        return self.deployments is not None

    def hide(self, model: str, *accounts: str) -> None:
        """Let these accounts (all, without one) neither see the model nor get an answer of it."""
        self.hidden.setdefault(model, set()).update(accounts or ("*",))

    def job_of(self, model: str) -> JSON | None:
        """The job that made a model or its checkpoint, if the asking key sees it: also of one that
        was deleted."""
        name = final_of(model)
        if name not in self.made_by:
            self.made_by = {self.model_name(job): job for job in [*self.jobs.values()]}
        job = self.made_by.get(name)
        return job if job and self.sees(job) and self.status(job) == "succeeded" else None

    def models(self) -> list[str]:
        """The ids that ``GET /models`` lists for the asking key."""
        names = [*BASES]
        for job in [*self.jobs.values()]:
            if self.sees(job) and self.status(job) == "succeeded":
                names += self.names_of(job)
        return [name for name in names if self.is_listed(name)]

    def names_of(self, job: JSON) -> list[str]:
        model = self.model_name(job)
        if not self.lists_checkpoints:
            return [model]
        made = [point["fine_tuned_model_checkpoint"] for point in self.checkpoints(job)]
        return [model, *(name for name in made if name != model)]

    def is_listed(self, name: str) -> bool:
        gone = {name, final_of(name)} & self.deleted
        retired = self.is_retired(name) and not self.lists_retired
        return not (gone or retired or self.is_hidden(name))

    def is_hidden(self, name: str) -> bool:
        accounts = self.hidden.get(final_of(name), set()) | self.hidden.get(name, set())
        return bool({"*", ACCOUNT.get()} & accounts)

    def is_retired(self, name: str) -> bool:
        return bool({name, final_of(name), base_of(name)} & self.retired)

    def list_models(self) -> JSON:
        """One page, the fine-tunes among the bases."""
        return {
            "object": "list",
            "data": [self.shown_model(name) for name in sorted(self.models())],
        }

    def model(self, name: str) -> JSON:
        if name not in self.models():
            message = f"The model '{name}' does not exist"
            raise Refused(404, message, code="model_not_found", param="model")
        return self.shown_model(name)

    def shown_model(self, name: str) -> JSON:
        job = None if name in BASES else self.job_of(name)
        date = self.shutdown_dates.get(name)
        if job is not None and date is None and self.dates_fine_tunes:
            date = self.shutdown_dates.get(base_of(name))
        return {
            "id": name,
            "object": "model",
            "created": 1700000000 if job is None else self.shown(job)["finished_at"],
            "owned_by": "system" if job is None else self.organisation,
            "shutdown_date": date,
        }

    def list_permissions(self, query: dict[str, str]) -> JSON:
        """Nobody has shared a checkpoint."""
        return {"first_id": None, "last_id": None, **self.page([], query, 10)}

    def delete_model(self, name: str) -> JSON:
        """A model, or one of its checkpoints, which no list shows."""
        made = [self.model_name(job) for job in self.jobs.values() if self.sees(job)]
        if name in self.deleted or final_of(name) not in made:
            raise KeyError(name)
        with self.lock:
            self.deleted.add(name)
            self.save()
        return {"id": name, "object": "model", "deleted": True}

    # Answering

    def require_answers(self, model: str) -> None:
        """Refuse what does not answer now: 404, in the words of each reason."""
        if self.deployments is not None:
            if self.deployments.get(model) not in self.models():
                raise Refused(404, NO_DEPLOYMENT, code="DeploymentNotFound")
            return
        with self.lock:
            self.chats[model] = self.chats.get(model, 0) + 1
        known = model in BASES or self.job_of(model) is not None
        if known and self.is_retired(model):
            message = f"The model `{model}` has been deprecated, {DEPRECATED}"
            raise Refused(404, message, code="model_not_found")
        if not known or not self.answers(model):
            message = f"The model `{model}` does not exist or you do not have access to it."
            raise Refused(404, message, code="model_not_found")

    def answers(self, model: str) -> bool:
        """Is it neither deleted nor hidden, and warm? A new one is cold for ``warm_up`` chats."""
        if not self.is_listed(model):
            return False
        with self.lock:
            if self.cold.get(model, 0) > 0:
                self.cold[model] -= 1
                return False
            return model in BASES or self.chats.get(model, 0) > self.warm_up


def final_of(name: str) -> str:
    """The model that a checkpoint belongs to; a model is its own."""
    return name.partition(CHECKPOINT)[0]


def base_of(name: str) -> str:
    """The base of ``ft:base:org:suffix:id``; a base is its own."""
    return name.split(":")[1] if name.startswith("ft:") else name
