"""How long a command takes to begin: whole processes against ``python -c pass``.

The bounds: ``python -m finetune_gateway --help`` takes at most 4 times a bare Python, and loads
no SDK and no training library; ``validate`` of 1,000 rows takes at most 0.5 s more than one.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from _common import Bench, alternate, arguments, run, say, versions
from _rows import chat_rows, write

HELP = ["-m", "finetune_gateway", "--help"]
HEAVY = frozenset(
    ("torch", "transformers", "trl", "peft", "datasets", "accelerate", "safetensors", "tokenizers")
    + ("openai", "huggingface_hub", "httpx", "httpx2", "tiktoken", "splintr", "ray", "numpy")
    + ("pydantic", "typer", "click", "rich")
)
AT_MOST = 4.0
BEYOND = 0.5  # seconds


def main() -> int:
    asked = arguments(__doc__, runs=20, slow_runs=7, rows=1000)
    bench = Bench(
        "help_time", versions("finetune-gateway", "typer", "pydantic", "openai", "splintr-rs")
    )
    seen = loaded(HELP) & HEAVY
    say(f"heavy modules loaded by --help: {', '.join(sorted(seen)) or 'none'}")
    bench.figure("heavy_modules_of_help", [len(seen)], [0], "modules")
    if seen:
        bench.missed.append("heavy_modules_of_help")

    bare = ["-c", "pass"]
    found = walls({"help": HELP, "bare": bare}, asked.runs)
    bench.figure("help_wall", found["help"], found["bare"], "s", at_most=AT_MOST)

    with TemporaryDirectory() as folder:
        data = write(Path(folder) / "rows.jsonl", chat_rows(asked.rows))
        sides = {
            "import": ["-c", "import finetune_gateway.gateway"],
            "validate": ["-m", "finetune_gateway", "validate", str(data)],
            "bare": bare,
        }
        found = walls(sides, asked.slow_runs)
    bench.figure("import_gateway_wall", found["import"], found["bare"], "s")
    bench.figure(f"validate_{asked.rows}_rows_wall", found["validate"], found["bare"], "s")
    beyond = median(found["validate"]) - median(found["bare"])
    say(f"validate of {asked.rows} rows: {beyond:.3f} s beyond a bare Python, at most {BEYOND}")
    if beyond > BEYOND and asked.rows == 1000:
        bench.missed.append("validate_wall")
    return bench.end(asked.out)


def loaded(words: list[str]) -> set[str]:
    """The top modules a command imports (``python -X importtime``)."""
    lines = run([sys.executable, "-X", "importtime", *words]).err.splitlines()
    return {line.rpartition("|")[2].strip().split(".")[0] for line in lines}


def walls(sides: dict[str, list[str]], runs: int) -> dict[str, list[float]]:
    """Seconds of each command, after one run of each that fills the caches."""

    def measure(words: list[str]) -> float:
        return run([sys.executable, *words]).wall

    for words in sides.values():
        measure(words)
    return alternate({name: partial(measure, words) for name, words in sides.items()}, runs)


if __name__ == "__main__":
    sys.exit(main())
