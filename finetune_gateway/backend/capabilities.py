"""What a backend can do, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal

from finetune_gateway import methods
from finetune_gateway.errors import UnsupportedError
from finetune_gateway.estimation.profiles import LifeCycle
from finetune_gateway.events import JobStatus
from finetune_gateway.methods import LORA
from finetune_gateway.model import exact_methods
from finetune_gateway.spec import TrainingSpec

# Settings that say what to train rather than how: every backend understands them.
NEUTRAL = frozenset({"model", "method", "n_epochs", "seed", "suffix"})
# Of those, and of what a submit has beside, what a backend may refuse.
REFUSABLE = frozenset({"n_epochs", "seed", "suffix", "metadata"})
APART = frozenset({"training_type", "backend_params"})  # judged by rules of their own


Scheduling = Literal["priority", "after", "at"]  # the keywords of ``submit``


@dataclass(frozen=True)
class Schedule:
    """What a job waits for. Of those that wait for nothing, that with the largest ``priority``
    begins first, then that which was submitted first.

    ``after``: the provider's ids of jobs that must have succeeded. ``start_at``: it begins no
    earlier, in seconds since the epoch.
    """

    priority: int = 0
    after: tuple[str, ...] = ()
    start_at: float | None = None

    @property
    def used(self) -> list[Scheduling]:
        """Return the keywords of what it says beyond the default."""
        said: dict[Scheduling, bool] = {
            "priority": bool(self.priority),
            "after": bool(self.after),
            "at": self.start_at is not None,
        }
        return [name for name, is_used in said.items() if is_used]


AT_ONCE = Schedule()


@exact_methods
@dataclass(frozen=True)
class Capabilities:
    """What a backend can do, as data, so that a job is refused before any work."""

    hosted: bool  # True if the data leave this machine
    methods: frozenset[str]
    rules: str | Mapping[str, str] = "common"  # a family of data rules, or codes -> severities
    priced: frozenset[str] = frozenset()  # methods it can price but not run
    training_types: frozenset[str] = frozenset()
    options: frozenset[str] = frozenset()  # spec fields it honours in addition to NEUTRAL
    fixed: Mapping[str, Any] = field(default_factory=dict)  # those it honours at one value alone
    refuses: frozenset[str] = frozenset()  # of REFUSABLE, what it cannot take
    min_rows: int = 1
    max_file_bytes: int | None = None
    max_context: int | None = None  # tokens per example; longer examples are cut at the end
    no_new_jobs_after: date | None = None
    life_cycle: LifeCycle | None = None  # dates of the model, where one is named
    unknown_model_reason: str = ""  # why this backend certainly lacks the model; "" if it may not
    notes: tuple[str, ...] = ()
    resumes: frozenset[JobStatus] = frozenset()  # states that ``Backend.resume`` leads out of
    poll_seconds: tuple[float, float] = (0.5, 2.0)  # first and longest wait between polls
    settle_seconds: float = 0.0  # how long a sent create may still take effect
    takes_metadata: bool = False  # True if it is a TakesMetadata
    schedules: frozenset[Scheduling] = frozenset()  # not empty only if it is a TakesSchedule
    pauses: bool = False  # True if ``Backend.pause`` can be called; ``resumes`` has paused then
    longest_wait: float | None = None  # seconds to wait at most when asked to; None: the setting
    chats_at_once: int | None = None  # of a hosted model in a comparison; None: as the user says
    deletes: frozenset[Literal["file", "model"]] = frozenset()  # what the host deletes when asked

    def require(self, backend: str, spec: TrainingSpec) -> None:
        """Raise UnsupportedError for the first thing in ``spec`` that this backend cannot do."""
        if spec.method not in self.methods | self.priced:
            raise UnsupportedError(
                f"Backend {backend!r} cannot do method {spec.method!r}; it does: "
                f"{', '.join(sorted(self.methods)) or 'none that we know of'}.",
                hint="Use --backend local." if spec.method in methods.TRAINERS else "",
                backend=backend,
                option="method",
            )
        if spec.training_type and spec.training_type not in self.training_types:
            can = ", ".join(sorted(self.training_types)) or "it chooses itself"
            other = "use one of these" if self.training_types else "use --backend local"
            raise UnsupportedError(
                f"Backend {backend!r} cannot do training_type {spec.training_type!r} ({can}).",
                hint=f"Leave training_type out, or {other}.",
                backend=backend,
                option="training_type",
            )
        self._require_not_refused(backend, spec)
        fixed = {name for name, value in self.fixed.items() if getattr(spec, name) == value}
        refused = sorted(spec.chosen - NEUTRAL - self.options - fixed - APART)
        if refused:
            honours = sorted((self.options | NEUTRAL) - self.refuses)
            honoured = f"It honours: {', '.join(honours)}."
            named = "It trains on from a model of its own that is named as model, like ft:..."
            raise UnsupportedError(
                f"Backend {backend!r} cannot honour {', '.join(refused)}.",
                hint=named if self.hosted and refused[0] == "continue_from" else honoured,
                backend=backend,
                option=refused[0],
            )
        if not spec.chosen <= NEUTRAL | {"backend_params"}:
            methods.require(spec)
        unused = sorted(spec.chosen & LORA) if spec.training_type == "full" else []
        if unused:
            raise UnsupportedError(
                f"training_type 'full' has no adapter, so it cannot honour {', '.join(unused)}.",
                hint="Leave it out, or use training_type='lora'.",
                backend=backend,
                option=unused[0],
            )

    def _require_not_refused(self, backend: str, spec: TrainingSpec) -> None:
        """Raise UnsupportedError for a setting that most backends take and this one does not. An
        automatic number of epochs is its own choice."""
        given = spec.chosen - ({"n_epochs"} if spec.n_epochs == "auto" else set())
        for name in sorted(given & self.refuses):
            raise self.refused(backend, name)

    def require_metadata(self, backend: str, metadata: Mapping[str, str]) -> None:
        """Raise UnsupportedError for the user's own metadata where the backend refuses them."""
        if metadata and "metadata" in self.refuses:
            raise self.refused(backend, "metadata")

    def require_schedule(self, backend: str, schedule: Schedule) -> None:
        """Raise UnsupportedError for what a job should wait for, where the backend has no line."""
        for name in schedule.used:
            if name not in self.schedules:
                raise UnsupportedError(
                    f"Backend {backend!r} has no {name}: it begins its jobs as it likes. Nothing "
                    "was sent.",
                    hint=f"Leave {name} out, or use --backend local.",
                    backend=backend,
                    option=name,
                )

    def refused(self, backend: str, name: str) -> UnsupportedError:
        """Return the error for one of ``refuses``."""
        return UnsupportedError(
            f"Backend {backend!r} does not take {name}: nothing was sent.",
            hint=f"Leave {name} out.",
            backend=backend,
            option=name,
        )
