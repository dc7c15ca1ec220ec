"""Continued pretraining on texts, and models that go on with a text, without a chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.chaos import end_workers
from support.cli import Ftg
from support.method_rows import small_rows
from support.training import a_run, losses_of, train_run

from finetune_gateway import DataError, Gateway, ModelHandle, SpecError, UnsupportedError
from finetune_gateway.backends.local import finishing
from finetune_gateway.backends.local.inference import LocalModel
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import ChatTemplate
from finetune_gateway.tokens.text_tokenizer import TextTokenizer, pieces

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

Rows = Callable[[int], list[dict[str, Any]]]

TEXTS = [
    {"text": f"Parcel {n} left the depot on day {n % 7} and came to the door two days later. " * 3}
    for n in range(12)
]
SMALL: dict[str, Any] = {"batch_size": 4, "seed": 3, "learning_rate": 1e-3, "max_length": 32}


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


@pytest.fixture
def bare(tiny_folder: Path, tmp_path: Path) -> Path:
    """A base without a chat template."""
    folder = shutil.copytree(tiny_folder, tmp_path / "base")
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def spec_of(folder: Path, **options: Any) -> TrainingSpec:
    given = {"method": "pretrain", "max_steps": 6, "lora_r": 4, **SMALL, **options}
    if given.get("training_type") == "full":
        del given["lora_r"]
    return TrainingSpec(model=str(folder), **given)


def test_from_texts_to_a_model_that_goes_on_with_them(
    home: Path, bare: Path, tmp_path: Path, ftg: Ftg
) -> None:
    """At the command line, on a base without a chat template: the loss falls, the model is ready
    once it has gone on with a text, ftg chat says what it does, and a chat is refused. It
    goes on as transformers lets it."""
    data = tmp_path / "texts.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in TEXTS))
    settings = [f"--set={name}={value}" for name, value in {**SMALL, "max_steps": 8}.items()]
    line = ["submit", str(data), "--model", str(bare), "--method", "pretrain", "--wait", "--json"]
    done = ftg(*line, "--set=lora_r=4", "--set=packing=true", *settings)
    assert done.returncode == 0, done.stderr
    job = Gateway().job("latest")
    assert not job.record.spec.packing  # it is always packed
    points = [one.train_loss for one in job.metrics() if one.train_loss is not None]
    assert points[-1] < points[0]
    handle = job.result()
    assert handle.ready and handle.first_answer is not None
    done_with = [event.message for event in job.events()]
    assert f"The model completes a text: {handle.first_answer[:200]!r}" in done_with
    assert handle.template_hash is None and not handle.has_template
    said = ftg("chat", "latest", "Parcel 3 left", "--max-tokens", "8")
    assert "no chat template: it goes on" in said.stderr
    reply = handle.complete("Parcel 3 left", max_tokens=8)
    assert said.stdout == f"{reply.text}\n" and reply.usage.completion_tokens <= 8
    assert "".join(handle.stream_completion("Parcel 3 left", max_tokens=8)) == reply.text
    assert reply.text == gone_on(Path(handle.model), bare, "Parcel 3 left", 8)
    with pytest.raises(SpecError, match="no chat template") as refused:
        handle.chat("Hello")
    assert "handle.complete" in refused.value.hint
    assert ftg("chat", "latest", "Hi", "--system", "Be brief.").returncode == 2
    base = ModelHandle(kind="merged", model=str(bare), base_model=str(bare), backend="local")
    assert base.complete("Parcel", max_tokens=2).usage.completion_tokens


def gone_on(folder: Path, base: Path, text: str, most: int) -> str:
    """What plain transformers and PEFT write behind a text."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(folder)).eval()
    ids = tokenizer(text, return_tensors="pt").input_ids
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    written = model.generate(ids, max_new_tokens=most, do_sample=False, eos_token_id=ends)
    whole: str = tokenizer.decode(written[0])
    return whole[len(tokenizer.decode(ids[0])) :]


@pytest.mark.chaos
@pytest.mark.parametrize("kind", ["full", "qlora"])
def test_other_types_of_training(home: Path, bare: Path, kind: str) -> None:
    """They lower the loss on every token but the first of a piece, and go on with a text when
    loaded anew."""
    options: dict[str, Any] = {"training_type": kind, "max_steps": None, "n_epochs": 1}
    run = train_run(a_run(home, spec_of(bare, **options), TEXTS))
    found = losses_of(run)
    assert found[-1] < found[0]
    result, trained = finishing.result_of(run)
    assert result.kind == ("merged" if kind == "full" else "adapter")
    texts = TextTokenizer.load(bare)
    ids = [texts.ids(row["text"]) for row in TEXTS]
    assert result.first_answer is not None
    assert trained == sum(len(one) - 1 for one in pieces(ids, 32))


@pytest.mark.chaos
def test_both_engines_train_the_same_pieces(home: Path, bare: Path, tmp_path: Path) -> None:
    """TRL's step equals TRL's own trainer in every digit, given the pieces; ours equals it to
    rounding. A document ends with eos, and none is lost."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    options = {"max_steps": 4, "warmup_ratio": 0.0}
    ours = losses_of(train_run(a_run(home, spec_of(bare, **options), TEXTS)))
    run = train_run(a_run(home, spec_of(bare, engine="trl", **options), TEXTS))
    texts = TextTokenizer.load(bare)
    ids = [texts.ids(row["text"]) for row in TEXTS]
    assert all(one[-1] == texts.end for one in ids)
    cut = list(pieces(ids, 32))
    assert sum(map(len, cut)) == sum(map(len, ids)) and {*map(len, cut[:-1])} == {32}
    config = SFTConfig(
        output_dir=str(tmp_path / "bare"), max_steps=4, per_device_train_batch_size=4,
        learning_rate=1e-3, lr_scheduler_type="linear", max_length=None, use_cpu=True, bf16=False,
        activation_checkpointing=False, logging_steps=1, save_strategy="no", seed=3, data_seed=3,
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(bare),
        args=config,
        train_dataset=Dataset.from_dict({"input_ids": cut, "labels": cut}),
        processing_class=AutoTokenizer.from_pretrained(bare),
        peft_config=LoraConfig(
            r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    plain = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses_of(run) == plain
    assert ours == pytest.approx(plain, rel=1e-5)


@pytest.mark.chaos
def test_a_chat_is_learned_on_top(
    home: Path, bare: Path, tiny_folder: Path, tmp_path: Path, rows: Any
) -> None:
    """pretrain, then sft with a template: the adapter goes on, and then the model answers chats."""
    first = train_run(a_run(home, spec_of(bare), TEXTS))
    template = tmp_path / "chat.jinja"
    template.write_text(ChatTemplate.load(tiny_folder).source)
    options: dict[str, Any] = {"batch_size": 4, "seed": 3, "max_steps": 2}
    spec = TrainingSpec(
        model=str(bare), continue_from=first.id, chat_template=str(template), **options
    )
    second = train_run(a_run(home, spec, rows(8)))
    result, _ = finishing.result_of(second)
    assert result.continued_from == [str(bare), f"pretrain {first.id}"]
    assert result.template_hash is not None and result.first_answer is not None
    manifest = json.loads((second.model / MANIFEST).read_text())
    assert manifest["continued_from"] == result.continued_from
    handle = ModelHandle(
        kind="adapter", model=result.model, base_model=str(bare), backend="local",
        base_sha256=result.base_sha256,
    )  # fmt: skip
    model = LocalModel.load(handle, second.settings)
    assert model.chat([{"role": "user", "content": "Hi"}], max_tokens=2).usage.prompt_tokens > 3
    assert model.complete("Parcel", max_tokens=2).usage.prompt_tokens < 4


def test_a_host_answers_chats_alone(home: Path) -> None:
    """And so does any model that cannot go on with a text: it is said."""
    handle = ModelHandle(kind="hosted", model="m", base_model="m", backend="fake")
    with pytest.raises(UnsupportedError, match="answers chats alone"):
        handle.complete("Once upon")


def test_rows_of_another_method_are_refused_for_that_alone(
    home: Path, tiny_folder: Path, bare: Path, rows: Rows
) -> None:
    """Chats and labelled answers, on a base with a template and without: one error, which names
    the method; nothing about templates, which this method does not use."""
    for folder in (tiny_folder, bare):
        for data in (rows(12), small_rows("kto", 12)):
            with pytest.raises(DataError) as refused:
                Gateway().submit(data, model=str(folder), method="pretrain", backend="local")
            assert refused.value.report is not None
            codes = {one.code for one in refused.value.report.findings if one.severity != "note"}
            assert codes == {"method_mismatch"}
