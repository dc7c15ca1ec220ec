"""What training says of itself: its first step learns, it equals TRL's, a loss that diverges is
named, a result that is of no use comes with a warning, memory that ran out with advice. By real
trainings of a tiny model."""

from __future__ import annotations

import json
import math
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.training import a_run

from finetune_gateway import (
    FakeBackend,
    Gateway,
    ModelHandle,
    UnsupportedError,
)
from finetune_gateway.backend import ChatReply, Usage
from finetune_gateway.backends.local import deaths, out_of_memory
from finetune_gateway.backends.local.counting import template_of
from finetune_gateway.backends.local.divergence import WINDOW, Diverged, LossHistory
from finetune_gateway.backends.local.run import Run
from finetune_gateway.backends.local.worker import in_one_line
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation.memory import Setup
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.settings.files import write_atomic
from finetune_gateway.spec import TrainingSpec
from finetune_gateway.tokens.chat_template import ChatTemplate

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

VOCABULARY = 151_936  # of Qwen3
Rows = Callable[[int], list[dict[str, Any]]]


# -- training ------------------------------------------------------------------------------


def events(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "events.jsonl").read_text().splitlines()]


def steps(run: Run) -> list[dict[str, Any]]:
    return [event["data"] for event in events(run) if event["type"] == "metrics"]


def manifest(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.model / "manifest.json").read_text())
    return found


DAY = 1_700_000_000.0  # in 2023
# What a spec says of a template, all at once: a switch, calls as text, the day of the submit.
DATED = (
    "{% if strftime_now('%Y') == '2023' %}<|im_start|>system\nLong ago.<|im_end|>\n{% endif %}"
    "{% if brief is defined %}<|im_start|>system\nBe brief.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_what_was_checked_is_what_trains_and_what_is_asked(
    home: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """The switches, the format of calls and the day of the submit reach the trainer; the model's
    folder asks with the same prompt and ends at the same tokens."""
    from finetune_gateway.backends.local.methods import sft

    (tmp_path / "dated.jinja").write_text(DATED)
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    # More stops than its template or tokenizer name.
    further = {"eos_token_id": [2, 0, 7], "repetition_penalty": 1.1}
    (base / "generation_config.json").write_text(json.dumps(further))
    spec = TrainingSpec.build(
        model=str(base), chat_template=str(tmp_path / "dated.jinja"), call_format="hermes",
        chat_template_kwargs={"brief": True}, max_steps=1, lora_r=4, seed=3,
    )  # fmt: skip
    function = {"name": "find", "arguments": '{"id": "A-1"}'}
    call = {"id": "c", "type": "function", "function": function}
    asked = {"role": "user", "content": "Where is it?"}
    row = {"messages": [asked, {"role": "assistant", "content": None, "tool_calls": [call]}]}
    run = a_run(home, spec, [row] * 8, created_at=DAY)
    sft.train_and_save(run)

    checked = template_of(spec, base, DAY)
    [sequence] = checked.encode(row)
    [counts] = [one["data"] for one in events(run) if "dropped_rows" in one["data"]]
    assert counts["tokens"] == 8 * len(sequence.input_ids)
    assert counts["trained_tokens_per_epoch"] == 8 * sequence.trained
    kwargs = manifest(run)["chat_template_kwargs"]
    saved = ChatTemplate.load(run.model, chat_template_kwargs=kwargs, now=DAY)
    assert saved.encode(row) == [sequence]
    assert saved.prompt_ids([asked]) == checked.prompt_ids([asked])
    assert saved.stop_ids == checked.stop_ids >= {0, 2, 7}
    asks = json.loads((run.model / "generation_config.json").read_text())
    assert asks == {**further, "eos_token_id": sorted(checked.stop_ids)}


def test_a_base_that_changes_while_it_is_trained_ends_the_job(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could say then which weights the adapter fits."""
    from finetune_gateway.backends.local.methods import sft

    base = shutil.copytree(tiny_folder, tmp_path / "base")
    run = a_run(home, TrainingSpec.build(model=str(base), max_steps=1, lora_r=4), rows(8))
    enter = run.phase

    def exchange(phase: str) -> None:
        enter(phase)
        if phase == "training":
            raw = bytearray((base / "model.safetensors").read_bytes())
            raw[-2] ^= 1
            write_atomic(base / "model.safetensors", bytes(raw))

    monkeypatch.setattr(run, "phase", exchange)
    with pytest.raises(GatewayError, match="have changed since this job began"):
        sft.train_and_save(run)
    assert not run.model.exists()


def test_a_job_of_one_step_learns(train: Callable[..., Run]) -> None:
    """8 rows and one epoch made an adapter of zeros: the warm-up's first rate was 0. Its loss is
    that of guessing, which is a warning of the result."""
    from safetensors.torch import load_file

    run = train(8, batch_size=8, n_epochs=1, learning_rate=1e-3)
    [step] = steps(run)
    assert step["learning_rate"] == 1e-3 and step["total_steps"] == 1
    adapter = load_file(run.model / "adapter_model.safetensors")
    halves = [weight for name, weight in adapter.items() if "lora_B" in name]
    assert halves and all(weight.abs().max() > 0 for weight in halves)
    assert step["train_loss"] > math.log(1_152)
    [warning] = manifest(run)["warnings"]
    assert "no better" in warning and "1,152 tokens" in warning


@pytest.mark.parametrize(
    ("warmup", "name"),
    [
        (0.0, "linear"),
        pytest.param(0.4, "linear", marks=pytest.mark.chaos),
        pytest.param(0.4, "cosine", marks=pytest.mark.chaos),
    ],
)
def test_losses_equal_those_of_bare_trl(
    train: Callable[..., Run], tmp_path: Path, warmup: float, name: str
) -> None:
    """In every digit, and so do gradients and rates: without a warm-up under TRL as it is, with one
    under the schedule of docs/local.md, written out here."""
    options = {"warmup_ratio": warmup, "lr_scheduler_type": name}
    run = train(12, engine="trl", n_epochs=2, learning_rate=1e-3, **options)
    expected = bare(run, tmp_path, warmup, name)
    figures = ("train_loss", "grad_norm", "learning_rate")
    assert [tuple(step[figure] for figure in figures) for step in steps(run)] == expected
    assert len(expected) == 6 and all(rate > 0 for *_, rate in expected)


def bare(run: Run, folder: Path, warmup: float, name: str) -> list[tuple[float, ...]]:
    """The losses, gradients and rates of TRL's trainer on the rows of a run, step by step."""
    from datasets import Dataset
    from peft import LoraConfig
    from torch.optim.lr_scheduler import LambdaLR
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    total = 6
    rising = math.ceil(warmup * total)

    def factor(done: int) -> float:
        step = done + 1
        if step <= rising:
            return step / rising
        share = (step - rising) / (total + 1 - rising)
        return 1 - share if name == "linear" else 0.5 * (1 + math.cos(math.pi * share))

    class WithSchedule(SFTTrainer):
        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> LambdaLR:
            self.lr_scheduler = scheduler = LambdaLR(self.optimizer, factor)  # type: ignore[arg-type]  # it has one by now
            return scheduler

    template = ChatTemplate.load(Path(run.spec.model))
    encoded = [one for row in run.train.rows() for one in template.encode(row.data)]
    config = SFTConfig(
        output_dir=str(folder / "bare"), num_train_epochs=2, per_device_train_batch_size=4,
        learning_rate=1e-3, lr_scheduler_type=name, max_length=None, use_cpu=True, bf16=False,
        activation_checkpointing=False, logging_steps=1, save_strategy="no", seed=3, data_seed=3,
        report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
    )  # fmt: skip
    trainer = (WithSchedule if rising else SFTTrainer)(
        model=AutoModelForCausalLM.from_pretrained(run.spec.model),
        args=config,
        train_dataset=Dataset.from_dict(
            {
                "input_ids": [row.input_ids for row in encoded],
                "labels": [row.labels for row in encoded],
            }
        ),
        processing_class=AutoTokenizer.from_pretrained(run.spec.model),
        peft_config=LoraConfig(
            r=4, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return [(entry["loss"], entry["grad_norm"], entry["learning_rate"]) for entry in logged]


def test_a_loss_that_diverges_ends_the_job(train: Callable[..., Run], home: Path) -> None:
    """It is named with its step and its losses; there is no model. A job that was asked to go on
    ends with one, and with the warning, which a checkpoint keeps."""
    from finetune_gateway.backends.local.progress import Progress

    wild: dict[str, Any] = {"learning_rate": 1.0, "max_steps": 8, "training_type": "full"}
    with pytest.raises(Diverged, match=r"diverged at step \d: the last steps lost \d+") as caught:
        train(12, **wild)
    assert "--set learning_rate=0.1 (it was 1)" in caught.value.hint
    assert "--set stop_on_divergence=false" in caught.value.hint
    assert not (home / "runs" / "run-0" / "model").exists()
    assert (home / "runs" / "run-0" / "base.json").exists()  # pinned before the first step

    run = train(12, **wild, stop_on_divergence=False)
    named, *ended = manifest(run)["warnings"]
    assert named in str(caught.value) and len(ended) == 1 and "training loss ended" in ended[0]
    warned = [event for event in events(run) if event["level"] == "warn"]
    assert [event["message"] for event in warned] == [named, *ended]  # each once
    assert warned[0]["data"]["step"] < 8
    progress = Progress(run, 1_152)
    state = progress.resume(run.checkpoints / "checkpoint-8")
    assert progress.warnings(state) == [named, *ended]
    losses = [step["train_loss"] for step in steps(run)]
    assert [*progress.losses.recent] == pytest.approx(losses, rel=1e-3)


# -- the rule ------------------------------------------------------------------------------


def first_divergence(losses: Iterable[float], vocabulary: int = VOCABULARY) -> int | None:
    """The step at which these losses are said to diverge."""
    history = LossHistory(vocabulary)
    return next((step for step, loss in enumerate(losses, 1) if history.add(loss)), None)


def draws(draw: Callable[[random.Random], float], seed: int) -> Iterator[float]:
    rng = random.Random(seed)
    for step in range(500):  # learning: half of it is gone after 70 steps
        yield max(0.0, draw(rng)) * (0.2 + 0.8 * 0.99**step)


NOISE: dict[str, Callable[[random.Random], float]] = {
    "rows that differ widely, one a batch": lambda rng: rng.lognormvariate(0.5, 0.8),
    "one row in ten is rubbish": lambda rng: 11.0 if rng.random() < 0.1 else rng.gauss(0.5, 0.2),
    "half of the rows are hard": lambda rng: rng.gauss(4.5 if rng.random() < 0.5 else 0.5, 0.5),
    "answers of one token": lambda rng: rng.expovariate(0.7),
}


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize(
    "vocabulary", [1_152, pytest.param(32_000, marks=pytest.mark.chaos), VOCABULARY]
)
def test_noise_is_no_divergence(kind: str, vocabulary: int) -> None:
    """20 runs of 500 steps each, learning on rows of every kind: not one alarm."""
    runs = (draws(NOISE[kind], seed) for seed in range(20))
    assert not [step for run in runs if (step := first_divergence(run, vocabulary))]


def test_a_spike_that_passes_is_no_divergence() -> None:
    """One step, however high, and half a window on a higher level."""
    good = [1.5] * 30
    assert first_divergence([*good, 900.0, *good, *[9.0] * (WINDOW - 1), *good]) is None


def test_what_explodes_and_what_collapses_diverges() -> None:
    """The job that went from 9 to 178 to 159; one that falls back to the frequency of each token,
    below guessing, as soon as 20 steps show it, also when it does so at once; a base of random
    weights that begins above guessing, by its own first step."""
    assert first_divergence([9, 178, 159]) == 3
    assert first_divergence([*[2.0] * 50, 12, 9.5, *[7.5] * 50]) == 50 + WINDOW
    assert first_divergence([2.1, 11.0, *[7.5] * 50]) == 1 + WINDOW
    high = [40.0, 39.0, 41.0, *[38.0] * 30]
    assert first_divergence(high) is None and first_divergence([*high, 81.0, 82.0]) == 35


def test_the_end_is_judged_by_guessing_and_by_the_best() -> None:
    """Above guessing, or far above what it was: told. Else nothing is."""
    cases = {(12.0, 12.1): "no better", (1.0, *[6.0] * 9): "has become worse", (2.0, 1.0, 1.5): ""}
    for losses, words in cases.items():
        history = LossHistory(VOCABULARY)
        assert not [loss for loss in losses if history.add(loss)]
        assert (words in history.warning()) if words else history.warning() == ""


def test_a_host_refuses_the_option(rows: Rows, home: Path) -> None:
    """It is ours: nobody can ask a host to go on."""
    with pytest.raises(UnsupportedError, match="stop_on_divergence"):
        Gateway().plan(rows(12), model="gpt-4.1-mini-2025-04-14", stop_on_divergence=False)


# -- told with the result ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tokens", "words"),
    [
        ("the the the the the the the the the", 10, "'the' over and over"),
        ("!" * 31, 32, "'!' over and over"),
        ("!!!!" * 32, 32, "'!' over and over"),
        ("\n\n\n \n", 32, "empty"),
        ("", 1, "empty"),
        ("I am sorry. " * 8, 32, ""),
        ("no no no no", 5, ""),
        ("Parcel 3 comes on day 3.", 9, ""),
    ],
)
def test_an_answer_of_one_token_is_told(text: str, tokens: int, words: str) -> None:
    """Also an empty one; phrases that come again, and short words of doubt, are answers."""
    from finetune_gateway.backends.local.inference import answer_warning

    found = answer_warning(ChatReply(text=text, usage=Usage(completion_tokens=tokens)))
    assert (words in found[0]) if words else found == []


def test_warnings_are_shown_with_the_result(
    home: Path, rows: Rows, ftg: Ftg, tmp_path: Path
) -> None:
    """By status, wait and --json, and in the handle, which one without any does not mention."""
    told = "The first answer is '!' over and over: the model is ruined."
    for warnings in ([told], []):
        end = {
            "status": "succeeded",
            "result": {"kind": "hosted", "model": "m", "warnings": warnings},
        }
        job = Gateway().submit(rows(12), model="m", backend=FakeBackend([end]), again=True)
        handle = job.result()
        assert ModelHandle.load(handle.save(tmp_path / "handle.json")).warnings == warnings
        assert ("warnings" in handle.model_dump()) is bool(warnings)
        shown = " ".join(ftg("status", job.id).stdout.split())
        assert (f"warnings {told}" in shown) is bool(warnings)
        assert (f"warning: {told}" in ftg("wait", job.id).stdout) is bool(warnings)
        assert json.loads(ftg("status", job.id, "--json").stdout)["result"]["warnings"] == warnings


# -- memory --------------------------------------------------------------------------------


def test_weights_are_float32_where_they_are_trained_and_fit() -> None:
    """Computed in bfloat16, only whole models are held in float32, if there is memory."""
    import torch

    from finetune_gateway.backends.local.precision import bf16_reason, weights_dtype

    for kind in ("lora", "qlora", "full"):
        assert weights_dtype(kind, bf16=False) == torch.float32
        wanted = torch.float32 if kind == "full" else torch.bfloat16
        assert weights_dtype(kind, bf16=True) == wanted
    config = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
             "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128_256,
             "tie_word_embeddings": True, "model_type": "llama"}  # fmt: skip
    shape = shape_of(config)  # of Llama 3.2 1B: 18 bytes x 1.24 billion
    setup = Setup.of(TrainingSpec(model="m", training_type="full"), "gpu", shape)
    assert bf16_reason(shape, setup, 1, 512, 40 * 10**9) == ""
    assert "bfloat16: float32 needs about 2" in bf16_reason(shape, setup, 1, 512, 20 * 10**9)


def unable() -> None:
    import numpy

    numpy.empty(1 << 60, dtype="u1")


def no_room() -> None:
    import torch

    torch.empty(1 << 60, dtype=torch.uint8)


@pytest.mark.parametrize("allocate", [unable, no_room, lambda: bytearray(1 << 60)])
def test_errors_of_memory_are_recognised(allocate: Callable[[], object]) -> None:
    """Those of numpy, of torch on a CPU and of Python, as they come."""
    with pytest.raises((MemoryError, RuntimeError)) as caught:
        allocate()
    text = in_one_line(caught.value, "Use less.")
    assert text.startswith("Memory ran out: ") and text.endswith("Use less.")
    assert "worker.log" in in_one_line(ValueError("no more"), "Use less.")


@pytest.mark.chaos
def test_a_job_without_memory_says_what_needs_less(
    home: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """A worker that may have 1.6 GB, and a batch that needs more."""
    long = "order parcel " * 700
    turns = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": long}]
    data = tmp_path / "long.jsonl"
    data.write_text((json.dumps({"messages": turns}) + "\n") * 64, "utf-8")
    command = [sys.executable, "-m", "finetune_gateway", "submit", str(data), "--yes", "--wait"]
    command += ["--model", str(tiny_folder), "--set", "batch_size=64", "--set", "max_steps=1"]
    command += ["--set", "engine=trl"]

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (1_600_000_000, 1_600_000_000))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 100 and "Memory ran out: " in done.stderr, done.stderr
    assert "It needs less with engine=fast (the same steps), gradient_checkpointing" in done.stderr
    assert "From here on 32 rows pass through the model at once" in done.stderr
    assert "From here on one row passes through the model at once" in done.stderr


@pytest.mark.parametrize(
    "line",
    ["CUDA out of memory. Tried to allocate 2.00 GiB", "CUBLAS_STATUS_ALLOC_FAILED when calling",
     "[Errno 12] Cannot allocate memory", "terminate called after throwing 'std::bad_alloc'"],
)  # fmt: skip
def test_words_of_memory_are_recognised(line: str) -> None:
    assert deaths.is_out_of_memory(line)
    assert not deaths.is_out_of_memory("CUDA error: device-side assert triggered")


def test_the_advice_fits_the_job() -> None:
    """What changes nothing comes first; what is done already, or does not help, is not said."""

    def said(phase: str = "training", on_gpu: bool = False, **options: Any) -> str:
        spec = TrainingSpec.build(model="m", **options)
        return out_of_memory.advice(spec, phase, on_gpu=on_gpu)

    assert "gradient_checkpointing=true" in said() and "qlora" not in said()
    assert "batch_size" not in said() and "engine=fast (the same steps)" in said(engine="trl")
    assert "a smaller batch_size" in said(method="dpo", loss_type="aot")
    assert "gradient_checkpointing" not in said(on_gpu=True) and "qlora" in said(on_gpu=True)
    assert "training_type=lora" in said(training_type="full")
    assert said("loading the model") == (
        "It needs less with a smaller model; ftg estimate --explain says how much."
    )
