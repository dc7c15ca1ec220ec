"""How long a submit of a large file takes until the backend has the job: seconds and peak memory.

Whole processes with a new home folder, and the fake backend, which takes files at once: what is
measured is our own work on the data. ``--against FOLDER``: the same submit by the package in that
folder, such as a worktree of an earlier commit; else the baseline is a validate of the same file.
``--rows 26000`` makes 50 MB: of chat rows, of the same as prompt and completion, and as pairs with
a worse answer in three forms of TRL: prompt and answers as messages, as texts, and two whole chats.
"""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory
from typing import Any

from _common import MAXRSS_BYTES, Bench, Process, alternate, arguments, run, say, versions

HERE = Path(__file__).resolve().parent
AT_MOST = 1.15
WHOLE = 26_000  # rows that the bound was made for: 50 MB
WRITE = """\
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from _rows import chat_rows, write
def single(rows):
    for row in rows:
        *prompt, answer = row["messages"]
        text = "\\n".join(message["content"] for message in prompt if message["role"] == "user")
        yield {"prompt": text, "completion": answer["content"]}
def pairs(rows):
    for row in rows:
        *prompt, answer = row["messages"]
        worse = {"role": "assistant", "content": "I do not know. " + answer["content"][:40]}
        yield {"prompt": prompt, "chosen": [answer], "rejected": [worse]}
def pairs_of_texts(rows):
    for row in single(rows):
        worse = "I do not know. " + row["completion"][:40]
        yield {"prompt": row["prompt"], "chosen": row["completion"], "rejected": worse}
def pairs_of_chats(rows):
    for row in pairs(rows):
        yield {key: row["prompt"] + row[key] for key in ("chosen", "rejected")}
forms = {"chat": iter, "prompt_completion": single, "preference": pairs,
         "preference_texts": pairs_of_texts, "preference_chats": pairs_of_chats}
write(Path(sys.argv[2]), forms[sys.argv[4]](chat_rows(int(sys.argv[3]))))
"""
SUBMIT = """\
import json, resource, sys, time
from finetune_gateway.tokens.encodings import DEFAULT_ENCODING, preload
preload(DEFAULT_ENCODING)  # as the command line does
import finetune_gateway as gateway
from finetune_gateway import FakeBackend
from finetune_gateway.jobs.records import JobRecord
model, data, backend = "gpt-4.1-mini-2025-04-14", sys.argv[1], FakeBackend()
method = sys.argv[3]
def check():
    report = gateway.validate(data, model=model, method=method, quality=False)
    return {"rows": report.rows, "ok": report.ok}
def submit():
    # All rows, as commits before held-out rows did, which refuse a share of 0.
    whole = {"validation_split": 0} if "held_out" in JobRecord.model_fields else {}
    job = gateway.submit(
        data, model=model, method=method, backend=backend, allow_pii=True, max_cost_usd=1e6, **whole
    )
    return {"rows": job.record.train.rows, "ok": job.provider_id is not None}
began = time.perf_counter()
did = check() if sys.argv[2] == "validate" else submit()
seconds = time.perf_counter() - began
peaks = [resource.getrusage(who).ru_maxrss for who in
         (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({**did, "seconds": seconds, "peak": max(peaks), "package": gateway.__file__}))
"""
FORMS = ("chat", "prompt_completion", "preference", "preference_texts", "preference_chats")


def main() -> int:
    asked = arguments(__doc__, rows=WHOLE, runs=5, against="", forms=",".join(FORMS))
    bench = Bench("submit_speed", versions("finetune-gateway", "toktok-rs", "splintr-rs"))
    other = Path(asked.against).resolve() if asked.against else None
    baseline = f"against {other.name}" if other else "against a validate"
    bound = AT_MOST if other and asked.rows >= WHOLE else None
    with TemporaryDirectory() as name:
        folder = Path(name)
        for form in asked.forms.split(","):
            data = folder / f"{form}.jsonl"
            run([sys.executable, "-c", WRITE, str(HERE), str(data), str(asked.rows), form])
            size = f"{data.stat().st_size / 1e6:.0f} MB of {form} rows, {baseline}"
            sides = {
                "ours": partial(measured, data, HERE.parent, "submit", folder / "home"),
                "other": partial(
                    measured, data, other or HERE.parent, "submit" if other else "validate",
                    folder / "home",
                ),
            }  # fmt: skip
            found = alternate(sides, asked.runs)
            say(f"{form}: {said(found['ours'][0])} {said(found['other'][0])}")
            ours, theirs = (figures(found[side], asked.rows) for side in sides)
            wall, cpu, peak = zip(ours, theirs, strict=True)
            bench.figure(f"{form}_seconds", *wall, f"s ({size})", at_most=bound)
            bench.figure(f"{form}_cpu", *cpu, f"s, whole processes ({size})")
            bench.figure(f"{form}_peak", *peak, f"MB, of one process ({size})")
    return bench.end(asked.out)


def measured(data: Path, tree: Path, what: str, home: Path) -> Process:
    """Submit or validate in a process of its own, by the package in ``tree``."""
    rmtree(home, ignore_errors=True)
    env = {**os.environ, "FTG_HOME": str(home), "PYTHONPATH": str(tree)}
    method = "dpo" if data.stem.startswith("preference") else "sft"
    return run([sys.executable, "-P", "-c", SUBMIT, str(data), what, method], env)


def figures(processes: list[Process], rows: int) -> tuple[list[float], list[float], list[float]]:
    """Return seconds, CPU seconds and peaks. Raises SystemExit if a process did not do the work."""
    done = [said(process) for process in processes]
    for one in done:
        if one["rows"] != rows or not one["ok"]:
            raise SystemExit(f"Not all rows were taken: {one}")
    return (
        [one["seconds"] for one in done],
        [process.cpu for process in processes],
        [one["peak"] * MAXRSS_BYTES / 1e6 for one in done],
    )


def said(process: Process) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(process.out)
    return found


if __name__ == "__main__":
    sys.exit(main())
