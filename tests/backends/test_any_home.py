"""A home that is named by a relative path or a link, and is moved and copied: its local models
answer as before, by their job and by their folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.cli import Ftg
from support.method_rows import small_rows
from support.records import record
from support.training import handle_of, method_run, train_run

from finetune_gateway import Gateway, JobStatus
from finetune_gateway.backends.local.finishing import result_of
from finetune_gateway.events import Snapshot
from finetune_gateway.settings.home import Settings

PROMPT = ("Where is parcel number 3?", "--max-tokens", "6")


def trained(tiny_folder: Path) -> str:
    """A job that has succeeded in the home that FTG_HOME names."""
    home = Settings.load().home
    run = train_run(method_run(home, tiny_folder, "sft", "lora", small_rows("sft", 4), max_steps=1))
    handle_of(run)
    result, _ = result_of(run)
    with run.queue.store.transaction() as db:
        db.execute("UPDATE runs SET status = 'succeeded' WHERE id = ?", (run.id,))
    store = Gateway().store
    job = record(id=run.id, backend="local", spec=run.spec, step="sent", provider_id=run.id)
    store.add(job)
    store.apply(job.id, Snapshot(status=JobStatus.SUCCEEDED, result=result), None)
    return job.id


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.chaos)])
def test_a_home_by_any_name_and_in_any_place(
    env: dict[str, str],
    ftg: Ftg,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: bool,
) -> None:
    """Relative and through a link, seen from two folders; moved; copied, and the first is gone."""
    for name in ("real", "work", "work/below"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    monkeypatch.chdir(tmp_path / "work")
    env["FTG_HOME"] = "../link/home"
    monkeypatch.setenv("FTG_HOME", env["FTG_HOME"])
    job, answers = trained(tiny_folder), []

    def ask(home: str, *models: str) -> None:
        env["FTG_HOME"] = home
        for model in models if whole else models[-1:]:
            done = ftg("chat", model, *PROMPT)
            assert done.returncode == 0, done
            answers.append(done.stdout)

    ftg("list")  # what the training has printed is not of an answer

    ask("../link/home", f"../link/home/runs/{job}/model")
    monkeypatch.chdir(tmp_path / "work" / "below")
    if whole:
        ask("../../real/home", job)
    (tmp_path / "real" / "home").rename(tmp_path / "real" / "moved")
    if whole:
        ask(str(tmp_path / "link" / "moved"), job)
    shutil.copytree(tmp_path / "real" / "moved", tmp_path / "copy")
    shutil.rmtree(tmp_path / "real")
    ask("../../copy", f"../../copy/runs/{job}/model", job)
    assert len(set(answers)) == 1 and len(answers) == (5 if whole else 2)
    if not whole:
        return
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in small_rows("sft", 2)))
    done = ftg("compare", job, str(tiny_folder), "--data", str(rows), "--max-tokens", "2", "--json")
    assert done.returncode == 0 and job in done.stdout, done
