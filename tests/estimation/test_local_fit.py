"""What a local job takes, predicted and then counted by the job itself."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.measured import calibrated

from finetune_gateway import Gateway, LocalBackend, SpecError
from finetune_gateway.estimation import calibration
from finetune_gateway.estimation import local as local_estimation
from finetune_gateway.estimation.assumptions import TargetDevice
from finetune_gateway.estimation.batch_plan import pack_lengths, plan_batches
from finetune_gateway.estimation.calibration import (
    WORK,
    Load,
    Passes,
    fit_rates,
    forward_passes,
    load_of,
)
from finetune_gateway.estimation.engine import SMALL_MODEL, cores
from finetune_gateway.estimation.estimate import auto_eval_steps
from finetune_gateway.estimation.memory import Setup
from finetune_gateway.estimation.model_config import shape_of
from finetune_gateway.settings import clock
from finetune_gateway.spec import TrainingSpec, TrainingType
from finetune_gateway.tokens.stats import TokenStats

SHAPE = {
    "model_type": "llama", "hidden_size": 320, "num_hidden_layers": 6, "num_attention_heads": 8,
    "num_key_value_heads": 4, "intermediate_size": 896, "vocab_size": 32_000,
}  # fmt: skip


def uneven(count: int) -> list[dict[str, Any]]:
    """Rows of very different lengths; one has nothing to train once it is cut at 64 tokens."""
    chance = random.Random(3)
    rows = []
    for number in range(count):
        asked = f"Where is parcel {number}? " + "Please! " * chance.randint(0, 12)
        answer = "It comes tomorrow. " * chance.randint(1, 20)
        rows.append(
            {"messages": [{"role": "user", "content": asked if number else asked + "Please! " * 90},
                          {"role": "assistant", "content": answer}]}
        )  # fmt: skip
    return rows


@pytest.mark.parametrize(
    "options",
    [
        {"n_epochs": 3, "batch_size": 4, "gradient_accumulation_steps": 3, "max_length": 64,
         "gradient_checkpointing": True},
        {"n_epochs": 2, "batch_size": 2, "packing": True, "max_length": 128, "train_on": "all"},
    ],
    ids=["cut and accumulated", "packed"],
)  # fmt: skip
def test_trained_tokens_are_predicted_exactly(
    home: Path, tiny_folder: Path, options: dict[str, Any]
) -> None:
    """The estimate's tokens and steps are those the trainer counts itself: with a last batch
    that is not full, cut rows, a row with nothing left to train, and packs."""
    gateway, rows = Gateway(), uneven(13)
    asked = {"model": str(tiny_folder), "backend": "local", "lora_r": 4, **options}
    predicted = gateway.estimate(rows, **asked)
    job = gateway.submit(rows, **asked).wait(240)
    assert job.status == "succeeded", job.error
    assert (
        predicted.trained_tokens and predicted.trained_tokens.low == predicted.trained_tokens.high
    )
    assert job.record.trained_tokens == predicted.trained_tokens.expected
    assert job.metrics()[-1].step == predicted.steps


def test_a_run_ended_within_an_epoch_is_a_range() -> None:
    """Which rows come first is left to chance, so whole epochs are certain and the rest is not:
    between the shortest and the longest of them, and answers of rows of one length differ."""
    tokens = TokenStats(encoding="x", exact=True, rows=10, total=100, trained=40, max=10,
                        lengths={10: 10})  # fmt: skip
    found = plan_batches(TrainingSpec(model="m", max_steps=3, batch_size=5), tokens)
    assert (found.trained.low, found.trained.expected, found.trained.high) == (55, 60, 67)
    assert (
        plan_batches(TrainingSpec(model="m", max_steps=4, batch_size=5), tokens).trained.low == 80
    )
    uneven = tokens.model_copy(update={"lengths": {5: 5, 15: 5}, "max": 15})
    found = plan_batches(TrainingSpec(model="m", max_steps=1, batch_size=5), uneven)
    assert (found.trained.low, found.trained.expected, found.trained.high) == (8, 20, 40)


def test_packs_are_those_of_the_trainer() -> None:
    """Best fit, the longest first, as trl.pack_dataset lays them."""
    from datasets import Dataset
    from trl import pack_dataset

    chance = random.Random(5)
    lengths = [chance.randint(1, 100) for _ in range(300)]
    theirs = pack_dataset(Dataset.from_dict({"input_ids": [[1] * n for n in lengths]}), 100)
    ours = pack_lengths(Counter(lengths), 100)
    assert Counter(map(len, theirs["input_ids"])) == ours


def test_padding_is_that_of_random_batches() -> None:
    """Slots of an epoch agree with a thousand shuffles within 1 %."""
    chance = random.Random(1)
    lengths = [chance.randint(10, 400) for _ in range(64)]
    slots = 0
    for _ in range(1000):
        chance.shuffle(lengths)
        slots += sum(8 * max(lengths[start : start + 8]) for start in range(0, 64, 8))
    tokens = TokenStats(encoding="x", exact=True, rows=64, total=sum(lengths), max=max(lengths),
                        lengths=dict(Counter(lengths)))  # fmt: skip
    found = plan_batches(TrainingSpec(model="m", n_epochs=1), tokens)
    assert found.padded_tokens == pytest.approx(slots / 1000, rel=0.01)


def test_rates_are_found_again() -> None:
    """From the seconds that known rates give, the fit predicts other work."""
    chance, rates = (
        random.Random(2),
        [1e-3, 2e-11, 7e-12, 5e-9, 9e-9, 0, 0, 1e-9, 3e-11, 1e-8, 0.05],
    )
    scale = [8, 1e11, 1e11, 1e7, 1e7, 0, 0, 1e8, 1e8, 1e6, 1]
    loads = [
        Load(tuple(unit * chance.uniform(0.1, 1) for unit in scale), 1_000_000, 0)
        for _ in range(10)
    ]
    seconds = [sum(r * u for r, u in zip(rates, load.units, strict=True)) for load in loads]
    found = fit_rates(loads[:9], seconds[:9])
    told = sum(r * u for r, u in zip(found, loads[9].units, strict=True))
    assert told == pytest.approx(seconds[9], rel=0.1) and min(found) >= 0


FEW = """
import sys
from pathlib import Path
from finetune_gateway.backends.local import calibrate

calibrate.CASES = [calibrate.CASES[number] for number in (1, 12)]
calibrate.APART = (0,)
print(calibrate.calibrate(Path(sys.argv[1])).model_dump_json())
"""


def test_a_calibration_of_few_cases_is_whole(home: Path, tmp_path: Path) -> None:
    """Two of its cases, trained as the command trains them; a second thread is measured apart."""
    command = [sys.executable, "-c", FEW, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept = calibration.Calibration.model_validate_json(done.stdout.splitlines()[-1])
    assert len(kept.errors) == 2 and len(kept.rates) == len(WORK) and any(kept.rates)
    assert kept.torch == calibration.torch_version() and kept.measured_on == clock.today()
    assert kept.start_cpu > 0 < kept.save_cpu and kept.stretch >= 1
    assert len(kept.speedups) == (1 if kept.threads > 1 else 0)
    calibration.write(home, kept)
    read = calibration.read(home)
    assert read == kept and read.stale_reason(clock.today()) is None


@pytest.mark.chaos  # it trains all cases: a minute on an idle core
@pytest.mark.timeout(600)
def test_calibration_is_measured_kept_and_used(
    home: Path, tiny_folder: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``ftg doctor --calibrate`` by the real process; estimates then say so and are narrower."""
    wide = Gateway().estimate(train_file, model=str(tiny_folder), backend="local")
    assert any("ftg doctor --calibrate" in said for said in wide.assumptions)
    command = [sys.executable, "-m", "finetune_gateway", "doctor", "--calibrate", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    kept = calibration.read(home)
    assert kept is not None and kept.stale_reason(clock.today()) is None
    assert told["work"] == list(WORK) and told["torch"] == kept.torch == calibration.torch_version()
    assert max(map(abs, kept.errors)) < 0.5 and kept.imported_bytes > 200e6
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))  # the longest time allows for it
    found = Gateway().estimate(train_file, model=str(tiny_folder), backend="local")
    assert any(f"measured on this machine on {clock.today()}" in a for a in found.assumptions)
    assert wide.seconds and found.seconds
    # The tiny job is all start; the range of a calibrated one is below threefold unless busy.
    assert found.seconds.high / found.seconds.low < 2 * kept.stretch
    assert [path.name for path in home.glob("ftg-calibrate-*")] == []


def test_a_calibrated_range_is_narrower(
    home: Path, tiny_folder: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Assumed speeds span a factor of ten, measured ones less; both hold what is expected."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    model = str(tiny_folder)
    assumed = Gateway().estimate(train_file, model=model, backend="local", n_epochs=50).seconds
    calibration.write(home, calibrated())
    measured = Gateway().estimate(train_file, model=model, backend="local", n_epochs=50).seconds
    assert assumed and measured
    assert assumed.high / assumed.low >= 10 > measured.high / measured.low
    assert measured.low < measured.expected < measured.high


@pytest.mark.parametrize(
    ("speedups", "threads", "gain"),
    [((1.76, 0.52, 1.7), 1, 1), ((1.29, 1.9), 1, 1), ((1.6, 1.4, 2.0), 2, 1.6), ((), 1, 1)],
    ids=["once slower", "hardly faster", "faster", "one core"],
)
def test_a_second_thread_counts_where_it_was_faster_each_time(
    speedups: tuple[float, ...], threads: int, gain: float
) -> None:
    """Two threads that once lost half are not taken."""
    work = (0.0, 1e12, *(0.0,) * (len(WORK) - 2))
    load = Load(work, parameters=40_000_000, checkpoint_bytes=0)
    found = calibrated().model_copy(update={"speedups": speedups, "stretch": 2.0})
    assert found.threads_used == threads
    assert found.seconds(load, 0) == pytest.approx(2 * (8.1 + 10 / gain))
    small = replace(load, parameters=1_000_000)
    assert found.seconds(small, 0) == pytest.approx(2 * (8.1 + 10))


def test_the_longest_time_is_that_of_one_thread_on_a_busy_machine(
    home: Path, tiny_folder: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under the load of the measurement or of now, whichever is higher; the expected time does not
    change with the load, and the longest says why it does."""
    asked: dict[str, Any] = {"model": str(tiny_folder), "backend": "local", "n_epochs": 50}
    calibration.write(home, calibrated())
    found = []
    for others in (0.0, 4.0 * cores()):
        monkeypatch.setattr(os, "getloadavg", partial(tuple, [others] * 3))
        found.append(Gateway().estimate(train_file, **asked))
    quiet, busy = (one.seconds for one in found)
    assert quiet and busy and (quiet.low, quiet.expected) == (busy.low, busy.expected)
    assert quiet.high == pytest.approx(1.5 * quiet.expected)
    assert busy.high == pytest.approx((4 + 1 / cores()) * quiet.high)
    said = [" ".join(one.assumptions) for one in found]
    assert "busier now" in said[1] and "busier now" not in said[0]
    threaded = calibrated().model_copy(update={"speedups": (4.0, 4.0)})
    load = load_of(
        shape_of({**SHAPE, "num_hidden_layers": 12}),
        Setup(),
        Passes(1e6, 1e6, 1e9, batches=1e3, masked=False),
        steps=1e3,
    )
    assert load.parameters >= SMALL_MODEL
    assert threaded.busy_seconds(load, 0) > 3 * threaded.seconds(load, 0)


def test_an_old_or_foreign_calibration_is_doubted(home: Path) -> None:
    """Another machine, another torch, three months: each is said."""
    found = calibrated()
    assert found.stale_reason(clock.today()) is None
    old = found.model_copy(update={"measured_on": clock.today() - timedelta(days=91)})
    assert "91 days old" in (old.stale_reason(clock.today()) or "")
    for changed in ({"machine": "other"}, {"torch": "1.0"}):
        assert found.model_copy(update=changed).stale_reason(clock.today())
    calibration.write(home, found)
    assert calibration.read(home) == found
    told = {**found.model_dump(mode="json"), "rates": [1e-3] * (len(WORK) - 1)}
    (home / calibration.FILE).write_text(json.dumps(told))  # of a version with other kinds of work
    assert calibration.read(home) is None
    (home / calibration.FILE).write_text('{"machine": 3}')
    assert calibration.read(home) is None


def test_a_calibration_of_another_engine_is_not_used(
    home: Path, tiny_folder: Path, train_file: Path
) -> None:
    """One of an earlier version has no word about it; estimates say why it does not count."""
    asked: dict[str, Any] = {"model": str(tiny_folder), "backend": "local"}
    calibration.write(home, calibrated())
    told = calibrated().model_dump(mode="json")
    for older in ({**told, "engine": "fast 0"}, {k: v for k, v in told.items() if k != "engine"}):
        (home / calibration.FILE).write_text(json.dumps(older))
        found = Gateway().estimate(train_file, **asked)
        assert any("of an older training step" in said for said in found.warnings)
        assert any("assumed, not measured" in said for said in found.assumptions)
    calibration.write(home, calibrated())
    [gguf] = Gateway().estimate(train_file, **asked).warnings
    assert "llama.cpp" in gguf  # which does not know the tokenizer


def test_rows_that_are_scored_beside_take_time() -> None:
    """The reference is asked once, by TRL's DPO in each epoch; KTO's mismatched answers twice in
    the first epoch and once in the others."""

    def passes(epochs: float, **options: Any) -> float:
        spec = TrainingSpec.build(model="m", **options)
        return forward_passes(spec, Setup.of(spec, "cpu"), epochs)

    assert passes(3) == passes(3, method="orpo") == 0
    assert (passes(3, method="dpo"), passes(0.5, method="dpo")) == (1, 0.5)
    assert passes(3, method="dpo", engine="trl") == 3
    assert passes(3, method="kto") == 5
    assert passes(3, method="kto", loss_type="apo_zero_unpaired") == 1


def test_what_trl_does_otherwise_takes_its_own_time() -> None:
    """Its tiles are passed over some twenty times, so a logit there has a rate of its own, in every
    method that has them: orpo does not, and ours has none. Importing TRL, or bitsandbytes for
    qlora and 8-bit optimizers, is counted where a job does it."""
    shape = shape_of(SHAPE)

    def seconds(**options: Any) -> dict[str, float]:
        spec = TrainingSpec.build(model="m", **options)
        load = load_of(
            shape, Setup.of(spec, "cpu", shape),
            Passes(1000, 1000, 1e6, batches=1, masked=True), steps=1,
        )  # fmt: skip
        units = {name: unit for name, unit in zip(WORK, load.units, strict=True) if "logit" in name}
        idle = {"rates": (0.0,) * len(WORK), "start_cpu": 1.0, "save_cpu": 0.0,
                "save_byte_cpu": 0.0, "quantise_cpu": 1e-30,
                "import_cpu": {"trl": 2.0, "bitsandbytes": 4.0}}  # fmt: skip
        fixed = calibrated().model_copy(update=idle).cpu_seconds(load, 0)
        return {"fixed": round(fixed, 6)} | {name: unit for name, unit in units.items() if unit}

    logits = 32e6
    beyond = pytest.approx(logits - 12 * 2**20 / 4)  # of a tile of 1,000 x 32,000
    tiles = {"a logit in TRL's tiles": logits, "a logit in TRL's tiles beyond the caches": beyond}
    for method in ("sft", "dpo", "kto"):
        assert seconds(method=method, engine="trl") == {"fixed": 3} | tiles
    plain = {"a logit": logits, "a logit beyond the caches": beyond}
    assert seconds(method="orpo", engine="trl") == {"fixed": 3} | plain
    in_blocks = pytest.approx(logits * (1 - 12 / 15.625))
    ours = {"a logit": logits, "a logit beyond the caches": in_blocks}
    assert seconds(method="dpo") == {"fixed": 1} | ours
    assert seconds(training_type="qlora") == {"fixed": 5} | ours
    assert seconds(optim="adamw_8bit") == {"fixed": 5} | ours
    assert seconds(training_type="qlora", engine="trl") == {"fixed": 7} | tiles
    assert seconds(method="reward")["fixed"] == 3


@pytest.mark.parametrize("measured", [False, True])
def test_validation_takes_time(
    home: Path, tiny_folder: Path, train_file: Path, tmp_path: Path, measured: bool
) -> None:
    """As many passes over the validation rows as the trainer makes, forward alone: less than as
    many passes of training, and told."""
    if measured:
        calibration.write(home, calibrated())
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(train_file.read_text().replace("order", "parcel"))
    asked: dict[str, Any] = {"model": str(tiny_folder), "backend": "local", "max_steps": 10_000}
    found = [
        Gateway().estimate(train_file, **asked, **more)
        for more in ({}, {"validation": held_out}, {"validation": held_out, "eval_steps": 5000})
    ]
    seconds = [one.seconds.expected for one in found if one.seconds]
    trained, ten, two = seconds[0], seconds[1] - seconds[0], seconds[2] - seconds[0]
    assert ten == pytest.approx(5 * two, rel=1e-6) and 0 < ten < trained
    assert found[1].validation_tokens == found[1].tokens.total
    assert any("evaluated 10 times (eval_steps)" in said for said in found[1].assumptions)
    assert any("evaluated 2 times" in said for said in found[2].assumptions)
    assert not any("validation" in said for said in found[0].assumptions)


def test_a_pair_is_one_row_of_two_sequences() -> None:
    """Epochs, steps and evaluations of pairs are those of as many rows; pieces of texts are rows
    too."""

    def plan(method: Any, rows: int, held_out: int, length: int = 50) -> list[Any]:
        train, valid = (
            TokenStats(encoding="x", exact=True, rows=count, total=count * length, median=length,
                       trained=count * 20, max=length, lengths={length: count})
            for count in (rows, held_out)
        )  # fmt: skip
        spec, target = TrainingSpec(model="m", method=method), TargetDevice(row_limit=50)
        found = local_estimation.estimate_local(spec, train, None, validation=valid, target=target)
        said = [one for one in found.assumptions if "are evaluated" in one]
        return [found.n_epochs, found.steps, *(one.rpartition("evaluated ")[2] for one in said)]

    wanted = plan("sft", 300, 30)
    assert wanted[:2] == [3, 114]
    assert plan("dpo", 600, 60) == wanted
    assert plan("pretrain", 30, 3, length=500) == wanted


def test_evaluations_are_those_of_the_trainer(
    home: Path, tiny_folder: Path, train_file: Path
) -> None:
    """At each multiple of eval_steps and at the end, as a real run does it. (Where the end is such
    a multiple, and with "auto": in test_qlora and test_local.)"""
    asked: dict[str, Any] = {"model": str(tiny_folder), "max_steps": 5, "batch_size": 2}
    job = Gateway().submit(train_file, backend="local", validation_split=0.2, eval_steps=2, **asked)
    job.wait(timeout=180)
    told = [metric.step for metric in job.metrics() if metric.valid_loss is not None]
    assert told == [2, 4, 5] and local_estimation.evaluations(job.record.spec, 5) == 3


@pytest.mark.parametrize(
    ("trained", "held_out", "expected"), [(729, 27, 6), (243, 27, 3), (8, 27, 1), (8000, 40, 10)]
)
def test_held_out_rows_cost_little(trained: int, held_out: int, expected: int) -> None:
    """At most one row is evaluated for four that are trained, at a checkpoint (of ten), and at
    least once, at the end."""
    steps = 90
    every = auto_eval_steps(9, steps, trained, held_out)
    runs = local_estimation.evaluations(TrainingSpec(model="m"), steps, trained, held_out)
    assert runs == math.ceil(steps / every) and every % 9 == 0
    assert runs <= expected and (runs == 1 or 4 * runs * held_out <= trained)


def test_a_price_of_ones_own_is_any_number_and_no_nonsense(
    home: Path, tiny_folder: Path, train_file: Path
) -> None:
    """What is a number to Python is one here, to its last digit; the rest is said."""
    for given in (Decimal("3.1"), 3.1, "3.1", "$3.1"):
        assert LocalBackend(gpu="H200", usd_per_gpu_hour=given).usd_per_gpu_hour == Decimal("3.1")
        found = Gateway().estimate(train_file, model="gpt-4.1-mini-2025-04-14", train_price=given)
        assert found.prices[0].usd == Decimal("3.1")
    for wrong in ("x", float("nan"), -1, True, "1e999", Decimal("Infinity")):
        with pytest.raises(SpecError, match="usd_per_gpu_hour cannot be"):
            LocalBackend(gpu="H200", usd_per_gpu_hour=wrong)
        for model in ("gpt-4.1-mini-2025-04-14", ["gpt-4.1-mini-2025-04-14"]):
            with pytest.raises(SpecError, match="train_price cannot be"):
                Gateway().estimate(train_file, model=model, train_price=wrong)
    with pytest.raises(SpecError, match="No figures are known for GPU ''"):
        LocalBackend(gpu="")
    with pytest.raises(SpecError, match="nothing to estimate"):
        Gateway().estimate(train_file, model=[])
    with pytest.raises(SpecError, match="since cannot be"):
        Gateway().costs(since="2026-13-01")  # type: ignore[arg-type]  # a string


def test_what_is_assumed_of_a_gpu_is_said(home: Path, tiny_folder: Path, train_file: Path) -> None:
    """Precision by the kind of training, a GPU without bfloat16, start-up, energy, markets."""
    cases: tuple[tuple[str, TrainingType, tuple[str, str]], ...] = (
        ("T4", "full", ("; float32, activation", "T4 does not support bfloat16")),
        ("H200", "lora", ("base in bfloat16, adapters in float32", "15 s (5 to 60 s)")),
        ("H100", "lora", ("expected 80 %", "cheapest on demand: 3.90 USD an hour")),
    )
    for gpu, kind, expected in cases:
        found = Gateway().estimate(
            train_file, model=str(tiny_folder), backend=LocalBackend(gpu=gpu), training_type=kind
        )
        said = " ".join(found.assumptions)
        assert all(words in said for words in expected), said
        assert ("not support bfloat16" in said) is (gpu == "T4")


def test_a_named_gpu_is_for_estimates_only(home: Path, tiny_folder: Path, train_file: Path) -> None:
    """The estimate is the GPU's; submitting there is refused before anything is written."""
    there = LocalBackend(gpu="h200", usd_per_gpu_hour="2.50")
    found = Gateway().estimate(train_file, model=str(tiny_folder), backend=there)
    assert found.gpu == "H200" and found.fits == "yes" and found.memory_parts
    assert [(row.usd, row.source) for row in found.prices][0][1] == "given by the user"
    with pytest.raises(SpecError, match="for estimates"):
        Gateway().submit(train_file, model=str(tiny_folder), backend=there)


def test_the_screen_shows_memory_by_part(home: Path, tiny_folder: Path, train_file: Path) -> None:
    """By the real process in 80 columns: parts, smallest GPU, price rows, energy; --json has the
    same parts; an unknown GPU names those near it."""

    def ftg(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "finetune_gateway", "estimate", str(train_file)]
        return subprocess.run(
            [*command, "--model", str(tiny_folder), *words], capture_output=True, text=True
        )

    text = ftg("--gpu", "RTX 4090", "--explain").stdout
    for said in ("by part", "weights", "optimizer", "smallest GPU", "energy", "trained tokens",
                 "per GPU hour", "not measured"):  # fmt: skip
        assert said in text, said
    assert max(map(len, text.splitlines())) <= 80
    told = json.loads(ftg("--gpu", "H200", "--usd-per-gpu-hour", "3.10", "--json").stdout)[0]
    assert sum(told["memory_parts"].values()) == told["memory_bytes"]["expected"]
    assert told["prices"][0]["usd"] == "3.10" and told["smallest_gpu"] == "RTX 3060"
    wrong = ftg("--gpu", "A100-90GB")
    assert wrong.returncode != 0 and "A100-80GB" in wrong.stderr
    hosted = subprocess.run(
        [sys.executable, "-m", "finetune_gateway", "estimate", str(train_file), "--model",
         "gpt-4.1-mini-2025-04-14", "--gpu", "H200"], capture_output=True, text=True,
    )  # fmt: skip
    assert hosted.returncode != 0 and "--backend local" in hosted.stderr
