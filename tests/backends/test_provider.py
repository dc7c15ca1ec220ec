"""The provider that tests are run against: a past, what keys see, and the contract's shapes."""

from __future__ import annotations

import base64
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from openai.types import Model
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from support import past as past_keys
from support.chaos import KEY, ProviderProcess
from support.past import TWO_PROJECTS, make_past
from support.provider import Provider
from support.provider_memory import BASES
from support.wire import JSON, ask, assert_valid, error

from finetune_gateway import validate
from finetune_gateway.spec import Method

SHOP, SIDE = "sk-shop", "sk-side"  # keys of two projects of one organisation
KEYS = {SHOP: "main proj_shop", SIDE: "main proj_side"}
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider(keys=KEYS) as running:
        yield running


def chat(provider: Provider, model: str, key: str | None = None) -> httpx.Response:
    return ask(provider, "/chat/completions", key, post={"model": model, "messages": HELLO})


def test_a_past_of_300_fine_tunes_is_made_at_once(provider: Provider) -> None:
    """Four bases, three methods, two projects, from three years ago to yesterday."""
    began = time.process_time()
    made = provider.world.add_fine_tunes(300, accounts=[*KEYS.values()])
    assert time.process_time() - began < 1
    provider.world.jobs_by_project = False
    listed = ask(provider, "/fine_tuning/jobs", limit=1000).json()["data"]
    assert listed == made[::-1] and len({job["fine_tuned_model"] for job in listed}) == 300
    assert Counter(job["model"] for job in listed) == dict.fromkeys(BASES, 75)
    methods = Counter(job["method"]["type"] for job in listed)
    assert methods == {"supervised": 100, "dpo": 100, "reinforcement": 100}
    owners = {(job["model"], provider.world.jobs[job["id"]]["account"]) for job in listed}
    assert len(owners) == 8
    ages = [(time.time() - job["created_at"]) / 86400 for job in listed]
    assert ages == sorted(ages) and ages[0] < 2 and ages[-1] > 1000


def test_a_past_is_known_to_who_tests() -> None:
    """What each of two keys sees of models and files is what was written down."""
    with Provider(**TWO_PROJECTS) as provider:
        past = make_past(provider.world, 40)
        assert len(past.succeeded) == 40 and len(past.jobs) == 44
        assert len(past.deleted) == len(past.hidden) == 5 and len(past.lost) == 11
        made = {job["fine_tuned_model"] for job in past.succeeded}
        for key, hidden in ((past_keys.SHOP, set()), (past_keys.SIDE, past.hidden)):
            jobs = ask(provider, "/fine_tuning/jobs", key, limit=100).json()["data"]
            assert jobs == past.jobs[::-1]
            models = {one["id"] for one in ask(provider, "/models", key).json()["data"]}
            assert models - {*BASES} == made - past.deleted - hidden
            files = {one["id"] for one in ask(provider, "/files", key).json()["data"]}
            own = [job for job in jobs if past.owners[job["id"]] == key]
            named = {name for job in own for name in (job["training_file"], job["validation_file"])}
            named |= {name for job in own for name in job["result_files"]}
            assert files == named - past.lost and len(own) >= 20
            stored = {one["id"] for one in ask(provider, "/chat/completions", key).json()["data"]}
            assert stored <= {name for names in past.stored.values() for name in names}
        query = {"start_time": int(time.time()) - 20 * 86400, "group_by": "model", "limit": 31}
        page = ask(provider, "/organization/usage/completions", past_keys.ADMIN, **query).json()
        used = {one["model"] for bucket in page["data"] for one in bucket["results"]}
        assert used == {*past.stored} and provider.world.charges == []


def test_the_shapes_are_those_of_the_sdk(provider: Provider) -> None:
    """Jobs, events, checkpoints and models, of each method."""
    for job in provider.world.add_fine_tunes(12):
        path = f"/fine_tuning/jobs/{job['id']}"
        shown = ask(provider, path).json()
        nullable: JSON = {"error": None, "seed": 0, "hyperparameters": {}}  # wider than the SDK's
        FineTuningJob.model_validate({**shown, **nullable})
        for event in ask(provider, f"{path}/events").json()["data"]:
            FineTuningJobEvent.model_validate(event)
        for point in ask(provider, f"{path}/checkpoints").json()["data"]:
            FineTuningJobCheckpoint.model_validate(point)
    for model in ask(provider, "/models").json()["data"]:
        Model.model_validate(model)


@pytest.mark.shared
def test_the_shapes_are_those_of_the_contract(shared: Path, provider: Provider) -> None:
    job = provider.world.add_fine_tune(metadata={"a": "b"})
    failed = provider.world.add_fine_tune(status="failed")
    path = f"/fine_tuning/jobs/{job['id']}"
    shown = [*ask(provider, "/fine_tuning/jobs").json()["data"], ask(provider, path).json()]
    assert [one["status"] for one in shown] == ["failed", "succeeded", "succeeded"]
    for one in shown:
        assert_valid(shared, "FineTuningJob", {**one, "error": one["error"] or None})
    assert failed["error"]["code"] == "invalid_training_file"
    for name, schema in (
        (f"{path}/events", "ListFineTuningJobEventsResponse"),
        (f"{path}/checkpoints", "ListFineTuningJobCheckpointsResponse"),
        ("/models", "ListModelsResponse"),
        (f"/models/{job['fine_tuned_model']}", "Model"),
    ):
        assert_valid(shared, schema, ask(provider, name).json())
    files = ask(provider, "/files").json()
    assert {file["purpose"] for file in files["data"]} == {"fine-tune", "fine-tune-results"}
    for file in files["data"]:  # what is null there may be absent only, by the contract
        assert_valid(shared, "OpenAIFile", {k: v for k, v in file.items() if v is not None})
    assert_valid(shared, "ErrorResponse", ask(provider, "/files/file-none").json())


def test_hyperparameters_stand_resolved_in_both_places(provider: Provider) -> None:
    """Those of other methods than the supervised one in ``method`` alone."""
    job = provider.world.add_fine_tune(epochs=2)
    assert job["hyperparameters"] == job["method"]["supervised"]["hyperparameters"]
    assert job["hyperparameters"]["n_epochs"] == 2
    pairs = provider.world.add_fine_tune(method="dpo")
    assert pairs["hyperparameters"] is None
    assert pairs["method"]["dpo"]["hyperparameters"]["beta"] == 0.1


def test_the_first_checkpoint_is_the_final_model(provider: Provider) -> None:
    """Three of three epochs, newest first; those before it have ids of their own, and answer."""
    job = provider.world.add_fine_tune(epochs=5)
    found = ask(provider, f"/fine_tuning/jobs/{job['id']}/checkpoints").json()["data"]
    names = [point["fine_tuned_model_checkpoint"] for point in found]
    model = job["fine_tuned_model"]
    assert names == [model, f"{model}:ckpt-step-16", f"{model}:ckpt-step-12"]
    listed = [one["id"] for one in ask(provider, "/models").json()["data"]]
    assert listed.count(model) == 1 and not {*names[1:]} & {*listed}
    assert chat(provider, names[1]).status_code == 200
    provider.world.lists_checkpoints = True
    listed = [one["id"] for one in ask(provider, "/models").json()["data"]]
    assert {*names} <= {*listed} and len(listed) == len({*listed})


def test_metrics_come_as_csv_or_base64_of_it(provider: Provider) -> None:
    job = provider.world.add_fine_tune()
    coded = provider.world.add_fine_tune(results="base64")
    table, hidden = (
        ask(provider, f"/files/{one['result_files'][0]}/content").content for one in (job, coded)
    )
    assert table.startswith(b"step,train_loss,") and table.count(b"\n") == 13
    assert base64.b64decode(hidden) == table


@pytest.mark.parametrize("status", ["failed", "cancelled", "paused", "pausing"])
def test_a_job_that_stands_still(provider: Provider, status: str) -> None:
    """It names no model, and no look takes it further."""
    job = provider.world.add_fine_tune(status=status, error={}, seed=None)
    again = ask(provider, f"/fine_tuning/jobs/{job['id']}").json()
    assert job == again and again["status"] == status and again["seed"] is None
    assert again["fine_tuned_model"] is None and again["error"] == {}
    assert len(ask(provider, "/models").json()["data"]) == len(BASES)


def test_a_deleted_model_leaves_its_job(provider: Provider) -> None:
    """Succeeded, with its name; the model is in no list and does not answer."""
    job = provider.world.add_fine_tune()
    model = job["fine_tuned_model"]
    provider.world.delete_model(model)
    assert ask(provider, f"/fine_tuning/jobs/{job['id']}").json() == job
    assert error(ask(provider, f"/models/{model}"))[:2] == (404, "model_not_found")
    assert error(chat(provider, model))[:2] == (404, "model_not_found")


def test_a_model_may_be_hidden_from_one_key(provider: Provider) -> None:
    """The other one sees it, and gets its answers."""
    provider.world.jobs_by_project = False
    model = provider.world.add_fine_tune()["fine_tuned_model"]
    provider.world.hide(model, KEYS[SIDE])
    listed = {
        key: model in [one["id"] for one in ask(provider, "/models", key).json()["data"]]
        for key in KEYS
    }
    assert listed == {SHOP: True, SIDE: False}
    assert chat(provider, model, SHOP).status_code == 200
    status, code, said = error(chat(provider, model, SIDE))
    assert (status, code) == (404, "model_not_found") and "do not have access" in said


def test_a_retired_base_takes_its_fine_tunes_along(provider: Provider) -> None:
    """They say so, with the code of a model that is not there."""
    model = provider.world.add_fine_tune(base=BASES[0])["fine_tuned_model"]
    other = provider.world.add_fine_tune(base=BASES[1])["fine_tuned_model"]
    provider.world.retired.add(BASES[0])
    for name in (model, BASES[0]):
        status, code, said = error(chat(provider, name))
        assert (status, code) == (404, "model_not_found") and "has been deprecated" in said
    assert chat(provider, other).status_code == 200
    assert "deprecated" not in error(chat(provider, "ft:none"))[2]


def test_what_is_retired_may_stay_in_the_list(provider: Provider) -> None:
    """Or leave it: no source says which."""
    model = provider.world.add_fine_tune()["fine_tuned_model"]
    provider.world.retired.add(model)

    def listed() -> bool:
        return model in [one["id"] for one in ask(provider, "/models").json()["data"]]

    assert not listed()
    provider.world.lists_retired = True
    assert listed() and chat(provider, model).status_code == 404


def test_days_that_are_left(provider: Provider) -> None:
    """The date stands at the base; at its fine-tunes only where the host says it there."""
    model = provider.world.add_fine_tune()["fine_tuned_model"]
    provider.world.shutdown_dates[BASES[3]] = "2027-01-14"

    def dates() -> list[str | None]:
        shown = {one["id"]: one for one in ask(provider, "/models").json()["data"]}
        return [shown[name]["shutdown_date"] for name in (BASES[0], BASES[3], model)]

    assert dates() == [None, "2027-01-14", None]
    provider.world.dates_fine_tunes = True
    assert dates() == [None, "2027-01-14", "2027-01-14"]
    assert ask(provider, f"/models/{model}").json()["owned_by"] == provider.world.organisation


def test_a_cold_model_is_not_found_at_first(provider: Provider) -> None:
    model = provider.world.add_fine_tune()["fine_tuned_model"]
    provider.world.cold[model] = 2
    answers = [chat(provider, model) for _ in range(3)]
    assert [one.status_code for one in answers] == [404, 404, 200]
    assert error(answers[0])[1] == "model_not_found"


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ("api.model.read", "/models"),
        ("api.fine_tuning.jobs.read", "/fine_tuning/jobs"),
        ("api.files.read", "/files"),
        ("model.request", "/chat/completions"),
    ],
)
def test_a_key_without_a_scope_is_told_its_name(scope: str, path: str) -> None:
    """With 401, and the rest goes on."""
    body = {"model": BASES[0], "messages": HELLO}
    with Provider(keys=KEYS, lacks={SHOP: [scope]}) as provider:
        answer = ask(provider, path, SHOP, post=body if path.startswith("/chat") else None)
        status, code, said = error(answer)
        assert (status, code) == (401, "missing_scope") and f"Missing scopes: {scope}." in said
        others = [name for name in ("/models", "/fine_tuning/jobs", "/files") if name != path]
        assert [ask(provider, name, SHOP).status_code for name in others] == [200] * len(others)
        assert ask(provider, "/models", SIDE).status_code == 200


def test_files_belong_to_a_project_and_jobs_may_not(provider: Provider) -> None:
    """A key of another project lists the job and hears that its files are not there."""
    job = provider.world.add_fine_tune(account=KEYS[SHOP])
    assert [len(ask(provider, "/fine_tuning/jobs", key).json()["data"]) for key in KEYS] == [1, 0]
    provider.world.jobs_by_project = False
    assert [ask(provider, "/fine_tuning/jobs", key).json()["data"] for key in KEYS] == [[job]] * 2
    name = job["training_file"]
    for path in (f"/files/{name}", f"/files/{name}/content"):
        assert ask(provider, path, SHOP).status_code == 200
        refused = ask(provider, path, SIDE).json()["error"]
        assert refused["message"] == f"No such File object: {name}" and refused["param"] == "id"
    assert ask(provider, "/files", SIDE).json()["data"] == []
    rows = ask(provider, f"/files/{name}/content", SHOP).text.splitlines()
    assert len(rows) == 12 and all("messages" in json.loads(row) for row in rows)


def test_three_ways_of_refusing_a_content(provider: Provider) -> None:
    """The account, the purpose, and a file that is gone."""
    world, job = provider.world, provider.world.add_fine_tune()
    training, results = job["training_file"], job["result_files"][0]
    world.free_account = True
    status, _, said = error(ask(provider, f"/files/{training}/content"))
    assert status == 400 and "disabled for free accounts" in said
    assert ask(provider, f"/files/{results}/content").status_code == 200
    world.free_account, world.refused_purposes = False, ("fine-tune-results",)
    answer = error(ask(provider, f"/files/{results}/content"))
    assert answer[0::2] == (400, "Not allowed to download files of purpose: fine-tune-results")
    del world.files[training]
    assert error(ask(provider, f"/files/{training}/content"))[0] == 404
    assert ask(provider, f"/fine_tuning/jobs/{job['id']}").json()["training_file"] == training


@pytest.mark.parametrize("kind", ["cut", "truncated", "busy", "refuse", "error_after"])
def test_faults_come_on_contents_too(provider: Provider, kind: str) -> None:
    job = provider.world.add_fine_tune()
    path = f"/files/{job['training_file']}/content"
    whole = ask(provider, path).content
    provider.fault("GET /files/*/content", kind)
    if kind == "cut":
        with pytest.raises(httpx.TransportError):
            ask(provider, path)
    else:
        answer = ask(provider, path)
        broken = {"truncated": 200, "busy": 429, "refuse": 503, "error_after": 500}
        assert answer.status_code == broken[kind] and answer.content != whole
    assert ask(provider, path).content == whole


def test_a_training_type_is_kept_and_may_be_refused(provider: Provider) -> None:
    """As Azure has it beside the fields of OpenAI."""
    file = provider.world.add_file("fine-tune", "a.jsonl", b'{"messages": []}\n')["id"]
    body = {"model": BASES[3], "training_file": file, "trainingType": "Standard"}
    assert ask(provider, "/fine_tuning/jobs", post=body).status_code == 200
    assert provider.jobs[0]["request"]["trainingType"] == "Standard"
    provider.world.training_types = ("Standard", "GlobalStandard")
    other = {**body, "trainingType": "Other"}
    assert error(ask(provider, "/fine_tuning/jobs", post=other))[0] == 400


@pytest.mark.parametrize("method", ["sft", "dpo", "reinforcement"])
def test_files_of_the_past_could_be_trained_on_again(
    provider: Provider, home: Path, tmp_path: Path, method: Method
) -> None:
    """They pass the gate, as what a host has taken does."""
    job = provider.world.add_fine_tune(base=BASES[2], method=method)
    for number, name in enumerate((job["training_file"], job["validation_file"])):
        path = tmp_path / f"{number}.jsonl"
        path.write_bytes(provider.world.content(name))
    report = validate(tmp_path / "0.jsonl", model=BASES[2], backend="openai", method=method)
    assert report.ok and report.rows == 12
    assert len((tmp_path / "1.jsonl").read_text().splitlines()) == 3


def test_a_process_takes_settings_and_tells_what_was_asked(tmp_path: Path) -> None:
    """At its start and while it runs."""
    more = ["--fine-tunes", "8", "--set", 'refused_words=["bomb"]', "--admin-key", "sk-a=main"]
    with ProviderProcess(tmp_path, *more) as process:
        assert len(process.report()["jobs"]) == 8
        told = {"fine_tunes": {"count": 4}, "world": {"page_size": 5}, "lacks": {KEY: ["x"]}}
        assert len(httpx.post(f"{process.root}/_provider", json=told).json()["jobs"]) == 12
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=process.url, headers=headers) as client:
            assert len(client.get("/fine_tuning/jobs").json()["data"]) == 5
            for text, status in (("Hello", 200), ("a bomb", 400)):
                body = {"model": BASES[0], "messages": [{"role": "user", "content": text}]}
                assert client.post("/chat/completions", json=body).status_code == status
        report = process.report()
        assert [*report["asked"].values()] == [1] and len(report["charges"]) == 1
        assert report["requests"]["POST /chat/completions"] == 2


def test_a_setting_that_is_not_there_is_refused() -> None:
    with pytest.raises(TypeError, match="warmup"):
        Provider(warmup=3)
