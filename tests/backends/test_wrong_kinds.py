"""Small JSON files of a home and of a run, with values of wrong kinds: named, or taken as none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.points import saved_checkpoints
from support.sleepers import Home

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
from finetune_gateway.errors import GatewayError
from finetune_gateway.estimation import weights
from finetune_gateway.jobs import copied_home
from finetune_gateway.settings import sealed
from finetune_gateway.settings.home import PLACE
from finetune_gateway.spec import TrainingSpec

KINDS: tuple[Any, ...] = (None, "x", "", 5, -1, 1.5, True, [], [1], ["x"], {}, {"a": 1}, 10**30)
SPEC = TrainingSpec.build(model="builtin/tiny")


def variants(value: Any) -> Iterator[Any]:
    """Copies of a JSON value, each with one part of another kind, or without it."""
    yield from KINDS
    items: Any = value.items() if isinstance(value, dict) else []
    items = enumerate(value) if isinstance(value, list) else items
    for key, part in items:
        for other in variants(part):
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
        for value in variants(sound):
            write(path, value)
            try:
                read()
            except GatewayError:
                pass
            except Exception as exc:
                raised.append(f"{path.name} = {json.dumps(value)[:100]}: {exc!r}")
        path.unlink()
    assert not raised, "\n".join(raised)
    write(place, {**place_now, "store": 5, "original": "x"})
    assert main(["list"]) == 0
    assert "This is a bug" not in capsys.readouterr().err
