"""The contract of backends, run by each of ours and by the example of the docs."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.acme import Acme
from support.chaos import end_workers
from support.hosted import MODEL
from support.hostile import Honest, breaking
from support.paths import ROOT
from support.provider import Provider
from support.rows import chat_rows

from finetune_gateway.backend import (
    Backend,
    Capabilities,
    DataFile,
    Intent,
    Settings,
    TrainingSpec,
)
from finetune_gateway.backends.fake import FakeBackend
from finetune_gateway.backends.local.backend import LocalBackend
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import BackendError, GatewayError, SpecError
from finetune_gateway.events import Checkpoint, Event, JobStatus, Result, Snapshot
from finetune_gateway.testing import BackendContract, FinishedJob
from finetune_gateway.testing.finished_job import data_file

KEY_VARIABLE = "CONTRACT_KEY"
FILE = DataFile(Path("none.jsonl"), "0" * 64, 10, 100)
INTENT_OF = partial(Intent, spec=TrainingSpec(model=MODEL), train=FILE)


class TestFake(BackendContract):
    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, settings: Settings) -> Backend:
        backend = FakeBackend()
        backend.bind(settings)
        return backend


class TestRecall(BackendContract):
    """The example of docs/writing-a-backend.md."""

    ends_at_once = True

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, settings: Settings) -> Backend:
        path = ROOT / "docs" / "example-backend" / "ftg_recall.py"
        spec = importlib.util.spec_from_file_location("ftg_recall", path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        backend: Backend = module.RecallBackend()
        backend.bind(settings)
        return backend


class TestOpenAI(BackendContract):
    """Against a server that speaks the wire contract; each poll takes a job one stage further."""

    @pytest.fixture(scope="class")
    @classmethod
    def provider(cls) -> Iterator[Provider]:
        with Provider() as provider:
            yield provider

    @pytest.fixture(scope="class")
    @classmethod
    def secret(cls, provider: Provider) -> Iterator[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(KEY_VARIABLE, provider.api_key)
            yield provider.api_key

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, provider: Provider, secret: str, settings: Settings) -> Backend:
        backend = OpenAIBackend(
            base_url=provider.url, api_key_env=KEY_VARIABLE, poll_seconds=0.01, request_timeout=5.0
        )
        backend.bind(settings)
        return backend

    @pytest.fixture(scope="class")
    @classmethod
    def keyless(cls, provider: Provider) -> Backend:
        return OpenAIBackend(base_url=provider.url, api_key_env="NO_SUCH_KEY")

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> TrainingSpec:
        return TrainingSpec(model=MODEL)

    @pytest.fixture(scope="class")
    @classmethod
    def refused_spec(cls) -> TrainingSpec:
        return TrainingSpec(model=MODEL, method="reinforcement")


class TestLocal(BackendContract):
    """Trains a small model, in a process of its own."""

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, settings: Settings) -> Iterator[Backend]:
        backend = LocalBackend()
        backend.bind(settings)
        yield backend
        end_workers(settings.home)

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls, tiny_folder: Path) -> TrainingSpec:
        return TrainingSpec(model=str(tiny_folder), max_steps=2, batch_size=2, lora_r=4)

    @pytest.fixture(scope="class")
    @classmethod
    def refused_spec(cls, tmp_path_factory: pytest.TempPathFactory) -> TrainingSpec:
        return TrainingSpec(model=str(tmp_path_factory.mktemp("not-a-model")))


class Forgetful(FakeBackend):
    """Ends a job that has ended a second time, and says other events on each poll."""

    def __init__(self) -> None:
        super().__init__()
        self.cancelled = False
        self.polls = 0

    def cancel(self, provider_id: str) -> None:
        self.cancelled = True

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        self.polls += 1
        status = JobStatus.CANCELLED if self.cancelled else JobStatus.SUCCEEDED
        event = Event(id=f"event-{self.polls}", message="Done.")
        return Snapshot(status=status, events=[event], cursor="1")


class Confused(FakeBackend):
    """Finds the newest job whose id contains the wanted one, reports its checkpoints once, and has
    its key in an event."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[str] = []
        self.reported: set[str | None] = set()

    def find(self, intent: Intent) -> str | None:
        return next((f"fake-{one}" for one in reversed(self.jobs) if intent.job_id in one), None)

    def poll(self, provider_id: str, cursor: str | None) -> Snapshot:
        points = [] if cursor in self.reported else [Checkpoint(id="c", step=1, model="m")]
        self.reported.add(cursor)
        event = Event(id="event", message="Connected with sk-secret.")
        result = Result(kind="hosted", model="m")
        return Snapshot(
            status=JobStatus.SUCCEEDED, events=[event], checkpoints=points, result=result
        )


def test_the_contract_catches_a_job_taken_for_another() -> None:
    """A lookup by a part of the id, and one that gives the newest job."""
    backend = Confused()
    backend.jobs = ["ftg-contract1", "ftg-contract12"]
    job = FinishedJob("ftg-contract1", "fake-ftg-contract1", [(None, backend.poll("x", None))])
    contract = BackendContract()
    with pytest.raises(AssertionError):
        contract.test_two_jobs_are_told_apart(
            backend, job, ("ftg-contract12", "fake-x2"), INTENT_OF
        )
    with pytest.raises(AssertionError):
        contract.test_an_unknown_job_is_not_found(backend, job, INTENT_OF, True)


def test_a_host_may_keep_the_jobs_of_an_earlier_run() -> None:
    """No id of ours is sent twice: the second run would find the job of the first."""
    backend, spec = Honest(), TrainingSpec(model=MODEL)
    for _ in range(2):
        BackendContract._run(backend, spec, FILE)
    assert len(set(backend.market.bought)) == 2


def test_a_refused_spec_is_named_before_any_job() -> None:
    """With the fixture that an author overrides, and why."""

    def refuse(*_: Any) -> None:
        raise SpecError("any-model names no version.")

    backend = breaking({"check": refuse})
    with pytest.raises(pytest.fail.Exception, match="names no version.*fixture 'spec'"):
        BackendContract._run(backend, TrainingSpec(model="any-model"), FILE)
    assert not backend.market.bought


def test_the_contract_catches_checkpoints_reported_once_and_keys() -> None:
    """A repeated poll without the checkpoint, and an event with the key in it."""
    backend = Confused()
    job = FinishedJob("ftg-1", "fake-ftg-1", [(None, backend.poll("x", None))])
    contract = BackendContract()
    with pytest.raises(AssertionError):
        contract.test_a_poll_is_repeatable(backend, job)
    with pytest.raises(AssertionError):
        contract.test_polls_hold_no_secret(job, "sk-secret")


def test_the_contract_catches_what_breaks_it() -> None:
    """Events with other ids on a second poll, and an ended job that is cancelled."""
    backend = Forgetful()
    job = FinishedJob("ftg-1", "fake-ftg-1", [(None, backend.poll("fake-ftg-1", None))])
    with pytest.raises(AssertionError):
        BackendContract().test_a_poll_is_repeatable(backend, job)
    with pytest.raises(AssertionError):
        BackendContract().test_cancel_leaves_an_ended_job(backend, job)
    twice = FinishedJob("ftg-1", "fake-ftg-1", job.polls * 2)
    with pytest.raises(AssertionError):
        BackendContract().test_events_have_ids_of_their_own(twice)


class Declaring(FakeBackend):
    """Declares these rules."""

    def __init__(self, rules: Any) -> None:
        super().__init__()
        self.rules = rules

    def capabilities(self, model: str | None = None) -> Capabilities:
        return replace(super().capabilities(model), rules=self.rules)


@pytest.mark.parametrize(
    "rules",
    ["opennai", {"no_such_rule": "off"}, {"no_user": "fatal"}, {"json_array_not_jsonl": "off"}],
)
def test_the_contract_catches_rules_that_cannot_be(rules: Any) -> None:
    """An unknown family, rule or severity, and a rule that is never off: the backend is named."""
    spec = TrainingSpec(model="m")
    with pytest.raises(GatewayError, match="backend 'fake'"):
        BackendContract().test_the_rules_it_declares_accept_its_rows(Declaring(rules), spec, [])


def test_the_contract_catches_rules_that_refuse_the_rows_of_its_tests() -> None:
    """The assistant speaks first, which is a warning unless the backend says more."""
    spec, contract = TrainingSpec(model="m"), BackendContract()
    user, assistant = chat_rows(1)[0]["messages"]
    rows = [{"messages": [assistant, {**user, "content": f"{n}?"}, assistant]} for n in range(12)]
    contract.test_the_rules_it_declares_accept_its_rows(Declaring("common"), spec, rows)
    with pytest.raises(AssertionError):
        strict = Declaring({"assistant_first": "error"})
        contract.test_the_rules_it_declares_accept_its_rows(strict, spec, rows)


class Gossip(FakeBackend):
    """Tells of jobs that nobody asked for, and of ends before they come."""

    def statuses(self, provider_ids: Collection[str]) -> dict[str, Snapshot]:
        return {one: Snapshot(status=JobStatus.FAILED) for one in [*provider_ids, "another"]}


def test_the_contract_catches_statuses_that_are_not_true() -> None:
    """A job that was not asked for, and one that has not ended."""
    backend = Gossip()
    job = FinishedJob("ftg-1", "fake-ftg-1", [(None, backend.poll("fake-ftg-1", None))])
    with pytest.raises(AssertionError):
        BackendContract().test_statuses_are_those_of_polls(backend, job, ("ftg-2", "fake-ftg-2"))
    with pytest.raises(AssertionError):
        BackendContract().test_a_job_that_is_not_there_hides_no_other(backend, job)


class TestHonest(BackendContract):
    """A hosted plug-in in memory, with a job in a state that nobody knows."""

    ends_at_once = True

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, settings: Settings) -> Backend:
        return Honest()

    @pytest.fixture(scope="class")
    @classmethod
    def odd_job(cls) -> str:
        return "job-warming-up"


class TestAcme(BackendContract):
    """A hosted plug-in with settings of its own, which refuses some of ours."""

    ends_at_once = True

    @pytest.fixture(scope="class")
    @classmethod
    def backend(cls, settings: Settings) -> Backend:
        return Acme()

    @pytest.fixture(scope="class")
    @classmethod
    def params(cls) -> dict[str, Any]:
        return {"warmup_steps": 3, "schedule": "cosine", "layers": ["a"], "grade": "fast"}


@pytest.mark.parametrize("name", ["options", "capabilities"])
def test_the_contract_catches_what_no_job_may_be_bought_with(name: str) -> None:
    """Options that its constructor does not take, and a host without ``settle_seconds``."""
    hasty = replace(Honest().capabilities(), settle_seconds=0.0)
    answers: dict[str, Any] = {"options": {"region": "eu"}, "capabilities": hasty}
    backend = breaking({name: lambda backend, honest: answers[name]})
    with pytest.raises(BackendError, match=rf"{name}\(\)"):
        BackendContract().test_what_is_stored_builds_it_again(backend)


@pytest.mark.parametrize("name", ["identity", "place", "account"])
def test_the_contract_catches_who_is_another_each_time(name: str) -> None:
    """Also where it counts its own calls, so that two of its objects agree."""

    def another(backend: Any, honest: Any) -> Any:
        backend.asked = getattr(backend, "asked", 0) + 1
        return f"account-{backend.asked}" if name == "account" else {"at": backend.asked}

    with pytest.raises(AssertionError, match=rf"{name}\(\) differs"):
        BackendContract().test_whose_it_is_never_changes(breaking({name: another}))


def test_the_contract_catches_refusals_that_are_none() -> None:
    """A word that no setting has, and metadata that it takes too."""
    for limits in ({"refuses": frozenset({"lora_r"})}, {"refuses": {"metadata"},
                   "takes_metadata": True}):  # fmt: skip
        changed = replace(Honest().capabilities(), **limits)
        backend = breaking({"capabilities": lambda backend, honest, changed=changed: changed})
        with pytest.raises(BackendError, match=r"capabilities\(\) of backend 'hostile'"):
            BackendContract().test_what_it_refuses_is_refused_in_words(
                backend, TrainingSpec(model="m")
            )


def test_the_contract_catches_a_second_job_events_that_are_no_json_and_a_call_that_hangs() -> None:
    """Another job with the same tag, NaN in the data of an event, and a poll that waits."""
    events = [Event(id="1", data={"loss": float("nan")})]
    hangs, contract = threading.Event(), BackendContract()
    backend = breaking(
        {
            "find": lambda backend, honest: "job-second",
            "poll": lambda backend, honest: honest().model_copy(update={"events": events}),
            "options": lambda backend, honest: hangs.wait(60) and {},
        }
    )
    job = FinishedJob("ftg-1", "job-ftg-1", [(None, backend.poll("job-ftg-1", None))])
    with pytest.raises(AssertionError):
        contract.test_a_job_is_started_once(backend, job, INTENT_OF)
    with pytest.raises(ValueError, match="JSON"):
        contract.test_events_are_plain_json(backend, job)
    contract.call_seconds = 0.05
    spec, file = TrainingSpec(model=MODEL), ROOT / "examples" / "shop.jsonl"
    with pytest.raises(BackendError, match=r"options\(\) of 'hostile' gave no answer within"):
        contract.test_no_call_takes_long(backend, spec, data_file(file, 100), job, INTENT_OF)
    hangs.set()
