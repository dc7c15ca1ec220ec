"""docs/example-together: Together's own package against a server with its routes, in the contract
and in the commands."""

from __future__ import annotations

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.paths import ROOT
from support.plugins import installed
from support.together_host import BASES, TogetherHost

from finetune_gateway import (
    AuthenticationError,
    BackendError,
    BudgetError,
    Gateway,
    JobStatus,
    UnsupportedError,
)
from finetune_gateway.backend import Backend, Settings, TrainingSpec
from finetune_gateway.testing import BackendContract

pytest.importorskip("together", reason="pip install --no-deps together: see CONTRIBUTING.md")

EXAMPLE = ROOT / "docs" / "example-together"
MODEL = BASES[0]
CREATE = "POST /v1/fine-tunes"


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    """The example as a module, with short pauses."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLE))
        found: Any = importlib.import_module("ftg_together")
        patch.setattr(found, "PAUSES", (0.01, 0.02))
        yield found
    sys.modules.pop("ftg_together", None)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[TogetherHost]:
    with TogetherHost() as host:
        monkeypatch.setenv("TOGETHER_API_KEY", host.key)
        monkeypatch.setenv("TOGETHER_BASE_URL", host.root)
        yield host


@pytest.fixture
def backend(host: TogetherHost, module: Any) -> Any:
    """The example, with a create that settles at once."""

    class Quick(module.TogetherBackend):  # type: ignore[misc]
        def capabilities(self, model: str | None = None) -> Any:
            return replace(super().capabilities(model), settle_seconds=0.03)

    return Quick()


class TestTogether(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def together(cls) -> Iterator[TogetherHost]:
        with TogetherHost() as host, pytest.MonkeyPatch.context() as patch:
            patch.setenv("TOGETHER_API_KEY", host.key)
            patch.setenv("TOGETHER_BASE_URL", host.root)
            yield host

    @pytest.fixture(scope="class")
    @classmethod
    def secret(cls, together: TogetherHost) -> str:
        return together.key

    @pytest.fixture(scope="class")
    @classmethod
    def odd_job(cls, together: TogetherHost) -> str:
        together.jobs["ft-odd"] = {"id": "ft-odd", "status": "warming_up", "suffix": "another"}
        together.events["ft-odd"] = []
        return "ft-odd"

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, secret: str, settings: Settings, module: Any) -> Backend:
        backend: Backend = module.TogetherBackend()
        backend.bind(settings)
        return backend

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> TrainingSpec:
        return TrainingSpec(model=MODEL)

    @pytest.fixture(scope="class")
    @classmethod
    def params(cls) -> dict[str, Any]:
        return {"n_evals": 2, "n_checkpoints": 3}


def test_it_is_short_and_imports_the_contract_alone() -> None:
    """Below 200 lines, with Together's package and the one module for authors."""
    text = (EXAMPLE / "ftg_together.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    nodes = [*ast.walk(ast.parse(text))]
    froms = {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
    whole = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    ours = {name for name in froms | whole if name.partition(".")[0] == "finetune_gateway"}
    assert ours == {"finetune_gateway.backend"}


def test_what_is_chosen_is_what_is_sent(
    home: Path, train_file: Path, host: TogetherHost, backend: Any
) -> None:
    """Settings of ours by its names, its own ones, our id as the suffix; nothing else but its
    package's defaults."""
    job = Gateway(home).submit(
        train_file, model=MODEL, backend=backend, n_epochs=2, seed=7, lora_r=8,
        learning_rate=2e-5, batch_size="auto", backend_params={"n_evals": 3},
    )  # fmt: skip
    [sent] = host.created
    assert sent["suffix"] == job.id and sent["training_file"] == "file-1"
    assert (sent["n_epochs"], sent["n_evals"], sent["n_checkpoints"]) == (2, 3, 1)
    assert (sent["random_seed"], sent["learning_rate"]) == (7, 2e-5)
    assert (sent["training_type"]["type"], sent["training_type"]["lora_r"]) == ("Lora", 8)
    assert (sent["batch_size"], job.record.quote_usd) == ("max", Decimal("8.0"))


def test_its_states_and_figures_are_shown(
    home: Path, train_file: Path, host: TogetherHost, backend: Any
) -> None:
    """Its words beside ours, its place in line, and what it bills as the actual cost."""
    job = Gateway(home).submit(train_file, model=MODEL, backend=backend)
    seen = set[tuple[str, str]]()
    while not job.status.final:
        seen.add((job.refresh().status.value, job.record.raw_status))
    assert {("running", "uploading"), ("queued", "queued"), ("succeeded", "completed")} <= seen
    assert job.actual and job.actual.cost_usd == Decimal("2.5")
    assert len(job.events()) == len(host.events["ft-1"])
    handle = job.result(timeout=30)
    reply = handle.chat("Where is it?")
    assert (reply.text, reply.finish_reason) == ("You said: Where is it?", "stop")
    assert reply.usage.completion_tokens == 5
    assert "".join(handle.stream("Well?")).strip() == "You said: Well?"


@pytest.mark.parametrize("name", ["suffix", "metadata"])
def test_what_it_cannot_take_is_refused(
    home: Path, train_file: Path, host: TogetherHost, backend: Any, name: str
) -> None:
    """The suffix carries our id, and nothing carries metadata."""
    value: Any = {"suffix": "v2", "metadata": {"team": "support"}}[name]
    with pytest.raises(UnsupportedError, match=f"'together' does not take {name}"):
        Gateway(home).submit(train_file, model=MODEL, backend=backend, **{name: value})
    assert not host.requests


def test_odd_answers_break_no_poll(
    host: TogetherHost, backend: Any, home: Path, train_file: Path
) -> None:
    """What a figure or a status cannot be is left out; the paid job is followed to its end."""
    job = Gateway().submit(train_file, model=MODEL, backend=backend)
    [stored] = host.jobs.values()
    odd = {"token_count": "many", "total_price": "NaN", "queue_depth": -1, "status": None}
    for name, value in odd.items():
        before, stored[name] = stored.get(name), value
        record = job.refresh().record
        assert not record.status.final and record.place_in_line != -1
        stored[name] = before
    stored["status"] = "running"
    assert job.wait(30).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("when", [None, 1_780_000_000, "", "yesterday", ["x"]])
def test_odd_times_of_events_break_no_poll(
    host: TogetherHost, backend: Any, home: Path, train_file: Path, when: Any
) -> None:
    """Of no time, a number and another form than its own; nor do texts that are missing."""
    job = Gateway(home).submit(train_file, model=MODEL, backend=backend)
    host.events["ft-1"][0] |= {"created_at": when, "message": None, "type": None}
    assert job.wait(30).status is JobStatus.SUCCEEDED
    events = job.events()
    assert len(events) == len(host.events["ft-1"]) and events[0].created_at > 1_700_000_000


def test_a_price_above_the_limit_creates_nothing(
    home: Path, train_file: Path, host: TogetherHost, backend: Any
) -> None:
    """It is named for the uploaded file; the next submit finds the file there."""
    gateway = Gateway(home, monthly_usd=20)
    with pytest.raises(BudgetError, match=r"together quotes 5\.00 USD .* limit of 4\.00"):
        gateway.submit(train_file, model=MODEL, backend=backend, n_epochs=2, max_cost_usd=4)
    assert not host.created and len(host.contents) == 1
    job = gateway.submit(train_file, model=MODEL, backend=backend, n_epochs=1, max_cost_usd=4)
    assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
    assert len(host.created) == len(host.contents) == 1
    assert gateway.budget().spent_usd == Decimal("2.5")


def test_a_file_that_is_still_read_is_waited_for(
    home: Path, train_file: Path, host: TogetherHost, backend: Any
) -> None:
    """Together has no price until then; where it has none at all the estimate stands."""
    host.reads = 2
    job = Gateway(home).submit(train_file, model=MODEL, backend=backend)
    assert job.record.waits_here and not host.created
    assert job.wait(timeout=30).status is JobStatus.SUCCEEDED and len(host.created) == 1
    host.price = None
    job = Gateway(home).submit(train_file, model=BASES[1], backend=backend)
    assert job.provider_id == "ft-2" and job.record.quote_usd is None


@pytest.mark.parametrize(
    "fault",
    [
        "reset_after",
        "reset_before",
        *(pytest.param(one, marks=pytest.mark.chaos) for one in ("truncated", "html_ok")),
    ],
)
def test_a_create_without_an_answer_is_bought_once(
    home: Path, train_file: Path, host: TogetherHost, backend: Any, fault: str
) -> None:  # fmt: skip
    """The job is found by its suffix."""
    host.fault(CREATE, fault)
    job = Gateway(home).submit(train_file, model=MODEL, backend=backend)
    assert job.provider_id is None
    assert job.wait(timeout=60).status is JobStatus.SUCCEEDED and len(host.created) == 1


def test_what_its_package_refuses_ends_the_job(
    home: Path, train_file: Path, host: TogetherHost, backend: Any
) -> None:
    """Nothing was sent, so nothing is in doubt: the reason is the package's own."""
    with pytest.raises(BackendError, match="together: Requested batch size of 4 is lower"):
        Gateway(home).submit(train_file, model=MODEL, backend=backend, batch_size=4)
    assert Gateway(home).jobs()[0].status is JobStatus.FAILED and not host.created


def test_a_list_without_suffixes_settles_nothing(
    home: Path, train_file: Path, host: TogetherHost, backend: Any
) -> None:
    """Whether one of its jobs is ours only a person can tell: nothing is sent again."""
    host.keeps_suffix = False
    host.fault(CREATE, "reset_after")
    job = Gateway(home).submit(train_file, model=MODEL, backend=backend)
    intent = Gateway(home)._submitter._intent(job.record, backend, True)
    with pytest.raises(BackendError) as error:
        backend.find(intent)
    assert error.value.code == "not_settled" and error.value.maybe_applied
    assert len(host.created) == 1


def test_a_key_that_is_refused_is_shown_nowhere(
    home: Path, train_file: Path, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host repeats it in its answer."""
    monkeypatch.setenv("TOGETHER_API_KEY", "tgp-other-9f8e7d6c5b4a")
    with pytest.raises(AuthenticationError, match=r"Invalid API key: Bearer \[key\]"):
        backend.health()
    with pytest.raises(AuthenticationError) as error:
        Gateway(home).submit(train_file, model=MODEL, backend=backend)
    assert "9f8e7d6c5b4a" not in str(error.value)
    monkeypatch.delenv("TOGETHER_API_KEY")
    with pytest.raises(AuthenticationError, match="TOGETHER_API_KEY is not set"):
        Gateway(home).submit(train_file, model=MODEL, backend=backend)


def test_it_works_in_the_commands(
    ftg: Ftg, env: dict[str, str], train_file: Path, module: Any, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Installed by its entry point: models, doctor, estimate, submit, list, status, costs, chat."""
    installed(tmp_path / "site", "ftg_together:TogetherBackend", "together")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    with TogetherHost() as host:
        env |= {"TOGETHER_API_KEY": host.key, "TOGETHER_BASE_URL": host.root}
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        assert ftg("models", "--backend", "together", "-q").stdout.split() == [*BASES]
        doctor = {one["name"]: one for one in json.loads(
            ftg("doctor", "--backend", "together", "--json").stdout)["checks"]}  # fmt: skip
        assert doctor["together"]["state"] == "ok" and "accepts the key" in str(doctor["together"])
        assert "n_evals: a whole number of at least 0" in ftg("backends", "together").stdout
        words = (str(train_file), "--model", MODEL, "--backend", "together")
        for command in ("validate", "estimate"):
            done = ftg(command, *words)
            assert done.returncode == 0, done.stderr
        assert "encoding of 'Qwen/Qwen3-4B' is not known" in ftg("preview", *words).stderr
        sent = ftg("submit", *words, "--yes", "--wait", "--max-cost", "5", "--json",
                   "--backend-param", "n_evals=1")  # fmt: skip
        assert sent.returncode == 0, sent.stderr
        job = json.loads(sent.stdout)
        assert (job["status"], job["quote_usd"], job["cost_usd"]) == ("succeeded", "3.5", "2.5")
        for command in ("list", "costs"):
            assert job["id"] in ftg(command).stdout
        assert "own settings  n_evals=1" in ftg("status", job["id"]).stdout
        assert len(ftg("events", job["id"]).stdout.splitlines()) >= 6
        said = ftg("chat", job["id"], "Where is it?")
        assert said.stdout.strip() == "You said: Where is it?", said.stderr
        assert ftg("cancel", job["id"]).returncode in (0, 2)
