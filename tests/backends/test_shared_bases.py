"""Many adapters on one base in memory: each handle answers as if it was alone."""

from __future__ import annotations

import gc
import json
import random
import shutil
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.training import handle_of
from transformers import AutoModelForCausalLM

from finetune_gateway import GatewayError, ModelHandle
from finetune_gateway.backends.local import peft_warnings, shared_bases
from finetune_gateway.backends.local.run import Run

Ask = Callable[[ModelHandle, str], str]
QUESTIONS = ("Where is my parcel?", "It is late.", "I want my money back, now.")
LARGE = {"learning_rate": 0.05, "n_epochs": 2}  # an adapter that changes what is answered


@pytest.fixture(autouse=True)
def loads(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Path]]:
    """The folders of the bases that were loaded, one after the other; none stays in memory."""
    found: list[Path] = []
    load = shared_bases.load_model
    # What other tests still hold is none of ours.
    monkeypatch.setattr(shared_bases, "_bases", weakref.WeakValueDictionary())

    def counted(folder: Path, *args: Any, **kwargs: Any) -> Any:
        found.append(folder)
        return load(folder, *args, **kwargs)

    monkeypatch.setattr(shared_bases, "load_model", counted)
    yield found
    assert in_memory() == 0


def in_memory() -> int:
    """How many bases are in memory."""
    gc.collect()
    return len(shared_bases._bases)


@pytest.fixture(scope="module")
def adapters(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Eight adapters on the same base, of several ranks and layers, each drawn by lot."""
    from peft import LoraConfig, get_peft_model

    folders = []
    for number in range(8):
        torch.manual_seed(number)
        targets = (["q_proj", "v_proj"], ["down_proj", "o_proj", "k_proj"])[number % 2]
        config = LoraConfig(
            r=2 + number, lora_alpha=16, target_modules=targets, init_lora_weights=False
        )
        base: Any = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        folders.append(tmp_path_factory.mktemp("adapter"))
        with peft_warnings.ignored():
            adapted = get_peft_model(base, config)
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(weight, std=0.3)  # each answers otherwise
        adapted.save_pretrained(str(folders[-1]))
    return folders


@pytest.fixture
def on_base(tiny_folder: Path) -> Callable[[Path], ModelHandle]:
    """``on_base(folder)``: a handle of an adapter on that base, or of the base."""

    def handle(folder: Path) -> ModelHandle:
        kind: Any = "merged" if folder == tiny_folder else "adapter"
        return ModelHandle(
            kind=kind, model=str(folder), base_model=str(tiny_folder), backend="local"
        )

    return handle


def chat(handle: ModelHandle, question: str) -> str:
    return handle.chat(question, max_tokens=4).text


def stream(handle: ModelHandle, question: str) -> str:
    return "".join(handle.stream(question, max_tokens=4))


def drawn(handle: ModelHandle, question: str) -> str:
    return handle.chat(question, max_tokens=4, temperature=1.0, seed=len(question)).text


def drawn_stream(handle: ModelHandle, question: str) -> str:
    return "".join(handle.stream(question, max_tokens=4, temperature=1.0, seed=len(question)))


def at_once(handle: ModelHandle, question: str) -> str:
    rows: Any = [{"messages": [{"role": "user", "content": one}]} for one in (question, "Hm?")]
    return "|".join(getattr(one, "text", "") for one in handle.chat_many(rows, max_tokens=4))


ASKED: tuple[Ask, ...] = (chat, stream, drawn, drawn_stream, at_once)


def test_eight_adapters_answer_on_one_base_as_each_does_alone(
    adapters: list[Path],
    on_base: Callable[[Path], ModelHandle],
    tiny_folder: Path,
    loads: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """400 requests in any order from eight threads, of nine handles, three of whose adapters have
    room: the base is loaded once."""
    monkeypatch.setenv("FTG_ADAPTERS_IN_MEMORY", "3")
    folders = [*adapters, tiny_folder]
    alone: dict[tuple[Path, Ask, str], str] = {}
    for folder in folders:
        handle = on_base(folder)
        alone |= {(folder, ask, said): ask(handle, said) for ask in ASKED for said in QUESTIONS[:2]}
        del handle
        assert in_memory() == 0
    assert len({alone[folder, drawn, QUESTIONS[0]] for folder in folders}) > 4
    loads.clear()

    handles = {folder: on_base(folder) for folder in folders}
    wanted = random.Random(0).choices([*alone], k=400)
    with ThreadPoolExecutor(8) as threads:
        found = [*threads.map(lambda one: one[1](handles[one[0]], one[2]), wanted)]

    assert found == [alone[one] for one in wanted]
    assert loads == [tiny_folder] and in_memory() == 1
    [base] = shared_bases._bases.values()
    assert len(base._on) == 3
    handles.clear()


def test_a_handle_that_goes_takes_its_adapter_with_it(
    adapters: list[Path], on_base: Callable[[Path], ModelHandle]
) -> None:
    """And no base from another one; two handles of an adapter share it."""
    one, other, same = (on_base(adapters[number]) for number in (0, 1, 1))
    answers = [drawn(handle, QUESTIONS[0]) for handle in (one, other, same)]
    [base] = shared_bases._bases.values()
    assert len(base._on) == 2
    del one
    gc.collect()
    assert [drawn(handle, QUESTIONS[0]) for handle in (other, same)] == answers[1:]
    assert len(base._on) == 1
    names = [name for name, _ in base.model.named_parameters() if "lora_A" in name]
    assert names and all(f".{next(iter(base._on))}." in name for name in names)
    del base


def test_an_adapter_that_does_not_fit_spoils_no_other(
    adapters: list[Path],
    on_base: Callable[[Path], ModelHandle],
    tiny_folder: Path,
    tmp_path: Path,
) -> None:
    """One that breaks while it is put on, whether it is the first or not."""
    broken = shutil.copytree(adapters[0], tmp_path / "broken")
    cut = load_file(broken / "adapter_model.safetensors")
    save_file({name: one[:1] for name, one in cut.items()}, broken / "adapter_model.safetensors")
    base = on_base(tiny_folder)
    answer = drawn(base, QUESTIONS[0])
    for others in ([], [on_base(adapters[1])]):
        answers = [drawn(handle, QUESTIONS[0]) for handle in others]
        with pytest.raises(RuntimeError, match="size mismatch"):
            drawn(on_base(broken), QUESTIONS[0])
        assert [drawn(handle, QUESTIONS[0]) for handle in others] == answers
        assert drawn(base, QUESTIONS[0]) == answer
        del others


def test_an_adapter_that_was_exchanged_is_not_put_on_again(
    adapters: list[Path],
    on_base: Callable[[Path], ModelHandle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FTG_ADAPTERS_IN_MEMORY", "1")
    folder = shutil.copytree(adapters[0], tmp_path / "mine")
    handle, other = on_base(folder), on_base(adapters[1])
    drawn(handle, QUESTIONS[0])
    drawn(other, QUESTIONS[0])  # takes its place
    shutil.copyfile(adapters[2] / "adapter_model.safetensors", folder / "adapter_model.safetensors")
    with pytest.raises(GatewayError, match="has changed since this handle was first asked"):
        drawn(handle, QUESTIONS[0])
    assert drawn(other, QUESTIONS[0]) == drawn(on_base(adapters[1]), QUESTIONS[0])


def test_what_changes_its_base_has_one_for_itself(
    adapters: list[Path],
    on_base: Callable[[Path], ModelHandle],
    tmp_path: Path,
    loads: list[Path],
) -> None:
    """An adapter with a trained bias or a whole layer; a trained one of a job shares."""
    folder = shutil.copytree(adapters[0], tmp_path / "mine")
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | {"bias": "lora_only"}))
    handles = [on_base(folder), on_base(adapters[0]), on_base(adapters[1])]
    answers = [drawn(handle, QUESTIONS[0]) for handle in handles]
    assert answers[0] == answers[1] and len(loads) == 2  # the bias of this base is none
    handles.clear()


@pytest.mark.parametrize(
    "changed", [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}]
)
def test_an_adapter_made_to_change_its_base_leaves_others_as_they_are(
    adapters: list[Path], on_base: Callable[[Path], ModelHandle], tmp_path: Path, changed: Any
) -> None:
    """PEFT takes a part of the base away to put on one that was begun as PiSSA or
    OLoRA."""
    other = on_base(adapters[1])
    answer = drawn(other, QUESTIONS[0])
    folder = shutil.copytree(adapters[0], tmp_path / "mine")
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | changed))
    assert not shared_bases.is_shareable(folder) and shared_bases.is_shareable(adapters[0])
    drawn(on_base(folder), QUESTIONS[0])
    assert drawn(other, QUESTIONS[0]) == answer


@pytest.mark.parametrize(
    "setting",
    [{"bias": "all"}, {"modules_to_save": ["lm_head"]}, {"news": 1}, {"peft_type": "IA3"}],
)
def test_nobody_knows_what_other_settings_do_to_a_base(
    adapters: list[Path], tmp_path: Path, setting: dict[str, Any]
) -> None:
    """One of a later PEFT among them; one that is off does nothing."""
    about = json.loads((adapters[0] / "adapter_config.json").read_text())
    for given, shares in ((setting, False), (dict.fromkeys(setting), "peft_type" not in setting)):
        (tmp_path / "adapter_config.json").write_text(json.dumps(about | given))
        assert shared_bases.is_shareable(tmp_path) is shares


@pytest.mark.parametrize("bias", ["none", "lora_only"])
def test_pickled_weights_of_an_adapter_are_never_read(
    adapters: list[Path], on_base: Callable[[Path], ModelHandle], tmp_path: Path, bias: str
) -> None:
    folder = shutil.copytree(adapters[0], tmp_path / "mine")
    about = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(about | {"bias": bias}))
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save(weights, folder / "adapter_model.bin")
    with pytest.raises(GatewayError, match="has no adapter_model.safetensors"):
        drawn(on_base(folder), QUESTIONS[0])


def test_memory_is_given_back_with_the_last_handle(
    adapters: list[Path], on_base: Callable[[Path], ModelHandle]
) -> None:
    """At once, not when Python looks for cycles next; and a base that others use stays."""
    one, other = (on_base(folder) for folder in adapters[:2])
    for handle in (one, other):
        drawn(handle, QUESTIONS[0])
    [base] = shared_bases._bases.values()
    weights = weakref.ref(base.model.get_input_embeddings().weight)
    del base
    gc.disable()
    try:
        one.release()
        assert weights() is not None
        other.release()
        assert weights() is None
    finally:
        gc.enable()
    assert drawn(one, QUESTIONS[0])  # and is loaded again
    del one, other


def test_jobs_on_one_base_share_it(
    train: Callable[..., Run], loads: list[Path], tiny_folder: Path
) -> None:
    one, other = (handle_of(train(8, **LARGE, seed=seed)) for seed in (3, 4))
    loads.clear()
    alone = [drawn(ModelHandle.load(Path(handle.model)), QUESTIONS[0]) for handle in (one, other)]
    gc.collect()
    loads.clear()
    assert [drawn(handle, QUESTIONS[0]) for handle in (one, other)] == alone
    assert len(loads) == 1
    del one, other
