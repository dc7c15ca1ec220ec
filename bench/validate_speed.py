"""How fast a file is checked and counted: MB per CPU second and peak memory, whole processes.

Ours: every rule for every known backend, exact o200k_base counts, personal data, repeated rows,
streamed. The other side: the loop of OpenAI's cookbook (``_cookbook_loop.py``) with tiktoken
where TIKTOKEN_CACHE_DIR holds its table, else with the encoder we use ourselves.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, Process, alternate, arguments, run, say, versions

COOKBOOK = Path(__file__).with_name("_cookbook_loop.py")
WRITE = """\
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from _rows import chat_rows, write
write(Path(sys.argv[2]), chat_rows(int(sys.argv[3])))
"""
OURS = """\
import json, sys
from pathlib import Path
from finetune_gateway import checks
from finetune_gateway.dataset import Dataset
from finetune_gateway.tokens import HostedCounter
report = checks.validate(Dataset(Path(sys.argv[1])), counter=HostedCounter(None))
found = {"ok": report.ok, "rows": report.rows, **report.tokens}
print(json.dumps({**found, "findings": sorted({f.code for f in report.findings})}))
"""


def main() -> int:
    asked = arguments(__doc__, rows=20_000, runs=3)
    with TemporaryDirectory() as name:
        data = Path(name) / "rows.jsonl"
        # In a process of its own, which takes the memory of the text along when it ends.
        run([sys.executable, "-c", WRITE, str(COOKBOOK.parent), str(data), str(asked.rows)])
        megabytes = data.stat().st_size / 1e6
        say(f"{asked.rows} rows, {megabytes:.1f} MB")
        sides = {
            "ours": partial(run, [sys.executable, "-c", OURS, str(data)]),
            "cookbook": partial(run, [sys.executable, str(COOKBOOK), str(data)]),
        }
        found = alternate(sides, asked.runs)
    mine, other = found["ours"], found["cookbook"]
    used = agreed(said(mine[0]), said(other[0]), asked.rows)
    bench = Bench("validate_speed", versions("finetune-gateway", "splintr-rs", used))

    def speed(runs: list[Process]) -> list[float]:
        return [megabytes / process.cpu for process in runs]

    unit = f"MB per CPU second (baseline counts with {used})"
    bench.figure("speed", speed(mine), speed(other), unit)
    bench.figure("wall", [p.wall for p in mine], [p.wall for p in other], "s")
    bench.figure("peak_rss", [p.peak_mb for p in mine], [p.peak_mb for p in other], "MB")
    return bench.end(asked.out)


def said(process: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(process.out)
    return found


def agreed(mine: dict[str, Any], other: dict[str, Any], rows: int) -> str:
    """The engine of the baseline, once both sides have seen all rows and count answers alike.

    ``total`` differs by the tools, which the cookbook's rule does not know.
    """
    say(f"ours: {mine}")
    say(f"cookbook: {other}")
    same = mine["rows"] == other["rows"] == rows and mine["ok"]
    if not same or not 0.9 < mine["total"] / other["total"] < 1.1:
        raise SystemExit("The sides did not do the same work.")
    return str(other["engine"])


if __name__ == "__main__":
    sys.exit(main())
