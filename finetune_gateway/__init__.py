"""finetune-gateway: one job API for teaching a model a behaviour.

    import finetune_gateway as gateway

    report = gateway.validate("train.jsonl", model="gpt-4.1-mini-2025-04-14")
    job = gateway.submit("train.jsonl", model="builtin/tiny")  # trained on this machine
    print(job.result().chat("Where is my parcel?").text)

The functions work on a default ``Gateway`` (home folder: ``FTG_HOME``). Names are imported
when they are first used, so that ``import finetune_gateway`` and ``ftg --help`` cost nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune_gateway.api import (
        advise,
        budget,
        compare,
        costs,
        estimate,
        get_job,
        list_jobs,
        migrate,
        preview,
        prune,
        refresh_jobs,
        remove_jobs,
        resume_all,
        submit,
        validate,
        wait_for_jobs,
    )
    from finetune_gateway.backend import Backend, Capabilities, ChatReply, ChatStream
    from finetune_gateway.backends.fake import FakeBackend
    from finetune_gateway.backends.local.backend import LocalBackend
    from finetune_gateway.backends.openai.backend import OpenAIBackend
    from finetune_gateway.dataset import Dataset
    from finetune_gateway.errors import (
        AuthenticationError,
        BackendError,
        BudgetError,
        DataError,
        GatewayError,
        JobCancelled,
        JobFailed,
        JobNotFinished,
        JobRemoved,
        MissingDependency,
        MissingScopeError,
        NotFoundError,
        PrivateDataError,
        SpecError,
        StoreError,
        UnboundKeyError,
        UnsupportedError,
    )
    from finetune_gateway.estimation.estimate import Estimate
    from finetune_gateway.evaluation.advice.advice import Advice
    from finetune_gateway.evaluation.comparison import Comparison
    from finetune_gateway.events import Checkpoint, Event, JobStatus, Metric, Snapshot
    from finetune_gateway.findings import Finding, Report
    from finetune_gateway.gateway import Gateway
    from finetune_gateway.jobs.budget import Actual, Budget
    from finetune_gateway.jobs.groups import Failure
    from finetune_gateway.jobs.handle import ModelHandle
    from finetune_gateway.jobs.job import Job
    from finetune_gateway.jobs.ledger import Ledger
    from finetune_gateway.jobs.planning import Option, Plan
    from finetune_gateway.jobs.pruning import Pruned
    from finetune_gateway.jobs.removal import Removed
    from finetune_gateway.migration.archived import Archive
    from finetune_gateway.migration.inventory import FineTune, Inventory
    from finetune_gateway.migration.outcome import Migration
    from finetune_gateway.settings.client_options import KeyRequest
    from finetune_gateway.spec import TrainingOptions, TrainingSpec
    from finetune_gateway.tokens.masks.preview import Preview, Sequence, Token

__version__ = "0.1.0"

_MODULES = {
    "backend": ["Backend", "Capabilities", "ChatReply", "ChatStream"],
    "backends.fake": ["FakeBackend"],
    "backends.local.backend": ["LocalBackend"],
    "backends.openai.backend": ["OpenAIBackend"],
    "api": [
        "advise",
        "budget",
        "compare",
        "costs",
        "estimate",
        "get_job",
        "list_jobs",
        "migrate",
        "preview",
        "prune",
        "refresh_jobs",
        "remove_jobs",
        "resume_all",
        "submit",
        "validate",
        "wait_for_jobs",
    ],
    "dataset": ["Dataset"],
    "errors": [
        "AuthenticationError",
        "BackendError",
        "BudgetError",
        "DataError",
        "GatewayError",
        "JobCancelled",
        "JobFailed",
        "JobNotFinished",
        "JobRemoved",
        "MissingDependency",
        "MissingScopeError",
        "NotFoundError",
        "PrivateDataError",
        "SpecError",
        "StoreError",
        "UnboundKeyError",
        "UnsupportedError",
    ],
    "evaluation.advice.advice": ["Advice"],
    "evaluation.comparison": ["Comparison"],
    "events": ["Checkpoint", "Event", "JobStatus", "Metric", "Snapshot"],
    "findings": ["Finding", "Report"],
    "gateway": ["Gateway"],
    "jobs.handle": ["ModelHandle"],
    "jobs.job": ["Job"],
    "tokens.masks.preview": ["Preview", "Sequence", "Token"],
    "jobs.planning": ["Option", "Plan"],
    "jobs.pruning": ["Pruned"],
    "jobs.removal": ["Removed"],
    "estimation.estimate": ["Estimate"],
    "jobs.ledger": ["Ledger"],
    "jobs.groups": ["Failure"],
    "settings.client_options": ["KeyRequest"],
    "spec": ["TrainingOptions", "TrainingSpec"],
    "jobs.budget": ["Actual", "Budget"],
    "migration.archived": ["Archive"],
    "migration.inventory": ["FineTune", "Inventory"],
    "migration.outcome": ["Migration"],
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Actual",
    "Advice",
    "Archive",
    "AuthenticationError",
    "Backend",
    "BackendError",
    "Budget",
    "BudgetError",
    "Capabilities",
    "ChatReply",
    "ChatStream",
    "Checkpoint",
    "Comparison",
    "DataError",
    "Dataset",
    "Estimate",
    "Event",
    "Failure",
    "FakeBackend",
    "Finding",
    "FineTune",
    "Gateway",
    "GatewayError",
    "Inventory",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobNotFinished",
    "JobRemoved",
    "JobStatus",
    "KeyRequest",
    "Ledger",
    "LocalBackend",
    "Metric",
    "Migration",
    "MissingDependency",
    "MissingScopeError",
    "ModelHandle",
    "NotFoundError",
    "OpenAIBackend",
    "Option",
    "Plan",
    "Preview",
    "PrivateDataError",
    "Pruned",
    "Removed",
    "Report",
    "Sequence",
    "Snapshot",
    "SpecError",
    "StoreError",
    "Token",
    "TrainingOptions",
    "TrainingSpec",
    "UnboundKeyError",
    "UnsupportedError",
    "__version__",
    "advise",
    "budget",
    "compare",
    "costs",
    "estimate",
    "get_job",
    "list_jobs",
    "migrate",
    "preview",
    "prune",
    "refresh_jobs",
    "remove_jobs",
    "resume_all",
    "submit",
    "validate",
    "wait_for_jobs",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
