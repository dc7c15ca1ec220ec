"""What trains is imported without garbage collections, and later ones do not look through it; what
is not used is left out."""

from __future__ import annotations

import gc
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from support.rows import chat_rows
from support.training import a_run

from finetune_gateway.backends.local import fourbit, worker
from finetune_gateway.backends.local.imports import OF_TRL, UNUSED, blocked, without_collections
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
