"""What comes through the seam: each field of each answer, with values of every wrong kind. Either
the error says which method, which field and what is due, or the answer is made of plain values."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import fields, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from support.hostile import Honest, breaking
from support.wrong_kinds import (
    TODAY,
    WRONG,
    Lying,
    Reached,
    containers,
    fields_below,
    not_plain,
    variants,
)

from finetune_gateway import Gateway, GatewayError
from finetune_gateway.backend import (
    Artifact,
    BackendError,
    Capabilities,
    Checkpoint,
    DataFile,
    Estimate,
    Event,
    HandleData,
    Health,
    HostedCounter,
    JobStatus,
    Range,
    Result,
    Snapshot,
    TokenStats,
    TrainingSpec,
)
from finetune_gateway.backend.answers import CHECKS
from finetune_gateway.estimation.estimate import MemoryParts, RowCounts
from finetune_gateway.estimation.price_table import Price
from finetune_gateway.estimation.profiles import LifeCycle, Only
from finetune_gateway.tokens.masks.hosted import HostedRenderer
from finetune_gateway.tokens.stats import RoleCount

USD = Range(low=Decimal(1), expected=Decimal(2), high=Decimal(3))
COUNT = Range(low=1, expected=2, high=3)
LIFE = LifeCycle(only=(Only(who="those", since=TODAY),), as_of=TODAY, source="https://acme.example")
PRICE = Price(
    backend="hostile", model="m", unit="gpu_hour", usd=Decimal(2), as_of=TODAY, source="https://a.b"
)
TOKENS = TokenStats(encoding="o200k_base", exact=True, roles={"user": RoleCount(1, 2)})
RESULT = Result(
    kind="hosted",
    model="tuned",
    chat_template_kwargs={"think": True},
    metrics={"loss": 0.5},
    artifacts=[Artifact(name="adapter_model.safetensors", kind="adapter", bytes=3)],
)
SNAPSHOT = Snapshot(
    status=JobStatus.SUCCEEDED,
    events=[Event(id="1", data={"step": 1})],
    checkpoints=[Checkpoint(id="1", step=1, model="tuned:1", metrics={"loss": 1.0})],
    result=RESULT,
)
ESTIMATE = Estimate(
    backend="hostile",
    model="m",
    method="sft",
    n_epochs=1,
    n_epochs_rule="once",
    rows=RowCounts(trained=3),
    tokens=TOKENS,
    billed_tokens=COUNT,
    cost_usd=USD,
    seconds=Range(low=1.0, expected=2.0, high=3.0),
    memory_parts=MemoryParts(**dict.fromkeys(MemoryParts.model_fields, 1)),
    prices=[PRICE],
    life_cycle=LIFE,
    data_leaves_machine=True,
)
CAPABILITIES = Capabilities(
    hosted=True,
    methods=frozenset({"sft"}),
    rules={"extends": "openai"},
    fixed={"packing": False},
    life_cycle=LIFE,
    settle_seconds=0.01,
)
FILE = DataFile(Path("train.jsonl"), "0" * 64, 1, 100)
SPEC = TrainingSpec(model="m", n_epochs=2)
HANDLE = HandleData(kind="hosted", model="tuned", base_model="m", backend="hostile")
JSON = {"region": "eu", "sizes": [1, 2.5, None, True, {"a": "b"}]}
# By method: what it is called with, and an answer that is right.
ANSWERS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "capabilities": ((), CAPABILITIES),
    **dict.fromkeys(("options", "identity", "place"), ((), JSON)),
    "account": ((), "account-1"),
    "display_name": ((), "Acme"),
    "resolve": ((TrainingSpec(model="m"),), SPEC),
    "counter": ((SPEC,), HostedCounter("m")),
    "preview_renderer": ((SPEC,), HostedRenderer("gpt-4.1-mini", limit=None)),
    "estimate": ((SPEC, TOKENS), ESTIMATE),
    "models": ((), ["m", "n"]),
    "health": ((), Health(ok=True, detail="It answers.", latency_s=0.1)),
    "upload": ((FILE,), "file-1"),
    "upload_lifetime": ((), 3600.0),
    "find_upload": ((FILE,), "file-1"),
    "find_uploads": ((FILE, 0.0, 1.0), ["file-1"]),
    "quote": ((SPEC, FILE, None), Decimal(3)),
    "start": (("ftg-1", SPEC, FILE, None), "job-1"),
    "find": ((None,), "job-1"),
    "poll": (("job-1", None), SNAPSHOT),
    "statuses": ((["job-1"],), {"job-1": SNAPSHOT}),
    "checkpoint": (("job-1", SNAPSHOT.checkpoints[0]), RESULT),
    "deploy": ((HANDLE, "name"), "tuned"),
    "deployment_price": ((HANDLE,), PRICE),
    "end_deployment": ((HANDLE, "name"), True),
    "open": ((HANDLE,), Honest().open(HANDLE)),
    "log_path": (("job-1",), Path("/tmp/log")),
    "kept_files": (("job-1",), [Path("/tmp/job-1")]),
}
OBJECTS = {"counter", "preview_renderer", "open"}  # asked many times: see the tests of each


class Answered:
    """Asks a plug-in for one of its answers, whatever that is now."""

    def __init__(self, method: str) -> None:
        self.method, self.value = method, None
        answer: Any = lambda backend, *args, **kwargs: self.value  # noqa: E731
        answer = property(answer) if method == "display_name" else answer
        kind = type("Hostile", (Honest,), {method: answer, "__module__": "ftg_hostile"})
        self.backend: Any = kind()

    def __call__(self, value: Any) -> Any:
        """What the rest of the package gets of this answer."""
        self.value = value
        found = getattr(self.backend, self.method)
        return found if self.method == "display_name" else found(*ANSWERS[self.method][0])


def test_each_answer_of_the_contract_is_here() -> None:
    assert ANSWERS.keys() == CHECKS.keys()


@pytest.mark.parametrize("method", sorted(CHECKS))
def test_an_answer_is_plain_or_an_error_that_names_its_field(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The right one is as it was, shares nothing with what was given, and each field of it that is
    of another kind is named. A new field is covered by itself; a new class needs an example."""
    monkeypatch.setattr("finetune_gateway.backend.seam.limit_of", lambda *_: None)  # in this thread
    for variable in os.environ:  # each text is searched for the keys in them
        monkeypatch.delenv(variable)
    ask, (_, right) = Answered(method), ANSWERS[method]
    reached: Reached = set()
    if method not in OBJECTS:
        found = ask(right)
        assert repr(found) == repr(right) and not [*not_plain(found)]
        assert not containers(found) & containers(right)
    said = []
    for case, wrong in WRONG.items():
        table = [("", wrong)]
        table += [] if method in OBJECTS else variants(right, "", wrong, reached)
        said += [problem for one in table if (problem := problem_of(ask, case, *one))]
    assert not said, "\n".join(said)
    assert reached == fields_below(type(right), set()) or method in {*OBJECTS, "statuses"}


def problem_of(ask: Answered, case: str, path: str, value: Any) -> str:
    """What is wrong with what comes of an answer: empty for plain values, and for an error that
    names the backend, the method, the field and, in what buys, its doubt."""
    try:
        found = ask(value)
    except BackendError as exc:
        name = re.split(r"[.\[]", path.rstrip("[]0123456789"))[-1]
        named = f"{ask.method}() of backend 'hostile' " in exc.message and name in exc.message
        doubtful = exc.maybe_applied == (ask.method in ("start", "upload", "deploy"))
        return "" if named and doubtful else f"{path} = {case}: {exc.message}"
    except Exception as exc:
        return f"{path} = {case}: {exc!r}"
    odd = [] if ask.method in OBJECTS else [*not_plain(found)]
    return f"{path} = {case}: {odd}" if odd else ""


# -- never bought twice ---------------------------------------------------------------------


@pytest.mark.parametrize("field", [one.name for one in fields(Capabilities)])
def test_capabilities_of_wrong_kinds_buy_nothing_twice(
    home: Path, train_file: Path, field: str
) -> None:
    """A submit, a wait and the lists that show it: an error in words, or a job that was bought
    once."""
    for case in ("None", "a list of None", "explodes"):

        def odd(backend: Any, honest: Any, value: Any = WRONG[case]) -> Any:
            return replace(honest(), **{field: value})

        backend: Any = breaking({"capabilities": odd})
        with Gateway(home) as gateway:
            with suppress(GatewayError):
                gateway.submit(train_file, model="m", backend=backend, again=True).wait(timeout=30)
            gateway.jobs()
        assert backend.market.starts <= 1


def test_an_id_that_lies_is_kept_as_it_is(home: Path, train_file: Path) -> None:
    """It says that it equals everything, and that it is another text."""

    def start(backend: Any, honest: Any) -> Any:
        return Lying(honest())

    backend: Any = breaking({"start": start})
    job = Gateway(home).submit(train_file, model="m", backend=backend)
    assert job.wait(timeout=30).status is JobStatus.SUCCEEDED
    stored = Gateway(home).job(job.id).provider_id
    assert type(stored) is str and stored == f"job-{job.id}" and backend.market.starts == 1


def test_options_that_change_later_are_as_they_were() -> None:
    """What a plug-in does to its own dict afterwards changes no job."""

    class Keeping(Honest):
        name = "keeping"

        def __init__(self, regions: Any = ()) -> None:
            super().__init__()
            self.kept = {"regions": [*regions]}

        def options(self) -> dict[str, Any]:
            return self.kept

    backend = Keeping(["eu"])
    found = backend.options()
    backend.kept["regions"].append("us")
    backend.kept["zone"] = [1]
    assert found == {"regions": ["eu"]}
