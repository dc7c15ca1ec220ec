"""Each file of a run folder, and of its home, damaged, one at a time, between two attempts: the
model is the one of a run that nobody has touched, or the job says which file it was. No command
breaks."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support.chaos import lives, row, until
from support.cli import Ftg
from support.damage import DAMAGES, copied, damages
from support.method_rows import small_rows
from support.storm import Warm

from finetune_gateway import Gateway, JobStatus
from finetune_gateway.backends.local.spawning import LOCK
from finetune_gateway.settings.files import try_lock, unlock
from finetune_gateway.settings.home import PLACE, Settings

USUAL: dict[str, Any] = {
    "batch_size": 4, "max_steps": 4, "save_steps": 1, "eval_steps": 1, "logging_steps": 1,
    "learning_rate": 1e-2, "seed": 3, "validation_split": 0.25,
}  # fmt: skip
PROMPT = ("Where is parcel number 3?", "--max-tokens", "8")
LOOKS = (["list", "--refresh"], ["status"], ["logs"], ["events"], ["metrics"], ["checkpoints"])
AFTER = (
    ["list", "--json"], ["status", "--json"], ["report"], ["costs"], ["resume"],
    ["prune", "--older-than", "0d", "--yes"], ["list"],
)  # fmt: skip
OF_ALL = ("list", "costs", "prune")
# What the test holds itself, and the store: see tests/jobs/test_damaged_home.py.
OTHERS = ("locks/", "gateway.sqlite3")


@dataclass
class Damaged:
    """Copies of a home whose job was killed in the middle, or has succeeded, and what came of the
    damage to each."""

    home: Path
    job: str
    ftg: Ftg
    env: dict[str, str]
    warm: Warm
    weights: bytes = b""  # of the model of a run that nobody has touched
    answer: str = ""
    found: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def damage(self, name: str, how: str) -> None:
        home = copied(self.home, self.home.with_name("case"))
        held = try_lock(home / "locks" / LOCK)
        assert held is not None
        self.env["FTG_HOME"] = str(home)
        try:
            DAMAGES[how](home / name)
            self._judge(home, name, how)
        finally:
            unlock(held)
            shutil.rmtree(home)

    def _judge(self, home: Path, name: str, how: str) -> None:
        case = f"{name}: {how}"
        self._commands(case, LOOKS)
        self.warm.ask("dispatch", home, self.job)
        found = row(home, self.job)
        model = weights_file(home, self.job)
        if found.status is JobStatus.FAILED:
            self.found["failed"] += 1
            if Path(name).name not in (found.error or ""):
                self.wrong.append(f"{case} is not named: {found.error}")
        elif found.status is not JobStatus.SUCCEEDED:
            self.wrong.append(f"{case}: it has not ended, but is {found.status}")
        elif not name.startswith(f"runs/{self.job}/model/") and (
            model is None or model.read_bytes() != self.weights
        ):
            self.wrong.append(f"{case}: a wrong model")
        else:
            self.found["same model"] += 1
        self._chat(case, Path(name).name, found.status is JobStatus.SUCCEEDED)
        self._commands(case, AFTER)

    def _chat(self, case: str, name: str, succeeded: bool) -> None:
        done = self._run(case, ["chat", self.job, *PROMPT])
        if done.returncode == 0 and done.stdout != self.answer:
            self.wrong.append(f"{case}: another answer: {done.stdout!r}")
        if done.returncode and succeeded:
            self.found["chat refused"] += 1
            if name not in done.stderr:
                self.wrong.append(f"{case}: chat does not name it: {done.stderr}")

    def _commands(self, case: str, commands: Any) -> None:
        for first, *more in commands:
            words = [first, *more] if first in OF_ALL else [first, self.job, *more]
            self._run(case, words)

    def _run(self, case: str, words: list[str]) -> Any:
        self.found["commands"] += 1
        done = self.ftg(*words)
        if "Traceback" in done.stderr or "This is a bug" in done.stderr:
            self.wrong.append(f"{case}: {words}: {done.stderr[-500:]}")
        return done


def weights_file(home: Path, job: str) -> Path | None:
    """The weights of the model of a job."""
    return next((home / "runs" / job / "model").glob("*.safetensors"), None)


@pytest.fixture
def warm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warm]:
    monkeypatch.chdir(tmp_path)  # where ftg report writes its page
    with Warm() as process:
        yield process


def prepared(
    tmp_path: Path,
    env: dict[str, str],
    ftg: Ftg,
    warm: Warm,
    base: Path,
    *,
    killed: bool,
    **options: Any,
) -> Damaged:
    """A job that was killed behind its second checkpoint, or the same when it has succeeded."""
    home = tmp_path / "killed"
    held = try_lock(Settings(home).create().locks / LOCK)
    job = Gateway(home).submit(
        small_rows(options["method"], 12), model=str(base), backend="local", **USUAL, **options,
    ).id  # fmt: skip
    warm.ask("train", home, job)
    second = home / "runs" / job / "checkpoints" / "checkpoint-2" / "manifest.json"
    until(second.exists, 120, 0.001)
    pid = row(home, job).pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: not lives(pid), 10)
    assert held is not None
    unlock(held)
    (home / PLACE).unlink()  # copies of it are not copies beside the original, which do not train
    done = copied(home, tmp_path / "done")
    held = try_lock(done / "locks" / LOCK)
    warm.ask("dispatch", done, job)
    env["FTG_HOME"] = str(done)
    answer = ftg("chat", job, *PROMPT)
    assert answer.returncode == 0, answer
    (done / PLACE).unlink()
    assert held is not None
    unlock(held)
    weights = weights_file(done, job)
    assert weights is not None
    chosen = home if killed else done
    return Damaged(chosen, job, ftg, env, warm, weights.read_bytes(), answer.stdout)


LORA = {"method": "sft", "lora_r": 4}
OTHER_METHODS = [{"method": "dpo", "lora_r": 4}, {"method": "sft", "training_type": "full"}]


@pytest.mark.chaos
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(
    ("killed", "options", "part"),
    [(True, LORA, 1), (False, LORA, 1), *((True, other, 25) for other in OTHER_METHODS)],
)
def test_damage_to_every_file(
    tmp_path: Path,
    env: dict[str, str],
    ftg: Ftg,
    warm: Warm,
    tiny_folder: Path,
    killed: bool,
    options: dict[str, Any],
    part: int,
) -> None:
    """Of a job that was killed in the middle, and of one that has succeeded; of other methods, some
    cases."""
    began = time.monotonic()
    cases = prepared(tmp_path, env, ftg, warm, tiny_folder, killed=killed, **options)
    every = [one for one in damages(cases.home) if not one[0].startswith(OTHERS)][::part]
    for name, how in every:
        cases.damage(name, how)
    seconds = time.monotonic() - began
    print(f"damage, killed={killed}: {len(every)} cases, {dict(cases.found)}, {seconds:.0f} s")
    assert not cases.wrong, "\n".join(cases.wrong)
