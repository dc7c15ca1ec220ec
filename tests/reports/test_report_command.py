"""``ftg report``, ``job.report`` and ``comparison.report``: the page of a job or a comparison."""

from __future__ import annotations

import json
import re
from html import unescape
from pathlib import Path

import pytest
from support.cli import Ftg
from support.comparisons import comparison

from finetune_gateway import Job
from finetune_gateway.evaluation.comparison import Comparison, keep
from finetune_gateway.gateway import Gateway
from finetune_gateway.settings.home import Settings


@pytest.fixture
def job(home: Path, train_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A finished job; the current folder is an empty one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return Gateway(home).submit(train_file, model="gpt-4.1-mini-2025-04-14", backend="fake").wait()


@pytest.fixture
def compared(home: Path, job: Job) -> Comparison:
    """A kept comparison of its model and the base."""
    return kept(home, job, 8)


def kept(home: Path, job: Job, rows: int) -> Comparison:
    made = comparison(home, rows=rows, models=5)
    models = [
        one.model_copy(update={"job_id": job.id if one.key == "tuned" else one.job_id})
        for one in made.data.models
    ]
    data = made.data.model_copy(update={"models": models})
    return keep(Settings.load(home), data, made.rows(), made.answers())


def text_of(path: Path) -> str:
    html = re.sub(r"<(script|style)\b.*?</\1>", "", path.read_text("utf-8"), flags=re.DOTALL)
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


def test_the_page_of_a_comparison(ftg: Ftg, compared: Comparison) -> None:
    """Written to NAME.html for this user alone, the answer on stdout; formats, and no page unless
    named with them; by Python too."""
    page = Path("cmp-3f9a2c1d.html")
    done = ftg("report", "cmp-latest")
    assert done.returncode == 0 and f"Wrote {page}." in done.stderr
    assert done.stdout.startswith("support-lora (builtin/tiny) answers best")
    assert page.stat().st_mode & 0o777 == 0o600
    assert compared.verdict.text in text_of(page)
    page.unlink()
    assert ftg("report", "cmp-3f9a", "--markdown").stdout.startswith("### 5 models on 8 rows\n")
    assert "Lower is better." in ftg("report", "cmp-3f9a", "--explain").stdout
    found = json.loads(ftg("report", "cmp-3f9a", "--json").stdout)
    assert found == compared.data.model_dump(mode="json") and not page.exists()
    bare = ftg("report", "cmp-3f9a", "--out", "b.html", "--no-rows", "-q")
    assert bare.stdout == "b.html\n" and "where is my" not in Path("b.html").read_text("utf-8")
    assert compared.report() == page and page.exists()


def test_the_page_of_a_job(ftg: Ftg, home: Path, job: Job, compared: Comparison) -> None:
    """Its losses, estimate and actual, data and settings; answers before and after, where a kept
    comparison has them, and how to make one where none has."""
    done = ftg("report", "latest")
    assert done.returncode == 0 and f"{job.id} succeeded" in done.stdout
    seen = text_of(Path(f"{job.id}.html"))
    first = compared.answers()[0].answer
    assert "before: base:builtin/tiny after: support-lora (builtin/tiny)" in seen
    assert compared.verdict.text in seen and first.text[:40] in seen
    assert "3 more rows: ftg report cmp-3f9a2c1d" in seen
    assert "figure estimated actual" in seen and "trained on train.jsonl, " in seen
    assert f"sha256 {job.record.train.sha256[:16]}" in seen and "n_epochs" in seen
    assert json.loads(ftg("report", "latest", "--json").stdout)["id"] == job.id
    compared = kept(home, job, 6)
    assert "1 more row: ftg report cmp-3f9a2c1d" in text_of(job.report(force=True))
    (compared.folder / "comparison.json").unlink()
    assert f"ftg compare base:{job.id} {job.id}" in text_of(job.report(force=True))


def test_what_cannot_be_reported_is_said(ftg: Ftg, job: Job) -> None:
    """Names that are not there, options of the other kind, a file that is not ours."""
    for words, said in (
        (("cmp-none",), "There is no comparison 'cmp-none'"),
        (("ftg-none",), "ftg-none"),
        (("latest", "--explain"), "about comparisons"),
        (("cmp-none", "--explain", "--json"), "exclude each other"),
    ):
        done = ftg("report", *words)
        assert done.returncode != 0 and said in done.stderr + done.stdout, words
    mine = Path("mine.html")
    mine.write_text("mine")
    done = ftg("report", "latest", "--out", "mine.html")
    assert done.returncode == 2 and "--force" in done.stderr and mine.read_text() == "mine"
