"""GPUs by the names that nvidia-smi, vendors and people write, and what is known of each."""

from __future__ import annotations

import tomllib
from datetime import date
from decimal import Decimal
from importlib import resources
from pathlib import Path

import pytest

from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.errors import SpecError
from finetune_gateway.estimation.gpus import GIB, GPUS, gpu_name, gpu_notes, smallest, which_gpu
from finetune_gateway.estimation.price_table import gpu_prices, packaged_prices
from finetune_gateway.estimation.serving import serving_costs
from finetune_gateway.estimation.traffic import Traffic

NAMES = {
    "NVIDIA A100-SXM4-80GB": "A100-80GB",
    "NVIDIA A100-SXM4-40GB": "A100-40GB",
    "NVIDIA A100-PCIE-40GB": "A100-40GB PCIe",
    "NVIDIA A100 80GB PCIe": "A100-80GB PCIe",
    "A100 80 GB": "A100-80GB",
    "a10080gb": "A100-80GB",
    "Tesla T4": "T4",
    "T4-16GB": "T4",
    "Tesla V100-SXM2-16GB": "V100",
    "Tesla V100-SXM2-32GB": "V100-32GB",
    "Tesla V100-PCIE-32GB": "V100-32GB",
    "H100 SXM": "H100",
    "h100 sxm5": "H100",
    "NVIDIA H100 80GB HBM3": "H100",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA GH200 480GB": "GH200",
    "NVIDIA B200": "B200",
    "NVIDIA B300 SXM6 AC": "B300",
    "NVIDIA L40S": "L40S",
    "NVIDIA A40": "A40",
    "NVIDIA A10G": "A10G",
    "NVIDIA A10": "A10",
    "NVIDIA RTX A6000": "A6000",
    "NVIDIA RTX 6000 Ada Generation": "RTX 6000 Ada",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": "RTX PRO 6000",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "RTX PRO 6000 Workstation",
    "Quadro RTX 6000": "Quadro RTX 6000",
    "NVIDIA GeForce RTX 3060": "RTX 3060",
    "NVIDIA GeForce RTX 3090": "RTX 3090",
    "NVIDIA GeForce RTX 4080": "RTX 4080",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA GeForce RTX 5080": "RTX 5080",
    "GeForce RTX 5090 32GB": "RTX 5090",
    "rtx4090": "RTX 4090",
    "AMD Instinct MI300X OAM": "MI300X",
}


@pytest.mark.parametrize("text", NAMES)
def test_a_gpu_is_found_by_the_names_that_people_paste(text: str) -> None:
    """As nvidia-smi prints it, as vendors list it, as people shorten it; nothing is left open."""
    assert gpu_name(text) == NAMES[text]
    assert not any("there is also" in note for note in gpu_notes(text))


@pytest.mark.parametrize(
    ("text", "taken", "other"),
    [
        ("A100", "A100-40GB", "A100-80GB"),
        ("NVIDIA A100 PCIe", "A100-40GB PCIe", "A100-80GB PCIe"),
        ("Tesla V100", "V100", "V100-32GB"),
        ("RTX 6000", "Quadro RTX 6000", "RTX 6000 Ada"),
    ],
)
def test_a_name_of_two_is_the_smaller_one_and_that_is_said(
    home: Path, text: str, taken: str, other: str
) -> None:
    """In the notes of an estimate of training and of serving."""
    assert gpu_name(text) == taken
    (note,) = [note for note in gpu_notes(text) if "there is also" in note]
    assert taken in note and other in note
    assert LocalBackend(gpu=text).which_gpu == which_gpu(text) == note
    traffic = Traffic(requests=1000, tokens_in=10, tokens_out=10)
    costs = serving_costs(traffic, [], gpu=text, tokens_per_second=Decimal(100))
    assert {way.model for way in costs.ways} == {taken} and note in costs.warnings


@pytest.mark.parametrize(
    ("text", "near"),
    [
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 4090"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", "A100-40GB"),
        ("GeForce RTX 3060 8GB", "RTX 3060"),
        ("RTX 4080 SUPER", "RTX 4080"),
        ("GH200 144G HBM3e", "GH200"),
        ("Quadro", "Quadro RTX 6000"),
        ("NVIDIA", "H100"),
        ("", "H100"),
    ],
)
def test_another_gpu_with_a_like_name_is_refused(text: str, near: str) -> None:
    """A laptop's, a slice, one with other memory: none has these figures; a near one is named."""
    with pytest.raises(SpecError, match="No figures are known") as caught:
        gpu_name(text)
    assert near in (caught.value.hint or "")
    assert gpu_notes(text) == []


@pytest.mark.parametrize("text", ["Apple M3 Max", "M2 Ultra", "m4", "mps"])
def test_what_holds_for_a_mac_is_said(text: str) -> None:
    """It trains on its CPU, which has estimates of its own."""
    with pytest.raises(SpecError, match="Apple's GPUs") as caught:
        gpu_name(text)
    assert "CPU" in (caught.value.hint or "")


def test_whatever_has_a_price_has_figures() -> None:
    """Each GPU that ``ftg prices`` lists can be given to --gpu, by its name, with a price."""
    priced = {row.model for row in packaged_prices() if row.unit == "gpu_hour"}
    assert {"RTX PRO 6000", "GH200"} <= priced
    for name in sorted(priced):
        assert gpu_name(name) == name and gpu_prices(name)


def test_a_row_of_yours_may_name_the_gpu_as_nvidia_smi_does(tmp_path: Path) -> None:
    """It counts for the GPU that it means, and for no other."""
    own = tmp_path / "prices.toml"
    own.write_text(
        '[[price]]\nbackend = "own"\nmodel = "NVIDIA A100-SXM4-80GB"\nmarket = "on-demand"\n'
        'usd = { gpu_hour = "0.01" }\nas_of = 2026-12-01\nsource = "the bill"\n'
    )
    assert gpu_prices("A100-80GB", extra=own)[0].backend == "own"
    assert all(row.backend != "own" for row in gpu_prices("A100-40GB", extra=own))


def test_each_row_has_all_figures_with_a_source_and_a_day() -> None:
    """Units are those of GPUs: a slip of a thousand would be seen."""
    text = resources.files("finetune_gateway.estimation").joinpath("gpus.toml").read_text("utf-8")
    for name, row in tomllib.loads(text).items():
        assert row["source"].startswith("https://") and isinstance(row["as_of"], date), name
        gpu = GPUS[name]
        assert 8 * GIB <= gpu.memory_bytes <= 300 * GIB, name
        assert 2e11 <= gpu.bandwidth <= 1e13 and 1e13 <= gpu.flops <= 3e15, name
        assert 50 <= gpu.watts <= 1500, name
        assert 20 <= gpu.flops / gpu.bandwidth <= 500, name  # FLOPs a byte


def test_jobs_are_sent_to_no_gpu_that_they_cannot_find() -> None:
    """The smallest GPU is one of NVIDIA's; that of AMD says what is not known of it."""
    assert smallest(170 * GIB, 170 * GIB) == "B300"  # not the MI300X
    assert "never run" in " ".join(gpu_notes("MI300X"))
