"""A base that is in memory once, whatever the number of its adapters. Imports torch.

Its adapters are put on it when they are first asked, and take turns: at any time all who use it use
the same one, or none. Those that were not asked for longest leave it when there are too many.
"""

from __future__ import annotations

import json
import re
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, cast
from weakref import WeakValueDictionary, finalize

from peft import PeftModel
from transformers import PreTrainedModel

from finetune_gateway.backends.local import peft_warnings
from finetune_gateway.backends.local.bases import ADAPTER
from finetune_gateway.backends.local.loading import free_memory, load_model
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.weights import stamp, weight_files

WEIGHTS = "adapter_model.safetensors"
# How an adapter may begin: the other ways of PEFT (pissa, olora, corda, ...) change the base when
# one is put on, even one that is only read.
_BEGINS = (True, False, "gaussian")
# What of a LoRA says where its layers are, how large they are, and how they were trained.
_OF_ITSELF = re.compile(
    "alpha_pattern|auto_mapping|base_model_name_or_path|ensure_weight_tying|exclude_modules|"
    "fan_in_fan_out|inference_mode|layers_pattern|layers_to_transform|lora_alpha|lora_bias|"
    "lora_dropout|peft_version|qalora_group_size|r|rank_pattern|revision|target_modules|"
    "task_type|use_dora|use_rslora"
)
_OFF = {"bias": "none", "megatron_core": "megatron.core"}

Stamps = tuple[tuple[str, tuple[int, ...]], ...]


class LoadedBase:
    """A model in memory, and the adapters on it."""

    def __init__(
        self,
        model: PreTrainedModel,
        load: Callable[[], PreTrainedModel] | None = None,
        most: int = 1,
    ) -> None:
        """``load``: loads it again, after an adapter that broke it. ``most``: adapters on it."""
        self.model = model.eval()
        self.device = model.device
        self.most = most
        self._load = load
        self._adapters: WeakValueDictionary[tuple[str, Stamps], Adapter] = WeakValueDictionary()
        self._peft: Any = None  # a PeftModel, once there was an adapter
        self._on: OrderedDict[str, None] = OrderedDict()  # names, the one asked last at the end
        self._gone: deque[str] = deque()  # names of adapters that nobody holds any more
        self._names = map("adapter{}".format, count())
        self._turn = threading.Condition()
        self._line: deque[object] = deque()
        self._users: set[object] = set()
        self._active: str | None = None  # the adapter that counts
        self._is_half = False  # an adapter may be on some of the layers

    def adapter(self, folder: Path, require: Callable[[], None]) -> Adapter:
        """Return the adapter of a folder. ``require``: raises unless it may be put on."""
        key = (str(folder.resolve()), stamps_of(folder))
        with self._turn:
            if (found := self._adapters.get(key)) is None:
                found = Adapter(next(self._names), folder, key[1], require)
                finalize(found, self._gone.append, found.name).atexit = False
                self._adapters[key] = found
        return found

    @contextmanager
    def using(self, adapter: Adapter | None = None) -> Iterator[PreTrainedModel]:
        """Use the model with this adapter, or with none, in this block. Who wants the one that is
        used already comes in at once, unless another one is waited for; others in their order."""
        place = object()
        try:
            self._enter(adapter, place)
            yield self.model
        finally:
            with self._turn:
                self._users.discard(place)
                self._turn.notify_all()

    def _enter(self, adapter: Adapter | None, place: object) -> None:
        name = adapter.name if adapter else None
        with self._turn:
            self._line.append(place)
            try:
                self._turn.wait_for(
                    lambda: self._line[0] is place and (not self._users or self._active == name)
                )
                if not self._users:
                    self._put_on(adapter)
                self._users.add(place)
            finally:
                self._line.remove(place)
                self._turn.notify_all()

    def _put_on(self, adapter: Adapter | None) -> None:
        """Let this adapter count and no other. Nobody uses the model now."""
        if self._is_half and self._load is not None:
            self._load_again(self._load)
        name = adapter.name if adapter else None
        if adapter is not None and name not in self._on:
            adapter.require_unchanged()
        # An adapter that breaks while it is read, and Ctrl-C, may leave it on some layers.
        self._is_half = True
        if adapter is not None and name not in self._on:
            self._read(adapter)
        if name != self._active:
            self._activate(name)
        self._take_off()
        self._is_half = False

    def _load_again(self, load: Callable[[], PreTrainedModel]) -> None:
        """Load the base as it was without any adapter. There may be no memory for two of it."""
        self._on.clear()
        self._peft, self._active = None, None
        for module in self.model.modules():
            module._parameters.clear()
            module._buffers.clear()
        free_memory()
        self.model = load().eval()

    def _read(self, adapter: Adapter) -> None:
        """Put an adapter on the layers; which one counts is not changed by that."""
        folder, device = str(adapter.folder), str(self.device)
        with peft_warnings.ignored():
            if self._peft is None:
                self._peft = PeftModel.from_pretrained(
                    self.model, folder, adapter_name=adapter.name, torch_device=device
                )
            else:
                self._peft.load_adapter(folder, adapter.name, torch_device=device)
        self.model.eval()
        self._on[adapter.name] = None

    def _activate(self, name: str | None) -> None:
        self._active = name
        if self._peft is None:
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
            return
        self._peft.base_model.enable_adapter_layers()
        self._peft.set_adapter(name, inference_mode=True)
        self._on.move_to_end(name)

    def _take_off(self) -> None:
        """Take off adapters that nobody holds, and those asked longest ago if there are too many;
        never the one that PEFT would use."""
        *others, last = [*self._on] or [""]
        unheld = [self._gone.popleft() for _ in range(len(self._gone))]
        for name in {*unheld, *others[: max(0, len(self._on) - self.most)]} & {*others}:
            del self._on[name]
            if self._peft is not None:
                self._peft.delete_adapter(name)
        if last in unheld:
            self._gone.append(last)


@dataclass(eq=False)
class Adapter:
    """An adapter that may be on a base: the name that it has there, and where it is read from."""

    name: str
    folder: Path
    stamps: Stamps
    require: Callable[[], None] = field(repr=False)  # raises unless it is as it was saved

    def require_unchanged(self) -> None:
        """Raise GatewayError for another one than when the handle was first asked."""
        if stamps_of(self.folder) != self.stamps:
            raise GatewayError(
                f"The adapter in {self.folder} has changed since this handle was first asked.",
                hint="Load the handle anew: ModelHandle.load(...), or job.result().",
            )
        require_weights(self.folder)
        self.require()


# -- the bases of this process -------------------------------------------------------------

_bases: WeakValueDictionary[tuple[str, str | None, Stamps], LoadedBase] = WeakValueDictionary()
_loading = threading.Lock()


def shared(folder: Path, quantization: str | None, most: int) -> LoadedBase:
    """Return the base of a folder, as ``load_model`` loads it: the one that is in memory, if any
    model of this process still uses it. ``most``: adapters on it."""
    key = (str(folder.resolve()), quantization, stamps_of(folder))
    with _loading:
        found = _bases.get(key)
        if found is None:

            def load() -> PreTrainedModel:
                return load_model(folder, quantization)

            found = _bases[key] = LoadedBase(load(), load, most)
        found.most = max(1, most)
        return found


def is_shareable(folder: Path) -> bool:
    """Return True for the folder of an adapter that adds to the layers of its base, and changes
    nothing of it: several of them can be on one base. One with a whole layer, a bias or a setting
    that is not known here has a base of its own."""
    about: dict[str, Any] = json.loads((folder / ADAPTER).read_text("utf-8"))
    if about.pop("init_lora_weights", True) not in _BEGINS:
        return False
    others = {name: value for name, value in about.items() if not _OF_ITSELF.fullmatch(name)}
    kind = others.pop("peft_type", None)
    off = all(not value or value == _OFF.get(name) for name, value in others.items())
    return kind == "LORA" and off


def require_weights(folder: Path) -> None:
    """Raise GatewayError for an adapter without safetensors: PEFT would look for a pickle."""
    if not (folder / WEIGHTS).is_file():
        raise GatewayError(
            f"{folder} has no {WEIGHTS}: an adapter in another form is never loaded.",
            hint="Load it where you trust it, and save it with save_pretrained of PEFT.",
        )


def alone(folder: Path, base: Path, quantization: str | None) -> LoadedBase:
    """Return a base that this adapter has for itself."""
    require_weights(folder)
    with peft_warnings.ignored():
        adapted = PeftModel.from_pretrained(load_model(base, quantization), str(folder))
    return LoadedBase(cast(PreTrainedModel, adapted))


def stamps_of(folder: Path) -> Stamps:
    """Return by what one sees that the configuration or the weights in a folder have changed."""
    names = sorted({*weight_files(folder), "config.json", ADAPTER, WEIGHTS})
    there = [folder / name for name in names if (folder / name).is_file()]
    return tuple((path.name, tuple(stamp(path))) for path in there)
