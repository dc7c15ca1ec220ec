"""`make peers` without the peers: how they would be installed, and what is said when one fails."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "bench"


@pytest.fixture(autouse=True)
def bench_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))


def test_a_peer_is_installed_from_the_index_of_pip() -> None:
    """uv gets the index that pip has, and a variable comes before a file."""
    from _peer_setup import as_uv_settings

    listed = [
        ":env:.find-links='/wheels /more'",
        "global.constraint='/one.txt\\n/two.txt'",
        "global.find-links='/elsewhere'",
        "global.timeout='60'",
        "user.index-url='https://index.example/simple'",
    ]
    assert as_uv_settings(listed) == {
        "UV_CONSTRAINT": "/one.txt /two.txt",
        "UV_DEFAULT_INDEX": "https://index.example/simple",
        "UV_FIND_LINKS": "/wheels,/more",
    }


def test_a_peer_that_fails_is_a_line_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    """Its exception in its own words, without addresses; it is not tried again."""
    from _common import Bench, run
    from _peer_setup import attempt

    reasons: dict[str, str] = {}
    fails = "raise RuntimeError('no GPU:\\nsee https://name:word@index.example/x')"
    for code in (fails, "print('a second run')"):
        assert attempt(reasons, "one", lambda code=code: run([sys.executable, "-c", code])) is None  # type: ignore[misc]  # of the default
    attempt(reasons, "two", lambda: run([sys.executable, "-c", "import os; os.abort()"]))
    attempt(reasons, "three", lambda: run([sys.executable, "-c", "exit('unsolvable')"]))
    assert reasons == {
        "one": "RuntimeError: no GPU: see ...",
        "two": "exit -6",
        "three": "unsolvable",
    }
    bench = Bench("peers", {"one": "1.0"})
    bench.unmeasured("one", reasons["one"])
    [line] = map(json.loads, capsys.readouterr().out.splitlines())
    assert line == bench.figures[0]
    assert line["unmeasured"] == reasons["one"] and line["versions"] == {"one": "1.0"}
    assert bench.end(None) == 0


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_all_benches_together_install_nothing() -> None:
    """`make bench` leaves out the one that installs peers; by name it can be had."""
    for words, there in ((["bench"], False), (["bench", "NAME=peers"], True)):
        command = ["make", "--dry-run", "--no-print-directory", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=BENCH.parent)
        files = re.search(r'files="([^"]*)"', done.stdout)
        assert files and ("bench/peers.py" in files[1].split()) is there
        assert "bench/help_time.py" in files[1] or there
