"""``rederive`` as a process of its own, of a comparison."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.paths import ROOT, TEST_PATH

from finetune_gateway.evaluation.comparison import Comparison

Json = dict[str, Any]
PHRASES = ROOT / "finetune_gateway" / "resources" / "refusals.json"


def derived(data: Path, comparison: Comparison) -> Json:
    """What a script finds that imports nothing of the gateway."""
    command = [
        sys.executable,
        "-m",
        "support.rederive",
        str(data),
        str(comparison.folder),
        str(PHRASES),
    ]
    env = {**os.environ, "PYTHONPATH": TEST_PATH.split(os.pathsep)[0]}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.stdout, done.stderr
    found: Json = json.loads(done.stdout)
    return found
