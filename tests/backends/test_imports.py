"""What trains is imported without garbage collections, and later ones do not look through it; what
is not used is left out."""

from __future__ import annotations

import errno
import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from support.rows import chat_rows
from support.training import a_run

from finetune_gateway.backends.local import fourbit, worker
from finetune_gateway.backends.local.imports import OF_TRL, UNUSED, blocked, without_collections
from finetune_gateway.backends.local.read_ahead import BLOCK, read_ahead, read_missing
from finetune_gateway.spec import TrainingSpec


def collections() -> int:
    return sum(generation["collections"] for generation in gc.get_stats())


def test_nothing_is_collected_meanwhile() -> None:
    """However much is made; afterwards all is as it was, also behind an error."""
    before = collections()
    with pytest.raises(ZeroDivisionError), without_collections():
        made = [[number] for number in range(100_000)]
        assert collections() == before and len(made) // 0
    assert gc.isenabled()
    gc.disable()
    try:
        with without_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_collections_of_a_worker_leave_out_what_was_imported(
    home: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they would take longer than the steps of a small training."""
    fourbit.import_quietly()
    monkeypatch.setitem(sys.modules, fourbit.PACKAGE, sys.modules[fourbit.PACKAGE])
    spec = TrainingSpec(model=str(tiny_folder), max_steps=1, batch_size=4)
    gc.unfreeze()
    result, _ = worker.train(a_run(home, spec, chat_rows(4)))
    assert result.kind == "adapter"
    left_out, looked_at = gc.get_freeze_count(), len(gc.get_objects())
    assert gc.isenabled() and left_out > looked_at


def test_a_blocked_package_is_there_again_afterwards() -> None:
    """Behind an error too; one that is loaded stays."""
    sys.modules.pop("this", None)
    with pytest.raises(ImportError), blocked("this"):
        importlib.import_module("this")
    assert "this" not in sys.modules
    with blocked("gc"):
        assert importlib.import_module("gc") is gc


IMPORT = f"""\
import importlib.util, sys
from finetune_gateway.backends.local.imports import import_training
import_training("sft", bitsandbytes=False)
assert "torch" in sys.modules and "trl" not in sys.modules
left_out = {[*UNUSED, *OF_TRL, "pandas"]}
assert not {{name.partition(".")[0] for name in sys.modules}} & set(left_out)
from finetune_gateway.backends.local.row_table import RowTable
import pyarrow
RowTable(pyarrow.table({{"x": [1]}})).add_column("y", [[2]]).shuffled(0, 1)
assert "pandas" not in sys.modules
print(*(importlib.util.find_spec(name).name for name in left_out))
"""


@pytest.mark.chaos
def test_imports_leave_out_what_is_not_used() -> None:
    """Training imports no scipy, no datasets and no pandas, which stay there for others, and no
    TRL."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True)
    assert done.stdout == "scipy datasets pandas\n", done.stderr


@pytest.fixture
def on_disk() -> Iterator[Path]:
    """A folder that is not in memory, as those of tests are where there is room."""
    with TemporaryDirectory() as name:
        yield Path(name)


def _evicted(path: Path, size: int) -> bool:
    """Write a file, and let the system forget it; False where it does not."""
    path.write_bytes(b"\1" * size)
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], 0, os.RWF_NOWAIT)
        except BlockingIOError:
            return True
        except OSError as exc:
            if exc.errno != errno.EOPNOTSUPP:  # a file system in memory
                raise
    return False


@pytest.mark.skipif(not hasattr(os, "RWF_NOWAIT"), reason="only Linux says what is in its cache")
def test_weights_are_read_while_the_worker_imports(on_disk: Path) -> None:
    """From the disk alone: what the system has in memory is not read again."""
    weights = on_disk / "model.safetensors"
    if not _evicted(weights, 3 * BLOCK + 7):
        pytest.skip("this file system keeps all files in memory")
    (on_disk / "config.json").write_text("{}")
    read_ahead(str(on_disk)).join()
    with weights.open("rb") as file:
        for at in range(0, 3 * BLOCK + 7, BLOCK):
            assert os.preadv(file.fileno(), [bytearray(1)], at, os.RWF_NOWAIT) == 1
    assert read_missing(weights) == 0


def test_reading_ahead_leaves_errors_to_who_loads(tmp_path: Path) -> None:
    """A folder without weights, a name that the hub's cache lacks, an index that cannot be read."""
    (tmp_path / "model.safetensors.index.json").write_text("[")
    for model in (str(tmp_path), str(tmp_path / "gone"), "acme/unknown", "builtin/unknown"):
        thread = read_ahead(model)
        thread.join()
        assert not thread.is_alive()
