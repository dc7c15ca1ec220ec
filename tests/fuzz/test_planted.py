"""Bugs that are planted in a copy of the package: the fuzzer of hosts finds each of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.paths import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(400)]
SECONDS = 120  # alone on a core it takes a few
ROOM = "finetune_gateway/backends/openai"
PLANTED = {
    "any digits are a number of seconds": (
        f"{ROOM}/retries.py",
        "if text and NUMBER.fullmatch(text) else None",
        "if text and text.isdigit() else None",
    ),
    "what a host says is shown as it is": (
        f"{ROOM}/wire.py",
        'line = " ".join(visible(text).split())',
        'line = " ".join(text.split())',
    ),
    "any value is the id of a file": (
        f"{ROOM}/finding.py",
        'text_of(job.get("training_file")) in file_ids',
        'job.get("training_file") in file_ids',
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    """Within a bound of time, by an exception that is none of ours."""
    for folder in ("finetune_gateway", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    name, right, wrong = PLANTED[bug]
    source = (tmp_path / name).read_text("utf-8")
    assert source.count(right) == 1, f"{name} no longer has {right!r}: plant another bug"
    (tmp_path / name).write_text(source.replace(right, wrong), "utf-8")
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "tests/fuzz/hosted.py", str(SECONDS)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()  # of a bug, or the count at the end
    process.kill()
    process.communicate(timeout=30)
    print(f"\n{bug}: {time.monotonic() - begun:.0f} s, {first.strip()[:200]}")
    assert re.match(r"build/fuzz/hosted-\w+: \w+: ", first), first
