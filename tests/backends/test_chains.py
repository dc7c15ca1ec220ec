"""Jobs that train on from the model of another: what begins where, what is compared, what stays."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.chaos import (
    end_workers,
    ended,
    has_losses,
    hold_worker,
    kill_worker,
    slots_taken,
)
from support.cli import Ftg
from support.method_rows import small_rows
from support.plain_models import logits, logits_of
from support.training import a_run, difference, imports_of, metrics_of, train_run

from finetune_gateway import (
    BackendError,
    Gateway,
    Job,
    JobStatus,
    ModelHandle,
    NotFoundError,
    SpecError,
    UnsupportedError,
)
from finetune_gateway.backends.local import finishing, loading, origin
from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs import continuing
from finetune_gateway.reports.job_text import job_facts
from finetune_gateway.reports.plan_text import plan_text
from finetune_gateway.settings import files, sealed
from finetune_gateway.settings.home import Settings
from finetune_gateway.spec import TrainingSpec

# Of transformers 5.23 and TRL 1.16, about each other.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

Rows = Callable[[int], list[dict[str, Any]]]
SMALL: dict[str, Any] = {"lora_r": 4, "batch_size": 4, "seed": 3, "learning_rate": 1e-3}


@pytest.fixture(autouse=True)
def _ended(home: Path) -> Iterator[None]:
    yield
    end_workers(home)


def submit(data: Any, folder: Path | None, **options: Any) -> Job:
    given = {"max_steps": 4, **SMALL, **options}
    if "continue_from" in given or given.get("training_type") == "full":
        del given["lora_r"]
    model = None if folder is None else str(folder)
    return Gateway().submit(data, model=model, validation_split=0, **given)


def losses(job: Job) -> list[float]:
    return [one.train_loss for one in job.metrics() if one.train_loss is not None]


def test_a_second_training_begins_with_the_adapter_of_the_first(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows, ftg: Ftg,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """On the same rows its first loss is what the first model loses, and one adapter on the base
    that was pinned answers alone; the line of trainings is shown and kept. What becomes of the
    first job afterwards changes nothing. Neither worker imports TRL, which takes seconds."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    data = rows(4)  # one batch: its loss does not depend on the order
    first = submit(data, tiny_folder, max_steps=8, save_steps=4)
    before = first.result(180)
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in data))
    with slots_taken(home):
        second = submit(file, None, continue_from="latest")
        repeat(second, file, ftg)
    after = second.result(180)
    assert submit(file, None, continue_from="latest").id == second.id
    assert len(Gateway().jobs()) == 2
    assert losses(second)[0] < losses(first)[-1] < losses(first)[0]
    assert losses(second)[0] == pytest.approx(loss_of(before, data), rel=1e-4)
    spec = second.record.spec
    assert (spec.continue_from, spec.model, spec.lora_r) == (first.id, str(tiny_folder), 4)
    line = [str(tiny_folder), f"sft {first.id}"]
    assert after.continued_from == line and before.continued_from == []
    assert job_facts(second)["chain"] == " -> ".join([*line, f"sft {second.id}"])
    folder = Path(after.model)
    assert torch.allclose(logits_of(after), logits(folder, tiny_folder), atol=1e-4)
    assert not (folder / "ref").exists()
    assert json.loads((folder / "manifest.json").read_text())["continued_from"] == line
    again = submit(file, None, continue_from=first.id[4:])
    assert again.id == second.id  # one model, however it was named
    plan = Gateway().plan(data, continue_from=f"{first.id[4:]}@last", training_type="full")
    head, line_of_chain, *_ = plan_text(plan, None, None).splitlines()
    assert head == f"local / {tiny_folder}: sft (full) on 4 rows"
    assert line_of_chain == f"Trains on from the model of {first.id}@8."
    with pytest.raises(SpecError, match=f"{second.id}.* was trained from its model"):
        Gateway().remove([first])
    refuses_what_cannot_be_continued(first, tiny_folder, rows)
    for job in (first, second):
        imported = imports_of(home / "runs" / job.id / "worker.log")
        assert "torch" in imported and "trl" not in imported
    Gateway().prune(0)
    with slots_taken(home):
        third = submit(file, None, continue_from=first.id, max_steps=1)
        pinned = json.loads((home / "runs" / third.id / "base.json").read_text())
        assert pinned["sha256"] == before.base_sha256 and pinned["files"]
        third.cancel()
    with (Path(before.model) / "adapter_model.safetensors").open("ab") as weights:
        weights.write(b" ")
    with pytest.raises(BackendError, match="was changed since it was saved"):
        submit(file, None, continue_from=first.id, max_steps=2)
    refused = Gateway().jobs()[0]  # ended: nothing is in doubt
    assert refused.status is JobStatus.FAILED and "was changed since" in (refused.error or "")


def repeat(second: Job, file: Path, ftg: Ftg) -> None:
    """The same submit that continues the latest job, by when that is its own: it is returned, in
    Python and on the command line, a dry run too. With other settings or rows it is another one."""
    assert submit(file, None, continue_from="latest").id == second.id
    given = {"max_steps": 4, **SMALL}
    del given["lora_r"]
    words = ["submit", str(file), "--continue-from", "latest", "--validation-split", "0", "--json"]
    words += [word for key in given for word in ("--set", f"{key}={given[key]}")]
    assert json.loads(ftg(*words).stdout)["existing"] is True
    assert json.loads(ftg(*words, "--dry-run").stdout)["existing"] == second.id
    for data, steps in ((file, 5), (file.read_text().splitlines()[:3], 4)):
        rows = [*map(json.loads, data)] if isinstance(data, list) else data
        with pytest.raises(SpecError, match=f"{second.id} is .* it has no model"):
            submit(rows, None, continue_from="latest", max_steps=steps)


def loss_of(handle: Any, data: list[dict[str, Any]]) -> float:
    """The loss of a trained model on rows, per trained token."""
    total = count = 0.0
    model = handle._open()._model
    for row in data:
        [one] = model.template.encode(row)
        ids, labels = torch.tensor([one.input_ids]), torch.tensor([one.labels])
        with torch.inference_mode():
            total += float(model.model(ids, labels=labels).loss) * one.trained
        count += one.trained
    return total / count


@pytest.mark.parametrize(
    ("method", "kind", "engine"),
    [
        ("dpo", "lora", "fast"),
        pytest.param("dpo", "full", "fast", marks=pytest.mark.chaos),
        pytest.param("kto", "lora", "fast", marks=pytest.mark.chaos),
        pytest.param("dpo", "qlora", "fast", marks=pytest.mark.chaos),
        pytest.param("dpo", "lora", "trl", marks=pytest.mark.chaos),
        pytest.param("dpo", "qlora", "trl", marks=pytest.mark.chaos),
        pytest.param("kto", "lora", "trl", marks=pytest.mark.chaos),
    ],
)
def test_the_reference_is_the_model_that_is_continued(
    home: Path, tiny_folder: Path, rows: Rows, method: str, kind: str, engine: str
) -> None:
    """After sft the first step of dpo and kto has rewards of 0, and a later one has not. Killed
    behind it, the job comes to the same. One adapter on the base answers alone, as plain PEFT
    has it."""
    options: dict[str, Any] = {"batch_size": 4, "seed": 3, "learning_rate": 1e-2}
    spec = TrainingSpec(model=str(tiny_folder), lora_r=4, max_steps=4, **options)
    first = train_run(a_run(home, spec, rows(4)))
    data = small_rows(method, 4)
    options |= {"learning_rate": 1e-3, "method": method, "training_type": kind, "engine": engine}
    spec = TrainingSpec(
        model=str(tiny_folder), continue_from=first.id, max_steps=3, save_steps=1, **options
    )
    second = train_run(a_run(home, spec, data))
    names = ("train_rewards/chosen", "train_rewards/rejected")
    rewards = [tuple(float(one[name]) for name in names) for one in metrics_of(second)]
    assert rewards[0] == pytest.approx((0, 0), abs=2e-4) and rewards[2][0] > 1e-3
    assert not (second.model / "ref").exists()
    killed = a_run(home, spec, data)
    shutil.copytree(second.checkpoints / "checkpoint-2", killed.checkpoints / "checkpoint-2")
    train_run(killed)
    assert difference(second, killed) == 0.0
    result, _ = finishing.result_of(second)
    assert result.continued_from == [str(tiny_folder), f"sft {first.id}"]
    if kind == "qlora":
        return  # plain PEFT would have another base
    handle = ModelHandle(
        kind=result.kind, model=result.model, base_model=str(tiny_folder), backend="local"
    )
    plain = logits(Path(result.model), None if kind == "full" else tiny_folder)
    assert torch.allclose(logits_of(handle), plain, atol=1e-4)


@pytest.mark.chaos
def test_a_whole_model_is_the_base_and_an_adapter_is_merged_into_one(
    home: Path, tiny_folder: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a model that was trained whole goes on an adapter, on its folder; from an adapter one
    that is trained whole, merged. Either begins where the first one ended."""
    monkeypatch.setenv("FTG_RETENTION_CHECKPOINTS", "2")  # also the one to go on from
    data = rows(4)
    options: dict[str, Any] = {"training_type": "full", "max_steps": 6, "save_steps": 3}
    whole = submit(data, tiny_folder, **options)
    whole.wait(180)
    end = loss_of(whole.result(step=3), data)
    adapter = submit(data, tiny_folder, continue_from=f"{whole.id}@3")
    handle = adapter.result(180)
    folder = str(home / "runs" / whole.id / "checkpoints" / "checkpoint-3")
    assert (handle.kind, handle.base_model) == ("adapter", folder)
    assert losses(adapter)[0] == pytest.approx(end, rel=1e-4)
    assert torch.allclose(logits_of(handle), logits(Path(handle.model), Path(folder)), atol=1e-4)
    merged = submit(data, None, continue_from="latest", training_type="full", learning_rate=1e-4)
    result = merged.result(180)
    assert (result.kind, result.base_model) == ("merged", folder)
    assert losses(merged)[0] == pytest.approx(loss_of(handle, data), rel=1e-4)
    line = [str(tiny_folder), f"sft {whole.id}@3", f"sft {adapter.id}"]
    assert Gateway().prune(0).removed and Path(folder).is_dir()  # an adapter needs it
    assert result.continued_from == line
    assert continuing.line(merged.record, merged.store).startswith(" -> ".join(line))
    assert torch.allclose(logits_of(result), logits(Path(result.model)), atol=1e-4)


@pytest.mark.chaos
def test_a_killed_job_goes_on_from_what_it_began_with(
    home: Path, tiny_folder: Path, rows: Rows
) -> None:
    """kill -9 in the second training: the same adapter, bit for bit, although the first job's model
    is gone by then."""
    first = submit(rows(12), tiny_folder)
    first.result(180)
    options: dict[str, Any] = {"continue_from": first.id, "max_steps": 30, "save_steps": 5}
    unbroken = submit(rows(12), None, **options)
    assert ended(unbroken, 180) is JobStatus.SUCCEEDED, unbroken.error
    job = submit(rows(12), None, again=True, **options)
    shutil.rmtree(home / "runs" / first.id)
    assert kill_worker(hold_worker(home, job.id, has_losses(home, job.id, 7)))
    assert ended(job, 180) is JobStatus.SUCCEEDED, job.error
    assert any("Continuing from" in event.message for event in job.events())
    one, other = (load_file(home / "runs" / j.id / "model" / "adapter_model.safetensors")
                  for j in (unbroken, job))  # fmt: skip
    assert one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_without_a_job_there_is_nothing_to_go_on_from(home: Path, rows: Rows) -> None:
    """Neither a model nor a job, no jobs yet, a base, a model of a host: each is said, with what to
    do."""
    with pytest.raises(SpecError, match="no model to train"):
        Gateway().submit(rows(12))
    with pytest.raises(NotFoundError, match="no jobs yet"):
        submit(rows(12), None, continue_from="latest")
    with pytest.raises(SpecError, match="is no job.*nothing to go on from"):
        submit(rows(12), None, continue_from="builtin/tiny")
    with pytest.raises(SpecError, match="ft:acme is no job") as hosted:
        submit(rows(12), None, continue_from="ft:acme")
    assert "--model ft:acme" in hosted.value.hint


def refuses_what_cannot_be_continued(first: Job, tiny_folder: Path, rows: Rows) -> None:
    """Another base, another shape of the adapter, a checkpoint that is gone, another backend."""
    jobs = [job.id for job in Gateway().jobs()]
    with pytest.raises(SpecError, match=f"was trained from {tiny_folder}.*builtin/tiny"):
        Gateway().submit(rows(12), model="builtin/tiny", continue_from=first.id)
    with pytest.raises(SpecError, match="has lora_r=4.*cannot have 8"):
        Gateway().submit(rows(12), continue_from=first.id, lora_r=8)
    with pytest.raises(NotFoundError, match="no checkpoint at step 1"):
        submit(rows(12), None, continue_from=f"{first.id}@1")
    with pytest.raises(NotFoundError, match="not known: none has a loss"):
        submit(rows(12), None, continue_from=f"{first.id}@best")
    with pytest.raises(UnsupportedError, match="cannot honour continue_from") as refused:
        Gateway().submit(rows(12), backend="openai", continue_from=first.id)
    assert "named as model" in refused.value.hint
    estimate = Gateway().estimate(rows(12), continue_from=first.id)
    assert f"It trains on from {first.id}: the adapter begins" in " ".join(estimate.assumptions)
    assert [job.id for job in Gateway().jobs()] == jobs


def test_a_job_that_has_saved_nothing_yet_is_waited_for(
    home: Path, tiny_folder: Path, rows: Rows
) -> None:
    """By its name, as the newest or by its object: in words, and no job is made."""
    with slots_taken(home):
        first = submit(rows(4), tiny_folder)
        for name in (first.id, "latest", first):
            with pytest.raises(SpecError, match="it has no model to go on from") as caught:
                submit(rows(4), None, continue_from=name)
            assert caught.value.hint == f"Wait for it: ftg wait {first.id}"
        first.cancel()
    assert [job.id for job in Gateway().jobs()] == [first.id]


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_base_that_reads_texts_otherwise_is_not_trained_on(
    home: Path, tiny_folder: Path, tmp_path: Path, rows: Rows, kind: Any
) -> None:
    """An edited template, another tokenizer or configuration beside the same weights, of the base
    or of a model that was trained whole: the file is named before the first step. What an earlier
    version has pinned, weights alone, still goes on."""
    base = Path(shutil.copytree(tiny_folder, tmp_path / "base"))
    options: dict[str, Any] = {"max_steps": 1, "batch_size": 4, "learning_rate": 1e-3}
    spec = TrainingSpec.build(model=str(base), training_type=kind, **options)
    first = train_run(a_run(home, spec, rows(4)))
    on = TrainingSpec(model=str(base), continue_from=first.id, **options)
    folder = first.model if kind == "full" else base
    for name in ("tokenizer_config.json", "config.json", "chat_template.jinja"):
        path = folder / name
        kept = path.read_bytes() if path.exists() else None
        second = a_run(home, on, rows(4))
        path.write_bytes(kept.replace(b"{", b"{ ", 1) if kept else b"{{ messages }}")
        with pytest.raises(GatewayError, match=f"^{name} of the base .* changed since {first.id}"):
            loading.load_base(second)
        path.unlink() if kept is None else path.write_bytes(kept)
    older = a_run(home, on, rows(4))
    pinned = sealed.read(older.folder / "base.json", "")
    del pinned["files"]
    (older.folder / "base.json").write_text(json.dumps(pinned))
    assert loading.load_base(older).sha256 == pinned["sha256"]


def test_an_adapter_that_was_changed_is_not_trained_on(home: Path, tmp_path: Path) -> None:
    """By the hashes that it was saved with; the file is named."""
    run = a_run(home, TrainingSpec(model="builtin/tiny"), [])
    model, name = run.folder / "model", "adapter_model.safetensors"
    model.mkdir()
    for one in origin.ADAPTER_FILES:
        (model / one).write_text(one)
    digests = {one: files.sha256_of(model / one) for one in origin.ADAPTER_FILES}
    (model / "manifest.json").write_text(json.dumps({"files": digests, "base_sha256": "5" * 64}))
    (run.folder / "base.json").write_text(json.dumps({"revision": None}))
    spec = TrainingSpec(model="builtin/tiny", continue_from=run.id)
    found, _ = origin.copy(spec, Settings(home).runs, tmp_path / "new")
    assert found.adapter == digests and (tmp_path / "new/start" / name).read_text() == name
    for text in ("{{ 1 }}", "{{ 2 }}"):  # its own template; the copy was pruned by old versions
        (tmp_path / "own.jinja").write_text(text)
    about = json.loads((run.folder / "run.json").read_text())
    about["spec"] |= {"chat_template": str(tmp_path / "own.jinja"), "chosen": ["chat_template"]}
    about["chat_template_sha256"] = hashlib.sha256(b"{{ 1 }}").hexdigest()
    (run.folder / "run.json").write_text(json.dumps(about))
    (run.folder / "base.json").unlink()
    with pytest.raises(NotFoundError, match="own.jinja is not there, or was changed"):
        origin.resolved(spec, Settings(home).runs)
    (tmp_path / "own.jinja").write_text("{{ 1 }}")
    taken = origin.resolved(spec, Settings(home).runs)
    assert taken.chat_template == str(tmp_path / "own.jinja")
    origin.copy(taken, Settings(home).runs, tmp_path / "old")
    pinned = sealed.read(tmp_path / "old" / "base.json", "")
    assert pinned == {"revision": None, "sha256": "5" * 64}
    (model / name).write_text("other weights")
    with pytest.raises(GatewayError, match=f"{name} was changed since it was saved"):
        origin.copy(spec, Settings(home).runs, tmp_path / "newer")
