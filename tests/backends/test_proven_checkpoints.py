"""Checkpoints are used as they were saved, or not at all: by the size and the hash of each file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from support.points import WEIGHTS, saved_checkpoints

from finetune_gateway.backends.local import checkpoints, manifests, models
from finetune_gateway.backends.local.checkpoints import BASE_OF_OTHERS, SetAside
from finetune_gateway.errors import GatewayError
from finetune_gateway.jobs.handle import MANIFEST
from finetune_gateway.settings import hashing
from finetune_gateway.settings.home import Settings

Damage = Callable[[Path], object]

DAMAGES: dict[str, Damage] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "gone": lambda path: path.unlink(),
}


def flip(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_damage_of_any_file_is_used(tmp_path: Path) -> None:
    """Each file, the manifest too, in each way: set aside as it is, and the one before is taken."""
    sound = saved_checkpoints(tmp_path / "sound", 1, 2)
    files = [path for path in (sound / "checkpoint-2").rglob("*") if path.is_file()]
    assert len(files) == 8
    for path in files:
        name = path.relative_to(sound)
        bits = range(0, path.stat().st_size * 8, 997 if path.name == MANIFEST else 317)
        flips = {f"bit {at}": (lambda path, at=at: flip(path, at)) for at in bits}
        for kind, damage in {**DAMAGES, **flips}.items():
            folder = tmp_path / "damaged"
            shutil.copytree(sound, folder)
            damage(folder / name)
            found, aside = checkpoints.newest(folder)
            assert found == folder / "checkpoint-1", (name, kind)
            [one] = aside
            assert one.name == "checkpoint-2" and one.reason in one.text
            assert names(folder) == ["checkpoint-1", "damaged-checkpoint-2"]
            shutil.rmtree(folder)


def test_a_manifest_proves_all_that_it_says(tmp_path: Path) -> None:
    """With what a checkpoint was made, and of what base a result is, too: each bit counts."""
    point = saved_checkpoints(tmp_path, 2) / "checkpoint-2"
    checkpoints.finish(point, {"environment": {"torch": "2.13.0"}})
    path = point / MANIFEST
    raw, whole = path.read_bytes(), checkpoints.about(point)
    for at in range(0, len(raw) * 8, 3):
        flip(path, at)
        assert checkpoints.defect(point) and checkpoints.about(point) == {}, (at, path.read_bytes())
        path.write_bytes(raw)
    assert checkpoints.defect(point) == "" and checkpoints.about(point) == whole
    path.write_text(json.dumps(whole))  # of an earlier version
    assert checkpoints.defect(point) == "" and checkpoints.about(point) == whole


def test_a_file_more_is_a_damage(tmp_path: Path) -> None:
    """It would be loaded too; what an editor or a system leaves, with a dot, is none."""
    folder = saved_checkpoints(tmp_path, 1, 2)
    (folder / "checkpoint-2" / ".directory").touch()
    assert checkpoints.newest(folder) == (folder / "checkpoint-2", [])
    (folder / "checkpoint-2" / "model-00002.safetensors").touch()
    found, [aside] = checkpoints.newest(folder)
    assert found == folder / "checkpoint-1"
    assert aside.reason == "model-00002.safetensors is there, and was not saved with it"


def test_all_that_is_damaged_is_kept(tmp_path: Path) -> None:
    """None is left, a second time too; the words say what was expected and what is there."""
    folder = saved_checkpoints(tmp_path, 1)
    (folder / "checkpoint-1" / "optimizer.pt").write_bytes(b"123")
    text = "checkpoint-1 is not as it was saved, and is not used: optimizer.pt has 3 bytes; saved "
    found, [aside] = checkpoints.newest(folder)
    assert found is None and aside.text.startswith(text)
    assert checkpoints.whole(folder) == [] and checkpoints.newest(folder) == (None, [])
    saved_checkpoints(folder, 1)
    flip(folder / "checkpoint-1" / WEIGHTS, 9)
    found, [aside] = checkpoints.newest(folder)
    assert found is None and "another content (sha256 " in aside.reason
    assert names(folder) == ["damaged-checkpoint-1", "damaged-checkpoint-1-1"]


def test_what_a_kill_has_left_half_is_removed(tmp_path: Path) -> None:
    """While it is saved, saved again, or deleted: it takes no space, and nothing is said."""
    folder = saved_checkpoints(tmp_path, 1, 2, 3, 4)
    checkpoints.begin(folder / "checkpoint-2")
    shutil.rmtree(folder / "checkpoint-3")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-4" / MANIFEST).unlink()
    (folder / "checkpoint-4" / checkpoints.UNFINISHED).touch()
    assert [one.step for one in checkpoints.whole(folder)] == [1]
    assert checkpoints.newest(folder) == (folder / "checkpoint-1", [])
    assert names(folder) == ["checkpoint-1"]


def test_the_base_of_another_job_stays_where_it_is(tmp_path: Path) -> None:
    """Damaged or not: that job looks at its weights itself."""
    folder = saved_checkpoints(tmp_path, 1, 2)
    checkpoints.keep(folder / "checkpoint-2")
    assert checkpoints.newest(folder) == (folder / "checkpoint-2", [])
    (folder / "checkpoint-2" / "scheduler.pt").unlink()
    reason = "scheduler.pt is missing"
    stays = SetAside("checkpoint-2", reason, "checkpoint-2")
    assert checkpoints.newest(folder) == (folder / "checkpoint-1", [stays])
    assert (folder / "checkpoint-2" / BASE_OF_OTHERS).exists()


def test_a_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """To prove a checkpoint, the newest alone; and for a result not the optimizer's state."""
    folder = saved_checkpoints(tmp_path, 1, 2)
    read: list[str] = []
    hashed = hashing.sha256_of_all

    def noted(paths: Sequence[Path]) -> list[str]:
        read.extend(path.name for path in paths)
        return hashed(paths)

    monkeypatch.setattr(manifests, "sha256_of_all", noted)
    assert checkpoints.newest(folder)[0] == folder / "checkpoint-2"
    assert sorted(read) == sorted([*checkpoints.STATE_FILES, WEIGHTS, WEIGHTS])
    read.clear()
    assert checkpoints.defect(folder / "checkpoint-1", optimizer=False) == ""
    assert len(read) == 6 and "optimizer.pt" not in read


def test_a_model_answers_as_it_was_saved_alone(tmp_path: Path) -> None:
    """A result, and a checkpoint that a kept handle names; a foreign manifest is none."""
    settings = Settings(tmp_path / "home").create()
    point = saved_checkpoints(tmp_path, 2) / "checkpoint-2"
    (point / "adapter_config.json").write_text("{}")
    checkpoints.finish(point, {})
    models.require_as_saved(point, settings)
    (point / "optimizer.pt").unlink()  # no part of the model
    models.require_as_saved(point, settings)
    flip(point / WEIGHTS, 8)
    with pytest.raises(GatewayError, match=f"not as it was saved: {WEIGHTS} has another content"):
        models.require_as_saved(point, settings)
    (point / MANIFEST).write_text('{"files": ["a"]}')
    models.require_as_saved(point, settings)
    (point / MANIFEST).write_text("{")
    with pytest.raises(GatewayError, match="manifest.json cannot be read"):
        models.require_as_saved(point, settings)
