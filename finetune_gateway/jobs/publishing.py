"""The half of a handle that is about the Hub: its card."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Self

from pydantic import PrivateAttr

from finetune_gateway.backend import HandleData
from finetune_gateway.jobs.base_names import require_ref, require_repo
from finetune_gateway.jobs.merges import say_nothing
from finetune_gateway.model import exact_methods
from finetune_gateway.renderers import Shown, renderer
from finetune_gateway.settings.arguments import require_function
from finetune_gateway.settings.home import Settings


class PushFile(NamedTuple):
    """A file that goes to the Hub, and its size in bytes."""

    name: str
    bytes: int


@dataclass(frozen=True)
class PushPlan:
    """What a push would send, and to whom. ``account``: whose token it is."""

    repo: str
    account: str
    kind: str  # adapter, reward or merged
    public: bool
    exists: bool  # on the Hub, already
    branch: str | None
    tag: str | None
    files: tuple[PushFile, ...]

    @property
    def bytes(self) -> int:
        """Return the size of all files."""
        return sum(one.bytes for one in self.files)


@dataclass(frozen=True)
class Pushed:
    """Where a model is on the Hub. ``new``: False if all was there already."""

    repo: str
    commit: str
    url: str
    new: bool
    public: bool
    tag: str | None


@dataclass(frozen=True)
class PullPlan:
    """What a pull would bring. ``base``: what an adapter answers on, at which commit."""

    repo: str
    commit: str
    kind: str  # adapter or merged
    base: str | None
    base_commit: str | None
    bytes: int
    files: tuple[str, ...]


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

    def push(
        self,
        repo: str,
        *,
        merged: bool = False,
        public: bool = False,
        branch: str | None = None,
        tag: str | None = None,
        base: str | None = None,
        checks: str | os.PathLike[str] | None = None,
        confirm: Callable[[PushPlan], bool] | None = None,
        report: Callable[[str], None] = say_nothing,
    ) -> Pushed | None:
        """Send this model to the Hugging Face Hub, with its card, in one commit; the same call goes
        on after a kill. Sent are the weights, the configuration, the tokenizer, the template and
        the facts of this handle: no optimiser state, no row, no system prompt, no path.

        Arguments:
            repo: owner/name, which is made if it is not there: private, unless ``public``.
            merged: Merge an adapter into its base, and send the whole model.
            branch: By default main; made if it is not there.
            tag: A name for the commit.
            base: The base of an adapter on the Hub, OWNER/NAME or OWNER/NAME@COMMIT, where that is
                not known here.
            checks: A behaviour guide, whose words are in the card.
            confirm: Called with what would be sent; nothing is unless it returns True, and the
                result is None.
            report: Called with what is being done.

        Raises UnsupportedError for a model whose files are not here, SpecError, NotFoundError,
        AuthenticationError for a token that may not do that, BackendError.
        """
        require_repo(repo)
        require_function(report, "report", "what is being done")
        if confirm is not None:
            require_function(confirm, "confirm", "what would be sent")
        for name, text in (("branch", branch), ("tag", tag)):
            require_ref(text, name)
        found: Pushed | None = renderer("ModelHandle.push")(
            self,
            self._settings or Settings.load(),
            repo,
            merged=merged,
            public=public,
            branch=branch,
            tag=tag,
            base=base,
            checks=checks,
            confirm=confirm or (lambda plan: True),
            report=report,
        )
        return found

    @classmethod
    def pull(
        cls,
        repo: str,
        *,
        revision: str | None = None,
        base: str | None = None,
        to: str | os.PathLike[str] | None = None,
        confirm: Callable[[PullPlan], bool] | None = None,
        report: Callable[[str], object] = say_nothing,
    ) -> Self | None:
        """Bring a model from the Hugging Face Hub onto this machine, and return its handle: the
        files are those of one commit, and the base of an adapter is pinned to one. Only safetensors
        and settings are taken, no pickle and no code. The same call goes on after a kill.

        Arguments:
            repo: owner/name.
            revision: A commit, a tag or a branch; by default the newest commit.
            base: The base of an adapter, OWNER/NAME or OWNER/NAME@COMMIT, in the place of the one
                that it names.
            to: A folder that is not there yet; by default one in the home folder.
            confirm: Called with what would be brought, and on which base it answers; nothing is
                unless it returns True, and the result is None.
            report: Called with what is being done.

        Raises NotFoundError, SpecError for what cannot be used, BackendError, StoreError.
        """
        require_repo(repo)
        require_function(report, "report", "what is being done")
        if confirm is not None:
            require_function(confirm, "confirm", "what would be brought")
        require_ref(revision, "revision")
        found: Self | None = renderer("ModelHandle.pull")(
            repo,
            Settings.load(),
            revision=revision,
            base=base,
            to=to,
            confirm=confirm or (lambda plan: True),
            report=report,
        )
        return found
