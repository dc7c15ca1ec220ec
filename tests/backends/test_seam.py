"""The seam knows each call of the contract, believes nothing that the rest reads without a look,
and counts what hangs."""

from __future__ import annotations

import inspect
import logging
import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.hostile import breaking
from support.paths import ROOT
from support.plugins import installed

from finetune_gateway import Gateway, SpecError
from finetune_gateway.backend import Backend, BackendError, answers, seam

# What the base class alone has: for authors, and for the gateway.
HELPERS = {"key", "required_key", "http_client", "gives_quotes", "cannot_delete"}


def test_each_call_of_the_contract_passes_it() -> None:
    """A new one too: it is guarded, its answer has a check, and the guide has it."""
    members = {name: one for name, one in vars(Backend).items() if not name.startswith("_")}
    calls = {
        name: one.fget if isinstance(one, property) else one
        for name, one in members.items()
        if inspect.isfunction(one) or isinstance(one, property)
    }
    assert calls.keys() - HELPERS == {*seam.CALLS}
    answering = {name for name in seam.CALLS if calls[name].__annotations__["return"] != "None"}
    assert answering == answers.CHECKS.keys()
    guide = (ROOT / "docs" / "writing-a-backend.md").read_text(encoding="utf-8")
    assert {*seam.CALLS} <= {*re.findall(r"`(\w+)[(`]", guide)}


CAPABILITIES: dict[str, Any] = {
    "life_cycle": "2027-01-01",
    "no_new_jobs_after": "soon",
    "notes": 7,
    "unknown_model_reason": None,
    "fixed": {"nonsense": 1},
    "methods": frozenset({1}),
    "min_rows": None,
}


@pytest.mark.parametrize("name", CAPABILITIES)
def test_capabilities_that_cannot_be_are_named(name: str) -> None:
    """Before a list of backends or the result of a paid job ends in a TypeError."""

    def wrong(backend: Any, honest: Any) -> Any:
        return type(honest())(hosted=True, **{"methods": frozenset({"sft"}), name: value})

    value = CAPABILITIES[name]
    with pytest.raises(BackendError, match=rf"capabilities\(\) of backend 'hostile' .*{name}"):
        breaking({"capabilities": wrong}).capabilities()


def test_a_renderer_that_is_none_is_named(home: Path, train_file: Path) -> None:
    backend = breaking({"preview_renderer": lambda backend, honest: "as JSON"})
    with pytest.raises(BackendError, match=r"preview_renderer\(\) of backend 'hostile' must"):
        Gateway(home).preview(train_file, model="m", backend=backend)


def test_calls_that_hang_at_once_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is refused at once. A fork has none of their threads, and asks."""
    monkeypatch.setattr(seam, "MOST_HUNG", 3)
    release, together = threading.Event(), threading.Barrier(6)
    backend: Any = breaking({"poll": lambda backend, honest: (release.wait(60), honest())[1]})
    type(backend).call_seconds = 0.1

    def poll() -> None:
        together.wait()
        with suppress(BackendError):
            backend.poll("job-1", None)

    with ThreadPoolExecutor(6) as pool:
        for one in [pool.submit(poll) for _ in range(6)]:
            one.result()
    with pytest.raises(BackendError, match="6 earlier calls of it still hang"):
        backend.poll("job-1", None)
    child = os.fork()
    if child == 0:
        try:
            release.set()
            type(backend).call_seconds = 30.0
            os._exit(0 if backend.poll("job-1", None).status.final else 1)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    release.set()


def test_a_plug_in_that_cannot_be_closed_leaves_the_rest_closed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is named in the log, and the Gateway is closed."""
    installed(tmp_path / "site", "support.hostile:Closing", "closing")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    gateway = Gateway(home)
    gateway.backend("closing")
    with caplog.at_level(logging.WARNING, "finetune_gateway"):
        gateway.close()
    assert "close() of backend 'closing' broke: RuntimeError: no handle" in caplog.text
    with pytest.raises(SpecError, match="closed"):
        gateway.jobs()
