"""The result of ``ftg estimate``: options side by side, and what serving would cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_gateway.estimation.serving import ServingCosts
from finetune_gateway.jobs.planning import Option
from finetune_gateway.reports.estimate_figures import price
from finetune_gateway.reports.estimate_notes import Ranking
from finetune_gateway.reports.estimate_text import estimates_text


@dataclass(frozen=True)
class EstimateView:
    """Options for one data file, and the costs of serving if they were requested."""

    name: str  # of the data file
    options: Sequence[Option]
    serving: ServingCosts | None

    def text(self, *, explain: bool = False) -> str:
        """Return the estimates as text, with ``explain`` also what they rest on."""
        return estimates_text(self.options, self.serving, explain=explain)

    def price(self) -> str:
        """Return the expected cost in USD alone; of several options a line each, the cheapest
        first."""
        ranking = Ranking.of(self.options)
        prices = [price(estimate) for estimate in ranking.estimates]
        if len(self.options) == 1:
            return prices[0]
        named = zip(prices, ranking.possible, strict=True)
        return "\n".join(f"{usd}\t{one.backend}\t{one.model}" for usd, one in named)

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
