"""Results and errors go to other processes, and JSON to other versions, with all they have."""

from __future__ import annotations

import copy
import inspect
import json
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from support.rows import chat_rows

import finetune_gateway as gateway
from finetune_gateway import (
    FakeBackend,
    Finding,
    Gateway,
    ModelHandle,
    Report,
    TrainingSpec,
    aio,
    errors,
)
from finetune_gateway.backend import Backend
from finetune_gateway.backends.openai.backend import OpenAIBackend
from finetune_gateway.errors import BackendError, GatewayError, SpecError, UnsupportedError
from finetune_gateway.jobs.planning import Option, Plan
from finetune_gateway.tokens.masks.preview import Preview

KEY = "sk-proj-" + "pickled0" * 6
MODEL = "gpt-4.1-mini-2025-04-14"
ROWS = chat_rows(12)
PROTOCOLS = range(2, pickle.HIGHEST_PROTOCOL + 1)


def results(home: Path) -> dict[str, Any]:
    """One of each result, of a backend that was given a key by value."""
    place = Gateway(home)
    hosted: Backend = OpenAIBackend(api_key=KEY)
    job = place.submit(ROWS, model="any", backend=FakeBackend())
    handle = job.result()
    handle.attach(hosted)
    return {
        "Estimate": place.estimate(ROWS, model=MODEL, backend=hosted),
        "Option": place.estimate(ROWS, model=[MODEL], backend=[hosted])[0],
        "Plan": place.plan(ROWS, model=MODEL, backend=hosted),
        "Report": place.validate(ROWS, model=MODEL),
        "TrainingSpec": TrainingSpec.build(model="a", n_epochs=3, method="supervised"),
        "ModelHandle": handle,
        "Preview": place.preview(ROWS, model=MODEL)[0],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return results(tmp_path_factory.mktemp("results"))


def test_what_belongs_to_its_process_says_what_to_send(tmp_path: Path) -> None:
    """A Gateway and a job hold connections and keys."""
    place = Gateway(tmp_path, keys={"openai": KEY})
    awaited = aio.Gateway.over(place)
    for value in (place, place.submit(ROWS, model="any", backend=FakeBackend()), awaited):
        with pytest.raises(SpecError, match=r"Send the home folder and job\.id") as caught:
            pickle.dumps(value)
        assert KEY not in str(caught.value)


def facts(value: Any) -> Any:
    """What a result says, by which two are equal."""
    if isinstance(value, Plan):
        names = [one.name for one in fields(value) if one.name not in ("backend", "files", "train")]
        rows = [row.data for row in value.train.rows()]
        return rows, value.backend.options(), [getattr(value, name) for name in names]
    return value.model_dump() if isinstance(value, BaseModel) else value


KINDS = ("Estimate", "Option", "Plan", "Report", "TrainingSpec", "ModelHandle", "Preview")


@pytest.mark.parametrize("kind", KINDS)
def test_every_result_goes_there_and_back(kind: str, made: dict[str, Any]) -> None:
    value = made[kind]
    for protocol in PROTOCOLS:
        raw = pickle.dumps(value, protocol)
        assert KEY.encode() not in raw
        back = pickle.loads(raw)
        assert facts(back) == facts(value)
        assert repr(back) == repr(value)
    assert facts(copy.deepcopy(value)) == facts(value)


def test_a_plan_and_a_handle_of_a_pickle_have_no_key(made: dict[str, Any]) -> None:
    plan, handle = pickle.loads(pickle.dumps((made["Plan"], made["ModelHandle"])))
    assert plan.backend.restored
    assert KEY not in repr(vars(plan.backend))
    assert handle._backend is None
    same = copy.deepcopy(made["Plan"]), copy.deepcopy(made["ModelHandle"])
    assert same[0].backend is made["Plan"].backend  # of this process: it may go on asking
    assert same[1]._backend is made["ModelHandle"]._backend
    handle._allows_changed_base = True
    assert copy.deepcopy(handle).allows_changed_base
    assert not pickle.loads(pickle.dumps(handle)).allows_changed_base  # no file can say it


# -- errors ------------------------------------------------------------------------------------


def every_error() -> list[type[GatewayError]]:
    found = [GatewayError]
    for kind in found:
        found += [one for one in kind.__subclasses__() if one not in found]
    return [one for one in found if one.__module__.startswith("finetune_gateway")]


def one_of(kind: type[GatewayError], report: Report) -> GatewayError:
    """An error with a value for whatever its class takes."""
    values: dict[str, Any] = {
        "message": "It is so.", "hint": "Do this.", "report": report, "found": {"a.jsonl": []},
        "host": "openai", "backend": "openai", "option": "seed", "feature": "It", "extra": "local",
        "status_code": 429, "code": "x", "maybe_applied": True, "retryable": True,
        "retry_after": 1.5, "not_there": True, "param": "model", "variable": "A_KEY",
        "url": "https://host", "scope": "api.model.read", "job_id": "ftg-1", "request_id": "req_1",
        "options": {"url": "https://host"}, "folder": Path("checkpoint-1"),
        "reason": "a.pt is gone",
    }  # fmt: skip
    taken = inspect.signature(kind.__init__).parameters
    return kind(**{name: values[name] for name in taken if name != "self"})


def test_every_error_keeps_all_its_attributes(made: dict[str, Any]) -> None:
    kinds = every_error()
    assert {errors.MissingDependency, errors.UnboundKeyError, errors.MissingScopeError} < {*kinds}
    assert len(kinds) > 17
    for error in [one_of(kind, made["Report"]) for kind in kinds]:
        error.add_note("said by a caller")
        raws = [pickle.dumps(error, protocol) for protocol in PROTOCOLS]
        for back in (*map(pickle.loads, raws), copy.copy(error), copy.deepcopy(error)):
            assert type(back) is type(error)
            assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))


def _sent(value: Any) -> Any:
    """Run in a process of its own: return what came, or raise it."""
    if isinstance(value, GatewayError):
        raise value
    return repr(value), value


BACK = """
import pickle, sys
values = [pickle.loads(raw) for raw in pickle.load(sys.stdin.buffer)]
pickle.dump([(repr(value), pickle.dumps(value)) for value in values], sys.stdout.buffer)
"""


def test_results_and_errors_pass_another_process(made: dict[str, Any]) -> None:
    """Which has imported nothing of ours before."""
    error = errors.UnboundKeyError("No.", hint="So.", variable="A", url="https://host")
    values = [*(made[kind] for kind in KINDS), error]
    raw = pickle.dumps([pickle.dumps(value) for value in values])
    done = subprocess.run([sys.executable, "-c", BACK], input=raw, capture_output=True, check=True)
    for value, (shown, back) in zip(values, pickle.loads(done.stdout), strict=True):
        assert shown == repr(value)
        if value is error:
            assert vars(pickle.loads(back)) == vars(error)
        else:
            assert facts(pickle.loads(back)) == facts(value)


@pytest.mark.chaos
def test_results_and_errors_pass_a_pool_that_spawns(made: dict[str, Any]) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for shown, back in pool.map(_sent, (made[kind] for kind in KINDS)):
            assert shown == repr(made[type(back).__name__])
            assert facts(back) == facts(made[type(back).__name__])
        error = errors.UnboundKeyError("No.", hint="So.", variable="A", url="https://host")
        with pytest.raises(errors.UnboundKeyError) as caught:
            pool.submit(_sent, error).result()
        assert vars(caught.value) == vars(error)


# -- JSON of another version -------------------------------------------------------------------


LATER = {"later": {"x": [1]}}


def finding() -> Finding:
    return Finding(
        code="empty", severity="error", line=1, path="", message="a", fix="b",
        backends=[], count=1, lines=[1],
    )  # fmt: skip


def test_previews_and_options_are_read_from_their_json(made: dict[str, Any]) -> None:
    document = made["Preview"].as_json()
    assert Preview.from_json(json.loads(json.dumps(document))) == made["Preview"]
    document["sequences"][0] |= LATER
    document["sequences"][0]["tokens"][3] |= LATER
    document["findings"] = [finding().model_dump() | LATER]
    assert Preview.from_json(document | LATER).as_json() == document | LATER
    priced = made["Option"].document()
    assert Option.from_document(priced) == made["Option"]
    assert Option.from_document(priced | LATER).document() == priced | LATER
    refused = Option("openai", "m", error=SpecError("No.", hint="So.")).document()
    refused["error"] |= LATER
    back = Option.from_document(refused | LATER)
    assert back.document() == refused | LATER
    assert str(back.error) == "No. So."


def test_a_spec_keeps_a_setting_of_a_later_version_and_no_run_ignores_it() -> None:
    document = TrainingSpec.build(model="a", n_epochs=3).model_dump(mode="json")
    later = document | {"rank_schedule": "cosine"}
    spec = TrainingSpec.model_validate_json(json.dumps(later))
    assert spec.model_dump(mode="json") == later
    assert "rank_schedule" not in spec.chosen
    FakeBackend().capabilities("a").require("fake", spec)
    chosen = later | {"chosen": [*later["chosen"], "rank_schedule"]}
    asked = TrainingSpec.model_validate(chosen)
    assert asked.model_dump(mode="json") == chosen
    assert "rank_schedule" in asked.canonical()
    with pytest.raises(UnsupportedError, match="cannot honour rank_schedule"):
        FakeBackend().capabilities("a").require("fake", asked)


def test_a_misspelt_setting_of_a_user_is_an_error_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="n_epochs"):
        TrainingSpec.build(model="a", n_epoch=3)  # type: ignore[call-arg]
    with pytest.raises(SpecError, match="Did you mean"):
        gateway.estimate(ROWS, model=MODEL, n_epoch=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="bakend"):
        ModelHandle(kind="hosted", model="m", base_model="b", bakend="fake")  # type: ignore[call-arg]
    (tmp_path / "prices.toml").write_text(
        '[[price]]\nbackend = "a"\nmodel = "m"\nusd = { train_mtok = "1" }\n'
        'as_of = 2026-01-01\nsource = "me"\nnotes = "x"\n'
    )
    with pytest.raises(SpecError, match=r"notes is not known. \(row 1, from line 1\)"):
        Gateway(tmp_path).estimate(ROWS, model=MODEL)


def test_a_handle_keeps_fields_of_a_later_version(tmp_path: Path) -> None:
    handle = ModelHandle(kind="hosted", model="m", base_model="b", backend="fake")
    path = handle.save(tmp_path / "handle.json")
    later = json.loads(path.read_text()) | {"quantized": {"bits": 4}}
    path.write_text(json.dumps(later))
    back = ModelHandle.load(path)
    assert json.loads(back.save(tmp_path / "again.json").read_text()) == later
    assert pickle.loads(pickle.dumps(back)).model_dump(mode="json") == later


def test_errors_of_plugins_with_arguments_of_their_own() -> None:
    """A subclass that others write goes there and back too."""
    error = pickle.loads(pickle.dumps(Quota("acme", 7)))
    assert (str(error), error.left, error.backend) == ("acme has no more.", 7, "acme")


class Quota(BackendError):
    def __init__(self, name: str, left: int) -> None:
        super().__init__(f"{name} has no more.", backend=name)
        self.left = left
