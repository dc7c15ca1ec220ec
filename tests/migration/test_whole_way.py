"""The whole way out: 300 fine-tunes of four bases, two keys, and a host that fails all the time."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from check_inventory import complaints
from support.cli import Done, Ftg
from support.past import PROJECTS, SHOP, SIDE, make_past
from support.provider import Provider
from support.recordings import rows

from finetune_gateway import Gateway
from finetune_gateway.evaluation import Recording

FAULTS = {"busy": 0.05, "error_after": 0.05, "truncated": 0.05, "cut": 0.05, "slow": 0.02}
KEYS = {"SHOP_KEY": SHOP, "SIDE_KEY": SIDE}
TODAY = date(2026, 11, 21)
COUNT, ROWS = 300, 40


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_list_fetch_record_batch_and_plan(
    ftg: Ftg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command is typed again until it has ended well, as a person does: then the list is what
    the provider has, all that is there is saved, each prompt is answered, one batch was bought,
    nothing stays reserved, and the commands of a plan pass a dry run."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(ROWS)))
    with Provider(keys=PROJECTS, jobs_by_project=False, fault_seconds=0.02) as provider:
        past = make_past(provider.world, COUNT)
        provider.chaos, provider.chaos_on = FAULTS, ("*",)
        tries = Counter[str]()

        def migrate(*words: str) -> Done:
            keys = [part for name in KEYS for part in ("--key-env", name)]
            for _ in range(20):
                tries[words[0]] += 1
                host = ["--base-url", provider.url, "--profile", "openai", *keys]
                done: Done = ftg("migrate", *words, *host)
                assert "Traceback" not in done.stderr
                if done.returncode == 0:
                    return done
            raise AssertionError(done)

        listed = json.loads(migrate("list", "--json").stdout)
        assert [*complaints(listed, provider.whole_report(), KEYS, TODAY, admin=False)] == []
        saved = json.loads(migrate("fetch", "--all", "--stored", "--json").stdout)
        model = _live(past.succeeded, past.deleted | past.hidden, "sft")
        migrate("record", model, "--data", str(file), "--name", "one", "--yes")
        migrate("record", model, "--data", str(file), "--name", "day", "--batch", "--wait", "--yes")
        before = len(provider.requests)
        for method in ("dpo", "reinforcement"):
            migrate("plan", _live(past.succeeded, past.deleted, method))
        plan = migrate("plan", model, "--local-model", "builtin/tiny", "--quiet").stdout
        print(f"commands typed {dict(tries)}, requests {before}, of plans "
              f"{len(provider.requests) - before}, saved {_pieces(saved)}")  # fmt: skip
        report = provider.report()
    for name in ("one", "day"):
        recording = Recording.load(f"recorded:{name}")
        assert len([*recording.answers()]) == ROWS and not [*recording.errors()]
    assert len(report["batches"]) == 1 and Gateway().budget().reserved_usd == 0
    monkeypatch.setenv("AZURE_OPENAI_API_KEY", "k")
    lines = {line.split("--backend ")[1].split()[0]: line for line in plan.splitlines()}
    for place, more in {
        "local": [],
        "azure": ["--base-url", "https://a.openai.azure.com/x"],
    }.items():
        done = ftg(*shlex.split(lines[place])[1:], "--dry-run", *more)
        assert done.returncode == 0, done


def _live(jobs: list[dict[str, Any]], gone: set[str], method: str) -> str:
    models = (
        str(job["fine_tuned_model"])
        for job in jobs
        if job["method"]["type"] == {"sft": "supervised"}.get(method, method)
    )
    return next(model for model in models if model not in gone)


def _pieces(saved: dict[str, Any]) -> Any:
    return {name: saved[name] for name in saved if isinstance(saved[name], int | float)}
