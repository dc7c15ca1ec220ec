"""From the names of a comparison to its models: what each means, and which key goes where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.provider import Provider
from support.recordings import recorded, rows
from support.records import record
from support.rows import chat_rows

from finetune_gateway import Gateway, GatewayError, Job, ModelHandle, NotFoundError, OpenAIBackend
from finetune_gateway.backend import Checkpoint, Snapshot
from finetune_gateway.chat import ChatReply
from finetune_gateway.errors import JobNotFinished, SpecError, UnboundKeyError
from finetune_gateway.evaluation.default_rows import default_rows
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.resolving import resolve
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.jobs.records import StoredFile
from finetune_gateway.spec import TrainingSpec

BASE = "gpt-4.1-mini-2025-04-14"
SYSTEM = "You answer for a parcel service."


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    """A host, whose key is in HOST_KEY."""
    with Provider() as started:
        monkeypatch.setenv("HOST_KEY", started.api_key)
        yield started


@pytest.fixture
def job(home: Path, provider: Provider) -> Job:
    """A job that has succeeded there, on rows that share a system prompt."""
    data = [{"messages": [{"role": "system", "content": SYSTEM}, *row["messages"]]}
            for row in chat_rows(12)]  # fmt: skip
    place = OpenAIBackend(
        base_url=provider.url, api_key_env="HOST_KEY", poll_seconds=0.02, settle_seconds=0.1
    )
    return Gateway().submit(data, model=BASE, backend=place, suffix="support", n_epochs=3).wait(30)


def resolved(*given: Any, **options: Any) -> list[EvaluatedModel]:
    return resolve(given, Gateway().store, **options)


class Parrot:
    """An object of the user's that answers."""

    model = "parrot"

    def chat(self, messages: list[dict[str, Any]], **sampling: Any) -> ChatReply:
        return ChatReply(text=str(messages[-1]["content"]))


def test_each_form_of_a_hosted_model(job: Job, provider: Provider) -> None:
    """A job, its checkpoint, its base as it is, with the system prompt and with examples, a model
    at an address, an object: each with a short key, the host, and what it was trained on."""
    step = job.checkpoints()[0].step
    names = ["latest", f"{job.id}@{step}", f"base:{job.id}", f"prompt:{job.id}"]
    names += [f"few-shot:3:{BASE}", f"{provider.url}#{BASE}"]
    models = resolved(*names, Parrot(), key_envs={provider.url.split("/")[2]: "HOST_KEY"})
    assert [one.key for one in models] == [
        "support", f"support@{step}", "base", "prompt", "few-shot-3", BASE, "parrot",
    ]  # fmt: skip
    tuned, point, base, prompt, few, other, parrot = models
    assert tuned.title == f"support (fine-tune of {BASE} at {provider.url.split('/')[2]})"
    assert (tuned.model, point.model) == (job.result().model, job.checkpoints()[0].model)
    assert [one.base_model for one in models[:6]] == [BASE] * 6
    assert [one.model for one in (base, prompt, few, other)] == [BASE] * 4
    assert tuned.training_data == point.training_data == [Path(job.record.train.path)]
    assert base.training_data == prompt.training_data == []
    assert (base.drops, prompt.system_prompt, few.system_prompt, few.shots) == (
        SYSTEM, SYSTEM, SYSTEM, 3,
    )  # fmt: skip
    assert {one.host for one in (tuned, point, base, prompt, other)} == {provider.url.split("/")[2]}
    assert few.host == "api.openai.com" and parrot.host is None
    assert base.fingerprint == prompt.fingerprint == other.fingerprint != tuned.fingerprint
    assert provider.posts["/chat/completions"] == 1  # the first answer of the job alone
    for one in (tuned, point, base):
        assert one.handle and one.handle.chat("Hi").text
    assert tuned.facts().backend == "openai" and tuned.facts().job_id == job.id
    # An object may be another model the next time: nothing is kept by its name.
    assert parrot.fingerprint != resolved(Parrot())[0].fingerprint


def test_a_key_goes_to_its_own_host_alone(
    job: Job, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The variable that is given for a host is used there, also in the place of that of the job;
    one for another host is not, and without any nothing is sent beyond this machine."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai")
    with Provider(keys={"sk-second": "main"}) as second:
        monkeypatch.setenv("SECOND_KEY", "sk-second")
        monkeypatch.setenv("NEW_KEY", provider.api_key)
        hosts = {second.url.split("/")[2]: "SECOND_KEY", provider.url.split("/")[2]: "NEW_KEY"}
        tuned, other = resolved(job, f"{second.url}#{BASE}", key_envs=hosts)
        assert tuned.backend and tuned.backend.api_key_env == "NEW_KEY"
        assert other.backend and other.backend.api_key_env == "SECOND_KEY"
        assert tuned.account != other.account
        for one in (tuned, other):
            assert one.handle and one.handle.chat("Hi").text
    with pytest.raises(UnboundKeyError, match="OPENAI_API_KEY is not sent to models.exam") as far:
        resolved("https://models.example/v1#m", key_envs={"other.example": "HOST_KEY"})
    assert "--key-env models.example=OPENAI_API_KEY" in far.value.hint
    [near] = resolved("https://api.tokenfactory.nebius.com/v1#m")
    assert near.backend and near.backend.api_key_env == "NEBIUS_API_KEY"


def test_a_model_of_a_host_that_the_user_has_given(home: Path, provider: Provider) -> None:
    """The first backend whose key sees it; a base by its own name, an id that nobody here knows."""
    provider.world.add_fine_tunes(1)
    tuned = next(
        str(one["id"]) for one in provider.world.list_models()["data"] if "ft:" in str(one["id"])
    )
    place = OpenAIBackend(base_url=provider.url, api_key_env="HOST_KEY", profile="openai")
    [model, base, unknown] = resolved(tuned, f"base:{tuned}", "my-deployment", backends=[place])
    assert {one.host for one in (model, base, unknown)} == {place.host}
    assert (model.variant, base.variant, unknown.model) == ("tuned", "base", "my-deployment")
    assert base.model == model.base_model and model.handle and model.handle.chat("Hi").text


def test_a_recording_answers_for_its_model(home: Path, provider: Provider) -> None:
    """By its name, with or without the user's key at hand, and as an object; its rows are those of
    the comparison if none are named. One that is not there is answered with those that are."""
    recording = recorded(provider, rows(4), name="last-words")
    [model] = resolved("recorded:last-words")
    assert (model.key, model.kind, model.variant) == ("last-words", "recorded", "tuned")
    assert model.recording and model.model == recording.about.model
    assert model.fingerprint == resolved(recording)[0].fingerprint
    found = default_rows([model], Gateway().store)
    assert found.words == "recorded:last-words" and len(found.prompts) == 4
    with pytest.raises(NotFoundError) as wrong:
        resolved("recorded:last-word")
    assert wrong.value.hint == "Did you mean recorded:last-words?"


@pytest.mark.parametrize(
    ("name", "said", "hint"),
    [
        ("latst", "no job, handle or model folder 'latst'", "Did you mean latest?"),
        ("gpt-4.1-minj", "'gpt-4.1-minj'", f"Did you mean {BASE}?"),
        ("recorded:x", "no recording 'recorded:x'", "migrate record"),
        ("few-shot:latest", "does not say how many", "few-shot:5:NAME"),
        ("few-shot:0:latest", "too few examples, or too many", "1 to 64"),
        ("promt:builtin/tiny", "no form of a model", "Did you mean prompt:builtin/tiny?"),
        ("recordd:r", "no form of a model", "Did you mean recorded:r?"),
        ("prompt:", "'prompt:' names no model", "prompt:builtin/tiny"),
        (" ", "is empty", "JOB@STEP"),
        ("https://user:secret@host/v1", "names a host and no model", "https://HOST/v1#MODEL"),
        ("https://user:secret@host/v1#m", "a user or password", "api_key_env"),
        (f"prompt:{BASE}", "no system prompt", f"base:{BASE}"),
        (f"few-shot:2:{BASE}", "no training rows", "a job"),
        (7, "7 is no model", "chat(messages"),
    ],
)
def test_a_name_that_means_nothing(home: Path, name: Any, said: str, hint: str) -> None:
    """Says what is wrong and what would be right, and shows no password."""
    with pytest.raises(GatewayError) as wrong:
        resolved(name)
    assert said in wrong.value.message and hint in wrong.value.hint
    assert "secret" not in str(wrong.value)


def local_job(folder: Path, **changes: Any) -> str:
    """A job that has trained all weights of a model on this machine; its id."""
    made = Result(kind="merged", model=str(folder), base_sha256="0" * 64)
    given = {"backend": "local", "status": JobStatus.SUCCEEDED, "result": made,
             "spec": TrainingSpec(model=str(folder), training_type="full")}  # fmt: skip
    kept = record(**{**given, **changes})
    store = Gateway().store
    store.settings.create()
    store.add(kept)
    return kept.id


def test_local_models_are_known_by_their_content(
    home: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    """A copy elsewhere is the same model, asked in the same way, and is refused beside it; one with
    another template is not. A folder with a handle is that, one without is a base."""
    job = local_job(tiny_folder)
    shutil.copytree(tiny_folder, tmp_path / "copy")
    handle = ModelHandle(
        kind="merged", model=str(tmp_path / "copy"), base_model=str(tiny_folder), backend="local"
    )
    with pytest.raises(SpecError, match="are one model, asked in the same way"):
        resolved(job, handle)
    saved = handle.save(tmp_path / "copy")
    for named in (str(saved), str(saved.parent)):
        [one] = resolved(named)
        assert (one.kind, one.variant, one.model) == ("local", "tuned", str(saved.parent))
    (tmp_path / "copy" / "chat_template.jinja").write_text("{{ messages[0].content }}")
    [one, two] = resolved(job, handle)
    assert one.fingerprint != two.fingerprint and one.host is None
    assert one.title == f"{job} (full fine-tuning of {tiny_folder.name})"
    [plain, base] = resolved(
        str(tiny_folder), f"few-shot:1:{tiny_folder}", examples=_rows(tmp_path)
    )
    assert (plain.variant, base.variant, plain.fingerprint) == (
        "other",
        "few-shot",
        base.fingerprint,
    )


def _rows(folder: Path) -> Any:
    from finetune_gateway import Dataset

    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(3)), encoding="utf-8")
    return Dataset(path)


def test_a_base_whose_weights_have_changed_is_not_the_base(home: Path, tiny_folder: Path) -> None:
    """base:JOB is the base that the job was trained on, or an error."""
    job = local_job(tiny_folder)
    with pytest.raises(GatewayError, match="its weights have changed since"):
        resolved(f"base:{job}")


def test_a_job_without_a_model(home: Path) -> None:
    """Says what it is, and that what it has saved can be asked: nothing, of one that waits."""
    failed = local_job(Path("/x"), status=JobStatus.FAILED, result=None)
    with pytest.raises(SpecError, match="has no model: it is failed") as wrong:
        resolved(failed)
    assert wrong.value.hint == f"See: ftg status {failed}."
    waiting = local_job(Path("/x"), status=JobStatus.QUEUED, result=None)
    with pytest.raises(JobNotFinished, match="still queued") as early:
        resolved(waiting)
    assert early.value.hint == f"Run: ftg wait {waiting}."
    point = Checkpoint(id="2", step=2, model=str(home))
    saved = Snapshot(status=JobStatus.RUNNING, checkpoints=[point])
    Gateway().store.apply(waiting, saved, None, 0)
    with pytest.raises(JobNotFinished, match="still running") as early:
        resolved(waiting)
    assert f"{waiting}@last" in early.value.hint
    with pytest.raises(NotFoundError, match="no checkpoint at step 3"):
        resolved(f"{failed}@3")


def test_what_a_job_was_trained_on_before_counts_too(home: Path, tmp_path: Path) -> None:
    """A job that goes on with the model of another was trained on the rows of both."""
    files = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.jsonl"
        path.write_text(json.dumps(chat_rows(1)[0]) + "\n", encoding="utf-8")
        files.append(StoredFile(path=str(path), sha256="0" * 64, rows=1, bytes=1))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"")
    (folder / "config.json").write_text("{}")
    first = Result(kind="merged", model=str(folder))
    local_job(folder, train=files[0], result=first, spec=TrainingSpec(model="owner/base"))
    second = tmp_path / "second"
    shutil.copytree(folder, second)
    result = Result(kind="merged", model=str(second))
    job = local_job(
        second, train=files[1], result=result, spec=TrainingSpec(model=str(folder), suffix="late")
    )
    [model] = resolved(job)
    assert [path.name for path in model.training_data] == ["two.jsonl", "one.jsonl"]
    assert model.key == "late"
