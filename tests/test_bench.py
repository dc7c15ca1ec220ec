"""Each bench runs with tiny numbers, does the same work on both sides and prints its figures."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.browser import NAMES

from finetune_gateway.estimation.model_config import shape_of

BENCH = Path(__file__).resolve().parents[1] / "bench"
KEYS = ["bench", "metric", "ours", "baseline", "ratio", "unit", "runs", "versions"]
MISSED = 3  # a bound missed: so few runs prove nothing, but the figures are there


def figures(name: str, *words: str) -> dict[str, dict[str, Any]]:
    """What a bench prints, by metric."""
    command = [sys.executable, str(BENCH / f"{name}.py"), "--runs", "1", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, MISSED), done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert all([*line] == KEYS and line["bench"] == name for line in lines)
    assert all(line["runs"] == 1 and "finetune-gateway" in line["versions"] for line in lines)
    return {line["metric"]: line for line in lines}


@pytest.fixture
def bench_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_help_time_prints_its_figures() -> None:
    """Help, import and validate against a bare Python; nothing heavy in the help."""
    found = figures("help_time", "--slow-runs", "1", "--rows", "20")
    assert set(found) == {
        "heavy_modules_of_help",
        "help_wall",
        "import_gateway_wall",
        "validate_20_rows_wall",
    }
    assert found["heavy_modules_of_help"]["ours"] == 0
    assert found["help_wall"]["ours"] >= found["help_wall"]["baseline"] * 0.5 > 0


def test_help_time_would_see_a_heavy_module(bench_folder: None) -> None:
    """The list of imports is real: a module that is imported is on it."""
    import help_time

    assert "pydantic" in help_time.loaded(["-c", "import pydantic"]) & help_time.HEAVY


def test_validate_speed_prints_its_figures(tmp_path: Path) -> None:
    """Both sides read all rows; the figures are written to a file too."""
    out = tmp_path / "figures.json"
    found = figures("validate_speed", "--rows", "60", "--before", "HEAD", "--out", str(out))
    assert set(found) == {
        "speed",
        "speed_alone",
        "speed_near_duplicates",
        "speed_whole_alone",
        "speed_whole",
        "cpu",
        "cpu_alone",
        "peak_rss",
        "cpu_before",
        "cpu_alone_before",
        "cpu_near_before",
        "peak_before",
    }
    assert all(line["ours"] > 0 and line["ratio"] > 0 for line in found.values())
    assert json.loads(out.read_text("utf-8"))["figures"] == [*found.values()]


def test_submit_speed_prints_its_figures() -> None:
    """Rows are submitted, and validated on the other side."""
    found = figures("submit_speed", "--rows", "60", "--forms", "preference_texts")
    assert set(found) == {f"preference_texts_{metric}" for metric in ("seconds", "cpu", "peak")}
    assert all(line["ours"] > 0 and line["ratio"] > 0 for line in found.values())


@pytest.mark.chaos
def test_many_jobs_prints_its_figures() -> None:
    """Commands in a home with more jobs and events against one with few; a screen is drawn."""
    found = figures("many_jobs", "--jobs", "3", "--events", "200")
    commands = ("status", "list", "list_all", "watch")
    assert set(found) == {f"{name}_{part}" for name in commands for part in ("wall", "cpu", "peak")}
    assert all(line["ours"] > 0 and line["ratio"] > 0 for line in found.values())


def test_near_duplicates_prints_its_figures() -> None:
    """Planted pairs are counted, speed and memory stand beside those of exact hashes."""
    pytest.importorskip("rensa")
    found = figures("near_duplicates", "--rows", "300", "--planted", "0.2")
    assert set(found) == {"recall", "precision", "speed", "memory"}
    assert found["recall"]["baseline"] == 60
    assert found["recall"]["ratio"] >= 0.9 and found["precision"]["ratio"] >= 0.9


def test_quality_speed_prints_its_figures() -> None:
    """A commit before is checked out, and looks at the same rows."""
    pytest.importorskip("rensa")
    small = ("--megabytes", "0.05", "--sets", "chats", "--before", "HEAD", "--data", "none")
    found = figures("quality_speed", *small)
    parts = ("survey", "survey_cpu", "gate", "gate_cpu", "peak")
    assert set(found) == {f"chats_{name}" for name in parts}
    assert all(line["ours"] > 0 and line["ratio"] > 0 for line in found.values())


@pytest.mark.chaos
def test_event_loop_prints_its_figures() -> None:
    """Jobs go from submit to chat; both loops have ticked meanwhile."""
    pytest.importorskip("uvicorn")
    found = figures("event_loop", "--jobs", "4", "--seconds", "1")
    blocks = {"longest_block", "longest_block_beyond_idle", "usual_block_beyond_idle"}
    assert set(found) == {*blocks, "tenth_longest_block"}
    assert all(line["ours"] >= 0 and line["baseline"] > 0 for line in found.values())


@pytest.mark.slow
def test_overhead_trains_the_same_on_both_sides(tiny_folder: Path) -> None:
    """A job and the bare script reach the same losses from the same base, rows and seed."""
    found = figures("overhead", "--steps", "2", "--rows", "16", "--base", str(tiny_folder))
    assert {"to_last_step_wall", "to_last_step_cpu", "training_wall"} <= set(found)
    for name in ("last_train_loss", "last_valid_loss"):
        assert found[name]["ours"] == pytest.approx(found[name]["baseline"], abs=2e-4)


def test_cpu_of_a_moment_between_two_looks(bench_folder: None) -> None:
    """Looks after the moment do not count: saving begins there."""
    import overhead

    samples = [overhead.Sample(at, cpu) for at, cpu in ((0, 0), (1, 0.5), (2, 1.5), (3, 9.0))]
    assert overhead.cpu_at(samples, 2.5) == pytest.approx(2.0)


@pytest.mark.chaos
def test_leaks_prints_its_figures(shared: Path) -> None:
    """What is found of each change, and what is not one, for each data set."""
    found = figures("leaks", "--planted", "6")
    assert {"gsm8k_exact", "gsm8k_cut", "text2sql_false", "wikisql_reorder"} <= set(found)
    assert found["gsm8k_exact"]["ratio"] == 1 and found["gsm8k_false"]["ours"] == 0


def test_personal_data_prints_its_figures() -> None:
    """What is found of each kind, script and form."""
    found = figures("personal_data", "--values", "48")
    assert {"found of all", "found of Thai", "found of an e-mail address"} <= set(found)
    assert found["found of all"]["ours"] >= 0.95


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_intervals_hold_the_true_value(bench_folder: None, kind: str) -> None:
    """Drawn models with known scores: about 95 % are covered, and equal ones are not told apart."""
    import interval_coverage as bench
    from numpy.random import default_rng

    random = default_rng(15)
    for sizes, icc, p, most in (((1,) * 104, 0.0, 0.8, 99), ((8,) * 13, 0.8, 0.5, 100)):
        cell = bench.Cell(kind, sizes, icc, p)
        assert 91 <= bench.coverage_of_means(cell, random, 200) <= most
        assert 91 <= bench.coverage_of_differences(cell, 0.5, random, 200) <= most
        assert bench.false_claims(cell, 0.5, random, 50) <= 10


def test_record_speed_prints_its_figures() -> None:
    """A recording and two bare loops ask the same prompts of the same slow host."""
    found = figures("record_speed", "--prompts", "16")
    assert set(found) == {"record_16_sdk", "record_16_httpx2"}
    # 50 ms at least: no side is faster than its host.
    assert all(min(line["ours"], line["baseline"]) >= 0.05 for line in found.values())


@pytest.mark.chaos
@pytest.mark.skipif(not any(map(shutil.which, NAMES)), reason="needs Chromium")
def test_report_page_prints_its_figures() -> None:
    """The page of a comparison against an empty one, a search against its first paint."""
    found = figures("report_page", "--rows", "30", "--models", "2")
    assert set(found) == {"first_paint", "filter", "filter_frame", "bytes_without_rows"}
    assert found["first_paint"]["ours"] > 0


def test_parts_of_the_gpu_bench_end_in_time_or_say_why(bench_folder: None) -> None:
    """A part that is late is ended, one without time is not begun, one that fails is quoted."""
    import gpu

    later = time.monotonic() + 100
    with pytest.raises(gpu.Late, match="ended after 0 s"):
        gpu.side("look", {}, "cpu", 0.05, later)
    with pytest.raises(gpu.Late, match="20 s are left, and none is begun with less than 30"):
        gpu.side("look", {}, "cpu", 60, time.monotonic() + 20.2)
    with pytest.raises(RuntimeError, match="exit 1: KeyError: 'sing'"):
        gpu.side("sing", {}, "cpu", 60, later)


def test_the_gpu_bench_counts_operations_of_a_known_gpu(bench_folder: None) -> None:
    """Names as torch tells them; 4 operations a weight for LoRA, 6 for full training."""
    import gpu

    told = {
        "NVIDIA H200": "H200", "NVIDIA H100 80GB HBM3": "H100", "NVIDIA H100 PCIe": "H100 PCIe",
        "NVIDIA A100-SXM4-80GB": "A100-80GB", "NVIDIA A100-PCIE-40GB": "A100-40GB PCIe",
        "NVIDIA GeForce RTX 4090": "RTX 4090", "NVIDIA L4": "L4", "Tesla T4": "T4",
        "NVIDIA T1000": None,
    }  # fmt: skip
    assert {name: gpu.known(name) for name in told} == told
    shape = shape_of(gpu.LARGE["8B"])
    assert shape.parameters == 8_030_261_248  # those of Llama 3.1 8B
    whole = gpu.flops_per_token(shape, "full", 2048, 1.0)
    attention = 6 * 32 * 4096 * 2048
    assert whole == pytest.approx(6 * (8.03e9 - 128_256 * 4096) + attention, rel=1e-3)
    lora = gpu.flops_per_token(shape, "lora", 2048, 1.0)
    assert 0.66 < lora / whole < 0.70


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_the_gpu_bench_runs_on_a_cpu(tmp_path: Path) -> None:
    """Parts by the real code on tiny models; without a GPU it says so, and measures nothing."""
    command = [sys.executable, str(BENCH / "gpu.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("torch sees no GPU here"), done.stderr
    out = tmp_path / "gpu.json"
    command += ["--device", "cpu", "--tiny", "1", "--words", "15", "--batch", "2", "--steps", "3"]
    command += ["--minutes", "30", "--only", "1B lora;8B qlora", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(out.read_text("utf-8"))
    assert found["device"] == "cpu" and found["skipped"] == {}
    names = {name: choice["name"] for name, choice in found["choices"].items()}
    assert names == {"1B lora": "fast", "8B qlora": "fast", "1B lora trl": "trl"}
    metrics = {figure["metric"]: figure for figure in found["figures"]}
    assert metrics["8B qlora: estimated memory"]["baseline"] > 0.3
    assert metrics["1B lora trl: our steps beside TRL's"]["ratio"] > 0


def test_bills_are_the_sum_of_three_rows_by_hand(
    bench_folder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Content, 4 for each message and 1 for each row, times the epochs. Words of one letter are a
    token each; a picture at low detail is 85."""
    import bills

    picture = {"type": "image_url", "image_url": {"url": "https://example.com/a", "detail": "low"}}
    contents: list[list[Any]] = [
        ["a b c", "d", "e f"],  # 6 + 12 + 1 = 19
        ["a", "b"],  # 2 + 8 + 1 = 11
        [[{"type": "text", "text": "a b"}, picture], "c"],  # 88 + 8 + 1 = 97
    ]
    path = tmp_path / "norec.jsonl"
    rows = [
        {
            "messages": [
                {"role": role, "content": text} for role, text in zip(roles, texts, strict=True)
            ]
        }
        for texts in contents
        for roles in [("system", "user", "assistant")[-len(texts) :]]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert bills.count(path, bills.GPT_4O, 2) == 2 * (19 + 11 + 97)
    assert bills.count(path, bills.MINI) == 25 * (19 + 11 + 2833 + 12)  # 25 epochs by the cookbook
    monkeypatch.setattr(sys, "argv", ["bills.py", str(tmp_path)])
    assert bills.main() == 3  # which is not what OpenAI billed
