"""How many planted near-duplicates are found, how many found are right, how fast, in what memory.

1,000 rows are copied with one to three words replaced, added or left out, and shuffled among all
rows. Ours: ``finetune_gateway.validation.dataset.near_duplicates``, needs the extra [dedup]. The
other side of speed and memory: the hash of each row except for case and spaces, which finds none of
them. ``--file`` takes the rows of a JSONL file; ``--planted 0.5`` copies a share of the rows in
place of 1,000.
"""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, Process, alternate, arguments, run, say, versions

HERE = str(Path(__file__).parent)
# Writes the rows with their copies, and beside them the number of the row each line is of.
PLANT = """\
import json, sys
sys.path.insert(0, sys.argv[1])
from itertools import islice
from pathlib import Path
from _planting import planted
from _rows import chat_rows
from finetune_gateway import Dataset
path, rows, source, share = sys.argv[2], int(sys.argv[3]), sys.argv[4], float(sys.argv[5])
if source:
    found = [row.data for row in islice(Dataset.open(source).rows(), rows)]
else:
    found = [*chat_rows(rows)]
count = int(share * len(found)) if share else min(1000, len(found))
mixed = planted(found, count, seed=1)
with open(path, "w", encoding="utf-8") as file:
    file.writelines(json.dumps(row) + "\\n" for _, row in mixed)
Path(path + ".origin").write_text(json.dumps([origin for origin, _ in mixed]))
print(count)
"""
NEAR = """\
import json, resource, sys, time
from pathlib import Path
from finetune_gateway import Dataset
from finetune_gateway.validation.dataset.near_duplicates import pairs
before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = [(pair.line, pair.earlier) for pair in pairs([Dataset(Path(sys.argv[1]))])]
after = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([found, after[0] - before[0], after[1] - before[1]]))
"""
EXACT = """\
import json, resource, sys, time
from pathlib import Path
from finetune_gateway import Dataset
from finetune_gateway.validation.dataset.row_text import content_hash, iter_row_texts
before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen, found = {}, []
for row in iter_row_texts(Dataset(Path(sys.argv[1]))):
    earlier = seen.setdefault(content_hash(row.conversation), row.line)
    if earlier != row.line:
        found.append((row.line, earlier))
after = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([found, after[0] - before[0], after[1] - before[1]]))
"""
KILO = 1e-3 if sys.platform == "darwin" else 1.024  # the unit of ru_maxrss, in kB


def main() -> int:
    asked = arguments(__doc__, rows=26_000, runs=3, file="", planted=0.0)
    with TemporaryDirectory() as name:
        data = Path(name) / "rows.jsonl"
        made = [HERE, str(data), str(asked.rows), asked.file, str(asked.planted)]
        count = int(run([sys.executable, "-c", PLANT, *made]).out)
        origin = json.loads(Path(f"{data}.origin").read_text("utf-8"))
        megabytes = data.stat().st_size / 1e6
        say(f"{len(origin)} rows, {count} of them planted, {megabytes:.1f} MB")
        near = partial(run, [sys.executable, "-c", NEAR, str(data)])
        exact = partial(run, [sys.executable, "-c", EXACT, str(data)])
        found = alternate({"near": near, "exact": exact}, asked.runs)
    bench = Bench("near_duplicates", versions("finetune-gateway", "rensa"))
    named = said(found["near"][0])[0]
    right = sum(origin[line - 1] == origin[earlier - 1] for line, earlier in named)
    what = f"pairs, of {len(origin)} rows of {Path(asked.file).name or 'the manual'}"
    bench.figure("recall", [right], [count], what, at_least=0.95)
    bench.figure("precision", [right], [len(named)], what, at_least=0.95)

    def speed(runs: list[Process]) -> list[float]:
        return [megabytes / said(process)[1] for process in runs]

    def kept(runs: list[Process]) -> list[float]:
        return [said(process)[2] * KILO / 1000 for process in runs]

    size = f"{megabytes:.0f} MB of rows, against a hash of each"
    bench.figure("speed", speed(found["near"]), speed(found["exact"]), f"MB per CPU s, {size}")
    bench.figure(
        "memory", kept(found["near"]), kept(found["exact"]), f"MB added to the process, {size}"
    )
    return bench.end(asked.out)


def said(process: Process) -> list[Any]:
    """Pairs of lines, CPU seconds, memory added to the process."""
    found: list[Any] = json.loads(process.out)
    return found


if __name__ == "__main__":
    sys.exit(main())
