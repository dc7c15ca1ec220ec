"""The result of ``ftg estimate``: options side by side, and what serving would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_gateway.estimation.serving import ServingCosts
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_text import option_text, options_text
from finetune_gateway.reports.serving_text import serving_text


@dataclass(frozen=True)
class EstimateView:
    """Options for one data file, and the costs of serving if they were requested."""

    name: str  # of the data file
    options: Sequence[Option]
    serving: ServingCosts | None

    def text(self) -> str:
        """Return the estimates as text."""
        single = self.options[0].estimate if len(self.options) == 1 else None
        if single:
            text = option_text(single, self.options[0].backend)
        else:
            text = options_text(self.options)
        return f"{text}\n\n{serving_text(self.serving)}" if self.serving else text

    def document(self) -> Any:
        """Return the estimates as JSON."""
        estimates = [option.document() for option in self.options]
        if self.serving is None:
            return estimates
        return {"estimates": estimates, "serving": self.serving.model_dump(mode="json")}

    def page(self) -> str:
        """Return the estimates as one HTML page."""
        # Imported here: only pages need it.
        from finetune_gateway.reports.estimate_page import page

        return page(self.name, self.options, self.serving)
