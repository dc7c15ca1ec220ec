"""ftg migrate fetch: what a host keeps of fine-tunes is saved whole, once, and with its reasons."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cli import Ftg
from support.modes import wide
from support.provider import Fault, Provider

from finetune_gateway import (
    BackendError,
    Gateway,
    NotFoundError,
    OpenAIBackend,
    StoreError,
    migration,
)
from finetune_gateway.jobs import fetched
from finetune_gateway.migration.archived import Archive
from finetune_gateway.settings.home import Settings

Json = dict[str, Any]
JOBS, FILES = "GET /fine_tuning/jobs", "GET /files"
CONTENT, EVENTS = "GET /files/*/content", "GET /fine_tuning/jobs/*/events"
CHECKPOINTS = "GET /fine_tuning/jobs/*/checkpoints"
SHOP, RESTRICTED = "sk-shop-0123456789abcdef", "sk-some-0123456789abcdef"


@pytest.fixture
def provider(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    keys = {SHOP: "main proj_shop", RESTRICTED: "main"}
    with Provider(keys=keys) as running:
        monkeypatch.setenv("MAIN_PASS", running.api_key)
        monkeypatch.setenv("SHOP_PASS", SHOP)
        monkeypatch.setenv("SOME_PASS", RESTRICTED)
        yield running


def host(provider: Provider, variable: str = "MAIN_PASS") -> OpenAIBackend:
    return OpenAIBackend(base_url=provider.url, api_key_env=variable)


def fetch(provider: Provider, models: Any = None, *variables: str, **options: Any) -> Archive:
    backends = [host(provider, one) for one in variables or ("MAIN_PASS",)]
    return migration.fetch(models, backends, **options)


def asked(provider: Provider) -> Counter[str]:
    """What was asked for since the last time."""
    found = Counter(path for _, path, _ in provider.requests)
    provider.requests.clear()
    return found


def truth(provider: Provider, file_id: str) -> bytes:
    return str(provider.world.files[file_id]["content"]).encode("latin-1")


def lines(path: str | Path | None) -> list[Json]:
    return [json.loads(line) for line in Path(path or "").read_text().splitlines()]


def states(archive: Archive) -> dict[str, str]:
    """Of one fine-tune: kind -> state and why."""
    assert len(archive.jobs) == 1
    return {one.kind: f"{one.state} {one.why}".strip() for one in archive.jobs[0].pieces}


# -- what is saved -------------------------------------------------------------------------------


def test_all_that_a_host_keeps_is_saved_as_it_is(provider: Provider, home: Path) -> None:
    """Byte by byte, by content, for this user alone; a result in base64 as CSV."""
    tunes = provider.world.add_fine_tunes(2, results="base64")
    archive = fetch(provider)
    assert archive.complete and archive.counts == {"saved": 14} and wide(home) == {}
    for tune, job in zip(tunes[::-1], archive.jobs, strict=True):
        assert (job.model, job.job_id) == (tune["fine_tuned_model"], tune["id"])
        for kind, field in (("training", "training_file"), ("validation", "validation_file")):
            path = job.path(kind)  # type: ignore[arg-type]  # a kind of piece
            assert path and path.read_bytes() == truth(provider, tune[field])
        result = job.path("result")
        assert result and result.read_text().startswith("step,train_loss")
        assert json.loads(Path(job.paths["job.json"]).read_text()) == tune
        events = lines(job.paths["events.jsonl"])
        assert len(events) == len(provider.world.events(provider.world.jobs[tune["id"]]))
        assert [one["step"] for one in lines(job.paths["metrics.jsonl"])] == [*range(1, 13)]
        for piece in job.pieces:
            kept = home / "fetched" / "files" / piece.content
            named = Path(job.folder) / piece.name
            assert kept.samefile(named)  # one copy with two names
            assert hashlib.sha256(kept.read_bytes()).hexdigest() == piece.sha256
    assert Gateway().validate(archive.jobs[0].path("training") or "", model=None).rows


def test_a_shared_file_is_fetched_once(provider: Provider, home: Path) -> None:
    """By its id; equal contents with different ids lie once on the disk."""
    world = provider.world
    tunes = world.add_fine_tunes(3)
    shared = tunes[0]["training_file"]
    twin = world.keep_file("fine-tune", "twin.jsonl", truth(provider, shared))
    world.jobs[tunes[1]["id"]]["request"]["training_file"] = shared
    world.jobs[tunes[2]["id"]]["request"]["training_file"] = twin
    archive = fetch(provider)
    paths = [job.path("training") for job in archive.jobs]
    assert asked(provider)[f"/files/{shared}/content"] == 1
    assert len({path.stat().st_ino for path in paths if path}) == 1 and None not in paths


def test_nothing_is_asked_for_twice(provider: Provider) -> None:
    """A second run reads the list of jobs, and a named one nothing; what is new is fetched."""
    tunes = provider.world.add_fine_tunes(3)
    fetch(provider)
    first = asked(provider)
    assert max(first.values()) == 1
    assert fetch(provider).counts == {"saved": 21}
    assert asked(provider) == {"/fine_tuning/jobs": 1}
    assert fetch(provider, [tunes[0]["fine_tuned_model"], tunes[1]["id"]]).complete
    assert asked(provider) == {}
    new = provider.world.add_fine_tune()
    assert [job.changed for job in fetch(provider).jobs].count(0) == 3
    again = asked(provider)
    about = {new["id"], new["training_file"], new["validation_file"], *new["result_files"]}
    assert {path for path in again if not any(one in path for one in about)} == {
        "/fine_tuning/jobs",
        "/files",
    }


def test_a_job_that_runs_is_asked_again_until_it_has_ended(provider: Provider) -> None:
    file = provider.world.add_file("fine-tune", "t.jsonl", b'{"messages": []}\n' * 12)
    job = provider.world.create({"model": "gpt-4o-2024-08-06", "training_file": file["id"]})
    assert fetch(provider).jobs[0].status == "validating_files"
    provider.world.jobs[job["id"]]["stage"] = 99
    asked(provider)
    archive = fetch(provider, job["id"])
    assert archive.jobs[0].status == "succeeded" and archive.jobs[0].model
    assert f"/files/{file['id']}/content" not in asked(provider)
    fetch(provider, archive.jobs[0].model)
    assert asked(provider) == {}


# -- what is not saved, and why ------------------------------------------------------------------


def test_gone_and_not_visible_are_kept_apart(provider: Provider) -> None:
    """Gone is what a key lacks that sees another file of the same job."""
    world = provider.world
    tune = world.add_fine_tune()
    world.delete_file(tune["validation_file"])
    found = states(fetch(provider, tune["id"]))
    assert found["training"] == "saved" and found["validation"] == "gone not_there"
    other = world.add_fine_tune()
    for name in ("training_file", "validation_file"):
        world.delete_file(other[name])
    world.delete_file(other["result_files"][0])
    found = states(fetch(provider, other["id"]))
    assert {found[kind] for kind in ("training", "validation", "result")} == {
        "not_visible not_there"
    }
    asked(provider)
    assert fetch(provider).complete
    assert asked(provider) == {"/fine_tuning/jobs": 1}  # the same key would hear the same


def test_another_projects_files_come_with_its_key(provider: Provider) -> None:
    """Where an organisation's keys list all jobs; only what the first key lacked is asked for."""
    provider.world.jobs_by_project = False
    tune = provider.world.add_fine_tune(account="main proj_shop")
    assert states(fetch(provider))["training"] == "not_visible not_there"
    asked(provider)
    assert states(fetch(provider, None, "MAIN_PASS", "SOME_PASS"))["result"].startswith("not_v")
    again = asked(provider)  # with the second key alone
    assert {count for path, count in again.items() if "content" in path} == {1}
    archive = fetch(provider, None, "MAIN_PASS", "SHOP_PASS")
    assert archive.counts == {"saved": 7} and archive.jobs[0].pieces[1].key == "SHOP_PASS"
    contents = {path: count for path, count in asked(provider).items() if "content" in path}
    assert set(contents.values()) == {1} and f"/files/{tune['training_file']}/content" in contents


REFUSALS: dict[str, tuple[Json, str]] = {
    "free accounts": ({"free_account": True}, "free_account"),
    "a purpose": ({"refused_purposes": ("fine-tune",)}, "purpose"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_refusals_are_kept_apart_and_asked_again(
    refusal: str, provider: Provider, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, why = REFUSALS[refusal]
    for name, value in settings.items():
        setattr(provider.world, name, value)
    tune = provider.world.add_fine_tune()
    found = states(fetch(provider))
    assert (found["training"], found["result"]) == (f"refused {why}", "saved")
    at = ("--base-url", provider.url, "--api-key-env", "MAIN_PASS")
    done = ftg("migrate", "fetch", "--all", *at)
    assert done.returncode == 1 and done.stderr.count("Refused: training, validation of ft:") == 1
    provider.world.free_account, provider.world.refused_purposes = False, ()
    asked(provider)
    assert fetch(provider).complete
    assert asked(provider)[f"/files/{tune['training_file']}/content"] == 1


def test_a_missing_scope_is_named_and_another_key_is_asked(provider: Provider) -> None:
    """Once for each kind of thing, however many fine-tunes there are."""
    provider.lacks = {RESTRICTED: ["api.files.read"]}
    provider.world.add_fine_tunes(3)
    archive = fetch(provider, None, "SOME_PASS")
    assert archive.counts["refused"] == 9 and not archive.complete
    assert [(one.key, one.scope) for one in archive.refused] == [("SOME_PASS", "api.files.read")]
    assert sum("content" in path for path in asked(provider)) == 3
    provider.lacks[provider.api_key] = ["api.fine_tuning.jobs.read"]
    both = fetch(provider, None, "SOME_PASS", "MAIN_PASS")
    assert both.counts == {"saved": 21}
    assert {one.scope for one in both.refused} == {"api.files.read", "api.fine_tuning.jobs.read"}


def test_a_key_that_is_shown_no_job_is_an_error(provider: Provider) -> None:
    provider.keys.clear()
    with pytest.raises(BackendError, match="Incorrect API key"):
        fetch(provider)


def test_an_unknown_name_is_answered_with_the_nearest(provider: Provider) -> None:
    """And nothing is fetched of the others. Its last part, or a checkpoint, is known."""
    tune = provider.world.add_fine_tune(suffix="shop")
    name = tune["fine_tuned_model"]
    with pytest.raises(NotFoundError) as caught:
        fetch(provider, [name, f"{name[:-1]}!"])
    assert f"Did you mean {name}?" in caught.value.hint
    assert asked(provider) == {"/fine_tuning/jobs": 1}
    points = provider.world.list_checkpoints(tune["id"], {})["data"]
    for known in (points[-1]["fine_tuned_model_checkpoint"], name.rpartition(":")[2]):
        assert fetch(provider, known).jobs[0].model == name


# -- faults --------------------------------------------------------------------------------------

FAULTS = {
    "429": Fault("busy", seconds=0.01),
    "500": Fault("error_after"),
    "503": Fault("refuse"),
    "cut": Fault("cut"),
    "half of it": Fault("truncated"),
    "a portal": Fault("html_ok"),
    "reset": Fault("reset_after"),
    "slow": Fault("slow", seconds=0.05),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_pass_and_leave_nothing_half(fault: str, provider: Provider, home: Path) -> None:
    """Each kind of request meets it once; a file that came in part is not kept."""
    tune = provider.world.add_fine_tune()
    for endpoint in (JOBS, FILES, EVENTS, CHECKPOINTS):
        provider.fault(endpoint, FAULTS[fault])
    provider.fault(CONTENT, FAULTS[fault], "ok", "ok", FAULTS[fault])  # training, result
    archive = fetch(provider)
    assert archive.complete and archive.counts == {"saved": 7}
    training = archive.jobs[0].path("training")
    assert training and training.read_bytes() == truth(provider, tune["training_file"])
    result = archive.jobs[0].path("result")
    assert result and result.read_bytes() == truth(provider, tune["result_files"][0])
    assert len([*(home / "fetched" / "files").iterdir()]) == 7


def test_a_host_that_fails_is_left_alone_and_the_next_run_goes_on(provider: Provider) -> None:
    """After three failures in a row; what is saved until then stays."""
    provider.world.add_fine_tunes(3, validation_rows=0)
    for endpoint, before in ((CONTENT, 2), (EVENTS, 0), (CHECKPOINTS, 0)):
        provider.fault(endpoint, *["ok"] * before, *["refuse"] * 9)
    archive = fetch(provider)
    assert archive.stopped and archive.left == 1 and not archive.complete
    # The job, two files and the metrics of the result; of the next one the job.
    assert archive.counts == {"saved": 5, "failed": 3}
    provider.faults.clear()
    asked(provider)
    assert fetch(provider).counts == {"saved": 18}
    again = asked(provider)
    assert max(again.values()) == 1 and sum(again.values()) == 2 + 2 + 4 + 4  # two of them lists


def test_a_host_that_asks_to_wait_is_waited_for(provider: Provider) -> None:
    """As long as it says, and by what it says is left, so that it turns nothing away."""
    world = provider.world
    world.add_fine_tunes(2)
    world.limits_all, world.request_limit, world.window_seconds = True, 4, 0.15
    waits: list[float] = []
    archive = fetch(provider, on_wait=waits.append)
    assert archive.complete and waits and max(waits) <= 0.16
    assert world.turned_away == 0


def test_two_at_once_are_refused(provider: Provider) -> None:
    provider.world.add_fine_tune()
    with fetched.writing(Settings.load()), pytest.raises(StoreError, match="Another process"):
        fetch(provider)


def test_a_disk_without_links_has_the_contents_alone(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("finetune_gateway.jobs.fetched._link", lambda *_: False)
    tune = provider.world.add_fine_tune()
    path = fetch(provider).jobs[0].path("training")
    assert path and path.parent.name == "files"
    assert path.read_bytes() == truth(provider, tune["training_file"])


# -- stored completions --------------------------------------------------------------------------


def test_stored_completions_become_rows_of_chat(provider: Provider) -> None:
    """Of each key's project, with tools; later ones are added, and none is asked for twice."""
    world = provider.world
    model = world.add_fine_tune()["fine_tuned_model"]
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
    system, user = {"role": "system", "content": "S"}, {"role": "user", "content": "Where?"}
    world.add_stored(model, [system, user])
    world.add_stored(model, [user], tools=[tool])
    world.add_stored("gpt-4o-2024-08-06", [user])
    archive = fetch(provider, model, stored=True)
    rows = lines(archive.jobs[0].path("stored"))
    assert [one["role"] for one in rows[0]["messages"]] == ["system", "user", "assistant"]
    assert rows[0]["messages"][1] == user and rows[0]["messages"][2]["content"]
    assert rows[1]["tools"] == [tool] and rows[1]["messages"][-1]["tool_calls"]
    assert len(lines(f"{archive.jobs[0].folder}/stored.raw.jsonl")) == 2
    world.add_stored(model, [user], days_ago=0.5)
    world.add_stored(model, [user], account="main proj_shop", days_ago=3)
    asked(provider)
    both = fetch(provider, model, "MAIN_PASS", "SHOP_PASS", stored=True)
    assert next(one.rows for one in both.jobs[0].pieces if one.kind == "stored") == 4
    assert sum("messages" in path for path in asked(provider)) == 2


# -- removing ------------------------------------------------------------------------------------


def test_what_was_fetched_is_counted_and_removed(provider: Provider, home: Path, ftg: Ftg) -> None:
    """A content that another job shares stays with it."""
    world = provider.world
    first, second = world.add_fine_tunes(2)
    world.jobs[second["id"]]["request"]["training_file"] = first["training_file"]
    fetch(provider)
    assert "fetched" in ftg("doctor").stdout
    assert ftg("rm", first["fine_tuned_model"]).returncode == 4  # no terminal to confirm at
    assert ftg("rm", first["fine_tuned_model"], "--yes").returncode == 0
    left = fetched.find(Settings.load(), second["id"])[0]
    assert {one.state for one in left.pieces} == {"saved"}
    assert not fetched.find(Settings.load(), first["id"])
    kept = {path.name for path in (home / "fetched" / "files").iterdir()}
    assert kept == {one.content for one in left.pieces}
    assert ftg("rm", second["id"], "--yes").returncode == 0
    assert [*(home / "fetched").rglob("*.*")] == []
    assert ftg("rm", second["id"], "--yes").returncode == 102


def test_prune_takes_it_by_an_age_that_was_named(provider: Provider, home: Path, ftg: Ftg) -> None:
    """Never by the default: it may be in no other place."""
    provider.world.add_fine_tune()
    fetch(provider)
    manifest = next((home / "fetched").rglob("manifest.json"))
    document = {**json.loads(manifest.read_text()), "updated_at": 1.0}
    manifest.write_text(json.dumps(document))
    assert "nothing to remove" in ftg("prune", "--yes").stderr and manifest.exists()
    assert "of 1 fine-tune" in ftg("prune", "--older-than", "9d", "--dry-run").stderr
    ftg("config", "set", "retention.days", "90")
    assert ftg("prune", "--yes").returncode == 0
    assert not manifest.exists() and [*(home / "fetched").rglob("*.*")] == []


def test_with_a_job_of_ours_goes_what_was_fetched_of_it(
    provider: Provider, home: Path, train_file: Path
) -> None:
    backend = OpenAIBackend(
        base_url=provider.url, api_key_env="MAIN_PASS", settle_seconds=0, poll_seconds=0.01
    )
    job = Gateway().submit(train_file, model="gpt-4o-2024-08-06", backend=backend, train_price=1)
    job.result(30)
    model = fetch(provider).jobs[0].model or ""
    migration.add_model(model, host(provider))
    assert job.remove().bytes > 0
    assert [*(home / "fetched").rglob("*.jsonl")] == [] and [
        *(home / "models").glob("*.json")
    ] == []


def test_what_killed_processes_left_goes(provider: Provider, home: Path, ftg: Ftg) -> None:
    """With a prune, and with the next fetch."""
    provider.world.add_fine_tune()
    fetch(provider)
    for left in ("files/.copy.tmp.abc", f"files/{'a' * 64}.jsonl"):
        path = home / "fetched" / left
        path.touch(0o600)
        path.write_text("half")
        if "tmp" in left:
            assert ftg("prune", "--yes").returncode == 0
        else:
            fetch(provider)
        assert not path.exists()


# -- the command line ----------------------------------------------------------------------------


def test_what_has_another_name_is_left_among_the_contents(provider: Provider, home: Path) -> None:
    """The folder may be a link to a larger disk, with files that are not ours."""
    provider.world.add_fine_tune()
    fetch(provider)
    theirs = home / "fetched" / fetched.CONTENTS / "deadbeef.jsonl"
    theirs.write_text("mine")
    fetch(provider)
    assert theirs.exists() and fetched.leftovers(Settings.load()) == []


def test_the_command_says_what_is_where(
    provider: Provider, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of named ones, one JSON document, folders alone with --quiet."""
    tune = provider.world.add_fine_tune()
    at = ("--base-url", provider.url, "--api-key-env", "MAIN_PASS")
    done = ftg("migrate", "fetch", tune["fine_tuned_model"], *at)
    assert done.returncode == 0 and f"{tune['id']}/train.jsonl\n" in done.stdout
    assert "7 pieces of 1 fine-tune" in done.stdout
    document = json.loads(ftg("migrate", "fetch", "--all", *at, "--json").stdout)
    assert document["complete"] and document["counts"] == {"saved": 7}
    quiet = ftg("migrate", "fetch", "--all", *at, "-q")
    assert quiet.stdout == f"{document['jobs'][0]['folder']}\n" and quiet.stderr == ""
    for wrong in ((), ("--all", tune["id"])):
        assert ftg("migrate", "fetch", *wrong, *at).returncode == 2
    path = document["jobs"][0]["paths"]["train.jsonl"]
    assert ftg("preview", path, "--model", "gpt-4.1-mini-2025-04-14", "-q").returncode == 0


def test_ctrl_c_says_how_to_go_on(
    provider: Provider, ftg: Ftg, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.world.add_fine_tune()
    main = threading.main_thread()

    def stop(*_: object) -> None:
        if threading.current_thread() is main:
            raise KeyboardInterrupt

    monkeypatch.setattr("finetune_gateway.migration.pieces.JobPieces._events", stop)
    at = ("--base-url", provider.url, "--api-key-env", "MAIN_PASS")
    done = ftg("migrate", "fetch", "--all", *at)
    assert done.returncode == 130 and "What was saved stays" in done.stderr
