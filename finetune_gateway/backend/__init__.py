"""The contract of a backend, and every type it uses: the one import of a plug-in.

A backend has short calls, each of which returns at once. Waiting, retrying and storing are in
``jobs``, once for all backends.
"""

from __future__ import annotations

from finetune_gateway.backend.capabilities import NEUTRAL, Capabilities
from finetune_gateway.backend.contract import (
    JOB_TAG,
    LIST_LAG,
    NOT_DEPLOYED,
    NOT_SETTLED,
    Backend,
    DataFile,
    Intent,
    TakesMetadata,
)
from finetune_gateway.backend.handle_data import HandleData
from finetune_gateway.chat import ChatModel, ChatReply, ChatStream, Usage
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import (
    AuthenticationError,
    BackendError,
    NotFoundError,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.estimation.estimate import Estimate, Range
from finetune_gateway.estimation.profiles import LifeCycle
from finetune_gateway.events import Checkpoint, Event, JobStatus, Metric, Result, Snapshot
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter, TokenCounter
from finetune_gateway.tokens.stats import TokenStats

__all__ = [
    "JOB_TAG", "LIST_LAG", "NEUTRAL", "NOT_DEPLOYED", "NOT_SETTLED",
    "AuthenticationError", "Backend", "BackendError", "Capabilities", "ChatModel", "ChatReply",
    "ChatStream", "Checkpoint", "DataFile", "Dataset", "Estimate", "Event", "HandleData",
    "HostedCounter", "Intent", "JobStatus", "LifeCycle", "Metric", "NotFoundError", "Range",
    "Result", "Settings", "Snapshot", "SpecError", "TakesMetadata", "TokenCounter", "TokenStats",
    "TrainingSpec", "UnsupportedError", "Usage",
]  # fmt: skip
