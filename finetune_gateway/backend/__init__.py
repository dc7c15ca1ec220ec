"""The contract of a backend, and every type it uses: the one import of a plug-in.

A backend has short calls, each of which returns at once. Waiting, retrying and storing are in
``jobs``, once for all backends.
"""

from __future__ import annotations

from finetune_gateway.backend.capabilities import NEUTRAL, Capabilities, Schedule
from finetune_gateway.backend.contract import (
    BY_FTG,
    JOB_TAG,
    LIST_LAG,
    NOT_DEPLOYED,
    NOT_SETTLED,
    Backend,
    DataFile,
    Intent,
    TakesMetadata,
    TakesSchedule,
)
from finetune_gateway.backend.handle_data import HandleData
from finetune_gateway.backend.health import Health
from finetune_gateway.backend.params import BackendParams
from finetune_gateway.chat import ChatModel, ChatReply, ChatsMany, ChatStream, Usage
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.errors import (
    AuthenticationError,
    BackendError,
    DataError,
    GatewayError,
    JobNotFinished,
    MissingDependency,
    MissingScopeError,
    NotFoundError,
    SpecError,
    StoreError,
    UnsupportedError,
)
from finetune_gateway.estimation.estimate import Estimate, Range, auto_epochs, epochs_of
from finetune_gateway.estimation.price_table import Price, find_price, gpu_prices
from finetune_gateway.estimation.profiles import LifeCycle
from finetune_gateway.events import Artifact, Checkpoint, Event, JobStatus, Metric, Result, Snapshot
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.counter import HostedCounter, TokenCounter
from finetune_gateway.tokens.masks.preview import PreviewRenderer
from finetune_gateway.tokens.stats import RowTokens, TokenStats

__all__ = [
    "BY_FTG", "JOB_TAG", "LIST_LAG", "NEUTRAL", "NOT_DEPLOYED", "NOT_SETTLED", "Artifact",
    "AuthenticationError",
    "Backend", "BackendError", "BackendParams", "Capabilities", "ChatModel", "ChatReply",
    "ChatStream", "ChatsMany", "Checkpoint", "DataError", "DataFile", "Dataset", "Estimate",
    "Event", "GatewayError", "HandleData", "Health", "HostedCounter", "Intent", "JobNotFinished",
    "JobStatus", "LifeCycle", "Metric", "MissingDependency", "MissingScopeError", "NotFoundError",
    "PreviewRenderer", "Price", "Range", "Result", "RowTokens", "Schedule", "Settings",
    "Snapshot", "SpecError", "StoreError", "TakesMetadata", "TakesSchedule", "TokenCounter",
    "TokenStats", "TrainingSpec", "UnsupportedError", "Usage", "auto_epochs",
    "epochs_of", "find_price", "gpu_prices",
]  # fmt: skip
