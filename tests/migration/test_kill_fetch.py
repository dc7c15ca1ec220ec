"""kill -9 in a fetch: nothing is half on the disk, nothing is asked for twice but what was on its
way, and in the end the figures add up."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from support.chaos import (
    kill,
    killed_after,
    killed_at_line,
    lines_of,
    moments,
    ready,
    start,
)
from support.modes import wide
from support.provider import Provider

from finetune_gateway import OpenAIBackend, migration
from finetune_gateway.migration.archived import Archive

SHOP = "sk-shop-0123456789abcdef"
VARIABLES = ("CHAOS_MAIN", "CHAOS_SHOP")
OPENAI = ("/openai/archive.py", "/openai/inventory.py")
WATCHED = ("/migration/", "/jobs/fetched.py", "/settings/files.py", *OPENAI)
LISTS = ("/fine_tuning/jobs", "/files")  # each run reads these anew

# arguments: url, variables of keys
FETCH = """
import sys
from finetune_gateway import OpenAIBackend, migration
import finetune_gateway.migration.fetching
hosts = [OpenAIBackend(base_url=sys.argv[1], api_key_env=name) for name in sys.argv[2:]]
print("ready", flush=True)
migration.fetch(None, hosts)
"""

# Of this program alone; the peak that getrusage tells may be the one of who has started it.
PEAK = """
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


@pytest.fixture(autouse=True)
def _keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAOS_MAIN", "sk-test-0123456789abcdef")
    monkeypatch.setenv("CHAOS_SHOP", SHOP)


def fetch(provider: Provider, *, stored: bool = False) -> Archive:
    hosts = [OpenAIBackend(base_url=provider.url, api_key_env=name) for name in VARIABLES]
    return migration.fetch(None, hosts, stored=stored)


def killed_at(number: int, provider: Provider, *, stored: bool = False) -> None:
    """Fetch in a fork, which is killed with -9 when it comes to its n-th line of what fetches."""

    def killed() -> None:
        with killed_at_line(number, WATCHED):
            fetch(provider, stored=stored)

    killed_after(killed)


def look(home: Path) -> None:
    """What has its name is whole, and what a manifest calls saved is there."""
    contents = home / "fetched" / "files"
    for path in contents.glob("[0-9a-f]*"):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    for manifest in (home / "fetched").rglob("manifest.json"):
        for piece in json.loads(manifest.read_text())["pieces"]:
            assert piece["state"] != "saved" or (contents / piece["content"]).exists()
    assert wide(home) == {}


def account(provider: Provider, kills: int) -> None:
    """Hold what was asked for against the kills, and what is kept against the provider's own."""
    asked = Counter(path for _, path, _ in provider.requests if path not in LISTS)
    assert sum(asked.values()) - len(asked) <= kills, asked.most_common(5)
    archive = fetch(provider)
    assert archive.complete and set(archive.counts) == {"saved"}
    world = provider.world
    assert {job.job_id for job in archive.jobs} == world.jobs.keys()
    for job in archive.jobs:
        shown = world.jobs[job.job_id]["request"]
        for kind, file_id in (
            ("training", shown["training_file"]),
            ("validation", shown["validation_file"]),
        ):
            path = job.path(kind)  # type: ignore[arg-type]  # a kind of piece
            assert path and path.read_bytes() == world.files[file_id]["content"].encode("latin-1")
        assert {one.kind for one in job.pieces} >= {"job", "result", "events", "checkpoints"}


def left_behind(home: Path) -> list[Path]:
    return [path for path in (home / "fetched").rglob("*") if ".tmp." in path.name]


def test_two_kills(home: Path) -> None:
    """At lines of the first fine-tune and of the second."""
    with Provider(keys={SHOP: "main proj_shop"}) as provider:
        provider.world.add_fine_tunes(3, accounts=("main", "main proj_shop"))
        for number in (700, 1100):
            killed_at(number, provider)
            look(home)
        assert 1 <= len([*(home / "fetched").rglob("manifest.json")]) < 3  # in the midst of it
        fetch(provider)
        look(home)
        assert left_behind(home) == []
        account(provider, 2)


def test_contents_are_on_the_disk_before_the_manifest_that_names_them(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a power cut takes none of what a manifest that it leaves calls saved."""
    synced: list[int] = []
    really = os.fsync

    def watched(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        really(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    with Provider(keys={SHOP: "main"}) as provider:
        provider.world.add_fine_tune()
        assert fetch(provider).complete
    [manifest] = (home / "fetched").rglob("manifest.json")
    before = synced[: synced.index(manifest.stat().st_ino)]
    contents = {path.stat().st_ino for path in (home / "fetched" / "files").iterdir()}
    assert len(contents) > 4 and contents <= {*before}


def test_what_a_power_cut_has_emptied_is_fetched_again(home: Path) -> None:
    """A manifest may be on the disk before what it names is."""
    with Provider(keys={SHOP: "main"}) as provider:
        provider.world.add_fine_tune()
        [job] = fetch(provider).jobs
        train = job.path("training")
        assert train is not None
        whole = train.read_bytes()
        os.truncate(train, 0)
        [job] = fetch(provider).jobs
        assert job.path("training") == train and train.read_bytes() == whole
    look(home)


@pytest.mark.chaos
def test_twenty_kills_with_300_fine_tunes(home: Path) -> None:
    """Four bases, two keys, at random moments."""
    with Provider(keys={SHOP: "main proj_shop"}) as provider:
        provider.world.add_fine_tunes(300, accounts=("main", "main proj_shop"))
        killed = 0
        # In all half of what a fetch takes on a quiet machine: the last kill finds one at work too.
        for moment in moments(20, 0.6, seed=14):
            process = start(FETCH, provider.url, *VARIABLES)
            ready(process)
            time.sleep(moment)
            killed += kill(process)
            look(home)
        assert killed == 20
        assert fetch(provider).complete
        look(home)
        assert left_behind(home) == []
        account(provider, killed)


@pytest.mark.chaos
def test_twenty_kills_among_stored_completions(home: Path) -> None:
    """Each prompt is asked for once, unless it was on its way; in the end all are rows."""
    draw = random.Random(14)
    with Provider(keys={SHOP: "main proj_shop"}) as provider:
        world, question = provider.world, [{"role": "user", "content": "Where?"}]
        names = [tune["fine_tuned_model"] for tune in world.add_fine_tunes(2)]
        for number in range(120):
            account = ("main", "main proj_shop")[number % 2]
            world.add_stored(names[0], question, account=account, days_ago=200 - number)

        def elsewhere() -> None:
            os.environ["FTG_HOME"] = str(home / "counted")
            fetch(provider, stored=True)

        last, kept = lines_of(elsewhere, WATCHED), []
        provider.requests.clear()
        for _ in range(20):
            # Each fetch goes on from the one before, and comes to fewer lines.
            killed_at(draw.randrange(last // 9, last // 5), provider, stored=True)
            look(home)
            kept.append(len({path for _, path, _ in provider.requests if "/messages" in path}))
        print(f"\n{last} lines; asked for after each kill: {kept}")
        assert len({*kept} - {0, 120}) >= 5  # they fell among the answers
        archive = fetch(provider, stored=True)
        rows = {one.name: piece.rows for one in archive.jobs for piece in one.pieces if piece.rows}
        assert archive.complete and rows == {names[0]: 120}
        asked = Counter(path for _, path, _ in provider.requests if "/messages" in path)
        assert len(asked) == 120 and sum(asked.values()) <= 120 + 20


@pytest.mark.chaos
def test_300_fine_tunes_under_faults(home: Path) -> None:
    """429, 500, cut bodies, resets and slow answers to a tenth of all requests."""
    faults = dict.fromkeys(("busy", "error_after", "cut", "reset_after", "slow"), 0.02)
    keys = {SHOP: "main proj_shop"}
    with Provider(keys=keys, chaos=faults, chaos_on=("*",), fault_seconds=0.02) as provider:
        provider.world.add_fine_tunes(300, accounts=("main", "main proj_shop"))
        for _ in range(5):  # a host that fails three times in a row is left alone
            if fetch(provider).complete:
                break
        look(home)
        provider.chaos = {}
        provider.requests.clear()
        account(provider, 0)


@pytest.mark.chaos
def test_memory_does_not_grow_with_a_file(home: Path) -> None:
    """A file of 64 MB takes as much as one of 1 MB."""
    peaks = []
    for size in (1, 64):
        with Provider() as provider:
            tune = provider.world.add_fine_tune(validation_rows=0)
            held = provider.world.files[tune["training_file"]]
            held["content"] = '{"messages": []}\n' * (size << 16)
            held["bytes"] = len(held["content"])
            command = [sys.executable, "-c", FETCH + PEAK, provider.url, VARIABLES[0]]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        peaks.append(int(done.stdout.split()[-1]))
    assert peaks[1] - peaks[0] < 16 << 10, peaks  # KiB
