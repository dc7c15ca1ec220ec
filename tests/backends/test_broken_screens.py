"""A plug-in that hangs or breaks has its error in its own line, and the others have theirs."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import broken_plugins
from support.broken_plugins import SAID
from support.cli import Ftg
from support.hostile import breaking, polled_until

from finetune_gateway import FakeBackend, Gateway, JobStatus
from finetune_gateway.backend import seam
from finetune_gateway.reports.machine_checks import check_backend


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Plug-ins that spoil what they can, and a fifth of a second for each of their calls."""
    broken_plugins.installed(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(seam, "SCREEN_SECONDS", 0.2)
    yield
    if module := sys.modules.pop("ftg_broken", None):
        module.never.set()


@pytest.mark.usefixtures("broken")
def test_the_list_of_backends_has_a_line_for_each(ftg: Ftg) -> None:
    """What is wrong with a broken one is said there; the good one and ours are as ever."""
    done = ftg("backends", "--json")
    assert done.returncode == 0, done.stderr
    listed = {one["name"]: one for one in json.loads(done.stdout)}
    usable = {name for name, one in listed.items() if one["usable"]}
    assert usable >= {"good", "openai", "local", "fake"} and not usable & SAID.keys()
    for name, said in SAID.items():
        assert said in listed[name]["error"], listed[name]
        assert name in listed[name]["error"]


@pytest.mark.usefixtures("broken")
def test_an_estimate_of_several_has_a_figure_for_the_good_ones(
    ftg: Ftg, train_file: Path, home: Path
) -> None:
    """Each broken one is an option with an error."""
    names = ["good", *SAID, "fake"]
    options = {one.backend: one for one in Gateway(home).estimate(
        train_file, model=["m"], backend=names)}  # fmt: skip
    assert {name for name, one in options.items() if one.estimate} == {"good", "fake"}
    for name in names[1:-1]:
        assert SAID[name] in str(options[name].error)


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("name", ["hangs", "quits", "interrupts", "good"])
def test_doctor_says_what_is_wrong_with_one(ftg: Ftg, name: str) -> None:
    """The checks of the machine are there too."""
    done = ftg("doctor", "--backend", name, "--json")
    checks = {one["name"]: one for one in json.loads(done.stdout)["checks"]}
    assert checks[name]["state"] == ("ok" if name == "good" else "error")
    assert SAID.get(name, "can be loaded") in json.dumps(checks[name])
    assert len(checks) > 5


@pytest.mark.usefixtures("broken")
def test_doctor_says_that_a_plugin_finds_no_key(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has nothing to ask its host, and knows its key by ``account``."""
    check = check_backend("keyless")
    assert check.state == "error" and "no key" in check.found
    monkeypatch.setenv("KEYLESS_API_KEY", "0123456789")
    assert check_backend("keyless").state == "ok"


@pytest.mark.parametrize("method", ["poll", "account", "capabilities"])
def test_jobs_of_others_are_up_to_date(
    home: Path, train_file: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Two jobs of a plug-in that hangs are shown as last seen, with one error; those of another
    backend have moved."""
    monkeypatch.setattr(seam, "SCREEN_SECONDS", 0.2)
    gateway = Gateway(home)
    backend, release = polled_until(method)
    stuck = [gateway.submit(train_file, model=f"m{n}", backend=backend) for n in range(2)]
    other = gateway.submit(train_file, model="m", backend=FakeBackend())
    release.clear()
    try:
        failures = gateway.refresh([*stuck, other, *stuck[:1]])
    finally:
        release.set()
    said = {str(one.error) for one in failures}
    assert len(said) == 1 and f"{method}() of backend 'hostile' gave no answer within" in said.pop()
    assert {job.id for one in failures for job in one.jobs} == {job.id for job in stuck}
    assert other.record.polled_at is not None and stuck[0].status is not JobStatus.SUCCEEDED


def test_a_broken_answer_spoils_no_other(home: Path, train_file: Path) -> None:
    """Capabilities that broke after the submit: the other job is polled, the broken one not."""
    gateway = Gateway(home)
    backend = breaking({"capabilities": lambda backend, honest: None})
    type(backend).repaired = True  # type: ignore[attr-defined]
    job = gateway.submit(train_file, model="m", backend=backend)
    type(backend).repaired = False  # type: ignore[attr-defined]
    other = gateway.submit(train_file, model="m", backend=FakeBackend())
    [failure] = gateway.refresh([job, other])
    assert "capabilities() of backend 'hostile' must return" in str(failure.error)
    assert failure.jobs == [job] and other.record.polled_at is not None
