"""ftg doctor --service, and what its unit runs: ftg resume --all."""

from __future__ import annotations

import json
import os
import plistlib
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.chaos import dispatchers, end_workers, kill_worker, slots_taken, until, workers
from support.cli import Ftg

from finetune_gateway import Gateway, JobStatus, SpecError
from finetune_gateway.reports.service_unit import service_of
from finetune_gateway.settings.home import Settings

Rows = Callable[[int], list[dict[str, Any]]]
ODD = "my jobs 50% $HOME \\"


@pytest.fixture
def tidy(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


@pytest.mark.usefixtures("tidy")
def test_the_line_comes_back_in_its_order(
    home: Path, tiny_folder: Path, rows: Rows, ftg: Ftg
) -> None:
    """After everything was killed: by the command of the unit. A paused job stays paused, and one
    that was cancelled is not resumed."""
    with slots_taken(home):
        made = [
            Gateway().submit(
                rows(12), model=str(tiny_folder), backend="local", seed=seed, priority=priority
            )
            for seed, priority in enumerate((0, 0, 5, 9))
        ]
        first, paused, urgent, ended = made
        paused.pause(), ended.cancel()
        [dispatcher] = until(lambda: dispatchers(home), 20)
        os.kill(dispatcher, signal.SIGTERM)
        until(lambda: not dispatchers(home), 20)
        [command] = [
            line.partition("=")[2]
            for line in ftg("doctor", "--service", "-q").stdout.splitlines()
            if line.startswith("ExecStart=")
        ]
        done = subprocess.run(shlex.split(command), capture_output=True, text=True, check=False)
        assert done.returncode == 0 and len(dispatchers(home)) == 1 and not workers(home)
        places = [done.stdout.index(job.id) for job in (urgent, first)]
        assert places == sorted(places) and ended.id not in done.stdout
        assert f"Still paused: {paused.id}" in done.stderr
        assert ftg("resume", "--all", "-q").stdout.split() == [urgent.id, first.id]
        assert paused.refresh().status is JobStatus.PAUSED
        assert ended.refresh().status is JobStatus.CANCELLED
        for job in (first, paused, urgent):
            job.cancel()
        kill_worker(next(iter(dispatchers(home)), None))
    none = ftg("resume", "--all", "--json")
    assert json.loads(none.stdout) == []
    refused = ftg("resume", "latest", "--all")
    assert refused.returncode == 2 and "which job" in refused.stderr


def test_the_unit_is_what_systemd_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths with spaces, percent signs, dollars and quotes arrive as they are; no variable of this
    shell is in it but the home."""
    tool = shutil.which("systemd-analyze")
    if tool is None:
        pytest.skip("systemd-analyze is not installed")
    monkeypatch.setenv("HF_TOKEN", "hf_0123456789")
    home = tmp_path / f'{ODD} "x"'
    found = service_of(Settings(home), "linux")
    assert found.system == "systemd" and found.path.suffix == ".service"
    assert "hf_0123456789" not in found.text and "enable-linger" in found.text
    unit = tmp_path / found.path.name
    unit.write_text(found.text, "utf-8")
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [tool, "--user", "--man=no", "verify", str(unit)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and unit.name not in done.stderr, done.stderr
    # It says so where something is wrong.
    unit.write_text(found.text.replace("oneshot", "oneshoot"), "utf-8")
    done = subprocess.run(
        [tool, "--user", "--man=no", "verify", str(unit)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert "oneshoot" in done.stderr


def test_the_agent_is_what_launchd_reads(tmp_path: Path, ftg: Ftg) -> None:
    """A property list, whose comment does not end early; odd paths arrive as they are."""
    home = tmp_path / f"{ODD} <x> & --"
    found = service_of(Settings(home), "darwin")
    read = plistlib.loads(found.text.encode())
    assert found.path.name == f"{read['Label']}.plist"
    assert read["EnvironmentVariables"] == {"FTG_HOME": str(home)}
    assert read["ProgramArguments"][-2:] == ["resume", "--all"]
    assert read["RunAtLoad"] is True and read["ExitTimeOut"] >= 60
    with pytest.raises(SpecError, match="no unit file"):
        service_of(Settings(tmp_path / "a\nb"), "linux")
    said = json.loads(ftg("doctor", "--service", "--json").stdout)
    assert said["system"] in ("systemd", "launchd") and "resume" in said["text"]
    both = ftg("doctor", "--service", "--calibrate")
    assert both.returncode == 2 and "Give one of them" in both.stderr
