"""What is found of planted personal data, false hits in real rows, and the time that it takes.

The values are those of ``tests/support/planted.py``: six kinds in eight scripts, plain and in each
disguise. Real rows are those of questions, tables and queries beside the checkout, where they are;
of eight countries national numbers are looked for too. ``--against FOLDER``: the time of the same
checks by the package in that folder, such as a worktree of an earlier commit; CPU seconds of a
validate as it is run, with its survey of the whole, and of the checks of rows alone.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from _common import Bench, alternate, arguments, run, say, versions  # noqa: E402  (as above)
from support.planted import planted  # noqa: E402

from finetune_gateway.validation.detectors import text_defects  # noqa: E402

DATA = HERE.parent.parent / "shared" / "data"
CLEAN = ("foundry_gsm8k_chat", "fireworks_text2sql", "mlx_wikisql_text")
REGIONS = ("US", "GB", "DE", "FR", "CN", "JP", "KR", "TH")
SSN = "a US social security number"
CHECK = """\
import json, sys, time
from pathlib import Path
from finetune_gateway.data.dataset import Dataset
from finetune_gateway.tokens.counter import HostedCounter
from finetune_gateway.validation import pipeline, run
def check():
    data = Dataset(Path(sys.argv[1]))
    if sys.argv[2] == "validate":
        pipeline.validate(data, model="gpt-4o")
    else:
        run.validate(data, counter=HostedCounter("gpt-4o"), workers=1)
seconds = []
for _ in range(6):  # the first makes the tables
    began = time.process_time()
    check()
    seconds.append(time.process_time() - began)
print(json.dumps(min(seconds)))
"""


def main() -> int:
    asked = arguments(__doc__, values=2000, runs=9, size=3_900_000, against="")
    bench = Bench("personal_data", versions("finetune-gateway", "phonenumbers"))
    _recall(bench, asked.values)
    for name in CLEAN if DATA.exists() else ():
        _false_hits(bench, name)
        if asked.against:
            _seconds(bench, name, Path(asked.against).resolve(), asked.size, asked.runs)
    return bench.end(asked.out)


def kinds_in(row: Any, regions: tuple[str, ...] = ()) -> set[str]:
    """The kinds of private data in a row."""
    defects = text_defects(json.dumps(row), row, regions)
    return {one.kind for one in defects if one.code in ("pii", "secret")}


def _recall(bench: Bench, count: int) -> None:
    """Print the share that is found, of each kind, script and form."""
    found, all_of = Counter[str](), Counter[str]()
    for value in planted(count, seed=1):
        wanted = {value.kind, SSN} if value.kind == "an identity number" else {value.kind}
        hit = bool(wanted & kinds_in({"text": value.text}))
        for name in ("all", value.kind, value.script, value.form):
            found[name] += hit
            all_of[name] += 1
    for name, planted_here in all_of.items():
        share = [found[name] / planted_here]
        bench.figure(f"found of {name}", share, [1.0], f"of {planted_here}", at_least=0.95)


def rows_of(name: str) -> list[Any]:
    files = sorted((DATA / name).glob("*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_text("utf-8").splitlines()]


def _false_hits(bench: Bench, name: str) -> None:
    rows = rows_of(name)
    for regions in ((), REGIONS):
        hits = sum(bool(kinds_in(row, regions)) for row in rows)
        unit = f"rows of {len(rows)} in {name}, with {len(regions)} regions; 1 of 1,000 at most"
        bench.figure("false hits", [hits], [len(rows) / 1000], unit, at_most=1.0)


def _seconds(bench: Bench, name: str, other: Path, size: int, runs: int) -> None:
    """Time the checks of a file made of these rows again and again, each with its number."""
    rows, written = rows_of(name), 0
    with TemporaryDirectory() as folder:
        data = Path(folder) / f"{name}.jsonl"
        with data.open("w", encoding="utf-8") as file:
            for number in range(sys.maxsize):
                if written >= size:
                    break
                row = json.dumps(rows[number % len(rows)], ensure_ascii=False)
                numbered = row.replace('": "', f'": "{number} ', 1) if "text" in row[:9] else row
                written += file.write(f"{numbered}\n")
        for what, bound in (("validate", 1.10), ("rows alone", None)):
            sides = {
                side: partial(_checked, data, tree, what)
                for side, tree in (("ours", HERE.parent), ("other", other))
            }
            # The best of each side: what a busy machine adds to a tenth of a second is no figure.
            best = {side: [min(found)] for side, found in alternate(sides, runs).items()}
            unit = f"s of CPU, {written / 1e6:.0f} MB of {name}, against {other.name}"
            bench.figure(what, best["ours"], best["other"], unit, at_most=bound)


def _checked(data: Path, tree: Path, what: str) -> float:
    env = {**os.environ, "PYTHONPATH": str(tree)}
    done = run([sys.executable, "-P", "-c", CHECK, str(data), what], env)
    seconds: float = json.loads(done.out)
    say(f"{tree.name}: {seconds:.3f} s")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
