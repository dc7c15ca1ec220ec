"""Small JSON files of a home and of a run, with values of wrong kinds: named, or taken as none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.comparisons import comparison
from support.measured import calibrated
from support.points import saved_checkpoints
from support.sleepers import Home

from finetune_gateway import Gateway
from finetune_gateway.backends.local import (
    checkpoints,
    deaths,
    models,
    out_of_memory,
    run_file,
    versions,
)
from finetune_gateway.backends.local.run_folder import RUN_FILE
from finetune_gateway.cli import main
from finetune_gateway.errors import GatewayError, StoreError
from finetune_gateway.estimation import calibration, weights
from finetune_gateway.evaluation.answers.store import KeptAnswers
from finetune_gateway.evaluation.comparison import Comparison, keep
from finetune_gateway.evaluation.recording import Recording
from finetune_gateway.jobs import compared, copied_home, fetched, requests
from finetune_gateway.jobs.store import Store
from finetune_gateway.reports.comparison_markdown import comparison_markdown
from finetune_gateway.reports.comparison_text import comparison_text
from finetune_gateway.settings import sealed
from finetune_gateway.settings.home import PLACE, Settings
from finetune_gateway.spec import TrainingSpec

KINDS: tuple[Any, ...] = (None, "x", "", 5, -1, 1.5, True, [], [1], ["x"], {}, {"a": 1}, 10**30)
SPEC = TrainingSpec.build(model="builtin/tiny")


def variants(value: Any, kinds: Sequence[Any] = KINDS) -> Iterator[Any]:
    """Copies of a JSON value, each with one part of another kind, or without it; of a list its
    first item stands for all."""
    yield from kinds
    items: Any = value.items() if isinstance(value, dict) else []
    items = enumerate(value[:1]) if isinstance(value, list) else items
    for key, part in items:
        for other in variants(part, kinds):
            copy = json.loads(json.dumps(value))
            copy[key] = other
            yield copy
    for key in value if isinstance(value, dict) else ():
        yield {name: part for name, part in value.items() if name != key}


def write(path: Path, value: Any) -> None:
    """Write a value with a seal, where it has room for one: it is what was written."""
    if isinstance(value, dict):
        sealed.write(path, value)
    else:
        path.write_text(json.dumps(value))


def bugs(path: Path, values: Iterator[Any], read: Callable[[], object]) -> list[str]:
    """What reading a file with each of these values raises, but errors in words. A file of lines
    has one, its last whole one."""
    raised = []
    for value in values:
        if path.suffix == ".jsonl":
            path.write_text(json.dumps(value) + "\n")
        else:
            write(path, value)
        try:
            read()
        except GatewayError:
            pass
        except Exception as exc:
            raised.append(f"{path.name} = {json.dumps(value)[:100]}: {exc!r}")
    path.unlink()
    return raised


def test_small_files_with_values_of_wrong_kinds(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part of each file: no reader raises anything but an error in words."""
    one = Home(home)
    settings, folder = one.queue.settings, one.queue.folder("a")
    base = tmp_path / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"\2\0\0\0\0\0\0\0{}")
    cache, place = settings.models / models.CACHE, home / PLACE
    db = one.queue.store
    place_now = {"home": str(home), "store": [1, 2]}
    point = saved_checkpoints(tmp_path, 2) / "checkpoint-2"
    deaths.begin(folder)

    def one_job(*_: Any) -> Any:
        return db.query("SELECT 1")

    def home_is_looked_at() -> None:
        with db.transaction() as connection:
            copied_home.look(settings, connection)
        with suppress(GatewayError):
            copied_home.require_original(settings, "a", one_job)

    files: dict[Path, tuple[Any, Callable[[], object]]] = {
        place: (
            {**place_now, "original": {**place_now, "jobs": 3}},
            home_is_looked_at,
        ),
        cache: (
            {str(base / "model.safetensors"): [1, 2, 3, "ab"]},
            lambda: (weights.find_by_hash("ab", cache), weights.content_hash(base, cache)),
        ),
        folder / RUN_FILE: (
            json.loads((folder / "run.json").read_bytes()),
            lambda: run_file.read_run_file(folder),
        ),
        folder / run_file.BASE_FILE: (
            {"revision": None, "sha256": "ab", "weights": "ab", "files": {"config.json": "cd"}},
            lambda: run_file.base_of(folder),
        ),
        folder / out_of_memory.MICRO_BATCH: (
            {"rows": 8},
            lambda: out_of_memory.halve(folder, SPEC, "training"),
        ),
        folder / deaths.ATTEMPT: (
            json.loads((folder / deaths.ATTEMPT).read_bytes()),
            lambda: deaths.find(folder, None, 5),
        ),
        folder / versions.ALLOWED: (
            {"changed_versions": 1},
            lambda: versions.are_allowed(folder, 1),
        ),
        point / "manifest.json": (
            checkpoints.about(point),
            lambda: (checkpoints.defect(point), checkpoints.whole(point.parent)),
        ),
    }
    raised = []
    for path, (sound, read) in files.items():
        raised += bugs(path, variants(sound), read)
    assert not raised, "\n".join(raised)
    write(place, {**place_now, "store": 5, "original": "x"})
    assert main(["list"]) == 0
    assert "This is a bug" not in capsys.readouterr().err


REQUEST = {"id": "ab-0", "attempt": 1, "charge": "c", "usd": "0.1"}
SAID = {"role": "assistant", "content": "x"}
LINES: dict[str, Any] = {
    "requests.jsonl": {**REQUEST, "batch": "ab"},
    "answers.jsonl": {**REQUEST, "message": SAID, "row": "ab", "sample": 0, "at": 1.0,
                      "usage": {"prompt_tokens": 1}, "seconds": 1.0, "system_fingerprint": "x"},
    "errors.jsonl": {**REQUEST, "again": False, "retryable": True, "message": "x", "at": 1.0,
                     "status": 500, "code": "x", "run": "r"},
    "batches.jsonl": {"key": "ab", "event": "created", "at": 1.0, "id": "b", "charge": "c",
                      "requests": 1},
    "charges.jsonl": {"charge": "c", "name": "n", "at": 1.0},
    "rows.jsonl": {"id": "ab", "lines": [1], "messages": [{"role": "user", "content": "x"}],
                   "references": [SAID]},
}  # fmt: skip
RECORDED = {
    "name": "r",
    "number": 1,
    "created_at": 1.0,
    "date": "2026-01-01",
    "model": "m",
    "rows": 1,
    "base_model": "b",
    "backend": "openai",
    "host": "h",
    "base_url": "https://h",
    "rows_sha256": "x",
    "parameters": {"a": 1},
    "system_fingerprints": {"f": 1},
}
ANSWERED = {
    "title": "t",
    "model": "m",
    "base_model": "b",
    "host": "h",
    "account": "a",
    "jobs": ["j"],
    "created_at": 1.0,
}
PIECE = {
    "kind": "training",
    "state": "saved",
    "id": "f",
    "name": "t.jsonl",
    "sha256": "a",
    "content": f"{'a' * 64}.jsonl",
    "bytes": 3,
    "rows": 1,
    "asked": ["a"],
    "at": 1.0,
}
FETCHED = {
    "host": "api.openai.com",
    "profile": "openai",
    "job_id": "ftjob-1",
    "model": "ft:m",
    "status": "succeeded",
    "checkpoints": ["ft:c"],
    "keys": ["K"],
    "pieces": [PIECE],
}


def read_estimates(home: Path) -> None:
    """What estimates and workers take from calibration.json."""
    found = calibration.read(home)
    assert found is not None or calibration.unusable_reason(home)
    if found is not None:
        units = (1.0,) * len(calibration.WORK)
        work = calibration.Load(units, 10**8, checkpoint_bytes=1)
        assert 0 <= found.busy_seconds(work, 1) < float("inf")
        assert 1 <= found.threads_used <= 65536 and found.seconds(work, 1) >= 0
        found.stale_reason(date(2026, 12, 1))


def read_fetched(settings: Settings) -> None:
    for one in fetched.manifests(settings):
        assert one.names or one.ended in (True, False)
        fetched.find_piece(settings, one, "training")
    fetched.find(settings, "ft:m")


def read_recording(settings: Settings) -> None:
    found = Recording.at(settings, "recorded:r")
    assert repr(found) and found.state() and found.spent("c") is not None
    assert len([*found.answers()]) + len([*found.errors()]) < 3
    found.prompts()


def read_answers(store: Store) -> None:
    kept = KeptAnswers(store, "ab" * 32)
    for named in (compared.title_of(kept.folder), compared.of_nobody(store.settings)):
        assert named is not None
    compared.is_asked_for(store.settings, "c")
    kept.state("r"), kept.answers({"ab-0"}), kept.errors({"ab-0"}, "r"), kept.about()
    requests.spent_by_request(kept.folder, {"c"})
    compared.find(store.settings, "answers:m")


def read_comparison(settings: Settings) -> None:
    found = Comparison.at(settings, "cmp-3f9a2c1d")
    assert comparison_text(found.data, explain=True) and comparison_markdown(found.data)
    assert found.rows() is not None and found.answers() is not None
    compared.title_of(found.folder), compared.of_nobody(settings)


def test_what_a_home_keeps_with_values_of_wrong_kinds(home: Path, tmp_path: Path) -> None:
    """Calibration, recordings, answers, comparisons, what was fetched: each part of each file."""
    store = Gateway(home).store
    settings = store.settings
    few = (None, "x", [1])
    made = comparison(tmp_path, rows=1, models=2)
    measures = made.data.measures[:1]
    small: dict[str, Any] = {"checks": {}, "serving": None}
    figures = {one.name: made.data.figures[one.name] for one in measures}
    data = made.data.model_copy(update={"measures": measures, "figures": figures, **small})
    folder = keep(settings, data, made.rows(), made.answers()).folder
    recorded, answers = settings.recordings / "r", settings.answers / ("ab" * 32)
    manifest = fetched.folder(settings, "api.openai.com", "ftjob-1") / "manifest.json"
    for each in (recorded, answers, manifest.parent):
        each.mkdir(parents=True)
    measured = json.loads(calibrated().model_dump_json())
    raised = [
        *bugs(home / "calibration.json", variants(measured), partial(read_estimates, home)),
        *bugs(manifest, variants(FETCHED), partial(read_fetched, settings)),
    ]
    for below, about, whose, read in (
        (recorded, "recording.json", RECORDED, partial(read_recording, settings)),
        (answers, "about.json", ANSWERED, partial(read_answers, store)),
    ):
        raised += bugs(below / about, variants(whose), read)
        (below / about).write_text(json.dumps(whose))
        for name, line in LINES.items():
            raised += bugs(below / name, variants(line), read)
    show = partial(read_comparison, settings)
    for name in ("comparison.json", "rows.jsonl", "answers.jsonl"):
        text = (folder / name).read_text()
        sound = json.loads(text if name == "comparison.json" else text.splitlines()[0])
        raised += bugs(folder / name, variants(sound, few), show)
        (folder / name).write_text(text)
    assert not raised, "\n".join(raised)


def test_a_comparison_with_figures_of_another_model_is_damaged(home: Path, tmp_path: Path) -> None:
    """Figures and differences name models that are in it."""
    settings = Gateway(home).store.settings
    made = comparison(tmp_path, rows=1, models=2)
    path = keep(settings, made.data, made.rows(), made.answers()).folder / "comparison.json"
    data = json.loads(path.read_text())
    data["differences"][0]["first"] = "x"
    path.write_text(json.dumps(data))
    with pytest.raises(StoreError, match="its figures are of 'x'"):
        Comparison.at(settings, "cmp-3f9a2c1d")


def test_a_damaged_calibration_is_not_called_an_older_one(home: Path) -> None:
    """Nor is one with figures that no machine has."""
    home.mkdir()
    whole = json.loads(calibrated().model_dump_json())
    values: tuple[Any, ...] = ([], {**whole, "threads": 10**30}, {**whole, "stretch": -1})
    for damaged in values:
        (home / "calibration.json").write_text(json.dumps(damaged))
        assert calibration.read(home) is None
        assert f"in {home / 'calibration.json'} is damaged" in calibration.unusable_reason(home)
