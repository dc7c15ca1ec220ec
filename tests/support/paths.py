"""Where the checkout, the tests' own data and the data sets beside the checkout lie."""

from __future__ import annotations

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
DATA = Path(__file__).resolve().parent / "data"
DEMO_TRAIN = ROOT / "finetune_gateway" / "resources" / "demo_train.jsonl"
SHARED = ROOT.parent / "shared"
SHARED_DATA = SHARED / "data"

# What PYTHONPATH must hold in a process that imports ``support``.
TEST_PATH = os.pathsep.join(filter(None, (str(TESTS), os.environ.get("PYTHONPATH"))))
