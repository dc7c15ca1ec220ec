"""The half of a handle that is about the Hub: its card."""

from __future__ import annotations

import os

from pydantic import PrivateAttr

from finetune_gateway.backend import HandleData
from finetune_gateway.jobs.base_names import require_repo
from finetune_gateway.model import exact_methods
from finetune_gateway.renderers import Shown, renderer
from finetune_gateway.settings.home import Settings


@exact_methods
class Published(Shown, HandleData):
    """A model that others may load."""

    _settings: Settings | None = PrivateAttr(default=None)  # of the home that it is of

    def card(self, *, checks: str | os.PathLike[str] | None = None, repo: str | None = None) -> str:
        """Return its model card in Markdown, with the head that the Hub reads: base, data,
        settings, losses, comparison, limits, and how to load it. No text of a row, no path.

        Arguments:
            checks: A behaviour guide, whose words are in the card.
            repo: Where the model will be, on the Hub: owner/name.

        Raises SpecError for what is no such name and for a guide that cannot be read,
        NotFoundError.
        """
        if repo is not None:
            require_repo(repo)
        settings = self._settings or Settings.load()
        text: str = renderer("ModelHandle.card")(self, settings, checks=checks, repo=repo)
        return text
