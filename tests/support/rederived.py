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
from finetune_gateway.reports.comparison_markdown import comparison_markdown

Json = dict[str, Any]
PHRASES = ROOT / "finetune_gateway" / "resources" / "refusals.json"


def derived(data: Path, comparison: Comparison) -> Json:
    """What a script finds that imports nothing of the gateway."""
    report = comparison.folder.parent.parent / f"{comparison.id}.md"
    report.write_text(comparison_markdown(comparison.data), "utf-8")
    files = (data, comparison.folder, PHRASES, report)
    command = [sys.executable, "-m", "support.rederive", *map(str, files)]
    env = {**os.environ, "PYTHONPATH": TEST_PATH.split(os.pathsep)[0]}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.stdout, done.stderr
    found: Json = json.loads(done.stdout)
    return found
