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
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.hostile import Honest, breaking
from support.paths import ROOT
from support.plugins import installed

from finetune_gateway import Gateway, SpecError
from finetune_gateway.backend import (
    Backend,
    BackendError,
    Capabilities,
    DataFile,
    Event,
    JobStatus,
    Snapshot,
    answers,
    seam,
    snapshots,
    stored_options,
)
from finetune_gateway.jobs.plugins import check_restorable
from finetune_gateway.tokens.masks.hosted import HostedRenderer

# What the base class alone has: for authors, and for the gateway.
HELPERS = {"key", "required_key", "http_client", "gives_quotes", "cannot_delete"}
# What may send a key, and is not called with the options of somebody else.
SENDS = {
    *("account", "check_model", "check", "connect", "models", "health", "quote", "upload"),
    *("find_upload", "find_uploads", "start", "find", "poll", "statuses", "cancel", "pause"),
    *("resume", "rewind", "checkpoint", "deploy", "end_deployment", "download", "open"),
    *("delete_file", "delete_model", "allow_changed_versions"),
}


def test_each_call_of_the_contract_passes_it() -> None:
    """A new one too: it is guarded, its answer has a check, and the guide has it."""
    members = {name: one for name, one in vars(Backend).items() if not name.startswith("_")}
    calls = {
        name: one.fget if isinstance(one, property) else one
        for name, one in members.items()
        if inspect.isfunction(one) or isinstance(one, property)
    }
    assert calls.keys() - HELPERS == {*seam.CALLS}
    assert {*seam.CALLS} - stored_options.OFFLINE == SENDS
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
    "longest_wait": -1.0,
    "chats_at_once": 0,
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


class OddRenderer(HostedRenderer):
    """Renders one row as text, and breaks at the next."""

    def preview(self, row: Any, line: int = 1) -> Any:
        return "as text" if line == 1 else 1 / 0


@pytest.mark.parametrize(("line", "text"), [(1, "rendered 'as text'"), (2, "ZeroDivisionError")])
def test_what_a_renderer_gives_and_raises_is_checked(
    home: Path, train_file: Path, line: int, text: str
) -> None:
    """Each row passes the seam, as chats and counts do."""
    made = OddRenderer("gpt-4.1-mini", limit=None)
    backend = breaking({"preview_renderer": lambda backend, honest: made})
    with pytest.raises(BackendError, match=rf"preview_renderer\(\) of backend 'hostile'.*{text}"):
        Gateway(home).preview(train_file, model="m", backend=backend, rows=[line])


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


def answering(method: str, value: Any) -> Any:
    return breaking({method: lambda backend, honest: value})


def test_what_is_above_the_users_own_is_not_deleted() -> None:
    for path in (Path.home(), Path.home().parent, Path("/")):
        with pytest.raises(BackendError, match="which holds more than one job"):
            answering("kept_files", [path]).kept_files("job-1")


def test_a_list_tells_of_no_other_job() -> None:
    runs = Snapshot(status=JobStatus.RUNNING)
    assert answering("statuses", {"a": runs, "b": runs}).statuses(["a"]) == {"a": runs}


def test_a_job_whose_events_come_in_parts_has_no_result_yet(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshots, "MAX_EVENTS", 2)
    whole = Honest().poll("job-1", None)
    events = [Event(id=str(number)) for number in range(3)]
    backend = answering("poll", whole.model_copy(update={"events": events}))
    first = backend.poll("job-1", None)
    assert (first.status, first.result, len(first.events)) == (JobStatus.RUNNING, None, 2)
    last = backend.poll("job-1", first.cursor)
    assert (last.status, last.result, len(last.events)) == (JobStatus.SUCCEEDED, whole.result, 1)


def test_a_model_that_is_trained_elsewhere_leaves_the_machine(home: Path, train_file: Path) -> None:
    """Whatever the backend says of others, and its estimate of this one."""

    class Partly(Honest):
        def capabilities(self, model: str | None = None) -> Capabilities:
            return replace(super().capabilities(model), hosted=model is not None)

        def estimate(self, *args: Any, **given: Any) -> Any:
            return super().estimate(*args).model_copy(update={"data_leaves_machine": False})

    assert Gateway(home).estimate(train_file, model="m", backend=Partly()).data_leaves_machine


def test_what_is_stored_of_options_is_what_was_checked(home: Path, train_file: Path) -> None:
    """They are not asked for again: a later answer may have a key in it."""
    key = "sk-proj-Ab12Cd34Ef56Gh78Ij90"

    class Changing(Honest):
        asked = 0

        def options(self) -> dict[str, Any]:
            self.asked += 1
            return {} if self.asked <= 2 else {"region": key}

        def identity(self) -> dict[str, Any]:
            return {}

    with Gateway(home) as gateway:
        job = gateway.submit(train_file, model="m", backend=Changing())
        assert job.record.backend_options == {}
    kept = b"".join(one.read_bytes() for one in home.rglob("*") if one.is_file())
    assert key.encode() not in kept


def test_who_chooses_that_nothing_settles_says_so_in_the_options() -> None:
    """And a name is a line that can be shown."""

    class Chosen(Honest):
        def __init__(self, settle_seconds: float = 0.0) -> None:
            super().__init__()
            self.settle_seconds = settle_seconds

        def options(self) -> dict[str, Any]:
            return {"settle_seconds": self.settle_seconds}

        def capabilities(self, model: str | None = None) -> Capabilities:
            return replace(super().capabilities(model), settle_seconds=self.settle_seconds)

    check_restorable(Chosen())
    for name in (" ", "a\nb"):
        with pytest.raises(BackendError, match="it must be a text"):
            check_restorable(type("Odd", (Honest,), {"name": name})())


def test_a_large_file_has_more_time_and_a_download_all() -> None:
    backend = breaking({})
    assert seam.limit_of(backend, "poll") == seam.CALL_SECONDS
    file = DataFile(Path("train.jsonl"), "0" * 64, 1, 20_000_000)
    assert seam.limit_of(backend, "upload", (file,)) == seam.CALL_SECONDS + 200
    assert seam.limit_of(backend, "download") is None
