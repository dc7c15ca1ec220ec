"""What all tests share: no network, no keys, a home folder of their own, a tiny model, data."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import certifi
import pytest
from hypothesis import HealthCheck, settings
from support.heap import freeze_imports
from support.paths import SHARED
from support.rows import chat_rows
from tenacity import wait_fixed

# Before any library is imported: they read these once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

# Side by side (make test), processes of the tests take one core each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"

# Machines differ in speed, and an example may start a garbage collection.
settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "deep", settings.get_profile("default"), max_examples=10_000, print_blob=True
)
settings.load_profile("default")

pytest_plugins = ("support.browser", "support.cli", "support.disks")

MEMORY = Path("/dev/shm")  # a file system without a disk, on Linux
ROOM = 4 << 30  # bytes; all tests together write some hundred million
PROVIDER_VARIABLES = ("OPENAI_", "AZURE_OPENAI_", "NEBIUS_", "CRUSOE_", "AWS_BEARER_", "FTG_")
SMALL = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
}


def pytest_configure() -> None:
    """The folders of tests lie in memory, unless PYTEST_DEBUG_TEMPROOT says where: a job makes
    some 40 calls of fsync, each of which takes a disk 2 to 8 ms and no processor."""
    if "PYTEST_DEBUG_TEMPROOT" not in os.environ and _has_room(MEMORY):
        os.environ["PYTEST_DEBUG_TEMPROOT"] = str(MEMORY)


def _has_room(folder: Path) -> bool:
    """Can programs be started there, and is there space for all tests? Containers often say no."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return False
    disk = os.statvfs(folder)
    return not disk.f_flag & os.ST_NOEXEC and disk.f_bavail * disk.f_frsize >= ROOM


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest tests come first: side by side, no process waits for one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_runtest_setup() -> None:
    """A collection looks through what a test has made, not through all tests and libraries."""
    freeze_imports()


@pytest.fixture(scope="session", autouse=True)
def _away_from_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing reads the keys or touches the home folder of whoever runs the tests."""
    from finetune_gateway.backends.local import builtin

    # A shell that starts us in the background lets us, and all we start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(PROVIDER_VARIABLES)]:
            patch.delenv(name)
        patch.setenv("FTG_HOME", str(tmp_path_factory.mktemp("any-home")))
        # Each client of a host reads all certificates of the machine; none of the tests' hosts has
        # one.
        certificates = tmp_path_factory.mktemp("any-certificate") / "one.pem"
        end = "-----END CERTIFICATE-----\n"
        first = Path(certifi.where()).read_text("ascii").partition(end)
        certificates.write_text(first[0] + first[1], "ascii")
        patch.setenv("SSL_CERT_FILE", str(certificates))
        patch.delenv("SSL_CERT_DIR", raising=False)
        # Reads that have failed are repeated at once: hundreds of tests let them fail.
        patch.setattr("finetune_gateway.backends.openai.retries.BACKOFF", wait_fixed(0.01))
        # The tokenizer of builtin/tiny is trained for the first home of a process, and not again.
        patch.setattr(builtin, "build_tokenizer", cache(builtin.build_tokenizer))
        # Models retire and prices grow old: tests are about this day, in all they start.
        patch.setenv("FTG_TODAY", "2026-11-21")
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new home folder, which FTG_HOME names."""
    folder = tmp_path / "home"
    monkeypatch.setenv("FTG_HOME", str(folder))
    return folder


@pytest.fixture
def rows() -> Callable[[int], list[dict[str, Any]]]:
    """``rows(n)``: n different chat rows that every backend accepts."""
    return chat_rows


@pytest.fixture
def train_file(tmp_path: Path) -> Path:
    """A file of 12 good chat rows."""
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12)), encoding="utf-8")
    return path


@pytest.fixture
def shared() -> Path:
    """The data sets kept beside the checkout, or a skip."""
    if not SHARED.is_dir():
        pytest.skip("the data sets are not beside the checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of ``builtin/tiny`` without its weights."""
    from finetune_gateway.backends.local import builtin

    return builtin.ensure_tokenizer(tmp_path_factory.mktemp("tiny") / builtin.folder_name())


@pytest.fixture
def tiny_at_home(tmp_path: Path, tiny_tokenizer: Path) -> None:
    """In the home folder of the test is what counting with ``builtin/tiny`` needs; else each home
    trains its tokenizer anew."""
    shutil.copytree(tiny_tokenizer, tmp_path / "home" / "models" / tiny_tokenizer.name)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    """A model folder: an untrained Llama of 64 x 2 layers, the tokenizer and the template of
    ``builtin/tiny``. ``AutoModelForCausalLM`` and ``AutoTokenizer`` load it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from finetune_gateway.backends.local import builtin

    folder = tmp_path_factory.mktemp("tiny-model")
    shutil.copytree(tiny_tokenizer, folder, dirs_exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**{**builtin.CONFIG, **SMALL})).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(builtin.GENERATION_CONFIG))
    return folder
