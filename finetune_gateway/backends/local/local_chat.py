"""A model on this machine that is loaded when it is first asked. Imports no torch before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from weakref import finalize

from finetune_gateway.backend import ChatReply, HandleData
from finetune_gateway.backends.local import fourbit
from finetune_gateway.backends.local.imports import without_collections
from finetune_gateway.chat import Conversation
from finetune_gateway.errors import GatewayError
from finetune_gateway.settings.home import Settings

if TYPE_CHECKING:
    # The type checker alone: they bring torch.
    from finetune_gateway.backends.local.inference import LocalModel
    from finetune_gateway.backends.local.rewards import RewardModel


class LocalChat:
    """A model in this process; torch is imported and the weights are loaded at the first chat."""

    def __init__(self, handle: HandleData, settings: Settings) -> None:
        self.handle = handle
        self.settings = settings
        self._loading = threading.RLock()
        self._held: dict[str, Any] = {}  # what is loaded
        finalize(self, _let_go, self._held).atexit = False

    @property
    def _model(self) -> LocalModel:
        with self._loading:
            if "model" not in self._held:
                self._held["model"] = self._load()
            model: LocalModel = self._held["model"]
            return model

    def _load(self) -> LocalModel:
        with without_collections():
            if self.handle.base_quantization or fourbit.installed():
                fourbit.import_quietly()  # peft would import it too, and print to the screen
            # Imported here: transformers and peft take seconds, and a handle is often just shown.
            from finetune_gateway.backends.local.inference import LocalModel

        return LocalModel.load(self.handle, self.settings)

    @property
    def _reward_model(self) -> RewardModel:
        with self._loading:
            if "reward" not in self._held:
                self._held["reward"] = self._load_reward()
            model: RewardModel = self._held["reward"]
            return model

    def _load_reward(self) -> RewardModel:
        with without_collections():
            if self.handle.base_quantization or fourbit.installed():
                fourbit.import_quietly()
            # Imported here, as above.
            from finetune_gateway.backends.local.rewards import RewardModel

        return RewardModel.load(self.handle, self.settings)

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        return self._model.chat(messages, **sampling)

    def stream(self, messages: list[dict[str, Any]], **sampling: Any) -> Iterator[str]:
        return self._model.stream(messages, **sampling)

    def complete(self, text: str, **sampling: Any) -> ChatReply:
        return self._model.complete(text, **sampling)

    def stream_completion(self, text: str, **sampling: Any) -> Iterator[str]:
        return self._model.stream_completion(text, **sampling)

    def chat_many(
        self, conversations: Sequence[Conversation], **sampling: Any
    ) -> list[ChatReply | GatewayError]:
        return self._model.chat_many(conversations, **sampling)

    def reference_losses(self, rows: Sequence[Mapping[str, Any]]) -> list[float | GatewayError]:
        return self._model.reference_losses(rows)

    def merge(
        self,
        folder: Path,
        others: Sequence[tuple[LocalChat, float]],
        weight: float,
        dtype: str | None,
        document: Callable[[Path], object],
        report: Callable[[str], None],
    ) -> dict[str, Any]:
        """See ``merging.merge``."""
        with without_collections():
            if self.handle.base_quantization or fourbit.installed():
                fourbit.import_quietly()
            # Imported here, as above.
            from finetune_gateway.backends.local import merging

        adapters = [(self.handle, weight), *((one.handle, part) for one, part in others)]
        return merging.merge(
            [merging.Adapter(*one) for one in adapters],
            folder,
            self.settings,
            document=document,
            dtype=dtype,
            report=report,
        )

    def scores(self, conversations: Sequence[Conversation]) -> list[float | GatewayError]:
        return self._reward_model.scores(conversations)


def _let_go(held: dict[str, Any]) -> None:
    """Give the memory of what was loaded back, also to other programs. Called when nobody has the
    chat any more."""
    if not held:
        return
    held.clear()
    # Imported here: a model was loaded, so torch is there.
    from finetune_gateway.backends.local.loading import free_memory

    free_memory()
