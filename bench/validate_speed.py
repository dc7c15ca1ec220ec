"""How fast a file is checked and counted: MB per second, CPU and peak memory, whole processes.

Ours: every rule for every known backend, exact o200k_base counts, personal data, repeated rows,
streamed; by as many processes as there are processors, and by one. Rows that are equal except for
case and spaces have their own figure. The other side: the loop of OpenAI's cookbook
(``_cookbook_loop.py``) with tiktoken where TIKTOKEN_CACHE_DIR holds its table, else with the
encoder we use ourselves. Both count each row alike, which is checked row by row. ``--rows 26000``
makes 50 MB, ``--rows 520000`` 1 GB. The CPU seconds and the memory stand beside those of an earlier
commit too, which git checks out to a temporary folder (``--before``).
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import (
    ROOT,
    Bench,
    Process,
    alternate,
    arguments,
    checked_out,
    run,
    say,
    versions,
)

from finetune_gateway.validation.parallel import count_workers

COOKBOOK = Path(__file__).with_name("_cookbook_loop.py")
WRITE = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from _rows import chat_rows, write
write(Path(sys.argv[2]), chat_rows(int(sys.argv[3]), tools=float(sys.argv[4])))
"""
# The peaks of the processes are added up: no moment can have been worse. "ready" is a process that
# has checked a small file, and read 64 MB at some time, so that the tables of the faster engine are
# made, as those of the cookbook's engine are before its clock begins.
OURS = """\
import json, resource, sys, time
from finetune_gateway.tokens.encodings import DEFAULT_ENCODING, preload
preload(DEFAULT_ENCODING)  # as the command line does
from pathlib import Path
from finetune_gateway.validation import run
from finetune_gateway import Dataset
from finetune_gateway.tokens.counter import HostedCounter
data, few = Path(sys.argv[1]), Path(sys.argv[2])
workers, near = int(sys.argv[3]), sys.argv[4] == "near"
def check(path):
    began, counter = time.perf_counter(), HostedCounter(None)
    report = run.validate(Dataset(path), counter=counter, workers=workers, near_duplicates=near)
    return report, time.perf_counter() - began
if sys.argv[5] == "ready":
    HostedCounter(None).text.note_bytes_read(64_000_000)
    check(few)
report, seconds = check(data)
own, child = (resource.getrusage(who).ru_maxrss for who in
              (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
peak = own + (workers - 1) * child
found = {"ok": report.ok, "rows": report.rows, **report.tokens, "peak": peak}
found["seconds"] = seconds
print(json.dumps({**found, "findings": sorted({f.code for f in report.findings})}))
"""
# Each row both ways: by the short way of the pass, and as the cookbook does it.
ROWS = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from _cookbook_loop import engine, row_tokens
from finetune_gateway.validation.fast_path import FastPath
from finetune_gateway.tokens.counter import HostedCounter
counter, fast_path, encode = HostedCounter(None), FastPath("sft"), engine()[1]
counter.text.choose_engine(1 << 40)
differ = read = 0
for line in open(sys.argv[2], "rb"):
    before, row = counter.stats().total, json.loads(line)
    batch = fast_path.take([line])
    counter.add_plain(batch.roles, batch.texts) if batch.roles else counter.add(row)
    differ += counter.stats().total - before != row_tokens(row["messages"], encode)[0]
    read += 1
print(json.dumps({"rows": read, "differ": differ}))
"""
BEFORE = "147924c"
ALL = str(count_workers())
PASSES = {"": (ALL, "exact"), "_alone": ("1", "exact"), "_near": (ALL, "near")}
FEW = 100  # rows that a process is made ready with
AS_BEFORE = 1.05  # of the CPU seconds: as before, within the noise of a busy machine
WHOLE = 500_000  # rows from which on starting up is little of a whole process: 1 GB
CHECKED = 26_000  # rows compared one by one: 50 MB


def main() -> int:
    asked = arguments(__doc__, rows=26_000, runs=3, tools=0.0, before=BEFORE)
    with TemporaryDirectory() as name, checked_out(asked.before) as earlier:
        data = Path(name) / "rows.jsonl"
        # In a process of its own, which takes the memory of the text along when it ends.
        made = [str(COOKBOOK.parent), str(data), str(asked.rows), str(asked.tools)]
        run([sys.executable, "-c", WRITE, *made])
        megabytes = data.stat().st_size / 1e6
        say(f"{asked.rows} rows, {megabytes:.1f} MB")
        if asked.rows <= CHECKED and not asked.tools:
            same_rows(data)
        few = data.with_name("few.jsonl")
        with data.open("rb") as rows:
            few.write_bytes(b"".join(islice(rows, FEW)))
        ours = [sys.executable, "-P", "-c", OURS, str(data), str(few)]
        here = {**os.environ, "PYTHONPATH": str(ROOT)}
        sides = {
            f"{side}{kind}": partial(run, [*ours, *words, "new"], code)
            for kind, words in PASSES.items()
            for side, code in (("ours", here), ("before", earlier))
        }
        sides |= {
            "ready": partial(run, [*ours, ALL, "exact", "ready"], here),
            "ready_alone": partial(run, [*ours, "1", "exact", "ready"], here),
            "cookbook": partial(run, [sys.executable, str(COOKBOOK), str(data)]),
        }
        found = alternate(sides, asked.runs)
    mine, alone, other = found["ours"], found["ours_alone"], found["cookbook"]
    near = found["ours_near"]
    used = agreed(said(mine[0]), said(other[0]), asked.rows, exactly=not asked.tools)
    bench = Bench("validate_speed", versions("finetune-gateway", "toktok-rs", "splintr-rs", used))
    size = f"{megabytes:.0f} MB of rows, baseline counts with {used}"

    def speed(runs: list[Process]) -> list[float]:
        return [megabytes / process.wall for process in runs]

    def pure(runs: list[Process]) -> list[float]:
        """Of the pass over the file alone."""
        return [megabytes / said(process)["seconds"] for process in runs]

    def peaks(runs: list[Process]) -> list[float]:
        return [
            said(process)["peak"] * (1 if sys.platform == "darwin" else 1024) / 1e6
            for process in runs
        ]

    cpu = [p.cpu for p in other]
    large = asked.rows >= CHECKED and used == "tiktoken"  # what the bounds were made for
    whole = large and asked.rows >= WHOLE
    ready = f"MB/s (tables made before the clock, on both sides; {size})"
    for metric, runs, least in (("speed", "ready", 10), ("speed_alone", "ready_alone", 5)):
        bound = least if large else None
        bench.figure(metric, pure(found[runs]), pure(other), ready, at_least=bound)
    all_of_it = f"MB/s (whole processes, start-up included; {size})"
    for metric, mine_, least in (("speed_whole", mine, 10), ("speed_whole_alone", alone, 5)):
        bound = least if whole else None
        bench.figure(metric, speed(mine_), speed(other), all_of_it, at_least=bound)
    bench.figure("speed_near_duplicates", speed(near), speed(other), all_of_it)
    bench.figure("cpu", [p.cpu for p in mine], cpu, "s")
    bench.figure("cpu_alone", [p.cpu for p in alone], cpu, "s")
    bench.figure("peak_rss", peaks(mine), [p.peak_mb for p in other], "MB, all processes")
    against = f"against {asked.before}"
    for kind in PASSES:
        now, before = ([p.cpu for p in found[f"{side}{kind}"]] for side in ("ours", "before"))
        most = AS_BEFORE if large else None
        bench.figure(f"cpu{kind}_before", now, before, f"CPU s, {against}", at_most=most)
    unit = f"MB, all processes, {against}"
    bench.figure("peak_before", peaks(mine), peaks(found["before"]), unit)
    return bench.end(asked.out, before=asked.before)


def same_rows(data: Path) -> None:
    """Raises SystemExit when one row is counted otherwise than by the cookbook."""
    done = said(run([sys.executable, "-c", ROWS, str(COOKBOOK.parent), str(data)]))
    say(f"counted row by row: {done}")
    if done["differ"]:
        raise SystemExit("The sides count rows differently.")


def said(process: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(process.out)
    return found


def agreed(mine: dict[str, Any], other: dict[str, Any], rows: int, *, exactly: bool) -> str:
    """The engine of the baseline, once both sides have seen all rows and count alike: to the
    token, or, with tools, which the cookbook's rule does not know, nearly so."""
    say(f"ours: {mine}")
    say(f"cookbook: {other}")
    off = abs(mine["total"] / other["total"] - 1)
    fine = mine["ok"] or "file_too_large" in mine["findings"]  # 1 GB is more than a host takes
    if not mine["rows"] == other["rows"] == rows or not fine or off > (0 if exactly else 0.1):
        raise SystemExit("The sides did not do the same work.")
    return str(other["engine"])


if __name__ == "__main__":
    sys.exit(main())
