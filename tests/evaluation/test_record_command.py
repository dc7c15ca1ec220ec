"""ftg migrate record on the command line; which rows are proposed; and how a recording goes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli import Done, Ftg, at_terminal
from support.hosted import connect
from support.provider import Fault, Provider
from support.recordings import CHAT, asked, recorded, rows, tuned
from support.traces import traces

from finetune_gateway import Gateway, NotFoundError, SpecError
from finetune_gateway.evaluation import Recording, asking
from finetune_gateway.jobs import fetched
from finetune_gateway.jobs.fetched import Kind, Manifest, Piece

Run = Callable[..., Done]


@pytest.fixture
def provider() -> Iterator[Provider]:
    """A provider, started, with a fine-tune."""
    with Provider() as started:
        tuned(started)
        yield started


@pytest.fixture
def record(provider: Provider, ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``ftg migrate record`` of the fine-tune, with six rows."""
    monkeypatch.setenv("RECORD_KEY", provider.api_key)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(6)))

    def run(*words: str, data: bool = True) -> Done:
        given = ["--base-url", provider.url, "--api-key-env", "RECORD_KEY", "--profile", "openai"]
        given += ["--data", str(file)] if data else []
        return ftg("migrate", "record", tuned(provider), *given, *words)

    return run


def test_nothing_is_sent_before_a_yes(record: Run, provider: Provider) -> None:
    """The plan says which rows, how, at what price and until when; without a terminal a yes has to
    be given."""
    refused = record("--name", "a")
    assert refused.returncode == 4 and "there is no terminal to confirm" in refused.stderr
    said = " ".join(refused.stderr.split())
    for words in (
        f"recorded:a: {tuned(provider)}", "6 rows of rows.jsonl: each asked once,",
        "answers of at most 1,024 tokens, temperature 0, log-probabilities", "Estimated cost: $",
        ") if no request is repeated At",
        "At $3.75 per million tokens read and $15.00 written, as of 2026-10-05,",
        "stops answering on 2027-01-14 (in 54 days)", "a matter of the provider's terms",
    ):  # fmt: skip
        assert words in said, said
    dry = record("--name", "a", "--dry-run", "--json")
    plan = json.loads(dry.stdout)
    assert dry.returncode == 0 and plan["left"] == 6 and plan["prices"][0]["as_of"] == "2026-10-05"
    assert provider.posts["/chat/completions"] == 0


def test_a_yes_at_the_terminal(
    record: Run, provider: Provider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And a no; Ctrl-C says that nothing was sent."""
    words = ["migrate", "record", tuned(provider), "--base-url", provider.url, "--name", "a"]
    words += ["--api-key-env", "RECORD_KEY", "--data", str(tmp_path / "rows.jsonl")]
    assert at_terminal(monkeypatch, "n\n", *words).returncode == 4
    stopped = at_terminal(monkeypatch, "", *words, ctrl_c=True)
    assert stopped.returncode == 130 and "Nothing was sent." in stopped.stderr
    assert provider.posts["/chat/completions"] == 0
    assert at_terminal(monkeypatch, "y\n", *words).returncode == 0 and asked(provider) == {1: 6}


def test_the_name_is_the_result(record: Run, provider: Provider) -> None:
    """On stdout alone; --json has figures and no texts; the second time nothing is asked."""
    done = record("--yes", "-q")
    assert done.stdout.startswith("recorded:tune-0-") and done.stderr == ""
    again = record("--json", data=False)
    found = json.loads(again.stdout)
    assert again.returncode == 0 and (found["answers"], found["left"]) == (6, 0)
    assert found["run"]["asked"] == 0 and found["finish_reasons"] == {"stop": 6}
    assert "parcel" not in again.stdout and asked(provider) == {1: 6}


def test_a_limit_gives_exit_4_and_a_batch_101(record: Run, provider: Provider) -> None:
    """What was done is said, and how it goes on."""
    stopped = record("--yes", "--name", "a", "--max-cost", "0.016", "--at-once", "1")
    assert stopped.returncode == 4 and "could pass the limit of 0.0160 USD" in stopped.stderr
    begun = record("--yes", "--name", "b", "--batch")
    assert begun.returncode == 0 and "0 of 6 answers" in begun.stderr
    before = len(provider.requests)
    assert record("--name", "b", "--batch", "--dry-run").returncode == 101
    assert len(provider.requests) == before
    waits = record("--name", "b", "--batch")
    assert waits.returncode == 101 and "a batch is under way" in waits.stderr
    ended = [record("--name", "b", "--batch").returncode for _ in range(6)]
    assert ended[-1] == 0 and provider.posts["/batches"] == 1
    assert record("--yes", "--name", "b", "--temperature", "1").returncode == 2


def test_errors_and_cut_answers_are_said(record: Run, provider: Provider) -> None:
    """With their number and the host's words; exit 0: the recording is there."""
    provider.world.refused_words = ("parcel 2",)
    done = record("--yes", "--max-tokens", "3")
    said = " ".join(done.stderr.split())
    assert done.returncode == 0 and "5 of 6 answers" in said
    assert "5 answers were cut at 3 tokens: --max-tokens" in said
    assert "1 request without an answer, kept apart: 1 x " in said and "flagged" in said


def test_a_key_that_is_refused_has_its_exit_code(
    record: Run, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that is missing."""
    provider.keys.clear()
    assert record("--yes").returncode == 5
    monkeypatch.delenv("RECORD_KEY")
    assert record("--yes").returncode == 5


def test_a_dead_model_is_102(
    record: Run, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pauses are said; then why."""
    monkeypatch.setattr(asking, "COLD_SECONDS", (0.01, 0.01))
    provider.fault(CHAT, *[Fault("status", status=404, code="model_not_found")] * 40)
    done = record("--yes")
    assert done.returncode == 102 and "it may be starting, try again later" in done.stderr
    assert "a cold one may say so for minutes" in done.stderr


def test_of_several_keys_the_one_that_sees_the_model_asks(
    provider: Provider, ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others belong to other projects."""
    provider.keys["sk-other-0123456789"] = "other"
    monkeypatch.setenv("OTHER_KEY", "sk-other-0123456789")
    monkeypatch.setenv("RECORD_KEY", provider.api_key)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows(3)))
    done = ftg(
        *("migrate", "record", tuned(provider), "--base-url", provider.url, "--yes"),
        *("--key-env", "OTHER_KEY", "--key-env", "RECORD_KEY"),
        *("--data", str(tmp_path / "rows.jsonl")),
    )
    assert done.returncode == 0, done.stderr
    assert asked(provider) == {1: 3}


# -- which rows ----------------------------------------------------------------------------------


def trained(provider: Provider, home: Path, **options: object) -> str:
    """The id of a job of ours at the provider that has ended well."""
    backend = connect(provider, profile="openai", poll_seconds=0.01)
    gateway = Gateway()
    job = gateway.submit(
        rows(40),
        model="gpt-4.1-mini-2025-04-14",
        backend=backend,
        **options,  # type: ignore[arg-type]
    )
    return job.wait(30).id


def test_the_rows_that_its_job_has_held_out_are_proposed(home: Path) -> None:
    """By the job's name, with its host and key."""
    from finetune_gateway import evaluation

    with Provider() as provider:
        job = trained(provider, home, validation_split=0.2)
        backend = connect(provider, profile="openai")
        done = evaluation.record(job, backend=backend)
        held_out = Gateway().job(job).record.validation
    assert held_out is not None and done.about.rows == held_out.rows
    assert done.about.data == f"the held-out rows of {job}" and done.about.job_id == job


def test_else_a_sample_of_its_training_rows_that_leaks_nothing(home: Path) -> None:
    """It is said that the model has seen them, and what a replacement is trained on."""
    from finetune_gateway import evaluation

    with Provider() as provider:
        job = trained(provider, home)
        done = evaluation.record(job, backend=connect(provider, profile="openai"))
    assert 1 <= done.about.rows < 12 and "the model was trained on these rows" in done.about.data
    assert "ftg split FILE --ratio 0.9/0.1 --seed 0" in done.about.data


def test_what_was_fetched_comes_first(home: Path) -> None:
    """The validation file, else stored prompts; without any the way to them is said."""
    from finetune_gateway import evaluation

    with Provider() as provider:
        model = tuned(provider)
        backend = connect(provider, profile="openai")
        with pytest.raises(SpecError, match="is to be asked is not said") as caught:
            evaluation.record(model, backend=backend)
        assert f"ftg migrate fetch {model}" in caught.value.hint
        settings, kept = Gateway().settings, []
        every: tuple[tuple[Kind, int], ...] = (("training", 30), ("stored", 4), ("validation", 3))
        for kind, count in every:
            lines = [json.dumps(row).encode() + b"\n" for row in rows(count)]
            with fetched.writing(settings):
                content, sha256, size = fetched.keep(settings, lines, lambda: ".jsonl")
                saved = {"content": content, "sha256": sha256, "bytes": size}
                kept.append(Piece.model_validate({"kind": kind, "state": "saved", **saved}))
                pieces = tuple(kept)
                manifest = Manifest(host="h", job_id="ftjob-1", model=model, pieces=pieces)
                fetched.save(settings, manifest)
            done = evaluation.record(model, backend=backend, name=kind)
            words = {"training": "a tenth of the training rows", "stored": "the stored production"}
            assert {"validation": "the held-out rows of ftjob-1", **words}[kind] in done.about.data
    assert (done.about.rows, Recording.load("stored").about.rows) == (3, 4)


# -- and how it goes -----------------------------------------------------------------------------


def test_a_recording_is_counted_and_removed(home: Path, ftg: Ftg) -> None:
    """By doctor and rm: nothing of prompts, answers or its name is left, but what it cost."""
    with Provider() as provider:
        data = rows(3, answer="The Wagrowiec depot.")
        data[0]["messages"][1]["content"] = "Is it Szczebrzeszyn?"
        recorded(provider, data, name="zzyzx")
    checks = {one["name"]: one for one in json.loads(ftg("doctor", "--json").stdout)["checks"]}
    assert "recordings" in checks["data"]["found"] and "reserved" not in checks
    assert traces(home, "Szczebrzeszyn") and traces(home, "zzyzx")
    assert (
        ftg("rm", "recorded:zzyzx").returncode == 4 and ftg("rm", "recorded:no").returncode == 102
    )
    before = Gateway().budget()
    done = ftg("rm", "recorded:zzyzx", "--yes")
    assert done.returncode == 0 and done.stdout == "recorded:zzyzx removed\n"
    for word in ("Szczebrzeszyn", "Wagrowiec", "zzyzx"):
        assert traces(home, word) == []
    assert Gateway().budget().spent_usd == before.spent_usd > 0
    with pytest.raises(NotFoundError):
        Recording.load("zzyzx")


def test_prune_takes_recordings_by_a_named_age_alone(home: Path, ftg: Ftg) -> None:
    """They may be in no other place; one whose costs are not settled stays."""
    with Provider() as provider:
        recorded(provider, rows(3), name="a")
        recorded(provider, rows(3), name="b", batch=True)
    assert "recorded:" not in ftg("prune", "--dry-run").stderr
    shown = ftg("prune", "--older-than", "0d", "--dry-run").stderr
    assert "recorded:a" in shown and "recorded:b" not in shown
    assert ftg("prune", "--older-than", "0d", "--yes").returncode == 0
    assert [path.name for path in (home / "recordings").iterdir()] == ["b"]
    checks = {one["name"]: one for one in json.loads(ftg("doctor", "--json").stdout)["checks"]}
    assert checks["reserved"]["state"] == "warning" and "recorded:b" in checks["reserved"]["found"]


def test_a_model_at_an_address_is_asked_there(
    provider: Provider, ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """https://HOST/v1#MODEL, as compare takes it; the key that is named is that of this host."""
    monkeypatch.setenv("RECORD_KEY", provider.api_key)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(2)))
    words = ["migrate", "record", f"{provider.url}#{tuned(provider)}", "--data", str(file), "--yes"]
    done = ftg(*words, "--api-key-env", "RECORD_KEY", "--quiet")
    assert done.returncode == 0, done.stderr
    assert len(provider.world.asked) == 2
    twice = ftg(*words, "--base-url", provider.url)
    assert twice.returncode == 2 and "MODEL names a host already" in twice.stderr
    none = ftg("migrate", "record", provider.url, "--data", str(file), "--yes")
    assert none.returncode == 2 and "names a host and no model" in none.stderr
