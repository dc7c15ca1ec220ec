"""What comparisons have left on the disk is counted, settled and removed."""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.asked import BASES, RUN, answers, hosted, planned, prompts
from support.chaos import killed_after
from support.cli import Ftg
from support.disks import short_files
from support.provider import Fault, Provider
from support.records import record
from support.traces import traces

from finetune_gateway import Gateway
from finetune_gateway.errors import JobNotFinished, NotFoundError, SpecError, StoreError
from finetune_gateway.evaluation.answers import limit_of, settle
from finetune_gateway.evaluation.comparison import Comparison, ScoredAnswer, keep
from finetune_gateway.evaluation.models import EvaluatedModel
from finetune_gateway.evaluation.results import (
    ComparedAnswer,
    ComparedRow,
    ComparisonData,
    DataFacts,
    Verdict,
)
from finetune_gateway.events import JobStatus, Result
from finetune_gateway.jobs import charges, compared, recordings
from finetune_gateway.jobs.records import JobRecord
from finetune_gateway.jobs.store import Store
from finetune_gateway.reports import machine_checks
from finetune_gateway.settings import files
from finetune_gateway.settings.home import Settings

WORD = "zyzzyva"  # of the texts


def comparison(*models: EvaluatedModel, name: str = "cmp-00000001") -> Path:
    """The folder of a comparison of these models."""
    data = ComparisonData(
        id=name,
        created_at=time.time(),
        data=DataFacts(words=WORD),
        models=[one.facts() for one in models],
        measures=[],
        verdict=Verdict(text="none", measure=""),
    )
    return keep(Settings.load(), data, [], []).folder


def job(model: str) -> JobRecord:
    """A hosted job of this home that has made a model."""
    made = record(
        hosted=True, backend="openai", provider_id="ftjob-1", step="sent", host="h",
        status=JobStatus.SUCCEEDED, finished_at=time.time(), tries=1,
        result=Result(kind="hosted", model=model),
    )  # fmt: skip
    Gateway().store.add(made)
    return made


def test_what_is_kept_goes_with_the_job(home: Path, ftg: Ftg) -> None:
    """The answers of its model, by its name or because it was asked for this job, and the
    comparisons that it is in; what others have answered stays, and so do the costs."""
    with Provider(answer_with=lambda body: WORD) as provider:
        tuned, other = hosted(provider), hosted(provider, BASES[1], key="other")
        answers([tuned, other], prompts(2))
    made, spent = job(tuned.model), Gateway().budget().spent_usd
    both, one = comparison(tuned, other), comparison(other, name="cmp-00000002")
    assert len(compared.answer_folders(Settings.load())) == 2
    planned_bytes = json.loads(ftg("rm", made.id, "--yes", "--json").stdout)["removed"][0]["bytes"]
    assert planned_bytes > 500
    assert not both.exists() and one.exists()
    (left,) = compared.answer_folders(Settings.load())
    assert left.name == other.fingerprint
    assert Gateway().budget().spent_usd == spent > 0
    assert all(other.fingerprint in path or one.name in path for path in traces(home, WORD))


def test_a_comparison_that_was_not_kept_whole_goes_too(home: Path) -> None:
    """Its texts are never on the disk without the names of its models; a line that somebody has
    changed beside the answers of another model is in nobody's way."""
    with Provider() as provider:
        tuned = hosted(provider)
        answers([tuned], prompts(1))
    made = job(tuned.model)
    folder = comparison(tuned)
    long = ComparedAnswer(model=tuned.key, row="r", message={"content": WORD * 20_000})
    data = Comparison.load(folder.name).data
    rows = [ComparedRow(prompt=one, cluster=one.id) for one in prompts(1)]
    with short_files(100_000), pytest.raises(StoreError):
        keep(Settings.load(), data, rows, [ScoredAnswer(answer=long)])
    assert (folder / "rows.jsonl").stat().st_size and not (folder / "comparison.json").exists()
    (kept,) = compared.answer_folders(Settings.load())
    (kept / "charges.jsonl").write_bytes(b'[]\n{"charge"}\n{}\n\xff\n')
    assert list(compared.charges_of(kept)) == []
    assert Gateway().job(made.id).remove()
    assert not folder.exists() and not kept.exists()


def test_either_is_counted_and_removed_by_its_name(home: Path, ftg: Ftg) -> None:
    """Asked first; by the beginning of the fingerprint, or by the model."""
    with Provider(answer_with=lambda body: WORD) as provider:
        model = hosted(provider)
        answers([model], prompts(2))
    comparison(model)
    checks = {one["name"]: one for one in json.loads(ftg("doctor", "--json").stdout)["checks"]}
    assert "comparisons" in checks["data"]["found"] and "answers" in checks["data"]["found"]
    names = ("cmp-00000001", f"answers:{model.fingerprint[:12]}")
    refused = ftg("rm", *names)
    assert (
        refused.returncode == 4 and "comparison of" in refused.stderr and names[1] in refused.stderr
    )
    said = " ".join(refused.stderr.split())
    assert "Answers that are kept stay, until ftg rm answers:MODEL; its costs" in said
    assert said.count("To ask again costs again") == 1  # without the answers alone
    done = ftg("rm", names[0], f"answers:{model.model}", "--yes")
    assert done.stdout.split("\n")[:2] == [f"{name} removed" for name in names]
    assert ftg("rm", "cmp-9", "--yes").returncode == ftg("rm", "answers:no").returncode == 102
    assert traces(home, WORD) == []


def test_the_newest_comparison_goes_by_that_name(home: Path, ftg: Ftg) -> None:
    """As ``ftg report cmp-latest`` shows it, though two were kept at the same time."""
    with Provider() as provider:
        model = hosted(provider)
    folders = [comparison(model, name=f"cmp-0000000{number}") for number in (7, 9, 8)]
    at = time.time_ns()
    for later, folder in enumerate(folders):
        os.utime(folder / "comparison.json", ns=(at + later, at + later))
    done = ftg("rm", "cmp-latest", "--yes")
    assert done.stdout.startswith("cmp-00000008 removed") and not folders[2].exists()
    assert ftg("report", "cmp-latest", "--json").returncode == 0
    assert ftg("rm", "cmp-latest", "--yes").stdout.startswith("cmp-00000009 removed")
    assert ftg("rm", "cmp-latest", "--yes").returncode == 0
    assert ftg("rm", "cmp-latest", "--yes").returncode == 102


def test_prune_takes_them_by_a_named_age_alone(home: Path, ftg: Ftg) -> None:
    """Those that nothing was added to, and that nobody asks for more."""
    with Provider() as provider:
        model = hosted(provider)
        answers([model], prompts(2))
    comparison(model)
    assert ftg("prune", "--dry-run").stderr.startswith("There is nothing to remove")
    lock = files.try_lock(compared.lock_of(Settings.load(), model.fingerprint))
    assert lock is not None
    shown = ftg("prune", "--older-than", "0d", "--dry-run").stderr
    assert "cmp-00000001" in shown and "answers:" not in shown
    with pytest.raises(StoreError, match="A process is asking"):
        compared.remove(Store(Settings.load()), home / "answers" / model.fingerprint)
    os.close(lock)
    assert ftg("prune", "--older-than", "0d", "--yes").returncode == 0
    assert not [*(home / "answers").iterdir(), *(home / "comparisons").iterdir()]


@pytest.mark.parametrize("about", ["{", '{"model": "m", "jobs": 5}', None])
def test_what_is_damaged_is_not_hidden_from_a_removal(
    home: Path, ftg: Ftg, about: str | None
) -> None:
    """Whose they are cannot be told: a removal of the job names them, and so does doctor."""
    with Provider(answer_with=lambda body: WORD) as provider:
        tuned = hosted(provider)
        answers([tuned], prompts(1))
    made, path = job(tuned.model), home / "answers" / tuned.fingerprint / "about.json"
    path.unlink()
    if about is not None:
        path.write_text(about)
    name = f"answers:{tuned.fingerprint[:12]}"
    left = Gateway().job(made.id).remove().left
    assert any(f"ftg rm {name}" in one for one in left) and traces(home, WORD)
    checks = machine_checks.check_machine(Settings.load(), None)
    (found,) = (one for one in checks if name in one.found)
    assert (found.state, found.fix) == ("warning", f"To remove it: ftg rm {name}")
    compared.remove(Store(Settings.load()), *compared.find(Settings.load(), name))
    assert traces(home, WORD) == [] and compared.of_nobody(Settings.load()) == []


@pytest.mark.parametrize("bad", ["NaN", "1e999", "[" * 5000])
def test_a_changed_answer_is_named_by_file_and_line(home: Path, bad: str) -> None:
    """Whatever it is; half a line at the end is one that a kill has left, and is asked again."""
    with Provider() as provider:
        model = hosted(provider)
        answers([model], prompts(3))
        path = home / "answers" / model.fingerprint / "answers.jsonl"
        lines = path.read_text().splitlines()
        seconds = json.loads(lines[1])["seconds"]
        changed = lines[1].replace(f'"seconds":{seconds}', f'"seconds":{bad}')
        path.write_text("\n".join([lines[0], changed, lines[2]]) + "\n")
        with pytest.raises(StoreError, match=r"answers\.jsonl, line 2, has"):
            answers([model], prompts(3))
        path.write_text("\n".join([lines[0], lines[1], lines[2][:-9]]))
        assert answers([model], prompts(3)).asked == 1


def test_numbers_of_a_host_that_are_none_are_kept_as_nothing(home: Path) -> None:
    """Python reads NaN as JSON; what was paid must be found again."""
    with Provider() as provider:
        body = (
            '{"choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes."}, '
            '"logprobs": {"content": [{"token": "Yes", "logprob": -Infinity}]}, "finish_reason": '
            '"stop"}], "usage": {"prompt_tokens": NaN, "completion_tokens": 1e999}}'
        )
        provider.fault("POST /chat/completions", Fault("body", body=body.encode()))
        model = hosted(provider)
        answers([model], prompts(1))
        again = answers([model], prompts(1))
        (answer,) = again.answers.values()
        assert (again.asked, again.kept, answer.text) == (0, 1, "Yes.")
        assert answer.prompt_tokens is None and answer.usd


def test_a_comparison_that_two_keep_at_the_same_time_is_whole(home: Path) -> None:
    """The same command in two terminals: each writes it, one after the other."""
    data = Comparison.load(comparison().name).data
    rows = [ComparedRow(prompt=one, cluster=one.id) for one in prompts(9)]
    with ThreadPoolExecutor(4) as pool:
        kept = [pool.submit(keep, Settings.load(), data, rows, []) for _ in range(8)]
        assert all(one.result().rows() == rows for one in kept)
    assert Comparison.load(data.id).rows() == rows


@pytest.mark.parametrize("kind", ["answers/abc", "comparisons/cmp-1", "recordings/r"])
def test_a_link_is_no_folder_that_is_removed(home: Path, tmp_path: Path, kind: str) -> None:
    """What it leads to would stay, and nobody would know."""
    store = Store(Settings.load().create())
    away, folder = tmp_path / "away", home / kind
    away.mkdir()
    (away / "answers.jsonl").write_text(WORD)
    files.folder(folder.parent)
    folder.symlink_to(away)
    remove = recordings.remove if kind.startswith("recordings") else compared.remove
    with pytest.raises(StoreError, match="is a link, and what it leads to"):
        remove(store, folder)
    assert folder.is_symlink() and (away / "answers.jsonl").exists()


def test_the_beginning_of_several_fingerprints_removes_none(home: Path) -> None:
    """What was paid is not removed by a letter that was meant otherwise."""
    folders = [home / "answers" / f"ab{end * 62}" for end in "01"]
    for folder in folders:
        files.folder(folder)
    with pytest.raises(SpecError, match="More than one fingerprint begins with 'ab'"):
        compared.find(Settings.load(), "answers:ab")
    assert compared.find(Settings.load(), "answers:ab0") == folders[:1]


def killed(provider: Provider, count: int) -> None:
    """Ask one model, and be killed with most answers on their way."""
    provider.fault("POST /chat/completions", *["ok"] * 4, *["late"] * 16, seconds=5.0)
    model = hosted(provider)

    def die(done: int, every: int, title: str) -> None:
        if done == 4:
            os.kill(os.getpid(), 9)

    killed_after(lambda: answers([model], prompts(count), on_progress=die))


def test_what_a_killed_run_has_cost_is_settled(home: Path, ftg: Ftg) -> None:
    """By name, without asking anybody; by the next run; and doctor names it until then. What was in
    flight counts at its most, against the limit of all runs of that name too."""
    with Provider() as provider:
        killed(provider, 30)
        reserved = Gateway().budget().reserved_usd
        checks = {one["name"]: one for one in json.loads(ftg("doctor", "--json").stdout)["checks"]}
        assert RUN in checks["reserved"]["found"] and reserved > 0
        lock = files.try_lock(compared.lock_of(Settings.load(), hosted(provider).fingerprint))
        assert lock is not None
        with pytest.raises(JobNotFinished, match="is asking"):
            settle(Settings.load(), RUN)
        assert "reserved" not in {
            one["name"] for one in json.loads(ftg("doctor", "--json").stdout)["checks"]
        }
        os.close(lock)
        posts = provider.posts["/chat/completions"]
        said = json.loads(ftg("settle", RUN, "--json").stdout)
        assert provider.posts["/chat/completions"] == posts
        budget = Gateway().budget()
        assert budget.reserved_usd == 0 and float(said["spent_usd"]) == float(budget.spent_usd)
        assert 0 < budget.spent_usd < reserved
        limit = limit_of(Store(Settings.load()), RUN, None)
        assert limit.spent == budget.spent_usd
        with pytest.raises(NotFoundError):
            settle(Settings.load(), "compare:cmp-none")
        assert planned([hosted(provider)], prompts(30)).again > 0


def test_what_a_killed_run_has_cost_stays_when_its_answers_go(home: Path, ftg: Ftg) -> None:
    """Counted by its requests, and whole where these were changed."""
    for damaged in (False, True):
        with Provider() as provider:
            killed(provider, 30)
            model = hosted(provider)
            (charge,) = charges.unsettled(Store(Settings.load()))
            if damaged:
                (home / "answers" / model.fingerprint / "requests.jsonl").write_text("{}\n")
            assert ftg("rm", f"answers:{model.model}", "--yes").returncode == 0
        (known,) = charges.of_name(Store(Settings.load()), "", {charge.id})
        assert known.spent_usd is not None and known.spent_usd > 0
        assert (known.spent_usd == known.reserved_usd) is damaged


@pytest.mark.parametrize("field", ["seconds", "usd", "finish_reason", "usage", "note", "message"])
def test_an_answer_that_was_changed_by_hand_is_read_or_refused(home: Path, field: str) -> None:
    """In words, with the file."""
    with Provider() as provider:
        model = hosted(provider)
        answers([model], prompts(1))
        path = home / "answers" / model.fingerprint / "answers.jsonl"
        line = json.loads(path.read_text())
        odds: list[Any] = ["x", [], {"a": 1}, -1, True, None]
        for odd in odds:
            path.write_text(json.dumps({**line, field: odd}) + "\n")
            try:
                answers([model], prompts(1))
            except StoreError as exc:
                assert str(path) in str(exc) and "Put a copy back" in str(exc)


def test_another_process_that_asks_the_same_model_is_named(home: Path) -> None:
    """Nothing is sent twice; what is kept already can be read all the same."""
    with Provider() as provider:
        model = hosted(provider)
        answers([model], prompts(2))
        lock = files.try_lock(compared.lock_of(Settings.load(), model.fingerprint))
        assert lock is not None
        with pytest.raises(JobNotFinished, match="Another process is asking"):
            answers([model], prompts(3))
        found = answers([model], prompts(2))
        os.close(lock)
        assert found.kept == 2 and provider.posts["/chat/completions"] == 2
        assert isinstance(found.answers[model.key, prompts(1)[0].id, 0], ComparedAnswer)
