"""The part of a Gateway that weighs things up: what to do with a data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_gateway.data.dataset import Dataset, Source
from finetune_gateway.findings import Report
from finetune_gateway.jobs.planning import OnProgress, Option
from finetune_gateway.keywords import listed, require_bool, verb
from finetune_gateway.settings.home import Settings

if TYPE_CHECKING:
    from finetune_gateway.evaluation.advice.advice import Advice


class HomeEvaluations(ABC):
    """What a Gateway does with data and models beside jobs."""

    settings: Settings

    @abstractmethod
    def open(self, data: Source) -> Dataset:
        """Return a dataset from a path or from rows in memory."""

    @abstractmethod
    def validate(self, *args: Any, **options: Any) -> Report:
        """Check a dataset and return the report."""

    @abstractmethod
    def options(self, *args: Any, **options: Any) -> list[Option]:
        """Return an Option for each pair of a model and a backend."""

    @verb()
    def advise(
        self,
        data: Source,
        *,
        preferences: Source | None = None,
        comparison: str | None = None,
        model: str | Sequence[str] | None = None,
        backend: str | Sequence[str] | None = None,
        private: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Advice:
        """Return what to do with a data set: prompt first, retrieval, or fine-tuning; by which
        method; whether the rows are enough; hosted or local. It says when it can't tell. Offline.

        Arguments:
            data: Path of a file, rows in memory, or a Dataset.
            preferences: Preference pairs that you have beside the data.
            comparison: Id of a comparison. By default the newest of these rows, if there is one.
            model: Bases to estimate, one or several. By default one that hosts have and one for
                this machine.
            backend: Places to estimate, one or several.
            private: The data must not leave this machine.
            on_progress: Called now and then with the bytes read and the bytes there are.

        Raises NotFoundError for a file or a comparison, SpecError for a wrong keyword.
        """
        # Imported here: only advice needs it.
        from finetune_gateway.evaluation.advice import advising

        require_bool("private", private)
        return advising.advise(
            self.open(data),
            None if preferences is None else self.open(preferences),
            self.settings,
            comparison=comparison,
            models=[] if model is None else listed(model, str, "model"),
            backends=[] if backend is None else listed(backend, str, "backend"),
            private=private,
            validate=lambda rows, method: self.validate(
                rows, method=method, quality=True, on_progress=on_progress
            ),
            estimate=lambda rows, pairs, method: self.options(rows, pairs, method=method),
        )
