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

SECONDS = 300  # alone on a core it takes a few, of a host's answers some hundreds
ROOM = "finetune_gateway/backends/openai"
# Where, what is right, what is wrong, and how the fuzzer says it.
PLANTED = {
    "any digits are a number of seconds": (
        f"{ROOM}/retries.py",
        "if text and NUMBER.fullmatch(text) else None",
        "if text and text.isdigit() else None",
        ".*ValueError: .*could not convert string to float",
    ),
    "what a host says is shown as it is": (
        "finetune_gateway/text/cleaning.py",
        "return _STEERING.sub(lambda found: _escape(ord(found[0])), text)",
        "return text",
        "Wrong: .*a text that steers",
    ),
    "halves of characters are kept": (
        "finetune_gateway/text/cleaning.py",
        'return joined.encode("utf-8", "backslashreplace").decode()',
        "return joined",
        ".*UnicodeEncodeError: ",
    ),
    "a key that a host echoes is kept": (
        f"{ROOM}/wire.py",
        "has_key = call.key and holds(raw, call.key)",
        "has_key = False",
        "Wrong: .*a text with the key",
    ),
    "any value is the id of a file": (
        f"{ROOM}/finding.py",
        'named = ((job, text_of(job.get("training_file")) or "") for job in jobs)',
        'named = ((job, job.get("training_file") or "") for job in jobs)',
        ".*TypeError: .*expected string",
    ),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_its_place_is_there(bug: str) -> None:
    """What a bug is planted in stands once in the package, so that ``make chaos`` can plant it."""
    name, right, wrong, _ = PLANTED[bug]
    assert (ROOT / name).read_text("utf-8").count(right) == 1
    assert right != wrong


@pytest.mark.chaos
@pytest.mark.timeout(500)
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(tmp_path: Path, bug: str) -> None:
    """Within a bound of time, by an exception that is none of ours and comes of that bug."""
    for folder in ("finetune_gateway", "tests"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=ignored)
    name, right, wrong, said = PLANTED[bug]
    source = (tmp_path / name).read_text("utf-8")
    assert source.count(right) == 1, f"{name} no longer has {right!r}: plant another bug"
    (tmp_path / name).write_text(source.replace(right, wrong), "utf-8")
    begun = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "tests/fuzz/hosted.py", str(SECONDS), "3"],
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
    assert re.match(rf"build/fuzz/hosted-\w+: {said}", first), first
